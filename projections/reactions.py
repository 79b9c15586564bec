"""Sagas and dead letters as people read them: what Aureus does by itself and how far it came, and what it could not do."""

from __future__ import annotations

from domain.kernel import JsonObject, Recorded, timestamp
from domain.reactions import (
    DeadLetterDiscarded,
    DeadLetterRecorded,
    DeadLetterReplayed,
    DeadLetterReplayFailed,
    DeadLetterReplayRequested,
    SagaCompensated,
    SagaCompensating,
    SagaCompleted,
    SagaStarted,
    SagaTimedOut,
    StepDone,
    StepFailed,
    StepParked,
)
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class DeadLetterRow:
    """One dead letter: waiting, replaying, replayed or discarded. `attempts` counts the replays as well.

    `cause_position`, `cause_event` and `cause_stream` are the event that it came of; `resolved_by` is who had it replayed or
    discarded, `outcome` what a replay came to: `{action_ids}`, or `{code, message}` when it failed.
    """

    letter_id: str
    status: str
    reaction: str
    command: str | None
    inputs: JsonObject | None
    on_behalf_of: str | None
    saga_id: str | None
    cause_position: int | None
    cause_event: str | None
    cause_stream: str | None
    code: str
    message: str
    attempts: int
    first_tried_at: str
    last_tried_at: str
    recorded_at: str
    resolved_by: str | None
    resolved_at: str | None
    reason: str | None
    outcome: JsonObject | None


@read_row
class SagaRow:
    """One saga: running, waiting for an approval, compensating, completed or compensated.

    `steps` are what happened in it, in order: `{at, step, what, ...}`, where `what` is done, undone, failed or parked.
    """

    saga_id: str
    saga: str
    status: str
    cause_position: int
    cause_event: str
    cause_stream: str
    started_at: str
    deadline_at: str
    timed_out: bool
    waits_for_approval: str | None
    failed_step: str | None
    code: str | None
    message: str | None
    left_undone: int
    steps: list[JsonObject]
    changed_at: str
    ended_at: str | None


dead_letters = ReadTable(
    "dead_letters",
    DeadLetterRow,
    filters=("status", "reaction", "command", "code", "saga_id", "cause_stream", "on_behalf_of"),
    sorts=("recorded_at", "last_tried_at", "attempts"),
    search=("letter_id", "message"),
)
sagas = ReadTable(
    "sagas",
    SagaRow,
    filters=("status", "saga", "cause_stream", "code"),
    sorts=("started_at", "changed_at", "deadline_at"),
    search=("saga_id", "message"),
)


@dead_letters.on(DeadLetterRecorded)
def recorded_letter(_row: None, recorded: Recorded[DeadLetterRecorded], letter_id: str) -> DeadLetterRow:
    event, cause = recorded.event, recorded.event.cause
    return DeadLetterRow(
        letter_id=letter_id,
        status="waiting",
        reaction=event.reaction,
        command=event.command,
        inputs=event.inputs,
        on_behalf_of=event.on_behalf_of,
        saga_id=event.saga_id,
        cause_position=cause.position if cause else None,
        cause_event=cause.event if cause else None,
        cause_stream=cause.stream if cause else None,
        code=event.code,
        message=event.message,
        attempts=event.attempts,
        first_tried_at=timestamp(event.first_tried_at),
        last_tried_at=recorded.at_text,
        recorded_at=recorded.at_text,
        resolved_by=None,
        resolved_at=None,
        reason=None,
        outcome=None,
    )


@dead_letters.on(DeadLetterReplayRequested)
def replay_requested(row: DeadLetterRow, recorded: Recorded[DeadLetterReplayRequested], _letter_id: str) -> DeadLetterRow:
    return replace(row, status="replaying", attempts=row.attempts + 1, resolved_by=recorded.actor, last_tried_at=recorded.at_text)


@dead_letters.on(DeadLetterReplayed)
def replayed(row: DeadLetterRow, recorded: Recorded[DeadLetterReplayed], _letter_id: str) -> DeadLetterRow:
    return replace(row, status="replayed", resolved_at=recorded.at_text, outcome={"action_ids": list(recorded.event.action_ids)})


@dead_letters.on(DeadLetterReplayFailed)
def replay_failed(row: DeadLetterRow, recorded: Recorded[DeadLetterReplayFailed], _letter_id: str) -> DeadLetterRow:
    event = recorded.event
    outcome = {"code": event.code, "message": event.message}
    return replace(row, status="waiting", resolved_by=None, outcome=outcome, last_tried_at=recorded.at_text)


@dead_letters.on(DeadLetterDiscarded)
def discarded(row: DeadLetterRow, recorded: Recorded[DeadLetterDiscarded], _letter_id: str) -> DeadLetterRow:
    reason = recorded.event.reason
    return replace(row, status="discarded", resolved_by=recorded.actor, resolved_at=recorded.at_text, reason=reason)


@sagas.on(SagaStarted)
def started(_row: None, recorded: Recorded[SagaStarted], saga_id: str) -> SagaRow:
    event = recorded.event
    return SagaRow(
        saga_id=saga_id,
        saga=event.saga,
        status="running",
        cause_position=event.cause.position,
        cause_event=event.cause.event,
        cause_stream=event.cause.stream,
        started_at=recorded.at_text,
        deadline_at=timestamp(event.deadline_at),
        timed_out=False,
        waits_for_approval=None,
        failed_step=None,
        code=None,
        message=None,
        left_undone=0,
        steps=[],
        changed_at=recorded.at_text,
        ended_at=None,
    )


def _with_step(row: SagaRow, recorded: Recorded[StepDone | StepFailed | StepParked], what: str, **more: object) -> SagaRow:
    step = {"at": recorded.at_text, "step": recorded.event.step, "what": what, **more}
    return replace(row, steps=[*row.steps, step], changed_at=recorded.at_text)


@sagas.on(StepDone)
def step_done(row: SagaRow, recorded: Recorded[StepDone], _saga_id: str) -> SagaRow:
    event = recorded.event
    answers = [answer.model_dump(mode="json") for answer in event.answers]
    failures = [failure.model_dump(mode="json") for failure in event.failures]
    row = _with_step(row, recorded, "undone" if event.undo else "done", answers=answers, failures=failures)
    return replace(row, status="compensating" if event.undo else "running", waits_for_approval=None)


@sagas.on(StepFailed)
def step_failed(row: SagaRow, recorded: Recorded[StepFailed], _saga_id: str) -> SagaRow:
    event = recorded.event
    retry_at = timestamp(event.retry_at) if event.retry_at else None
    failure = event.failure.model_dump(mode="json")
    return _with_step(row, recorded, "failed", undo=event.undo, attempt=event.attempt, retry_at=retry_at, failure=failure)


@sagas.on(StepParked)
def step_parked(row: SagaRow, recorded: Recorded[StepParked], _saga_id: str) -> SagaRow:
    event = recorded.event
    row = _with_step(row, recorded, "parked", undo=event.undo, approval_id=event.approval_id)
    return replace(row, status=row.status if event.undo else "waiting", waits_for_approval=event.approval_id)


@sagas.on(SagaTimedOut)
def timed_out(row: SagaRow, recorded: Recorded[SagaTimedOut], _saga_id: str) -> SagaRow:
    return replace(row, timed_out=True, changed_at=recorded.at_text)


@sagas.on(SagaCompensating)
def compensating(row: SagaRow, recorded: Recorded[SagaCompensating], _saga_id: str) -> SagaRow:
    event = recorded.event
    given_up = replace(row, failed_step=event.step, code=event.code, message=event.message)
    return replace(given_up, status="compensating", waits_for_approval=None, changed_at=recorded.at_text)


@sagas.on(SagaCompleted)
def completed(row: SagaRow, recorded: Recorded[SagaCompleted], _saga_id: str) -> SagaRow:
    return replace(row, status="completed", changed_at=recorded.at_text, ended_at=recorded.at_text)


@sagas.on(SagaCompensated)
def compensated(row: SagaRow, recorded: Recorded[SagaCompensated], _saga_id: str) -> SagaRow:
    ended = replace(row, changed_at=recorded.at_text, ended_at=recorded.at_text, waits_for_approval=None)
    return replace(ended, status="compensated", left_undone=recorded.event.left_undone)


PROJECTION = Projection("reactions", (dead_letters, sagas), ordering="stream")
