"""What may be asked of grants: who may give which role where, to whom, and for how long."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, assert_never

from pydantic import AwareDatetime, Field

from domain.access import PREFIXES, ROLES_OF_KIND, ActorId, Registration
from domain.agents import Agent
from domain.budgets import BudgetTree
from domain.duties import RULES_STREAM, Duties, require_apart
from domain.grants import Grant, GrantEvent, GrantExtended, GrantRevoked, RoleGranted, Scope, evolve, grantee_of
from domain.groups import Group, GroupId
from domain.kernel import Asked, Command, Decider, JsonObject, require, timestamp
from domain.projects import Project
from domain.values import ActorKind, Identifier, Role, Text

STEWARDS: Final = frozenset({Role.ADMIN, Role.APPROVER})
LIFETIME_MAX: Final = timedelta(days=365)
_DOMAIN: Final = "domain:"
_PROJECT: Final = "project:"


class GrantRole(Command, name="grants.grant_role", roles=STEWARDS):
    """Give an actor or a group a role on a scope - `domain:<name>`, `project:<id>` or a stream such as `dataset:crm.orders` - until
    a moment, at most a year away. Nobody gives anything to themselves, nor a role that they do not hold there, administrators excepted.
    """

    grant_id: Identifier
    role: Role
    about: Scope
    actor_id: ActorId | None = None
    group_id: GroupId | None = None
    until: AwareDatetime
    reason: Annotated[Text, Field(min_length=1)] | None = None

    @property
    def grantee(self) -> str:
        return grantee_of(self.actor_id, self.group_id)

    def relies_on(self) -> tuple[str, ...]:
        return (self.grantee, RULES_STREAM) if self.about.startswith(_DOMAIN) else (self.grantee, RULES_STREAM, self.about)


class ExtendGrant(Command, name="grants.extend_grant", roles=STEWARDS):
    """Let a grant end later than it would, at most a year from now; whoever has it does not ask this."""

    grant_id: Identifier
    until: AwareDatetime


class RevokeGrant(Command, name="grants.revoke_grant", roles=STEWARDS):
    """End a grant now."""

    grant_id: Identifier
    reason: Annotated[Text, Field(min_length=1)] | None = None


GrantCommand = GrantRole | ExtendGrant | RevokeGrant


def decide(grant: Grant, command: GrantCommand, asked: Asked) -> list[GrantEvent]:
    match command:
        case GrantRole():
            return [_granted(grant, command, asked)]
        case ExtendGrant():
            return _extended(_standing(grant, command.grant_id), command, asked)
        case RevokeGrant():
            standing = _standing(grant, command.grant_id)
            return [GrantRevoked(grant_id=standing.grant_id, reason=command.reason)]
        case _:
            assert_never(command)


def _granted(grant: Grant, command: GrantRole, asked: Asked) -> RoleGranted:
    require(
        grant.granted is None,
        "grant_exists",
        f"There is a grant {command.grant_id} already.",
        field="grant_id",
        remedy="Choose another id; extend the one that is there if it is to last longer.",
    )
    _require_scope(command, asked)
    _require_within(command.role, command.about, asked)
    _require_grantee(command, asked)
    return RoleGranted(
        grant_id=command.grant_id,
        role=command.role,
        about=command.about,
        actor_id=command.actor_id,
        group_id=command.group_id,
        until=_end(command.until, asked),
        reason=command.reason,
    )


def _extended(standing: RoleGranted, command: ExtendGrant, asked: Asked) -> list[GrantEvent]:
    _require_other(standing.grantee, asked, *_grantee(standing.grantee, asked))
    _require_within(standing.role, standing.about, asked)
    until = _end(command.until, asked)
    require(
        until >= standing.until,
        "grant_not_extended",
        f"The grant lasts until {timestamp(standing.until)} already.",
        field="until",
        until=timestamp(standing.until),
        remedy="Name a later end; revoke the grant to end it sooner.",
    )
    return [GrantExtended(grant_id=standing.grant_id, until=until)] if until > standing.until else []


def _end(until: datetime, asked: Asked) -> datetime:
    require(
        asked.at < until <= asked.at + LIFETIME_MAX,
        "grant_period",
        f"A grant ends in the future, and within {LIFETIME_MAX.days} days.",
        field="until",
        latest=timestamp(asked.at + LIFETIME_MAX),
        remedy="Name an earlier end, and extend the grant when it is near.",
    )
    return until.astimezone(UTC)


def _require_scope(command: GrantRole, asked: Asked) -> None:
    """What is granted on is there. A domain is wherever a dataset names it: it may come later."""
    state = asked.others.get(command.about)
    match state:
        case Project():
            there = state.owner is not None and not state.archived
        case Agent():
            there = state.registered
        case BudgetTree():
            there = bool(state.budgets)
        case _:
            there = state is not None or command.about.startswith(_DOMAIN)
    require(
        there,
        "scope_not_found",
        f"There is no {command.about} to grant anything on.",
        field="about",
        remedy="Name a domain:<name>, a project that is not archived, or a dataset, pipeline, agent or budget (by its root) that is there.",
    )


def _require_within(role: Role, scope: str, asked: Asked) -> None:
    """Nobody gives more than they have. A project may hold what lies in many domains: it takes roles that reach all of them."""
    require(
        asked.by.domains is None or not scope.startswith(_PROJECT),
        "project_beyond_reach",
        f"{scope} may hold what is outside the domains that your roles reach: {', '.join(sorted(asked.by.domains or ()))}.",
        field="about",
        domains=sorted(asked.by.domains or ()),
        remedy="Grant it on a domain or a stream within them, or ask somebody whose roles reach every domain.",
    )
    require(
        role is Role.VIEWER or not asked.by.roles.isdisjoint({role, Role.ADMIN}),
        "grant_exceeds_granter",
        f"You do not hold the role {role} on {scope}, so it is not yours to give.",
        field="role",
        roles=sorted(asked.by.roles),
        remedy="Give a role that you hold there, or ask an administrator.",
    )


def _require_grantee(command: GrantRole, asked: Asked) -> None:
    require(
        (command.actor_id is None) != (command.group_id is None),
        "one_grantee",
        "A grant is for an actor or for a group, one of the two.",
        field="actor_id",
        remedy="Give actor_id or group_id.",
    )
    registration, group = _grantee(command.grantee, asked)
    actor = registration.actor
    require(
        group.created and not group.removed if actor is None else not actor.suspended,
        "grantee_cannot_act",
        f"{command.grantee} is not there, or cannot act.",
        field="actor_id" if command.group_id is None else "group_id",
        remedy="Name an actor or a group of this tenant that is in force.",
    )
    _require_other(command.grantee, asked, registration, group)
    duties: Duties = asked.others[RULES_STREAM]
    if actor is None:
        _require_kind(command, ActorKind.PERSON)
        require_apart(duties, command.grantee, group.roles | {command.role})
    else:
        _require_kind(command, actor.kind)
        require_apart(duties, actor.actor_id, actor.roles | {command.role})


def _grantee(grantee: str, asked: Asked) -> tuple[Registration, Group]:
    state = asked.others[grantee]
    return (state, Group()) if isinstance(state, Registration) else (Registration(), state)


def _require_other(grantee: str, asked: Asked, registration: Registration, group: Group) -> None:
    name = grantee.partition(":")[2]
    owner = registration.actor.owner if registration.actor else None
    require(
        asked.by.actor not in {name, owner} and asked.by.actor not in group.members,
        "own_grant",
        "Nobody grants anything to themselves, to what they own, or to a group that they are in.",
        field="group_id" if group.created else "actor_id",
        remedy="Ask another administrator or approver.",
    )


def _require_kind(command: GrantRole, kind: ActorKind) -> None:
    allowed = ROLES_OF_KIND[kind]
    require(
        command.role in allowed,
        "role_not_for_kind",
        f"A {kind.value} cannot be {command.role}.",
        field="role",
        allowed_roles=sorted(role.value for role in allowed),
        remedy="Grant a role of its kind.",
    )


def _standing(grant: Grant, grant_id: str) -> RoleGranted:
    require(
        grant.granted is not None and not grant.revoked,
        "grant_not_found",
        f"No grant {grant_id} stands.",
        field="grant_id",
        remedy="List the grants: it may have been revoked already.",
    )
    assert grant.granted is not None
    return grant.granted


def _relied_on(grant: Grant, command: GrantCommand) -> tuple[str, ...]:
    """To change a grant takes a role where it holds, and somebody else than has it."""
    granted = grant.granted
    if granted is None or isinstance(command, GrantRole):
        return ()
    return (granted.grantee,) if granted.about.startswith(_DOMAIN) else (granted.grantee, granted.about)


def _domains(grant: Grant, command: GrantCommand | None) -> frozenset[str]:
    scope = command.about if isinstance(command, GrantRole) else grant.granted.about if grant.granted else ""
    return frozenset({scope.removeprefix(_DOMAIN)}) if scope.startswith(_DOMAIN) else frozenset()


def _facts(grant: Grant, command: GrantCommand) -> JsonObject:
    """Which role is granted on what kind of scope, to which kind of grantee."""
    about: Any = command if isinstance(command, GrantRole) else grant.granted
    if about is None:
        return {}
    category, _, name = about.grantee.partition(":")
    kind = next((kind.value for kind, prefix in PREFIXES.items() if category == "actor" and name.startswith(prefix)), "group")
    return {"granted_role": about.role.value, "scope_kind": about.about.partition(":")[0], "grantee_kind": kind}


DECIDER: Final[Decider[Grant, GrantCommand, GrantEvent]] = Decider(
    context="grants",
    category="grant",
    initial=Grant(),
    evolve=evolve,
    decide=decide,
    commands=(GrantRole, ExtendGrant, RevokeGrant),
    events=(RoleGranted, GrantExtended, GrantRevoked),
    entity=lambda command: command.grant_id,
    facts=_facts,
    domains=_domains,
    relies_on=_relied_on,
)
