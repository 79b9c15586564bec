"""Rows as they stood: where the versions that held at a position are found, however many came before and after.

One row is the last version that began by then. The first rows of a list come in the order of their key, which leads past
their other versions; where those are many, the rows of the present are walked instead, and each is looked up. What a filter
leaves is sought among the rows that have not changed since, as in the present, and among the versions that have ended, by
the class of their span: the power of four that its length reaches. Of a class, only those can have held at a position that
began less than that before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from infra.read_tables import has_ended, is_open, span_class
from projections.engine import ReadTable

TENANT: Final = "tenant"
AS_OF: Final = "as_of"
_TENANT: Final = sa.bindparam(TENANT, type_=sa.Text)
_AS_OF: Final = sa.bindparam(AS_OF, type_=sa.BigInteger)
# (class, more than a span of it can be long). Logarithms of floats are a hair off; 4^27 is more than the highest position, 2^53.
_CLASSES: Final = ", ".join(f"({number}, {4 ** (number + 1) + 4 ** (number + 1) // 1_000 + 1})" for number in range(27))
_SPANS: Final = f"SELECT class, width FROM (VALUES {_CLASSES}) AS of(class, width)"  # noqa: S608 - of numbers


@dataclass(frozen=True, slots=True)
class Source:
    """Rows as a query may take them from: `rows` with the columns id and doc, narrowed by `conditions`."""

    rows: sa.FromClause
    conditions: Sequence[sa.ColumnElement[bool]]


def sources(read: ReadTable[Any], table: sa.Table, *, past: bool, first_of_all: bool) -> list[Source]:
    """Where the rows that hold, or held, lie: each in one of the sources. `first_of_all`: the first by id are wanted, with no filter.

    The statements take a `tenant` and, of the past, the position `as_of`.
    """
    ours = table.c.tenant == _TENANT
    if not past:
        return [Source(table, (ours, is_open(table)))]
    unchanged = Source(table, (ours, is_open(table), table.c.from_position <= _AS_OF))
    if read.immutable:
        return [unchanged]
    if not read.ends and (read.history == "busy" or (first_of_all and read.history == "long")):
        return [_walked(table)]
    if first_of_all:
        return [Source(table, (ours, table.c.from_position <= _AS_OF, table.c.to_position > _AS_OF))]
    return [unchanged, _spanning(table)]


def _walked(table: sa.Table) -> Source:
    """Row by row, in the order of the present: as it stands, if it did then, else as its history says."""
    now = table.alias("now")
    held = now.c.from_position <= _AS_OF
    earlier = last_begun(table, "before", now.c.tenant, now.c.id, _AS_OF).where(~held).lateral("earlier")
    doc = sa.case((held, now.c.doc), else_=earlier.c.doc).label("doc")
    rows = sa.select(now.c.id, doc).select_from(now.outerjoin(earlier, sa.true())).where(now.c.tenant == _TENANT, is_open(now))
    held_rows = rows.subquery("held")
    return Source(held_rows, (held_rows.c.doc.is_not(sa.null()),))


def _spanning(table: sa.Table) -> Source:
    """The versions that have ended, and held then, by the index over their spans."""
    span = sa.text(_SPANS).columns(sa.column("class", sa.Integer), sa.column("width", sa.BigInteger)).subquery("span")
    ended = (
        sa.select(table.c.id, table.c.doc)
        .where(
            table.c.tenant == _TENANT,
            has_ended(table),
            span_class(table) == span.c["class"],
            table.c.from_position > _AS_OF - span.c.width,
            table.c.from_position <= _AS_OF,
            table.c.to_position > _AS_OF,
        )
        .lateral("ended")
    )
    rows = sa.select(ended.c.id, ended.c.doc).select_from(span.join(ended, sa.true())).subquery("held")
    return Source(rows, ())


def last_begun(
    table: sa.Table, name: str, tenant: sa.ColumnElement[str], row_id: sa.ColumnElement[str], as_of: sa.ColumnElement[int]
) -> sa.Select[Any]:
    """The last version of a row that began by a position. Whether it held then, its `to_position` says."""
    before = table.alias(name)
    mine = (before.c.tenant == tenant, before.c.id == row_id, before.c.from_position <= as_of)
    newest = before.c.from_position.desc()
    return sa.select(before.c.doc, before.c.from_position, before.c.to_position).where(*mine).order_by(newest).limit(sa.literal_column("1"))
