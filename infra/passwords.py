"""Passwords of local logins, as Argon2id hashes. They stay out of the ledger: a hash can be guessed at, and is personal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from nacl.exceptions import InvalidkeyError
from nacl.pwhash import argon2id

from domain.kernel import require
from domain.ledger import LedgerUnavailable
from infra.access_store import AccessStore

LENGTH_MIN: Final = 12
LENGTH_MAX: Final = 1_024
_WORKERS: Final = 2
_WAITING_MAX: Final = 64
"""Each hash takes 64 MiB and some 0.1 s of a core: more at once would only be a way to exhaust us."""

_DECOY: Final = "$argon2id$v=19$m=65536,t=2,p=1$+bQbRyL8sEdZIcLrLEzK1g$HocFXFS/y/a13CuWIfQOMw/wTQaIS0puhNbfzzJH30w"
"""A hash of the same cost that no login has: what an unknown login's password is checked against."""

_SET: Final = """
    INSERT INTO access_private.passwords (tenant, login, actor, hash, must_change) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (tenant, login) DO UPDATE
    SET hash = EXCLUDED.hash, must_change = EXCLUDED.must_change, changed_at = now()
    WHERE passwords.actor = EXCLUDED.actor RETURNING actor
"""
_FOUND: Final = "SELECT actor, hash FROM access_private.passwords WHERE tenant = %s AND login = %s"
_MUST_CHANGE: Final = "SELECT must_change FROM access_private.passwords WHERE tenant = %s AND login = %s"
_LOGIN_OF: Final = "SELECT login FROM access_private.passwords WHERE tenant = %s AND actor = %s ORDER BY login LIMIT 1"

T = TypeVar("T")


class Passwords:
    """Which login belongs to which actor, and whether a password is the login's."""

    def __init__(self, store: AccessStore) -> None:
        self._store = store
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="argon2")
        self._waiting = 0

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def set(self, tenant: str, login: str, actor: str, password: str, *, must_change: bool = False) -> None:
        """Gives the actor's login this password, and no other. Raises Refused."""
        require_length(password)
        hashed = await self._work(lambda: _hash(password))
        found = await self._store.query(_SET, (tenant, login, actor, hashed, must_change))
        require(
            bool(found),
            "login_of_another",
            f"The login {login} belongs to somebody else.",
            field="login",
            remedy="Choose another login.",
        )

    async def check(self, tenant: str, login: str, password: str) -> str | None:
        """The login's actor when the password is right. An unknown login takes as long, so it cannot be told apart."""
        if len(password) > LENGTH_MAX or "\0" in login:
            return None
        found = await self._store.query(_FOUND, (tenant, login))
        actor, hashed = found[0] if found else (None, _DECOY)
        right = await self._work(lambda: _matches(hashed, password))
        return actor if right else None

    async def must_change(self, tenant: str, login: str) -> bool:
        """Whether the login's password was given to it by somebody else."""
        found = await self._store.query(_MUST_CHANGE, (tenant, login))
        return bool(found and found[0][0])

    async def actor_of(self, tenant: str, login: str) -> str | None:
        """Whose login it is, if anybody's."""
        found = await self._store.query(_FOUND, (tenant, login)) if "\0" not in login else []
        return found[0][0] if found else None

    async def login_of(self, tenant: str, actor: str) -> str | None:
        """The actor's own login, if it has one."""
        found = await self._store.query(_LOGIN_OF, (tenant, actor))
        return found[0][0] if found else None

    async def logins(self, tenant: str) -> dict[str, str]:
        """Login -> actor."""
        return dict(await self._store.query("SELECT login, actor FROM access_private.passwords WHERE tenant = %s", (tenant,)))

    async def _work(self, task: Callable[[], T]) -> T:
        """Runs a task where it holds up neither the event loop nor, when many ask at once, the machine."""
        if self._waiting >= _WAITING_MAX:
            raise LedgerUnavailable("logins_overloaded", f"{self._waiting} logins wait already.", "Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, task)
        finally:
            self._waiting -= 1


def require_length(password: str, field: str = "password") -> None:
    """Refuses a password that is too short to keep, or too long to hash."""
    require(
        LENGTH_MIN <= len(password) <= LENGTH_MAX,
        "password_length",
        f"A password has {LENGTH_MIN} to {LENGTH_MAX:,} characters.",
        field=field,
        remedy="Use several words.",
    )


def _hash(password: str) -> str:
    hashed = argon2id.str(password.encode(), opslimit=argon2id.OPSLIMIT_INTERACTIVE, memlimit=argon2id.MEMLIMIT_INTERACTIVE)
    return hashed.decode("ascii")


def _matches(hashed: str, password: str) -> bool:
    try:
        return argon2id.verify(hashed.encode("ascii"), password.encode())
    except InvalidkeyError:
        return False
