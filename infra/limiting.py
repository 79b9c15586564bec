"""Counting what is asked, so that one who asks without measure is told to wait and everybody else does not notice.

Two kinds of counts. A *guard* counts every request of an actor, a key, a tenant or an address within the minute, in this
process: it stands on the way of each request, so it costs no more than a dictionary. An *allowance* counts an actor's expensive
reads within a moving hour, exactly, and through Redis where several processes share it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from domain.kernel import Asker
from domain.values import Tier
from infra.circuit import Circuit, CircuitOpen
from infra.limit_settings import Front
from infra.measures import Reading

if TYPE_CHECKING:
    from infra.limiting_redis import RedisWindows

GuardName = Literal["actor", "key", "tenant", "address", "attempts"]
QUERIES: Final = "queries"
HOUR_SECONDS: Final = 3_600


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands for whoever asks: `reset_seconds` until one more is admitted, or until all that was counted is forgotten."""

    limit: str
    allowed: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class LimitReached(Exception):
    """So much was asked already; `standing` says when there is room again."""

    def __init__(self, standing: Standing, runaway: bool = False) -> None:
        super().__init__(f"{standing.limit}: {standing.allowed} in {standing.window_seconds} s")
        self.standing = standing
        self.runaway = runaway
        """Whether its actor's owner is to be told: once an hour, when it has been refused very often."""


class Guards:
    """Counts per minute of the clock. All of them are forgotten together when the next minute begins."""

    def __init__(self, policy: Front, now: Callable[[], float] = time.time) -> None:
        self._now, self._window = now, policy.window_seconds
        self._most: dict[GuardName, int | None] = {
            "actor": policy.actor,
            "key": policy.key,
            "tenant": policy.tenant,
            "address": policy.address,
            "attempts": policy.attempts,
        }
        self._counts: dict[tuple[GuardName, str], int] = {}
        self._ends = 0.0

    def count(self, limit: GuardName, whose: str) -> None:
        """Counts one request. Raises LimitReached."""
        most = self._most[limit]
        if most is None:
            return
        now = self._now()
        if now >= self._ends:
            self._counts.clear()
            self._ends = (now // self._window + 1) * self._window
        key = (limit, whose)
        counted = self._counts[key] = self._counts.get(key, 0) + 1
        if counted > most:
            raise LimitReached(Standing(limit, most, self._window, 0, math.ceil(self._ends - now)))

    def standing(self, limit: GuardName, whose: str) -> Standing | None:
        most, now = self._most[limit], self._now()
        if most is None:
            return None
        counted = self._counts.get((limit, whose), 0) if now < self._ends else 0
        return Standing(limit, most, self._window, max(most - counted, 0), math.ceil(self._ends - now) if counted else 0)


class Windows:
    """Moving windows in this process: of whatever hour one looks at, never more than the allowance was granted."""

    def __init__(self, window_seconds: int, now: Callable[[], float] = time.time) -> None:
        self._window, self._now = window_seconds, now
        self._granted: dict[str, deque[float]] = {}
        self._tidy_at = 0.0

    def take(self, whose: str, allowed: int) -> bool:
        now = self._now()
        self._tidy(now)
        granted = self._granted.setdefault(whose, deque())
        self._forget(granted, now)
        if len(granted) >= allowed:
            return False
        granted.append(now)
        return True

    def give_back(self, whose: str) -> None:
        """Takes back the latest, if it counts still."""
        if granted := self._granted.get(whose):
            granted.pop()

    def state(self, whose: str, allowed: int) -> tuple[int, float]:
        """How many were granted within the window that ends now, and when the first of them leaves it that makes room."""
        now = self._now()
        granted = self._granted.get(whose, deque())
        self._forget(granted, now)
        return len(granted), (granted[max(len(granted) - allowed, 0)] + self._window if granted else now)

    def _forget(self, granted: deque[float], now: float) -> None:
        while granted and granted[0] < now - self._window:
            granted.popleft()

    def _tidy(self, now: float) -> None:
        """Once a window, those who asked for nothing within it are forgotten."""
        if now >= self._tidy_at:
            self._granted = {whose: granted for whose, granted in self._granted.items() if granted and granted[-1] >= now - self._window}
            self._tidy_at = now + self._window


class Limiter:
    """The counts of one process, and the way to those that it shares."""

    def __init__(self, policy: Front, shared: RedisWindows | None = None, now: Callable[[], float] = time.time) -> None:
        self.policy = policy
        self.guards = Guards(policy, now)
        self.circuit = Circuit("redis", "Each process counts expensive reads on its own.")
        self._own = Windows(policy.query_window_seconds, now)
        self._shared, self._now = shared, now
        self._refused: dict[str, int] = {}
        self._refusals: dict[tuple[str, str], int] = {}
        self._hour = 0

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    def allowance(self, asker: Asker) -> int | None:
        return self.policy.queries_premium if asker.tier is Tier.PREMIUM else self.policy.queries

    async def take_query(self, asker: Asker) -> Standing | None:
        """Counts one expensive read, and tells how the allowance stands after it. Raises LimitReached; nothing is counted then."""
        allowed = self.allowance(asker)
        if allowed is None:
            return None
        whose = _whose(asker)
        granted, used, frees = await self._take(whose, allowed)
        standing = self._standing(allowed, used, frees)
        if not granted:
            raise LimitReached(standing)
        return standing

    async def _take(self, whose: str, allowed: int) -> tuple[bool, int, float]:
        """Of this process' own count always, and of the shared one as long as that answers."""
        if not self._own.take(whose, allowed):
            return (False, *self._own.state(whose, allowed))
        if self._shared is not None:
            try:
                with self.circuit.trying(*self._shared.failures):
                    granted, used, frees = await self._shared.take(whose, allowed)
            except (CircuitOpen, *self._shared.failures):
                pass  # the circuit has said so, and this process goes by its own count
            else:
                if not granted:
                    self._own.give_back(whose)
                return granted, used, frees
        return (True, *self._own.state(whose, allowed))

    async def standings(self, asker: Asker) -> list[Standing]:
        """How the caller's own limits stand; looking counts nothing."""
        found = [self.guards.standing("actor", f"{asker.tenant}\n{asker.actor}"), self.guards.standing("tenant", asker.tenant)]
        allowed = self.allowance(asker)
        if allowed is not None:
            found.insert(0, self._standing(allowed, *await self._state(_whose(asker), allowed)))
        return [one for one in found if one is not None]

    async def _state(self, whose: str, allowed: int) -> tuple[int, float]:
        if self._shared is not None:
            try:
                with self.circuit.trying(*self._shared.failures):
                    return await self._shared.state(whose, allowed)
            except (CircuitOpen, *self._shared.failures):
                pass
        return self._own.state(whose, allowed)

    def _standing(self, allowed: int, used: int, frees: float) -> Standing:
        reset = max(math.floor(frees - self._now()) + 1, 1) if used else 0
        return Standing(QUERIES, allowed, self.policy.query_window_seconds, max(allowed - used, 0), reset)

    def guard(self, asker: Asker, key_id: str | None) -> None:
        """Counts a request of any kind. Raises LimitReached."""
        self.guards.count("actor", f"{asker.tenant}\n{asker.actor}")
        if key_id is not None:
            self.guards.count("key", key_id)
        self.guards.count("tenant", asker.tenant)

    def refused(self, reached: LimitReached, asker: Asker | None) -> None:
        """Notes a refusal; sets `reached.runaway` when it is the one to tell the owner of."""
        limit = reached.standing.limit
        self._refused[limit] = self._refused.get(limit, 0) + 1
        if asker is None:
            return
        hour = int(self._now() // HOUR_SECONDS)
        if hour != self._hour:
            self._refusals, self._hour = {}, hour
        whose = (asker.tenant, asker.actor)
        times = self._refusals[whose] = self._refusals.get(whose, 0) + 1
        reached.runaway = times == self.policy.runaway

    def readings(self) -> Iterable[Reading]:
        for limit, count in self._refused.items():
            yield "aureus_limit_refusals_total", (limit,), count


def _whose(asker: Asker) -> str:
    """Whom counts are kept of: a digest, so that what is kept outside names nobody."""
    return hashlib.sha256(f"{asker.tenant}\n{asker.actor}".encode()).hexdigest()[:32]
