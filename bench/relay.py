"""`relay`: the ledger told on to a real Kafka broker, beside a bare producer that sends the very same records."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from bench.append import ledger
from bench.bulk import Importer, history
from bench.lab import Lab
from bench.measure import Contestant, Figure, Goal, Sample
from infra.kafka import client_options, ensure_topic
from infra.kafka_settings import KafkaPlace
from infra.ledger import Ledger
from infra.tasks import ended
from streams.producing import BATCH_BYTES
from streams.records import Outgoing
from streams.relay import BATCH_EVENTS, PACK_FROM, Relay, stretches
from tests.support.kafka import Kafka

EVENTS: Final = 100_000
ONE_BY_ONE: Final = BATCH_EVENTS + 1
"""No batch holds so many events, so each of them travels in a record of its own."""
AS_QUICK_AS_READ_MODELS: Final = 20_000.0
"""Events/s: one by one, which is how it sends while it keeps up, a relay must not be what holds the read models back."""
_LOOK_SECONDS: Final = 0.002
_TOPICS: Final = count(1)


@dataclass(frozen=True)
class Setup:
    """A ledger that holds something, and a broker that holds nothing yet."""

    ledger: Ledger
    dsn: str
    place: KafkaPlace

    async def topic(self) -> str:
        name = f"relay-{next(_TOPICS)}"
        await ensure_topic(self.place, name)
        return name


@contextmanager
def _setup(lab: Lab, events: int) -> Iterator[Setup]:
    broker = Kafka(lab.subfolder("kafka"))
    with lab.database("relay") as dsn, ledger(lab, dsn) as opened:
        lab.run(Importer(opened, history()).add(events))
        thresholds = gc.get_threshold()
        gc.freeze()  # for everybody, as in the server that a relay is part of
        gc.set_threshold(20_000, 20, 50)
        try:
            broker.start()
            yield Setup(opened, dsn, KafkaPlace(servers=(broker.servers,)))
        finally:
            broker.stop()
            gc.set_threshold(*thresholds)
            gc.unfreeze()


def _contestant(sent: Callable[[Setup, int], Coroutine[Any, Any, float]], **shapes: int) -> Contestant:
    """Rates by shape, each round into new topics; `sent` says the seconds that a ledger takes."""

    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        events = lab.scaled(EVENTS)
        with _setup(lab, events) as setup:
            yield lambda: {metric: events / lab.run(sent(setup, pack_from)) for metric, pack_from in shapes.items()}

    return contestant


async def _relayed(setup: Setup, pack_from: int) -> float:
    """From a relay's first acknowledgement to its last; seconds that the whole ledger would take."""
    topic, size = await setup.topic(), setup.ledger.head.size
    # A name of its own is a place of its own: it begins with the first event.
    relay = Relay(
        setup.ledger, setup.dsn, setup.place, rendering=replace(stretches(topic, setup.ledger.name, pack_from=pack_from), name=topic)
    )
    running = asyncio.create_task(relay.run())
    while not relay.position:  # noqa: ASYNC110 - it looks at a plain attribute
        await asyncio.sleep(_LOOK_SECONDS)
    began, started = relay.position, time.perf_counter()
    while relay.position < size:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    seconds = time.perf_counter() - started
    await ended(running)
    return seconds * size / (size - began)


async def _bare(setup: Setup, pack_from: int) -> float:
    """`send_batch` and nothing else: the records are there before the clock starts."""
    topic = await setup.topic()
    records = stretches(topic, setup.ledger.name, pack_from=pack_from).records
    batches: list[list[list[Outgoing]]] = []
    after = 0
    while events := await setup.ledger.store.read(after, BATCH_EVENTS):
        batches.append(records(events, after, setup.place.partitions))
        after = events[-1].position
    options = client_options(setup.place)
    producer = AIOKafkaProducer(**options, enable_idempotence=True, acks="all", compression_type="lz4", max_batch_size=BATCH_BYTES)
    async with producer:
        await producer.partitions_for(topic)
        started = time.perf_counter()
        acknowledgements = []
        for batch in batches:
            for partition, dealt in enumerate(batch):
                builder = producer.create_batch()
                for one in dealt:
                    assert builder.append(timestamp=None, key=one.key, value=one.value, headers=one.headers) is not None
                acknowledgements.append(await producer.send_batch(builder, topic, partition=partition))
        await asyncio.gather(*acknowledgements)
        return time.perf_counter() - started


FIGURES: Final = (
    Figure(
        "relay",
        ours=_contestant(_relayed, rate=PACK_FROM, single_rate=ONE_BY_ONE),
        peers={"bare": _contestant(_bare, rate=PACK_FROM)},
        goals=(Goal("bare", "rate", "events/s", 0.5), Goal(AS_QUICK_AS_READ_MODELS, "single_rate", "events/s", 1, name="single")),
    ),
)
