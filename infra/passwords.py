"""Passwords of local logins, as Argon2id hashes. They stay out of the ledger: a hash can be guessed at, and is personal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, LiteralString, TypeVar

from nacl.exceptions import InvalidkeyError
from nacl.pwhash import argon2id
from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.kernel import require
from domain.ledger import LedgerUnavailable

LENGTH_MIN: Final = 12
LENGTH_MAX: Final = 1_024
_WORKERS: Final = 2
_WAITING_MAX: Final = 64
"""Each hash takes 64 MiB and some 0.1 s of a core: more at once would only be a way to exhaust us."""

_DECOY: Final = "$argon2id$v=19$m=65536,t=2,p=1$+bQbRyL8sEdZIcLrLEzK1g$HocFXFS/y/a13CuWIfQOMw/wTQaIS0puhNbfzzJH30w"
"""A hash of the same cost that no login has: what an unknown login's password is checked against."""

SCHEMA: Final = """
CREATE SCHEMA IF NOT EXISTS access_private;
CREATE TABLE IF NOT EXISTS access_private.passwords (
    tenant     text        NOT NULL,
    login      text        NOT NULL,
    actor      text        NOT NULL,
    hash       text        NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, login)
);
"""

T = TypeVar("T")


class Passwords:
    """Which login belongs to which actor, and whether a password is the login's."""

    def __init__(self, dsn: str) -> None:
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn, open=False, min_size=1, max_size=4, timeout=10, kwargs={"autocommit": True}
        )
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="argon2")
        self._waiting = 0

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)
        await self._query(SCHEMA)

    async def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)
        await self._pool.close()

    async def set(self, tenant: str, login: str, actor: str, password: str) -> None:
        """Gives the login this password, and no other. Raises Refused."""
        require(
            LENGTH_MIN <= len(password) <= LENGTH_MAX,
            "password_length",
            f"A password has {LENGTH_MIN} to {LENGTH_MAX:,} characters.",
            field="password",
            remedy="Use several words.",
        )
        hashed = await self._work(lambda: _hash(password))
        await self._query(
            """
            INSERT INTO access_private.passwords (tenant, login, actor, hash) VALUES (%s, %s, %s, %s)
            ON CONFLICT (tenant, login) DO UPDATE SET actor = EXCLUDED.actor, hash = EXCLUDED.hash, changed_at = now()
            """,
            (tenant, login, actor, hashed),
        )

    async def check(self, tenant: str, login: str, password: str) -> str | None:
        """The login's actor when the password is right. An unknown login takes as long, so it cannot be told apart."""
        if len(password) > LENGTH_MAX or "\0" in login:
            return None
        found = await self._query("SELECT actor, hash FROM access_private.passwords WHERE tenant = %s AND login = %s", (tenant, login))
        actor, hashed = found[0] if found else (None, _DECOY)
        right = await self._work(lambda: _matches(hashed, password))
        return actor if right else None

    async def logins(self, tenant: str) -> dict[str, str]:
        """Login -> actor."""
        return dict(await self._query("SELECT login, actor FROM access_private.passwords WHERE tenant = %s", (tenant,)))

    async def _query(self, query: LiteralString, arguments: tuple[str, ...] | None = None) -> list[TupleRow]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query, arguments)
                return await cursor.fetchall() if cursor.description else []
        except (OperationalError, PoolTimeout) as error:
            await self._pool.check()
            raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error

    async def _work(self, task: Callable[[], T]) -> T:
        """Runs a task where it holds up neither the event loop nor, when many ask at once, the machine."""
        if self._waiting >= _WAITING_MAX:
            raise LedgerUnavailable("logins_overloaded", f"{self._waiting} logins wait already.", "Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, task)
        finally:
            self._waiting -= 1


def _hash(password: str) -> str:
    hashed = argon2id.str(password.encode(), opslimit=argon2id.OPSLIMIT_INTERACTIVE, memlimit=argon2id.MEMLIMIT_INTERACTIVE)
    return hashed.decode("ascii")


def _matches(hashed: str, password: str) -> bool:
    try:
        return argon2id.verify(hashed.encode("ascii"), password.encode())
    except InvalidkeyError:
        return False
