"""Putting the partitions together again: stretches as they come, doubled, early or late, become the ledger's one order of events."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from domain.kernel import Recorded
from streams.records import Stretch

_BY_POSITION: Final = attrgetter("position")
_BY_BEGINNING: Final = attrgetter("after")


class Missing(Exception):
    """What came says that all is there up to `until`, and it is not: only the ledger knows what follows `after`."""

    def __init__(self, after: int, until: int) -> None:
        super().__init__(f"something is missing between positions {after} and {until}")
        self.after, self.until = after, until


@dataclass(slots=True)
class _Known:
    """What is known of one partition, beyond what was given out."""

    until: int
    """All its events up to this position are here, or were given out."""
    events: list[Recorded[Any]] = field(default_factory=list)
    early: list[Stretch] = field(default_factory=list)
    """Stretches that begin beyond `until`, by where they begin."""

    def count(self, position: int) -> int:
        """How many of its events stand up to a position."""
        return bisect_right(self.events, position, key=_BY_POSITION)

    def extend(self, stretch: Stretch) -> None:
        self.events += stretch.events if stretch.after == self.until else [e for e in stretch.events if e.position > self.until]
        self.until = stretch.until

    def link(self) -> None:
        """Takes in what came early and is early no more."""
        while self.early and self.early[0].after <= self.until:
            stretch = self.early.pop(0)
            if stretch.until > self.until:
                self.extend(stretch)


class Merging:
    """All partitions of a topic, in the order of the ledger. Pure: no clock, no I/O."""

    def __init__(self, of: int, position: int) -> None:
        """`of` partitions, whose events up to `position` are dealt with already."""
        self.of, self.position = of, position
        self.duplicates = 0
        """Stretches that brought nothing new."""
        self._partitions = [_Known(position) for _ in range(of)]

    def add(self, stretch: Stretch) -> None:
        """Takes a stretch in, whenever it comes and however often."""
        known = self._partitions[stretch.partition]
        if stretch.until <= known.until:
            self.duplicates += 1
        elif stretch.after > known.until:
            insort(known.early, stretch, key=_BY_BEGINNING)
        else:
            known.extend(stretch)
            if known.early:
                known.link()

    @property
    def safe(self) -> int:
        """Up to this position every partition is known."""
        return min(known.until for known in self._partitions)

    @property
    def held(self) -> int:
        """How many events wait for others that come before them."""
        return sum(len(known.events) + sum(len(stretch.events) for stretch in known.early) for known in self._partitions)

    def missing(self) -> int | None:
        """Where the first hole in any partition ends, when something that comes after it is here already."""
        return min((known.early[0].after for known in self._partitions if known.early), default=None)

    def take(self) -> list[Recorded[Any]]:
        """The events that follow `position` up to `safe`, in order; raises Missing, and takes nothing, when one of them is not there."""
        safe = self.safe
        if safe == self.position:
            return []
        given = [e for known in self._partitions for e in known.events[: known.count(safe)]]
        given.sort(key=_BY_POSITION)
        if [e.position for e in given] != list(range(self.position + 1, safe + 1)):
            raise Missing(self.position, safe)
        self.skip_to(safe)
        return given

    def skip_to(self, position: int) -> None:
        """Events up to this position are dealt with, here or elsewhere."""
        self.position = max(self.position, position)
        for known in self._partitions:
            del known.events[: known.count(position)]
            known.until = max(known.until, position)
            known.link()
