"""Keys as people read them: what each signs, whose it is, and from which position up to which it could.

For people, not for verification: a read model could be changed, and must not vouch for keys.
"""

from domain.kernel import Recorded
from domain.keys import SYSTEM_TENANT, KeyAdded, KeyRevoked, KeyRotated
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class KeyRow:
    """One key of the ledger: it may sign after `added_position` and, once it has ended, up to `ended_position`."""

    key_id: str
    role: str
    custody: str
    holder: str | None
    status: str
    public: str
    added_at: str
    added_position: int
    added_by: str
    ended_at: str | None
    ended_position: int | None
    replaces: str | None
    replaced_by: str | None
    revoked_position: int | None
    compromised_since: int | None
    reason: str | None


keys = ReadTable(
    "keys",
    KeyRow,
    filters=("role", "holder", "status", "custody"),
    sorts=("added_position", "ended_position"),
    search=("key_id", "holder"),
    tenant=SYSTEM_TENANT,
)


def _own(recorded: Recorded[KeyAdded | KeyRevoked]) -> tuple[str, ...]:
    return (recorded.event.key_id,)


def _new(recorded: Recorded[KeyRotated]) -> tuple[str, ...]:
    return (recorded.event.key_id,)


def _old(recorded: Recorded[KeyRotated]) -> tuple[str, ...]:
    return (recorded.event.old_key_id,)


@keys.on(KeyAdded, keys=_own)
def added(_row: None, recorded: Recorded[KeyAdded], key_id: str) -> KeyRow:
    return _entered(recorded, key_id, recorded.event.holder, None)


@keys.on(KeyRotated, keys=_new)
def took_over(_row: None, recorded: Recorded[KeyRotated], key_id: str) -> KeyRow:
    event = recorded.event
    return _entered(recorded, key_id, event.holder, event.old_key_id)


def _entered(recorded: Recorded[KeyAdded] | Recorded[KeyRotated], key_id: str, holder: str | None, replaces: str | None) -> KeyRow:
    event = recorded.event
    return KeyRow(
        key_id=key_id,
        role=event.role,
        custody=event.custody,
        holder=holder,
        status="active",
        public=event.public,
        added_at=recorded.at_text,
        added_position=recorded.position,
        added_by=recorded.actor,
        ended_at=None,
        ended_position=None,
        replaces=replaces,
        replaced_by=None,
        revoked_position=None,
        compromised_since=None,
        reason=None,
    )


@keys.on(KeyRotated, keys=_old)
def rotated(row: KeyRow, recorded: Recorded[KeyRotated], _key_id: str) -> KeyRow:
    return replace(row, status="rotated", ended_at=recorded.at_text, ended_position=recorded.position, replaced_by=recorded.event.key_id)


@keys.on(KeyRevoked, keys=_own)
def revoked(row: KeyRow, recorded: Recorded[KeyRevoked], _key_id: str) -> KeyRow:
    event = recorded.event
    return replace(
        row,
        status="revoked",
        ended_at=row.ended_at or recorded.at_text,
        ended_position=row.ended_position or recorded.position,
        revoked_position=recorded.position,
        compromised_since=event.compromised_since,
        reason=event.reason,
    )


PROJECTION = Projection("keys", (keys,), ordering="stream")
