"""The stock `eventsourcing` library: its PostgreSQL recorder, as a user would run it when nothing may be lost.

Best safe setting: 8 threads on a pool of 8 connections held open, plain inserts, no ping before use. The table lock
stays, for the stored-procedure mode (`enable_db_functions`) takes none, and then a follower misses events. The recorder
is called directly: no aggregate, no mapper, no JSON, no signature - only the write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from bench import workload
from bench.lab import Lab, keyword_dsn, ticking
from bench.measure import Sample

THREADS: Final = 8


def datastore(dsn: str, connections: int) -> PostgresDatastore:
    where = keyword_dsn(dsn)
    return PostgresDatastore(
        dbname=where["dbname"],
        host=where.get("host", ""),
        port=where.get("port", "5432"),
        user=where.get("user", ""),
        password=where.get("password", ""),
        pool_size=connections,
    )


@contextmanager
def appends(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """One event per insert, 8 in flight."""
    with lab.database("stock") as dsn, datastore(dsn, THREADS) as store, ThreadPoolExecutor(THREADS) as threads:
        recorder = PostgresApplicationRecorder(store)
        recorder.create_table()
        state = workload.payload()

        def write(going: Callable[[], bool]) -> int:
            originator, version = uuid4(), 0
            while going():
                version += 1
                recorder.insert_events([StoredEvent(originator, version, "budgets.funds_reserved", state)])
            return version

        def one_round() -> Sample:
            started = time.perf_counter()
            going = ticking(lab.round_seconds, time.perf_counter)
            written = sum(threads.map(write, [going] * THREADS))
            return {"rate": written / (time.perf_counter() - started)}

        yield one_round
