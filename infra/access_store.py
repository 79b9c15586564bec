"""The tables beside the ledger in which credentials are kept, and the connections to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.ledger import LedgerUnavailable

Arguments = Sequence[Any] | Mapping[str, Any]


class AccessStore:
    """Asks the database; several processes may share it. Raises LedgerUnavailable while it does not answer."""

    def __init__(self, dsn: str) -> None:
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn, open=False, min_size=1, max_size=4, timeout=10, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)

    async def close(self) -> None:
        await self._pool.close()

    async def query(self, query: LiteralString, arguments: Arguments | None = None) -> list[TupleRow]:
        """The rows of one statement, in a transaction of its own."""
        async with self.connection() as connection:
            return await rows(connection, query, arguments)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (OperationalError, PoolTimeout) as error:
            await self._pool.check()
            raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error


async def rows(connection: AsyncConnection[TupleRow], query: LiteralString, arguments: Arguments | None = None) -> list[TupleRow]:
    """What a statement answers; nothing when it answers no rows."""
    cursor = await connection.execute(query, arguments)
    return await cursor.fetchall() if cursor.description else []
