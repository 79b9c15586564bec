"""Where benchmarks run: two cores, one PostgreSQL that serves us and the peers alike, and a folder on the same disk."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
import uvloop
from psycopg import conninfo, sql

from infra.embedded import embedded_postgres

CORES: Final = 2
ROUND_SECONDS: Final = 3.0
"""Long enough for a few thousand commits, short enough for five rounds of everybody in a minute."""
SCRATCH: Final = ".aureus"

T = TypeVar("T")


class CannotMeasure(Exception):
    """A benchmark cannot run here: what is missing, and the remedy."""


@dataclass
class Lab:
    """What every contestant is given."""

    folder: Path
    dsn: str
    round_seconds: float = ROUND_SECONDS
    scale: float = 1.0
    """Shrinks the fixed amounts of work (events to import, to rebuild from); 1 is what the goals are about."""
    _runner: asyncio.Runner = field(default_factory=lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop))
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _kept: dict[str, Any] = field(default_factory=dict)
    _closing: ExitStack = field(default_factory=ExitStack)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the lab's one event loop (uvloop, as in production)."""
        return self._runner.run(work)

    def scaled(self, amount: int) -> int:
        return max(1, int(amount * self.scale))

    def subfolder(self, name: str) -> Path:
        folder = self.folder / f"{name}-{next(self._numbers)}"
        folder.mkdir(mode=0o700)
        return folder

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A database of its own on the shared server; dropped afterwards."""
        name = f"bench_{name}_{next(self._numbers)}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield with_database(self.dsn, name)
        finally:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def keep(self, name: str, made: Callable[[Lab], AbstractContextManager[T]]) -> T:
        """What several figures look at, and takes long to make: made by the first that asks, and kept until the lab closes."""
        if name not in self._kept:
            self._kept[name] = self._closing.enter_context(made(self))
        kept: T = self._kept[name]
        return kept

    def close(self) -> None:
        self._closing.close()
        self._runner.close()


def with_database(url: str, name: str) -> str:
    """The same server's URL for another database."""
    head, question, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}{question}{query}"


def keyword_dsn(url: str) -> dict[str, str]:
    """A URL as libpq keywords, for those who want host, user and dbname apart."""
    return {key: str(value) for key, value in conninfo.conninfo_to_dict(url).items()}


@contextmanager
def open_lab(**settings: Any) -> Iterator[Lab]:
    """A lab on two cores; on `DATABASE_URL` when that is set, else on an embedded PostgreSQL of its own."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # children inherit it, PostgreSQL included
    Path(SCRATCH).mkdir(mode=0o700, exist_ok=True)
    # Not the system's temporary folder: it is often memory, and a flush to memory proves nothing.
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=SCRATCH)).absolute()
    try:
        if given := os.environ.get("DATABASE_URL"):
            with _on(folder, given, settings) as lab:
                yield lab
        else:
            with embedded_postgres(folder / "postgres") as url, _on(folder, url, settings) as lab:
                yield lab
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _on(folder: Path, url: str, settings: dict[str, Any]) -> Iterator[Lab]:
    _require_durable(url)
    lab = Lab(folder, url, **settings)
    try:
        yield lab
    finally:
        lab.close()


def _require_durable(url: str) -> None:
    """Refuses a server that would make everybody look fast by not writing to disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute(f"SHOW {name}").fetchone()
            if row is None or row[0] != "on":
                raise CannotMeasure(
                    f"PostgreSQL runs with {name} = {row and row[0]}: figures about durable writes need it on. Set {name} = on."
                )


def ticking(seconds: float, clock: Callable[[], float]) -> Callable[[], bool]:
    """A question that is answered with True until so many seconds have gone by."""
    end = clock() + seconds
    return lambda: clock() < end
