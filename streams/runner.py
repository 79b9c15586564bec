"""The in-process runner: follows the ledger and moves every projection, in order, in batches, without skipping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import psycopg

from domain.kernel import UnknownEvent
from infra.ledger import Ledger, LedgerUnavailable
from infra.read_models import ReadModelWriter
from infra.tasks import ended
from projections.engine import Projection

BATCH_EVENTS: Final = 64
"""Folding holds the event loop up: this many at once cost a request that waits behind them a few milliseconds."""
FILLING_SECONDS: Final = 0.005
"""How long a batch may fill under load: each has its price, whatever it holds. The first event after a lull does not wait."""
RETRY_SECONDS: Final = 0.5
STANDBY_SECONDS: Final = 1.0
_log = logging.getLogger("aureus.projections")


class Runner:
    """Runs projections until cancelled; loses nothing when it is, for their position moves with their rows."""

    def __init__(self, ledger: Ledger, dsn: str, projections: Sequence[Projection]) -> None:
        self._ledger, self._dsn, self._projections = ledger, dsn, projections
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self.position = 0
        """What all running projections have reached, as far as this process knows."""
        self.stopped: dict[str, str] = {}
        ledger.on_commit.append(lambda _size: self._wake.set())

    async def run(self) -> None:
        """Follows the ledger for ever; after a lost database or leadership it simply begins again."""
        listening = asyncio.create_task(self._listen(), name="ledger-listener")
        try:
            while True:
                try:
                    await self._follow()
                except (psycopg.OperationalError, LedgerUnavailable) as error:
                    _log.warning("the read models wait for the database: %s", error)
                except UnknownEvent as error:
                    _log.error("the read models stop before an event this version does not know: %s", error)
                except Exception:  # noqa: BLE001 - said below, with its traceback
                    # Ended, it would leave reads standing still until the process ends; so it is said, and tried again.
                    _log.exception("the read models cannot go on")
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            await ended(listening)

    async def _listen(self) -> None:
        """Other processes append too: their NOTIFY, or the poll behind it, wakes this one."""
        async with aclosing(self._ledger.appended()) as sizes:  # type: ignore[type-var]
            async for _ in sizes:
                self._wake.set()

    async def _follow(self) -> None:
        writer = await ReadModelWriter.connect(self._dsn, self._projections)
        try:
            while not await writer.lead():
                await self._reached(await self._lowest(writer))
                await asyncio.sleep(STANDBY_SECONDS)
            reached = await self._lowest(writer)
            while True:
                await self._reached(reached)
                self._wake.clear()
                batch = await self._ledger.read(reached, BATCH_EVENTS)
                if batch:
                    reached = await writer.advance(batch)
                    self.stopped = writer.stopped
                    if len(batch) < BATCH_EVENTS:
                        await self._reached(reached)
                        await asyncio.sleep(FILLING_SECONDS)
                elif reached == (reached := await self._lowest(writer)):
                    await self._wake.wait()
        finally:
            await writer.close()

    async def _lowest(self, writer: ReadModelWriter) -> int:
        standings = await writer.standings()
        self.stopped = writer.stopped
        return min((standing.position for standing in standings.values() if not standing.stopped), default=self._ledger.head.size)

    async def _reached(self, position: int) -> None:
        async with self._moved:
            self.position = max(self.position, position)
            self._moved.notify_all()

    async def wait_for(self, position: int, timeout_seconds: float) -> bool:
        """Waits until reads see at least `position`; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: self.position >= position)
        except TimeoutError:
            return False
        return True
