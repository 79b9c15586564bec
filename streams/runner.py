"""The in-process runner: follows the ledger and moves every projection, in order, in batches, without skipping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import SystemRandom
from typing import Final

import psycopg

from domain.kernel import Event, Recorded, UnknownEvent
from infra.folding_ahead import FoldingAhead
from infra.ledger import Ledger, LedgerUnavailable
from infra.read_models import ReadModelWriter
from infra.tasks import ended
from projections.engine import Projection
from streams.progress import Progress
from streams.waking import woken

BATCH_EVENTS: Final = 64
"""Folding holds the event loop up: this many at once cost a request that waits behind them a few milliseconds."""
CATCH_UP_EVENTS: Final = 512
"""At once when there are many to catch up with: each slice of them lets others have their turn."""
FILLING_SECONDS: Final = 0.005
"""How long a batch may fill under load: each has its price, whatever it holds."""
FEW_EVENTS: Final = 8
"""A batch of so few was no load: the next one does not wait to fill."""
RETRY_SECONDS: Final = 0.5
STANDBY_SECONDS: Final = 1.0
_dice: Final = SystemRandom()
_log = logging.getLogger("aureus.projections")


class Runner:
    """Runs projections until cancelled; loses nothing when it is, for their position moves with their rows."""

    def __init__(self, ledger: Ledger, dsn: str, projections: Sequence[Projection], progress: Progress) -> None:
        self._ledger, self._dsn, self._projections, self._progress = ledger, dsn, projections, progress
        self.stopped: dict[str, str] = {}

    async def run(self) -> None:
        """Follows the ledger for ever; after a lost database or leadership it simply begins again."""
        async with woken(self._ledger) as wake:
            while True:
                try:
                    await self._follow(wake)
                except (psycopg.OperationalError, LedgerUnavailable) as error:
                    _log.warning("the read models wait for the database: %s", error)
                except UnknownEvent as error:
                    _log.error("the read models stop before an event this version does not know: %s", error)
                except Exception:  # noqa: BLE001 - said below, with its traceback
                    # Ended, it would leave reads standing still until the process ends; so it is said, and tried again.
                    _log.exception("the read models cannot go on")
                await self._progress.tell(False)
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, wake: asyncio.Event) -> None:
        writer = await ReadModelWriter.connect(self._dsn, self._projections)
        try:
            if await writer.lead_all():
                await self._lead(writer, wake)
            await asyncio.sleep(_dice.uniform(0.5, 1.5) * STANDBY_SECONDS)
        finally:
            await writer.close()

    async def _lead(self, writer: ReadModelWriter, wake: asyncio.Event) -> None:
        reached = await self._lowest(writer)
        await self._progress.tell(True)
        while True:
            await self._progress.reached(reached)
            wake.clear()
            batch = await self._ledger.read(reached, BATCH_EVENTS)
            if len(batch) == BATCH_EVENTS:
                reached = await self._catch_up(writer, batch)
            elif batch:
                reached = await writer.advance(batch)
                self.stopped = writer.stopped
                await self._progress.reached(reached)
                if len(batch) > FEW_EVENTS:
                    await asyncio.sleep(FILLING_SECONDS)
            elif reached == (reached := await self._lowest(writer)):
                await wake.wait()

    async def _catch_up(self, writer: ReadModelWriter, batch: Sequence[Recorded[Event]]) -> int:
        """Takes in batch after batch while they are full; three things happen side by side: one is read, one folded, one written."""
        ahead = await FoldingAhead.open(self._dsn, writer)
        size = CATCH_UP_EVENTS
        reading: asyncio.Task[list[Recorded[Event]]] | None = None
        try:
            while batch:
                reading = asyncio.create_task(self._ledger.read(batch[-1].position, size))
                reached = await ahead.advance(batch)
                self.stopped = writer.stopped
                await self._progress.reached(ahead.committed)
                following = await reading
                if reached != batch[-1].position or len(following) < size:
                    break
                batch = following
            return await ahead.land()
        finally:
            if reading is not None:
                await ended(reading)
            await ahead.close()

    async def _lowest(self, writer: ReadModelWriter) -> int:
        standings = await writer.standings()
        self.stopped = writer.stopped
        return min((standing.position for standing in standings.values() if not standing.stopped), default=self._ledger.head.size)
