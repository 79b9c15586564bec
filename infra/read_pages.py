"""A page of a list as one statement, which is put together once for each kind of question: that takes longer than its answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from domain.kernel import Refused
from infra.reach import WAYS, Reach, within
from infra.read_history import AS_OF, TENANT, Source, sources
from infra.read_tables import column, field_kind, member_of, text_of
from projections.engine import OPEN, ReadTable

MAX_LIMIT: Final = 500
_DIALECT: Final = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
_TEXTS: Final = sa.ARRAY(sa.Text)
Where = Mapping[str, Any]
Statement = tuple[str, dict[str, Any]]
"""SQL, and its arguments by name."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list is asked for. `where` maps a filter to a value or a list of values (any of them)."""

    where: Where = field(default_factory=dict)
    sort: str | None = None
    """A sortable column, `-` in front for descending; None orders by id."""
    search: str | None = None
    limit: int = 50
    cursor: str | None = None
    unsearched: frozenset[str] = frozenset()
    """Columns that the search leaves out."""


@dataclass(frozen=True, slots=True)
class _Matching:
    """A filter with what it is to match: of one shape are those that the same SQL serves."""

    name: str
    shape: str
    argument: Any


@dataclass(frozen=True, slots=True)
class _Order:
    """By which column, from the greatest down or from the least up, and how its values compare."""

    name: str | None
    descending: bool
    kind: type


class Pages:
    """The statements over one read table."""

    def __init__(self, read: ReadTable[Any], table: sa.Table) -> None:
        self._read, self._table = read, table
        self._made: dict[Hashable, str] = {}

    def listing(self, tenant: str, asked: ListQuery, as_of: int | None, reach: Reach | None = None) -> Statement:
        """Rows of (document, id, what they are ordered by), one more than the limit. Refused names a parameter that is not one."""
        matching = [_matching(self._read, name, value) for name, value in asked.where.items()]
        order = _order(self._read, asked.sort)
        arguments = {TENANT: tenant, AS_OF: as_of, "row_limit": asked.limit + 1, **_arguments(matching)}
        if asked.search:
            arguments["wanted_text"] = "%" + asked.search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        if asked.cursor:
            arguments["after_place"], arguments["after_id"] = _opened(asked.cursor, asked.sort, order.kind)
        searching = tuple(name for name in self._read.search if name not in asked.unsearched) if asked.search else ()
        going_on, narrowed = bool(asked.cursor), reach is not None
        key = (as_of is None, _shapes(matching), order, searching, going_on, narrowed)
        if key not in self._made:
            past = as_of is not None
            self._made[key] = self._listing(matching, order, past=past, searching=searching, going_on=going_on, narrowed=narrowed)
        return self._made[key], arguments | (reach.arguments() if reach is not None else {})

    def counting(self, tenant: str, where: Where, as_of: int | None, reach: Reach | None = None) -> Statement:
        """One row: how many rows have these values."""
        matching = [_matching(self._read, name, value) for name, value in where.items()]
        key = (as_of is None, _shapes(matching), reach is not None)
        if key not in self._made:
            counts = []
            for source in sources(self._read, self._table, past=as_of is not None, first_of_all=False):
                rows = sa.select(sa.func.count()).select_from(source.rows).where(*source.conditions)
                if reach is not None:
                    rows = rows.where(self._within(source, past=as_of is not None))
                counts.append(rows.where(*(_condition(source.rows, self._read, one) for one in matching)).scalar_subquery())
            self._made[key] = _text(sa.select(sum(counts[1:], counts[0])))
        arguments = {TENANT: tenant, AS_OF: as_of, **_arguments(matching)}
        return self._made[key], arguments | (reach.arguments() if reach is not None else {})

    def _listing(
        self, matching: list[_Matching], order: _Order, *, past: bool, searching: tuple[str, ...], going_on: bool, narrowed: bool
    ) -> str:
        first_of_all = not (matching or searching or order.name)
        parts = []
        for source in sources(self._read, self._table, past=past, first_of_all=first_of_all):
            place = self._place(source.rows, order)
            query = sa.select(sa.cast(source.rows.c.doc, sa.Text).label("document"), source.rows.c.id, place.label("place"))
            query = query.where(*source.conditions, *(_condition(source.rows, self._read, one) for one in matching))
            if narrowed:
                query = query.where(self._within(source, past=past))
            if searching:
                query = query.where(self._searched(source, searching))
            if going_on:
                here = sa.tuple_(place, source.rows.c.id)
                after = sa.tuple_(sa.bindparam("after_place", type_=place.type), sa.bindparam("after_id", type_=sa.Text))
                query = query.where(here < after if order.descending else here > after)
            parts.append(_first(query, place, source.rows.c.id, order))
        if len(parts) == 1:
            return _text(parts[0])
        both = sa.union_all(*(part.subquery().select() for part in parts)).subquery("both")
        return _text(_first(sa.select(both), both.c.place, both.c.id, order))

    def _within(self, source: Source, *, past: bool) -> sa.ColumnElement[bool]:
        return within(WAYS[self._read.name], source.rows, source.rows.c.id, past=past)

    def _place(self, rows: sa.FromClause, order: _Order) -> sa.ColumnElement[Any]:
        if order.name is None:
            return rows.c.id
        nothing: sa.ColumnElement[Any] = sa.literal_column("-1", sa.BigInteger) if order.kind is int else sa.literal_column("''", sa.Text)
        return sa.func.coalesce(column(rows, self._read, order.name), nothing)

    def _searched(self, source: Source, names: tuple[str, ...]) -> sa.ColumnElement[bool]:
        text = sa.bindparam("wanted_text", type_=sa.Text)
        return sa.or_(*(column(source.rows, self._read, name).ilike(text, escape="\\") for name in names))


def cursor_after(sort: str | None, place: Any, row_id: str) -> str:
    """Where the next page begins: after this row."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, place, row_id])).decode()


def _first(query: sa.Select[Any], place: sa.ColumnElement[Any], row_id: sa.ColumnElement[str], order: _Order) -> sa.Select[Any]:
    direction = sa.desc if order.descending else sa.asc
    return query.order_by(direction(place), direction(row_id)).limit(sa.bindparam("row_limit", type_=sa.BigInteger))


def _text(query: sa.Select[Any]) -> str:
    return str(query.compile(dialect=_DIALECT))


def _shapes(matching: list[_Matching]) -> tuple[tuple[str, str], ...]:
    return tuple((one.name, one.shape) for one in matching)


def _arguments(matching: list[_Matching]) -> dict[str, Any]:
    return {f"where_{one.name}": one.argument for one in matching}


def _order(read: ReadTable[Any], sort: str | None) -> _Order:
    if sort is None:
        return _Order(None, descending=False, kind=str)
    name = sort.removeprefix("-")
    if name not in read.sorts:
        raise Refused(
            "invalid_parameter",
            f"This list cannot be sorted by {name!r}.",
            field="sort",
            remedy=f"Use one of {', '.join(read.sorts) or 'none'}, with - in front for descending.",
        )
    return _Order(name, sort.startswith("-"), int if field_kind(read, name) is int else str)


def _matching(read: ReadTable[Any], name: str, value: Any) -> _Matching:
    if name not in read.filters:
        raise Refused(
            "invalid_parameter",
            f"This list cannot be filtered by {name!r}.",
            field=name,
            remedy=f"Use some of {', '.join(read.filters) or 'none'}.",
        )
    values = list(value) if isinstance(value, list | tuple | set) else [value]
    kind = field_kind(read, name)
    if kind is list:
        return _Matching(name, "holding", [str(item) for item in values])
    if kind is bool:
        return _Matching(name, "among", [str(item).lower() for item in values])
    if kind is int:
        return _Matching(name, "number", [_number(name, item) for item in values])
    if values in ([None], ["null"]):
        return _Matching(name, "nothing", None)
    texts = [str(item) for item in values]
    return _Matching(name, "equal", texts[0]) if len(texts) == 1 else _Matching(name, "among", texts)


def _number(name: str, item: Any) -> int:
    try:
        number = int(item)
    except ValueError:
        number = OPEN + 1
    if abs(number) > OPEN:
        raise Refused("invalid_parameter", f"{name} is a whole number.", field=name, remedy="Send digits.")
    return number


def _condition(rows: sa.FromClause, read: ReadTable[Any], one: _Matching) -> sa.ColumnElement[bool]:
    match one.shape:
        case "nothing":
            return text_of(rows, one.name).is_(None)
        case "holding":
            return member_of(rows, one.name).op("?|", return_type=sa.Boolean())(sa.bindparam(f"where_{one.name}", type_=_TEXTS))
        case "number":
            return column(rows, read, one.name) == sa.any_(sa.bindparam(f"where_{one.name}", type_=sa.ARRAY(sa.BigInteger)))
        case "among":
            return column(rows, read, one.name) == sa.any_(sa.bindparam(f"where_{one.name}", type_=_TEXTS))
        case _:
            return column(rows, read, one.name) == sa.bindparam(f"where_{one.name}", type_=sa.Text)


def _opened(cursor: str, sort: str | None, kind: type) -> tuple[Any, str]:
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
    return value, row_id
