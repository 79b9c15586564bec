"""The archive: closed ranges of the ledger as segments - files of their own that prove what they hold, and can be read without it."""

from dataclasses import dataclass, replace
from typing import Annotated, Final, assert_never

from pydantic import Field, StringConstraints

from domain.kernel import Event
from domain.values import MAX_SAFE_INTEGER, Label, Sha256, Text

ARCHIVIST: Final = "svc-reactions"
"""Writes the segments and says so: Aureus itself, and nobody else."""
ARCHIVE_STREAM: Final = "archive:segments"
TILE_EVENTS: Final = 256
"""A segment is made of whole tiles of the log's tree, so it ends at a multiple of this."""

Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
Position = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER, strict=True)]
SegmentId = Annotated[str, StringConstraints(pattern=r"^[0-9]{12}-[0-9]{12}$")]


def segment_id(first: int, last: int) -> str:
    """A segment's name, which sorts as its positions do: `000000000001-000000065536`."""
    return f"{first:012}-{last:012}"


def closed(size: int) -> int:
    """The last position up to which a ledger of this size can be sealed."""
    return size // TILE_EVENTS * TILE_EVENTS


class SealingRequested(Event, name="archive.sealing_requested"):
    """The ledger is to be sealed up to this position."""

    until: Position


class SegmentSealed(Event, name="archive.segment_sealed"):
    """Positions `first` to `last` are in the archive: a Parquet file, its tiles and a manifest, each under its SHA-256.

    `root` is the tree's root at size `last`, and the manifest leads from there to the checkpoint of `checkpoint_size` events.
    """

    segment_id: SegmentId
    first: Position
    last: Position
    manifest_sha256: Sha256
    parquet_sha256: Sha256
    parquet_bytes: Count
    tiles_sha256: Sha256
    root: Sha256
    checkpoint_size: Position


class SealingFailed(Event, name="archive.sealing_failed"):
    """A segment could not be written; nothing is waited for any more."""

    first: Position
    code: Label
    reason: Text


ArchiveEvent = SealingRequested | SegmentSealed | SealingFailed


@dataclass(frozen=True, slots=True)
class Archive:
    """Up to where the ledger is sealed, and up to where it is wanted."""

    sealed: int = 0
    wanted: int = 0


def evolve(archive: Archive, event: ArchiveEvent) -> Archive:
    match event:
        case SealingRequested():
            return replace(archive, wanted=event.until)
        case SegmentSealed():
            return replace(archive, sealed=event.last)
        case SealingFailed():
            return replace(archive, wanted=archive.sealed)
        case _:
            assert_never(event)
