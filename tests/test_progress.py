"""Whoever looks again and again rests while nothing moves, and hears at once when something does."""

import asyncio
import time

import pytest

import streams.progress
from streams.progress import Progress

pytestmark = pytest.mark.anyio
LEAST = 0.02


async def rested(progress: Progress) -> float:
    started = time.monotonic()
    await progress.rest(LEAST)
    return time.monotonic() - started


async def test_it_ends_when_something_moved() -> None:
    progress = Progress()
    await progress.tell(True)
    resting = asyncio.create_task(rested(progress))
    await asyncio.sleep(5 * LEAST)
    assert not resting.done()
    await progress.reached(1)
    async with asyncio.timeout(1):
        assert await resting >= 4 * LEAST


async def test_what_moved_meanwhile_is_not_slept_through() -> None:
    progress = Progress()
    await progress.tell(True)
    resting = asyncio.create_task(rested(progress))
    await asyncio.sleep(0)
    await progress.reached(1)
    assert LEAST / 2 <= await resting < streams.progress.IDLE_SECONDS / 2


async def test_it_ends_though_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.progress, "IDLE_SECONDS", 0.1)
    progress = Progress()
    await progress.tell(True)
    assert 0.05 <= await rested(progress) < 2


async def test_where_nobody_tells_it_is_short() -> None:
    assert LEAST / 2 <= await rested(Progress()) < 1
