"""Read models kept in PostgreSQL: batches folded in memory, written in one transaction that also moves their position.

One transaction moves every projection, so reads that cross contexts see one moment; the position stands in the same
transaction, so each event takes effect exactly once, whoever runs this and however often it is killed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, LiteralString

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from domain.kernel import Recorded
from infra.read_tables import LIVE, all_statements, schema_name
from projections.engine import OPEN, Folding, Open, Projection, ProjectionError, ReadTable, RowKey, RowVersion, touched

Connection = psycopg.AsyncConnection[TupleRow]
READ_MODELS_LOCK: Final = 7_283_642

_POSITIONS: Final = """
    CREATE SCHEMA IF NOT EXISTS projections;
    CREATE TABLE IF NOT EXISTS projections.positions (
        name     text   NOT NULL PRIMARY KEY,
        version  int    NOT NULL,
        position bigint NOT NULL DEFAULT 0,
        stopped  text
    );
"""
_LOCK: Final = "SELECT name, version, position, stopped FROM projections.positions ORDER BY name FOR UPDATE"
_MOVE: Final = "UPDATE projections.positions SET position = %s WHERE name = ANY(%s)"
_LOAD: Final = """
    SELECT t.tenant, t.id, t.from_position, t.doc::text FROM {table} t
    JOIN unnest(%b::text[], %b::text[]) AS wanted(tenant, id) ON t.tenant = wanted.tenant AND t.id = wanted.id
    WHERE t.to_position = {open}
"""
_END: Final = """
    UPDATE {table} t SET to_position = ended.position
    FROM unnest(%b::text[], %b::text[], %b::bigint[]) AS ended(tenant, id, position)
    WHERE t.tenant = ended.tenant AND t.id = ended.id AND t.to_position = {open}
"""
_BEGIN: Final = "INSERT INTO {table} SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::jsonb[])"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a projection stands, and why it stopped if it did."""

    name: str
    version: int
    position: int
    stopped: str | None


@cache
def statement(text: LiteralString, schema: str, table: str) -> bytes:
    return sql.SQL(text).format(table=sql.Identifier(schema, table), open=sql.Literal(OPEN)).as_bytes()


def encode(row: Any) -> bytes:
    return orjson.dumps(row)


async def create_read_models(dsn: str, projections: Sequence[Projection]) -> None:
    """Creates what is missing of tables, indexes and positions."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (READ_MODELS_LOCK,))
        await connection.execute(_POSITIONS)
        for text in all_statements(projections):
            await connection.execute(text)
        for projection in projections:
            place = "INSERT INTO projections.positions (name, version) VALUES (%s, %s) ON CONFLICT DO NOTHING"
            await connection.execute(place, (projection.name, projection.version))


class ReadModelWriter:
    """Moves projections forward on one connection; whoever holds the leader's lock does it, others stand by."""

    def __init__(self, connection: Connection, projections: Sequence[Projection]) -> None:
        self._connection = connection
        self.projections = {projection.name: projection for projection in projections}
        self.stopped: dict[str, str] = {}
        """Which projections had stopped when it last looked, and why."""

    @classmethod
    async def connect(cls, dsn: str, projections: Sequence[Projection]) -> ReadModelWriter:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        # What is lost of read models in a crash is folded again: their position is lost with them. No flush is needed.
        await connection.execute("SET synchronous_commit = off")
        return cls(connection, projections)

    async def lead(self) -> bool:
        """Tries to become the one who writes; the lock goes with the connection."""
        row = await (await self._connection.execute("SELECT pg_try_advisory_lock(%s)", (READ_MODELS_LOCK,))).fetchone()
        return bool(row and row[0])

    async def standings(self) -> dict[str, Standing]:
        rows = await (await self._connection.execute("SELECT name, version, position, stopped FROM projections.positions")).fetchall()
        standings = {row[0]: Standing(*row) for row in rows if row[0] in self.projections}
        self.stopped = {standing.name: standing.stopped for standing in standings.values() if standing.stopped}
        return standings

    async def advance(self, batch: Sequence[Recorded[Any]]) -> int:
        """Folds a batch of consecutive events into every projection that has come to where it begins.

        Returns the position that all running projections have reached: one that a rebuild set running again may be
        behind this batch. A projection that fails is marked as stopped, with the reason, and the others go on.
        """
        while True:
            try:
                standings = await self._advance(batch)
            except _Stopped as stopped:
                await self._connection.execute(
                    "UPDATE projections.positions SET stopped = %s WHERE name = %s", (str(stopped.__cause__), stopped.projection)
                )
                continue
            self.stopped = {standing.name: standing.stopped for standing in standings if standing.stopped}
            return min((standing.position for standing in standings if not standing.stopped), default=batch[-1].position)

    async def _advance(self, batch: Sequence[Recorded[Any]]) -> list[Standing]:
        """One transaction in two round trips: the positions, locked, with every row the batch touches; then all writes."""
        first, last = batch[0].position, batch[-1].position
        connection = self._connection
        async with connection.pipeline(), connection.transaction():
            locked = await connection.execute(_LOCK, prepare=True)
            asked = {name: await self._ask(projection, batch) for name, projection in self.projections.items()}
            standings = [standing for row in await locked.fetchall() if (standing := Standing(*row)).name in self.projections]
            moving = [s for s in standings if s.stopped is None and first - 1 <= s.position < last]
            for standing in moving:
                its = asked[standing.name]
                if isinstance(its, ProjectionError):
                    raise _Stopped(standing.name) from its
                folding = Folding(self.projections[standing.name], await answered(its))
                new = batch[standing.position + 1 - first :]
                try:
                    folding.fold(new)
                except ProjectionError as error:
                    raise _Stopped(standing.name) from error
                await write_changes(connection, schema_name(standing.name, LIVE), folding, new[0].position)
            await connection.execute(_MOVE, (last, [standing.name for standing in moving]), prepare=True)
        return [replace(standing, position=last) if standing in moving else standing for standing in standings]

    async def _ask(self, projection: Projection, batch: Sequence[Recorded[Any]]) -> Asked | ProjectionError:
        """The rows the batch touches; an error matters only if the projection is to move, so it is told, not raised."""
        try:
            keys = touched(projection, batch)
        except ProjectionError as error:
            return error
        return await ask_open(self._connection, projection, schema_name(projection.name, LIVE), keys)

    async def close(self) -> None:
        await self._connection.close()


class _Stopped(Exception):
    def __init__(self, projection: str) -> None:
        self.projection = projection


Asked = list[tuple[ReadTable[Any], psycopg.AsyncCursor[TupleRow]]]


async def ask_open(connection: Connection, projection: Projection, schema: str, keys: Iterable[RowKey]) -> Asked:
    """Asks for the open rows among `keys`, in one query per table; in a pipeline nobody waits yet."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for table, tenant, row_id in keys:
        wanted.setdefault(table, []).append((tenant, row_id))
    asked = []
    for read in projection.tables:
        if read.name in wanted and not read.immutable:
            tenants, ids = zip(*wanted[read.name], strict=True)
            query = statement(_LOAD, schema, read.name)
            asked.append((read, await connection.execute(query, (list(tenants), list(ids)), prepare=True)))
    return asked


async def answered(asked: Asked) -> Open:
    """The rows that were asked for."""
    rows: Open = {}
    for read, cursor in asked:
        for tenant, row_id, since, document in await cursor.fetchall():
            rows[read.name, tenant, row_id] = (since, read.row(**orjson.loads(document)))
    return rows


async def load_open(connection: Connection, projection: Projection, schema: str, keys: Iterable[RowKey]) -> Open:
    return await answered(await ask_open(connection, projection, schema, keys))


async def write_changes(connection: Connection, schema: str, folding: Folding, first_position: int) -> None:
    """Writes what a batch beginning at `first_position` changed: versions that ended, and versions that began."""
    ended: dict[str, list[RowVersion]] = {}
    began: dict[str, list[RowVersion]] = {}
    for version in folding.ended:
        kind = ended if version.from_position < first_position else began
        kind.setdefault(version.table, []).append(version)
    for key, (since, row) in folding.rows.items():
        if since >= first_position:
            began.setdefault(key[0], []).append(RowVersion(*key, since, OPEN, row))
    for table, versions in ended.items():
        columns = ([v.tenant for v in versions], [v.id for v in versions], [v.to_position for v in versions])
        await connection.execute(statement(_END, schema, table), columns, prepare=True)
    for table, versions in began.items():
        await connection.execute(statement(_BEGIN, schema, table), _columns(versions), prepare=True)


def _columns(versions: Sequence[RowVersion]) -> tuple[list[Any], ...]:
    return (
        [v.tenant for v in versions],
        [v.id for v in versions],
        [v.from_position for v in versions],
        [v.to_position for v in versions],
        [encode(v.row).decode() for v in versions],
    )


Progress = Callable[[str, int, int], Awaitable[None]]
"""progress(phase, done, total)"""
