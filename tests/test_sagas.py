"""Sagas on a real ledger: step after step, tried again, undone when one fails, carried on wherever a kill cut them off."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from api.services import deciders
from commands.approvals import ApproveRequest
from commands.budgets import FundBudget, OpenBudget, ReserveFunds
from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from commands.reactions import DiscardDeadLetter, ReplayDeadLetter
from domain.actions import ActionBlocked
from domain.budgets import BudgetFunded, BudgetOpened, FundsReserved
from domain.kernel import Recorded, Refused
from domain.policies import PolicySet
from domain.reactions import (
    TIMED_OUT,
    DeadLetterDiscarded,
    DeadLetterRecorded,
    DeadLetterReplayed,
    DeadLetterReplayFailed,
    SagaCompensated,
    SagaCompleted,
    SagaStarted,
    SagaTimedOut,
    StepDone,
    StepFailed,
    StepParked,
)
from infra.ledger import Ledger
from infra.policy import PolicyEngine
from infra.policy_bundle import Bundle
from projections.reactions import PROJECTION
from streams.asking import ask_of
from streams.dead_letters import DeadLetters
from streams.process_manager import ProcessManager
from streams.reactions import ACTOR, ReadRows, Retries, asker
from streams.reactor import Rows, place_reactions
from streams.sagas import Saga, Step, Story, Wanted
from tests.support.kernel import ADM, APP, STAND_IN, ask, policies, unequal, written
from tests.support.reacting import Tenant, eventually, ledger_of, of, reacting

pytestmark = pytest.mark.anyio

NUMBERS: Final = count(1)
QUICK: Final = Retries(attempts=4, first_seconds=0.01, longest_seconds=0.02)


def opening(budget_id: str, currency: str = "EUR") -> OpenBudget:
    return OpenBudget(budget_id=budget_id, label="B", currency=currency, limit_minor=1_000, thresholds_percent=())


def funding(budget_id: str, amount_minor: int) -> Any:
    """A step that gives a budget a present."""

    async def asking(_story: Story) -> list[Wanted]:
        return [Wanted(FundBudget(budget_id=budget_id, amount_minor=amount_minor))]

    return asking


async def of_lakes(recorded: Recorded[BudgetOpened], _reads: ReadRows) -> bool:
    return recorded.event.budget_id.startswith("lake")


def presents(*steps: Step, timeout_seconds: float = 60.0) -> Saga:
    """A saga that a new lake begins."""
    return Saga("presents", (BudgetOpened,), of_lakes, steps, timeout_seconds, retries=QUICK)


FIRST: Final = Step("first", funding("sea", 1), undo=funding("sea", 100))
SECOND: Final = Step("second", funding("sea", 2), undo=funding("sea", 200))
IMPOSSIBLE: Final = Step("third", funding("nowhere", 3))


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies")) as opened:
        yield opened


@pytest.fixture(scope="module")
async def ledger(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Ledger]:
    async with ledger_of(shared_database_url, tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture
async def at(shared_database_url: str, ledger: Ledger, engine: PolicyEngine) -> Tenant:
    """With a sea, which the steps of sagas fund."""
    tenant = Tenant(f"bank-{next(NUMBERS)}", shared_database_url, ledger, CommandPath(ledger, engine, deciders()))
    await tenant.do(opening("sea"))
    return tenant


def funded(events: list[Recorded[Any]]) -> list[int]:
    return [recorded.event.amount_minor for recorded in of(BudgetFunded, events)]


def has(kind: type[Any], number: int = 1) -> Any:
    return lambda events: len(of(kind, events)) >= number


async def test_steps_are_asked_for_one_after_another_and_put_on_record(at: Tenant) -> None:
    async with at.reacting(sagas=(presents(FIRST, SECOND),)):
        cause = ask(opening("lake"), at.of(ADM))
        await at.path.handle(cause)
        await at.do(opening("pond"))
        events = await at.eventually(has(SagaCompleted))
    assert funded(events) == [1, 2], "a pond begins none"
    steps = of(StepDone, events)
    assert [step.event.step for step in steps] == ["first", "second"]
    asked = [recorded for recorded in events if recorded.stream == f"action:{steps[0].event.answers[0].action_id}"]
    assert (asked[0].actor, asked[0].correlation, asked[0].event.intent.command) == (ACTOR, cause.action_id, "budgets.fund_budget")
    assert of(SagaStarted, events)[0].event.cause.stream == "budget:lake"
    assert of(DeadLetterRecorded, events) == []


class Judges:
    """Policies that can be away: an engine of the test's own that is closed, and another one that takes its place."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine

    async def rulebook(self, policies: PolicySet) -> PolicyEngine:
        return await self.engine.rulebook(policies)


async def test_a_step_waits_for_the_policies_to_come_back(at: Tenant, tmp_path: Path) -> None:
    bundle = Bundle.read(written(tmp_path / "policies", STAND_IN))
    judges = Judges(PolicyEngine(bundle, timeout_s=0.05))
    await judges.engine.start()
    judged = CommandPath(at.ledger, judges, deciders())
    patient = Saga("presents", (BudgetOpened,), of_lakes, (FIRST, SECOND), 60, retries=Retries(20, 0.02, 0.1))
    try:
        async with at.reacting(path=judged, sagas=(patient,)):
            await judges.engine.close()
            await at.do(opening("lake"))
            events = await at.eventually(has(StepFailed))
            assert (funded(events), len(of(SagaStarted, events))) == ([], 1), "it began, and says how far it came, without them"
            judges.engine = PolicyEngine(bundle, timeout_s=5)
            await judges.engine.start()
            events = await at.eventually(has(SagaCompleted))
    finally:
        await judges.engine.close()
    assert funded(events) == [1, 2]
    attempts = [failed.event.attempt for failed in of(StepFailed, events)]
    assert attempts == list(range(1, len(attempts) + 1)), "each attempt is counted"
    assert of(DeadLetterRecorded, events) == []


async def test_what_cannot_be_done_is_undone_backwards_and_left_to_be_replayed(at: Tenant) -> None:
    async with at.reacting(sagas=(presents(FIRST, SECOND, IMPOSSIBLE),)) as reads:
        await at.do(opening("lake"))
        events = await at.eventually(has(SagaCompensated))
        assert funded(events) == [1, 2, 200, 100]
        letter = of(DeadLetterRecorded, events)[0].event
        assert (letter.reaction, letter.code, letter.attempts, letter.command) == ("presents", "budget_not_found", 1, None)
        assert letter.saga_id == of(SagaStarted, events)[0].event.saga_id
        assert letter.cause.position == of(BudgetOpened, events)[-1].position

        await at.do(ReplayDeadLetter(letter_id=letter.letter_id), APP)  # nothing was mended yet
        events = await at.eventually(has(SagaCompensated, 2))
        assert len(of(DeadLetterRecorded, events)) == 2, "the saga began again, and came to the same end"
        await at.do(opening("nowhere"))
        again = of(DeadLetterRecorded, events)[1].event
        await at.do(ReplayDeadLetter(letter_id=again.letter_id), APP)
        events = await at.eventually(lambda events: bool(of(SagaCompleted, events)) and len(of(DeadLetterReplayed, events)) == 2)
        assert funded(events) == [1, 2, 200, 100] * 2 + [1, 2, 3]
        await caught_up(reads, at.ledger)
    assert await unequal(at.dsn, [PROJECTION]) == []


async def caught_up(reads: Any, ledger: Ledger) -> None:
    async with asyncio.timeout(10):
        while await reads.position() < ledger.head.size:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def test_with_each_alone_the_rest_goes_on_and_what_failed_is_replayed_alone(at: Tenant) -> None:
    async def three(_story: Story) -> list[Wanted]:
        return [Wanted(FundBudget(budget_id=name, amount_minor=amount)) for name, amount in (("sea", 1), ("nowhere", 2), ("sea", 3))]

    async def how_many(story: Story) -> list[Wanted]:
        done, failed = story.answers("three"), story.failures("three")
        assert [failure.stream for failure in failed] == ["budget:nowhere"]
        return [Wanted(FundBudget(budget_id="sea", amount_minor=10 * len(done)))]

    async with at.reacting(sagas=(presents(Step("three", three, each_alone=True), Step("told", how_many)),)):
        await at.do(opening("lake"))
        events = await at.eventually(has(SagaCompleted))
        assert funded(events) == [1, 3, 20]
        letter = of(DeadLetterRecorded, events)[0].event
        assert (letter.command, letter.inputs) == ("budgets.fund_budget", {"budget_id": "nowhere", "amount_minor": 2})
        await at.do(ReplayDeadLetter(letter_id=letter.letter_id))
        events = await at.eventually(has(DeadLetterReplayFailed))
        await at.do(DiscardDeadLetter(letter_id=letter.letter_id, reason="Nobody needs it"))
        events = await at.eventually(has(DeadLetterDiscarded))
    assert funded(events) == [1, 3, 20]
    again = [one.event for one in of(ActionBlocked, events) if one.event.intent.reason.startswith("Replay 1 of dead letter")]
    assert [one.code for one in again] == ["budget_not_found"]


async def test_a_refusal_worth_waiting_for_is_waited_for(at: Tenant) -> None:
    hopeful = Step("hopeful", funding("nowhere", 3), worth_waiting=frozenset({"budget_not_found"}))
    patient = Saga("presents", (BudgetOpened,), of_lakes, (hopeful,), 60, retries=Retries(50, 0.02, 0.1))
    async with at.reacting(sagas=(patient,)):
        await at.do(opening("lake"))
        await at.eventually(has(StepFailed))
        await at.do(opening("nowhere"))
        events = await at.eventually(has(SagaCompleted))
    assert funded(events) == [3]


async def test_a_step_that_fails_by_itself_is_tried_again_and_then_given_up(at: Tenant) -> None:
    tried = count(1)

    async def broken(_story: Story) -> list[Wanted]:
        raise KeyError(f"a bug, {next(tried)}")

    async def refusing(_story: Story) -> list[Wanted]:
        raise Refused("nobody_there", "There is nobody to ask for.")

    sagas = (presents(FIRST, Step("broken", broken)), Saga("refusing", (BudgetOpened,), of_lakes, (Step("no", refusing),), 60))
    async with at.reacting(sagas=sagas):
        await at.do(opening("lake"))
        events = await at.eventually(has(SagaCompensated, 2))
    codes = {letter.event.reaction: (letter.event.code, letter.event.attempts) for letter in of(DeadLetterRecorded, events)}
    assert codes == {"presents": ("step_failed", QUICK.attempts), "refusing": ("nobody_there", 1)}
    assert (funded(events), next(tried)) == ([1, 100], QUICK.attempts + 1)


async def test_a_step_waits_for_its_approval_and_no_longer_than_the_saga_may(at: Tenant) -> None:
    async def reserving(_story: Story) -> list[Wanted]:
        return [Wanted(ReserveFunds(budget_id="alp", amount_minor=5))]

    async def soon(recorded: Recorded[Any], _reads: ReadRows) -> datetime:
        return recorded.at + timedelta(seconds=3 if recorded.entity == "lake-2" else 60)

    sagas = (replace(presents(FIRST, Step("reserve", reserving)), until=soon),)
    await at.do(opening("alp", "CHF"))
    async with at.reacting(sagas=sagas):
        await at.do(opening("lake-1"))
        events = await at.eventually(has(StepParked))
        await at.do(ApproveRequest(approval_id=of(StepParked, events)[0].event.approval_id), APP)
        await at.do(opening("lake-2"))
        events = await at.eventually(has(SagaCompensated))
    assert (len(of(FundsReserved, events)), len(of(SagaCompleted, events)), len(of(SagaTimedOut, events))) == (1, 1, 1)
    (letter,) = of(DeadLetterRecorded, events)
    assert (letter.event.code, letter.event.cause.stream) == (TIMED_OUT, "budget:lake-2")
    assert funded(events) == [1, 1, 100], "what the late one had done is undone"


async def test_two_that_carry_on_one_saga_at_once_do_it_once(at: Tenant, engine: PolicyEngine) -> None:
    async with at.reacting(number=2) as reads:
        saga = presents(FIRST, SECOND, IMPOSSIBLE)
        await at.do(opening("lake"))
        cause = of(BudgetOpened, await at.events())[-1]
        await caught_up(reads, at.ledger)
        begin = await saga.start(cause, Rows(reads).at(cause.position), cause.at)
        await at.path.handle(ask_of(begin, asker(at.name), None, "Begun."))
        others = CommandPath(at.ledger, engine, deciders())
        managers = [ProcessManager(at.ledger, one, Rows(reads), DeadLetters(at.ledger, one), (saga,)) for one in (at.path, others)]
        ended = await asyncio.gather(*(one.advance(at.name, begin.saga_id) for one in managers))
        events = await at.events()
    assert funded(events) == [1, 2, 200, 100]
    assert (ended, len(of(SagaCompensated, events)), len(of(DeadLetterRecorded, events))) == ([None, None], 1, 1)


# -- the power goes in the middle of it


def killed_in_mid_saga(dsn: str, home: Path, saga: Saga, after_commands: int) -> None:
    """A process of its own that carries sagas on, and ends by SIGKILL after so many commands of its own."""
    pid = os.fork()
    if pid != 0:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return
    handle, asked = CommandPath.handle, count(1)

    async def handle_until(self: CommandPath, ask: Ask) -> Outcome:
        outcome = await handle(self, ask)
        if ask.by.actor == ACTOR and next(asked) == after_commands:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    CommandPath.handle = handle_until  # type: ignore[method-assign]
    try:
        uvloop.run(carried_on(dsn, home, saga))
    finally:
        os._exit(1)


async def carried_on(dsn: str, home: Path, saga: Saga) -> list[Recorded[Any]]:
    """Everything, once the saga has ended."""
    async with ledger_of(dsn, home) as ledger, policies(home / "policies") as engine:
        path = CommandPath(ledger, engine, deciders())
        async with reacting(dsn, ledger, path, sagas=(saga,)):
            return await eventually(ledger, has(SagaCompensated))


@pytest.mark.slow
def test_whoever_is_killed_in_mid_saga_carries_it_on_and_nothing_is_done_twice(database_url: str, tmp_path: Path) -> None:
    saga = presents(FIRST, SECOND, IMPOSSIBLE)

    async def begun() -> None:
        async with ledger_of(database_url, tmp_path) as ledger, policies(tmp_path / "policies") as engine:
            path = CommandPath(ledger, engine, deciders())
            await path.handle(ask(opening("sea"), ADM))
            await place_reactions(database_url, [saga], ledger.head.size)
            await path.handle(ask(opening("lake"), ADM))

    uvloop.run(begun())
    for after_commands in (1, 2, 1, 2):
        killed_in_mid_saga(database_url, tmp_path, saga, after_commands)
    events = uvloop.run(carried_on(database_url, tmp_path, saga))
    assert funded(events) == [1, 2, 200, 100]
    assert (len(of(SagaStarted, events)), len(of(DeadLetterRecorded, events))) == (1, 1)
