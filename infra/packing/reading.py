"""Reading the ledger for a pack: chosen positions by the ten thousand, streamed, whatever each of them weighs."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import psycopg
from psycopg import errors, pq
from psycopg.rows import TupleRow

from infra.envelope import PAYLOAD_TYPE
from infra.packing.plan import BuildFailed
from infra.schema import APPLICATION_ROLE

Connection = psycopg.Connection[TupleRow]
Positions: TypeAlias = "array[int]"
"""Ascending, as unsigned 64-bit numbers."""
FieldType = Literal["int8", "bytea", "bool"]
_DENSE: Final = 2
"""A span of up to so many times the wanted rows is read through; above it, each row is looked up."""
_SIGNATURE: Final = """
    '{{"keyid":"', encode(substr(signatures, {at} + 1, 32), 'hex'),
    '","sig":"', replace(encode(substr(signatures, {at} + 33, 64), 'base64'), E'\\n', ''), '"}}'
"""
_SEVERAL: Final = f"""
    (SELECT string_agg(concat({_SIGNATURE.format(at="96 * number")}), ',' ORDER BY number)
     FROM generate_series(0, octet_length(signatures) / 96 - 1) AS number)
"""  # noqa: S608 - made of nothing but what stands here
_LINE: Final = f"""
    concat(position, E'\\t{{"payload":"', replace(encode(body, 'base64'), E'\\n', ''), '","payloadType":"{PAYLOAD_TYPE}","signatures":[',
    CASE WHEN octet_length(signatures) = 96 THEN concat({_SIGNATURE.format(at="0")}) ELSE {_SEVERAL} END, E']}}\\n')
"""
"""What `infra.envelope.entry_bytes` makes of an event, after its position."""
_COPY_HEADER_BYTES: Final = 19
_INT2: Final = struct.Struct("!h").unpack_from
_INT4: Final = struct.Struct("!i").unpack_from
_INT8: Final = struct.Struct("!q").unpack
_INT8_FROM: Final = struct.Struct("!q").unpack_from
_READERS: Final[Mapping[FieldType, Callable[[memoryview], Any]]] = {
    "int8": lambda data: _INT8(data)[0],
    "bytea": bytes,
    "bool": lambda data: data[0] == 1,
}


@contextmanager
def connected(dsn: str) -> Iterator[Connection]:
    """A connection that sees one moment of a ledger that goes on, and can change nothing."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"SET ROLE {APPLICATION_ROLE}")
        connection.execute("SET default_transaction_read_only = on")
        yield connection


def within(chosen: Positions) -> str:
    """SQL that is true of exactly these positions."""
    if not chosen:
        return "false"
    first, last = chosen[0], chosen[-1]
    span = last - first + 1
    if span > _DENSE * len(chosen):
        return f"position = ANY('{{{_listed(chosen)}}}')"
    there = f"position BETWEEN {first} AND {last}"
    if span == len(chosen):
        return there
    left_out = sorted(set(range(first, last + 1)).difference(chosen))
    return f"{there} AND position <> ALL('{{{_listed(left_out)}}}')"


def _listed(positions: Sequence[int]) -> str:
    return ",".join(map(str, positions))


def copied(connection: Connection, query: str, types: Sequence[FieldType]) -> Iterator[tuple[Any, ...]]:
    """The rows of a query as they come, without NULLs."""
    readers = [_READERS[one] for one in types]
    for data, first in _rows(connection, query):
        row, at = [], first
        for read in readers:
            (size,) = _INT4(data, at)
            row.append(read(data[at + 4 : at + 4 + size]))
            at += 4 + size
        yield tuple(row)


def _rows(connection: Connection, query: str) -> Iterator[tuple[memoryview, int]]:
    """Each row as COPY sends it, and where its first field begins.

    COPY has neither parameters nor a cursor's round trips; read from libpq itself it costs a third of what its wrapping does,
    and whoever packs waits for nothing else meanwhile.
    """
    pgconn = connection.pgconn
    result = pgconn.exec_(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise errors.error_from_result(result)
    at = _COPY_HEADER_BYTES
    while True:
        length, data = pgconn.get_copy_data(0)
        if length < 0:
            break
        if _INT2(data, at)[0] >= 0:  # else it is the trailer
            yield data, at + 2
        at = 0
    ended = pgconn.get_result()
    if ended is None:
        raise psycopg.OperationalError("the connection gave no result")
    if ended.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(ended)
    pgconn.get_result()


def lines(connection: Connection, chosen: Positions) -> Iterator[tuple[int, bytes, memoryview]]:
    """(position, line, entry) of chosen events, the line being `<position>\\t<entry>\\n`. Raises BuildFailed when one is not there.

    PostgreSQL puts the entries together, in less time than it would take to fetch their parts: whoever writes them compares
    each with the tree, and it was this database that kept the parts.
    """
    query = f"SELECT position, {_LINE} FROM ledger.events WHERE {within(chosen)} ORDER BY position"  # noqa: S608 - numbers
    expected = iter(chosen)
    for data, at in _rows(connection, query):
        (position,) = _INT8_FROM(data, at + 4)
        if position != next(expected, None):
            raise _gone(position)
        line = bytes(data[at + 16 :])
        yield position, line, memoryview(line)[line.index(b"\t") + 1 : -1]
    if (missing := next(expected, None)) is not None:
        raise _gone(missing)


def _gone(position: int) -> BuildFailed:
    return BuildFailed("ledger_tampered", f"The event at position {position} is not where it was: run `aureus log fsck`.")
