"""Following the ledger for all feeds of a process: what Kafka or the ledger itself brings, every event once and in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from infra.envelope import recorded
from infra.ledger import Ledger, LedgerUnavailable
from infra.tasks import ended
from streams.tail import PAGE, Entry, InOrder, Tail, entry

PATIENCE_SECONDS: Final = 0.25
"""How long Kafka may take to bring what the ledger holds already; then it is read there."""
RETRY_SECONDS: Final = 0.5
READS_KEPT: Final = 256
T = TypeVar("T")
Brought = Callable[[], AsyncIterator[Sequence[Entry]]]
"""Another way for events to come than from the ledger: earlier ones again, gaps and all."""
_log = logging.getLogger("aureus.feeds")


async def persistently(work: Callable[[], Awaitable[T]]) -> T:
    """What a piece of work comes to, tried until it succeeds: what is left out of a feed would be lost for good."""
    while True:
        try:
            return await work()
        except LedgerUnavailable as error:
            _log.warning("the feeds wait for the database: %s", error)
        except Exception:  # noqa: BLE001 - said with its traceback; ended, it would leave the feeds silent until the process ends
            _log.exception("the feeds cannot go on")
        await asyncio.sleep(RETRY_SECONDS)


async def from_ledger(ledger: Ledger, after: int, until: int | None = None) -> list[Entry]:
    """The next events beyond a position, and not beyond the other; at most a page of them."""
    stored = await ledger.entries(after, PAGE if until is None else min(PAGE, until - after))
    return [entry(recorded(one.position, one.body, one.leaf), one.body) for one in stored]


class Following:
    """The tail of the ledger, kept up to date for as long as `run` runs."""

    def __init__(self, ledger: Ledger, reached: int, tail: Tail[Entry], brought: Brought | None = None) -> None:
        self.ledger, self.tail = ledger, tail
        self._brought = brought
        self._order = InOrder(reached)
        self._size = reached
        self._grown = asyncio.Event()
        self._is_brought = brought is not None
        self._read: deque[tuple[int, float]] = deque(maxlen=READS_KEPT)
        """(position, when) of what was last read from the ledger."""

    async def run(self) -> None:
        """Until cancelled; what is lost meanwhile - a connection, a NOTIFY, the broker - costs time and no event."""
        self.ledger.on_commit.append(self._grow)
        others = [asyncio.create_task(self._listen(), name="feeds-listener")]
        if self._brought is not None:
            others.append(asyncio.create_task(self._take(self._brought), name="feeds-kafka"))
        try:
            while True:
                await self._grown.wait()
                self._grown.clear()
                while self._size > self._order.reached:
                    await self._catch_up()
        finally:
            self.ledger.on_commit.remove(self._grow)
            await ended(*others)

    def _grow(self, size: int) -> None:
        if size > self._size:
            self._size = size
            self._grown.set()

    async def _listen(self) -> None:
        async with aclosing(self.ledger.appended()) as sizes:  # type: ignore[type-var]
            async for size in sizes:
                self._grow(size)

    async def _catch_up(self) -> None:
        """Waits for Kafka where it keeps up; reads the next page from the ledger where it does not."""
        if self._is_brought:
            size = self._size
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.tail.beyond(size - 1)
                return
            except TimeoutError:
                self._is_brought = False  # until it keeps up again, nobody waits for it
        self._bring(await persistently(lambda: from_ledger(self.ledger, self._order.reached)))
        self._read.append((self._order.reached, asyncio.get_running_loop().time()))

    async def _take(self, brought: Brought) -> None:
        is_away = False
        while True:
            try:
                async with aclosing(brought()) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        is_away = False
                        if batch:
                            self._is_brought = self._keeps_up(max(one.position for one in batch))
                            self._bring(batch)
            except Exception as error:  # noqa: BLE001 - whatever ails the broker, the ledger has the events
                if not is_away:
                    _log.warning("the feeds read the ledger while Kafka is away: %r", error)
                is_away, self._is_brought = True, False
            await asyncio.sleep(RETRY_SECONDS)

    def _keeps_up(self, position: int) -> bool:
        """Whether what Kafka brings is news, or was just a moment ago."""
        if position > self._order.reached:
            return True
        read_at = next((at for reached, at in self._read if reached >= position), None)
        return self._is_brought if read_at is None else asyncio.get_running_loop().time() - read_at < PATIENCE_SECONDS

    def _bring(self, entries: Iterable[Entry]) -> None:
        ready = self._order.take(entries)
        if ready:
            self.tail.extend(ready, ready[-1].position)
            self._grow(ready[-1].position)
