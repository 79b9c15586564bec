"""Relaying for tests: events in a ledger, what a topic holds of them, and a relay in a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import aiokafka

from domain.budgets import BudgetOpened
from domain.values import uuid7
from infra.kafka import client_options
from infra.kafka_settings import KafkaPlace
from infra.keystore import FileKeystore
from infra.ledger import Append, Ledger, StreamWrite
from infra.opening import open_ledger
from infra.tasks import ended
from streams.leading import Connection
from streams.positions import move
from streams.records import Stretch, stretch_of
from streams.relay import Relay

PATIENCE_SECONDS: Final = 45.0
OPENED: Final = BudgetOpened(budget_id="lake", label="L", currency="EUR", limit_minor=1)
_NUMBERS: Final = count(1)
Record = Any
"""An aiokafka.ConsumerRecord."""


def new_place(servers: str, **more: Any) -> KafkaPlace:
    """With a topic that no other test has seen."""
    return KafkaPlace(servers=(servers,), topic=f"test.{os.getpid()}.{next(_NUMBERS)}", **more)


async def append(ledger: Ledger, streams: int, each: int = 1) -> int:
    """So many events in each of so many new streams, in one command; returns the position of the last."""
    names = [f"budget:{uuid7()}" for _ in range(streams)]
    writes = tuple(StreamWrite(name, 0, (OPENED,) * each, fresh=True) for name in names)
    receipt = await ledger.append(Append("acme", "usr-ana", writes, uuid7()))
    return receipt.first_position + streams * each - 1


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it looks at plain attributes
            await asyncio.sleep(0.01)


@asynccontextmanager
async def relaying(*relays: Relay) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        await ended(*tasks)


async def records(place: KafkaPlace, topic: str | None = None) -> list[Record]:
    """Everything that the topic holds now, as a plain consumer reads it: each partition in order, one after another."""
    consumer = aiokafka.AIOKafkaConsumer(topic or place.topic, **client_options(place), auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[Record] = []
        while [partition for partition, end in ends.items() if await consumer.position(partition) < end]:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += batch
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


def by_partition(found: Iterable[Record]) -> list[list[Stretch]]:
    """What the records of each partition speak for."""
    partitions: dict[int, list[Stretch]] = {}
    for record in found:
        ledger = dict(record.headers)["ledger"].decode()
        partitions.setdefault(record.partition, []).append(stretch_of(record.partition, record.value, record.headers, ledger))
    return [partitions[partition] for partition in sorted(partitions)]


def told(chain: Iterable[Stretch]) -> list[int]:
    """The positions that a reader of one partition learns of, who drops what it has seen; fails at a hole."""
    reached, positions = 0, []
    for stretch in chain:
        assert stretch.after <= reached, f"nothing is said about ({reached}, {stretch.after}]"
        positions += [event.position for event in stretch.events if event.position > reached]
        reached = max(reached, stretch.until)
    return positions


def all_told(found: Iterable[Record]) -> list[int]:
    """The positions that readers of all partitions learn of, together."""
    return sorted(position for chain in by_partition(found) for position in told(chain))


def started(dsn: str, keys: Path, place: KafkaPlace, kill_before_move: int = 0) -> subprocess.Popen[bytes]:
    """A relay in a process of its own; with `kill_before_move`, kill -9 hits it when the so many-th batch is acknowledged, not noted."""
    command = [sys.executable, "-m", __name__, dsn, str(keys), *place.servers, place.topic, str(kill_before_move)]
    return subprocess.Popen(command)


async def _relay(dsn: str, keys: str, servers: str, topic: str, kill_before_move: str) -> None:
    calls = count(1)

    async def moving(connection: Connection, names: Iterable[str], position: int) -> None:
        if next(calls) == int(kill_before_move):
            os.kill(os.getpid(), signal.SIGKILL)
        await move(connection, names, position)

    ledger = await open_ledger(dsn, FileKeystore.open(Path(keys)))
    with patch("streams.relay.move", moving):
        await Relay(ledger, dsn, KafkaPlace(servers=(servers,), topic=topic)).run()


if __name__ == "__main__":
    asyncio.run(_relay(*sys.argv[1:]))
