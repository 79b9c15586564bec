"""The relay: tells the ledger on to Kafka, in order and without a hole; one process at a time.

It moves its place when the broker has acknowledged everything up to there. Killed between the two, it sends again what was
there already: readers drop what they have seen. The ledger never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra import tracing
from infra.kafka import KafkaUnavailable, ensure_topic
from infra.kafka_settings import KafkaPlace
from infra.ledger import Ledger
from infra.measures import Reading
from infra.partitions import partition_of
from infra.store import StoredEvent
from streams.leading import Connection, lead
from streams.positions import RELAY, RELAY_LOCK, move, place, position_of
from streams.producing import Producer, acknowledged, producing
from streams.records import Outgoing, packed, single
from streams.waking import woken

BATCH_EVENTS: Final = 500
"""Read at once. More would hold the event loop up for longer than a request likes to wait."""
PACK_FROM: Final = 8
"""So many events in a batch mean that the relay is behind, or that readers soon will be: they travel packed, for a record has its price
whatever it holds, and on a busy machine Faust's is ten milliseconds."""
PACK_BYTES: Final = 256 * 1024
IN_FLIGHT: Final = 3
"""Batches on their way at once when it is behind: the next is read while the broker writes the one before."""
FILLING_SECONDS: Final = 0.004
"""How long a batch may fill under load. The first event after a lull does not wait."""
IDLE_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = (0.2, 5.0)
"""Between two tries to reach a broker: at first, and at most."""

_log = logging.getLogger("aureus.relay")


@dataclass(frozen=True)
class Rendering:
    """What a topic is told: `records` makes, per partition, the records of the events after a position."""

    name: str
    """Of the follower whose place is kept."""
    lock: int
    topic: str
    records: Callable[[Sequence[StoredEvent], int, int], list[list[Outgoing]]]
    """(events in order, the position before them, how many partitions) -> records of each partition."""


def stretches(topic: str, ledger: str, *, pack_from: int = PACK_FROM) -> Rendering:
    """For the workers: every partition is told how far the ledger was read, whether there was something for it or not."""

    def records(events: Sequence[StoredEvent], after: int, of: int) -> list[list[Outgoing]]:
        until = events[-1].position
        chain = _packed if len(events) >= pack_from else _singles
        return [chain(dealt, after, until, of, ledger) if dealt else [packed((), after, until, of, ledger)] for dealt in deal(events, of)]

    return Rendering(RELAY, RELAY_LOCK, topic, records)


def deal(events: Sequence[StoredEvent], of: int) -> list[list[StoredEvent]]:
    """The events of each partition, in order."""
    dealt: list[list[StoredEvent]] = [[] for _ in range(of)]
    for event in events:
        dealt[partition_of(event.tenant, event.stream, of)].append(event)
    return dealt


def _singles(events: Sequence[StoredEvent], after: int, until: int, of: int, ledger: str) -> list[Outgoing]:
    records = []
    for event in events:
        end = until if event is events[-1] else event.position
        records.append(single(event, after, of, ledger, end))
        after = end
    return records


def _packed(events: Sequence[StoredEvent], after: int, until: int, of: int, ledger: str) -> list[Outgoing]:
    records = []
    first = size = 0
    for index, event in enumerate(events):
        size += len(event.body)
        if index == len(events) - 1:
            records.append(packed(events[first:], after, until, of, ledger))
        elif size >= PACK_BYTES:
            records.append(packed(events[first : index + 1], after, event.position, of, ledger))
            after, first, size = event.position, index + 1, 0
    return records


class Relay:
    """Relays until cancelled. Of several on one ledger, one leads; the others stand by, and take over within seconds."""

    def __init__(self, ledger: Ledger, dsn: str, place: KafkaPlace, *, rendering: Rendering | None = None) -> None:
        self._ledger, self._dsn, self._place = ledger, dsn, place
        self._rendering = rendering or stretches(place.topic, ledger.name)
        self._wake = asyncio.Event()
        self.leading = False
        self.position = 0
        """Up to where the broker has acknowledged everything, while this one leads."""
        self.last_error: str | None = None
        """Why it waits; None while all is well."""
        self.sent_records = self.sent_events = self.sent_bytes = 0
        """Since the process began; bytes are those of records before compression."""

    async def run(self) -> None:
        """For ever: a broker or a database that is away is waited for."""
        async with woken(self._ledger) as self._wake:
            await lead(self._dsn, self._rendering.lock, "relays", self._lead)

    @property
    def name(self) -> str:
        """Under which its place is kept."""
        return self._rendering.name

    def readings(self) -> Iterable[Reading]:
        """For a scraper; where it stands the database knows, whichever process leads."""
        name = (self.name,)
        yield "aureus_relay_leading", name, int(self.leading)
        yield "aureus_relay_waiting", name, int(self.last_error is not None)
        yield "aureus_relay_sent_events_total", name, self.sent_events
        yield "aureus_relay_sent_records_total", name, self.sent_records
        yield "aureus_relay_sent_bytes_total", name, self.sent_bytes

    async def _lead(self, connection: Connection) -> None:
        """Leads for as long as the connection lives; each round of its loop ends with the loss of the broker."""
        name = self._rendering.name
        await connection.execute("SET synchronous_commit = off")  # a place that is lost means sending again, which is allowed
        await place(connection, [name], 0)
        self.position = await position_of(connection, name)
        self.leading = True
        pause, longest = PAUSE_SECONDS
        try:
            while True:
                began = self.position
                try:
                    await ensure_topic(self._place, self._rendering.topic)
                    async with producing(self._place) as producer:
                        await self._follow(connection, producer)
                except KafkaUnavailable as error:
                    self._troubled(str(error))
                pause = PAUSE_SECONDS[0] if self.position > began else min(2 * pause, longest)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - only so that not all try at the same moment
                await connection.execute("SELECT 1")  # notices when leadership was lost with the connection
        finally:
            self.leading = False

    async def _follow(self, connection: Connection, producer: Producer) -> None:
        """Sends what comes, for as long as the topic keeps its partitions; raises when the broker or the database is lost."""
        topic, name = self._rendering.topic, self._rendering.name
        of = len(await producer.partitions_for(topic))
        flying: deque[tuple[int, list[asyncio.Future[Any]]]] = deque()
        sent = self.position
        while producer.partitions(topic) in {of, 0}:  # 0 while the broker that had them is away
            self._wake.clear()
            events = await self._ledger.store.read(sent, BATCH_EVENTS)
            if events:
                with tracing.batch("relay", events):
                    acks = await self._send(producer, events, sent, of)
                sent = events[-1].position
                flying.append((sent, acks))
            behind = len(events) == BATCH_EVENTS
            while len(flying) >= (IN_FLIGHT if behind else 1):
                until, acks = flying.popleft()
                await acknowledged(acks)
                await move(connection, [name], until)
                self.position = until
                self._well()
            if not events:
                self._well()
                await self._idle(connection)
            elif not behind:
                await asyncio.sleep(FILLING_SECONDS)

    async def _send(self, producer: Producer, events: Sequence[StoredEvent], after: int, of: int) -> list[asyncio.Future[Any]]:
        acks = []
        for partition, records in enumerate(self._rendering.records(events, after, of)):
            acks += await producer.send_all(self._rendering.topic, partition, records)
            self.sent_records += len(records)
            self.sent_bytes += sum(len(record.value) for record in records)
        self.sent_events += len(events)
        return acks

    async def _idle(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost

    def _well(self) -> None:
        if self.last_error is not None:
            _log.warning("%s: the %s goes on, at position %d", self._rendering.topic, self._rendering.name, self.position)
            self.last_error = None

    def _troubled(self, error: str) -> None:
        if self.last_error is None:
            _log.warning("%s: the %s waits, at position %d: %s", self._rendering.topic, self._rendering.name, self.position, error)
        self.last_error = error
