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


def column(table: sa.Table, read: ReadTable[Any], name: str) -> sa.ColumnElement[Any]:
    """A field of the document as SQL can compare it: integers as numbers, everything else as text."""
    text = table.c.doc[name].astext
    return sa.cast(text, sa.BigInteger) if field_kind(read, name) is int else sa.collate(text, "C")


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
    """SQL for the indexes: every version by its key, the open version of each row, and each filter over the open versions."""
    table = table_of(schema, read.name)
    is_open = table.c.to_position == sa.literal(OPEN, sa.BigInteger)
    indexes = [sa.Index(f"{read.name}_key", table.c.tenant, table.c.id, table.c.from_position, unique=True)]
    if not read.immutable:  # what never changes has one version per row, and the key finds it
        indexes.append(sa.Index(f"{read.name}_open", table.c.tenant, table.c.id, unique=True, postgresql_where=is_open))
    for name in read.filters:
        if field_kind(read, name) is list:
            index = sa.Index(f"{read.name}_{name}", table.c.doc[name], postgresql_using="gin", postgresql_where=is_open)
        else:
            # Without the id, equal values share one entry: quick to build and small. Rows few enough to be found this way are
            # sorted in no time; if they are many, walking the key in order finds the first of them as soon.
            index = sa.Index(f"{read.name}_{name}", table.c.tenant, column(table, read, name), postgresql_where=is_open)
        indexes.append(index)
    statements = tuple(_literal(CreateIndex(index, if_not_exists=True)) for index in indexes)
    table.indexes.clear()
    return statements


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
