"""Of many processes one does what must be done once: it leads for as long as its connection holds an advisory lock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from infra.ledger import LedgerUnavailable
from infra.process import this_process

RETRY_SECONDS: Final = 0.5
STANDBY_SECONDS: Final = 1.0
Connection = psycopg.AsyncConnection[TupleRow]


async def lead(dsn: str, lock: int, what: str, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Waits to be the one and then works, until cancelled; after a lost database or leadership it begins where it had come to."""
    log = logging.getLogger(f"aureus.{what}")
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name=this_process()) as connection:
                row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,))).fetchone()
                if row is not None and row[0]:
                    await work(connection)
                else:
                    await asyncio.sleep(STANDBY_SECONDS)
        except (psycopg.OperationalError, LedgerUnavailable) as error:
            log.warning("the %s wait for the database: %s", what, error)
        except Exception:
            log.exception("the %s cannot go on", what)
        await asyncio.sleep(RETRY_SECONDS)
