"""Who may act, in which roles, with which keys, and known to whom else: what authentication looks at on every request."""

from domain.access import (
    ActorOffboarded,
    ActorRegistered,
    ActorReinstated,
    ActorSuspended,
    ApiKeyIssued,
    ApiKeyRevoked,
    ApiKeyRotated,
    DomainsBounded,
    IdentityLinked,
    IdentityUnlinked,
    OwnerChanged,
    RolesChanged,
    TierChanged,
)
from domain.kernel import Recorded, timestamp
from domain.values import Tier
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class ActorRow:
    """One actor; one that is suspended, or offboarded for good, cannot act. `domains` null: its roles reach all of them."""

    actor_id: str
    kind: str
    roles: list[str]
    owner: str | None
    tier: str
    domains: list[str] | None
    status: str
    registered_by: str
    registered_at: str
    changed_at: str


@read_row
class ApiKeyRow:
    """One API key; the secret itself was shown once and is kept nowhere. `scopes` null: good for all that its actor may do."""

    key_id: str
    actor_id: str
    label: str
    secret_sha256: str
    scopes: list[str] | None
    status: str
    issued_by: str
    issued_at: str
    expires_at: str
    replaces: str | None
    replaced_by: str | None
    revoked_at: str | None


@read_row
class IdentityRow:
    """Whom an identity provider knows, by the digest of its subject, and the actor that is here; null when it is no longer anybody."""

    subject_sha256: str
    issuer: str
    actor_id: str | None
    linked_by: str
    linked_at: str
    changed_at: str


actors = ReadTable(
    "actors",
    ActorRow,
    filters=("kind", "roles", "owner", "tier", "domains", "status"),
    sorts=("actor_id", "registered_at", "changed_at"),
    search=("actor_id",),
)
api_keys = ReadTable(
    "api_keys",
    ApiKeyRow,
    filters=("actor_id", "status", "issued_by", "scopes"),
    sorts=("key_id", "issued_at", "expires_at"),
    search=("key_id", "label"),
)

identities = ReadTable(
    "identities",
    IdentityRow,
    filters=("issuer", "actor_id"),
    sorts=("subject_sha256", "linked_at", "changed_at"),
    search=("issuer", "actor_id"),
)


def _key(recorded: Recorded[ApiKeyIssued | ApiKeyRotated | ApiKeyRevoked]) -> tuple[str, ...]:
    return (recorded.event.key_id,)


def _replaced(recorded: Recorded[ApiKeyRotated]) -> tuple[str, ...]:
    return (recorded.event.replaces,)


def _revoked(recorded: Recorded[ActorOffboarded]) -> tuple[str, ...]:
    return recorded.event.revoked_keys


@actors.on(ActorRegistered)
def registered(_row: None, recorded: Recorded[ActorRegistered], actor_id: str) -> ActorRow:
    event = recorded.event
    return ActorRow(
        actor_id=actor_id,
        kind=event.kind.value,
        roles=[role.value for role in event.roles],
        owner=event.owner,
        tier=Tier.STANDARD.value,
        domains=None,
        status="active",
        registered_by=recorded.actor,
        registered_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@actors.on(RolesChanged)
def roles_changed(row: ActorRow, recorded: Recorded[RolesChanged], _actor_id: str) -> ActorRow:
    return replace(row, roles=[role.value for role in recorded.event.roles], changed_at=recorded.at_text)


@actors.on(OwnerChanged)
def owner_changed(row: ActorRow, recorded: Recorded[OwnerChanged], _actor_id: str) -> ActorRow:
    return replace(row, owner=recorded.event.owner, changed_at=recorded.at_text)


@actors.on(TierChanged)
def tier_changed(row: ActorRow, recorded: Recorded[TierChanged], _actor_id: str) -> ActorRow:
    return replace(row, tier=recorded.event.tier.value, changed_at=recorded.at_text)


@actors.on(DomainsBounded)
def domains_bounded(row: ActorRow, recorded: Recorded[DomainsBounded], _actor_id: str) -> ActorRow:
    domains = recorded.event.domains
    return replace(row, domains=None if domains is None else list(domains), changed_at=recorded.at_text)


@actors.on(ActorSuspended)
def suspended(row: ActorRow, recorded: Recorded[ActorSuspended], _actor_id: str) -> ActorRow:
    return replace(row, status="suspended", changed_at=recorded.at_text)


@actors.on(ActorReinstated)
def reinstated(row: ActorRow, recorded: Recorded[ActorReinstated], _actor_id: str) -> ActorRow:
    return replace(row, status="active", changed_at=recorded.at_text)


@actors.on(ActorOffboarded)
def offboarded(row: ActorRow, recorded: Recorded[ActorOffboarded], _actor_id: str) -> ActorRow:
    return replace(row, status="offboarded", changed_at=recorded.at_text)


@api_keys.on(ApiKeyIssued, ApiKeyRotated, keys=_key)
def issued(_row: None, recorded: Recorded[ApiKeyIssued | ApiKeyRotated], key_id: str) -> ApiKeyRow:
    event = recorded.event
    return ApiKeyRow(
        key_id=key_id,
        actor_id=event.actor_id,
        label=event.label,
        secret_sha256=event.secret_sha256,
        scopes=None if event.scopes is None else list(event.scopes),
        status="active",
        issued_by=recorded.actor,
        issued_at=recorded.at_text,
        expires_at=timestamp(event.expires_at),
        replaces=event.replaces if isinstance(event, ApiKeyRotated) else None,
        replaced_by=None,
        revoked_at=None,
    )


@api_keys.on(ApiKeyRotated, keys=_replaced)
def replaced(row: ApiKeyRow, recorded: Recorded[ApiKeyRotated], _key_id: str) -> ApiKeyRow:
    return replace(row, expires_at=timestamp(recorded.event.old_ends_at), replaced_by=recorded.event.key_id)


@api_keys.on(ApiKeyRevoked, keys=_key)
def revoked(row: ApiKeyRow, recorded: Recorded[ApiKeyRevoked], _key_id: str) -> ApiKeyRow:
    return replace(row, status="revoked", revoked_at=recorded.at_text)


@api_keys.on(ActorOffboarded, keys=_revoked)
def revoked_with_its_actor(row: ApiKeyRow, recorded: Recorded[ActorOffboarded], _key_id: str) -> ApiKeyRow:
    return replace(row, status="revoked", revoked_at=recorded.at_text)


@identities.on(IdentityLinked)
def linked(_row: IdentityRow | None, recorded: Recorded[IdentityLinked], subject_sha256: str) -> IdentityRow:
    return IdentityRow(
        subject_sha256=subject_sha256,
        issuer=recorded.event.issuer,
        actor_id=recorded.event.actor_id,
        linked_by=recorded.actor,
        linked_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@identities.on(IdentityUnlinked)
def unlinked(row: IdentityRow, recorded: Recorded[IdentityUnlinked], _subject_sha256: str) -> IdentityRow:
    return replace(row, actor_id=None, changed_at=recorded.at_text)


PROJECTION = Projection("access", (actors, api_keys, identities), version=2, ordering="stream")
