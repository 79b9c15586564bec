"""The ledger's home: PostgreSQL, one round trip and one flush to disk per batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.ledger import LedgerUnavailable, StreamKey
from infra.anchors import PostgresAnchors
from infra.merkle import Frontier
from infra.raw_append import RawConnection
from infra.schema import APPLICATION_ROLE
from infra.sealing import Batch, Head, StreamHead
from infra.store import HeadMoved, StoredEvent, StreamTaken
from infra.vault import ERASED_CHANNEL, KeysChanged, Sealed, Vault

Connection = psycopg.AsyncConnection[TupleRow]

RECONNECT_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 0.05
POLL_SECONDS: Final = 1.0

_READ_STREAM: Final = """
    SELECT position, tenant, stream, version, type, body, signatures, leaf FROM ledger.events
    WHERE tenant = %s AND stream = %s AND version > %s ORDER BY version LIMIT %s
"""
_READ: Final = """
    SELECT position, tenant, stream, version, type, body, signatures, leaf FROM ledger.events
    WHERE position > %s AND position <= %s ORDER BY position
"""
_READ_TYPES: Final = """
    SELECT position, tenant, stream, version, type, body, signatures, leaf FROM ledger.events
    WHERE position > %s AND position <= %s AND type = ANY(%s) ORDER BY position
"""
_HEADS: Final = """
    SELECT wanted.tenant, wanted.stream, last.version, encode(last.leaf, 'hex')
    FROM unnest(%b::text[], %b::text[]) AS wanted(tenant, stream)
    CROSS JOIN LATERAL (
        SELECT version, leaf FROM ledger.events
        WHERE tenant = wanted.tenant AND stream = wanted.stream ORDER BY version DESC LIMIT 1
    ) AS last
"""


async def _as_application(connection: Connection) -> None:
    await connection.execute(f"SET ROLE {APPLICATION_ROLE}")


class PostgresStore(PostgresAnchors):
    """Implements `infra.store.Store` on PostgreSQL 15 or later.

    It sees every tenant: a batch holds commands of many, and one tree holds them all. Who answers somebody from it bears the
    condition on the tenant alone; what can be read through `Reads` has the wall behind it (docs/adr/0030-row-level-security.md).
    """

    def __init__(self, dsn: str, vault: Vault) -> None:
        self.dsn = dsn
        self.vault = vault
        self._writer: RawConnection | None = None
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn, open=False, min_size=1, max_size=8, timeout=10, kwargs={"autocommit": True}, configure=_as_application
        )

    async def open(self) -> None:
        await self.pool.open(wait=True, timeout=10)

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.connection.close()
        await self.vault.close()
        await self.pool.close()

    # -- writing

    async def commit(self, batch: Batch) -> None:
        disclosures: list[Sealed] | None = None
        deadline = asyncio.get_running_loop().time() + RECONNECT_SECONDS
        lost: psycopg.OperationalError | None = None
        while True:
            try:
                if disclosures is None:
                    disclosures = await self.vault.seal(self.pool, batch.events.disclosures)
                await self._insert(batch, disclosures)
                return
            except KeysChanged:
                disclosures = None
            except HeadMoved:
                # After a lost connection it may be ourselves who moved it: what was sent there could still arrive.
                if lost is None or not await self._landed(batch, lost, deadline):
                    raise
                return
            except errors.UniqueViolation as error:
                raise StreamTaken(error.diag.constraint_name or "") from error
            except errors.DiskFull as error:
                raise LedgerUnavailable("disk_full", "The ledger's disk is full.", "Free space on the database's volume.") from error
            except psycopg.OperationalError as error:
                lost = error
                if await self._landed(batch, error, deadline):
                    return
                if asyncio.get_running_loop().time() > deadline:
                    raise LedgerUnavailable("ledger_refused", f"The database does not take it: {error}", "See its log.") from error
                await asyncio.sleep(RETRY_SECONDS)
            except (psycopg.InternalError, psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
                # Said by a live connection about a transaction of its own: nothing of it was written.
                raise LedgerUnavailable("ledger_refused", f"The database does not take it: {error}", "See its log.") from error

    async def _insert(self, batch: Batch, disclosures: list[Sealed]) -> None:
        writer = self._writer if self._writer is not None and not self._writer.connection.closed else await self._connect()
        if not batch.events.remembered and not disclosures:
            # A statement on its own is a transaction on its own: one round trip.
            if not await writer.append(batch):
                raise HeadMoved
            return
        connection = writer.connection
        async with connection.transaction():
            if not await writer.append(batch):
                raise HeadMoved
            async with connection.pipeline():
                for tenant, remember, first in batch.events.remembered:
                    row = (tenant, remember.key, remember.digest, remember.answer(first))
                    await connection.execute("INSERT INTO ledger.requests VALUES (%s, %s, %s, %s)", row)
            if disclosures:
                await self.vault.insert(connection, disclosures)

    async def _connect(self) -> RawConnection:
        # psycopg must prepare nothing here: after a rollback it drops every prepared statement, ours included.
        connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, connect_timeout=5, prepare_threshold=None)
        await _as_application(connection)
        self._writer = RawConnection(connection)
        await self._writer.prepare()
        return self._writer

    async def _landed(self, batch: Batch, error: psycopg.OperationalError, deadline: float) -> bool:
        """After a broken connection: True when the batch is in the log, False when it surely is not and may be sent again.

        Locking the head waits for whatever the lost connection still had under way, so the answer is final.
        """
        loop = asyncio.get_running_loop()
        if self._writer is not None:
            await self._writer.connection.close()
        while True:
            try:
                connection = (await self._connect()).connection
                async with connection.transaction():
                    row = await (await connection.execute("SELECT size, root FROM ledger.head FOR UPDATE")).fetchone()
                    assert row is not None
                    if (row[0], row[1]) == (batch.before.size, batch.before.root):
                        return False
                    last = "SELECT leaf FROM ledger.events WHERE position = %s"
                    leaf = await (await connection.execute(last, (batch.after.size,))).fetchone()
                    if leaf is not None and leaf[0] == batch.events.leaves[-1]:
                        return True
                    raise HeadMoved
            except psycopg.OperationalError:
                if loop.time() > deadline:
                    raise LedgerUnavailable(
                        "ledger_unreachable",
                        "The database did not come back in time, so it is not known whether the command was recorded.",
                        "Send it again with the same Idempotency-Key.",
                    ) from error
                await asyncio.sleep(0.1)

    async def create_head(self, origin: str, at: datetime) -> None:
        """Marks where an empty log ends, once; afterwards its origin never changes."""
        nothing = Frontier()
        async with self.pool.connection() as connection:
            await connection.execute(
                "INSERT INTO ledger.head (origin, size, root, frontier, note, at) VALUES (%s, 0, %s, '', '', %s) ON CONFLICT DO NOTHING",
                (origin, nothing.root(), at),
            )

    # -- reading

    async def _fetch(self, query: str, arguments: tuple[Any, ...]) -> list[TupleRow]:
        deadline = asyncio.get_running_loop().time() + RECONNECT_SECONDS
        while True:
            try:
                async with self.pool.connection() as connection:
                    return await (await connection.execute(query, arguments, binary=True)).fetchall()
            except (psycopg.OperationalError, PoolTimeout) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise LedgerUnavailable("ledger_unreachable", "The database does not answer.", "Try again in a moment.") from error
                await asyncio.sleep(0.1)

    async def origin(self) -> str | None:
        rows = await self._fetch("SELECT origin FROM ledger.head", ())
        return rows[0][0] if rows else None

    async def head(self) -> Head | None:
        rows = await self._fetch("SELECT size, root, frontier, note, at FROM ledger.head", ())
        if not rows:
            return None
        size, root, frontier, note, at = rows[0]
        return Head(Frontier.load(size, frontier), root, note, at)

    async def stream_heads(self, keys: Iterable[StreamKey]) -> dict[StreamKey, StreamHead]:
        wanted = list(keys)
        rows = await self._fetch(_HEADS, ([tenant for tenant, _ in wanted], [stream for _, stream in wanted]))
        return {(tenant, stream): (version, leaf) for tenant, stream, version, leaf in rows}

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0, limit: int | None = None) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in await self._fetch(_READ_STREAM, (tenant, stream, after_version, limit))]

    async def read(self, after_position: int, limit: int) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in await self._fetch(_READ, (after_position, after_position + limit))]

    async def read_types(self, types: Collection[str], after_position: int, up_to: int) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in await self._fetch(_READ_TYPES, (after_position, up_to, list(types)))]

    async def remembered(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        rows = await self._fetch("SELECT digest, answer FROM ledger.requests WHERE tenant = %s AND key = %s", (tenant, key))
        return (rows[0][0], rows[0][1]) if rows else None

    async def position_at(self, moment: datetime) -> int:
        rows = await self._fetch("SELECT ledger.position_at(%s)", (moment,))
        return int(rows[0][0])

    async def note(self, size: int | None = None) -> bytes | None:
        if size is None:
            rows = await self._fetch("SELECT note FROM ledger.head WHERE size > 0", ())
        else:
            rows = await self._fetch("SELECT note FROM ledger.checkpoints WHERE size = %s", (size,))
        return rows[0][0] if rows else None

    async def appended(self) -> AsyncIterator[int]:
        """NOTIFY wakes it; polling makes up for a lost connection, which is simply opened again.

        On the same connection it hears that somebody was erased: then no process keeps the keys it had learnt.
        """
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                    await connection.execute(f"LISTEN ledger; LISTEN {ERASED_CHANNEL}".encode())
                    self.vault.forget()
                    while True:
                        row = await (await connection.execute("SELECT size FROM ledger.head")).fetchone()
                        yield row[0] if row else 0
                        async for told in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                            if told.channel == ERASED_CHANNEL:
                                self.vault.forget()
            except psycopg.OperationalError:
                await asyncio.sleep(POLL_SECONDS / 4)
