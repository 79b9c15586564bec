"""An actor: a person, an agent or a service that acts in a tenant, the roles it is trusted with, and the keys it shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Final, assert_never

from pydantic import StringConstraints

from domain.kernel import Asked, Event, JsonObject, require
from domain.values import ActorKind, Identifier, Label, Personal, Role, Sha256, Tier

ActorId = Annotated[str, StringConstraints(pattern=r"^(usr|agt|svc)-[a-z0-9][a-z0-9-]*$", max_length=64)]
"""Opaque: a kind and a code, never a name or an e-mail address, for it stands in signed bytes for ever."""
PersonId = Annotated[str, StringConstraints(pattern=r"^usr-[a-z0-9][a-z0-9-]*$", max_length=64)]
ApiKeyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8,32}$")]
KeyScope = Annotated[str, StringConstraints(pattern=r"^[a-z_]+(\.[a-z_]+)?$", max_length=100)]
"""What a key may be used for: `read`, all commands of a context (`catalog`), or one command (`catalog.register_dataset`)."""
READ: Final = "read"
"""The scope of whatever is only looked at."""
PROVISION: Final = "scim"
"""What a key is good for that an identity provider manages accounts with: for that alone."""
DomainName = Identifier
"""A data domain, as datasets and pipelines name it."""
Issuer = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[!-~]+$")]
"""An identity provider, by the address it calls itself."""

PREFIXES: Final = MappingProxyType({ActorKind.PERSON: "usr-", ActorKind.AGENT: "agt-", ActorKind.SERVICE: "svc-"})
PROVISIONING: Final = "svc-provisioning"
OWN_ACTORS: Final = frozenset({"svc-aureus", "svc-bootstrap", "svc-reactions", PROVISIONING})
"""Aureus itself: it keeps the keys, makes the first actors, reacts, and does what an identity provider tells it. Nobody else ever acts
under these names."""
ROLES_OF_KIND: Final[Mapping[ActorKind, frozenset[Role]]] = MappingProxyType(
    {
        ActorKind.PERSON: frozenset(Role) - {Role.AGENT},
        ActorKind.SERVICE: frozenset(Role) - {Role.AGENT, Role.APPROVER},
        ActorKind.AGENT: frozenset({Role.AGENT, Role.VIEWER}),
    }
)
"""Consent is a person's: nothing that runs by itself approves, and an agent administers nothing - whatever group it is in."""


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


class OwnerChanged(Event, name="access.owner_changed"):
    """Another person answers for the agent or the service from now on."""

    actor_id: ActorId
    owner: PersonId


class TierChanged(Event, name="access.tier_changed"):
    """The actor may ask as much within an hour as this tier allows."""

    actor_id: ActorId
    tier: Tier


class DomainsBounded(Event, name="access.domains_bounded"):
    """The actor's roles reach these data domains only; without any list they reach all of them."""

    actor_id: ActorId
    domains: tuple[DomainName, ...] | None = None


class ActorSuspended(Event, name="access.actor_suspended"):
    """The actor may not act, whatever it shows, until it is reinstated."""

    actor_id: ActorId


class ActorReinstated(Event, name="access.actor_reinstated"):
    """A suspended actor may act again."""

    actor_id: ActorId


class ActorOffboarded(Event, name="access.actor_offboarded"):
    """The actor has left for good: from here on nothing it shows or gave counts, nor does what it answers for act."""

    actor_id: ActorId
    revoked_keys: tuple[ApiKeyId, ...] = ()
    """The keys that ended with it."""


class ApiKeyIssued(Event, name="access.api_key_issued", schema=2):
    """A key lets whoever shows it act as the actor. The secret is 256 random bits, so its digest gives nothing away."""

    actor_id: ActorId
    key_id: ApiKeyId
    label: Label
    secret_sha256: Sha256
    expires_at: datetime
    scopes: tuple[KeyScope, ...] | None = None
    """What it may be used for; None: for all that the actor may do."""

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Until schema 2 every key was for all that its actor might do."""
        return {**data, "scopes": None}


class ApiKeyRotated(Event, name="access.api_key_rotated"):
    """A new key stands beside the old one, for the same uses, until the old one ends."""

    actor_id: ActorId
    key_id: ApiKeyId
    replaces: ApiKeyId
    label: Label
    secret_sha256: Sha256
    expires_at: datetime
    old_ends_at: datetime
    scopes: tuple[KeyScope, ...] | None = None


class ApiKeyRevoked(Event, name="access.api_key_revoked"):
    """A key is worth nothing from now on."""

    actor_id: ActorId
    key_id: ApiKeyId


AccessEvent = (
    ActorRegistered
    | RolesChanged
    | OwnerChanged
    | TierChanged
    | DomainsBounded
    | ActorSuspended
    | ActorReinstated
    | ActorOffboarded
    | ApiKeyIssued
    | ApiKeyRotated
    | ApiKeyRevoked
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key that was not revoked is for, and when it runs out."""

    label: str
    expires_at: datetime
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Actor:
    """One actor; `keys` are the keys that were not revoked. Who was offboarded is suspended for good."""

    actor_id: str
    kind: ActorKind
    roles: frozenset[Role]
    owner: str | None = None
    suspended: bool = False
    keys: Mapping[str, ApiKey] = field(default_factory=lambda: MappingProxyType({}))
    revoked_keys: frozenset[str] = frozenset()
    tier: Tier = Tier.STANDARD
    domains: frozenset[str] | None = None
    offboarded: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """An actor's stream: empty until the actor is registered."""

    actor: Actor | None = None


def evolve(registration: Registration, event: AccessEvent) -> Registration:
    if isinstance(event, ActorRegistered):
        return Registration(Actor(event.actor_id, event.kind, frozenset(event.roles), event.owner))
    actor = registration.actor
    assert actor is not None, f"{event.actor_id} acts before it is registered"
    if isinstance(event, ApiKeyIssued | ApiKeyRotated | ApiKeyRevoked):
        return Registration(_with_keys(actor, event))
    return Registration(_changed(actor, event))


def _changed(
    actor: Actor,
    event: RolesChanged | OwnerChanged | TierChanged | DomainsBounded | ActorSuspended | ActorReinstated | ActorOffboarded,
) -> Actor:
    match event:
        case RolesChanged():
            return replace(actor, roles=frozenset(event.roles))
        case OwnerChanged():
            return replace(actor, owner=event.owner)
        case TierChanged():
            return replace(actor, tier=event.tier)
        case DomainsBounded():
            return replace(actor, domains=None if event.domains is None else frozenset(event.domains))
        case ActorSuspended():
            return replace(actor, suspended=True)
        case ActorReinstated():
            return replace(actor, suspended=False)
        case ActorOffboarded():
            return replace(actor, suspended=True, offboarded=True, keys={}, revoked_keys=actor.revoked_keys | frozenset(actor.keys))
        case _:
            assert_never(event)


def _with_keys(actor: Actor, event: ApiKeyIssued | ApiKeyRotated | ApiKeyRevoked) -> Actor:
    if isinstance(event, ApiKeyRevoked):
        left = {key_id: key for key_id, key in actor.keys.items() if key_id != event.key_id}
        return replace(actor, keys=left, revoked_keys=actor.revoked_keys | {event.key_id})
    keys = {**actor.keys, event.key_id: ApiKey(event.label, event.expires_at, None if event.scopes is None else frozenset(event.scopes))}
    if isinstance(event, ApiKeyRotated):
        keys[event.replaces] = replace(keys[event.replaces], expires_at=event.old_ends_at)
    return replace(actor, keys=keys)


class IdentityLinked(Event, name="access.identity_linked"):
    """Whoever an identity provider knows by this subject is the actor, from now on. The subject itself stands nowhere."""

    subject_sha256: Sha256
    issuer: Issuer
    actor_id: ActorId


class IdentityUnlinked(Event, name="access.identity_unlinked"):
    """Whoever the identity provider knows by this subject is nobody here any more."""

    subject_sha256: Sha256
    actor_id: ActorId


IdentityEvent = IdentityLinked | IdentityUnlinked


@dataclass(frozen=True, slots=True)
class Identity:
    """A subject of an identity provider, and the actor it stands for, if any."""

    actor_id: str | None = None


def identify(_identity: Identity, event: IdentityEvent) -> Identity:
    return Identity(event.actor_id if isinstance(event, IdentityLinked) else None)


# What holds of every question about who may act


def registered(registration: Registration, actor_id: str) -> Actor:
    """The actor; Refused when there is none."""
    require(
        registration.actor is not None,
        "actor_not_found",
        f"No actor {actor_id} is registered.",
        field="actor_id",
        remedy="Register it first.",
    )
    assert registration.actor is not None
    return registration.actor


def require_staying(actor: Actor) -> None:
    """Nothing changes any more about who has left."""
    require(
        not actor.offboarded,
        "actor_offboarded",
        f"{actor.actor_id} has left for good.",
        field="actor_id",
        remedy="Register who comes back under a new id.",
    )


def reach_everywhere(asked: Asked) -> None:
    """Whoever reaches some domains only gives nobody anything: what is given may reach all of them."""
    require(
        asked.by.domains is None,
        "outside_domains",
        f"{asked.by.actor} reaches some data domains only, and what is asked for reaches further.",
        field="actor_id",
        domains=sorted(asked.by.domains or ()),
        remedy="Ask an administrator who reaches all domains.",
    )
