"""A rebuild proves the live rows: equal when they are what the ledger leads to, telling the table when they are not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from api.services import projections
from bench.workload import History
from domain.budgets import BudgetClosed, BudgetFunded, BudgetOpened
from domain.catalog import DatasetRegistered, Jurisdiction, PiiLevel, Profile, TermDefined, TermLinked
from domain.kernel import Event, Recorded, UnknownEvent, timestamp
from domain.values import uuid7
from infra import rebuild as rebuilding
from infra.keystore import FileKeystore
from infra.ledger import Append, Ledger, StreamWrite
from infra.opening import open_ledger
from infra.read_models import create_read_models
from infra.read_queries import ListQuery, Reads
from infra.rebuild import Rebuilt, rebuild, rebuild_all
from infra.tasks import ended
from projections.budgets import PROJECTION as BUDGETS
from projections.engine import Projection, ProjectionError, ReadTable, read_row
from streams.progress import Progress
from streams.runner import Runner
from tests.support.samples import samples

pytestmark = [pytest.mark.anyio, pytest.mark.postgres15]
EVENTS = 300
PROFILE = Profile(name="Orders", domain="sales", pii_level=PiiLevel.NONE, jurisdiction=Jurisdiction.EU)


@pytest.fixture
async def ledger(database_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    await create_read_models(database_url, projections())
    await opened.append(Append("acme", "usr-ana", History(0).take(EVENTS), uuid7()))
    yield opened
    await opened.close()


async def write(ledger: Ledger, stream: str, expected: int, *events: Event) -> None:
    await ledger.append(Append("acme", "usr-ana", (StreamWrite(stream, expected, events),), uuid7()))


async def follow(ledger: Ledger, dsn: str, *extra: Projection) -> Runner:
    """Lets the live projections read everything there is."""
    progress = Progress()
    runner = Runner(ledger, dsn, (*projections(), *extra), progress)
    running = asyncio.create_task(runner.run())
    assert await progress.wait_for(ledger.head.size, 20)
    await ended(running)
    return runner


async def silent(_phase: str, _done: int, _total: int) -> None:
    return None


async def again(dsn: str, *, swap: bool = False) -> list[Rebuilt]:
    return await rebuild_all(dsn, projections(), swap=swap, accept_changes=False, progress=silent)


@pytest.mark.parametrize("process_events_min", [1, 1_000_000], ids=["in processes", "in threads"])
async def test_a_rebuild_comes_to_the_rows_that_are_live(
    ledger: Ledger, database_url: str, process_events_min: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "PROCESS_EVENTS_MIN", process_events_min)
    await follow(ledger, database_url)
    first = await again(database_url, swap=True)
    assert {result.projection for result in first if result.equal and result.swapped} == {each.name for each in projections()}
    assert all(result.position == ledger.head.size for result in first)
    await write(ledger, "budget:lake", 0, BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100))
    await follow(ledger, database_url)
    assert all(result.equal for result in await again(database_url))


async def test_ids_with_any_character_are_copied_as_they_are(ledger: Ledger, database_url: str) -> None:
    await write(ledger, "term:odd", 0, TermDefined(term_id="odd", name="Odd", definition="a\\b\tc\nd"))
    await write(
        ledger,
        "dataset:odd",
        0,
        DatasetRegistered(dataset_id="odd", profile=PROFILE),
        TermLinked(dataset_id="odd", column="back\\slash\tand\ntab \\N", term_id="odd"),
    )
    await follow(ledger, database_url)
    assert all(result.equal for result in await again(database_url))


async def test_a_row_that_somebody_changed_is_found_and_put_right_only_on_demand(ledger: Ledger, database_url: str) -> None:
    await follow(ledger, database_url)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("""UPDATE read_budgets.budgets SET doc = doc || '{"limit_minor": 1}' WHERE id = 'lake-0'""")
        found = await rebuild(database_url, BUDGETS, swap=True, accept_changes=False, progress=silent)
        assert (found.equal, found.swapped) == (False, False)
        assert [table for table in found.live if found.live[table] != found.built[table]] == ["budgets"]
        await rebuild(database_url, BUDGETS, swap=True, accept_changes=True, progress=silent)
        assert (await rebuild(database_url, BUDGETS, swap=False, accept_changes=False, progress=silent)).equal
        left = await (await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'build\\_%'")).fetchall()
        assert left == []


@read_row
class Seen:
    """How many budgets were closed."""

    count: int


fragile_table = ReadTable("seen", Seen)


@fragile_table.on(BudgetOpened, keys=lambda _recorded: ("all",))
def opened(row: Seen | None, _recorded: Recorded[BudgetOpened], _id: str) -> Seen:
    return Seen(row.count + 1 if row else 1)


@fragile_table.on(BudgetClosed, keys=lambda _recorded: ("all",))
def closed(_row: Seen | None, _recorded: Recorded[BudgetClosed], _id: str) -> Seen:
    raise ArithmeticError("closed")


FRAGILE = Projection("fragile", (fragile_table,))


async def test_a_failing_fold_ends_the_rebuild_and_names_the_event(ledger: Ledger, database_url: str) -> None:
    await create_read_models(database_url, [FRAGILE])
    opening = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
    await write(ledger, "budget:lake", 0, opening, BudgetClosed(budget_id="lake"))
    await follow(ledger, database_url)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("UPDATE projections.positions SET position = %s WHERE name = 'fragile'", (ledger.head.size,))
    with pytest.raises(ProjectionError, match=rf"fragile stopped at position {ledger.head.size} .*budget:lake version 2.*closed"):
        await rebuild(database_url, FRAGILE, swap=True, accept_changes=True, progress=silent)


async def test_a_projection_that_stops_does_not_hold_up_the_others_and_a_rebuild_sets_it_running(
    ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_read_models(database_url, [FRAGILE])
    opening = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
    await write(ledger, "budget:lake", 0, opening, BudgetClosed(budget_id="lake"))
    runner = await follow(ledger, database_url, FRAGILE)
    assert "budget:lake version 2" in runner.stopped["fragile"]
    folds: dict[Any, Any] = fragile_table.folds
    monkeypatch.setitem(folds, BudgetClosed, [(lambda _recorded: (), closed)])
    monkeypatch.delitem(vars(FRAGILE), "folds", raising=False)
    assert (await rebuild(database_url, FRAGILE, swap=True, accept_changes=True, progress=silent)).swapped
    await write(ledger, "budget:lake", 2, BudgetFunded(budget_id="lake", amount_minor=1, limit_minor=101))
    assert (await follow(ledger, database_url, FRAGILE)).stopped == {}


@read_row
class Level:
    limit_minor: int
    raised: int | None = None


def levels(*, counting: bool) -> Projection:
    """Limits of budgets, and in its second version how often each was raised."""
    table: ReadTable[Level] = ReadTable("levels", Level, filters=("raised",))

    @table.on(BudgetOpened, BudgetFunded)
    def level(row: Level | None, recorded: Recorded[BudgetOpened | BudgetFunded], _id: str) -> Level:
        raised = (row.raised or 0) + 1 if row else 0
        return Level(recorded.event.limit_minor, raised if counting else None)

    return Projection("levels", (table,), version=1 + counting)


async def test_a_new_column_comes_beside_the_old_ones_and_no_read_fails_while_it_takes_their_place(
    ledger: Ledger, database_url: str
) -> None:
    old, new = levels(counting=False), levels(counting=True)
    await create_read_models(database_url, [old])
    await write(ledger, "budget:lake", 0, BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100))
    await follow(ledger, database_url, old)
    progress = Progress()
    moving = asyncio.create_task(Runner(ledger, database_url, (*projections(), new), progress).run())
    reads = Reads(database_url, [*projections(), new])
    await reads.open()
    seen: list[list[Level]] = [[], [], []]

    async def reading(levels_seen: list[Level]) -> None:
        while True:
            found = await reads.get(new.tables[0], "acme", "lake")
            page = await reads.page(new.tables[0], "acme", ListQuery())
            assert found is not None
            assert len(page.documents) == 2, "this one, and the one of the history"
            levels_seen.append(Level(**orjson.loads(found.document)))

    readers = [asyncio.create_task(reading(levels_seen)) for levels_seen in seen]
    for number in range(1, 7):
        await write(ledger, "budget:lake", number, BudgetFunded(budget_id="lake", amount_minor=1, limit_minor=100 + number))
        assert (await rebuild(database_url, new, swap=True, accept_changes=True, progress=silent)).swapped
    position = (await ledger.refresh()).size
    assert await progress.wait_for(position, 20)
    assert [reader.exception() for reader in readers if reader.done()] == [], "a read failed"
    await asyncio.sleep(0.1)
    await ended(*readers, moving)
    await reads.close()
    for levels_seen in seen:
        assert levels_seen[-1] == Level(106, 6)
        assert [level.limit_minor for level in levels_seen] == sorted(level.limit_minor for level in levels_seen)
    assert all(result.equal for result in await rebuild_all(database_url, [new], swap=False, accept_changes=False, progress=silent))


async def test_an_event_that_this_version_does_not_know_ends_the_rebuild(ledger: Ledger, database_url: str) -> None:
    await follow(ledger, database_url)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        await connection.execute(
            """
            UPDATE ledger.events SET type = 'budgets.budget_melted',
                body = convert_to(replace(convert_from(body, 'UTF8'), type, 'budgets.budget_melted'), 'UTF8') WHERE position = 20
            """
        )
    with pytest.raises(UnknownEvent, match=r"budgets\.budget_melted"):
        await rebuild(database_url, BUDGETS, swap=True, accept_changes=True, progress=silent)


async def test_what_is_read_is_what_was_recorded(ledger: Ledger) -> None:
    """Ids and time are read late; they are the same whoever asks, and however often."""
    action = uuid7()
    start = ledger.head.size
    for number, event in enumerate(samples().values()):
        await ledger.append(Append("acme", "usr-ana", (StreamWrite(f"sample:{number}", 0, (event,)),), action))
    read = await ledger.read(start, 1_000)
    for recorded, event in zip(read, samples().values(), strict=True):
        withheld = event.model_copy(update=dict.fromkeys(event.personal))
        assert recorded.event == withheld
        assert type(recorded.event) is type(event)
        assert recorded.correlation == action
        assert recorded.causation is None
        assert recorded.at_text == timestamp(recorded.at)
        assert (recorded.tenant, recorded.actor, recorded.version) == ("acme", "usr-ana", 1)
        assert recorded.id.version == 7
        assert len(recorded.leaf) == 32
