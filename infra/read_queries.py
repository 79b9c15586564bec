"""Reading the read models: one row, many, or a page of a list, as they stand or as they stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import psycopg
import sqlalchemy as sa
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy.dialects import postgresql

from domain.ledger import LedgerUnavailable
from infra.reach import WAYS, Reach, outside_domains, within
from infra.read_history import last_begun
from infra.read_pages import MAX_LIMIT, ListQuery, Pages, Where, cursor_after
from infra.read_tables import LIVE, is_open, schema_name, table_of
from infra.row_security import EVERY_TENANT, NOBODYS, ReaderConnection
from projections.engine import Projection, ReadTable

__all__ = ["EVERY_TENANT", "MAX_LIMIT", "NOBODYS", "Found", "ListQuery", "Page", "Reads", "Where"]
_DIALECT: Final = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
_POSITIONS: Final = sa.table("positions", sa.column("name"), sa.column("position"), schema="projections")


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as JSON documents, where the next page begins, and the position they were read at."""

    documents: list[str]
    next_cursor: str | None
    position: int


@dataclass(frozen=True, slots=True)
class Found:
    """One row: its JSON document, since when it stands, and the version its stream had then (if asked for)."""

    document: str
    from_position: int
    stream_version: int | None


def _narrowed(read: ReadTable[Any], reach: Reach | None) -> bool:
    """Whether a reach narrows what is read; Refused where the table does not tell where a row belongs."""
    if reach is not None and read.name not in WAYS:
        raise outside_domains(read.name, reach)
    return reach is not None


def _arguments(reach: Reach | None) -> dict[str, Any]:
    return {} if reach is None else reach.arguments()


class Reads:
    """Queries over the live tables of all projections."""

    def __init__(self, dsn: str, projections: Sequence[Projection]) -> None:
        self._schemas = {id(table): schema_name(projection.name, LIVE) for projection in projections for table in projection.tables}
        self._pages = {
            id(table): Pages(table, table_of(schema_name(projection.name, LIVE), table.name))
            for projection in projections
            for table in projection.tables
        }
        self._names = [projection.name for projection in projections]
        self._pool: AsyncConnectionPool[ReaderConnection] = AsyncConnectionPool(
            dsn,
            connection_class=ReaderConnection,
            open=False,
            min_size=2,
            max_size=10,
            timeout=10,
            kwargs={"autocommit": True, "prepare_threshold": 0},
            configure=ReaderConnection.take_role,
        )
        # Queries are built once: putting one together takes longer than its answer.
        self._one: dict[tuple[int, bool, bool, bool], str] = {}
        self._many: dict[tuple[int, bool, bool], str] = {}

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)

    async def close(self) -> None:
        await self._pool.close()

    def busy(self) -> float:
        """The part of its connections that is in use, from 0 to 1."""
        told = self._pool.get_stats()
        return (told["pool_size"] - told["pool_available"]) / told["pool_max"]

    async def fetch(self, query: str, arguments: Any, *, tenant: str | None, planned_anew: bool = False) -> list[TupleRow]:
        """Rows of a query; tried once more on a fresh connection when the database went away meanwhile.

        Of rows that belong to a tenant it finds those of this `tenant`, whatever the query asks for; NOBODYS if it asks for none such.
        `planned_anew`: with its arguments at hand, for the best way depends on them - how many rows a filter leaves.
        """
        for last in (False, True):
            try:
                async with self._pool.connection() as connection:
                    await connection.read_for(tenant)
                    return await (await connection.execute(query, arguments, prepare=not planned_anew)).fetchall()
            except (psycopg.OperationalError, PoolTimeout) as error:
                if last:
                    raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error
                await self._pool.check()
        raise AssertionError("unreachable")

    async def position(self) -> int:
        """The position all running projections have reached."""
        query = "SELECT coalesce(min(position), 0) FROM projections.positions WHERE stopped IS NULL AND name = ANY(%s)"
        rows = await self.fetch(query, (self._names,), tenant=NOBODYS)
        return int(rows[0][0])

    async def get(
        self,
        read: ReadTable[Any],
        tenant: str,
        row_id: str,
        as_of: int | None = None,
        stream: str | None = None,
        reach: Reach | None = None,
    ) -> Found | None:
        """One row by id, as of a position or now; none that is not within `reach`. With `stream`, also the version that stream had
        at that time."""
        key = (id(read), as_of is not None, stream is not None, _narrowed(read, reach))
        query = self._one.get(key) or self._one.setdefault(key, self._one_row(read, *key[1:]))
        arguments = {"tenant": tenant, "id": row_id, "as_of": as_of, "stream": stream, **_arguments(reach)}
        rows = await self.fetch(query, arguments, tenant=tenant)
        return Found(*rows[0]) if rows else None

    def _one_row(self, read: ReadTable[Any], past: bool, with_stream: bool, narrowed: bool) -> str:
        schema = self._schemas[id(read)]
        table = table_of(schema, read.name)
        as_of = sa.bindparam("as_of", type_=sa.BigInteger)
        version: sa.ColumnElement[Any] = sa.null()
        if with_stream:
            # What the reader could know: the stream's version at the position the read models had reached.
            projection: sa.ColumnElement[str] = sa.literal_column("'" + schema.removeprefix(f"{LIVE}_") + "'")
            reached = sa.select(_POSITIONS.c.position).where(_POSITIONS.c.name == projection).scalar_subquery()
            version = sa.func.ledger.version_at(
                sa.bindparam("tenant", type_=sa.Text), sa.bindparam("stream", type_=sa.Text), as_of if past else reached
            )
        tenant, row_id = sa.bindparam("tenant", type_=sa.Text), sa.bindparam("id", type_=sa.Text)
        if past:
            found = last_begun(table, "before", tenant, row_id, as_of).subquery("found")
            wanted = sa.select(sa.cast(found.c.doc, sa.Text), found.c.from_position, version).where(found.c.to_position > as_of)
            if narrowed:
                wanted = wanted.where(within(WAYS[read.name], found, row_id, past=True))
        else:
            query = sa.select(sa.cast(table.c.doc, sa.Text), table.c.from_position, version)
            wanted = query.where(table.c.tenant == tenant, table.c.id == row_id, is_open(table))
            if narrowed:
                wanted = wanted.where(within(WAYS[read.name], table, table.c.id, past=False))
        return str(wanted.compile(dialect=_DIALECT))

    async def many(
        self, read: ReadTable[Any], tenant: str, ids: Sequence[str], as_of: int | None = None, reach: Reach | None = None
    ) -> dict[str, dict[str, Any]]:
        """Rows by id; those that are not there, or not within `reach`, are left out."""
        key = (id(read), as_of is not None, _narrowed(read, reach))
        query = self._many.get(key) or self._many.setdefault(key, self._rows_by_id(read, *key[1:]))
        rows = await self.fetch(query, {"tenant": tenant, "ids": list(ids), "as_of": as_of, **_arguments(reach)}, tenant=tenant)
        return {row_id: orjson.loads(document) for row_id, document in rows}

    def _rows_by_id(self, read: ReadTable[Any], past: bool, narrowed: bool) -> str:
        table = table_of(self._schemas[id(read)], read.name)
        tenant, ids = sa.bindparam("tenant", type_=sa.Text), sa.bindparam("ids", type_=sa.ARRAY(sa.Text))
        if past:
            as_of = sa.bindparam("as_of", type_=sa.BigInteger)
            wanted = sa.func.unnest(ids).table_valued("id", name="wanted").render_derived()
            found = last_begun(table, "before", tenant, wanted.c.id, as_of).lateral("found")
            rows = sa.select(wanted.c.id, sa.cast(found.c.doc, sa.Text)).select_from(wanted.join(found, sa.true()))
            query = rows.where(found.c.to_position > as_of)
            if narrowed:
                query = query.where(within(WAYS[read.name], found, wanted.c.id, past=True))
        else:
            rows = sa.select(table.c.id, sa.cast(table.c.doc, sa.Text))
            query = rows.where(table.c.tenant == tenant, table.c.id == sa.any_(ids), is_open(table))
            if narrowed:
                query = query.where(within(WAYS[read.name], table, table.c.id, past=False))
        return str(query.compile(dialect=_DIALECT))

    async def tenants(self, read: ReadTable[Any]) -> list[str]:
        """The tenants that have rows in a table: for what Aureus does by itself, for each of them."""
        table = table_of(self._schemas[id(read)], read.name)
        query = sa.select(table.c.tenant).where(is_open(table)).distinct().order_by(table.c.tenant)
        return [str(row[0]) for row in await self.fetch(str(query.compile(dialect=_DIALECT)), {}, tenant=EVERY_TENANT)]

    async def count(self, read: ReadTable[Any], tenant: str, where: Where, as_of: int | None = None, reach: Reach | None = None) -> int:
        """How many rows within `reach` have these values in these filters."""
        _narrowed(read, reach)
        statement, arguments = self._pages[id(read)].counting(tenant, where, as_of, reach)
        return int((await self.fetch(statement, arguments, tenant=tenant, planned_anew=bool(where)))[0][0])

    async def page(self, read: ReadTable[Any], tenant: str, asked: ListQuery, as_of: int | None = None, reach: Reach | None = None) -> Page:
        """A page of a list, of what is within `reach`; raises Refused naming the parameter when a filter, sort or cursor is not one."""
        _narrowed(read, reach)
        statement, arguments = self._pages[id(read)].listing(tenant, asked, as_of, reach)
        position = as_of if as_of is not None else await self.position()
        rows = await self.fetch(statement, arguments, tenant=tenant, planned_anew=bool(asked.where))
        following = None
        if len(rows) > asked.limit:
            rows = rows[: asked.limit]
            following = cursor_after(asked.sort, rows[-1][2], rows[-1][1])
        return Page([row[0] for row in rows], following, position)
