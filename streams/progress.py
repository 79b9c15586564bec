"""How far the read models are, for whoever waits: told by the runner of this process, or watched when others move them."""

from __future__ import annotations

import asyncio
from typing import Final

import psycopg

from infra.read_models import CHANNEL
from infra.read_queries import Reads

POLL_SECONDS: Final = 0.02
"""How often somebody who waits looks, where no runner of this process tells them."""
LISTEN_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.25


class Progress:
    """The position that all running read models have reached, and a way to wait for it."""

    def __init__(self, reads: Reads | None = None) -> None:
        """`reads` is where to look when nobody tells."""
        self._reads = reads
        self._moved = asyncio.Condition()
        self.position = 0
        """What they have reached, as far as this process knows."""
        self.told = False
        """Whether this process moves all of them itself, and so knows at once (`tell`)."""

    async def tell(self, told: bool) -> None:
        """Says whether `reached` will be called for every move from now on."""
        async with self._moved:
            self.told = told
            self._moved.notify_all()

    async def reached(self, position: int) -> None:
        """Tells those who wait."""
        if position > self.position:
            async with self._moved:
                self.position = position
                self._moved.notify_all()

    async def wait_for(self, position: int, timeout_seconds: float) -> bool:
        """Waits until reads see at least `position`; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.beyond(position - 1)
        except TimeoutError:
            return False
        return True

    async def rest(self, least_seconds: float) -> None:
        """For whoever looks again and again: so long, and on until something moves - but not for ever, for some of it is due by the clock.

        Where nobody tells, it is only so long.
        """
        seen = self.position
        await asyncio.sleep(least_seconds)
        if self.told:
            await self.wait_for(seen + 1, IDLE_SECONDS)

    async def beyond(self, position: int) -> int:
        """Waits until the read models have passed `position`, and says how far they are."""
        while self.position <= position:
            if not self.told and self._reads is not None:
                await self.reached(await self._reads.position())
            await self._changed(position)
        return self.position

    async def _changed(self, position: int) -> None:
        """Until something moved, or it is time to look again."""
        async with self._moved:
            if self.position > position:
                return
            try:
                async with asyncio.timeout(None if self.told else POLL_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                return


async def watch(progress: Progress, dsn: str, reads: Reads) -> None:
    """Keeps `progress` up to date with what other processes do, until cancelled: NOTIFY wakes it, and a poll stands behind that."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                while True:
                    if not progress.told:
                        await progress.reached(await reads.position())
                    async for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                        pass
        except psycopg.OperationalError:
            await asyncio.sleep(RETRY_SECONDS)
