"""Segments on this machine: what the ledger says was sealed, and its files, fetched from the blob store into a private folder."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from domain.archive import ARCHIVE_STREAM, SegmentSealed
from domain.keys import SYSTEM_TENANT
from infra.archive.reading import Sealed
from infra.archive.segment import ArchiveError
from infra.blobs import BlobMissing, BlobStore, BlobsUnavailable, BlobTampered
from infra.ledger import Ledger

SUFFIX: Final = ".parquet"


async def sealed_segments(ledger: Ledger) -> list[SegmentSealed]:
    """The segments that the ledger says there are, in order; they follow each other without a gap."""
    recorded = await ledger.read_stream(SYSTEM_TENANT, ARCHIVE_STREAM)
    return [one.event for one in recorded if isinstance(one.event, SegmentSealed)]


@asynccontextmanager
async def fetched(blobs: BlobStore, segments: Sequence[SegmentSealed], beside: Path) -> AsyncIterator[list[Sealed]]:
    """The Parquet files of some segments, each compared with its hash, in a folder that goes with this. Raises ArchiveError."""
    with private_folder(beside) as folder:
        files = []
        for segment in segments:
            path = folder / f"{segment.segment_id}{SUFFIX}"
            try:
                await spool(await blobs.read(segment.parquet_sha256), path)
            except (BlobMissing, BlobTampered) as error:
                remedy = "`aureus archive verify` says more; restore it from a backup of the blob store."
                raise ArchiveError("segment_tampered", f"Segment {segment.segment_id} cannot be read: {error}", remedy) from error
            except BlobsUnavailable as error:
                raise ArchiveError("archive_unavailable", str(error), error.remedy) from error
            files.append(Sealed(path, segment.first, segment.last, segment.parquet_sha256))
        yield files


@contextmanager
def private_folder(beside: Path) -> Iterator[Path]:
    """A folder that only this account can read, gone when it is left."""
    beside.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=beside) as name:
        yield Path(name)


async def spool(content: AsyncIterable[bytes], target: Path) -> None:
    """Writes bytes to a file as they come."""
    with target.open("wb") as file:
        async for piece in content:
            file.write(piece)


def overlapping(segments: Iterable[SegmentSealed], after: int, until: int | None) -> list[SegmentSealed]:
    """The segments that hold a position behind `after` and up to `until`."""
    return [one for one in segments if one.last > after and (until is None or one.first <= until)]
