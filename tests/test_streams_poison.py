"""What cannot be folded stops what cannot fold it, and nothing passes it; two ways for events to travel are one to the read models."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from api.cli.failures import ExitCode
from api.services import projections
from domain.budgets import FundsCommitted
from domain.kernel import Recorded
from infra.keystore import FileKeystore
from infra.rebuild import rebuild
from infra.tasks import ended
from projections.engine import Projection, ReadTable
from streams import positions
from streams.faust_app import group_name
from streams.moving import Whole
from streams.progress import Progress
from streams.records import Stretch
from streams.relay import Relay, stretches
from streams.runner import Runner
from tests.support.kafka import Kafka
from tests.support.kernel import quiet
from tests.support.streams import Streams, streams, until

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


async def retype(s: Streams, position: int, known: str, unknown: str) -> None:
    """Gives an event another type, as a later version might have written it."""
    async with await psycopg.AsyncConnection.connect(s.dsn, autocommit=True) as connection:
        await connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        query = """
            UPDATE ledger.events SET type = %s, body = convert_to(replace(convert_from(body, 'UTF8'), %s, %s), 'UTF8')
            WHERE position = %s AND type = %s
        """
        assert (await connection.execute(query, (unknown, f'"{known}"', f'"{unknown}"', position, known))).rowcount == 1


async def test_an_event_of_a_later_version_stops_the_worker_and_an_upgrade_goes_on(
    database_url: str, keystore: FileKeystore, kafka: Kafka
) -> None:
    async with streams(database_url, keystore, kafka) as s:
        await s.write(100)
        poison = [event.position for event in await s.ledger.read() if isinstance(event.event, FundsCommitted)][-1]
        await retype(s, poison, "budgets.funds_committed", "budgets.funds_melted")
        async with s.relaying():
            with s.aureus_worker("--all", "-n", "2") as process:
                said = await asyncio.to_thread(process.communicate, timeout=40)
            assert process.returncode == ExitCode.OUTDATED, said[0]
            assert "no event is named 'budgets.funds_melted'" in said[0]
            assert await s.position() < poison
            await retype(s, poison, "budgets.funds_melted", "budgets.funds_committed")
            async with s.working():
                await s.level()


def fragile(at: int) -> Projection:
    """The budgets, whose fold fails at one position."""
    budgets = next(projection for projection in projections() if projection.name == "budgets")

    def careful(fold: Any) -> Any:
        def folding(row: Any, recorded: Recorded[Any], row_id: str) -> Any:
            assert recorded.position != at, "it trips"
            return fold(row, recorded, row_id)

        return folding

    def tripping(table: ReadTable[Any]) -> ReadTable[Any]:
        folds = {event: [(keys, careful(fold)) for keys, fold in found] for event, found in table.folds.items()}
        return dataclasses.replace(table, folds=folds)

    return dataclasses.replace(budgets, tables=tuple(tripping(table) for table in budgets.tables))


async def test_a_fold_that_fails_stops_its_projection_alone(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    async with streams(database_url, keystore, kafka) as s, s.relaying():
        await s.write(100)
        poison = [event.position for event in await s.ledger.read() if isinstance(event.event, FundsCommitted)][-1]
        others = [projection for projection in projections() if projection.name != "budgets"]
        async with s.working([fragile(poison), *others]) as worker:
            await s.write(100)
            await s.reach(s.ledger.head.size, [projection.name for projection in others])
            assert "it trips" in worker.state.stopped["budgets"]
            async with await psycopg.AsyncConnection.connect(s.dsn) as connection:
                query = "SELECT position FROM projections.positions WHERE name = 'budgets'"
                assert (await (await connection.execute(query)).fetchone() or (poison,))[0] < poison, "nothing passed it"
        mended = next(projection for projection in projections() if projection.name == "budgets")
        assert (await rebuild(s.dsn, mended, swap=True, accept_changes=True, progress=quiet)).swapped
        async with s.working():
            await s.write(100)
            await s.level()


async def test_an_exception_on_the_way_is_neither_acknowledged_nor_passed_over(
    database_url: str, keystore: FileKeystore, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust would commit what the code that got it raised on (DESIGN s.8)."""
    take, broken = Whole.take, True

    async def failing(self: Whole, brought: Sequence[Stretch]) -> None:
        if broken:
            raise RuntimeError("not today")
        await take(self, brought)

    monkeypatch.setattr(Whole, "take", failing)
    monkeypatch.setattr("streams.worker.PATIENCE_SECONDS", 1_000.0)
    monkeypatch.setattr("streams.faust_app.COMMIT_SECONDS", 0.1)
    async with streams(database_url, keystore, kafka) as s, s.relaying() as relay, s.working() as worker:
        await s.write(100)
        await until(lambda: "not today" in str(worker.state.last_error))
        await asyncio.sleep(1)
        assert await committed(s) == {}
        broken = False
        await s.level()
        await until(lambda: relay.position == s.ledger.head.size)
        await until(lambda: committed(s))


async def committed(s: Streams) -> dict[TopicPartition, Any]:
    """What the group of all read models has told Kafka is done."""
    admin = AIOKafkaAdminClient(bootstrap_servers=s.place.servers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group_name(s.ledger.name))
    finally:
        await admin.close()
    return {partition: offset for partition, offset in found.items() if partition.topic == s.place.topic}


async def test_a_relay_killed_between_sending_and_noting_it(
    database_url: str, keystore: FileKeystore, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sent it sends again, in other records: the read models have it once."""
    note, deaths = positions.move, 0

    async def dying(*given: Any) -> None:
        nonlocal deaths
        if deaths < 5:
            deaths += 1
            raise psycopg.OperationalError("the process is gone")
        await note(*given)

    monkeypatch.setattr("streams.relay.move", dying)
    async with streams(database_url, keystore, kafka) as s:
        await s.write(100)  # and nothing more until it is sent for good, or what is sent again brings something new with it
        async with s.relaying(), s.working() as worker:
            await until(lambda: deaths == 5)
            async with s.writing():
                await s.moved()
            await s.level()
            assert worker.state.duplicates > 0


async def test_two_relays_at_once_double_every_record_and_no_event(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    """As if both led: one that hangs, and another that took over."""
    async with streams(database_url, keystore, kafka) as s, s.relaying(pack_from=20), s.working() as worker:
        other = dataclasses.replace(stretches(s.place.topic, s.ledger.name, pack_from=7), lock=7_283_699, name="another relay")
        task = asyncio.create_task(Relay(s.ledger, s.dsn, s.place, rendering=other).run())
        async with s.writing():
            await until(lambda: worker.state.duplicates > 200)
        await ended(task)
        await s.level()


async def test_from_one_mode_to_the_other_and_back_without_a_rebuild(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    async with streams(database_url, keystore, kafka) as s, s.writing():
        for _ in range(2):
            runner = asyncio.create_task(Runner(s.ledger, s.dsn, projections(), Progress()).run())
            await s.moved()
            await ended(runner)
            async with s.relaying(), s.working():
                await s.moved()
                await s.reach(s.ledger.head.size)
    async with streams(database_url, keystore, kafka) as s:
        runner = asyncio.create_task(Runner(s.ledger, s.dsn, projections(), Progress()).run())
        await s.level()
        await ended(runner)
