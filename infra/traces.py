"""Where values of a subject are beside the vault: in artifacts that were attached to them, and in packs that show them in clear."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, Final

import orjson

from domain.kernel import JsonObject
from infra.blobs import BlobMissing, BlobTampered
from infra.packing.shelf import Shelf
from infra.personal import subjects_of
from infra.read_queries import ListQuery, Reads
from infra.vault_keys import Pool
from projections.engine import ReadTable
from projections.exports import exports
from projections.subjects import subjects

_OPEN: Final = b'"state":"open"'
_PAGE_ROWS: Final = 500
_BODIES: Final = "SELECT type, body FROM ledger.events WHERE tenant = %s AND position = ANY(%s)"
_LAST: Final = """
    SELECT subject, purpose, position, at, fields FROM (
        SELECT subject, purpose, max(position) AS position, count(*) AS fields FROM vault.disclosures
        WHERE tenant = %s AND subject = ANY(%s) GROUP BY subject, purpose
    ) AS kept JOIN (SELECT position, at FROM ledger.events) AS recorded USING (position) ORDER BY subject, purpose
"""


@dataclass(frozen=True, slots=True)
class Attached:
    """An artifact of a subject, and whoever else it holds data about: as long as there is somebody, its bytes stay."""

    sha256: str
    purpose: str
    also_of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a subject for a purpose: so many fields, the last of which was recorded then."""

    subject_id: str
    purpose: str
    position: int
    recorded_at: datetime
    fields: int


class Traces:
    """Looks for them in one deployment; the shelf is this machine's."""

    def __init__(self, reads: Reads, pool: Pool, shelf: Shelf) -> None:
        self._reads, self._pool, self._shelf = reads, pool, shelf

    async def rows(self, table: ReadTable[Any], tenant: str, where: JsonObject) -> list[JsonObject]:
        """Every row that has these values in these filters."""
        found: list[JsonObject] = []
        cursor: str | None = None
        while True:
            page = await self._reads.page(table, tenant, ListQuery(where, limit=_PAGE_ROWS, cursor=cursor))
            found += [orjson.loads(document) for document in page.documents]
            if (cursor := page.next_cursor) is None:
                return found

    async def attached(self, tenant: str, row: JsonObject, purposes: Sequence[str]) -> list[Attached]:
        """The artifacts of a subject, of which this is the row, that an erasure for these purposes (none: all) is about."""
        found = []
        for sha256, purpose in sorted(row["artifact_purposes"].items()):
            if not purposes or purpose in purposes:
                others = await self.rows(subjects, tenant, {"artifacts": sha256})
                also_of = tuple(other["subject_id"] for other in others if other["subject_id"] != row["subject_id"])
                found.append(Attached(sha256, purpose, also_of))
        return found

    async def packs(self, tenant: str, subject: str, purposes: Sequence[str], artifacts: Collection[str]) -> list[JsonObject]:
        """The sealed exports whose packs show a value of a subject, kept for these purposes (none: any), or hold one of these artifacts."""
        return [
            row
            for row in await self.rows(exports, tenant, {"status": "sealed"})
            if await self._shows(row, tenant, subject, purposes, artifacts)
        ]

    async def _shows(self, row: JsonObject, tenant: str, subject: str, purposes: Sequence[str], artifacts: Collection[str]) -> bool:
        shown = [purpose for purpose in row["profile"]["disclose"] if not purposes or purpose in purposes]
        if not shown and not (row["artifacts"] and artifacts):
            return False
        try:
            file = await self._shelf.open(row["sha256"])
        except (BlobMissing, BlobTampered):
            # What is not on the shelf shows nothing; what was changed there is handed to nobody, and goes with the rest.
            return await asyncio.to_thread(self._shelf.has, row["sha256"])
        with file:
            positions, held = await asyncio.to_thread(_content, file)
        return not held.isdisjoint(artifacts) or (bool(shown) and await self._about(tenant, subject, shown, positions))

    async def _about(self, tenant: str, subject: str, purposes: Collection[str], positions: list[int]) -> bool:
        """Whether an event at one of these positions has a personal field of the subject for one of these purposes."""
        async with self._pool.connection() as connection:
            for start in range(0, len(positions), _PAGE_ROWS):
                chosen = positions[start : start + _PAGE_ROWS]
                for kind, body in await (await connection.execute(_BODIES, (tenant, chosen))).fetchall():
                    if any(whose == subject and purpose in purposes for whose, purpose in subjects_of(kind, orjson.loads(body)["data"])):
                        return True
        return False

    async def last_kept(self, tenant: str, of: Sequence[str]) -> list[Kept]:
        """What is kept of these subjects, by purpose."""
        async with self._pool.connection() as connection:
            return [Kept(*row) for row in await (await connection.execute(_LAST, (tenant, list(of)))).fetchall()]


def _content(file: IO[bytes]) -> tuple[list[int], set[str]]:
    """Positions of the values that a pack shows, and the artifacts it holds."""
    with zipfile.ZipFile(file) as pack:
        held = {name.removeprefix("artifacts/") for name in pack.namelist() if name.startswith("artifacts/")}
        with pack.open("disclosures.jsonl") as lines:
            positions = {orjson.loads(line)["position"] for line in lines if _OPEN in line}
    return sorted(positions), held
