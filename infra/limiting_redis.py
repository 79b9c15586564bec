"""Allowances that several processes share: moving windows in Redis, counted by the `limits` library's own scripts.

Loaded where AUREUS_REDIS_URL names a Redis, and nowhere else: the library takes its time to load.
"""

from __future__ import annotations

import asyncio
from typing import Final

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

PREFIX: Final = "aureus:limits"
ANSWER_SECONDS: Final = 2.0
"""Far more than any answer takes: to take a busy moment for an outage is to count apart, and to let in too many."""
ASKED_AT_ONCE: Final = 8
"""By this process, each over a connection of its own; the others wait their turn, and their time does not run yet."""


class RedisWindows:
    """Windows under digests of who asks. A key is forgotten once its window has passed without a request."""

    failures: Final = (RedisError, OSError, TimeoutError)

    def __init__(self, url: str, window_seconds: int) -> None:
        retry = Retry(NoBackoff(), 0)
        self._pool = ConnectionPool.from_url(url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS, retry=retry)
        storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix=PREFIX, connection_pool=self._pool)  # type: ignore[arg-type]
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._limiter = MovingWindowRateLimiter(storage)
        self._window = window_seconds

    async def take(self, whose: str, allowed: int) -> tuple[bool, int, float]:
        """(granted, how many were within the window, when the first of them leaves it)"""
        async with self._asking, asyncio.timeout(ANSWER_SECONDS):
            granted = await self._limiter.hit(self._item(allowed), whose)
            return (granted, *await self._counted(whose, allowed))

    async def state(self, whose: str, allowed: int) -> tuple[int, float]:
        async with self._asking, asyncio.timeout(ANSWER_SECONDS):
            return await self._counted(whose, allowed)

    async def close(self) -> None:
        await self._pool.aclose()

    async def _counted(self, whose: str, allowed: int) -> tuple[int, float]:
        frees, remaining = await self._limiter.get_window_stats(self._item(allowed), whose)
        return allowed - remaining, frees

    def _item(self, allowed: int) -> RateLimitItemPerSecond:
        return RateLimitItemPerSecond(allowed, self._window, namespace="queries")
