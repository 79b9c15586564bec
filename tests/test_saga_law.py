"""The law of sagas: whoever is killed when, whatever the policies say and however many carry one on at once, a command of a step is
carried out at most once, steps come in their order, a saga comes to one end, and an end of compensation has undone what was done."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from api.services import deciders
from commands.budgets import FundBudget, OpenBudget
from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from commands.policy import ENGINE, Verdict
from domain.actions import PolicyResult
from domain.budgets import BudgetFunded, BudgetOpened
from domain.kernel import JsonObject, Recorded
from domain.policies import PolicySet
from domain.reactions import SagaCompensated, SagaCompensating, SagaCompleted, SagaEvent
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_memory_ledger
from streams import process_manager
from streams.asking import ask_of
from streams.dead_letters import DeadLetters
from streams.process_manager import ProcessManager
from streams.reactions import ReadRows, Retries, asker
from streams.sagas import Saga, Step, Story, Wanted
from tests.support.kernel import ADM, ask, everything

STEPS: Final = 3
EACH: Final = 2
"""So many commands has a step."""
UNDOING: Final = 1_000
"""What undoes a present of 12 is one of 1,012: every command of a saga is one amount."""


class Killed(BaseException):
    """The power went."""


class Moody:
    """Policies in whatever mood the machine is: they allow, they refuse one amount, or they give no answer."""

    version = "moody"

    def __init__(self) -> None:
        self.away = False
        self.refused: set[int] = set()

    async def rulebook(self, _policies: PolicySet) -> Moody:
        return self

    async def check(self, question: JsonObject) -> Verdict:
        if self.away:
            return Verdict("block", (PolicyResult(policy=ENGINE, outcome="block", reason="Nobody is there."),))
        refused = question["action"] == "budgets.fund_budget" and question["facts"]["amount_up_to"] in self.refused
        outcome: Literal["block", "allow"] = "block" if refused else "allow"
        return Verdict(outcome, (PolicyResult(policy="moods", outcome=outcome, reason="A mood."),))


class Mortal(CommandPath):
    """A command path whose process dies before or after so many commands."""

    left: float = float("inf")

    async def handle(self, ask: Ask) -> Outcome:
        self.left -= 0.5
        if self.left < 0:
            raise Killed
        outcome = await super().handle(ask)
        self.left -= 0.5
        if self.left < 0:
            raise Killed
        return outcome


async def always(_recorded: Recorded[Any], _reads: ReadRows) -> bool:
    return True


def presents(number: int, *, undoing: bool) -> Any:
    async def asking(_story: Story) -> list[Wanted]:
        more = UNDOING if undoing else 0
        return [Wanted(FundBudget(budget_id="lake", amount_minor=more + 10 * number + each)) for each in range(EACH)]

    return asking


def saga(name: str, timeout_seconds: float) -> Saga:
    steps = tuple(Step(f"step-{number}", presents(number, undoing=False), presents(number, undoing=True)) for number in range(1, STEPS + 1))
    return Saga(name, (BudgetOpened,), always, steps, timeout_seconds, retries=Retries(3, 0.0, 0.0))


SAGAS: Final = (saga("in_time", 3_600), saga("too_late", 0))


class Nowhere:
    """Read models that none of these steps looks at."""

    def at(self, _position: int) -> Nowhere:
        return self


class Slow(CommandPath):
    """A command path whose process hangs before it asks for a present."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.hangs, self.goes_on = asyncio.Event(), asyncio.Event()

    async def handle(self, ask: Ask) -> Outcome:
        if isinstance(ask.command, FundBudget):
            self.hangs.set()
            await self.goes_on.wait()
        return await super().handle(ask)


async def begun(ledger: Ledger, path: CommandPath, which: Saga) -> str:
    """The id of a saga that has begun on a fresh ledger."""
    await path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=0, thresholds_percent=()), ADM))
    (cause,) = [one for one in await everything(ledger) if isinstance(one.event, BudgetOpened)]
    start = await which.start(cause, Nowhere(), cause.at)  # type: ignore[arg-type]
    await path.handle(ask_of(start, asker("acme"), None, "Begun."))
    return start.saga_id


def managing(ledger: Ledger, path: CommandPath, *sagas: Saga) -> ProcessManager:
    return ProcessManager(ledger, path, Nowhere(), DeadLetters(ledger, path), sagas)  # type: ignore[arg-type]


class SagaLaw(RuleBasedStateMachine):
    """The law is written over what happened alone; it shares nothing with the guards."""

    keystore: FileKeystore

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.moody = Moody()

    def teardown(self) -> None:
        """Whatever happened: left alone, it comes to its end."""
        try:
            if hasattr(self, "id"):
                self.moody.away = False
                self.runner.run(self._alone())
                self.hold(ended=True)
        finally:
            if hasattr(self, "ledger"):
                self.runner.run(self.ledger.close())
            self.runner.close()

    async def _alone(self) -> None:
        manager = managing(self.ledger, CommandPath(self.ledger, self.moody, deciders()), *SAGAS)
        while await manager.advance("acme", self.id) is not None:
            pass

    @initialize(which=st.sampled_from(SAGAS), refused=st.sets(st.sampled_from([11, 20, 31, 1_010, 1_021]), max_size=2))
    def begin(self, which: Saga, refused: set[int]) -> None:
        self.moody.refused = refused
        self.runner.run(self._begin(which))

    async def _begin(self, which: Saga) -> None:
        self.ledger: Ledger = await open_memory_ledger(self.keystore)
        self.id = await begun(self.ledger, CommandPath(self.ledger, self.moody, deciders()), which)

    @rule(lives=st.lists(st.integers(0, 12).map(lambda halves: halves / 2), min_size=1, max_size=2))
    def carried_on_until_killed(self, lives: list[float]) -> None:
        """By one process or by two at once, each of which dies after so many commands."""
        self.runner.run(self._carried_on(lives))

    async def _carried_on(self, lives: list[float]) -> None:
        paths = [Mortal(self.ledger, self.moody, deciders()) for _ in lives]
        for path, left in zip(paths, lives, strict=True):
            path.left = left
        await asyncio.gather(*(self._until_killed(path) for path in paths))

    async def _until_killed(self, path: CommandPath) -> None:
        with suppress(Killed):
            await managing(self.ledger, path, *SAGAS).advance("acme", self.id)

    @rule(away=st.booleans())
    def the_policies_come_and_go(self, away: bool) -> None:
        self.moody.away = away

    @invariant()
    def the_law(self) -> None:
        if hasattr(self, "id"):
            self.hold(ended=False)

    def hold(self, *, ended: bool) -> None:
        events = self.runner.run(everything(self.ledger))
        amounts = [one.event.amount_minor for one in events if isinstance(one.event, BudgetFunded)]
        done = [amount for amount in amounts if amount < UNDOING]
        steps = [amount // 10 for amount in done]
        story: list[SagaEvent] = [one.event for one in events if one.stream == f"saga:{self.id}"]
        ends = [event for event in story if isinstance(event, SagaCompleted | SagaCompensated)]
        assert max(Counter(amounts).values(), default=0) <= 1, f"carried out twice: {amounts}"
        assert steps == sorted(steps), f"out of order: {amounts}"
        assert len(ends) <= 1
        assert story[-1] in ends or not ends, "nothing happens after the end"
        assert len(ends) == 1 or not ended, "it comes to an end"
        first_undone = next((at for at, amount in enumerate(amounts) if amount >= UNDOING), len(amounts))
        assert all(amount >= UNDOING for amount in amounts[first_undone:]), "nothing is done once the undoing has begun"
        if any(isinstance(end, SagaCompleted) for end in ends):
            assert len(done) == len(amounts) == STEPS * EACH
        for end in ends:
            if isinstance(end, SagaCompensated):
                undone = {amount - UNDOING for amount in amounts if amount >= UNDOING}
                assert len(set(done) - undone) <= end.left_undone, f"left as it is: {set(done) - undone}"
                assert any(isinstance(event, SagaCompensating) for event in story)


def test_the_law_holds_whoever_is_killed_and_whatever_the_policies_say(tmp_path: Path) -> None:
    machine = type("Law", (SagaLaw,), {"keystore": FileKeystore.open(tmp_path / "keys")})
    few = settings(max_examples=40, stateful_step_count=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=few)


def test_the_law_is_broken_where_a_step_is_not_bound_to_how_far_the_saga_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were attempts told apart by chance and not by the ledger, a kill would do twice what was done."""
    monkeypatch.setattr(process_manager, "digest_of", lambda _command: uuid4().hex * 2)
    machine = type("Broken", (SagaLaw,), {"keystore": FileKeystore.open(tmp_path / "keys")})
    many = settings(
        max_examples=100,
        report_multiple_bugs=False,
        stateful_step_count=8,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError, match="carried out twice"):
        run_state_machine_as_test(machine, settings=many)


@pytest.mark.anyio
async def test_who_hung_does_nothing_more_in_a_saga_that_others_have_undone(tmp_path: Path) -> None:
    """It was about to ask when the time was over: what it asks for then is bound to how far the saga had come, and refused."""
    ledger = await open_memory_ledger(FileKeystore.open(tmp_path / "keys"))
    slow, quick = Slow(ledger, Moody(), deciders()), CommandPath(ledger, Moody(), deciders())
    hasty = saga("hasty", 0.5)
    try:
        saga_id = await begun(ledger, quick, hasty)
        hanging = asyncio.create_task(managing(ledger, slow, hasty).advance("acme", saga_id))
        await slow.hangs.wait()
        await asyncio.sleep(hasty.timeout_seconds)
        assert await managing(ledger, quick, hasty).advance("acme", saga_id) is None
        slow.goes_on.set()
        assert await hanging is None
        amounts = [one.event.amount_minor for one in await everything(ledger) if isinstance(one.event, BudgetFunded)]
    finally:
        await ledger.close()
    assert amounts == [UNDOING + 10, UNDOING + 11], "only what made good the step that might have been under way"
