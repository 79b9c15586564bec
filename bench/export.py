"""`export`: the whole ledger as a pack - signed bytes, tiles, hashes, a manifest - beside psql writing the same rows as JSON lines."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from bench import workload
from bench.bulk import fill, history
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from bench.peers.pgbench import program
from infra.keystore import FileKeystore
from infra.packing.plan import Plan
from infra.packing.process import Job, run
from infra.packing.shelf import Shelf
from infra.tiles import Tiles

EVENTS: Final = 1_000_000
FEWER: Final = 10
"""The same is done with a tenth of the events, to see that memory does not grow with them."""
_ALL: Final[dict[str, Any]] = {"datasets": [], "agents": [], "actors": [], "policies": [], "jurisdictions": [], "from": None, "to": None}
_ROWS: Final = (
    "SELECT '{\"position\":' || position || ',\"signatures\":\"' || encode(signatures, 'hex') || '\",\"leaf\":\"' || encode(leaf, 'hex') "
    "|| '\",\"body\":' || convert_from(body, 'UTF8') || '}' FROM ledger.events ORDER BY position"
)
"""The quickest way to have PostgreSQL write JSON: bodies are JSON as they are, and nothing is parsed."""


@dataclass
class _Ledger:
    """The one ledger that both export."""

    dsn: str = ""
    events: int = 0


class _Packs:
    """Packs of everything, without views, as the server has them built: in a process of its own, signed and on the shelf."""

    def __init__(self, lab: Lab, dsn: str) -> None:
        self._lab, self._dsn = lab, dsn
        self._folder = lab.subfolder("exports")
        self._shelf, self._signer = Shelf(self._folder), FileKeystore.open(lab.subfolder("signer") / "keys").service

    def write(self, size: int) -> tuple[float, int]:
        """Writes a pack of the log as it was at about this size: the seconds until it is on disk, and the building process' peak memory."""
        folder = self._shelf.working_folder(workload.TENANT, f"of-{size}")
        folder.mkdir()
        self._plan(size).save(folder)
        started = time.perf_counter()
        result = self._lab.run(run(Job("build", self._dsn, folder=str(folder)), _untold))
        sha256, _, _ = self._shelf.finish(folder, self._signer)
        seconds = time.perf_counter() - started
        self._shelf.discard(folder)
        self._shelf.remove(sha256)
        return seconds, int(result["peak_rss_bytes"])

    def _plan(self, size: int) -> Plan:
        with psycopg.connect(self._dsn) as connection:
            query = (
                "SELECT c.size, c.note, h.origin FROM ledger.checkpoints c, ledger.head h WHERE c.size <= %s ORDER BY c.size DESC LIMIT 1"
            )
            row = connection.execute(query, (size,)).fetchone()
        assert row is not None
        return Plan(
            export_id="bench",
            tenant=workload.TENANT,
            ledger=row[2],
            recipient="bench",
            created_at="2026-01-01T00:00:00.000000Z",
            software="bench",
            scope="everything",
            selection=_ALL,
            profile={"name": "regulator", "disclose": [], "withhold_types": []},
            views=(),
            artifacts=False,
            after=0,
            until=row[0],
            checkpoint_size=row[0],
            checkpoint=bytes(row[1]).decode(),
            timestamps={},
            service_key=self._signer.key_id,
        )


async def _untold(_phase: str, _done: int, _total: int) -> None:
    """Nobody watches."""


_shared = _Ledger()


@contextmanager
def packs(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """From the plan to the signed file on disk; the tiles are kept as the log grows, by the server, so they are there."""
    events = lab.scaled(EVENTS)
    with lab.database("export") as dsn:
        fill(lab, dsn, events, history())
        lab.run(_kept(dsn, events))
        _shared.dsn, _shared.events = dsn, events
        writer = _Packs(lab, dsn)

        def one_round() -> Sample:
            _, few = writer.write(events // FEWER)
            seconds, many = writer.write(events + 3)
            print(f"export: {few >> 20} MiB at {events // FEWER:,} events, {many >> 20} MiB at {events:,}", file=sys.stderr)
            return {"rate": events / seconds, "growth": many / few}

        yield one_round


async def _kept(dsn: str, size: int) -> None:
    tiles = Tiles(dsn)
    await tiles.open()
    await tiles.ensure(size)
    await tiles.close()


@contextmanager
def lines(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """psql's \\copy of every row, its body as it is: nothing is encoded, hashed, checked or signed."""
    if not _shared.dsn:
        raise CannotMeasure("the peer writes the ledger that we have made: it cannot run alone.")
    psql = Path(program()).with_name("psql")
    found = str(psql) if psql.exists() else shutil.which("psql")
    if found is None:
        raise CannotMeasure("psql is not installed: apt-get install postgresql-client")
    target = lab.subfolder("psql") / "rows.ndjson"
    script = target.with_name("copy.sql")
    script.write_text(f"\\copy ({_ROWS}) TO '{target}'\n")

    def one_round() -> Sample:
        started = time.perf_counter()
        subprocess.run([found, _shared.dsn, "--quiet", "--no-psqlrc", "--file", script], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        target.unlink()
        return {"rate": _shared.events / seconds}

    yield one_round


FIGURES: Final = (
    Figure(
        "export",
        ours=packs,
        peers={"psql": lines},
        goals=(
            Goal("psql", "rate", "events/s", 0.3, name="psql"),
            Goal(1.0, "growth", "x memory", 1.25, "lower", name="memory"),
        ),
    ),
)
