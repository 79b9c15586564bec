"""Guessing passwords is made slow: failures count by login, by address, and by the two together, and the next try has to wait.

Nobody is locked out: every wait ends by itself, and where a login has come in before, it waits for nobody's failures but those
made from there. A try is counted before its password is looked at, so that many at once are no way round.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from infra.access_store import AccessStore, rows

FREE_TRIES: Final = 5
"""Of a login from one address; then it waits one second, two, four, and so on."""
FREE_TRIES_OF_LOGIN: Final = 100
"""From all addresses together."""
FREE_TRIES_OF_ADDRESS: Final = 100
"""As whoever."""
WAIT_SECONDS_MAX: Final = 60
MEMORY_SECONDS: Final = 3_600
"""Failures are forgotten when there was none for so long."""
_PLACE_DAYS: Final = 90
_NOTABLE: Final = frozenset({1, 1 + (WAIT_SECONDS_MAX - 1).bit_length()})

# In the order of the key, so that two at once cannot wait for each other. What still has to wait is not among the rows that come back.
_COUNT: Final = """
    INSERT INTO access_private.login_failures AS known (tenant, what, failures)
    SELECT %(tenant)s, what, 1 FROM unnest(%(what)s::bytea[]) AS tried(what) ORDER BY what
    ON CONFLICT (tenant, what) DO UPDATE SET
        failures = CASE WHEN known.last_at < now() - make_interval(secs => %(memory)s) THEN 1 ELSE known.failures + 1 END,
        last_at = now()
    WHERE known.slow_until <= now()
    RETURNING what, failures
"""
_SLOW: Final = """
    UPDATE access_private.login_failures SET slow_until = now() + make_interval(secs => %(wait)s)
    WHERE tenant = %(tenant)s AND what = %(what)s
"""
_WAITS: Final = """
    SELECT coalesce(ceil(extract(epoch FROM max(slow_until) - now())), 1)::int FROM access_private.login_failures
    WHERE tenant = %(tenant)s AND what = ANY(%(what)s) AND slow_until > now()
"""
_KNOWN_PLACE: Final = """
    SELECT 1 FROM access_private.login_places
    WHERE tenant = %(tenant)s AND what = %(what)s AND last_at > now() - make_interval(days => %(days)s)
"""
_FORGIVE: Final = """
    WITH pair AS (DELETE FROM access_private.login_failures WHERE tenant = %(tenant)s AND what = %(pair)s)
    UPDATE access_private.login_failures SET failures = greatest(failures - 1, 0)
    WHERE tenant = %(tenant)s AND what = ANY(%(others)s)
"""
_PLACE: Final = """
    INSERT INTO access_private.login_places (tenant, what) VALUES (%(tenant)s, %(what)s)
    ON CONFLICT (tenant, what) DO UPDATE SET last_at = now() WHERE login_places.last_at < now() - interval '1 day'
"""
_FORGET: Final = "DELETE FROM access_private.login_failures WHERE last_at < now() - make_interval(secs => %(memory)s)"


@dataclass(frozen=True, slots=True)
class Try:
    """One login that is tried from an address, counted as failed until it is forgiven."""

    tenant: str
    pair: bytes
    others: tuple[bytes, ...]
    failures: int
    """Lately, this one included."""
    wait_seconds: int
    """How long the next one has to wait, if this one fails; 0 when it need not."""
    notable: bool
    """Whether it is the first that slows the next, or that slows it as much as any."""


class TooManyFailures(Exception):
    """The login has to wait so many seconds more, whatever its password is."""

    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"wait {wait_seconds} s")
        self.wait_seconds = wait_seconds


class Slowing:
    """Counts failed logins. Several processes may share the counts."""

    def __init__(self, store: AccessStore) -> None:
        self._store = store

    async def begin(self, tenant: str, login: str, address: str) -> Try:
        """Counts one try. Raises TooManyFailures, in which case nothing was counted."""
        pair = _digest("pair", login, address)
        free = {pair: FREE_TRIES}
        if not await self._store.query(_KNOWN_PLACE, {"tenant": tenant, "what": pair, "days": _PLACE_DAYS}):
            free |= {_digest("login", login): FREE_TRIES_OF_LOGIN, _digest("address", address): FREE_TRIES_OF_ADDRESS}
        counted = {"tenant": tenant, "what": list(free), "memory": MEMORY_SECONDS}
        async with self._store.connection() as connection, connection.transaction():
            failures = {bytes(what): count for what, count in await rows(connection, _COUNT, counted)}
            if len(failures) < len(free):
                ((wait_seconds,),) = await rows(connection, _WAITS, counted)
                raise TooManyFailures(wait_seconds)
            beyond = {what: failures[what] - allowed for what, allowed in free.items()}
            waits = {what: _wait_seconds(count) for what, count in beyond.items()}
            for what, wait_seconds in waits.items():
                if wait_seconds:
                    await connection.execute(_SLOW, {"tenant": tenant, "what": what, "wait": wait_seconds})
        others = tuple(what for what in free if what != pair)
        return Try(tenant, pair, others, max(failures.values()), max(waits.values()), bool(_NOTABLE & set(beyond.values())))

    async def forgive(self, tried: Try) -> None:
        """The login was right: its failures are forgotten where it came from, and it is known there."""
        await self._store.query(_FORGIVE, {"tenant": tried.tenant, "pair": tried.pair, "others": list(tried.others)})
        await self._store.query(_PLACE, {"tenant": tried.tenant, "what": tried.pair})
        await self._store.query(_FORGET, {"memory": MEMORY_SECONDS})


def _wait_seconds(beyond: int) -> int:
    return min(2 ** min(beyond - 1, 30), WAIT_SECONDS_MAX) if beyond > 0 else 0


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).digest()
