"""The worker: takes what Kafka brought, moves the read models by it, and tries again in place for as long as that takes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import SystemRandom
from typing import Final, NamedTuple

import psycopg

from domain.kernel import UnknownEvent
from domain.values import uuid7
from infra.ledger import Ledger, LedgerUnavailable
from infra.measures import Reading
from projections.engine import Projection
from streams.moving import Moving, Shared, Whole
from streams.progress import Progress
from streams.records import BadRecord, Stretch, stretch_of

BATCH_EVENTS: Final = 1_000
INBOX_RECORDS: Final = 4_000
"""More than that wait at Kafka."""
LOOK_SECONDS: Final = 1.0
TELL_SECONDS: Final = 0.25
"""How often reads are told while it is behind: that waits for what is being written, and catching up would not."""
FEW_RECORDS: Final = 100
"""Fewer that wait than this mean that it keeps up."""
FILLING_SECONDS: Final = 0.005
"""How long a batch may fill under load: each has its price, whatever it holds."""
POURING_RECORDS: Final = 12
"""More than that while it fills, and it goes on filling: the worker is behind. The first event after a lull does not wait."""
PATIENCE_SECONDS: Final = 5.0
"""What the relay has sent and Kafka has not brought by then is read from the ledger."""
RETRY_SECONDS: Final = 0.5
_RELAY: Final = "SELECT position FROM streams.positions WHERE name = 'relay'"
_dice: Final = SystemRandom()
_log = logging.getLogger("aureus.worker")


class Arrived(NamedTuple):
    """A record as Kafka brought it."""

    partition: int
    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass
class State:
    """What a worker says of itself, and counts since it began."""

    position: int = 0
    partitions: frozenset[int] = frozenset()
    batches: int = 0
    events: int = 0
    """That Kafka brought; some of them twice."""
    refilled: int = 0
    """Events that it did not bring, and the ledger did."""
    duplicates: int = 0
    """Records that brought nothing new."""
    bad_records: int = 0
    """Records that are not the ledger's, or that this version cannot read."""
    offsets: dict[int, int] = field(default_factory=dict)
    """Of the next record of each partition."""
    highwaters: dict[int, int] = field(default_factory=dict)
    """Of the record that Kafka will be given next, as of a moment ago."""
    last_error: str | None = None
    stopped: dict[str, str] = field(default_factory=dict)


class Worker:
    """Moves projections until cancelled. `run` ends by itself only before an event that this version does not know."""

    def __init__(
        self, ledger: Ledger, dsn: str, projections: Sequence[Projection], progress: Progress, *, batch_events: int = BATCH_EVENTS
    ) -> None:
        self.id = str(uuid7())
        self.projections = tuple(projections)
        self.state = State()
        self._ledger, self._dsn, self._progress, self._batch_events = ledger, dsn, progress, batch_events
        self._own: frozenset[int] = frozenset()
        self._of = 0
        self._assignments = 0
        self._inbox: deque[Arrived] = deque()
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._resting = asyncio.Event()
        self._handled: dict[int, deque[tuple[int, int]]] = {}
        self._doubt = False
        """Whether something may have been lost on the way: then the ledger is asked at once."""
        self._told_at = 0.0

    # -- what Faust tells

    def assign(self, own: frozenset[int], of: int) -> None:
        """From now on these of so many partitions are ours."""
        self._own, self._of = own, of
        self._assignments += 1
        self._inbox.clear()
        self._handled.clear()
        self.state.partitions = own
        self._something.set()
        self._room.set()

    async def let_go(self) -> None:
        """No partition is ours any more; returns when the batch in hand is done, for whoever gets them next to go on behind it."""
        handled = self._handled.copy()
        self.assign(frozenset(), self._of)
        self._handled = handled  # Kafka may still be told of it
        await self._resting.wait()

    async def offer(self, record: Arrived) -> None:
        """Takes a record in; waits while there are too many."""
        while len(self._inbox) >= INBOX_RECORDS:
            self._room.clear()
            await self._room.wait()
        self._inbox.append(record)
        self._something.set()

    def committable(self) -> dict[int, int]:
        """The next offset of each partition whose records before it are in the read models: Kafka may forget those."""
        found = {}
        for partition, handled in self._handled.items():
            while handled and handled[0][1] <= self.state.position:
                found[partition] = handled.popleft()[0] + 1
        return found

    def readings(self) -> Iterable[Reading]:
        """What it did and how far it is, for a scraper."""
        state = self.state
        yield "aureus_worker_position", (), state.position
        yield "aureus_worker_waiting_records", (), len(self._inbox)
        yield "aureus_worker_batches_total", (), state.batches
        yield "aureus_worker_events_total", (), state.events
        yield "aureus_worker_refilled_events_total", (), state.refilled
        yield "aureus_worker_duplicate_records_total", (), state.duplicates
        yield "aureus_worker_bad_records_total", (), state.bad_records
        for partition in sorted(state.partitions & state.highwaters.keys()):
            lag = state.highwaters[partition] - state.offsets.get(partition, state.highwaters[partition])
            yield "aureus_consumer_lag_records", (str(partition),), max(lag, 0)

    # -- moving

    async def run(self) -> None:
        """For ever; raises UnknownEvent rather than pass over an event."""
        while True:
            try:
                await self._follow()
            except UnknownEvent as error:
                self.state.last_error = str(error)
                _log.error("the read models stop before an event this version does not know: %s", error)
                raise
            except (psycopg.OperationalError, LedgerUnavailable) as error:
                self._troubled(error)
                _log.warning("the read models wait for the database: %s", error)
            except Exception as error:  # noqa: BLE001 - said below, with its traceback
                # Ended, it would leave reads standing still until the process ends; so it is said, and tried again.
                self._troubled(error)
                _log.exception("the read models cannot go on")
            finally:
                self._resting.set()
                await self._progress.tell(False)
            await asyncio.sleep(RETRY_SECONDS * _dice.uniform(0.5, 1.5))

    def _troubled(self, error: BaseException) -> None:
        self.state.last_error = f"{type(error).__name__}: {error}"
        self._doubt = True

    async def _follow(self) -> None:
        """Moves for as long as an assignment lasts; then again, for the next."""
        while True:
            assignment = self._assignments
            if not self._own:
                self._resting.set()
                self._something.clear()
                await self._something.wait()
                continue
            self._resting.clear()
            moving = await self._moving(assignment)
            try:
                await self._move(moving, assignment)
            finally:
                await moving.close()
                await self._progress.tell(False)
            self._doubt = True  # what the last assignment held back is lost to the next

    async def _moving(self, assignment: int) -> Moving:
        def alive() -> bool:
            return assignment == self._assignments

        if self._own == frozenset(range(self._of)):
            return await Whole.open(self._ledger, self._dsn, self.projections, self._of, self._batch_events, alive)
        return await Shared.open(self._ledger, self._dsn, self.projections, self._own, self._of, self._batch_events, alive)

    async def _move(self, moving: Moving, assignment: int) -> None:
        clock = asyncio.get_running_loop().time
        looked_at, moved_at, refilled, duplicates = -LOOK_SECONDS, clock(), self.state.refilled, self.state.duplicates
        while assignment == self._assignments:
            if clock() - looked_at >= LOOK_SECONDS:
                looked_at = clock()
                await moving.look()
                await self._progress.tell(moving.leads_all)
                if self._doubt or clock() - moved_at > PATIENCE_SECONDS:
                    await self._ask_the_ledger(moving)
                    moved_at = clock()
            await self._fill()
            before = moving.position
            batch, stretches = self._next()
            if batch:
                await moving.take(stretches)
            if assignment != self._assignments:
                return  # it may have stopped half-way, so nothing is said of how far it came
            if batch:
                self._done(batch, stretches)
            if before != moving.position:
                moved_at = clock()
            self.state.refilled, self.state.duplicates = refilled + moving.refilled, duplicates + moving.duplicates
            self.state.stopped = moving.stopped
            await self._tell(moving, clock())
            self._something.clear()
            if not self._inbox and assignment == self._assignments:
                await _within(self._something, LOOK_SECONDS)

    async def _ask_the_ledger(self, moving: Moving) -> None:
        """Reads there what the relay has sent and did not arrive: lost with a topic, or on the way."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            row = await (await connection.execute(_RELAY)).fetchone()
        if row is not None:
            await moving.catch_up(int(row[0]))
        self._doubt = False

    async def _fill(self) -> None:
        """Lets a batch fill for as long as records pour in."""
        had = 0
        while had + POURING_RECORDS < (has := len(self._inbox)) < self._batch_events:
            had = has
            await asyncio.sleep(FILLING_SECONDS)

    def _next(self) -> tuple[list[Arrived], list[Stretch]]:
        """The next records that waited, as many as make a batch of events, and the stretches they stand for."""
        batch: list[Arrived] = []
        stretches: list[Stretch] = []
        events = 0
        for record in islice(self._inbox, self._batch_events):
            batch.append(record)
            try:
                stretch = stretch_of(record.partition, record.value, record.headers, self._ledger.name)
            except (BadRecord, UnknownEvent) as error:
                # Only the ledger is believed when it says that there is such an event: it is asked, and the worker stops there.
                self._bad(record, error)
                continue
            if stretch.of != self._of:
                self._doubt = True  # it was dealt out before the topic grew, or we do not know yet that it did
                continue
            stretches.append(stretch)
            events += len(stretch.events)
            if events >= self._batch_events:
                break
        self.state.events += events
        return batch, stretches

    def _bad(self, record: Arrived, error: Exception) -> None:
        self.state.bad_records += 1
        if not self._doubt:  # once a second is enough
            _log.warning("partition %d, offset %d: %s; the ledger is asked instead", record.partition, record.offset, error)
        self._doubt = True

    def _done(self, batch: Sequence[Arrived], stretches: Sequence[Stretch]) -> None:
        self.state.batches += 1
        until: dict[int, int] = {}
        for stretch in stretches:
            until[stretch.partition] = max(until.get(stretch.partition, 0), stretch.until)
        last = {record.partition: record.offset for record in batch}
        for partition, offset in last.items():
            self.state.offsets[partition] = offset + 1
            self._handled.setdefault(partition, deque()).append((offset, until.get(partition, 0)))
        for _ in batch:
            self._inbox.popleft()
        self._room.set()

    async def _tell(self, moving: Moving, now: float) -> None:
        """Tells whoever waits how far reads are."""
        self.state.last_error = None
        if moving.position > self.state.position and (len(self._inbox) < FEW_RECORDS or now - self._told_at > TELL_SECONDS):
            self.state.position = await moving.settle()
            self._told_at = now
            if moving.leads_all:
                await self._progress.reached(self.state.position)


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
