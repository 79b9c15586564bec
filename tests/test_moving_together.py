"""Read models moved otherwise than batch after batch: by several who share the streams, and one batch ahead of what is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from api.services import projections
from commands.budgets import FundBudget, OpenBudget, ReserveFunds
from domain.kernel import Recorded
from infra.folding_ahead import FoldingAhead
from infra.keystore import FileKeystore
from infra.partitions import partition_of
from infra.read_models import Gap, ReadModelWriter, Repartitioned, create_read_models
from infra.rebuild import rebuild
from streams.records import Stretch
from tests.support.kernel import ADM, Process, ask, catch_up, everything, policies, processes, quiet, unequal
from tests.test_projections import limits

pytestmark = pytest.mark.anyio
PARTITIONS = 3
SHARED = tuple(projection for projection in projections() if projection.ordering == "stream")
TOTAL = tuple(projection for projection in projections() if projection.ordering == "total")
NAMES = [projection.name for projection in SHARED]


@pytest.fixture
async def process(database_url: str, keystore: FileKeystore, tmp_path: Path) -> AsyncIterator[Process]:
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 1) as (here,):
        await create_read_models(database_url, projections())
        yield here


async def busy(here: Process, trees: int = 4, commands: int = 12) -> None:
    for tree in range(trees):
        await here.path.handle(ask(OpenBudget(budget_id=f"lake{tree}", label="L", currency="EUR", limit_minor=10**6), ADM))
    for number in range(commands):
        await here.path.handle(ask(ReserveFunds(budget_id=f"lake{number % trees}", amount_minor=1)))


def stretches(history: Sequence[Recorded[Any]], partition: int, ends: Sequence[int], of: int = PARTITIONS) -> list[Stretch]:
    """A partition of a history, cut where the relay's batches ended."""
    its = [recorded for recorded in history if partition_of(recorded.tenant, recorded.stream, of) == partition]
    cuts = [0, *ends]
    return [
        Stretch(partition, of, after, until, tuple(recorded for recorded in its if after < recorded.position <= until))
        for after, until in pairwise(cuts)
    ]


async def writer_of(dsn: str, following: Sequence[Any] = SHARED) -> ReadModelWriter:
    return await ReadModelWriter.connect(dsn, following)


async def test_those_who_share_the_streams_out_come_to_the_same_rows_in_whatever_order_they_move(
    process: Process, database_url: str
) -> None:
    await busy(process)
    history = await everything(process.ledger)
    size, dice = len(history), Random(7)
    waiting = {partition: stretches(history, partition, [*range(5, size, 5), size]) for partition in range(PARTITIONS)}
    writers = {partition: await writer_of(database_url) for partition in range(PARTITIONS)}
    while left := [partition for partition in waiting if waiting[partition]]:
        chosen = [partition for partition in left if dice.random() < 0.6] or left
        taken = {partition: [waiting[partition].pop(0) for _ in range(min(2, len(waiting[partition])))] for partition in chosen}
        # Side by side, as in several processes; and each stretch twice, as Kafka may deliver it.
        await asyncio.gather(*(writers[partition].advance_stretches(its, NAMES) for partition, its in taken.items()))
        await asyncio.gather(*(writers[partition].advance_stretches(its, NAMES) for partition, its in taken.items()))
        await writers[0].settle(NAMES)
        positions = {standing.position for standing in (await writers[0].standings()).values()}
        assert positions == {min([its[0].after for its in waiting.values() if its] or [size])}
    for writer in writers.values():
        await writer.close()
    await catch_up(database_url, process.ledger, TOTAL)
    assert await unequal(database_url) == []


async def test_a_stretch_that_leaves_a_gap_is_refused_and_names_where_it_begins(process: Process, database_url: str) -> None:
    await busy(process)
    history = await everything(process.ledger)
    writer = await writer_of(database_url)
    first, _, third = stretches(history, 1, [5, 10, len(history)])
    await writer.advance_stretches([first], NAMES)
    with pytest.raises(Gap) as gap:
        await writer.advance_stretches([third], NAMES)
    assert (gap.value.partition, gap.value.of, gap.value.position) == (1, PARTITIONS, 5)
    await writer.close()


async def test_progress_of_another_number_of_partitions_is_levelled_from_the_ledger_first(process: Process, database_url: str) -> None:
    await busy(process)
    history = await everything(process.ledger)
    writer = await writer_of(database_url)
    await writer.advance_stretches(stretches(history, 1, [len(history)]), NAMES)
    with pytest.raises(Repartitioned, match="3 partitions"):
        await writer.advance_stretches(stretches(history, 1, [len(history)], of=5), NAMES)
    await writer.close()
    # Whoever moves them whole takes the rest in, and nothing of partition 1 twice.
    assert await catch_up(database_url, process.ledger) == len(history)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        assert await (await connection.execute("SELECT * FROM projections.ahead")).fetchall() == []
    writer = await writer_of(database_url)
    await busy(process, commands=3)
    later = await everything(process.ledger)
    its = stretches(later, 4, [len(history), len(later)], of=5)
    await writer.advance_stretches(its[1:], NAMES)
    await writer.close()
    assert await unequal(database_url, SHARED) == []


async def test_a_rebuild_takes_the_place_of_tables_whose_partitions_are_ahead(process: Process, database_url: str) -> None:
    await busy(process)
    history = await everything(process.ledger)
    half = len(history) // 2
    writer = await writer_of(database_url)
    for partition in range(PARTITIONS):
        its = stretches(history, partition, [half, len(history)])
        await writer.advance_stretches(its if partition else its[:1], NAMES)
    await writer.settle(NAMES)
    for projection in SHARED:
        assert (await rebuild(database_url, projection, swap=True, accept_changes=False, progress=quiet)).swapped
    await writer.advance_stretches(stretches(history, 0, [half, len(history)])[1:], NAMES)
    await writer.settle(NAMES)
    assert {standing.position for standing in (await writer.standings()).values()} == {len(history)}
    await writer.close()
    assert await unequal(database_url, SHARED) == []


async def test_a_failing_fold_stops_its_projection_and_the_others_share_on(process: Process, database_url: str) -> None:
    following = (*SHARED, limits(breaks_on=13))
    await create_read_models(database_url, following)
    await process.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100), ADM))
    await process.path.handle(ask(FundBudget(budget_id="lake", amount_minor=13), ADM))
    history = await everything(process.ledger)
    writer = await writer_of(database_url, following)
    for partition in range(PARTITIONS):
        await writer.advance_stretches(stretches(history, partition, [len(history)]), [*NAMES, "mistaken"])
    await writer.settle([*NAMES, "mistaken"])
    standings = await writer.standings()
    assert "nobody thought of this amount" in (standings.pop("mistaken").stopped or "")
    assert {standing.position for standing in standings.values()} == {len(history)}
    await writer.close()
    assert await unequal(database_url, SHARED) == []


# -- one batch ahead


async def test_folding_ahead_of_what_is_written_comes_to_the_same_rows(process: Process, database_url: str) -> None:
    await busy(process, commands=60)
    history = await everything(process.ledger)
    dice = Random(11)
    writer = await writer_of(database_url, projections())
    assert await writer.lead_all()
    ahead = await FoldingAhead.open(database_url, writer)
    reached = 0
    while reached < len(history):
        reached = await ahead.advance(history[reached : reached + dice.randint(1, 9)])
        if dice.random() < 0.2:
            assert await ahead.land() == reached
    assert await ahead.land() == len(history)
    await ahead.close()
    await writer.close()
    assert await unequal(database_url) == []


async def test_what_was_folded_ahead_is_thrown_away_when_a_rebuild_came_in_between(process: Process, database_url: str) -> None:
    await busy(process, commands=30)
    history = await everything(process.ledger)
    writer = await writer_of(database_url, projections())
    assert await writer.lead_all()
    ahead = await FoldingAhead.open(database_url, writer)
    for start in (0, 10, 20):
        assert await ahead.advance(history[start : start + 10]) == start + 10
    await ahead.land()
    for projection in projections():
        if projection.name == "budgets":
            async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
                await owner.execute("UPDATE read_budgets.budgets SET doc = jsonb_set(doc, '{reserved_minor}', '999')")
            # What was tampered with is put right by the rebuild; the next batch must stand on that, not on what was loaded before.
            assert (await rebuild(database_url, projection, swap=True, accept_changes=True, progress=quiet)).swapped
    assert await ahead.advance(history[30:40]) == 40
    assert await ahead.land() == 30
    assert await ahead.advance(history[30:40]) == 40
    reached = await ahead.advance(history[40:])
    assert await ahead.land() == reached == len(history)
    await ahead.close()
    await writer.close()
    assert await unequal(database_url) == []


async def test_a_failing_fold_is_left_to_the_writer_that_stops_it(process: Process, database_url: str) -> None:
    following = (*projections(), limits(breaks_on=13))
    await create_read_models(database_url, following)
    await process.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100), ADM))
    for minor in (1, 13, 2, 3):
        await process.path.handle(ask(FundBudget(budget_id="lake", amount_minor=minor), ADM))
    history = await everything(process.ledger)
    writer = await writer_of(database_url, following)
    assert await writer.lead_all()
    ahead = await FoldingAhead.open(database_url, writer)
    reached = 0
    while reached < len(history):
        reached = await ahead.advance(history[reached : reached + 2])
    assert await ahead.land() == len(history)
    assert "nobody thought of this amount" in writer.stopped["mistaken"]
    await ahead.close()
    await writer.close()
    assert await unequal(database_url) == []
