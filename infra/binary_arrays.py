"""PostgreSQL's own binary arrays: no adaptation per value, and nothing for the server to parse or to unescape."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import pq
from psycopg.adapt import Dumper

TEXT: Final = 25
BYTEA: Final = 17
INT8: Final = 20
JSONB: Final = 3802
ARRAY_OF: Final = {TEXT: 1009, BYTEA: 1001, INT8: 1016, JSONB: 3807}
BIGINT: Final = struct.Struct("!q").pack
_LENGTH: Final = struct.Struct("!i").pack
_HEADER: Final = struct.Struct("!iiIii").pack


def array(oid: int, items: Sequence[bytes]) -> bytes:
    """A one-dimensional array without NULLs in PostgreSQL's binary format."""
    parts = [_HEADER(1, 0, oid, len(items), 1)]
    for item in items:
        parts.append(_LENGTH(len(item)))
        parts.append(item)
    return b"".join(parts)


def texts(items: Sequence[str]) -> TextArray:
    return TextArray(array(TEXT, [item.encode() for item in items]))


def bigints(items: Sequence[int]) -> BigintArray:
    return BigintArray(array(INT8, [BIGINT(item) for item in items]))


def jsonbs(items: Sequence[bytes]) -> JsonbArray:
    """Of JSON texts; the byte in front of each is the version of jsonb's own format."""
    return JsonbArray(array(JSONB, [b"\x01" + item for item in items]))


class TextArray(bytes):
    """A text[], ready as it is sent."""


class BigintArray(bytes):
    """A bigint[]."""


class JsonbArray(bytes):
    """A jsonb[]."""


def _as_it_is(kind: type[bytes], oid: int) -> None:
    class Ready(Dumper):
        format = pq.Format.BINARY

        def dump(self, obj: bytes) -> bytes:
            return obj

    Ready.oid = ARRAY_OF[oid]
    psycopg.adapters.register_dumper(kind, Ready)


for _kind, _oid in ((TextArray, TEXT), (BigintArray, INT8), (JsonbArray, JSONB)):
    _as_it_is(_kind, _oid)
