"""Who may act, in which roles, and with which keys: what authentication looks at on every request."""

from domain.access import ActorRegistered, ActorReinstated, ActorSuspended, ApiKeyIssued, ApiKeyRevoked, RolesChanged
from domain.kernel import Recorded, timestamp
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class ActorRow:
    """One actor; a suspended one cannot act."""

    actor_id: str
    kind: str
    roles: list[str]
    owner: str | None
    status: str
    registered_by: str
    registered_at: str
    changed_at: str


@read_row
class ApiKeyRow:
    """One API key; the secret itself was shown once and is kept nowhere."""

    key_id: str
    actor_id: str
    label: str
    secret_sha256: str
    status: str
    issued_by: str
    issued_at: str
    expires_at: str
    revoked_at: str | None


actors = ReadTable(
    "actors",
    ActorRow,
    filters=("kind", "roles", "owner", "status"),
    sorts=("actor_id", "registered_at", "changed_at"),
    search=("actor_id",),
)
api_keys = ReadTable(
    "api_keys",
    ApiKeyRow,
    filters=("actor_id", "status", "issued_by"),
    sorts=("key_id", "issued_at", "expires_at"),
    search=("key_id", "label"),
)


def _key(recorded: Recorded[ApiKeyIssued | ApiKeyRevoked]) -> tuple[str, ...]:
    return (recorded.event.key_id,)


@actors.on(ActorRegistered)
def registered(_row: None, recorded: Recorded[ActorRegistered], actor_id: str) -> ActorRow:
    event = recorded.event
    return ActorRow(
        actor_id=actor_id,
        kind=event.kind.value,
        roles=[role.value for role in event.roles],
        owner=event.owner,
        status="active",
        registered_by=recorded.actor,
        registered_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@actors.on(RolesChanged)
def roles_changed(row: ActorRow, recorded: Recorded[RolesChanged], _actor_id: str) -> ActorRow:
    return replace(row, roles=[role.value for role in recorded.event.roles], changed_at=recorded.at_text)


@actors.on(ActorSuspended)
def suspended(row: ActorRow, recorded: Recorded[ActorSuspended], _actor_id: str) -> ActorRow:
    return replace(row, status="suspended", changed_at=recorded.at_text)


@actors.on(ActorReinstated)
def reinstated(row: ActorRow, recorded: Recorded[ActorReinstated], _actor_id: str) -> ActorRow:
    return replace(row, status="active", changed_at=recorded.at_text)


@api_keys.on(ApiKeyIssued, keys=_key)
def issued(_row: None, recorded: Recorded[ApiKeyIssued], key_id: str) -> ApiKeyRow:
    event = recorded.event
    return ApiKeyRow(
        key_id=key_id,
        actor_id=event.actor_id,
        label=event.label,
        secret_sha256=event.secret_sha256,
        status="active",
        issued_by=recorded.actor,
        issued_at=recorded.at_text,
        expires_at=timestamp(event.expires_at),
        revoked_at=None,
    )


@api_keys.on(ApiKeyRevoked, keys=_key)
def revoked(row: ApiKeyRow, recorded: Recorded[ApiKeyRevoked], _key_id: str) -> ApiKeyRow:
    return replace(row, status="revoked", revoked_at=recorded.at_text)


PROJECTION = Projection("access", (actors, api_keys), ordering="stream")
