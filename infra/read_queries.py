"""Reading the read models: one row, many, or a page of a list, as they stand or as they stood."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import psycopg
import sqlalchemy as sa
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy.dialects import postgresql

from domain.kernel import Refused
from domain.ledger import LedgerUnavailable
from infra.read_tables import LIVE, column, field_kind, schema_name, table_of
from projections.engine import OPEN, Projection, ReadTable

MAX_LIMIT: Final = 500
_DIALECT: Final = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
_POSITIONS: Final = sa.table("positions", sa.column("name"), sa.column("position"), schema="projections")
_EVENTS: Final = sa.table("events", sa.column("tenant"), sa.column("stream"), sa.column("version"), sa.column("position"), schema="ledger")
Where = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list is asked for. `where` maps a filter to a value or a list of values (any of them)."""

    where: Where = field(default_factory=dict)
    sort: str | None = None
    """A sortable column, `-` in front for descending; None orders by id."""
    search: str | None = None
    limit: int = 50
    cursor: str | None = None


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


class Reads:
    """Queries over the live tables of all projections."""

    def __init__(self, dsn: str, projections: Sequence[Projection]) -> None:
        self._schemas = {id(table): schema_name(projection.name, LIVE) for projection in projections for table in projection.tables}
        self._names = [projection.name for projection in projections]
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn, open=False, min_size=2, max_size=10, timeout=10, kwargs={"autocommit": True, "prepare_threshold": 0}
        )
        # Queries are built once: putting one together takes longer than its answer.
        self._one: dict[tuple[int, bool, bool], str] = {}
        self._many: dict[tuple[int, bool], str] = {}

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)

    async def close(self) -> None:
        await self._pool.close()

    async def fetch(self, query: str, arguments: Any) -> list[TupleRow]:
        """Rows of a query; tried once more on a fresh connection when the database went away meanwhile."""
        for last in (False, True):
            try:
                async with self._pool.connection() as connection:
                    return await (await connection.execute(query, arguments)).fetchall()
            except (psycopg.OperationalError, PoolTimeout) as error:
                if last:
                    raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error
                await self._pool.check()
        raise AssertionError("unreachable")

    async def position(self) -> int:
        """The position all running projections have reached."""
        query = "SELECT coalesce(min(position), 0) FROM projections.positions WHERE stopped IS NULL AND name = ANY(%s)"
        rows = await self.fetch(query, (self._names,))
        return int(rows[0][0])

    async def get(
        self, read: ReadTable[Any], tenant: str, row_id: str, as_of: int | None = None, stream: str | None = None
    ) -> Found | None:
        """One row by id, as of a position or now. With `stream`, also the version that stream had at that time."""
        key = (id(read), as_of is not None, stream is not None)
        query = self._one.get(key) or self._one.setdefault(key, self._one_row(read, as_of is not None, stream is not None))
        rows = await self.fetch(query, {"tenant": tenant, "id": row_id, "as_of": as_of, "stream": stream})
        return Found(*rows[0]) if rows else None

    def _one_row(self, read: ReadTable[Any], past: bool, with_stream: bool) -> str:
        schema = self._schemas[id(read)]
        row = sa.alias(table_of(schema, read.name), "r")
        as_of = sa.bindparam("as_of", type_=sa.BigInteger)
        version: sa.ColumnElement[Any] = sa.null()
        if with_stream:
            # What the reader could know: the stream's version at the position the read models had reached.
            projection: sa.ColumnElement[str] = sa.literal_column("'" + schema.removeprefix(f"{LIVE}_") + "'")
            reached = sa.select(_POSITIONS.c.position).where(_POSITIONS.c.name == projection).scalar_subquery()
            latest = sa.select(_EVENTS.c.version).where(
                _EVENTS.c.tenant == sa.bindparam("tenant"),
                _EVENTS.c.stream == sa.bindparam("stream", type_=sa.Text),
                _EVENTS.c.position <= (as_of if past else reached),
            )
            version = latest.order_by(_EVENTS.c.version.desc()).limit(sa.literal_column("1")).scalar_subquery()
        query = sa.select(sa.cast(row.c.doc, sa.Text), row.c.from_position, version)
        held = _held(row, as_of if past else None)
        wanted = query.where(row.c.tenant == sa.bindparam("tenant"), row.c.id == sa.bindparam("id"), held)
        return str(wanted.compile(dialect=_DIALECT))

    async def many(self, read: ReadTable[Any], tenant: str, ids: Sequence[str], as_of: int | None = None) -> dict[str, dict[str, Any]]:
        """Rows by id; those that are not there are left out."""
        key = (id(read), as_of is not None)
        query = self._many.get(key) or self._many.setdefault(key, self._rows_by_id(read, as_of is not None))
        rows = await self.fetch(query, {"tenant": tenant, "ids": list(ids), "as_of": as_of})
        return {row_id: orjson.loads(document) for row_id, document in rows}

    def _rows_by_id(self, read: ReadTable[Any], past: bool) -> str:
        table = table_of(self._schemas[id(read)], read.name)
        wanted = table.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(sa.Text)))
        query = sa.select(table.c.id, sa.cast(table.c.doc, sa.Text)).where(table.c.tenant == sa.bindparam("tenant"), wanted)
        return str(query.where(_held(table, sa.bindparam("as_of", type_=sa.BigInteger) if past else None)).compile(dialect=_DIALECT))

    async def tenants(self, read: ReadTable[Any]) -> list[str]:
        """The tenants that have rows in a table."""
        table = table_of(self._schemas[id(read)], read.name)
        query = sa.select(table.c.tenant).where(_held(table, None)).distinct().order_by(table.c.tenant)
        return [str(row[0]) for row in await self.fetch(*_compiled(query))]

    async def count(self, read: ReadTable[Any], tenant: str, where: Where, as_of: int | None = None) -> int:
        """How many rows have these values in these filters."""
        table = table_of(self._schemas[id(read)], read.name)
        query = sa.select(sa.func.count()).select_from(table).where(table.c.tenant == tenant, _held(table, as_of))
        for name, value in where.items():
            query = query.where(_matches(table, read, name, value))
        return int((await self.fetch(*_compiled(query)))[0][0])

    async def page(self, read: ReadTable[Any], tenant: str, asked: ListQuery, as_of: int | None = None) -> Page:
        """A page of a list; raises Refused naming the parameter when a filter, sort or cursor is not one."""
        table = table_of(self._schemas[id(read)], read.name)
        order, descending, kind = _order(table, read, asked.sort)
        query = sa.select(sa.cast(table.c.doc, sa.Text), table.c.id, order).where(table.c.tenant == tenant, _held(table, as_of))
        for name, value in asked.where.items():
            query = query.where(_matches(table, read, name, value))
        if asked.search:
            pattern = "%" + asked.search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query = query.where(sa.or_(*(table.c.doc[name].astext.ilike(pattern, escape="\\") for name in read.search)))
        if asked.cursor:
            after = sa.tuple_(*(sa.literal(value) for value in _opened(asked.cursor, asked.sort, kind)))
            place = sa.tuple_(order, table.c.id)
            query = query.where(place < after if descending else place > after)
        direction = sa.desc if descending else sa.asc
        query = query.order_by(direction(order), direction(table.c.id)).limit(asked.limit + 1)
        position = as_of if as_of is not None else await self.position()
        rows = await self.fetch(*_compiled(query))
        following = None
        if len(rows) > asked.limit:
            rows = rows[: asked.limit]
            following = base64.urlsafe_b64encode(orjson.dumps([asked.sort, rows[-1][2], rows[-1][1]])).decode()
        return Page([row[0] for row in rows], following, position)


def _held(table: sa.FromClause, as_of: int | sa.BindParameter[int] | None) -> sa.ColumnElement[bool]:
    if as_of is None:
        # Written out, not bound: only then does the planner see that the partial indexes apply.
        return table.c.to_position == sa.literal_column(str(OPEN))
    return sa.and_(table.c.from_position <= as_of, table.c.to_position > as_of)


def _order(table: sa.Table, read: ReadTable[Any], sort: str | None) -> tuple[sa.ColumnElement[Any], bool, type]:
    """What rows are ordered by, whether from the greatest down, and whether its values are `int` or `str`."""
    if sort is None:
        return table.c.id, False, str
    name = sort.removeprefix("-")
    if name not in read.sorts:
        raise Refused(
            "invalid_parameter",
            f"This list cannot be sorted by {name!r}.",
            field="sort",
            remedy=f"Use one of {', '.join(read.sorts) or 'none'}, with - in front for descending.",
        )
    kind = int if field_kind(read, name) is int else str
    nothing: Any = -1 if kind is int else ""
    return sa.func.coalesce(column(table, read, name), sa.literal(nothing)), sort.startswith("-"), kind


def _matches(table: sa.Table, read: ReadTable[Any], name: str, value: Any) -> sa.ColumnElement[bool]:
    if name not in read.filters:
        raise Refused(
            "invalid_parameter",
            f"This list cannot be filtered by {name!r}.",
            field=name,
            remedy=f"Use some of {', '.join(read.filters) or 'none'}.",
        )
    values = list(value) if isinstance(value, list | tuple | set) else [value]
    if field_kind(read, name) is list:
        return sa.or_(*(table.c.doc[name].has_key(str(item)) for item in values))
    if field_kind(read, name) is bool:
        return sa.and_(table.c.doc[name].astext.in_([str(item).lower() for item in values]))
    if field_kind(read, name) is int:
        try:
            return column(table, read, name).in_([int(item) for item in values])
        except ValueError:
            raise Refused("invalid_parameter", f"{name} is a whole number.", field=name, remedy="Send digits.") from None
    if values in ([None], ["null"]):
        return sa.and_(table.c.doc[name].astext.is_(None))
    texts = [str(item) for item in values]
    matched = column(table, read, name)
    return sa.and_(matched == texts[0] if len(texts) == 1 else matched.in_(texts))


def _opened(cursor: str, sort: str | None, kind: type) -> list[Any]:
    """What the row before the page is ordered by, and its id. The cursor comes from outside: nothing in it is trusted."""
    try:
        made_for, value, row_id = orjson.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, binascii.Error):
        made_for, value, row_id = "", None, None
    fits = made_for == sort and type(value) is kind and type(row_id) is str and "\0" not in f"{value}{row_id}"
    if not fits or (kind is int and abs(value) > OPEN):
        raise Refused(
            "invalid_parameter",
            "The cursor does not belong to this list and sort order.",
            field="cursor",
            remedy="Send the next_cursor of the page before, with the same sort and filters; or start without one.",
        )
    return [value, row_id]


def _compiled(query: sa.Select[Any]) -> tuple[str, Mapping[str, Any]]:
    compiled = query.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return str(compiled), compiled.params
