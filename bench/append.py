"""`append_64` and `append_1`: what one durable, signed event costs, with 64 commands in flight and with one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

import psycopg

from bench import workload
from bench.lab import CannotMeasure, Lab, ticking
from bench.measure import Contestant, Figure, Goal, Sample
from bench.peers import pgbench, stock, umadb
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.ledger import Append, Ledger, StreamWrite
from infra.opening import open_ledger


@contextmanager
def ledger(lab: Lab, dsn: str) -> Iterator[Ledger]:
    """A ledger founded in an empty database, with keys of its own."""
    opened = lab.run(open_ledger(dsn, FileKeystore.open(lab.subfolder("home") / "keys")))
    try:
        yield opened
    finally:
        lab.run(opened.close())


class _Writer:
    """Sends one command after another to a stream of its own, each with one event and the version it expects."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        self._ledger, self._number, self._version = ledger, number, 0

    async def write(self, going: Callable[[], bool]) -> list[float]:
        """The seconds that each command took."""
        seconds = []
        while going():
            started = time.perf_counter()
            event = workload.reserved(self._number, self._version)
            write = StreamWrite(workload.stream(self._number), self._version, (event,))
            await self._ledger.append(Append(workload.TENANT, workload.ACTOR, (write,), uuid7()))
            self._version += 1
            seconds.append(time.perf_counter() - started)
        return seconds


def _appends(in_flight: int) -> Contestant:
    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        with lab.database("ours") as dsn, ledger(lab, dsn) as opened:
            writers = [_Writer(opened, number) for number in range(in_flight)]

            async def write() -> Sample:
                started = time.perf_counter()
                going = ticking(lab.round_seconds, time.perf_counter)
                times = await asyncio.gather(*(writer.write(going) for writer in writers))
                seconds = time.perf_counter() - started
                every = [second for mine in times for second in mine]
                return {"rate": len(every) / seconds, "p50_ms": median(every) * 1_000}

            yield lambda: lab.run(write())
            _require_as_large(dsn)

    return contestant


def _require_as_large(dsn: str) -> None:
    """Refuses a race in which the peers carried more than we did."""
    with psycopg.connect(dsn) as connection:
        size = "SELECT avg(octet_length(body) + octet_length(signatures) + octet_length(leaf))::int FROM ledger.events WHERE position > 100"
        row = connection.execute(size).fetchone()
    if row is None or row[0] < workload.ROW_BYTES:
        raise CannotMeasure(f"our row holds {row and row[0]} bytes, the peers write {workload.ROW_BYTES}: lower workload.ROW_BYTES")


FIGURES: Final = (
    Figure(
        "append_64",
        ours=_appends(64),
        peers={"stock": stock.appends, "umadb": umadb.appends, "pgbench": pgbench.inserts(32)},
        goals=(
            Goal("stock", "rate", "events/s", 20, name="stock"),
            Goal("umadb", "rate", "events/s", 2.5, name="umadb"),
            Goal("pgbench", "rate", "events/s", 1.0, name="pgbench"),
        ),
    ),
    Figure(
        "append_1",
        ours=_appends(1),
        peers={"pgbench": pgbench.inserts(1)},
        goals=(Goal("pgbench", "p50_ms", "ms (p50)", 1.5, better="lower"),),
    ),
)
