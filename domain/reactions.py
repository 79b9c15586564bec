"""What Aureus does by itself: a saga, which takes steps and undoes them when one fails; and a dead letter, what could not be done.

Both are kept like everything else that happens, so whoever takes up a saga after a kill knows how far it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Final, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field

from domain.kernel import Event, JsonObject
from domain.values import MAX_SAFE_INTEGER, Identifier, Label, Sha256, StreamName, Text

REACTOR: Final = "svc-reactions"
"""The service of the platform that reacts; nobody else ever acts under this name."""
Count = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER)]
LetterStatus = Literal["unknown", "waiting", "replaying", "replayed", "discarded"]
SagaStatus = Literal["unknown", "running", "waiting", "compensating", "completed", "compensated"]
OPEN_SAGAS: Final[tuple[SagaStatus, ...]] = ("running", "waiting", "compensating")
TIMED_OUT: Final = "saga_timed_out"


class Cause(BaseModel):
    """The event that something was done because of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: Count
    event: Label
    stream: StreamName


class Answer(BaseModel):
    """What a step asked for and was done; `code` says why nothing was left to do, when that was it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Label
    stream: StreamName
    action_id: Identifier
    code: Label | None = None


class Failure(BaseModel):
    """What a step asked for, or did not come to ask for, and was not done; `stream` is what it would have changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Label | None = None
    stream: StreamName | None = None
    code: Label
    message: Text


# -- dead letters


class DeadLetterRecorded(Event, name="reactions.dead_letter_recorded"):
    """A reaction, a sweep or a saga could not do this, and went on; it waits here for somebody to replay or discard it.

    Without `inputs` they are worked out again from the cause; without a `command`, the reaction as a whole is. With a
    `saga_id` and no command it is that saga, which was undone.
    """

    letter_id: Identifier
    reaction: Label
    cause: Cause | None = None
    saga_id: Identifier | None = None
    command: Label | None = None
    inputs: JsonObject | None = None
    on_behalf_of: Identifier | None = None
    code: Label
    message: Text
    attempts: Count
    first_tried_at: datetime


class DeadLetterReplayRequested(Event, name="reactions.dead_letter_replay_requested"):
    """It is to be asked for again. `replay` counts how often that was wanted."""

    letter_id: Identifier
    replay: Count


class DeadLetterReplayed(Event, name="reactions.dead_letter_replayed"):
    """Asked for again, it was done, by these actions."""

    letter_id: Identifier
    replay: Count
    action_ids: tuple[Identifier, ...]


class DeadLetterReplayFailed(Event, name="reactions.dead_letter_replay_failed"):
    """Asked for again, it was not done; it waits again."""

    letter_id: Identifier
    replay: Count
    code: Label
    message: Text


class DeadLetterDiscarded(Event, name="reactions.dead_letter_discarded"):
    """Somebody decided that it need not be done, and why."""

    letter_id: Identifier
    reason: Text


DeadLetterEvent = DeadLetterRecorded | DeadLetterReplayRequested | DeadLetterReplayed | DeadLetterReplayFailed | DeadLetterDiscarded


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter; `recorded` is None before there is one."""

    recorded: DeadLetterRecorded | None = None
    status: LetterStatus = "unknown"
    replays: int = 0


def evolve_letter(letter: DeadLetter, event: DeadLetterEvent) -> DeadLetter:
    match event:
        case DeadLetterRecorded():
            return DeadLetter(event, "waiting")
        case DeadLetterReplayRequested():
            return replace(letter, status="replaying", replays=event.replay)
        case DeadLetterReplayed():
            return replace(letter, status="replayed")
        case DeadLetterReplayFailed():
            return replace(letter, status="waiting")
        case DeadLetterDiscarded():
            return replace(letter, status="discarded")
        case _:
            assert_never(event)


# -- sagas


class SagaStarted(Event, name="reactions.saga_started"):
    """Something happened that takes several steps to answer; from `deadline_at` on no step is begun any more."""

    saga_id: Identifier
    saga: Label
    cause: Cause
    deadline_at: datetime


class StepDone(Event, name="reactions.step_done"):
    """A step, or what undoes it, came to its end. `failures` are what could not be done of a step that goes on without."""

    saga_id: Identifier
    step: Label
    undo: bool
    answers: tuple[Answer, ...] = ()
    failures: tuple[Failure, ...] = ()


class StepFailed(Event, name="reactions.step_failed"):
    """One command of a step was not carried out, for the `attempt`-th time; it is asked for again at `retry_at`, or not at all."""

    saga_id: Identifier
    step: Label
    undo: bool
    command_digest: Sha256
    attempt: Count
    failure: Failure
    retry_at: datetime | None = None


class StepParked(Event, name="reactions.step_parked"):
    """One command of a step waits for an approval, and the saga with it."""

    saga_id: Identifier
    step: Label
    undo: bool
    command_digest: Sha256
    approval_id: Identifier


class SagaTimedOut(Event, name="reactions.saga_timed_out"):
    """Its deadline passed before its steps were done."""

    saga_id: Identifier


class SagaCompensating(Event, name="reactions.saga_compensating"):
    """It cannot be brought to its end: what was done is undone from here on, the latest step first."""

    saga_id: Identifier
    step: Label | None = None
    code: Label
    message: Text


class SagaCompleted(Event, name="reactions.saga_completed"):
    """All steps were done."""

    saga_id: Identifier


class SagaCompensated(Event, name="reactions.saga_compensated"):
    """What had been done was undone, as far as that could be: what could not is `left_undone`, a dead letter each."""

    saga_id: Identifier
    left_undone: Annotated[int, Field(ge=0)]


SagaEvent = SagaStarted | StepDone | StepFailed | StepParked | SagaTimedOut | SagaCompensating | SagaCompleted | SagaCompensated


@dataclass(frozen=True, slots=True)
class Saga:
    """How far a saga came; `started` is None before it did. `failed` and `parked` are by step and command."""

    started: SagaStarted | None = None
    status: SagaStatus = "unknown"
    done: tuple[StepDone, ...] = ()
    undone: tuple[StepDone, ...] = ()
    failed: Mapping[str, StepFailed] = field(default_factory=lambda: MappingProxyType({}))
    parked: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    compensating: SagaCompensating | None = None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_SAGAS

    @property
    def is_compensating(self) -> bool:
        return self.status == "compensating"

    def finished(self, step: str, *, undo: bool) -> bool:
        return any(each.step == step for each in (self.undone if undo else self.done))

    def last_failure(self, step: str, digest: str, *, undo: bool) -> StepFailed | None:
        return self.failed.get(command_key(step, digest, undo=undo))

    def approval(self, step: str, digest: str, *, undo: bool) -> str | None:
        """The approval that a command of a step waits for, or waited for."""
        return self.parked.get(command_key(step, digest, undo=undo))


def command_key(step: str, digest: str, *, undo: bool) -> str:
    """What tells one command of a saga from every other of it."""
    return f"{'undo' if undo else 'do'} {step} {digest}"


def evolve_saga(saga: Saga, event: SagaEvent) -> Saga:
    match event:
        case SagaStarted():
            return Saga(event, "running")
        case StepDone():
            if event.undo:
                return replace(saga, undone=(*saga.undone, event))
            return replace(saga, done=(*saga.done, event), status="running")
        case StepFailed():
            return replace(saga, failed={**saga.failed, command_key(event.step, event.command_digest, undo=event.undo): event})
        case StepParked():
            parked = {**saga.parked, command_key(event.step, event.command_digest, undo=event.undo): event.approval_id}
            return replace(saga, parked=parked, status=saga.status if event.undo else "waiting")
        case SagaTimedOut():
            return saga
        case SagaCompensating():
            return replace(saga, status="compensating", compensating=event)
        case SagaCompleted():
            return replace(saga, status="completed")
        case SagaCompensated():
            return replace(saga, status="compensated")
        case _:
            assert_never(event)
