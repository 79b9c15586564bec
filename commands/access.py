"""What may be asked about actors and their keys, and when the answer is yes: nobody grants anything to themselves."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Final, assert_never

from pydantic import AwareDatetime, Field

from domain.access import (
    OWN_ACTORS,
    PREFIXES,
    AccessEvent,
    Actor,
    ActorId,
    ActorRegistered,
    ActorReinstated,
    ActorSuspended,
    ApiKeyId,
    ApiKeyIssued,
    ApiKeyRevoked,
    PersonId,
    Registration,
    RolesChanged,
    evolve,
)
from domain.kernel import Asked, Command, Decider, require, timestamp
from domain.values import PEOPLE, ActorKind, Label, Personal, Role, Sha256

ADMINS: Final = frozenset({Role.ADMIN})
KEY_LIFETIME: Final = timedelta(days=90)
KEY_LIFETIME_MAX: Final = timedelta(days=365)
KEYS_MAX: Final = 20

_ALLOWED_ROLES: Final = {
    ActorKind.PERSON: frozenset(Role) - {Role.AGENT},
    ActorKind.SERVICE: frozenset(Role) - {Role.AGENT, Role.APPROVER},
    ActorKind.AGENT: frozenset({Role.AGENT, Role.VIEWER}),
}
"""Consent is a person's: nothing that runs by itself approves, and an agent administers nothing."""

Roles = Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))]


class RegisterActor(Command, name="access.register_actor", roles=ADMINS):
    """Register a person (`usr-...`), an agent (`agt-...`) or a service (`svc-...`); the last two need an owner."""

    actor_id: ActorId
    kind: ActorKind
    granted_roles: Roles
    owner: PersonId | None = None
    display_name: Annotated[Annotated[str, Field(max_length=200)] | None, Personal(subject="actor_id")] = None


class ChangeRoles(Command, name="access.change_roles", roles=ADMINS):
    """Replace the roles an actor holds; nobody changes their own."""

    actor_id: ActorId
    granted_roles: Roles


class SuspendActor(Command, name="access.suspend_actor", roles=ADMINS):
    """Keep an actor from acting, whatever tokens and keys it still has; nobody suspends themselves."""

    actor_id: ActorId


class ReinstateActor(Command, name="access.reinstate_actor", roles=ADMINS):
    """Let a suspended actor act again."""

    actor_id: ActorId


class IssueApiKey(Command, name="access.issue_api_key", roles=PEOPLE):
    """Give an actor a key: people for themselves, an owner or an administrator for an agent or a service."""

    actor_id: ActorId
    key_id: ApiKeyId
    label: Label
    secret_sha256: Sha256
    expires_at: AwareDatetime | None = None


class RevokeApiKey(Command, name="access.revoke_api_key", roles=PEOPLE):
    """Make a key worthless at once: its actor, the actor's owner, or an administrator."""

    actor_id: ActorId
    key_id: ApiKeyId


AccessCommand = RegisterActor | ChangeRoles | SuspendActor | ReinstateActor | IssueApiKey | RevokeApiKey


def decide(registration: Registration, command: AccessCommand, asked: Asked) -> list[AccessEvent]:
    match command:
        case RegisterActor():
            return _register(registration, command)
        case ChangeRoles():
            actor = _registered(registration, command.actor_id)
            _not_oneself(command.actor_id, asked, "own_roles", "Nobody changes their own roles.")
            _require_roles(actor.kind, command.granted_roles)
            if actor.roles == frozenset(command.granted_roles):
                return []
            return [RolesChanged(actor_id=actor.actor_id, roles=_ordered(command.granted_roles))]
        case SuspendActor():
            actor = _registered(registration, command.actor_id)
            _not_oneself(command.actor_id, asked, "own_suspension", "Nobody suspends themselves, so one administrator always remains.")
            return [] if actor.suspended else [ActorSuspended(actor_id=actor.actor_id)]
        case ReinstateActor():
            actor = _registered(registration, command.actor_id)
            _not_oneself(command.actor_id, asked, "own_suspension", "Nobody reinstates themselves.")
            return [ActorReinstated(actor_id=actor.actor_id)] if actor.suspended else []
        case IssueApiKey():
            return _issue(_registered(registration, command.actor_id), command, asked)
        case RevokeApiKey():
            return _revoke(_registered(registration, command.actor_id), command, asked)
        case _:
            assert_never(command)


def _register(registration: Registration, command: RegisterActor) -> list[AccessEvent]:
    require(
        registration.actor is None,
        "actor_exists",
        f"Actor {command.actor_id} is registered already.",
        field="actor_id",
        remedy="Choose another id, or change the one that is there.",
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
    if command.kind is ActorKind.PERSON:
        require(
            command.owner is None, "owner_not_allowed", "A person answers for themselves.", field="owner", remedy="Leave the owner out."
        )
    else:
        require(
            command.owner is not None,
            "owner_missing",
            f"A person must answer for every {command.kind.value}.",
            field="owner",
            remedy="Name the person who owns it.",
        )
    _require_roles(command.kind, command.granted_roles)
    registered = ActorRegistered(
        actor_id=command.actor_id,
        kind=command.kind,
        roles=_ordered(command.granted_roles),
        owner=command.owner,
        display_name=command.display_name,
    )
    return [registered]


def _require_roles(kind: ActorKind, roles: Iterable[Role]) -> None:
    allowed = _ALLOWED_ROLES[kind]
    refused = sorted(role.value for role in set(roles) - allowed)
    require(
        not refused,
        "role_not_for_kind",
        f"A {kind.value} cannot be {', '.join(refused)}.",
        field="granted_roles",
        allowed_roles=sorted(role.value for role in allowed),
        remedy="Give it roles of its kind only.",
    )


def _issue(actor: Actor, command: IssueApiKey, asked: Asked) -> list[AccessEvent]:
    require(
        not actor.suspended,
        "actor_suspended",
        f"Actor {actor.actor_id} is suspended.",
        field="actor_id",
        remedy="Have it reinstated first.",
    )
    require(
        command.key_id not in actor.keys and command.key_id not in actor.revoked_keys,
        "api_key_exists",
        f"Key {command.key_id} was issued before.",
        field="key_id",
        remedy="Use a new key id.",
    )
    # Whoever sees the secret can act as the actor: an administrator with a person's key would be that person's alias.
    _require_hold(actor, asked, administrators=actor.kind is not ActorKind.PERSON)
    usable = [key_id for key_id, expires_at in actor.keys.items() if expires_at > asked.at]
    require(
        len(usable) < KEYS_MAX,
        "too_many_api_keys",
        f"Actor {actor.actor_id} has {len(usable)} usable keys.",
        limit=KEYS_MAX,
        remedy="Revoke one that is not needed any more.",
    )
    expires_at = command.expires_at or asked.at + KEY_LIFETIME
    require(
        asked.at < expires_at <= asked.at + KEY_LIFETIME_MAX,
        "api_key_lifetime",
        f"A key runs out in the future, and within {KEY_LIFETIME_MAX.days} days.",
        field="expires_at",
        latest=timestamp(asked.at + KEY_LIFETIME_MAX),
        remedy="Name an earlier end, and issue a new key when it is near.",
    )
    issued = ApiKeyIssued(
        actor_id=actor.actor_id,
        key_id=command.key_id,
        label=command.label,
        secret_sha256=command.secret_sha256,
        expires_at=expires_at,
    )
    return [issued]


def _revoke(actor: Actor, command: RevokeApiKey, asked: Asked) -> list[AccessEvent]:
    require(
        command.key_id in actor.keys or command.key_id in actor.revoked_keys,
        "api_key_not_found",
        f"Actor {actor.actor_id} has no key {command.key_id}.",
        field="key_id",
        remedy="Look at the actor's keys.",
    )
    _require_hold(actor, asked, administrators=True)
    return [ApiKeyRevoked(actor_id=actor.actor_id, key_id=command.key_id)] if command.key_id in actor.keys else []


def _require_hold(actor: Actor, asked: Asked, *, administrators: bool) -> None:
    held = asked.by.actor in {actor.actor_id, actor.owner} or (administrators and Role.ADMIN in asked.by.roles)
    require(
        held,
        "api_key_of_another",
        f"The keys of {actor.actor_id} are not yours to manage.",
        field="actor_id",
        remedy="Ask the actor itself." if actor.kind is ActorKind.PERSON else "Ask its owner or an administrator.",
    )


def _not_oneself(actor_id: str, asked: Asked, code: str, message: str) -> None:
    require(asked.by.actor != actor_id, code, message, field="actor_id", remedy="Ask another administrator.")


def _registered(registration: Registration, actor_id: str) -> Actor:
    require(
        registration.actor is not None,
        "actor_not_found",
        f"No actor {actor_id} is registered.",
        field="actor_id",
        remedy="Register it first.",
    )
    assert registration.actor is not None
    return registration.actor


def _ordered(roles: Iterable[Role]) -> tuple[Role, ...]:
    return tuple(sorted(set(roles)))


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
    commands=(RegisterActor, ChangeRoles, SuspendActor, ReinstateActor, IssueApiKey, RevokeApiKey),
    events=(ActorRegistered, RolesChanged, ActorSuspended, ActorReinstated, ApiKeyIssued, ApiKeyRevoked),
    entity=lambda command: command.actor_id,
    facts=_facts,
)
