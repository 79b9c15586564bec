"""The end of a feed, kept once for all who follow it: each has only a place in it, so who listens slowly costs nobody else anything."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Generic, Protocol, TypeVar

from domain.kernel import Event, Recorded

PAGE: Final = 200
EARLY_MAX: Final = 10_000


class Item(Protocol):
    """What a tail holds."""

    @property
    def position(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


T = TypeVar("T", bound=Item)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event of the ledger, and the JSON that a feed tells of it."""

    position: int
    recorded: Recorded[Event]
    data: str

    @property
    def size_bytes(self) -> int:
        return len(self.data)


def entry(recorded: Recorded[Event], body: bytes) -> Entry:
    """Told as it is signed, with its position in front."""
    return Entry(recorded.position, recorded, f'{{"position":{recorded.position},{body[1:].decode()}')


class Tail(Generic[T]):
    """What came after position `begins`, up to `reached`: at most so many items of so many bytes, and of those the latest."""

    def __init__(self, reached: int, items_max: int, bytes_max: int) -> None:
        self.begins = self.reached = reached
        self._items_max, self._bytes_max = items_max, bytes_max
        self._items: list[T] = []
        self._bytes = 0
        self._moved = asyncio.Event()

    def extend(self, items: Sequence[T], reached: int) -> None:
        """Tells those who wait; forgets what no longer fits."""
        self._items.extend(items)
        self._bytes += sum(item.size_bytes for item in items)
        forgotten = 0
        while len(self._items) - forgotten > self._items_max or self._bytes > self._bytes_max:
            self._bytes -= self._items[forgotten].size_bytes
            self.begins = self._items[forgotten].position
            forgotten += 1
        del self._items[:forgotten]
        self.reached = reached
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def after(self, position: int) -> list[T]:
        """The next items beyond a position that is not before `begins`; at most a page of them."""
        first = bisect_right(self._items, position, key=attrgetter("position"))
        return self._items[first : first + PAGE]

    async def beyond(self, position: int) -> None:
        """Waits until the tail has passed a position."""
        while self.reached <= position:
            await self._moved.wait()


class InOrder:
    """Lets events through in the order of the ledger and each of them once, however they come: early, late, again, or by two ways."""

    def __init__(self, reached: int) -> None:
        self.reached = reached
        self._early: dict[int, Entry] = {}

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those whose turn it is now. Positions have no gaps, so what is missing in front of the others is simply waited for."""
        ready: list[Entry] = []
        for one in entries:
            if one.position == self.reached + 1:
                following: Entry | None = one
                while following is not None:
                    self.reached += 1
                    ready.append(following)
                    following = self._early.pop(self.reached + 1, None)
            elif one.position > self.reached and len(self._early) < EARLY_MAX:
                # Beyond the bound they are let go: whoever finds them missing reads them from the ledger.
                self._early[one.position] = one
        return ready
