"""Backups as people read them: when each was taken, what it holds, and whether this ledger was put back from it."""

from domain.backups import BackupBegun, BackupTaken, LedgerRestored
from domain.kernel import Recorded
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class BackupRow:
    """One backup: begun, taken, or restored here. `sha256` is that of the file, `size` the number of events in it."""

    backup_id: str
    status: str
    begun_at: str | None
    taken_at: str | None
    restored_at: str | None
    size: int | None
    root: str | None
    sha256: str | None
    size_bytes: int | None
    artifacts: int | None
    keys: bool | None
    erasures: int | None


_NOTHING = BackupRow("", "unknown", None, None, None, None, None, None, None, None, None, None)

backups = ReadTable(
    "backups", BackupRow, filters=("status", "keys"), sorts=("begun_at", "taken_at", "size"), search=("backup_id", "sha256")
)


@backups.on(BackupBegun)
def begun(_row: None, recorded: Recorded[BackupBegun], backup_id: str) -> BackupRow:
    return replace(_NOTHING, backup_id=backup_id, status="begun", begun_at=recorded.at_text)


@backups.on(BackupTaken)
def taken(row: BackupRow, recorded: Recorded[BackupTaken], _backup_id: str) -> BackupRow:
    event = recorded.event
    return replace(
        row,
        status="taken",
        taken_at=recorded.at_text,
        size=event.size,
        root=event.root,
        sha256=event.sha256,
        size_bytes=event.size_bytes,
        artifacts=event.artifacts,
        keys=event.keys,
    )


@backups.on(LedgerRestored)
def restored(row: BackupRow | None, recorded: Recorded[LedgerRestored], backup_id: str) -> BackupRow:
    event = recorded.event
    return replace(
        row or replace(_NOTHING, backup_id=backup_id),
        status="restored",
        restored_at=recorded.at_text,
        size=event.size,
        root=event.root,
        sha256=event.sha256,
        erasures=event.erasures,
    )


PROJECTION = Projection("backups", (backups,), ordering="stream")
