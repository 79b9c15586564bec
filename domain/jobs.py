"""A job: many commands that somebody asked for at once, worked through one after another in their name, with its progress on record.

What was asked and what became of each lie outside the ledger, under the hashes that these events say.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, assert_never

from pydantic import Field

from domain.kernel import Event
from domain.values import MAX_SAFE_INTEGER, Identifier, Label, Sha256, Text

WORKER: Final = "svc-reactions"
"""Says how far jobs are: Aureus itself, and nobody else."""
Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
OnFailure = Literal["continue", "stop"]
Ending = Literal["completed", "stopped", "failed", "cancelled"]
"""`stopped` at a command that was not carried out, `failed` because it could not go on at all."""
Status = Literal["unknown", "running", "cancelling", "completed", "stopped", "failed", "cancelled"]


class JobStarted(Event, name="jobs.job_started"):
    """Somebody asked for so many commands; they are kept under this hash until the job has ended. `scopes` are those of the key that
    was shown: the job may do no more than it might have."""

    job_id: Identifier
    asked_by: Identifier
    items: Count
    on_failure: OnFailure
    input_sha256: Sha256
    scopes: tuple[Label, ...] | None = None


class JobProgressed(Event, name="jobs.job_progressed"):
    """So many of the commands are done, and so many of those were carried out, wait for an approval, or were refused. What became of
    each since the last of these events is kept under this hash."""

    job_id: Identifier
    done: Count
    allowed: Count
    parked: Count
    refused: Count
    results_sha256: Sha256


class JobCancelled(Event, name="jobs.job_cancelled"):
    """Somebody wants no more of it done; what is being done is brought to its end, and then the job finishes."""

    job_id: Identifier
    comment: Text | None = None


class JobFinished(Event, name="jobs.job_finished"):
    """Nothing more is done in this job; `code` and `message` say why, when that is not because everything was."""

    job_id: Identifier
    ending: Ending
    code: Label | None = None
    message: Text | None = None


JobEvent = JobStarted | JobProgressed | JobCancelled | JobFinished


@dataclass(frozen=True, slots=True)
class Job:
    """How far a job is; `started` is None before it did. `results` are the hashes of what became of its commands, in order."""

    started: JobStarted | None = None
    status: Status = "unknown"
    done: int = 0
    allowed: int = 0
    parked: int = 0
    refused: int = 0
    results: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.status in {"running", "cancelling"}


def evolve(job: Job, event: JobEvent) -> Job:
    match event:
        case JobStarted():
            return Job(event, "running")
        case JobProgressed():
            return replace(
                job,
                done=event.done,
                allowed=event.allowed,
                parked=event.parked,
                refused=event.refused,
                results=(*job.results, event.results_sha256),
            )
        case JobCancelled():
            return replace(job, status="cancelling")
        case JobFinished():
            return replace(job, status=event.ending)
        case _:
            assert_never(event)
