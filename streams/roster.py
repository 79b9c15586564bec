"""Which workers there are and how far each is, as they tell one another through PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg.rows import TupleRow, class_row

from streams.worker import Worker

EVERY_SECONDS: Final = 2.0
FORGOTTEN_SECONDS: Final = 60.0
_SAY: Final = """
    INSERT INTO streams.workers (id, host, pid, projections, partitions, position, last_error) VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (id) DO UPDATE SET partitions = excluded.partitions, position = excluded.position,
        last_error = excluded.last_error, seen_at = now()
"""
_FORGET: Final = "DELETE FROM streams.workers WHERE id = %s OR seen_at < now() - make_interval(secs => %s)"
ALL_WORKERS: Final = """
    SELECT id, host, pid, projections, partitions, position, last_error, seen_at FROM streams.workers
    WHERE seen_at > now() - make_interval(secs => %s) ORDER BY host, pid
"""


@dataclass(frozen=True)
class Seen:
    """A worker as it last spoke of itself."""

    id: str
    host: str
    pid: int
    projections: list[str]
    partitions: list[int]
    position: int
    last_error: str | None
    seen_at: datetime


async def say(worker: Worker, dsn: str) -> None:
    """Keeps a worker's line up to date until cancelled, then removes it; a database that is away is waited for."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                try:
                    while True:
                        await _say(connection, worker)
                        await asyncio.sleep(EVERY_SECONDS)
                finally:
                    await connection.execute(_FORGET, (worker.id, FORGOTTEN_SECONDS))
        except psycopg.OperationalError:
            await asyncio.sleep(EVERY_SECONDS)


async def _say(connection: psycopg.AsyncConnection[TupleRow], worker: Worker) -> None:
    state, names = worker.state, sorted(projection.name for projection in worker.projections)
    line = (worker.id, socket.gethostname(), os.getpid(), names, sorted(state.partitions), state.position, state.last_error)
    await connection.execute("SET synchronous_commit = off")
    await connection.execute(_SAY, line)
    await connection.execute(_FORGET, (None, FORGOTTEN_SECONDS))


async def workers(connection: psycopg.AsyncConnection[TupleRow]) -> list[Seen]:
    """Those that spoke within the last minute."""
    async with connection.cursor(row_factory=class_row(Seen)) as cursor:
        return await (await cursor.execute(ALL_WORKERS, (FORGOTTEN_SECONDS,))).fetchall()
