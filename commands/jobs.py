"""What may be asked of jobs: that one begin or end early, and - by Aureus itself - how far it is."""

from __future__ import annotations

from typing import Annotated, Final, assert_never

from pydantic import Field

from domain.jobs import (
    WORKER,
    Count,
    Ending,
    Job,
    JobCancelled,
    JobEvent,
    JobFinished,
    JobProgressed,
    JobStarted,
    OnFailure,
    evolve,
)
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.values import EVERYBODY, Identifier, Label, Role, Sha256, Text

ITSELF: Final = frozenset({Role.ADMIN})
"""The role that the platform's own service holds; nobody else gets past `_require_itself`."""
ITEMS_MAX: Final = 10_000


class StartJob(Command, name="jobs.start_job", roles=EVERYBODY):
    """Have many commands worked through in your name, each decided on its own when its turn comes."""

    job_id: Identifier
    items: Annotated[Count, Field(ge=1, le=ITEMS_MAX)]
    on_failure: OnFailure = "continue"
    input_sha256: Sha256
    scopes: tuple[Label, ...] | None = None


class CancelJob(Command, name="jobs.cancel_job", roles=EVERYBODY):
    """Have no more of a job done: whoever asked for it, or an administrator. What was done stays done."""

    restrains = True

    job_id: Identifier
    comment: Text | None = None


class ReportProgress(Command, name="jobs.report_progress", roles=ITSELF):
    """Put on record how far a job is, and where what became of its commands `after` so many is kept."""

    restrains = True  # the commands themselves were judged: that they were done is a fact

    job_id: Identifier
    after: Count
    done: Count
    allowed: Count
    parked: Count
    refused: Count
    results_sha256: Sha256


class FinishJob(Command, name="jobs.finish_job", roles=ITSELF):
    """Put on record that nothing more is done in a job, and why."""

    restrains = True

    job_id: Identifier
    ending: Ending
    code: Label | None = None
    message: Text | None = None


JobCommand = StartJob | CancelJob | ReportProgress | FinishJob


def decide(job: Job, command: JobCommand, asked: Asked) -> list[JobEvent]:
    match command:
        case StartJob():
            remedy = "Leave the id out: every job gets one of its own."
            require(job.started is None, "job_exists", f"There is a job {command.job_id} already.", field="job_id", remedy=remedy)
            return [JobStarted(**command.model_dump(), asked_by=asked.by.actor)]
        case CancelJob():
            return _cancelled(job, command, asked)
        case ReportProgress():
            _require_itself(asked)
            _require_open(job, command.job_id)
            return [_progressed(job, command)]
        case FinishJob():
            _require_itself(asked)
            _require_open(job, command.job_id)
            return [JobFinished(**command.model_dump())]
        case _:
            assert_never(command)


def _cancelled(job: Job, command: CancelJob, asked: Asked) -> list[JobEvent]:
    require(
        job.started is not None,
        "job_not_found",
        f"There is no job {command.job_id}.",
        field="job_id",
        remedy="GET /v1/jobs lists yours; an export, a replay or an erasure is ended where it was asked for.",
    )
    assert job.started is not None
    require(
        asked.by.actor == job.started.asked_by or Role.ADMIN in asked.by.roles,
        "not_your_job",
        f"Job {command.job_id} was asked for by {job.started.asked_by}.",
        field="job_id",
        remedy="Ask them, or an administrator.",
    )
    if job.status == "cancelling":
        return []
    _require_open(job, command.job_id)
    return [JobCancelled(job_id=command.job_id, comment=command.comment)]


def _progressed(job: Job, command: ReportProgress) -> JobProgressed:
    assert job.started is not None
    counted = command.allowed + command.parked + command.refused
    require(
        command.after == job.done < command.done <= job.started.items and counted == command.done,
        "progress_out_of_order",
        f"Job {command.job_id} is known to have done {job.done} of {job.started.items} commands.",
        field="after",
        done=job.done,
        remedy="Look at how far it came, and go on from there.",
    )
    return JobProgressed(**command.model_dump(exclude={"after"}))


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == WORKER,
        "only_aureus_itself",
        "Aureus itself says how far a job is; nobody says it in its place.",
        remedy="Cancel the job, if no more of it is to be done.",
    )


def _require_open(job: Job, job_id: str) -> None:
    require(
        job.is_open,
        "job_ended" if job.started else "job_not_found",
        f"Job {job_id} is {job.status}." if job.started else f"There is no job {job_id}.",
        field="job_id",
        status=job.status,
        remedy="Start another one for what was not done.",
    )


def _facts(_job: Job, command: JobCommand) -> JsonObject:
    """How much is asked for at once: a class, so that equal cases decide alike."""
    return {"items_up_to": 1 << (command.items - 1).bit_length()} if isinstance(command, StartJob) else {}


DECIDER: Final[Decider[Job, JobCommand, JobEvent]] = Decider(
    context="jobs",
    category="job",
    initial=Job(),
    evolve=evolve,
    decide=decide,
    commands=(StartJob, CancelJob, ReportProgress, FinishJob),
    events=(JobStarted, JobProgressed, JobCancelled, JobFinished),
    entity=lambda command: command.job_id,
    facts=_facts,
)
