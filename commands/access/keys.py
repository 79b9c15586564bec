"""When an actor gets a key, a new one beside it, or loses it."""

from datetime import datetime, timedelta

from commands.access.intents import KEY_LIFETIME, KEY_LIFETIME_MAX, KEYS_MAX, IssueApiKey, RevokeApiKey, RotateApiKey
from domain.access import AccessEvent, Actor, ApiKey, ApiKeyIssued, ApiKeyRevoked, ApiKeyRotated
from domain.kernel import Asked, require, timestamp
from domain.values import ActorKind, Role


def issue(actor: Actor, command: IssueApiKey, asked: Asked) -> list[AccessEvent]:
    scopes = None if command.scopes is None else frozenset(command.scopes)
    expires_at = _end_of_new_key(actor, command, scopes, asked)
    issued = ApiKeyIssued(
        actor_id=actor.actor_id,
        key_id=command.key_id,
        label=command.label,
        secret_sha256=command.secret_sha256,
        expires_at=expires_at,
        scopes=None if scopes is None else tuple(sorted(scopes)),
    )
    return [issued]


def rotate(actor: Actor, command: RotateApiKey, asked: Asked) -> list[AccessEvent]:
    old = _known(actor, command.replaces, field="replaces")
    require(
        old is not None and old.expires_at > asked.at,
        "api_key_ended",
        f"Key {command.replaces} was revoked or has run out; there is nothing to go on from.",
        field="replaces",
        remedy="Issue a new key.",
    )
    assert old is not None
    expires_at = _end_of_new_key(actor, command, old.scopes, asked)
    rotated = ApiKeyRotated(
        actor_id=actor.actor_id,
        key_id=command.key_id,
        replaces=command.replaces,
        label=old.label,
        secret_sha256=command.secret_sha256,
        expires_at=expires_at,
        old_ends_at=min(old.expires_at, asked.at + timedelta(hours=command.overlap_hours)),
        scopes=None if old.scopes is None else tuple(sorted(old.scopes)),
    )
    return [rotated]


def revoke(actor: Actor, command: RevokeApiKey, asked: Asked) -> list[AccessEvent]:
    key = _known(actor, command.key_id, field="key_id")
    _require_hold(actor, asked, administrators=True)
    return [] if key is None else [ApiKeyRevoked(actor_id=actor.actor_id, key_id=command.key_id)]


def _end_of_new_key(actor: Actor, command: IssueApiKey | RotateApiKey, scopes: frozenset[str] | None, asked: Asked) -> datetime:
    """When a new key of the actor runs out; Refused when there can be none like that."""
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
    _require_no_wider(scopes, asked)
    usable = [key_id for key_id, key in actor.keys.items() if key.expires_at > asked.at]
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
    return expires_at


def _require_no_wider(scopes: frozenset[str] | None, asked: Asked) -> None:
    """A key that may do some things makes none that may do more."""
    beyond = asked.by.scopes is not None and (scopes is None or not all(asked.by.in_scope(scope) for scope in scopes))
    require(
        not beyond,
        "scope_too_wide",
        "The new key could do more than the one that asks for it.",
        field="scopes",
        scopes=sorted(asked.by.scopes or ()),
        remedy="Ask for scopes among these, or log in.",
    )


def _known(actor: Actor, key_id: str, *, field: str) -> ApiKey | None:
    """The key, None when it was revoked; Refused when the actor never had it."""
    require(
        key_id in actor.keys or key_id in actor.revoked_keys,
        "api_key_not_found",
        f"Actor {actor.actor_id} has no key {key_id}.",
        field=field,
        remedy="Look at the actor's keys.",
    )
    return actor.keys.get(key_id)


def _require_hold(actor: Actor, asked: Asked, *, administrators: bool) -> None:
    held = asked.by.actor in {actor.actor_id, actor.owner} or (administrators and Role.ADMIN in asked.by.roles)
    require(
        held,
        "api_key_of_another",
        f"The keys of {actor.actor_id} are not yours to manage.",
        field="actor_id",
        remedy="Ask the actor itself." if actor.kind is ActorKind.PERSON else "Ask its owner or an administrator.",
    )
