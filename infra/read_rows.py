"""The rows of read models in PostgreSQL: what a batch touches is one query a table, and what it changed one statement or two."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import cache
from typing import Any, Final, LiteralString

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from infra.binary_arrays import TextArray, bigints, jsonbs, texts
from projections.engine import OPEN, Folding, Open, Projection, ReadTable, RowKey, RowVersion

Connection = psycopg.AsyncConnection[TupleRow]

# By the key of versions, and in a way that leaves the planner no other index: without statistics yet, it may find any as good.
_LOAD: Final = """
    SELECT wanted.tenant, wanted.id, latest.from_position, latest.doc::text FROM unnest(%b, %b) AS wanted(tenant, id)
    CROSS JOIN LATERAL (
        SELECT from_position, to_position, doc FROM {table} AS t WHERE t.tenant = wanted.tenant AND t.id = wanted.id
        ORDER BY t.from_position DESC LIMIT 1
    ) AS latest
    WHERE latest.to_position = {open}
"""
_END: Final = """
    UPDATE {table} AS t SET to_position = ended.to_position
    FROM unnest(%b, %b, %b, %b) AS ended(tenant, id, from_position, to_position)
    WHERE t.tenant = ended.tenant AND t.id = ended.id AND t.from_position = ended.from_position
"""
_BEGIN: Final = "INSERT INTO {table} SELECT * FROM unnest(%b, %b, %b, %b, %b)"


@cache
def statement(text: LiteralString, schema: str, table: str) -> bytes:
    return sql.SQL(text).format(table=sql.Identifier(schema, table), open=sql.Literal(OPEN)).as_bytes()


def encode(row: Any) -> bytes:
    return orjson.dumps(row)


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
            asked.append((read, await connection.execute(query, (texts(tenants), texts(ids)), prepare=True)))
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


async def write_changes(connection: Connection, schema: str, folding: Folding, of_batch: Container[int]) -> None:
    """Writes what a batch of events at these positions changed: versions that ended, and versions that began."""
    ended: dict[str, list[RowVersion]] = {}
    began: dict[str, list[RowVersion]] = {}
    for version in folding.ended:
        kind = began if version.from_position in of_batch else ended
        kind.setdefault(version.table, []).append(version)
    for key, (since, row) in folding.rows.items():
        if since in of_batch:
            began.setdefault(key[0], []).append(RowVersion(*key, since, OPEN, row))
    for table, versions in ended.items():
        columns = (*_keys(versions), bigints([v.from_position for v in versions]), bigints([v.to_position for v in versions]))
        await connection.execute(statement(_END, schema, table), columns, prepare=True)
    for table, versions in began.items():
        await connection.execute(statement(_BEGIN, schema, table), _columns(versions), prepare=True)


def _keys(versions: Sequence[RowVersion]) -> tuple[TextArray, TextArray]:
    return texts([v.tenant for v in versions]), texts([v.id for v in versions])


def _columns(versions: Sequence[RowVersion]) -> tuple[bytes, ...]:
    return (
        *_keys(versions),
        bigints([v.from_position for v in versions]),
        bigints([v.to_position for v in versions]),
        jsonbs([encode(v.row) for v in versions]),
    )
