"""Being woken when the ledger grows, whoever wrote to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from infra.ledger import Ledger
from infra.tasks import ended


@asynccontextmanager
async def woken(ledger: Ledger) -> AsyncIterator[asyncio.Event]:
    """Set after each append: of this process at once, of another by its NOTIFY or the poll behind that. Whoever waits clears it."""
    wake = asyncio.Event()

    def grown(_size: int) -> None:
        wake.set()

    async def listen() -> None:
        async with aclosing(ledger.appended()) as sizes:  # type: ignore[type-var]
            async for _ in sizes:
                wake.set()

    ledger.on_commit.append(grown)
    listening = asyncio.create_task(listen(), name="ledger-listener")
    try:
        yield wake
    finally:
        ledger.on_commit.remove(grown)
        await ended(listening)
