"""Sagas and dead letters, decided: what may be said of them, by whom, and in which order - and what is said twice says nothing new."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from commands.reactions import (
    DEAD_LETTERS,
    SAGAS,
    CompensateSaga,
    DiscardDeadLetter,
    EndSaga,
    FailStep,
    FinishStep,
    ParkStep,
    RecordDeadLetter,
    ReplayDeadLetter,
    SettleReplay,
    StartSaga,
    TimeOutSaga,
)
from domain.kernel import Asker, Command, Event, Recorded
from domain.reactions import (
    REACTOR,
    TIMED_OUT,
    Answer,
    Cause,
    DeadLetterDiscarded,
    DeadLetterRecorded,
    DeadLetterReplayed,
    DeadLetterReplayFailed,
    DeadLetterReplayRequested,
    Failure,
    SagaCompensated,
    SagaCompensating,
    SagaCompleted,
    SagaStarted,
    SagaTimedOut,
    StepDone,
    StepFailed,
    StepParked,
)
from domain.values import ActorKind, Role
from projections.engine import replay
from projections.reactions import PROJECTION
from tests.given import ADMIN, ANALYST, APPROVER, AT, Given, given

ITSELF: Final = Asker(REACTOR, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
DIGEST: Final = "ab" * 32
CAUSE: Final = Cause(position=7, event="agents.agent_stopped", stream="agent:agt-bot")
FAILURE: Final = Failure(command="budgets.release_funds", stream="budget:lake", code="policy_blocked", message="No.")
LETTER: Final[dict[str, Any]] = {
    "letter_id": "l1",
    "reaction": "stopped_agent_is_cleared",
    "cause": CAUSE,
    "command": "budgets.release_funds",
    "inputs": {"budget_id": "lake", "reservation_id": "r1"},
    "code": "policy_blocked",
    "message": "No.",
    "attempts": 5,
    "first_tried_at": AT,
}
RECORDED: Final = DeadLetterRecorded(**LETTER)
WANTED: Final = DeadLetterReplayRequested(letter_id="l1", replay=1)
FAILED_AGAIN: Final = DeadLetterReplayFailed(letter_id="l1", replay=1, code="policy_blocked", message="No.")
SETTLE: Final = SettleReplay(letter_id="l1", replay=1, action_ids=("a1",))
STARTED: Final = SagaStarted(saga_id="s1", saga="pauses", cause=CAUSE, deadline_at=AT + timedelta(hours=1))
ANSWER: Final = Answer(command="agents.stop_agent", stream="agent:agt-bot", action_id="a1")
DONE: Final = StepDone(saga_id="s1", step="stop", undo=False, answers=(ANSWER,))
ONCE: Final = StepFailed(saga_id="s1", step="stop", undo=False, command_digest=DIGEST, attempt=1, failure=FAILURE)
GIVEN_UP: Final = SagaCompensating(saga_id="s1", step="stop", code="policy_blocked", message="No.")
FINISH: Final = FinishStep(saga_id="s1", step="stop", answers=(ANSWER,))
FAIL: Final = FailStep(saga_id="s1", step="stop", command_digest=DIGEST, attempt=1, failure=FAILURE)


def letter(*history: Event) -> Given:
    return given(DEAD_LETTERS, *history).by(ITSELF)


def saga(*history: Event) -> Given:
    return given(SAGAS, *history).by(ITSELF)


# -- dead letters


def test_a_letter_is_recorded_once() -> None:
    letter().when(RecordDeadLetter(**LETTER)).then(RECORDED)
    letter(RECORDED).when(RecordDeadLetter(**{**LETTER, "attempts": 9})).then()


@pytest.mark.parametrize("by", [ADMIN, APPROVER])
def test_a_steward_has_it_replayed_and_what_came_of_it_is_on_record(by: Asker) -> None:
    letter(RECORDED).by(by).when(ReplayDeadLetter(letter_id="l1")).then(WANTED)
    letter(RECORDED, WANTED).when(SETTLE).then(DeadLetterReplayed(letter_id="l1", replay=1, action_ids=("a1",)))
    letter(RECORDED, WANTED).when(SETTLE.model_copy(update={"failure": FAILURE})).then(FAILED_AGAIN)


def test_what_failed_again_waits_again_and_the_next_replay_is_another() -> None:
    letter(RECORDED, WANTED, FAILED_AGAIN).by(ADMIN).when(ReplayDeadLetter(letter_id="l1")).then(
        DeadLetterReplayRequested(letter_id="l1", replay=2)
    )
    letter(RECORDED, WANTED, FAILED_AGAIN, WANTED.model_copy(update={"replay": 2})).when(SETTLE).then()


def test_what_is_discarded_says_why_and_stays_so() -> None:
    discarded = DeadLetterDiscarded(letter_id="l1", reason="By hand")
    letter(RECORDED).by(ADMIN).when(DiscardDeadLetter(letter_id="l1", reason="By hand")).then(discarded)
    letter(RECORDED, discarded).by(ADMIN).when(ReplayDeadLetter(letter_id="l1")).refused("dead_letter_discarded", field="letter_id")
    with pytest.raises(ValueError, match="reason"):
        DiscardDeadLetter(letter_id="l1", reason=" ")


@pytest.mark.parametrize("command", [ReplayDeadLetter(letter_id="l1"), DiscardDeadLetter(letter_id="l1", reason="No")])
def test_nothing_is_decided_about_a_letter_that_is_not_there_or_does_not_wait(command: Command) -> None:
    letter().by(ADMIN).when(command).refused("dead_letter_not_found", field="letter_id")
    letter(RECORDED, WANTED).by(ADMIN).when(command).refused("dead_letter_replaying", letter_status="replaying")
    replayed = DeadLetterReplayed(letter_id="l1", replay=1, action_ids=())
    letter(RECORDED, WANTED, replayed).by(ADMIN).when(command).refused("dead_letter_replayed")


def test_only_stewards_may_ask_for_it() -> None:
    assert ReplayDeadLetter.roles == DiscardDeadLetter.roles == {Role.ADMIN, Role.APPROVER}
    assert not ANALYST.roles & ReplayDeadLetter.roles


@pytest.mark.parametrize(
    "command",
    [
        RecordDeadLetter(**LETTER),
        SETTLE,
        StartSaga(saga_id="s1", saga="pauses", cause=CAUSE, deadline_at=AT),
        FINISH,
        FAIL,
        ParkStep(saga_id="s1", step="stop", command_digest=DIGEST, approval_id="apr"),
        TimeOutSaga(saga_id="s1"),
        CompensateSaga(saga_id="s1", step="stop", code="c", message="m"),
        EndSaga(saga_id="s1"),
    ],
    ids=lambda command: command.command_name,
)
def test_nobody_says_in_its_place_what_aureus_did(command: Command) -> None:
    decider = DEAD_LETTERS if isinstance(command, DEAD_LETTERS.commands) else SAGAS
    impostor = replace(ADMIN, kind=ActorKind.SERVICE)
    for by in (ADMIN, impostor):
        given(decider, RECORDED if decider is DEAD_LETTERS else STARTED).by(by).when(command).refused("only_aureus_itself")
    assert type(command).restrains, "what is known is put on record, whether or not the policies can answer"


# -- sagas


def test_the_same_saga_begins_once() -> None:
    start = StartSaga(saga_id="s1", saga="pauses", cause=CAUSE, deadline_at=STARTED.deadline_at)
    saga().when(start).then(STARTED)
    saga(STARTED).when(start.model_copy(update={"deadline_at": AT})).then()


def test_a_step_is_done_once_and_then_the_saga_completed() -> None:
    saga(STARTED).when(FINISH).then(DONE)
    saga(STARTED, DONE).when(FINISH).then()
    saga(STARTED, DONE).when(EndSaga(saga_id="s1")).then(SagaCompleted(saga_id="s1"))


def test_attempts_are_counted_one_by_one() -> None:
    saga(STARTED).when(FAIL).then(ONCE)
    saga(STARTED, ONCE).when(FAIL).then()
    saga(STARTED, ONCE).when(FAIL.model_copy(update={"attempt": 2})).then(ONCE.model_copy(update={"attempt": 2}))
    saga(STARTED).when(FAIL.model_copy(update={"attempt": 2})).refused("attempt_out_of_order", field="attempt")
    saga(STARTED, DONE).when(FAIL).then()


def test_a_saga_waits_for_an_approval_until_its_step_is_done() -> None:
    park = ParkStep(saga_id="s1", step="stop", command_digest=DIGEST, approval_id="apr")
    parked = StepParked(saga_id="s1", step="stop", undo=False, command_digest=DIGEST, approval_id="apr")
    saga(STARTED).when(park).then(parked)
    saga(STARTED, parked).when(park).then()
    assert SAGAS.replay([STARTED, parked]).status == "waiting"
    assert SAGAS.replay([STARTED, parked, DONE]).status == "running"


def test_a_saga_that_is_given_up_is_undone_and_no_step_of_it_is_done_any_more() -> None:
    give_up = CompensateSaga(saga_id="s1", step="stop", code="policy_blocked", message="No.")
    saga(STARTED).when(give_up).then(GIVEN_UP)
    saga(STARTED, GIVEN_UP).when(give_up).then()
    saga(STARTED, GIVEN_UP).when(FINISH).refused("saga_goes_the_other_way", field="undo")
    saga(STARTED).when(FINISH.model_copy(update={"undo": True})).refused("saga_goes_the_other_way")
    undone = StepDone(saga_id="s1", step="stop", undo=True, failures=(FAILURE,))
    saga(STARTED, GIVEN_UP, undone).when(EndSaga(saga_id="s1")).then(SagaCompensated(saga_id="s1", left_undone=1))


def test_a_saga_times_out_at_its_deadline_and_not_before() -> None:
    late = TimeOutSaga(saga_id="s1")
    saga(STARTED).at(STARTED.deadline_at - timedelta(microseconds=1)).when(late).refused("saga_not_due")
    then = saga(STARTED).at(STARTED.deadline_at).when(late)
    assert then.events[0] == SagaTimedOut(saga_id="s1")
    assert isinstance(then.events[1], SagaCompensating)
    assert then.events[1].code == TIMED_OUT
    saga(STARTED, GIVEN_UP).at(STARTED.deadline_at).when(late).then()


@pytest.mark.parametrize("end", [SagaCompleted(saga_id="s1"), SagaCompensated(saga_id="s1", left_undone=0)])
@pytest.mark.parametrize("command", [FINISH, FAIL, EndSaga(saga_id="s1"), TimeOutSaga(saga_id="s1")], ids=lambda one: one.command_name)
def test_nothing_happens_in_a_saga_that_has_ended(end: Event, command: Command) -> None:
    history = (STARTED, GIVEN_UP, end) if isinstance(end, SagaCompensated) else (STARTED, DONE, end)
    saga(*history).at(AT + timedelta(days=1)).when(command).then()


def test_nothing_is_said_of_a_saga_that_never_began() -> None:
    saga().when(EndSaga(saga_id="s1")).refused("saga_not_found", field="saga_id")


# -- as people read them


def rows(*history: Event, actor: str = "usr-adm") -> dict[str, Any]:
    recorded = [Recorded(at, "acme", "x:one", at, UUID(int=at), AT, actor, UUID(int=0), None, event) for at, event in enumerate(history, 1)]
    return {table: row for (table, _, _), row in replay(PROJECTION, recorded).items()}


def test_a_letter_is_read_with_its_cause_its_attempts_and_what_became_of_it() -> None:
    row = rows(RECORDED.model_copy(update={"saga_id": "s1"}), WANTED, FAILED_AGAIN)["dead_letters"]
    assert (row.status, row.attempts, row.cause_position, row.resolved_by) == ("waiting", 6, 7, None)
    assert row.outcome == {"code": "policy_blocked", "message": "No."}
    row = rows(RECORDED, WANTED, DeadLetterReplayed(letter_id="l1", replay=1, action_ids=("a1",)))["dead_letters"]
    assert (row.status, row.resolved_by, row.outcome) == ("replayed", "usr-adm", {"action_ids": ["a1"]})


def test_a_saga_is_read_step_by_step() -> None:
    undone = StepDone(saga_id="s1", step="stop", undo=True)
    row = rows(STARTED, ONCE, DONE, SagaTimedOut(saga_id="s1"), GIVEN_UP, undone, SagaCompensated(saga_id="s1", left_undone=0))["sagas"]
    assert (row.status, row.timed_out, row.code) == ("compensated", True, "policy_blocked")
    assert [(step["step"], step["what"]) for step in row.steps] == [("stop", "failed"), ("stop", "done"), ("stop", "undone")]
    assert row.ended_at == datetime.strftime(AT.astimezone(UTC), "%Y-%m-%dT%H:%M:%S.%fZ")
