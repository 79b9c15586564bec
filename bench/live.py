"""`project_live` and `visible_inprocess`: the read models of every context, kept up to date in the process that serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import psycopg

from api.services import projections
from api.workers import spare_the_collector
from bench import workload
from bench.append import ledger
from bench.bulk import Importer, history
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from domain.values import uuid7
from infra.ledger import Append, Ledger, StreamWrite
from infra.read_models import create_read_models
from infra.tasks import ended
from streams.progress import Progress
from streams.runner import Runner

EVENTS: Final = 100_000
PER_SECOND: Final = 500
LONGEST_SECONDS: Final = 120.0


@contextmanager
def catches_up(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """From empty read models to the end of the ledger, as the runner of a server does it: read, typed, folded, written with history."""
    with lab.database("ours") as dsn, ledger(lab, dsn) as opened:
        lab.run(Importer(opened, history()).add(lab.scaled(EVENTS)))
        spare_the_collector()

        async def one_round() -> Sample:
            await forget_read_models(dsn)
            started = time.perf_counter()
            async with moving(opened, dsn) as progress:
                if not await progress.wait_for(opened.head.size, LONGEST_SECONDS):
                    raise CannotMeasure(f"the read models came to {progress.position} of {opened.head.size} events")
                return {"rate": opened.head.size / (time.perf_counter() - started)}

        yield lambda: lab.run(one_round())


@contextmanager
def becomes_visible(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """From the moment an event is durable to the one a read sees it, at 500 events a second, one after another at even intervals."""
    with lab.database("ours") as dsn, ledger(lab, dsn) as opened:
        lab.run(create_read_models(dsn, projections()))
        spare_the_collector()
        writes = history()

        async def one_round() -> Sample:
            async with moving(opened, dsn) as progress:
                return percentiles(await waits(opened, progress, writes, lab.round_seconds))

        yield lambda: lab.run(one_round())


async def waits(opened: Ledger, progress: Progress, writes: Callable[[int, int], tuple[StreamWrite, ...]], seconds: float) -> list[float]:
    """Seconds from durable to visible, of every append of a round. An action is two events: it and its fact."""

    async def one() -> float:
        receipt = await opened.append(Append(workload.TENANT, workload.ACTOR, writes(0, 2), uuid7()))
        started = time.perf_counter()
        if not await progress.wait_for(receipt.last_position, LONGEST_SECONDS):
            raise CannotMeasure(f"position {receipt.last_position} did not become visible")
        return time.perf_counter() - started

    began, tasks = time.perf_counter(), []
    for number in range(int(seconds * PER_SECOND / 2)):
        await asyncio.sleep(max(0.0, began + number * 2 / PER_SECOND - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    return await asyncio.gather(*tasks)


def percentiles(seconds: list[float]) -> Sample:
    ordered = sorted(seconds)
    return {"p50_ms": 1_000 * ordered[len(ordered) // 2], "p99_ms": 1_000 * ordered[int(len(ordered) * 0.99)]}


@asynccontextmanager
async def moving(opened: Ledger, dsn: str) -> AsyncIterator[Progress]:
    """The runner of a server, following the ledger while the block runs."""
    progress = Progress()
    task = asyncio.create_task(Runner(opened, dsn, projections(), progress).run())
    try:
        yield progress
    finally:
        await ended(task)


async def forget_read_models(dsn: str) -> None:
    """Empty tables again, as on the day that Aureus was set up."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for projection in projections():
            await connection.execute(f'DROP SCHEMA IF EXISTS "read_{projection.name}" CASCADE'.encode())
        await connection.execute("DROP SCHEMA IF EXISTS projections CASCADE")
    await create_read_models(dsn, projections())


FIGURES: Final = (
    Figure("project_live", ours=catches_up, goals=(Goal(20_000.0, "rate", "events/s", 1.0),)),
    Figure("visible_inprocess", ours=becomes_visible, goals=(Goal(10.0, "p99_ms", "ms", 1.0, better="lower"),)),
)
