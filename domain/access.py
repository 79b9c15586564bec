"""An actor: a person, an agent or a service that acts in a tenant, the roles it is trusted with, and the keys it shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Final, assert_never

from pydantic import StringConstraints

from domain.kernel import Event
from domain.values import ActorKind, Label, Personal, Role, Sha256

ActorId = Annotated[str, StringConstraints(pattern=r"^(usr|agt|svc)-[a-z0-9][a-z0-9-]*$", max_length=64)]
"""Opaque: a kind and a code, never a name or an e-mail address, for it stands in signed bytes for ever."""
PersonId = Annotated[str, StringConstraints(pattern=r"^usr-[a-z0-9][a-z0-9-]*$", max_length=64)]
ApiKeyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8,32}$")]

PREFIXES: Final = MappingProxyType({ActorKind.PERSON: "usr-", ActorKind.AGENT: "agt-", ActorKind.SERVICE: "svc-"})
OWN_ACTORS: Final = frozenset({"svc-aureus", "svc-bootstrap", "svc-reactions"})
"""Aureus itself: it keeps the keys, makes the first actors, and reacts. Nobody else ever acts under these names."""


class ActorRegistered(Event, name="access.actor_registered"):
    """An actor may act from now on. `owner` is the person who answers for an agent or a service."""

    actor_id: ActorId
    kind: ActorKind
    roles: tuple[Role, ...]
    owner: PersonId | None = None
    display_name: Annotated[str | None, Personal(subject="actor_id")] = None


class RolesChanged(Event, name="access.roles_changed"):
    """The actor holds these roles from now on, and no others."""

    actor_id: ActorId
    roles: tuple[Role, ...]


class ActorSuspended(Event, name="access.actor_suspended"):
    """The actor may not act, whatever it shows, until it is reinstated."""

    actor_id: ActorId


class ActorReinstated(Event, name="access.actor_reinstated"):
    """A suspended actor may act again."""

    actor_id: ActorId


class ApiKeyIssued(Event, name="access.api_key_issued"):
    """A key lets whoever shows it act as the actor. The secret is 256 random bits, so its digest gives nothing away."""

    actor_id: ActorId
    key_id: ApiKeyId
    label: Label
    secret_sha256: Sha256
    expires_at: datetime


class ApiKeyRevoked(Event, name="access.api_key_revoked"):
    """A key is worth nothing from now on."""

    actor_id: ActorId
    key_id: ApiKeyId


AccessEvent = ActorRegistered | RolesChanged | ActorSuspended | ActorReinstated | ApiKeyIssued | ApiKeyRevoked


@dataclass(frozen=True, slots=True)
class Actor:
    """One actor; `keys` are the keys that were not revoked, each with the moment it runs out."""

    actor_id: str
    kind: ActorKind
    roles: frozenset[Role]
    owner: str | None = None
    suspended: bool = False
    keys: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))
    revoked_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Registration:
    """An actor's stream: empty until the actor is registered."""

    actor: Actor | None = None


def evolve(registration: Registration, event: AccessEvent) -> Registration:
    if isinstance(event, ActorRegistered):
        return Registration(Actor(event.actor_id, event.kind, frozenset(event.roles), event.owner))
    actor = registration.actor
    assert actor is not None, f"{event.actor_id} acts before it is registered"
    return Registration(_changed(actor, event))


def _changed(actor: Actor, event: RolesChanged | ActorSuspended | ActorReinstated | ApiKeyIssued | ApiKeyRevoked) -> Actor:
    match event:
        case RolesChanged():
            return replace(actor, roles=frozenset(event.roles))
        case ActorSuspended():
            return replace(actor, suspended=True)
        case ActorReinstated():
            return replace(actor, suspended=False)
        case ApiKeyIssued():
            return replace(actor, keys={**actor.keys, event.key_id: event.expires_at})
        case ApiKeyRevoked():
            left = {key_id: expires_at for key_id, expires_at in actor.keys.items() if key_id != event.key_id}
            return replace(actor, keys=left, revoked_keys=actor.revoked_keys | {event.key_id})
        case _:
            assert_never(event)
