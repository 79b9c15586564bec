"""The archive as people read it: its segments, and how far it goes."""

from domain.archive import SealingFailed, SealingRequested, SegmentSealed
from domain.kernel import Recorded
from domain.keys import SYSTEM_TENANT
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class SegmentRow:
    """A sealed segment: which positions it holds, under which hashes its files are kept, and where the ledger says so."""

    segment_id: str
    first: int
    last: int
    events: int
    parquet_bytes: int
    parquet_sha256: str
    tiles_sha256: str
    manifest_sha256: str
    root: str
    checkpoint_size: int
    sealed_at: str
    position: int


@read_row
class ArchiveRow:
    """Up to where the ledger is sealed, up to where it is wanted, and why that failed, if it did."""

    sealed: int
    wanted: int
    segments: int
    parquet_bytes: int
    requested_by: str | None
    requested_at: str | None
    failure_code: str | None
    failure: str | None


segments = ReadTable(
    "segments", SegmentRow, sorts=("first", "sealed_at", "parquet_bytes"), search=("segment_id",), tenant=SYSTEM_TENANT, immutable=True
)
archives = ReadTable("archives", ArchiveRow, tenant=SYSTEM_TENANT)


def _of_segment(recorded: Recorded[SegmentSealed]) -> tuple[str, ...]:
    return (recorded.event.segment_id,)


@segments.on(SegmentSealed, keys=_of_segment)
def sealed(_row: None, recorded: Recorded[SegmentSealed], segment_id: str) -> SegmentRow:
    event = recorded.event
    return SegmentRow(
        segment_id=segment_id,
        first=event.first,
        last=event.last,
        events=event.last - event.first + 1,
        parquet_bytes=event.parquet_bytes,
        parquet_sha256=event.parquet_sha256,
        tiles_sha256=event.tiles_sha256,
        manifest_sha256=event.manifest_sha256,
        root=event.root,
        checkpoint_size=event.checkpoint_size,
        sealed_at=recorded.at_text,
        position=recorded.position,
    )


def _begun(row: ArchiveRow | None) -> ArchiveRow:
    return row or ArchiveRow(
        sealed=0, wanted=0, segments=0, parquet_bytes=0, requested_by=None, requested_at=None, failure_code=None, failure=None
    )


@archives.on(SealingRequested)
def wanted(row: ArchiveRow | None, recorded: Recorded[SealingRequested], _name: str) -> ArchiveRow:
    return replace(
        _begun(row),
        wanted=recorded.event.until,
        requested_by=recorded.actor,
        requested_at=recorded.at_text,
        failure_code=None,
        failure=None,
    )


@archives.on(SegmentSealed)
def grown(row: ArchiveRow | None, recorded: Recorded[SegmentSealed], _name: str) -> ArchiveRow:
    event, before = recorded.event, _begun(row)
    return replace(
        before,
        sealed=event.last,
        segments=before.segments + 1,
        parquet_bytes=before.parquet_bytes + event.parquet_bytes,
        failure_code=None,
        failure=None,
    )


@archives.on(SealingFailed)
def failed(row: ArchiveRow | None, recorded: Recorded[SealingFailed], _name: str) -> ArchiveRow:
    before = _begun(row)
    return replace(before, wanted=before.sealed, failure_code=recorded.event.code, failure=recorded.event.reason)


PROJECTION = Projection("archive", (segments, archives), ordering="stream")
