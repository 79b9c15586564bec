"""The mark on a database that is being restored: nothing serves from it until the restore is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from infra.settings_error import SettingsError

Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]
_RESTORED: Final = "SELECT backup_id, sha256, size, root, erasures, finished_at IS NOT NULL, recorded FROM backups.restored"
_RECORDED: Final = "UPDATE backups.restored SET recorded = true"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a database was put back from; `root` and `sha256` are hex."""

    backup_id: str
    sha256: str
    size: int
    root: str
    erasures: int
    finished: bool
    recorded: bool
    """Whether the ledger says so itself."""


async def restored(pool: Pool) -> Restored | None:
    """What this database was, or is being, put back from; None for one that began here."""
    async with pool.connection() as connection:
        row = await (await connection.execute(_RESTORED)).fetchone()
    return Restored(*row) if row else None


async def require_finished(pool: Pool) -> None:
    """Raises SettingsError when a restore into this database was begun and did not come to its end."""
    found = await restored(pool)
    if found is not None and not found.finished:
        rule = f"the restore of backup {found.backup_id} into this database did not come to its end."
        raise SettingsError("DATABASE_URL", rule, "Run `aureus restore` with that backup again: it begins anew.")


async def recorded(pool: Pool) -> None:
    """Notes that the ledger says so itself."""
    async with pool.connection() as connection:
        await connection.execute(_RECORDED)
