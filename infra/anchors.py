"""What others say about checkpoints, kept beside the ledger: cosignatures of witnesses, and tokens of timestamp authorities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

LATEST_LOOKED_AT: Final = 10_000
"""Cosignatures among which a checkpoint with enough of them is sought: hours of a busy log. Older ones help nobody now."""

_COSIGN: Final = "INSERT INTO ledger.cosignatures VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING size"
_LATEST: Final = """
    SELECT size FROM (SELECT size FROM ledger.cosignatures WHERE witness = ANY(%s) ORDER BY size DESC LIMIT %s) AS latest
    GROUP BY size HAVING count(*) >= %s ORDER BY size DESC LIMIT 1
"""
_STAMP: Final = "INSERT INTO ledger.timestamps VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING size"
_STAMPS: Final = "SELECT size, authority, token, at FROM ledger.timestamps WHERE size = %s ORDER BY authority"
_LATEST_STAMP: Final = "SELECT size, authority, token, at FROM ledger.timestamps WHERE authority = %s ORDER BY size DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """How far a witness has come, and when."""

    size: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Stamp:
    """A timestamp authority's answer (RFC 3161, DER) about the note text of the checkpoint of `size` events."""

    size: int
    authority: str
    token: bytes
    at: datetime


class Anchors(Protocol):
    """Kept by the store of the events; none of it is ever changed."""

    async def cosign(self, size: int, witness: str, line: bytes, at: datetime) -> None:
        """Keeps a witness's signature line; the first one for a size stays."""

    async def cosignatures(self, size: int) -> list[bytes]:
        """The signature lines that stand under the checkpoint of exactly `size` events."""

    async def cosigned_by(self, witness: str) -> Cosigned | None:
        """The latest checkpoint that a witness cosigned."""

    async def latest_cosigned(self, witnesses: Sequence[str], required: int) -> int:
        """Size of the latest checkpoint that at least `required` of these witnesses cosigned; 0 when there is none."""

    async def stamp(self, stamp: Stamp) -> None: ...

    async def stamps(self, size: int) -> list[Stamp]: ...

    async def latest_stamp(self, authority: str) -> Stamp | None: ...


class PostgresAnchors(ABC):
    """The part of the PostgreSQL store that implements `Anchors`."""

    @abstractmethod
    async def _fetch(self, query: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The rows of a query; it is sent again until the database answers."""

    async def cosign(self, size: int, witness: str, line: bytes, at: datetime) -> None:
        await self._fetch(_COSIGN, (size, witness, line, at))

    async def cosignatures(self, size: int) -> list[bytes]:
        return [line for (line,) in await self._fetch("SELECT line FROM ledger.cosignatures WHERE size = %s ORDER BY witness", (size,))]

    async def cosigned_by(self, witness: str) -> Cosigned | None:
        query = "SELECT size, at FROM ledger.cosignatures WHERE witness = %s ORDER BY size DESC LIMIT 1"
        rows = await self._fetch(query, (witness,))
        return Cosigned(*rows[0]) if rows else None

    async def latest_cosigned(self, witnesses: Sequence[str], required: int) -> int:
        rows = await self._fetch(_LATEST, (list(witnesses), LATEST_LOOKED_AT, required))
        return int(rows[0][0]) if rows else 0

    async def stamp(self, stamp: Stamp) -> None:
        await self._fetch(_STAMP, (stamp.size, stamp.authority, stamp.token, stamp.at))

    async def stamps(self, size: int) -> list[Stamp]:
        return [Stamp(*row) for row in await self._fetch(_STAMPS, (size,))]

    async def latest_stamp(self, authority: str) -> Stamp | None:
        rows = await self._fetch(_LATEST_STAMP, (authority,))
        return Stamp(*rows[0]) if rows else None


class MemoryAnchors:
    """The part of the store in memory that implements `Anchors`."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str], tuple[bytes, datetime]] = {}
        self._stamps: dict[tuple[int, str], Stamp] = {}

    async def cosign(self, size: int, witness: str, line: bytes, at: datetime) -> None:
        self._lines.setdefault((size, witness), (line, at))

    async def cosignatures(self, size: int) -> list[bytes]:
        return [line for (known, _), (line, _) in sorted(self._lines.items()) if known == size]

    async def cosigned_by(self, witness: str) -> Cosigned | None:
        found = [Cosigned(size, at) for (size, name), (_, at) in self._lines.items() if name == witness]
        return max(found, key=lambda cosigned: cosigned.size, default=None)

    async def latest_cosigned(self, witnesses: Sequence[str], required: int) -> int:
        sizes = [size for size, name in self._lines if name in witnesses]
        return max((size for size in sizes if sizes.count(size) >= required), default=0)

    async def stamp(self, stamp: Stamp) -> None:
        self._stamps.setdefault((stamp.size, stamp.authority), stamp)

    async def stamps(self, size: int) -> list[Stamp]:
        return [stamp for _, stamp in sorted(self._stamps.items()) if stamp.size == size]

    async def latest_stamp(self, authority: str) -> Stamp | None:
        return max((stamp for stamp in self._stamps.values() if stamp.authority == authority), key=lambda stamp: stamp.size, default=None)
