"""How read tables lie in PostgreSQL: one row per version of a row, `[from_position, to_position)`, as a JSON document.

The version that holds now has `to_position` = OPEN; partial indexes over those keep reads of the present as quick as
if there were no history.
"""

from __future__ import annotations

import typing
from collections.abc import Hashable, Iterable
from functools import cache
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from projections.engine import OPEN, Projection, ReadTable

LIVE: Final = "read"
SHADOW: Final = "build"
_DIALECT: Final = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
_LN_4: Final = "1.3862943611198906"
_TEXT: Final = sa.Text(collation="C")
"""Ordered by its bytes: the same order on every server, and several times quicker to index than a language's."""


def schema_name(projection: str, prefix: str = LIVE) -> str:
    return f"{prefix}_{projection}"


@cache
def table_of(schema: str, name: str) -> sa.Table:
    """The table as SQLAlchemy knows it; all read tables have these five columns."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("from_position", sa.BigInteger, nullable=False),
        sa.Column("to_position", sa.BigInteger, nullable=False),
        sa.Column("doc", postgresql.JSONB, nullable=False),
        schema=schema,
    )


def member_of(table: sa.FromClause, name: str) -> sa.ColumnElement[Any]:
    """A field of the document as JSON. Its name is written out, not bound: only then do indexes over it apply."""
    return table.c.doc.op("->", return_type=postgresql.JSONB())(sa.literal_column(f"'{name}'"))


def text_of(table: sa.FromClause, name: str) -> sa.ColumnElement[str]:
    """A field of the document as text."""
    return table.c.doc.op("->>", return_type=sa.Text())(sa.literal_column(f"'{name}'"))


def column(table: sa.FromClause, read: ReadTable[Any], name: str) -> sa.ColumnElement[Any]:
    """A field of the document as SQL can compare it: integers as numbers, everything else as text."""
    text = text_of(table, name)
    return sa.cast(text, sa.BigInteger) if field_kind(read, name) is int else sa.collate(text, "C")


def is_open(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether a version holds now. Written out, not bound: only then does the planner see that the partial indexes apply."""
    return table.c.to_position == sa.literal_column(str(OPEN))


def has_ended(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether a version holds no more; written out for the same reason."""
    return table.c.to_position < sa.literal_column(str(OPEN))


def span_class(table: sa.FromClause) -> sa.ColumnElement[int]:
    """How long a version held, as the power of four that its span reaches."""
    span = sa.cast(table.c.to_position - table.c.from_position, sa.Double)
    return sa.cast(sa.func.floor(sa.func.ln(span) / sa.literal_column(_LN_4, sa.Double)), sa.Integer)


@cache
def _kinds(row: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(row)


def field_kind(read: ReadTable[Any], name: str) -> type:
    """`int`, `bool`, `list` or `str`: how a field is compared."""
    hint = _kinds(cast(Hashable, read.row))[name]
    options = typing.get_args(hint) if typing.get_origin(hint) is not list else ()
    for kind in (bool, int):
        if hint is kind or kind in options:
            return kind
    return list if typing.get_origin(hint) is list or any(typing.get_origin(option) is list for option in options) else str


def create_table(schema: str, read: ReadTable[Any]) -> tuple[str, ...]:
    """SQL that makes a table. Its key comes with the indexes, for a bulk load is better off without."""
    return (str(CreateTable(table_of(schema, read.name), if_not_exists=True).compile(dialect=_DIALECT)),)


def index_statements(schema: str, read: ReadTable[Any]) -> tuple[str, ...]:
    """SQL for the indexes: every version by its key, the open version of each row, each filter over the open versions, and those
    that ended by how long they held (`infra.read_history`)."""
    table = table_of(schema, read.name)
    open_now = is_open(table)
    indexes = [sa.Index(f"{read.name}_key", table.c.tenant, table.c.id, table.c.from_position, unique=True)]
    if not read.immutable:  # what never changes has one version per row, and the key finds it
        indexes.append(sa.Index(f"{read.name}_open", table.c.tenant, table.c.id, unique=True, postgresql_where=open_now))
    if not read.immutable and read.history != "busy":
        spans = (table.c.tenant, span_class(table), table.c.from_position)
        indexes.append(sa.Index(f"{read.name}_spans", *spans, postgresql_where=has_ended(table)))
    for name in read.filters:
        if field_kind(read, name) is list:
            index = sa.Index(
                f"{read.name}_{name}",
                sa.type_coerce(member_of(table, name), postgresql.JSONB()),
                postgresql_using="gin",
                postgresql_where=open_now,
            )
        else:
            # Without the id, equal values share one entry: quick to build and small. Rows few enough to be found this way are
            # sorted in no time; if they are many, walking the key in order finds the first of them as soon.
            index = sa.Index(f"{read.name}_{name}", table.c.tenant, column(table, read, name), postgresql_where=open_now)
        indexes.append(index)
    statements = [_literal(CreateIndex(index, if_not_exists=True)) for index in indexes]
    table.indexes.clear()
    if read.immutable:
        # How often each value occurs, for the planner: it does not look at what it knows of an index over some of the rows.
        # Of what changes it would tell about the past and the present as one, and mislead.
        plain = [name for name in read.filters if field_kind(read, name) is not list]
        known = {f"{schema}.{read.name}_{name}": _expression(column(table, read, name)) for name in plain}
        statements += [f"CREATE STATISTICS IF NOT EXISTS {name} ON ({of}) FROM {table.fullname}" for name, of in known.items()]
    return tuple(statements)


def _expression(expression: sa.ColumnElement[Any]) -> str:
    return str(expression.compile(dialect=_DIALECT))


def _literal(statement: CreateIndex) -> str:
    return str(statement.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


def all_statements(projections: Iterable[Projection]) -> list[str]:
    """SQL that makes what is missing of the live tables."""
    statements = []
    for projection in projections:
        schema = schema_name(projection.name)
        statements.append(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        for read in projection.tables:
            statements += (*create_table(schema, read), *index_statements(schema, read))
    return statements
