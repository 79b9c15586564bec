"""Whatever takes long, in one list: jobs of many commands, exports, replays, erasures and backups, each with where to look further."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from domain.backups import BackupBegun, BackupTaken
from domain.exports import ExportCancelled, ExportFailed, ExportRequested, ExportSealed
from domain.jobs import JobCancelled, JobFinished, JobProgressed, JobStarted
from domain.kernel import Recorded
from domain.replays import ReplayBuilt, ReplayDropped, ReplayFailed, ReplayRequested
from domain.subjects import ErasureCancelled, ErasureOrdered, SubjectErased
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class JobRow:
    """One thing that takes long: running, cancelling, completed, stopped, failed or cancelled.

    `kind` is bulk, export, replay, erasure or backup, and `resource` the path of its own. Of a bulk job `done` of its `items` were
    asked for: `allowed`, `parked` (they wait for an approval) or `refused`; `code` and `message` say why it ended before its time.
    """

    job_id: str
    kind: str
    status: str
    asked_by: str
    resource: str
    items: int | None
    done: int | None
    allowed: int | None
    parked: int | None
    refused: int | None
    on_failure: str | None
    code: str | None
    message: str | None
    started_at: str
    changed_at: str
    ended_at: str | None


jobs = ReadTable(
    "jobs",
    JobRow,
    filters=("kind", "status", "asked_by"),
    sorts=("started_at", "changed_at", "ended_at"),
    search=("job_id",),
)


def _of(kind: str) -> Callable[[Recorded[Any]], Iterable[str]]:
    """The row of what has a resource of its own; a job's own row goes by its id alone, which no other begins with."""
    return partial(_row_of, kind)


def _row_of(kind: str, recorded: Recorded[Any]) -> tuple[str, ...]:
    return (f"{kind}.{recorded.entity}",)


def _begun(kind: str, resource: str, recorded: Recorded[Any]) -> JobRow:
    return JobRow(
        job_id=f"{kind}.{recorded.entity}",
        kind=kind,
        status="running",
        asked_by=recorded.actor,
        resource=f"/v1/{resource}/{recorded.entity}",
        items=None,
        done=None,
        allowed=None,
        parked=None,
        refused=None,
        on_failure=None,
        code=None,
        message=None,
        started_at=recorded.at_text,
        changed_at=recorded.at_text,
        ended_at=None,
    )


def _ended(row: JobRow, status: str, recorded: Recorded[Any], code: str | None = None, message: str | None = None) -> JobRow:
    return replace(row, status=status, code=code, message=message, changed_at=recorded.at_text, ended_at=recorded.at_text)


@jobs.on(JobStarted)
def started(_row: None, recorded: Recorded[JobStarted], job_id: str) -> JobRow:
    event = recorded.event
    row = _begun("bulk", "jobs", recorded)
    return replace(row, job_id=job_id, items=event.items, done=0, allowed=0, parked=0, refused=0, on_failure=event.on_failure)


@jobs.on(JobProgressed)
def progressed(row: JobRow, recorded: Recorded[JobProgressed], _job_id: str) -> JobRow:
    event = recorded.event
    return replace(row, done=event.done, allowed=event.allowed, parked=event.parked, refused=event.refused, changed_at=recorded.at_text)


@jobs.on(JobCancelled)
def cancelled(row: JobRow, recorded: Recorded[JobCancelled], _job_id: str) -> JobRow:
    return replace(row, status="cancelling", changed_at=recorded.at_text)


@jobs.on(JobFinished)
def finished(row: JobRow, recorded: Recorded[JobFinished], _job_id: str) -> JobRow:
    event = recorded.event
    return _ended(row, event.ending, recorded, event.code, event.message)


@jobs.on(ExportRequested, keys=_of("export"))
def export_requested(_row: JobRow | None, recorded: Recorded[ExportRequested], _job_id: str) -> JobRow:
    return _begun("export", "exports", recorded)


@jobs.on(ReplayRequested, keys=_of("replay"))
def replay_requested(_row: JobRow | None, recorded: Recorded[ReplayRequested], _job_id: str) -> JobRow:
    return _begun("replay", "replays", recorded)


@jobs.on(ErasureOrdered, keys=_of("erasure"))
def erasure_ordered(_row: JobRow | None, recorded: Recorded[ErasureOrdered], _job_id: str) -> JobRow:
    return _begun("erasure", "subjects", recorded)


@jobs.on(BackupBegun, keys=_of("backup"))
def backup_begun(_row: JobRow | None, recorded: Recorded[BackupBegun], _job_id: str) -> JobRow:
    return _begun("backup", "backups", recorded)


@jobs.on(ExportSealed, keys=_of("export"))
@jobs.on(ReplayBuilt, keys=_of("replay"))
@jobs.on(SubjectErased, keys=_of("erasure"))
@jobs.on(BackupTaken, keys=_of("backup"))
def done(row: JobRow | None, recorded: Recorded[Any], _job_id: str) -> JobRow | None:
    return row and _ended(row, "completed", recorded)


@jobs.on(ExportFailed, keys=_of("export"))
@jobs.on(ReplayFailed, keys=_of("replay"))
def failed(row: JobRow | None, recorded: Recorded[ExportFailed | ReplayFailed], _job_id: str) -> JobRow | None:
    return row and _ended(row, "failed", recorded, recorded.event.code, recorded.event.reason)


@jobs.on(ExportCancelled, keys=_of("export"))
@jobs.on(ErasureCancelled, keys=_of("erasure"))
def taken_back(row: JobRow | None, recorded: Recorded[Any], _job_id: str) -> JobRow | None:
    return row and _ended(row, "cancelled", recorded)


@jobs.on(ReplayDropped, keys=_of("replay"))
def dropped(row: JobRow | None, recorded: Recorded[ReplayDropped], _job_id: str) -> JobRow | None:
    """What was built and is thrown away later was done all the same."""
    return row and (_ended(row, "cancelled", recorded) if row.status == "running" else row)


PROJECTION = Projection("jobs", (jobs,), ordering="stream")
