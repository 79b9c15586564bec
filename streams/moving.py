"""Moving read models by what Kafka brought: the whole of them in the order of the ledger, or some partitions beside other workers.

Whatever was not brought is read from the ledger, and whatever was brought before is dropped: the read models say how far
they are, in the transaction that moves them, and nothing else is believed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from domain.kernel import Recorded
from infra.folding_ahead import FoldingAhead
from infra.ledger import Ledger
from infra.partitions import partition_of
from infra.read_models import Gap, ReadModelWriter, Repartitioned
from projections.engine import Projection
from streams.merging import Merging, Missing
from streams.records import Stretch

HELD_EVENTS_MAX: Final = 50_000
"""So many wait for a partition that lags at most; then what it lacks is read from the ledger."""
MANY_EVENTS: Final = 64
"""So many at once are folded while those before them are written; fewer are not worth the wait for their commit."""
_log = logging.getLogger("aureus.worker")
Alive = Callable[[], bool]
"""Whether the partitions are still ours: reading a long stretch of the ledger stops when they are not."""


class Moving(Protocol):
    """A way to move read models for as long as an assignment of partitions lasts."""

    refilled: int
    """Events that Kafka did not bring, and the ledger did."""

    @property
    def duplicates(self) -> int:
        """Stretches that brought nothing new."""

    @property
    def position(self) -> int:
        """Up to where it has moved, by what Kafka or the ledger told."""

    @property
    def stopped(self) -> dict[str, str]:
        """The projections that failed at an event, and why."""

    @property
    def leads_all(self) -> bool:
        """Whether all is moved here, and nothing elsewhere."""

    async def look(self) -> None:
        """Leads what nobody else leads, and brings along what stands behind the others: what a rebuild set running again."""

    async def take(self, stretches: Sequence[Stretch]) -> None:
        """Moves by what arrived, in any order and however often."""

    async def catch_up(self, until: int) -> None:
        """Moves up to this position by what the ledger says."""

    async def settle(self) -> int:
        """Makes how far it is known to whoever asks PostgreSQL; returns the position that reads see."""

    async def close(self) -> None: ...


class Whole:
    """All partitions are here: every event goes to every projection, in total order, in one transaction for all of them."""

    def __init__(self, ledger: Ledger, writer: ReadModelWriter, ahead: FoldingAhead, of: int, batch_events: int, alive: Alive) -> None:
        self._ledger, self._writer, self._ahead, self._batch, self._alive = ledger, writer, ahead, batch_events, alive
        self._merging = Merging(of, 0)
        self._flying_until: int | None = None
        self.refilled = 0

    @classmethod
    async def open(cls, ledger: Ledger, dsn: str, projections: Sequence[Projection], of: int, batch_events: int, alive: Alive) -> Whole:
        writer = await ReadModelWriter.connect(dsn, projections)
        return cls(ledger, writer, await FoldingAhead.open(dsn, writer), of, batch_events, alive)

    @property
    def position(self) -> int:
        return self._merging.position

    @property
    def duplicates(self) -> int:
        return self._merging.duplicates

    async def look(self) -> None:
        await self._land()
        led = self._writer.led
        now = await self._writer.lead()
        lowest = await lowest_of(self._writer)
        if lowest is None:
            return
        if not led:
            self._merging.skip_to(lowest)  # by whoever led them until now
        if now:
            await self._level(lowest, self._merging.position)

    async def take(self, stretches: Sequence[Stretch]) -> None:
        if not self._writer.led:
            return  # another process moves them; what is passed over here, the ledger tells whoever leads next
        for stretch in stretches:
            self._merging.add(stretch)
        await self._give_out()
        came_to = -1
        while (until := self._hole()) is not None and came_to < self.position and self._alive():
            came_to = self.position
            await self.catch_up(until)
            await self._give_out()

    def _hole(self) -> int | None:
        if self._merging.held > HELD_EVENTS_MAX:
            return self._merging.position + HELD_EVENTS_MAX // 2
        return self._merging.missing()

    async def _give_out(self) -> None:
        try:
            events = self._merging.take()
        except Missing as missing:
            return await self.catch_up(missing.until)
        for batch in batched_events(events, self._batch):
            reached = await self._advance(batch)
            await self._level(reached, batch[-1].position)
        return None

    async def _advance(self, batch: Sequence[Recorded[Any]]) -> int:
        if len(batch) >= MANY_EVENTS:
            self._flying_until = batch[-1].position
            return await self._ahead.advance(batch)
        await self._land()
        return await self._writer.advance(batch)

    async def _land(self) -> None:
        """Waits for what is being written; what was overtaken by a rebuild, say, is brought level."""
        if (until := self._flying_until) is not None:
            self._flying_until = None
            await self._level(await self._ahead.land(), until)

    async def catch_up(self, until: int) -> None:
        if self._writer.led:
            reached = await self._level(self._merging.position, until)
            self.refilled += max(0, reached - self._merging.position)
            self._merging.skip_to(reached)

    async def _level(self, after: int, until: int) -> int:
        """Moves whatever stands between two positions by what the ledger says; returns how far it came."""
        if after < until:
            await self._ahead.land()
        while after < until and self._alive():
            batch = await self._ledger.read(after, min(self._batch, until - after))
            if not batch:
                break  # whoever spoke of `until` spoke of another ledger
            after = await self._writer.advance(batch)
        return after

    async def settle(self) -> int:
        await self._land()
        if self._writer.led:
            await self._writer.tell(self.position)
        return self.position

    @property
    def leads_all(self) -> bool:
        return len(self._writer.led) == len(self._writer.projections)

    @property
    def stopped(self) -> dict[str, str]:
        return self._writer.stopped

    async def close(self) -> None:
        await self._ahead.close()
        await self._writer.close()


class Shared:
    """Some partitions are here, the rest with other workers.

    Projections that need no more than the order of each stream are moved by everybody, each for its own partitions. One
    that needs the order of all events is moved by whoever leads it, from the ledger, as far as Kafka says that it goes.
    """

    def __init__(self, ledger: Ledger, dsn: str, writers: Writers, own: frozenset[int], of: int, batch_events: int, alive: Alive) -> None:
        self._ledger, self._dsn, self._own, self._of, self._batch, self._alive = ledger, dsn, own, of, batch_events, alive
        self._streams, self._total = writers
        self._names = tuple(self._streams.projections)
        self._known = dict.fromkeys(own, 0)
        self._total_position = 0
        self.refilled = self.duplicates = 0

    @classmethod
    async def open(
        cls, ledger: Ledger, dsn: str, projections: Sequence[Projection], own: frozenset[int], of: int, batch_events: int, alive: Alive
    ) -> Shared:
        streams = await ReadModelWriter.connect(dsn, [p for p in projections if p.ordering == "stream"])
        total = await ReadModelWriter.connect(dsn, [p for p in projections if p.ordering == "total"])
        return cls(ledger, dsn, (streams, total), own, of, batch_events, alive)

    @property
    def position(self) -> int:
        return min(self._known.values())

    async def look(self) -> None:
        led = self._total.led
        if await self._total.lead():
            lowest = await lowest_of(self._total)
            if lowest is not None:
                self._total_position = lowest if not led else min(lowest, self._total_position)
                await self._follow_total(self.position)

    async def take(self, stretches: Sequence[Stretch]) -> None:
        own = [stretch for stretch in stretches if stretch.partition in self._own]
        self.duplicates += sum(stretch.until <= self._known[stretch.partition] for stretch in own)
        if own:
            await self._link(own)
            self._know(own)
        await self._follow_total(self.position)

    async def _link(self, stretches: Sequence[Stretch]) -> None:
        """Each in its place: what comes before one, and was not brought, is read from the ledger."""
        ordered = sorted(stretches, key=lambda stretch: (stretch.partition, stretch.after))
        while self._names and self._alive():
            try:
                return await self._streams.advance_stretches(ordered, self._names)
            except Gap as gap:
                first = next(s for s in ordered if s.partition == gap.partition and s.until > gap.position)
                reached = await self._refill(gap.position, first.after)
                ordered = [s for s in ordered if s.after <= reached or s.partition != gap.partition]  # beyond the ledger is nothing of ours
                if not ordered:
                    return None
            except Repartitioned as error:
                _log.warning("%s: they are brought level from the ledger first", error)
                await self._bring_level()
        return None

    async def _refill(self, after: int, until: int) -> int:
        """What the ledger holds for our partitions between two positions; begins further back when one stands further back."""
        while after < until and self._alive():
            batch = await self._ledger.read(after, min(self._batch, until - after))
            if not batch:
                break
            end = batch[-1].position
            try:
                await self._streams.advance_stretches(self._dealt(batch, after, end), self._names)
            except Gap as gap:
                after = gap.position
            else:
                self.refilled += len(batch)
                after = end
        return after

    def _dealt(self, batch: Sequence[Recorded[Any]], after: int, until: int) -> list[Stretch]:
        dealt: dict[int, list[Recorded[Any]]] = {partition: [] for partition in self._own}
        for event in batch:
            partition = partition_of(event.tenant, event.stream, self._of)
            if partition in dealt:
                dealt[partition].append(event)
        return [Stretch(partition, self._of, after, until, tuple(events)) for partition, events in dealt.items()]

    async def _bring_level(self) -> None:
        """Where they were shared out among another number of partitions they are moved whole, up to now, by one of us."""
        writer = await ReadModelWriter.connect(self._dsn, list(self._streams.projections.values()))
        try:
            if not await writer.lead_all():
                return
            until, reached = (await self._ledger.refresh()).size, await lowest_of(writer)
            while reached is not None and reached < until and self._alive():
                reached = await writer.advance(await self._ledger.read(reached, self._batch))
        finally:
            await writer.close()

    def _know(self, stretches: Iterable[Stretch]) -> None:
        for stretch in stretches:
            self._known[stretch.partition] = max(self._known[stretch.partition], stretch.until)

    async def _follow_total(self, until: int) -> None:
        while self._total.led and self._total_position < until and self._alive():
            batch = await self._ledger.read(self._total_position, self._batch)
            if not batch:
                return
            self._total_position = await self._total.advance(batch)

    async def catch_up(self, until: int) -> None:
        told = self._dealt((), until, until)
        await self._link(told)
        self._know(told)
        await self._follow_total(until)

    async def settle(self) -> int:
        await self._streams.settle(self._names)
        found = [await lowest_of(writer) for writer in (self._streams, self._total)]
        position = min((lowest for lowest in found if lowest is not None), default=self.position)
        await self._streams.tell(position)
        return position

    @property
    def leads_all(self) -> bool:
        return False

    @property
    def stopped(self) -> dict[str, str]:
        return self._streams.stopped | self._total.stopped

    async def close(self) -> None:
        await self._streams.close()
        await self._total.close()


Writers = tuple[ReadModelWriter, ReadModelWriter]


def batched_events(events: Sequence[Recorded[Any]], size: int) -> Iterable[Sequence[Recorded[Any]]]:
    return (events[at : at + size] for at in range(0, len(events), size))


async def lowest_of(writer: ReadModelWriter) -> int | None:
    """Where the last of a writer's running projections stands: of those it leads, if it leads any."""
    standings = (await writer.standings()).values()
    return min((s.position for s in standings if not s.stopped and (not writer.led or s.name in writer.led)), default=None)
