"""Ending what runs in the background, for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_PATIENCE_SECONDS: Final = 1.0


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits until they are over, asking again: `asyncio.wait_for`, under every connection pool, swallows a
    cancellation that comes together with the answer it waits for (CPython before 3.12)."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_PATIENCE_SECONDS)
