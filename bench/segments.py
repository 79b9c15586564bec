"""`segment_replay`: sealed segments read in bulk, beside DuckDB's bare scan of the same files."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb
import psycopg
from psycopg.rows import TupleRow

from api.services import projections
from bench.append import ledger
from bench.bulk import Importer, history
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from domain.archive import closed
from domain.kernel import Recorded
from infra.archive.building import PARQUET, write
from infra.archive.planning import plan
from infra.archive.reading import Sealed, events, raw_events
from infra.build import CHUNK_EVENTS
from infra.build import events as ledger_events
from infra.ledger import Ledger
from infra.proofs import Proofs
from infra.tiles import Tiles
from projections.engine import Folding

EVENTS: Final = 131_072
RATE_MIN: Final = 300_000
_TABLE_BYTES: Final = "SELECT pg_total_relation_size('ledger.events'::regclass) / (SELECT size FROM ledger.head)::float"


async def _seal(opened: Ledger, dsn: str, size: int, folder: Path) -> list[Sealed]:
    """The whole ledger in segments, as the archivist writes them."""
    tiles = Tiles(dsn)
    await tiles.open()
    try:
        proofs, sealed = Proofs(tiles, opened.store), list[Sealed]()
        while (first := sealed[-1].last + 1 if sealed else 1) <= size:
            made = await plan(opened.name, tiles, proofs, first, size)
            place = folder / str(first)
            place.mkdir()
            manifest = await asyncio.to_thread(write, dsn, made, place)
            sealed.append(Sealed(place / PARQUET, made.first, made.last, manifest.parquet_sha256))
    finally:
        await tiles.close()
    return sealed


@contextmanager
def _ledger_in_segments(lab: Lab) -> Iterator[tuple[str, list[Sealed], int]]:
    """(database, segments, events) of one ledger, in both forms."""
    with lab.database("segments") as dsn, TemporaryDirectory() as name:
        with ledger(lab, dsn) as opened:
            lab.run(Importer(opened, history()).add(lab.scaled(EVENTS)))
            size = closed(opened.head.size)
            sealed = lab.run(_seal(opened, dsn, size, Path(name)))
        yield dsn, sealed, size


@contextmanager
def replays(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Rows: position, signed body, signatures and leaf of every event as Python objects, of files whose hash is compared first.

    Typed: parsed and validated into events. Folded: those through every projection, into rows in memory. Each beside the same from
    the ledger's table (a row as COPY sends it, an array of bodies as a rebuild reads it), and rows beside DuckDB's bare scan, which
    looks at the same columns and brings none of them into Python. All of it in one process, on one core.
    """
    with _ledger_in_segments(lab) as (dsn, sealed, size):
        parquet_bytes = sum(one.path.stat().st_size for one in sealed) / size
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute(_TABLE_BYTES).fetchone()
            assert row is not None

            def one_round() -> Sample:
                rows = _rate(size, lambda: sum(map(len, raw_events(sealed))))
                typed = _rate(size, lambda: _typed(_sealed_batches(sealed, size)))
                folded = _rate(size, lambda: _folded(_sealed_batches(sealed, size)))
                return {
                    "rows": rows,
                    "rows_of_a_scan": rows / _rate(size, lambda: _scanned(sealed)),
                    "typed": typed,
                    "typed_of_the_table": typed / _rate(size, lambda: _typed(_table_batches(connection, size))),
                    "folded": folded,
                    "folded_of_the_table": folded / _rate(size, lambda: _folded(_table_batches(connection, size))),
                    "bytes_of_the_table": parquet_bytes / float(row[0]),
                }

            yield one_round


def _rate(size: int, work: Callable[[], int]) -> float:
    gc.collect()
    gc.disable()  # as in the process that rebuilds: rows and events form no rings
    try:
        started = time.perf_counter()
        done = work()
        seconds = time.perf_counter() - started
    finally:
        gc.enable()
    if done != size:
        raise CannotMeasure(f"{done} events were read of {size}")
    return size / seconds


def _scanned(sealed: Sequence[Sealed]) -> int:
    files = [str(one.path) for one in sealed]
    query = "SELECT count(position), sum(strlen(body)), sum(octet_length(signatures)), max(leaf) FROM read_parquet(?)"
    with duckdb.connect(config={"threads": 1}) as database:
        found = database.execute(query, [files]).fetchone()
    return int(found[0]) if found else 0


Batches = Iterable[list[Recorded[Any]]]


def _sealed_batches(sealed: Sequence[Sealed], size: int) -> Batches:
    return (found for _, found in events(sealed, size))


def _table_batches(connection: psycopg.Connection[TupleRow], size: int) -> Batches:
    return (ledger_events(connection, after, min(after + CHUNK_EVENTS, size), ()) for after in range(0, size, CHUNK_EVENTS))


def _typed(batches: Batches) -> int:
    return sum(map(len, batches))


def _folded(batches: Batches) -> int:
    foldings, done = [Folding(projection, {}) for projection in projections()], 0
    for batch in batches:
        for folding in foldings:
            folding.fold(batch)
            folding.ended.clear()
        done += len(batch)
    return done


FIGURES: Final = (
    Figure(
        "segment_replay",
        ours=replays,
        goals=(
            Goal(RATE_MIN, "rows", "events/s", 1.0),
            Goal(1.0, "rows_of_a_scan", "x a bare scan", 0.3, name="rows_of_a_scan"),
            Goal(50_000.0, "typed", "events/s", 1.0, name="typed"),
            Goal(1.0, "typed_of_the_table", "x from the table", 1.0, name="typed_of_the_table"),
            Goal(25_000.0, "folded", "events/s", 1.0, name="folded"),
            Goal(1.0, "folded_of_the_table", "x from the table", 1.0, name="folded_of_the_table"),
            Goal(1.0, "bytes_of_the_table", "x the table", 0.4, "lower", name="bytes_of_the_table"),
        ),
    ),
)
