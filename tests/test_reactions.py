"""Reactions: what happened leads to what is asked, once, however often it is tried and whoever tries it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from api.services import deciders, projections
from commands.budgets import FundBudget, OpenBudget
from commands.path import CommandPath
from domain.budgets import BudgetClosed, BudgetFunded, BudgetOpened
from domain.kernel import Command, Recorded
from infra.keystore import FileKeystore
from infra.ledger import Ledger, LedgerUnavailable
from infra.opening import open_ledger
from infra.policy import PolicyEngine
from infra.read_models import create_read_models
from projections.budgets import budgets
from streams.reactions import ACTOR, Due, Reaction, ReadRows, Sweep
from tests.support.kernel import ADM, ask, policies
from tests.support.reacting import eventually, reacting

pytestmark = pytest.mark.anyio


async def welcome(recorded: Recorded[BudgetOpened], reads: ReadRows) -> list[Command]:
    """A new budget gets ten as a present - unless the read models do not know it yet, which would be a mistake of ours."""
    row = await reads.row(budgets, recorded.tenant, recorded.event.budget_id)
    assert row is not None
    return [FundBudget(budget_id=recorded.event.budget_id, amount_minor=10)]


WELCOME: Final = Reaction("welcome", (BudgetOpened,), welcome)


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies")) as opened:
        yield opened


@pytest.fixture
async def ledger(database_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    await create_read_models(database_url, projections())
    yield opened
    await opened.close()


@pytest.fixture
def path(ledger: Ledger, engine: PolicyEngine) -> CommandPath:
    return CommandPath(ledger, engine, deciders())


def funded(events: list[Recorded[Any]]) -> list[Recorded[Any]]:
    return [recorded for recorded in events if isinstance(recorded.event, BudgetFunded)]


def opening(number: int) -> OpenBudget:
    return OpenBudget(budget_id=f"lake-{number}", label="Lake", currency="EUR", limit_minor=100)


async def test_what_happened_leads_to_a_command_through_the_one_path(database_url: str, ledger: Ledger, path: CommandPath) -> None:
    async with reacting(database_url, ledger, path, WELCOME):
        cause = ask(opening(1), ADM)
        await path.handle(cause)
        events = await eventually(ledger, lambda events: bool(funded(events)))
    (answer,) = funded(events)
    assert (answer.actor, answer.stream, answer.correlation) == (ACTOR, "budget:lake-1", cause.action_id)
    assert answer.stream != events[-1].stream, "the action that it was is in the audit log as well"
    assert events[-1].event.intent.reason.startswith("Reaction welcome to position ")


async def test_years_gone_by_are_not_reacted_to_and_nothing_is_missed_between_two_runs(
    database_url: str, ledger: Ledger, path: CommandPath
) -> None:
    await path.handle(ask(opening(1), ADM))
    async with reacting(database_url, ledger, path, WELCOME):
        await path.handle(ask(opening(2), ADM))
        await eventually(ledger, lambda events: bool(funded(events)))
    await path.handle(ask(opening(3), ADM))
    async with reacting(database_url, ledger, path, WELCOME):
        events = await eventually(ledger, lambda events: len(funded(events)) > 1)
    assert [recorded.stream for recorded in funded(events)] == ["budget:lake-2", "budget:lake-3"]


async def test_whoever_was_killed_half_way_asks_again_and_nothing_happens_twice(
    database_url: str, ledger: Ledger, path: CommandPath
) -> None:
    async with reacting(database_url, ledger, path, WELCOME):
        for number in range(5):
            await path.handle(ask(opening(number), ADM))
        await eventually(ledger, lambda events: len(funded(events)) == 5)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE streams.positions SET position = 0")  # what it had come to was not written down any more
    async with reacting(database_url, ledger, path, WELCOME):
        await path.handle(ask(opening(9), ADM))
        events = await eventually(ledger, lambda events: len(funded(events)) >= 6)
    assert len(funded(events)) == 6


async def test_of_several_processes_one_reacts(database_url: str, ledger: Ledger, path: CommandPath) -> None:
    reacted: list[str] = []

    async def counting(recorded: Recorded[BudgetOpened], reads: ReadRows) -> list[Command]:
        reacted.append(recorded.event.budget_id)
        return await welcome(recorded, reads)

    async with reacting(database_url, ledger, path, Reaction("counting", (BudgetOpened,), counting), number=3):
        for number in range(5):
            await path.handle(ask(opening(number), ADM))
        await eventually(ledger, lambda events: len(funded(events)) == 5)
    assert reacted == [f"lake-{number}" for number in range(5)]


async def test_a_reaction_that_cannot_go_on_waits_and_passes_over_nothing(database_url: str, ledger: Ledger, path: CommandPath) -> None:
    failures = [LedgerUnavailable("gone", "The database is gone.", "Wait."), KeyError("a bug")]

    async def failing(recorded: Recorded[BudgetOpened], reads: ReadRows) -> list[Command]:
        if failures:
            raise failures.pop()
        return await welcome(recorded, reads)

    async with reacting(database_url, ledger, path, Reaction("failing", (BudgetOpened,), failing)):
        for number in (1, 2):
            await path.handle(ask(opening(number), ADM))
        events = await eventually(ledger, lambda events: len(funded(events)) == 2)
    assert [recorded.stream for recorded in funded(events)] == ["budget:lake-1", "budget:lake-2"]


async def test_a_refused_command_is_in_the_audit_log_and_holds_nobody_up(database_url: str, ledger: Ledger, path: CommandPath) -> None:
    async def impossible(recorded: Recorded[Any], _reads: ReadRows) -> list[Command]:
        missing = recorded.event.budget_id == "lake-1"
        return [FundBudget(budget_id="nowhere" if missing else "lake-2", amount_minor=1)]

    async with reacting(database_url, ledger, path, Reaction("impossible", (BudgetOpened, BudgetClosed), impossible)):
        for number in (1, 2):
            await path.handle(ask(opening(number), ADM))
        events = await eventually(ledger, lambda events: bool(funded(events)))
    codes = [recorded.event.code for recorded in events if recorded.event.event_name == "actions.action_blocked"]
    assert codes == ["budget_not_found"]


async def test_a_sweep_asks_once_for_what_it_finds_again_and_again(database_url: str, ledger: Ledger, path: CommandPath) -> None:
    rounds = 0

    async def find(reads: ReadRows, _now: datetime) -> list[Due]:
        nonlocal rounds
        rounds += 1
        found: list[Due] = []
        for tenant in await reads.tenants(budgets):
            for row in await reads.rows(budgets, tenant, {"status": ["open"]}):
                found.append((tenant, row["budget_id"], FundBudget(budget_id=row["budget_id"], amount_minor=1)))  # noqa: PERF401
        return found

    async with reacting(database_url, ledger, path, sweeps=(Sweep("gift", 0.0, find),)):
        for number in (1, 2):
            await path.handle(ask(opening(number), ADM))
        events = await eventually(ledger, lambda events: len(funded(events)) >= 2 and rounds > 4)
    assert sorted(recorded.stream for recorded in funded(events)) == ["budget:lake-1", "budget:lake-2"]
