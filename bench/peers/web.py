"""FastAPI as a peer: validating a body, validating and storing it, reading a row; nothing is authenticated or signed.

Best setting: one uvicorn worker with uvloop and httptools, no access log, async routes; see `bench.peers.web_app` for
what it does with PostgreSQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg

from bench.lab import Lab
from bench.load import put_load, render
from bench.measure import Contestant, Sample
from bench.peers.pgbench import TABLE
from bench.peers.web_app import DATABASE
from bench.servers import uvicorn

IN_FLIGHT: Final = 32
TREES: Final = 64
VIEWS: Final = 64
VIEW_BYTES: Final = 2_000

_VIEWS_TABLE: Final = "CREATE TABLE views (id text PRIMARY KEY, view text NOT NULL)"


def _asked(requests: Sequence[bytes]) -> Contestant:
    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        folder = lab.subfolder("web")
        with lab.database("web") as dsn:
            with psycopg.connect(dsn) as connection:
                connection.execute(TABLE)
                connection.execute(_VIEWS_TABLE)
                with connection.cursor() as cursor:
                    cursor.executemany("INSERT INTO views VALUES (%s, %s)", [(f"view-{n}", _view(n)) for n in range(VIEWS)])
            with uvicorn("bench.peers.web_app:app", {DATABASE: dsn}) as port:
                yield lambda: put_load(port, requests, folder, connections=IN_FLIGHT, seconds=lab.round_seconds)

    return contestant


def _view(number: int) -> str:
    """A view of 2 kB, as JSON text."""
    columns = [{"name": f"column_{n}", "type": "varchar", "description": "x" * 40} for n in range(100)]
    while len(text := json.dumps({"id": f"view-{number}", "columns": columns}, separators=(",", ":"))) > VIEW_BYTES:
        columns.pop()
    return text


def _reserve(path: str) -> list[bytes]:
    bodies = (json.dumps({"budget_id": f"bench-{tree}", "amount_minor": 1}).encode() for tree in range(TREES))
    return [render("POST", path, {}, body) for body in bodies]


validates: Final = _asked(_reserve("/validate"))
"""Only validates the body of a command."""
appends: Final = _asked(_reserve("/append"))
"""Validates it and inserts one row, durably."""
reads: Final = _asked([render("GET", f"/views/view-{number}", {}) for number in range(VIEWS)])
"""Reads one row of 2 kB."""
