"""Grants as people read them: who was given which role where, until when; and as authentication does, on every request."""

from domain.grants import GrantExtended, GrantRevoked, RoleGranted
from domain.kernel import Recorded, timestamp
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class GrantRow:
    """One grant. `status` is `granted` until it is revoked; from `until` on it opens nothing, whatever its status."""

    grant_id: str
    role: str
    about: str
    grantee: str
    until: str
    reason: str | None
    status: str
    granted_by: str
    granted_at: str
    revoked_by: str | None
    revoked_at: str | None
    revocation_reason: str | None


grants = ReadTable(
    "grants",
    GrantRow,
    filters=("role", "about", "grantee", "status", "granted_by"),
    sorts=("grant_id", "until", "granted_at"),
    search=("grant_id", "about", "grantee"),
)


@grants.on(RoleGranted)
def granted(_row: None, recorded: Recorded[RoleGranted], grant_id: str) -> GrantRow:
    event = recorded.event
    return GrantRow(
        grant_id=grant_id,
        role=event.role.value,
        about=event.about,
        grantee=event.grantee,
        until=timestamp(event.until),
        reason=event.reason,
        status="granted",
        granted_by=recorded.actor,
        granted_at=recorded.at_text,
        revoked_by=None,
        revoked_at=None,
        revocation_reason=None,
    )


@grants.on(GrantExtended)
def extended(row: GrantRow, recorded: Recorded[GrantExtended], _grant_id: str) -> GrantRow:
    return replace(row, until=timestamp(recorded.event.until))


@grants.on(GrantRevoked)
def revoked(row: GrantRow, recorded: Recorded[GrantRevoked], _grant_id: str) -> GrantRow:
    return replace(row, status="revoked", revoked_by=recorded.actor, revoked_at=recorded.at_text, revocation_reason=recorded.event.reason)


PROJECTION = Projection("grants", (grants,), ordering="stream")
