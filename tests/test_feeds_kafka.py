"""Live feeds fed by a real broker: what it brings is told once and in order, and what it withholds comes from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from commands.budgets import OpenBudget
from infra.kafka_settings import KafkaPlace
from infra.ledger import Ledger
from infra.tasks import ended
from projections.budgets import budgets
from streams.changes import Wanted
from streams.feeds import Feed, Feeds
from streams.listening import brought_by_kafka
from streams.relay import Relay
from streams.tail import Entry
from tests.support.kafka import Kafka
from tests.support.kernel import ADM, ask
from tests.support.relaying import new_place, relaying, until
from tests.support.running import Aureus, running

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Listener:
    """Reads a feed to its end, which is when it is cancelled."""

    def __init__(self, feed: Feed) -> None:
        self.began, self.reached = feed.position, feed.position
        self.told: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._listen(feed))

    async def _listen(self, feed: Feed) -> None:
        while True:
            step = await feed.next()
            self.told += [orjson.loads(data) for _, data in step.messages]
            self.reached = step.reached


@asynccontextmanager
async def followed(aureus: Aureus, place: KafkaPlace) -> AsyncIterator[tuple[Listener, Listener]]:
    """The events and the changed budgets, as feeds beside a relay tell them."""
    services = aureus.services
    feeds = Feeds(services.ledger, services.reads, services.progress, services.projections, brought_by_kafka(place, services.ledger.name))
    async with (
        relaying(Relay(services.ledger, services.dsn, place)),
        feeds.events(ADM, None, lambda _: True) as events,
        feeds.changes(ADM, None, {"budgets": Wanted(budgets, ADM.tenant)}) as changes,
    ):
        listeners = Listener(events), Listener(changes)
        try:
            yield listeners
        finally:
            await ended(*(listener.task for listener in listeners))


async def write(aureus: Aureus, names: range, pause_seconds: float = 0.0) -> int:
    position = 0
    for name in names:
        command = OpenBudget(budget_id=f"lake{name}", label="L", currency="EUR", limit_minor=1)
        position = (await aureus.services.path.handle(ask(command, ADM))).position
        await asyncio.sleep(pause_seconds)
    return position


async def untouched(_ledger: Ledger, after: int, _until: int | None = None) -> list[Entry]:
    raise AssertionError(f"what follows {after} was looked for in the ledger")


def require_everything_once(events: Listener, changes: Listener, last: int, names: range) -> None:
    assert [one["position"] for one in events.told] == list(range(events.began + 1, last + 1))
    changed = [one["id"] for batch in changes.told for one in batch["changes"]]
    assert changed == [f"lake{name}" for name in names]


async def test_what_the_relay_sends_is_told_without_a_look_at_the_ledger(
    database_url: str, tmp_path: Path, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database_url, tmp_path) as aureus, followed(aureus, new_place(kafka.servers)) as (events, changes):
        last = await write(aureus, range(3), 0.3)
        await until(lambda: changes.reached >= last)  # the ledger helps out until Kafka keeps up
        monkeypatch.setattr("streams.following.from_ledger", untouched)
        monkeypatch.setattr("streams.following.PATIENCE_SECONDS", 3_600)
        last = await write(aureus, range(3, 60))
        await until(lambda: changes.reached >= last and events.reached >= last)
        require_everything_once(events, changes, last, range(60))


async def test_nothing_is_lost_or_doubled_when_the_broker_dies_and_comes_back(
    database_url: str, tmp_path: Path, kafka_of_its_own: Kafka
) -> None:
    broker = kafka_of_its_own
    async with running(database_url, tmp_path) as aureus, followed(aureus, new_place(broker.servers)) as (events, changes):
        last = await write(aureus, range(10))
        await until(lambda: changes.reached >= last)
        writing = asyncio.create_task(write(aureus, range(10, 210), 0.03))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(broker.kill)
        during = await write(aureus, range(210, 220))
        await until(lambda: events.reached >= during and changes.reached >= during, 5)  # while it is away
        await asyncio.to_thread(broker.start)
        last = max(await writing, await write(aureus, range(220, 230)))
        await until(lambda: events.reached >= last and changes.reached >= last)
        assert [one["position"] for one in events.told] == list(range(events.began + 1, last + 1))
        changed = [one["id"] for batch in changes.told for one in batch["changes"]]
        assert sorted(changed) == sorted(f"lake{name}" for name in range(230))


async def test_feeds_that_end_while_the_broker_is_dead_leave_nothing_behind(
    database_url: str, tmp_path: Path, kafka_of_its_own: Kafka
) -> None:
    place = new_place(kafka_of_its_own.servers)
    async with running(database_url, tmp_path) as aureus:
        await write(aureus, range(2))
        before = asyncio.all_tasks()
        async with AsyncExitStack() as stack:
            listeners = [(await stack.enter_async_context(followed(aureus, place)))[0] for _ in range(8)]
            last = await write(aureus, range(2, 8), 0.2)
            await until(lambda: all(events.reached >= last for events in listeners))
            await asyncio.to_thread(kafka_of_its_own.kill)
            last = await write(aureus, range(8, 12), 0.5)
            await until(lambda: all(events.reached >= last for events in listeners), 10)
        await until(lambda: not asyncio.all_tasks() - before, 5)
