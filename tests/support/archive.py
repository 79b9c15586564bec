"""A ledger with a sealed archive, made by the very functions that the archivist calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.bulk import Importer, history
from domain.archive import ARCHIVE_STREAM, SegmentSealed, segment_id
from domain.keys import SYSTEM_TENANT
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.archive.building import MANIFEST, PARQUET, TILES, write
from infra.archive.planning import plan
from infra.archive.segment import Manifest
from infra.blobs import LocalBlobs, pieces
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.proofs import Proofs
from infra.tiles import Tiles

SEGMENT: Final = 512
"""Events: two tiles, so that a test has several segments."""


@dataclass(frozen=True)
class Archived:
    """A ledger, its blob store, and the segments that are sealed of it."""

    dsn: str
    ledger: Ledger
    tiles: Tiles
    blobs: LocalBlobs
    home: Path
    segments: list[SegmentSealed]

    def file(self, sha256: str) -> Path:
        return self.home / "blobs" / sha256[:2] / sha256

    async def written(self, first: int, until: int) -> tuple[Manifest, Path]:
        """The files of a segment, in a folder of their own."""
        folder = self.home / segment_id(first, until)
        folder.mkdir(exist_ok=True)
        made = await plan(self.ledger.name, self.tiles, Proofs(self.tiles, self.ledger.store), first, until)
        return write(self.dsn, made, folder), folder

    async def seal(self, first: int, until: int) -> SegmentSealed:
        """One segment, in the blob store and on record."""
        manifest, folder = await self.written(first, until)
        kept = {}
        for name in (PARQUET, TILES, MANIFEST):
            with (folder / name).open("rb") as file:
                kept[name] = await self.blobs.put(pieces(file))
        made = manifest.plan
        sealed = SegmentSealed(
            segment_id=segment_id(made.first, made.last),
            first=made.first,
            last=made.last,
            manifest_sha256=kept[MANIFEST].sha256,
            parquet_sha256=kept[PARQUET].sha256,
            parquet_bytes=kept[PARQUET].size_bytes,
            tiles_sha256=kept[TILES].sha256,
            root=made.root,
            checkpoint_size=made.checkpoint_size,
        )
        version = len(await self.ledger.read_stream(SYSTEM_TENANT, ARCHIVE_STREAM))
        writes = (StreamWrite(ARCHIVE_STREAM, version, (sealed,), tenant=SYSTEM_TENANT),)
        await self.ledger.append(Append("acme", "svc-reactions", writes, uuid7()))
        self.segments.append(sealed)
        return sealed


@asynccontextmanager
async def archived(dsn: str, home: Path, events: int = 1_400, sealed: int = 2 * SEGMENT) -> AsyncIterator[Archived]:
    """Governed work of so many events, of which the first are sealed."""
    ledger, tiles = await open_ledger(dsn, FileKeystore.open(home / "keys")), Tiles(dsn)
    await tiles.open()
    try:
        await Importer(ledger, history()).add(events)
        found = Archived(dsn, ledger, tiles, LocalBlobs(home / "blobs"), home, [])
        for first in range(1, sealed, SEGMENT):
            await found.seal(first, first + SEGMENT - 1)
        yield found
    finally:
        await tiles.close()
        await ledger.close()
