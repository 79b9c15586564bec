"""Tables out of PostgreSQL and into it again, in its own binary COPY format: streamed, in pieces of a bounded size, in one order.

The format is the same on every server since PostgreSQL 7.4, so a table may come from one version and go into another.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import errors, pq, sql
from psycopg.rows import TupleRow

Connection = psycopg.Connection[TupleRow]
Columns = tuple[tuple[str, str], ...]
"""(name, type) of each column, as PostgreSQL names the type."""
Full = Callable[[int, int, int], bool]
"""Whether a piece ends here: (its number, its rows, its bytes)."""

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
_INT2: Final = struct.Struct("!h")
_INT4: Final = struct.Struct("!i")
_COLUMNS: Final = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KEY: Final = """
    SELECT a.attname, a.atttypid = 'text'::regtype FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = to_regclass(%s) AND i.indisprimary ORDER BY k.place
"""


class NotCopied(ValueError):
    """Bytes that are not rows in the format of COPY; says what is wrong."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a table, as a whole COPY of their own."""

    rows: int
    data: bytes


def columns_of(connection: Connection, table: str) -> Columns:
    """Those of a table (`schema.name`); none when there is no such table."""
    return tuple((name, kind) for name, kind in connection.execute(_COLUMNS, (table,)).fetchall())


def copied_out(connection: Connection, table: str, columns: Columns, full: Full) -> Iterator[Piece]:
    """All rows in the order of the primary key, which is the same on every server; of an empty table, nothing."""
    number, rows, size, parts = 0, 0, len(HEADER), [HEADER]
    for row in _rows(connection, _copy_out(connection, table, columns)):
        parts.append(row)
        rows, size = rows + 1, size + len(row)
        if full(number, rows, size):
            yield Piece(rows, b"".join([*parts, TRAILER]))
            number, rows, size, parts = number + 1, 0, len(HEADER), [HEADER]
    if rows:
        yield Piece(rows, b"".join([*parts, TRAILER]))


def copied_in(connection: Connection, table: str, columns: Columns, pieces: Iterable[bytes]) -> None:
    """Adds the rows of pieces to a table. Raises psycopg.Error when the table refuses them."""
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(sql.Identifier(*table.split(".")), _listed(columns))
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(HEADER)
        for piece in pieces:
            copy.write(memoryview(piece)[len(HEADER) : -len(TRAILER)])
        copy.write(TRAILER)


def read_rows(data: bytes) -> Iterator[list[bytes | None]]:
    """The fields of each row of a piece, None for NULL. Raises NotCopied."""
    if not data.startswith(HEADER) or len(data) < len(HEADER) + len(TRAILER):
        raise NotCopied("it does not begin as a binary COPY")
    at = len(HEADER)
    try:
        while (count := _INT2.unpack_from(data, at)[0]) >= 0:
            row: list[bytes | None] = []
            at += 2
            for _ in range(count):
                (size,) = _INT4.unpack_from(data, at)
                at += 4
                row.append(None if size < 0 else data[at : at + size])
                at += max(size, 0)
            yield row
    except struct.error:
        raise NotCopied(f"it ends within a row, at byte {at}") from None
    if data[at:] != TRAILER:
        raise NotCopied(f"it does not end where its rows end, at byte {at}")


def _copy_out(connection: Connection, table: str, columns: Columns) -> bytes:
    key = connection.execute(_KEY, (table,)).fetchall()
    order = [sql.SQL('{} COLLATE "C"' if is_text else "{}").format(sql.Identifier(name)) for name, is_text in key]
    query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT (FORMAT binary)")
    return query.format(_listed(columns), sql.Identifier(*table.split(".")), sql.SQL(", ").join(order)).as_bytes(connection)


def _listed(columns: Columns) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)


def _rows(connection: Connection, query: bytes) -> Iterator[bytes]:
    """Each row as COPY sends it; from libpq itself, which costs a third of what its wrapping does."""
    pgconn = connection.pgconn
    result = pgconn.exec_(query)
    if result.status != pq.ExecStatus.COPY_OUT:
        raise errors.error_from_result(result)
    start = len(HEADER)
    while True:
        length, data = pgconn.get_copy_data(0)
        if length < 0:
            break
        row = bytes(data[start:])
        start = 0
        if row and row != TRAILER:
            yield row
    ended = pgconn.get_result()
    if ended is None:
        raise psycopg.OperationalError("the connection gave no result")
    if ended.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(ended)
    pgconn.get_result()
