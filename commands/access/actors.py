"""When an actor may be registered, changed, suspended, or sent away for good."""

from collections.abc import Iterable
from typing import Any, assert_never

from commands.access.intents import (
    AccessCommand,
    BoundDomains,
    ChangeOwner,
    ChangeRoles,
    ChangeTier,
    IssueApiKey,
    OffboardActor,
    RegisterActor,
    ReinstateActor,
    RevokeApiKey,
    RotateApiKey,
    SuspendActor,
    actor_stream,
)
from commands.access.keys import issue, revoke, rotate
from commands.access.rules import not_oneself
from domain.access import (
    OWN_ACTORS,
    PREFIXES,
    ROLES_OF_KIND,
    AccessEvent,
    Actor,
    ActorOffboarded,
    ActorRegistered,
    ActorReinstated,
    ActorSuspended,
    ApiKeyIssued,
    ApiKeyRevoked,
    ApiKeyRotated,
    DomainsBounded,
    OwnerChanged,
    Registration,
    RolesChanged,
    TierChanged,
    evolve,
    reach_everywhere,
    registered,
    require_staying,
)
from domain.duties import RULES_STREAM, Duties, require_apart
from domain.kernel import Asked, Decider, require
from domain.values import ActorKind, Role


def decide(registration: Registration, command: AccessCommand, asked: Asked) -> list[AccessEvent]:
    if isinstance(command, RegisterActor):
        return _register(registration, command, asked)
    actor = registered(registration, command.actor_id)
    if isinstance(command, OffboardActor):
        return _offboard(actor, command, asked)
    if isinstance(command, RevokeApiKey):
        return revoke(actor, command, asked)
    require_staying(actor)
    match command:
        case SuspendActor():
            not_oneself(actor.actor_id, asked, "own_suspension", "Nobody suspends themselves, so one administrator always remains.")
            return [] if actor.suspended else [ActorSuspended(actor_id=actor.actor_id)]
        case IssueApiKey():
            return issue(actor, command, asked)
        case RotateApiKey():
            return rotate(actor, command, asked)
        case _:
            return _changed(actor, command, asked)


def _changed(
    actor: Actor, command: ChangeRoles | ChangeOwner | ChangeTier | BoundDomains | ReinstateActor, asked: Asked
) -> list[AccessEvent]:
    """What gives an actor more, or something else, than it had."""
    reach_everywhere(asked)
    match command:
        case ChangeRoles():
            not_oneself(actor.actor_id, asked, "own_roles", "Nobody changes their own roles.")
            _require_roles(actor.actor_id, actor.kind, command.granted_roles, asked)
            unchanged = actor.roles == frozenset(command.granted_roles)
            return [] if unchanged else [RolesChanged(actor_id=actor.actor_id, roles=tuple(sorted(set(command.granted_roles))))]
        case ChangeOwner():
            return _change_owner(actor, command, asked)
        case ChangeTier():
            not_oneself(actor.actor_id, asked, "own_tier", "Nobody changes how much they may ask for themselves.")
            return [] if actor.tier is command.tier else [TierChanged(actor_id=actor.actor_id, tier=command.tier)]
        case BoundDomains():
            not_oneself(actor.actor_id, asked, "own_domains", "Nobody changes which domains they reach themselves.")
            wanted = None if command.domains is None else frozenset(command.domains)
            bounded = DomainsBounded(actor_id=actor.actor_id, domains=None if wanted is None else tuple(sorted(wanted)))
            return [] if actor.domains == wanted else [bounded]
        case ReinstateActor():
            not_oneself(actor.actor_id, asked, "own_suspension", "Nobody reinstates themselves.")
            return [ActorReinstated(actor_id=actor.actor_id)] if actor.suspended else []
        case _:
            assert_never(command)


def _register(registration: Registration, command: RegisterActor, asked: Asked) -> list[AccessEvent]:
    gone = registration.actor is not None and registration.actor.offboarded
    require(
        registration.actor is None,
        "actor_exists",
        f"Actor {command.actor_id} {'was here before, and has left for good' if gone else 'is registered already'}.",
        field="actor_id",
        remedy="Choose another id." if gone else "Choose another id, or change the one that is there.",
    )
    require(
        command.actor_id not in OWN_ACTORS,
        "actor_id_reserved",
        f"{command.actor_id} is Aureus itself: a key for it would let somebody act in its name.",
        field="actor_id",
        remedy="Choose another id.",
    )
    prefix = PREFIXES[command.kind]
    require(
        command.actor_id.startswith(prefix),
        "actor_id_of_other_kind",
        f"The id of a {command.kind.value} begins with {prefix}",
        field="actor_id",
        remedy=f"Use an id such as {prefix}7f3k2m.",
    )
    _require_owner_of_kind(command.kind, command.owner)
    _require_roles(command.actor_id, command.kind, command.granted_roles, asked)
    reach_everywhere(asked)
    if command.owner is not None:
        _require_can_own(asked.others[actor_stream(command.owner)], command.owner, known=False)
    registered_now = ActorRegistered(
        actor_id=command.actor_id,
        kind=command.kind,
        roles=tuple(sorted(set(command.granted_roles))),
        owner=command.owner,
        display_name=command.display_name,
    )
    return [registered_now]


def _require_owner_of_kind(kind: ActorKind, owner: str | None) -> None:
    if kind is ActorKind.PERSON:
        require(owner is None, "owner_not_allowed", "A person answers for themselves.", field="owner", remedy="Leave the owner out.")
    else:
        message = f"A person must answer for every {kind.value}."
        require(owner is not None, "owner_missing", message, field="owner", remedy="Name the person who owns it.")


def _require_roles(actor_id: str, kind: ActorKind, roles: Iterable[Role], asked: Asked) -> None:
    allowed = ROLES_OF_KIND[kind]
    refused = sorted(role.value for role in set(roles) - allowed)
    require(
        not refused,
        "role_not_for_kind",
        f"A {kind.value} cannot be {', '.join(refused)}.",
        field="granted_roles",
        allowed_roles=sorted(role.value for role in allowed),
        remedy="Give it roles of its kind only.",
    )
    require_apart(asked.others.get(RULES_STREAM, Duties()), actor_id, frozenset(roles))


def _require_can_own(owner: Registration, owner_id: str, *, known: bool) -> None:
    """`known`: the owner has to be registered as well, for the one before was and has left."""
    require(
        owner.actor is not None or not known,
        "owner_not_found",
        f"No person {owner_id} is registered.",
        field="owner",
        remedy="Register them first, or name somebody else.",
    )
    require(
        owner.actor is None or not owner.actor.suspended,
        "owner_cannot_act",
        f"{owner_id} {'has left' if owner.actor and owner.actor.offboarded else 'is suspended'}, and answers for nothing.",
        field="owner",
        remedy="Name a person who is here.",
    )


def _change_owner(actor: Actor, command: ChangeOwner, asked: Asked) -> list[AccessEvent]:
    if actor.kind is ActorKind.PERSON:
        _require_owner_of_kind(actor.kind, command.owner)
    _require_can_own(asked.others[actor_stream(command.owner)], command.owner, known=True)
    return [] if actor.owner == command.owner else [OwnerChanged(actor_id=actor.actor_id, owner=command.owner)]


def _offboard(actor: Actor, command: OffboardActor, asked: Asked) -> list[AccessEvent]:
    message = "Nobody offboards themselves, so one administrator always remains."
    not_oneself(actor.actor_id, asked, "own_offboarding", message)
    if actor.offboarded:
        return []
    if Role.ADMIN in actor.roles and asked.by.kind is not ActorKind.PERSON:
        _require_administrator(actor, command, asked)
    return [ActorOffboarded(actor_id=actor.actor_id, revoked_keys=tuple(sorted(actor.keys)))]


def _require_administrator(actor: Actor, command: OffboardActor, asked: Asked) -> None:
    """A person who administers and asks does remain; a program that asks has to say who does."""
    remaining = asked.others[actor_stream(command.administrator)].actor if command.administrator else None
    require(
        remaining is not None
        and remaining.actor_id != actor.actor_id
        and not remaining.suspended
        and Role.ADMIN in remaining.roles
        and remaining.domains is None,
        "last_administrator",
        f"{actor.actor_id} is an administrator, and nobody is named who remains one.",
        field="administrator",
        remedy="Name another administrator who is active and reaches all domains, or have an administrator ask for this.",
    )


def _facts(registration: Registration, command: AccessCommand) -> dict[str, Any]:
    actor = registration.actor
    kind = command.kind if isinstance(command, RegisterActor) else actor.kind if actor else None
    granted = set(command.granted_roles) - (actor.roles if actor else set()) if isinstance(command, RegisterActor | ChangeRoles) else set()
    return {"subject_kind": kind.value if kind else None, "granted_roles": sorted(role.value for role in granted)}


DECIDER: Decider[Registration, AccessCommand, AccessEvent] = Decider(
    context="access",
    category="actor",
    initial=Registration(),
    evolve=evolve,
    decide=decide,
    commands=(
        RegisterActor,
        ChangeRoles,
        ChangeOwner,
        ChangeTier,
        BoundDomains,
        SuspendActor,
        ReinstateActor,
        OffboardActor,
        IssueApiKey,
        RotateApiKey,
        RevokeApiKey,
    ),
    events=(
        ActorRegistered,
        RolesChanged,
        OwnerChanged,
        TierChanged,
        DomainsBounded,
        ActorSuspended,
        ActorReinstated,
        ActorOffboarded,
        ApiKeyIssued,
        ApiKeyRotated,
        ApiKeyRevoked,
    ),
    entity=lambda command: command.actor_id,
    facts=_facts,
)
