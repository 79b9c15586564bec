"""What may be asked of the archive: that the ledger be sealed up to a position, and - by Aureus itself - what became of it."""

from __future__ import annotations

from typing import Final, assert_never

from domain.archive import (
    ARCHIVE_STREAM,
    ARCHIVIST,
    TILE_EVENTS,
    Archive,
    ArchiveEvent,
    Count,
    Position,
    SealingFailed,
    SealingRequested,
    SegmentSealed,
    closed,
    evolve,
    segment_id,
)
from domain.kernel import Asked, Command, Decider, require
from domain.keys import SYSTEM_TENANT
from domain.values import Label, Role, Sha256, Text

ADMINS: Final = frozenset({Role.ADMIN})


class SealSegments(Command, name="archive.seal_segments", roles=ADMINS):
    """Seal the ledger into segments, up to the last whole tile before a position; up to where it ends when none is given."""

    until: Position | None = None


class RecordSegment(Command, name="archive.record_segment", roles=ADMINS):
    """Put on record what was sealed: the range, the hashes of its files, and the root they lead to."""

    first: Position
    last: Position
    manifest_sha256: Sha256
    parquet_sha256: Sha256
    parquet_bytes: Count
    tiles_sha256: Sha256
    root: Sha256
    checkpoint_size: Position


class FailSealing(Command, name="archive.fail_sealing", roles=ADMINS):
    """Put on record that a segment could not be written, and why."""

    first: Position
    code: Label
    reason: Text


ArchiveCommand = SealSegments | RecordSegment | FailSealing


def decide(archive: Archive, command: ArchiveCommand, asked: Asked) -> list[ArchiveEvent]:
    match command:
        case SealSegments():
            return _wanted(archive, command)
        case RecordSegment():
            _require_itself(asked)
            _require_next(archive, command)
            return [SegmentSealed(segment_id=segment_id(command.first, command.last), **command.model_dump())]
        case FailSealing():
            _require_itself(asked)
            return [SealingFailed(**command.model_dump())]
        case _:
            assert_never(command)


def _wanted(archive: Archive, command: SealSegments) -> list[ArchiveEvent]:
    """The server fills in where the ledger ends, so `until` is there; what is on its way already is not asked for twice."""
    until = closed(command.until or 0)
    require(
        until > archive.sealed,
        "nothing_to_seal",
        f"The ledger is sealed up to position {archive.sealed}, and no {TILE_EVENTS} events follow up to {command.until or 0}.",
        field="until",
        sealed=archive.sealed,
        remedy=f"Ask again when it has grown, or for a position from {archive.sealed + TILE_EVENTS} on.",
    )
    return [SealingRequested(until=until)] if until > archive.wanted else []


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == ARCHIVIST,
        "only_aureus_itself",
        "Aureus itself says what it has sealed; nobody says it in its place.",
        remedy="Ask for it to be sealed: the rest follows.",
    )


def _require_next(archive: Archive, command: RecordSegment) -> None:
    """Segments follow each other without a gap, and none overlaps another."""
    require(
        command.first == archive.sealed + 1,
        "segment_not_next",
        f"The archive ends at position {archive.sealed}, so the next segment begins at {archive.sealed + 1}, not at {command.first}.",
        field="first",
        sealed=archive.sealed,
        remedy="Seal what follows the archive.",
    )
    require(
        command.first <= command.last <= command.checkpoint_size and closed(command.last) == command.last,
        "segment_not_closed",
        f"A segment ends at a multiple of {TILE_EVENTS} that a checkpoint covers; {command.last} is none.",
        field="last",
        checkpoint_size=command.checkpoint_size,
        remedy="Let it end at the last whole tile.",
    )


DECIDER: Final[Decider[Archive, ArchiveCommand, ArchiveEvent]] = Decider(
    context="archive",
    category=ARCHIVE_STREAM.partition(":")[0],
    initial=Archive(),
    evolve=evolve,
    decide=decide,
    commands=(SealSegments, RecordSegment, FailSealing),
    events=(SealingRequested, SegmentSealed, SealingFailed),
    entity=lambda _command: ARCHIVE_STREAM.partition(":")[2],
    tenant=SYSTEM_TENANT,
)
