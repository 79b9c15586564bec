"""What is counted while Aureus works: plain numbers, kept by whoever does the work and read when somebody asks for them.

Nothing here takes a lock or looks up a label: it stands on the way of every command (docs/operators.md#observing).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
EVENTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384)


class Distribution:
    """How values are spread: how many were no larger than each bound (and larger than the one before), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def join(self, other: Distribution) -> None:
        """Adds what another one, of the same bounds, has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


Reading = tuple[str, tuple[str, ...], float | Distribution]
"""(a name of `infra.metrics.METRICS`, the values of its labels, what it stands at)"""
Source = Callable[[], Iterable[Reading]]


PROJECTED: Final = Distribution(EVENTS)
"""Events per batch that this process folded into read models, whichever part of it did."""


class Appends:
    """What one ledger's writer has done."""

    __slots__ = ("batch_events", "commits", "events", "failed", "seconds")

    def __init__(self) -> None:
        self.events = 0
        self.failed = 0
        """Appends that could not be made durable; one that came upon another version than it was decided on is not among them."""
        self.batch_events = Distribution(EVENTS)
        self.seconds = Distribution(SECONDS)
        """From taking a place in the order of commits to being durable."""
        self.commits = Distribution(SECONDS)
        """How long the database took for each batch."""

    def committed(self, events: int, began: float, now: float, since: Iterable[float]) -> None:
        """A batch of so many events is durable; `since` are the moments from which its appends waited, of the same clock."""
        self.events += events
        self.batch_events.add(events)
        self.commits.add(now - began)
        seconds = self.seconds
        for moment in since:
            seconds.add(now - moment)

    def readings(self) -> Iterable[Reading]:
        yield "aureus_append_events_total", (), self.events
        yield "aureus_append_failures_total", (), self.failed
        yield "aureus_append_batch_events", (), self.batch_events
        yield "aureus_append_seconds", (), self.seconds
        yield "aureus_append_commit_seconds", (), self.commits


def commands(ended: Mapping[tuple[str, str], int]) -> Source:
    """A command path's count of how commands ended."""
    return lambda: (("aureus_commands_total", key, count) for key, count in ended.items())


class Verdicts:
    """What policies were asked, and how long their answer took; those remembered from an equal question count as well."""

    __slots__ = ("engine", "seconds", "unanswered")

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.seconds = Distribution(SECONDS)
        self.unanswered = 0

    def add(self, seconds: float, *, unanswered: bool) -> None:
        self.seconds.add(seconds)
        self.unanswered += unanswered

    def readings(self) -> Iterable[Reading]:
        yield "aureus_policy_seconds", (self.engine,), self.seconds
        yield "aureus_policy_unanswered_total", (self.engine,), self.unanswered


class Requests:
    """What was asked over HTTP, by route as it is declared: a path that a caller made up makes no new label."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, int], Distribution] = {}

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        answered = (method, route, status)
        known = self._seconds.get(answered)
        if known is None:
            known = self._seconds[answered] = Distribution(SECONDS)
        known.counts[bisect_left(SECONDS, seconds)] += 1
        known.total += seconds

    def readings(self) -> Iterable[Reading]:
        together: dict[tuple[str, str], Distribution] = {}
        for (method, route, status), seconds in self._seconds.items():
            yield "aureus_http_requests_total", (method, route, str(status)), sum(seconds.counts)
            together.setdefault((method, route), Distribution(SECONDS)).join(seconds)
        for asked, seconds in together.items():
            yield "aureus_http_request_seconds", asked, seconds
