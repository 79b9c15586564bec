"""What may be asked of sagas and dead letters: Aureus itself says how far it came, and people say what becomes of what it could not do."""

from typing import Annotated, Any, Final, assert_never

from pydantic import AwareDatetime, Field

from domain.kernel import Asked, Command, Decider, JsonObject, require, timestamp
from domain.reactions import (
    REACTOR,
    TIMED_OUT,
    Answer,
    Cause,
    Count,
    DeadLetter,
    DeadLetterDiscarded,
    DeadLetterEvent,
    DeadLetterRecorded,
    DeadLetterReplayed,
    DeadLetterReplayFailed,
    DeadLetterReplayRequested,
    Failure,
    Saga,
    SagaCompensated,
    SagaCompensating,
    SagaCompleted,
    SagaEvent,
    SagaStarted,
    SagaTimedOut,
    StepDone,
    StepFailed,
    StepParked,
    evolve_letter,
    evolve_saga,
)
from domain.values import Identifier, Label, Role, Sha256, Text

STEWARDS: Final = frozenset({Role.ADMIN, Role.APPROVER})
ITSELF: Final = frozenset({Role.ADMIN})
"""The role that the platform's own service holds; nobody else gets past `_require_itself`."""
SomeText = Annotated[Text, Field(min_length=1)]


class RecordDeadLetter(Command, name="reactions.record_dead_letter", roles=ITSELF):
    """Put on record what a reaction could not do. Only the reactor asks this; the same letter is recorded once."""

    restrains = True  # it grants nothing, and what cannot be recorded is lost: it does not wait for the policies

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
    first_tried_at: AwareDatetime


class ReplayDeadLetter(Command, name="reactions.replay_dead_letter", roles=STEWARDS):
    """Have it asked for again, once what was in its way is mended; the letter then says what came of it."""

    letter_id: Identifier


class DiscardDeadLetter(Command, name="reactions.discard_dead_letter", roles=STEWARDS):
    """Decide that it need not be done, and say why."""

    letter_id: Identifier
    reason: SomeText


class SettleReplay(Command, name="reactions.settle_replay", roles=ITSELF):
    """Say what came of a replay: the actions that did it, or why it was not done. Only the reactor asks this."""

    restrains = True

    letter_id: Identifier
    replay: Count
    action_ids: tuple[Identifier, ...] = ()
    failure: Failure | None = None


DeadLetterCommand = RecordDeadLetter | ReplayDeadLetter | DiscardDeadLetter | SettleReplay


class StartSaga(Command, name="reactions.start_saga", roles=ITSELF):
    """Begin a saga because of an event. Only the reactor asks this; the same saga begins once."""

    restrains = True

    saga_id: Identifier
    saga: Label
    cause: Cause
    deadline_at: AwareDatetime


class FinishStep(Command, name="reactions.finish_step", roles=ITSELF):
    """Say what was done, or undone, in a step. Only the reactor asks this."""

    restrains = True

    saga_id: Identifier
    step: Label
    undo: bool = False
    answers: tuple[Answer, ...] = ()
    failures: tuple[Failure, ...] = ()


class FailStep(Command, name="reactions.fail_step", roles=ITSELF):
    """Say that one command of a step was not carried out, and when it is tried again. Only the reactor asks this."""

    restrains = True

    saga_id: Identifier
    step: Label
    undo: bool = False
    command_digest: Sha256
    attempt: Count
    failure: Failure
    retry_at: AwareDatetime | None = None


class ParkStep(Command, name="reactions.park_step", roles=ITSELF):
    """Say that one command of a step waits for an approval. Only the reactor asks this."""

    restrains = True

    saga_id: Identifier
    step: Label
    undo: bool = False
    command_digest: Sha256
    approval_id: Identifier


class TimeOutSaga(Command, name="reactions.time_out_saga", roles=ITSELF):
    """Put on record that a saga's deadline has passed. Only the reactor asks this."""

    restrains = True

    saga_id: Identifier


class CompensateSaga(Command, name="reactions.compensate_saga", roles=ITSELF):
    """Give up a saga at a step, and begin to undo what was done. Only the reactor asks this."""

    restrains = True

    saga_id: Identifier
    step: Label
    code: Label
    message: Text


class EndSaga(Command, name="reactions.end_saga", roles=ITSELF):
    """Close a saga: completed, or compensated when it had been given up. Only the reactor asks this."""

    restrains = True

    saga_id: Identifier


SagaCommand = StartSaga | FinishStep | FailStep | ParkStep | TimeOutSaga | CompensateSaga | EndSaga


def decide_letter(letter: DeadLetter, command: DeadLetterCommand, asked: Asked) -> list[DeadLetterEvent]:
    match command:
        case RecordDeadLetter():
            _require_itself(asked)
            return [] if letter.recorded else [DeadLetterRecorded(**_fields(command))]
        case ReplayDeadLetter():
            _require_waiting(letter, command.letter_id)
            return [DeadLetterReplayRequested(letter_id=command.letter_id, replay=letter.replays + 1)]
        case DiscardDeadLetter():
            _require_waiting(letter, command.letter_id)
            return [DeadLetterDiscarded(letter_id=command.letter_id, reason=command.reason)]
        case SettleReplay():
            _require_itself(asked)
            return _settled(letter, command)
        case _:
            assert_never(command)


def _settled(letter: DeadLetter, command: SettleReplay) -> list[DeadLetterEvent]:
    _require_letter(letter, command.letter_id)
    if letter.status != "replaying" or letter.replays != command.replay:
        return []
    letter_id, replay, failure = command.letter_id, command.replay, command.failure
    if failure is None:
        return [DeadLetterReplayed(letter_id=letter_id, replay=replay, action_ids=command.action_ids)]
    return [DeadLetterReplayFailed(letter_id=letter_id, replay=replay, code=failure.code, message=failure.message)]


def _require_letter(letter: DeadLetter, letter_id: str) -> None:
    require(
        letter.recorded is not None,
        "dead_letter_not_found",
        f"There is no dead letter {letter_id}.",
        field="letter_id",
        remedy="`aureus dead-letters list` shows those there are.",
    )


def _require_waiting(letter: DeadLetter, letter_id: str) -> None:
    _require_letter(letter, letter_id)
    being = "being replayed" if letter.status == "replaying" else letter.status
    require(
        letter.status == "waiting",
        f"dead_letter_{letter.status}",
        f"Dead letter {letter_id} is {being} already.",
        field="letter_id",
        letter_status=letter.status,
        remedy="Look at what came of it: it waits again if that failed." if letter.status == "replaying" else "Nothing is left to do.",
    )


def decide_saga(saga: Saga, command: SagaCommand, asked: Asked) -> list[SagaEvent]:
    """What is said a second time, by a process that was killed before it knew or by another one, changes nothing."""
    _require_itself(asked)
    if isinstance(command, StartSaga):
        return [] if saga.started else [SagaStarted(**_fields(command))]
    require(saga.started is not None, "saga_not_found", f"There is no saga {command.saga_id}.", field="saga_id", remedy="List them.")
    if not saga.is_open:
        return []
    match command:
        case FinishStep() | FailStep() | ParkStep():
            return _step(saga, command)
        case TimeOutSaga():
            return _timed_out(saga, command, asked)
        case CompensateSaga():
            return [] if saga.is_compensating else [SagaCompensating(**_fields(command))]
        case EndSaga():
            if not saga.is_compensating:
                return [SagaCompleted(saga_id=command.saga_id)]
            return [SagaCompensated(saga_id=command.saga_id, left_undone=sum(len(step.failures) for step in saga.undone))]
        case _:
            assert_never(command)


def _step(saga: Saga, command: FinishStep | FailStep | ParkStep) -> list[SagaEvent]:
    require(
        command.undo == saga.is_compensating,
        "saga_goes_the_other_way",
        f"Saga {command.saga_id} is {saga.status}: nothing is {'undone' if command.undo else 'done'} in it.",
        field="undo",
        status=saga.status,
        remedy="Look at how far it came, and go on from there.",
    )
    if saga.finished(command.step, undo=command.undo):
        return []
    match command:
        case FinishStep():
            return [StepDone(**_fields(command))]
        case FailStep():
            last = saga.last_failure(command.step, command.command_digest, undo=command.undo)
            known = last.attempt if last else 0
            require(
                command.attempt <= known + 1,
                "attempt_out_of_order",
                f"Attempt {known + 1} of {command.step} comes before attempt {command.attempt}.",
                field="attempt",
                remedy="Look at how far it came, and go on from there.",
            )
            return [StepFailed(**_fields(command))] if command.attempt == known + 1 else []
        case ParkStep():
            parked = saga.approval(command.step, command.command_digest, undo=command.undo)
            return [] if parked == command.approval_id else [StepParked(**_fields(command))]
        case _:
            assert_never(command)


def _timed_out(saga: Saga, command: TimeOutSaga, asked: Asked) -> list[SagaEvent]:
    assert saga.started is not None
    if saga.is_compensating:
        return []
    deadline_at = saga.started.deadline_at
    require(
        asked.at >= deadline_at,
        "saga_not_due",
        f"Saga {command.saga_id} has until {timestamp(deadline_at)}.",
        deadline_at=timestamp(deadline_at),
        remedy="Go on with its steps until then.",
    )
    message = f"Its steps were not done by {timestamp(deadline_at)}."
    return [SagaTimedOut(saga_id=command.saga_id), SagaCompensating(saga_id=command.saga_id, code=TIMED_OUT, message=message)]


def _fields(command: Command) -> dict[str, Any]:
    return {name: getattr(command, name) for name in type(command).model_fields}


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == REACTOR,
        "only_aureus_itself",
        "Aureus itself says what it did and could not do; nobody says it in its place.",
        remedy="Replay or discard the dead letters that are there.",
    )


def _letter_facts(letter: DeadLetter, command: DeadLetterCommand) -> JsonObject:
    known = command if isinstance(command, RecordDeadLetter) else letter.recorded
    return {"reaction": known.reaction if known else None, "command": known.command if known else None}


def _saga_facts(saga: Saga, command: SagaCommand) -> JsonObject:
    known = command if isinstance(command, StartSaga) else saga.started
    return {"saga": known.saga if known else None}


DEAD_LETTERS: Final[Decider[DeadLetter, DeadLetterCommand, DeadLetterEvent]] = Decider(
    context="reactions",
    category="deadletter",
    initial=DeadLetter(),
    evolve=evolve_letter,
    decide=decide_letter,
    commands=(RecordDeadLetter, ReplayDeadLetter, DiscardDeadLetter, SettleReplay),
    events=(DeadLetterRecorded, DeadLetterReplayRequested, DeadLetterReplayed, DeadLetterReplayFailed, DeadLetterDiscarded),
    entity=lambda command: command.letter_id,
    facts=_letter_facts,
)
SAGAS: Final[Decider[Saga, SagaCommand, SagaEvent]] = Decider(
    context="reactions",
    category="saga",
    initial=Saga(),
    evolve=evolve_saga,
    decide=decide_saga,
    commands=(StartSaga, FinishStep, FailStep, ParkStep, TimeOutSaga, CompensateSaga, EndSaga),
    events=(SagaStarted, StepDone, StepFailed, StepParked, SagaTimedOut, SagaCompensating, SagaCompleted, SagaCompensated),
    entity=lambda command: command.saga_id,
    facts=_saga_facts,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (DEAD_LETTERS, SAGAS)
