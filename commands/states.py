"""What the command path knows of each stream it lately decided on, one command at a time per stream."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

from domain.kernel import Decider, Event
from domain.ledger import Fate, LedgerPort

KNOWN_STATES: Final = 20_000
StreamKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """A stream's state and the version it is the state of (0: no event yet)."""

    version: int
    state: Any
    fate: Fate | None = None
    """Of the append that this state came from, when it was not yet known to be durable."""


class Held:
    """Locks, taken one after another and given back together."""

    __slots__ = ("_held", "_locks")

    def __init__(self, locks: Sequence[asyncio.Lock]) -> None:
        self._locks = locks
        self._held = 0

    async def __aenter__(self) -> None:
        try:
            for lock in self._locks:
                await lock.acquire()
                self._held += 1
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_error: object) -> None:
        self._release()

    def _release(self) -> None:
        for lock in self._locks[: self._held]:
            lock.release()


class States:
    """Loads states, keeps those lately used, and moves them on with what is enqueued.

    A kept state may be ahead of what is durable. That is safe: every append says which versions it relied on, so a
    decision made on something that did not happen is refused by the ledger and made again. It also says which appends
    it was decided upon, for another process may have taken the hoped-for version for something else.
    """

    def __init__(self, ledger: LedgerPort) -> None:
        self._ledger = ledger
        self._known: OrderedDict[StreamKey, Seen] = OrderedDict()
        self._locks: WeakValueDictionary[StreamKey, asyncio.Lock] = WeakValueDictionary()

    def alone(self, keys: Iterable[StreamKey]) -> Held:
        """Holds the streams against other commands of this process while deciding; in one order, so nobody deadlocks."""
        return Held([self._lock(key) for key in sorted(set(keys))])

    def _lock(self, key: StreamKey) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def load(self, decider: Decider[Any, Any, Any], key: StreamKey) -> Seen:
        seen = self._known.get(key)
        if seen is None:
            history = await self._ledger.read_stream(*key)
            seen = Seen(history[-1].version if history else 0, decider.replay(recorded.event for recorded in history))
            self._keep(key, seen)
        else:
            self._known.move_to_end(key)
        return seen

    def move(self, decider: Decider[Any, Any, Any], key: StreamKey, seen: Seen, events: Iterable[Event], fate: Fate) -> None:
        moved = tuple(events)
        self._keep(key, Seen(seen.version + len(moved), decider.replay(moved, seen.state), fate))

    def forget(self, *keys: StreamKey) -> None:
        for key in keys:
            self._known.pop(key, None)

    def _keep(self, key: StreamKey, seen: Seen) -> None:
        self._known[key] = seen
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_STATES:
            self._known.popitem(last=False)
