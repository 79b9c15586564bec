"""The append's one statement, sent as PostgreSQL's own binary arrays: no adaptation per value, no cursor per batch."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import psycopg
from psycopg import errors, pq
from psycopg.rows import TupleRow

from infra.binary_arrays import ARRAY_OF, BIGINT, BYTEA, INT8, TEXT, array, bigints, texts
from infra.sealing import Batch

STATEMENT: Final = b"aureus_append"
_SQL: Final = b"SELECT ledger.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
_TIMESTAMPTZ: Final = 1184
_TYPES: Final = (
    *(INT8, BYTEA, INT8, BYTEA, BYTEA, BYTEA, _TIMESTAMPTZ),
    *(ARRAY_OF[oid] for oid in (TEXT, TEXT, INT8, TEXT, BYTEA, BYTEA, BYTEA)),
)
_BINARY: Final = [pq.Format.BINARY] * len(_TYPES)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
Connection = psycopg.AsyncConnection[TupleRow]


def _microseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def parameters(batch: Batch) -> list[bytes]:
    """The arguments of ledger.append, in its order."""
    events = batch.events
    return [
        BIGINT(batch.before.size),
        batch.before.root,
        BIGINT(batch.after.size),
        batch.after.root,
        batch.after.frontier.dump(),
        batch.after.note,
        BIGINT(_microseconds(batch.after.at)),
        texts(events.tenants),
        texts(events.streams),
        bigints(events.versions),
        texts(events.types),
        array(BYTEA, events.bodies),
        array(BYTEA, events.signatures),
        array(BYTEA, events.leaves),
    ]


class RawConnection:
    """A connection that waits for one result at a time, with its socket watched for as long as it lives."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._done: asyncio.Future[None] | None = None

    async def prepare(self) -> None:
        """Prepares the statement; once per connection."""
        async with self.connection.lock:
            self._pgconn.send_prepare(STATEMENT, _SQL, _TYPES)
            await self._result()

    async def append(self, batch: Batch) -> bool:
        """Runs the append, as a transaction of its own unless one is open; False when the head has moved.

        Raises psycopg's errors.
        """
        async with self.connection.lock:
            self._pgconn.send_query_prepared(STATEMENT, parameters(batch), _BINARY, pq.Format.BINARY)
            result = await self._result()
        return result.get_value(0, 0) == b"\x01"

    async def _result(self) -> pq.abc.PGresult:
        """Sends what is left to send, waits without blocking the loop, and takes the one result."""
        self._done = self._loop.create_future()
        self._loop.add_reader(self._socket, self._read)
        if self._pgconn.flush():
            self._loop.add_writer(self._socket, self._write)
        try:
            await self._done
        finally:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        result = self._pgconn.get_result()
        if result is None:
            raise psycopg.OperationalError("the connection gave no result")
        while self._pgconn.get_result() is not None:
            pass
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise errors.error_from_result(result)
        return result

    def _settle(self, error: BaseException | None = None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    def _write(self) -> None:
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.OperationalError as error:
            self._settle(error)

    def _read(self) -> None:
        try:
            self._pgconn.consume_input()
            if not self._pgconn.is_busy():
                self._settle()
        except psycopg.OperationalError as error:
            self._settle(error)
