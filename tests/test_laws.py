"""The ledger's laws on a real PostgreSQL, with several processes' worth of Aureus writing to one database at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from commands import budgets
from commands.budgets import CommitFunds, FundBudget, OpenBudget, ReleaseFunds, ReserveFunds
from commands.outcome import Outcome
from commands.path import VersionMismatch
from domain.actions import ActionAllowed
from domain.budgets import BudgetOpened, BudgetTree, FundsReserved, path_of
from domain.kernel import Asked, Recorded
from domain.ledger import Append, Conflict, Receipt, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from tests.support.kernel import ADM, Process, ask, everything, outcomes, policies, processes, verification

pytestmark = pytest.mark.anyio

TREE: Final = ("lake", "lake.a", "lake.b", "lake.a.x")
LIMITS_MINOR: Final = (100, 60, 60, 40)
SMALL: Final = settings(
    max_examples=6,
    stateful_step_count=12,
    deadline=None,
    database=None,
    phases=(Phase.generate,),  # an example costs a database: to shrink one would take minutes, and it is short already
    suppress_health_check=list(HealthCheck),
)


# -- what must hold of any log


def broken_budgets(events: Iterable[Recorded[Any]]) -> list[str]:
    """Where 0 <= available <= limit does not hold, at any level, after any event of any tree."""
    trees: dict[str, BudgetTree] = {}
    found = []
    for recorded in events:
        if not recorded.stream.startswith("budget:"):
            continue
        tree = trees[recorded.stream] = budgets.DECIDER.evolve(trees.get(recorded.stream, BudgetTree()), recorded.event)
        found += [
            f"{budget.budget_id} at position {recorded.position}: {budget.available_minor} of {budget.limit_minor}"
            for budget in tree.budgets.values()
            if not 0 <= budget.available_minor <= budget.limit_minor
        ]
    return found


def broken_order(events: list[Recorded[Any]]) -> list[str]:
    """Gaps in positions, gaps in a stream's versions, times that fall."""
    found = []
    versions: Counter[tuple[str, str]] = Counter()
    for expected, recorded in enumerate(events, 1):
        if recorded.position != expected:
            found.append(f"position {recorded.position} where {expected} belongs")
        versions[recorded.tenant, recorded.stream] += 1
        if recorded.version != versions[recorded.tenant, recorded.stream]:
            found.append(f"version {recorded.version} of {recorded.stream} at position {recorded.position}")
    found += [f"time falls at position {after.position}" for before, after in pairwise(events) if after.at < before.at]
    return found


# -- several processes, told what to do by hypothesis


class Writers(RuleBasedStateMachine):
    """Two processes on one database: they know of each other what the log tells them, and nothing else."""

    dsn: str
    keystore: FileKeystore
    engine_folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.stack = AsyncExitStack()
        self.acknowledged: list[Outcome] = []
        self.keys: dict[str, set[str]] = {}
        self.held: list[tuple[str, str]] = []

    @initialize()
    def begin(self) -> None:
        self.both: list[Process] = self.runner.run(self._begin())

    async def _begin(self) -> list[Process]:
        database = f"law_{uuid4().hex}"
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as server:
            await server.execute(f'CREATE DATABASE "{database}" TEMPLATE template0'.encode())
        self.database = database
        address, mark, options = self.dsn.partition("?")
        engine = await self.stack.enter_async_context(policies(self.engine_folder))
        dsn = f"{address.rpartition('/')[0]}/{database}{mark}{options}"
        both = await self.stack.enter_async_context(processes(dsn, self.keystore, engine, 2))
        for budget_id, limit_minor in zip(TREE, LIMITS_MINOR, strict=True):
            await both[0].path.handle(
                ask(OpenBudget(budget_id=budget_id, label="L", currency="EUR", limit_minor=limit_minor, thresholds_percent=()), ADM)
            )
        return both

    async def _all(self, asked: list[tuple[int, Any]]) -> None:
        answers = await asyncio.gather(*(self.both[process].path.handle(one) for process, one in asked), return_exceptions=True)
        for (_, one), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Conflict):
                continue  # told so truthfully after several attempts
            if isinstance(answer, BaseException):
                raise answer
            self.acknowledged.append(answer)
            if one.idempotency_key is not None:
                self.keys.setdefault(one.idempotency_key, set()).add(answer.action_id)
            if isinstance(one.command, ReserveFunds) and answer.outcome == "allowed":
                self.held.append((one.command.budget_id, answer.events[0]["data"]["reservation_id"]))

    @rule(amounts=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(TREE), st.integers(1, 70)), min_size=1, max_size=8))
    def reserve(self, amounts: list[tuple[int, str, int]]) -> None:
        asked = [(process, ask(ReserveFunds(budget_id=name, amount_minor=minor))) for process, name, minor in amounts]
        self.runner.run(self._all(asked))

    @rule(key=st.sampled_from("kmn"), processes_at=st.lists(st.integers(0, 1), min_size=2, max_size=5))
    def reserve_with_one_key(self, key: str, processes_at: list[int]) -> None:
        command = ReserveFunds(budget_id="lake", amount_minor=1)
        self.runner.run(self._all([(process, ask(command, idempotency_key=key)) for process in processes_at]))

    @rule(process=st.integers(0, 1), spends=st.booleans(), minor=st.integers(0, 70))
    @precondition(lambda self: bool(self.held))
    def settle(self, process: int, spends: bool, minor: int) -> None:
        budget_id, reservation_id = self.held.pop()
        commit = CommitFunds(budget_id=budget_id, reservation_id=reservation_id, spent_minor=minor)
        release = ReleaseFunds(budget_id=budget_id, reservation_id=reservation_id)
        self.runner.run(self._all([(process, ask(commit if spends else release)), (1 - process, ask(release))]))

    @rule(process=st.integers(0, 1), name=st.sampled_from(TREE), minor=st.integers(1, 20))
    def fund(self, process: int, name: str, minor: int) -> None:
        self.runner.run(self._all([(process, ask(FundBudget(budget_id=name, amount_minor=minor), ADM))]))

    @invariant()
    def laws_hold(self) -> None:
        events = self.runner.run(everything(self.both[0].ledger)) if hasattr(self, "both") else []
        assert broken_order(events) == []
        assert broken_budgets(events) == []
        actions = [recorded.entity for recorded in events if recorded.stream.startswith("action:")]
        assert sorted({answer.action_id for answer in self.acknowledged} - set(actions)) == [], "acknowledged and not in the log"
        assert [key for key, answered in self.keys.items() if len(answered) > 1] == [], "one key, several actions"

    def teardown(self) -> None:
        try:
            if hasattr(self, "both"):
                found = self.runner.run(verification(self.both[1].ledger))
                assert found.problems == []
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            if hasattr(self, "database"):
                with psycopg.connect(self.dsn, autocommit=True) as server:
                    server.execute(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)'.encode())


def writers(dsn: str, keystore: FileKeystore, folder: Path) -> type[Writers]:
    return type("WritersHere", (Writers,), {"dsn": dsn, "keystore": keystore, "engine_folder": folder})


def test_the_laws_hold_for_two_processes_whatever_they_are_asked(postgres_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    run_state_machine_as_test(writers(postgres_url, keystore, tmp_path / "policies"), settings=SMALL)


def test_without_its_guard_the_budget_law_is_seen_to_break(
    postgres_url: str, keystore: FileKeystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above checks: with the guard taken out of the budgets' rules, it finds the money that is not there."""

    def careless(_tree: BudgetTree, command: ReserveFunds, asked: Asked) -> list[FundsReserved]:
        promised = FundsReserved(
            budget_id=command.budget_id,
            reservation_id=str(asked.action_id),
            amount_minor=command.amount_minor,
            path=path_of(command.budget_id),
        )
        return [promised]

    monkeypatch.setattr(budgets, "_reserve", careless)
    with pytest.raises(AssertionError, match=r"lake.* at position"):
        run_state_machine_as_test(writers(postgres_url, keystore, tmp_path / "policies"), settings=SMALL)


# -- the cases that chance would take long to find


async def test_a_decision_upon_what_never_happened_is_made_again(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    """One process decides B upon its own A. Another one's C takes A's version first: B's expected version is there, but it
    is C's. Accepting B would spend money that C has taken.
    """
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 2) as (here, there):
        await here.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100, thresholds_percent=()), ADM))
        reserve = [ReserveFunds(budget_id="lake", amount_minor=minor) for minor in (60, 40, 100)]
        await there.path.handle(ask(reserve[2]))
        answers = await outcomes(here.path.handle(ask(reserve[0])), here.path.handle(ask(reserve[1])))
        assert [answer.code for answer in answers] == ["budget_exceeded", "budget_exceeded"]
        assert broken_budgets(await everything(there.ledger)) == []


async def test_if_match_is_compared_with_the_log_not_with_what_a_process_last_knew(
    database_url: str, keystore: FileKeystore, tmp_path: Path
) -> None:
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 2) as (here, there):
        await here.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100, thresholds_percent=()), ADM))
        await there.path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM))
        with pytest.raises(VersionMismatch) as mismatch:
            await here.path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM, if_match=9))
        assert mismatch.value.actual == 2
        funded = await here.path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM, if_match=2))
        assert (funded.outcome, funded.version) == ("allowed", 3)


async def test_positions_have_no_gap_and_no_tie_under_two_ledgers(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    opened = BudgetOpened(budget_id="lake", label="L", currency="EUR", limit_minor=1)
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 2) as both:

        async def write(number: int, process: Process) -> list[Receipt]:
            receipts = []
            for version in range(12):
                streams = (StreamWrite(f"budget:{number}", version, (opened,)), StreamWrite(f"budget:twin-{number}", version, (opened,)))
                receipts.append(await process.ledger.append(Append("acme", "usr-ana", streams, uuid7())))
            return receipts

        receipts = [one for many in await asyncio.gather(*(write(number, both[number % 2]) for number in range(16))) for one in many]
        events = await everything(both[0].ledger)
        assert broken_order(events) == []
        assert len(events) == 3 + 2 * 16 * 12
        taken = [position for receipt in receipts for position in range(receipt.first_position, receipt.last_position + 1)]
        assert sorted(taken) == list(range(4, len(events) + 1)), "each receipt names its own events, and no others"
        found = await verification(both[1].ledger)
        assert (found.problems, found.events) == ([], len(events))


async def test_a_key_used_at_two_processes_at_once_is_answered_once(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 2) as both:
        await both[0].path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=1_000), ADM))
        command = ReserveFunds(budget_id="lake", amount_minor=1)
        for key in map(str, range(10)):
            asked = [both[number % 2].path.handle(ask(command, idempotency_key=key)) for number in range(6)]
            assert len({answer.action_id for answer in await asyncio.gather(*asked)}) == 1
        events = [recorded.event for recorded in await everything(both[0].ledger)]
        assert sum(isinstance(event, FundsReserved) for event in events) == 10
        assert sum(isinstance(event, ActionAllowed) for event in events) == 11
