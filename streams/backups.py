"""What Aureus puts on record of its backups by itself: that one is taken, what was written, and that a ledger was put back from it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from commands.backups import BackupCommand, BeginBackup, RecordBackup, RecordRestore
from commands.path import Ask, CommandPath
from domain.ledger import LedgerUnavailable
from domain.values import uuid7
from infra.backup.marker import recorded, restored
from infra.backup.taking import Taken
from infra.ledger import Ledger
from infra.postgres_store import PostgresStore
from streams.reactions import asker

_log = logging.getLogger("aureus.backups")


async def record_begun(path: CommandPath, tenant: str, backup_id: str) -> str | None:
    """Why it is not on record that a backup is begun; None when it is."""
    return await _recorded(path, tenant, BeginBackup(backup_id=backup_id), f"begun:{backup_id}")


async def record_taken(path: CommandPath, tenant: str, taken: Taken) -> str | None:
    """Why it is not on record what was written; None when it is."""
    said = taken.manifest
    command = RecordBackup(
        backup_id=said.backup_id,
        size=said.size,
        root=said.root,
        sha256=taken.sha256,
        size_bytes=taken.size_bytes,
        artifacts=said.blobs.count if said.blobs else 0,
        keys=said.keys_sha256 is not None,
    )
    return await _recorded(path, tenant, command, f"taken:{taken.sha256}")


async def record_restore(ledger: Ledger, path: CommandPath, tenant: str) -> None:
    """Has a ledger that was put back from a backup say so, at its first start after it; tried again at the next if it cannot be."""
    store = ledger.store
    assert isinstance(store, PostgresStore), "a ledger that is served lies in PostgreSQL"
    found = await restored(store.pool)
    if found is None or found.recorded:
        return
    command = RecordRestore(backup_id=found.backup_id, size=found.size, root=found.root, sha256=found.sha256, erasures=found.erasures)
    why = await _recorded(path, tenant, command, f"restored:{found.sha256}")
    if why is None:
        await recorded(store.pool)
    else:
        _log.warning("that this ledger was restored from backup %s is not on record: %s", found.backup_id, why)


async def _recorded(path: CommandPath, tenant: str, command: BackupCommand, key: str) -> str | None:
    ask = Ask(command, asker(tenant), uuid7(), datetime.now(UTC), idempotency_key=f"backups:{key}", reason="The keeper of backups.")
    try:
        outcome = await path.handle(ask)
    except LedgerUnavailable as error:
        return error.message
    return None if outcome.outcome == "allowed" else outcome.message or f"it was {outcome.outcome}"
