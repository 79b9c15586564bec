"""`project_faust` and `visible_kafka`: the read models of every context, moved by what a real Kafka broker and Faust bring."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import faust

from api.services import projections
from api.workers import spare_the_collector
from bench.append import ledger
from bench.bulk import Importer, history
from bench.lab import CannotMeasure, Lab
from bench.live import LONGEST_SECONDS, forget_read_models, percentiles, waits
from bench.measure import Figure, Goal, Sample
from bench.relay import ONE_BY_ONE
from infra.kafka import ensure_topic
from infra.kafka_settings import KafkaPlace
from infra.ledger import Ledger
from infra.read_models import create_read_models
from infra.read_queries import Reads
from infra.tasks import ended
from streams.faust_app import following
from streams.progress import Progress, watch
from streams.relay import PACK_FROM, Relay, stretches
from tests.support.kafka import Kafka

EVENTS: Final = 60_000
TAKEN_AT_ONCE: Final = 1_000
WITHIN_SECONDS: Final = 0.1
SERVING_BATCH: Final = 64
_LOOK_SECONDS: Final = 0.002
_NUMBERS: Final = count(1)


@dataclass(frozen=True)
class Relayed:
    """A ledger, and two topics that hold all of it: one event per record, and many."""

    ledger: Ledger
    dsn: str
    single: KafkaPlace
    packed: KafkaPlace
    records: int
    """In the first of them."""


@contextmanager
def _relayed(lab: Lab) -> Iterator[Relayed]:
    with _broker(lab) as servers, lab.database("faust") as dsn, ledger(lab, dsn) as opened:
        lab.run(Importer(opened, history()).add(lab.scaled(EVENTS)))

        async def told(pack_from: int) -> tuple[KafkaPlace, int]:
            place = KafkaPlace(servers=(servers,), topic=f"faust-{next(_NUMBERS)}")
            rendering = replace(
                stretches(place.topic, opened.name, pack_from=pack_from), name=place.topic
            )  # a place of its own: from the first event
            relay = Relay(opened, dsn, place, rendering=rendering)
            running = asyncio.create_task(relay.run())
            await _until(lambda: relay.position == opened.head.size)
            await ended(running)
            return place, relay.sent_records

        single, records = lab.run(told(ONE_BY_ONE))
        packed, _ = lab.run(told(PACK_FROM))
        spare_the_collector()
        yield Relayed(opened, dsn, single, packed, records)


@contextmanager
def _broker(lab: Lab) -> Iterator[str]:
    """A broker; the collector is set for everybody as it is in a worker, and put back."""
    broker, thresholds = Kafka(lab.subfolder("kafka")), gc.get_threshold()
    try:
        broker.start()
        yield broker.servers
    finally:
        broker.stop()
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        while not done():  # noqa: ASYNC110 - it looks at plain attributes
            await asyncio.sleep(_LOOK_SECONDS)


@contextmanager
def catches_up(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """One worker, from empty read models to the end of the topic; a new group each time, from its first batch to its last."""
    with _relayed(lab) as relayed:

        async def rate(place: KafkaPlace) -> float:
            await forget_read_models(relayed.dsn)
            group = f"bench-{next(_NUMBERS)}"  # new, so it is brought everything
            async with following(place, relayed.ledger, relayed.dsn, projections(), Progress(), group=group) as (worker, _):
                size = relayed.ledger.head.size
                await _until(lambda: worker.state.position > 0)
                began, started = worker.state.position, time.perf_counter()
                await _until(lambda: worker.state.position == size)
                if worker.state.refilled:
                    raise CannotMeasure(f"{worker.state.refilled} events were read from the ledger, not from Kafka")
                return (size - began) / (time.perf_counter() - started)

        async def one_round() -> Sample:
            return {"rate": await rate(relayed.single), "packed_rate": await rate(relayed.packed)}

        yield lambda: lab.run(one_round())


@contextmanager
def takes_only(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """`stream.take` over the same records with an empty body: what Faust does when nobody does anything with what it brings."""
    with _relayed(lab) as relayed:
        tables = lab.subfolder("faust")  # it has none, and makes room for them
        yield lambda: {"rate": lab.run(_taken(relayed, tables)) * relayed.ledger.head.size / relayed.records}


async def _taken(relayed: Relayed, tables: Path) -> float:
    """Records a second, from the first batch to the last."""
    app = faust.App(
        f"bench-{next(_NUMBERS)}",
        broker=f"kafka://{relayed.single.servers[0]}",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        datadir=str(tables),
    )
    taken: list[tuple[float, int]] = []

    @app.agent(app.topic(relayed.single.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"))
    async def take(stream: Any) -> None:
        async for batch in stream.take(TAKEN_AT_ONCE, within=WITHIN_SECONDS):
            taken.append((time.perf_counter(), len(batch)))  # noqa: PERF401 - it never ends

    await app.start()
    await _until(lambda: sum(size for _, size in taken) >= relayed.records)
    await app.stop()
    return (relayed.records - taken[0][1]) / (taken[-1][0] - taken[0][0])


@contextmanager
def becomes_visible(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """From the call that appends an event to the moment a read in this process sees it: through relay, Kafka and Faust."""
    with _broker(lab) as servers, lab.database("ours") as dsn, ledger(lab, dsn) as opened:
        place = KafkaPlace(servers=(servers,), topic=f"visible-{next(_NUMBERS)}")
        lab.run(create_read_models(dsn, projections()))
        lab.run(ensure_topic(place, place.topic))
        spare_the_collector()
        writes = history()

        async def one_round() -> Sample:
            reads = Reads(dsn, projections())
            await reads.open()
            progress = Progress(reads)
            running = [asyncio.create_task(Relay(opened, dsn, place).run()), asyncio.create_task(watch(progress, dsn, reads))]
            try:
                async with following(place, opened, dsn, projections(), progress, batch_events=SERVING_BATCH) as (worker, _):
                    await _until(lambda: bool(worker.state.partitions))
                    return percentiles(await waits(opened, progress, writes, lab.round_seconds))
            finally:
                await ended(*running)
                await reads.close()

        yield lambda: lab.run(one_round())


FIGURES: Final = (
    Figure(
        "project_faust",
        ours=catches_up,
        peers={"take": takes_only},
        goals=(Goal("take", "rate", "events/s", 0.6), Goal(15_000.0, "packed_rate", "events/s", 1.0, name="packed")),
    ),
    Figure("visible_kafka", ours=becomes_visible, goals=(Goal(100.0, "p99_ms", "ms", 1.0, better="lower"),)),
)
