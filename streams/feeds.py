"""Live feeds: what happens in the ledger, and what it changes for those who read, told to many as it comes.

Nothing runs while nobody listens. Each feed is a place in the ledger's order: what lies before the tail that is kept for all
is read from the ledger, what lies in it is taken from there, so between the past and the present there is no seam.
The tail is every tenant's, read once for all; each feed takes its own tenant's out of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Final, Protocol

from domain.kernel import Asker
from infra.ledger import Ledger
from infra.measures import Reading
from infra.read_queries import Reads
from infra.tasks import ended
from projections.engine import Projection
from streams.changes import Batch, Changes, WantedTables
from streams.following import Brought, Following, from_ledger
from streams.progress import Progress
from streams.tail import PAGE, Entry, Tail

GOODBYE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What feeds may take of a process, and how long they may be silent."""

    feeds: int = 1_000
    feeds_of_one: int = 32
    """Of one actor."""
    behind_messages: int = 20_000
    """How far a feed may fall behind before it is ended; one bound for all, for what is told is kept once."""
    behind_bytes: int = 32 * 1024 * 1024
    stalled_seconds: float = 30.0
    """How long a message may wait for a client that takes nothing."""
    beat_seconds: float = 15.0
    message_bytes: int = 256 * 1024
    """A batch of changes beyond this is told in several messages."""


class TooManyFeeds(Exception):
    """No further feed is opened: names the bound, and whose it is."""

    def __init__(self, most: int, whose: str) -> None:
        super().__init__(f"{whose} may have {most} live feeds at a time.")
        self.most = most


class FeedEnded(Exception):
    """A feed that ends for a reason that its client is told."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


@dataclass(frozen=True, slots=True)
class Told:
    """What a feed tells next, and the position it has come to with that."""

    messages: list[tuple[int, str]]
    """(where to go on after it, JSON)"""
    reached: int


class Feed(Protocol):
    """A place in the ledger's order that moves on."""

    name: str
    """What its messages are called."""
    position: int

    async def next(self) -> Told:
        """What comes next, which may be nothing for this feed; raises FeedEnded when it has fallen too far behind."""


def _too_slow() -> FeedEnded:
    message = "So much has happened since the last message was taken that it is no longer at hand."
    return FeedEnded("too_slow", message, "Read faster, or ask for less; then go on after the position named here.")


class EventFeed:
    """The events of the ledger that somebody wants."""

    name = "event"

    def __init__(self, following: Following, position: int, wanted: Callable[[Entry], bool]) -> None:
        self._following, self.position, self._wanted = following, position, wanted
        self._live = False

    async def next(self) -> Told:
        tail = self._following.tail
        if self.position >= tail.begins:
            self._live = True
            await tail.beyond(self.position)
        if self.position >= tail.begins:
            entries = tail.after(self.position)
        elif self._live:
            raise _too_slow()
        else:
            entries = await from_ledger(self._following.ledger, self.position)
        self.position = entries[-1].position
        return Told([(one.position, one.data) for one in entries if self._wanted(one)], self.position)


class ChangeFeed:
    """The changes of the rows that somebody wants."""

    name = "changes"

    def __init__(self, following: Following, changes: Changes, position: int, wanted: WantedTables, message_bytes: int) -> None:
        self._following, self._changes, self.position, self._wanted = following, changes, position, wanted
        self._message_bytes = message_bytes
        self._filtered = [name for name, one in wanted.items() if one.matches]
        self._joins = changes.taken
        """A boundary between batches of the tail: up to it the ledger is read, from there on all of the tail is of use."""
        self._live = False

    async def next(self) -> Told:
        if not self._live:
            return await self._past()
        tail = self._changes.tail
        await tail.beyond(self.position)
        if self.position < tail.begins:
            raise _too_slow()
        batches = tail.after(self.position)
        # An empty batch leaves nothing behind in the tail: where there are no others, all of it has been told.
        self.position = batches[-1].until if len(batches) == PAGE else tail.reached
        return await self._told(batches)

    async def _past(self) -> Told:
        """A step on the way from any position to a boundary from which the tail goes on."""
        tail = self._changes.tail
        if self.position > self._joins:
            await tail.beyond(self.position - 1)
            self._joins = tail.reached
        if self.position < self._joins:
            entries = await from_ledger(self._following.ledger, self.position, self._joins)
            batch = await self._changes.batch(entries, self.position, self._wanted, self._filtered)
            self.position = batch.until
            return await self._told([batch])
        if self.position < tail.begins:
            self._joins = tail.reached
        else:
            self._live = True
        return await self._told([])

    async def _told(self, batches: Sequence[Batch]) -> Told:
        masked = {name: await wanted.masked() for name, wanted in self._wanted.items()} if batches else {}
        return Told([message for batch in batches for message in self._messages(batch, masked)], self.position)

    def _messages(self, batch: Batch, masked: Mapping[str, frozenset[str]]) -> list[tuple[int, str]]:
        """One message, so that it is told whole or not at all; of a very large batch several, and only the last moves on."""
        parts: list[list[str]] = [[]]
        size = 0
        for change, text in batch.changes:
            wanted = self._wanted.get(change.table)
            told = wanted.told(change, text, masked[change.table]) if wanted else None
            if told is not None:
                if size and size + len(told) > self._message_bytes:
                    parts.append([])
                    size = 0
                parts[-1].append(told)
                size += len(told)
        if not parts[0]:
            return []
        ends = [*[batch.after] * (len(parts) - 1), batch.until]
        return [(end, f'{{"position":{end},"changes":[{",".join(part)}]}}') for end, part in zip(ends, parts, strict=True)]


@dataclass(frozen=True, slots=True)
class _Running:
    """What follows the ledger while somebody listens."""

    following: Following
    changes: Changes
    tasks: Sequence[asyncio.Task[None]]


class Feeds:
    """All feeds of a process."""

    def __init__(
        self,
        ledger: Ledger,
        reads: Reads,
        progress: Progress,
        projections: Sequence[Projection],
        brought: Brought | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._ledger, self._reads, self._progress, self._projections = ledger, reads, progress, projections
        self._brought = brought
        self.limits = limits or Limits()
        self.closing = asyncio.Event()
        self._left = asyncio.Event()
        self._kinds: Counter[str] = Counter(events=0, changes=0)
        self._open: Counter[tuple[str, str]] = Counter()
        self._turn = asyncio.Lock()
        self._running: _Running | None = None

    @property
    def count(self) -> int:
        """How many are open."""
        return self._open.total()

    def readings(self) -> Iterable[Reading]:
        """How many are open, for a scraper."""
        return [("aureus_feeds", (kind,), count) for kind, count in self._kinds.items()]

    @property
    def is_running(self) -> bool:
        """Whether the ledger is followed."""
        return self._running is not None

    @asynccontextmanager
    async def events(self, asker: Asker, after: int | None, wanted: Callable[[Entry], bool]) -> AsyncIterator[Feed]:
        """The events beyond a position, or from now on."""
        async with self._place(asker, "events") as running:
            yield EventFeed(running.following, running.following.tail.reached if after is None else after, wanted)

    @asynccontextmanager
    async def changes(self, asker: Asker, after: int | None, wanted: WantedTables) -> AsyncIterator[Feed]:
        """The changes beyond a position, or beyond what reads show now."""
        async with self._place(asker, "changes") as running:
            running.changes.follow(wanted)
            try:
                position = min(await self._reads.position(), running.changes.taken) if after is None else after
                yield ChangeFeed(running.following, running.changes, position, wanted, self.limits.message_bytes)
            finally:
                running.changes.leave(wanted)

    @asynccontextmanager
    async def _place(self, asker: Asker, kind: str) -> AsyncIterator[_Running]:
        """Room for one more feed; the first sets things going, and the last stops them."""
        whose = (asker.tenant, asker.actor)
        if self.closing.is_set():
            raise FeedEnded("going_away", "The server is shutting down.", "Connect again in a moment.")
        if self._open[whose] >= self.limits.feeds_of_one:
            raise TooManyFeeds(self.limits.feeds_of_one, asker.actor)
        if self.count >= self.limits.feeds:
            raise TooManyFeeds(self.limits.feeds, "All together")
        self._open[whose] += 1
        self._kinds[kind] += 1
        try:
            yield await self._start()
        finally:
            self._open -= Counter([whose])
            self._kinds[kind] -= 1
            await self._rest()

    async def _start(self) -> _Running:
        async with self._turn:
            if self._running is None:
                reached = (await self._ledger.refresh()).size
                limits = self.limits
                following = Following(self._ledger, reached, Tail(reached, limits.behind_messages, limits.behind_bytes), self._brought)
                tail: Tail[Batch] = Tail(reached, limits.behind_messages, limits.behind_bytes)
                changes = Changes(following, self._progress, self._reads, self._projections, tail)
                # Theirs is no request's context: they outlive the one that sets them going.
                tasks = [
                    asyncio.create_task(following.run(), name="feeds-events", context=Context()),
                    asyncio.create_task(changes.run(), name="feeds-changes", context=Context()),
                ]
                self._running = _Running(following, changes, tasks)
            return self._running

    async def _rest(self) -> None:
        async with self._turn:
            if not self._open and self._running is not None:
                running, self._running = self._running, None
                await ended(*running.tasks)
            if not self._open:
                self._left.set()

    async def close(self) -> None:
        """Tells all clients that the server goes away; returns when they are told, or a second later."""
        self.closing.set()
        if self._open:
            self._left.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._left.wait()
