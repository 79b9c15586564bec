"""Read models as folds of the log: built again they are the same, at any position, and they stop rather than skip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from api.services import projections
from commands.access import RegisterActor
from commands.approvals import ApproveRequest
from commands.budgets import CommitFunds, FundBudget, OpenBudget, ReserveFunds
from domain.budgets import BudgetFunded, BudgetOpened
from domain.kernel import EVENTS, Event, Recorded, UnknownEvent
from domain.ledger import Append, StreamWrite
from domain.values import ActorKind, Role, uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.read_models import ReadModelWriter, create_read_models
from infra.read_queries import Reads
from infra.read_rows import encode
from infra.rebuild import rebuild
from infra.tasks import ended
from projections.engine import Projection, ReadTable, replay
from streams.progress import Progress
from streams.runner import Runner
from tests.support.kernel import ADM, ANA, APP, Process, ask, catch_up, everything, policies, processes, quiet, unequal

pytestmark = pytest.mark.anyio


@pytest.fixture
async def process(database_url: str, keystore: FileKeystore, tmp_path: Path) -> AsyncIterator[Process]:
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 1) as (here,):
        yield here


async def busy(here: Process) -> None:
    """A history with something of every kind of action: allowed, blocked, parked, approved, personal."""
    await here.path.handle(ask(RegisterActor(actor_id="usr-x", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,)), ADM))
    for name, currency in (("lake", "EUR"), ("lake.a", "EUR"), ("alp", "CHF")):
        await here.path.handle(ask(OpenBudget(budget_id=name, label="L", currency=currency, limit_minor=100), ADM))
    for minor in (30, 50, 40):
        reserved = await here.path.handle(ask(ReserveFunds(budget_id="lake.a", amount_minor=minor)))
        if reserved.outcome == "allowed" and minor == 30:
            held = reserved.events[0]["data"]["reservation_id"]
            await here.path.handle(ask(CommitFunds(budget_id="lake.a", reservation_id=held, spent_minor=20)))
    await here.path.handle(ask(FundBudget(budget_id="lake", amount_minor=5), ADM))
    francs = ReserveFunds(budget_id="alp", amount_minor=10)
    parked = await here.path.handle(ask(francs, ANA))
    assert parked.approval is not None
    approval_id = parked.approval["approval_id"]
    await here.path.handle(ask(ApproveRequest(approval_id=approval_id), APP))
    assert (await here.path.handle(ask(francs, ANA, approval_id=approval_id))).outcome == "allowed"


async def test_a_rebuild_equals_what_is_live_however_it_was_cut_into_batches(process: Process, database_url: str) -> None:
    await busy(process)
    for batch_events in (1, 7, 500):
        await catch_up(database_url, process.ledger, batch_events=batch_events)
        await process.path.handle(ask(FundBudget(budget_id="lake", amount_minor=batch_events), ADM))
        await busy_more(process)
    await catch_up(database_url, process.ledger, batch_events=3)
    assert await unequal(database_url) == []


async def busy_more(here: Process) -> None:
    await asyncio.gather(*(here.path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=1))) for _ in range(5)))


async def test_every_event_told_twice_changes_nothing(process: Process, database_url: str) -> None:
    await busy(process)
    await catch_up(database_url, process.ledger)
    events = await everything(process.ledger)
    writer = await ReadModelWriter.connect(database_url, projections())
    assert await writer.lead_all()
    for batch in (events, events[: len(events) // 2], events[-3:]):
        await writer.advance(batch)
    await writer.close()
    assert await unequal(database_url) == []


async def test_a_row_as_of_a_position_is_what_a_replay_to_it_gives(process: Process, database_url: str) -> None:
    await busy(process)
    reached = await catch_up(database_url, process.ledger, batch_events=7)
    events = await everything(process.ledger)
    reads = Reads(database_url, projections())
    await reads.open()
    ends = {projection.name: replay(projection, events) for projection in projections()}
    compared = 0
    for position in range(reached + 1):
        for projection in projections():
            rows = replay(projection, [recorded for recorded in events if recorded.position <= position])
            for table in projection.tables:
                for tenant in ("acme", "system"):
                    ids = [key[2] for key in {**rows, **ends[projection.name]} if key[:2] == (table.name, tenant)]
                    told = await reads.many(table, tenant, ids, as_of=position)
                    expected = {row_id: rows[table.name, tenant, row_id] for row_id in ids if (table.name, tenant, row_id) in rows}
                    assert told == {row_id: orjson.loads(encode(row)) for row_id, row in expected.items()}, (position, table.name)
                    compared += len(told)
    await reads.close()
    assert compared > reached


# -- what stops, and what does not


@dataclass(frozen=True, slots=True)
class Limit:
    """A row of a projection of this test's own."""

    limit_minor: int


def limits(*, breaks_on: int | None = None, loses: int | None = None) -> Projection:
    """A projection that fails on an event that funds `breaks_on`, or does not find the row of one that funds `loses`."""
    table: ReadTable[Limit] = ReadTable("limits", Limit)

    def whose(recorded: Recorded[BudgetOpened | BudgetFunded]) -> list[str]:
        if isinstance(recorded.event, BudgetFunded) and recorded.event.amount_minor == loses:
            raise KeyError("nobody thought of this amount")
        return [recorded.entity]

    @table.on(BudgetOpened, BudgetFunded, keys=whose)
    def limit(_row: Limit | None, recorded: Recorded[BudgetOpened | BudgetFunded], _row_id: str) -> Limit:
        event = recorded.event
        if isinstance(event, BudgetFunded) and event.amount_minor == breaks_on:
            raise ZeroDivisionError("nobody thought of this amount")
        return Limit(event.limit_minor)

    return Projection("mistaken", (table,))


async def funded(here: Process, *amounts: int) -> None:
    await here.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100), ADM))
    for minor in amounts:
        await here.path.handle(ask(FundBudget(budget_id="lake", amount_minor=minor), ADM))


@pytest.mark.parametrize("mistaken", [limits(breaks_on=13), limits(loses=13)], ids=["fold", "keys"])
async def test_what_fails_stops_its_projection_alone_and_says_why(process: Process, database_url: str, mistaken: Projection) -> None:
    await funded(process, 1, 13, 2)
    following = (*projections(), mistaken)
    await catch_up(database_url, process.ledger, following, batch_events=2)
    writer = await ReadModelWriter.connect(database_url, following)
    assert await writer.lead_all()
    standings = await writer.standings()
    await writer.close()
    failing = next(e for e in await everything(process.ledger) if isinstance(e.event, BudgetFunded) and e.event.amount_minor == 13)
    stopped = standings["mistaken"]
    assert stopped.position < failing.position
    assert stopped.stopped is not None
    for named in (f"position {failing.position}", "budgets.budget_funded", "budget:lake", "nobody thought of this amount"):
        assert named in stopped.stopped
    assert {standing.position for name, standing in standings.items() if name != "mistaken"} == {process.ledger.head.size}
    assert {standing.stopped for name, standing in standings.items() if name != "mistaken"} == {None}


async def test_a_mended_fold_is_recovered_by_a_rebuild_and_goes_on(process: Process, database_url: str) -> None:
    await funded(process, 1, 13, 2)
    await catch_up(database_url, process.ledger, (*projections(), limits(breaks_on=13)))
    mended = (*projections(), limits())
    assert (await rebuild(database_url, limits(), swap=True, accept_changes=False, progress=quiet)).swapped
    assert await catch_up(database_url, process.ledger, mended) == process.ledger.head.size
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await (await connection.execute("SELECT doc FROM read_mistaken.limits WHERE to_position > %s", (1_000_000,))).fetchall()
    assert rows == [({"limit_minor": 116},)]
    assert await unequal(database_url, mended) == []


async def test_an_unknown_event_stops_the_reader_with_its_name(
    process: Process, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version of Aureus wrote; this one has no class for it, and must not pass over it."""
    await funded(process, 1)
    await catch_up(database_url, process.ledger)
    before = process.ledger.head.size
    await process.path.handle(ask(FundBudget(budget_id="lake", amount_minor=2), ADM))
    with monkeypatch.context() as older:
        older.delitem(EVENTS._classes, "budgets.budget_funded")
        with pytest.raises(UnknownEvent, match=r"budgets\.budget_funded"):
            await catch_up(database_url, process.ledger)
        writer = await ReadModelWriter.connect(database_url, projections())
        assert await writer.lead_all()
        assert {standing.position for standing in (await writer.standings()).values()} == {before}
        await writer.close()
    assert await catch_up(database_url, process.ledger) == process.ledger.head.size
    assert await unequal(database_url) == []


# -- the runner


async def test_the_runner_follows_and_outlives_the_loss_of_its_connections(process: Process, database_url: str) -> None:
    await create_read_models(database_url, projections())
    progress = Progress()
    following = asyncio.create_task(Runner(process.ledger, database_url, projections(), progress).run())
    try:
        await funded(process, 1)
        assert await progress.wait_for(process.ledger.head.size, 10)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            await owner.execute(kill)
        await process.path.handle(ask(FundBudget(budget_id="lake", amount_minor=2), ADM))
        assert await progress.wait_for(process.ledger.head.size, 20)
    finally:
        await ended(following)
    assert await unequal(database_url) == []


async def test_two_runners_share_the_work_without_doing_it_twice(process: Process, database_url: str, keystore: FileKeystore) -> None:
    await create_read_models(database_url, projections())
    other: Ledger = await open_ledger(database_url, keystore)
    reads = Reads(database_url, projections())
    await reads.open()
    both = [(ledger, Progress(reads)) for ledger in (process.ledger, other)]
    following = [asyncio.create_task(Runner(ledger, database_url, projections(), progress).run()) for ledger, progress in both]
    try:
        await busy(process)
        for _, progress in both:
            assert await progress.wait_for(process.ledger.head.size, 10)
    finally:
        await ended(*following)
        await reads.close()
        await other.close()
    assert await unequal(database_url) == []


@pytest.mark.parametrize("label", ["tab\tand\nline", "back\\slash", 'quo"te', "\u2028 \U0001f600", "nul\x00byte", "\x1b[31m"])
async def test_whatever_text_the_ledger_takes_the_read_models_take_too(process: Process, database_url: str, label: str) -> None:
    """A text that one takes and the other refuses would stop every read model for good."""
    event: Event = BudgetOpened(budget_id="lake", label=label, currency="EUR", limit_minor=1)
    append: Any = Append("acme", "usr-ana", (StreamWrite("budget:lake", 0, (event,)),), uuid7())
    try:
        await process.ledger.append(append)
    except ValueError:
        return  # refused at the door, with its field
    assert await catch_up(database_url, process.ledger) == process.ledger.head.size
    assert await unequal(database_url) == []
