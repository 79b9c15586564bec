"""A grant: a role on a part of a tenant - a domain, a project, one stream - for an actor or a group, until a moment that is named.

A grant ends by itself: from `until` on it opens nothing, and nobody has to come and end it.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, assert_never

from pydantic import StringConstraints

from domain.access import ActorId
from domain.groups import GroupId
from domain.kernel import Event
from domain.values import Identifier, Role, Text

_ENTITY = r"[A-Za-z0-9][A-Za-z0-9._@+=~-]*$"

ResourceStream = Annotated[str, StringConstraints(pattern=rf"^(agent|budget|dataset|pipeline):{_ENTITY}", max_length=220)]
"""What a project may hold, and what may be granted by itself."""
Scope = Annotated[str, StringConstraints(pattern=rf"^(agent|budget|dataset|domain|pipeline|project):{_ENTITY}", max_length=220)]
"""Where a granted role holds: in a `domain:<name>`, on all that a `project:<id>` holds, or on one stream such as `dataset:crm.orders`."""


def grantee_of(actor_id: str | None, group_id: str | None) -> str:
    """Whom a grant is for, as a stream: `actor:usr-ben`, `group:grp-risk`."""
    return f"group:{group_id}" if actor_id is None else f"actor:{actor_id}"


class RoleGranted(Event, name="grants.role_granted"):
    """An actor, or whoever is in a group, holds the role on what the grant is about, until then."""

    grant_id: Identifier
    role: Role
    about: Scope
    actor_id: ActorId | None = None
    group_id: GroupId | None = None
    until: datetime
    reason: Text | None = None

    @property
    def grantee(self) -> str:
        return grantee_of(self.actor_id, self.group_id)


class GrantExtended(Event, name="grants.grant_extended"):
    """It ends at another, later moment."""

    grant_id: Identifier
    until: datetime


class GrantRevoked(Event, name="grants.grant_revoked"):
    """It opens nothing from now on."""

    grant_id: Identifier
    reason: Text | None = None


GrantEvent = RoleGranted | GrantExtended | GrantRevoked


@dataclass(frozen=True, slots=True)
class Grant:
    """How a grant stands; `granted` is None before there is one."""

    granted: RoleGranted | None = None
    revoked: bool = False


def evolve(grant: Grant, event: GrantEvent) -> Grant:
    match event:
        case RoleGranted():
            return Grant(event)
        case GrantExtended():
            assert grant.granted is not None, "what is extended was granted"
            return replace(grant, granted=grant.granted.model_copy(update={"until": event.until}))
        case GrantRevoked():
            return replace(grant, revoked=True)
        case _:
            assert_never(event)
