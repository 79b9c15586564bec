"""COPY: the fastest way into PostgreSQL there is, with the very rows our ledger has written.

Best setting: binary format, one statement, one transaction, the rows made beforehand and streamed from memory into an
empty table. It has the columns and the indexes of the ledger's table, for without them no row could be found again;
it has none of its triggers. Nothing is encoded, hashed, chained or signed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from bench.lab import Lab
from bench.measure import Contestant, Sample

_CHUNK_BYTES: Final = 1 << 18
_LATEST: Final = "COPY (SELECT * FROM ledger.events ORDER BY position DESC LIMIT {rows}) TO STDOUT (FORMAT binary)"
_ALIKE: Final = "CREATE TABLE copied (LIKE ledger.events INCLUDING INDEXES INCLUDING CONSTRAINTS INCLUDING STORAGE)"


def copies(rows: int, fill: Callable[[Lab, str, int], None]) -> Contestant:
    """COPY of so many rows; `fill(lab, dsn, rows)` has our ledger write them first, in the same database."""

    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        count = lab.scaled(rows)
        with lab.database("copy") as dsn:
            fill(lab, dsn, count)
            with psycopg.connect(dsn, autocommit=True) as connection:
                with connection.cursor().copy(_LATEST.format(rows=count)) as source:
                    data = b"".join(bytes(chunk) for chunk in source)
                connection.execute(_ALIKE)

                def one_round() -> Sample:
                    connection.execute("TRUNCATE copied")
                    started = time.perf_counter()
                    with connection.cursor().copy("COPY copied FROM STDIN (FORMAT binary)") as target:
                        for at in range(0, len(data), _CHUNK_BYTES):
                            target.write(data[at : at + _CHUNK_BYTES])
                    return {"rate": count / (time.perf_counter() - started)}

                yield one_round

    return contestant
