"""What the database says of itself: how durable it is, whether the walls stand, and what waits in it for somebody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from domain.kernel import timestamp
from infra.doctor.findings import Finding, judged, named, well
from infra.doctor.machine import RUNS_OUT_WITHIN
from infra.key_encryption import KeyEncryptionKeys
from infra.schema import APPLICATION_ROLE, READER_ROLE, ledger_stamp
from infra.settings import Settings
from infra.witnessing import witness_id
from projections.engine import OPEN

VERSION_MIN: Final = 150_000
SKEW_SECONDS: Final = (1.0, 30.0)
"""A clock that is off by more is to be looked at, or wrong: tokens and times stop making sense."""
LAG_EVENTS: Final = 10_000
_DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
_NOT_LEAKPROOF: Final = "SELECT oid::regprocedure::text FROM pg_proc WHERE NOT proleakproof AND oid = ANY(ledger.lookups()) ORDER BY 1"
_ROLES: Final = """
    SELECT wanted.name, r.oid IS NULL, coalesce(r.rolsuper OR r.rolbypassrls, false)
    FROM unnest(%s::text[]) AS wanted(name) LEFT JOIN pg_roles AS r ON r.rolname = wanted.name
"""
_UNWALLED: Final = r"""
    SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND NOT c.relrowsecurity AND (n.nspname ~ '^read_' OR (n.nspname, c.relname) = ('ledger', 'events')) ORDER BY 1
"""
_CONNECTIONS: Final = "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity WHERE backend_type = 'client backend'"
_LAG: Final = "SELECT p.name, h.size - p.position, p.stopped FROM projections.positions AS p, ledger.head AS h ORDER BY p.name"
_WAITING: Final = """
    SELECT doc ->> 'reaction', count(*) FROM read_reactions.dead_letters
    WHERE to_position = %(open)s AND doc ->> 'status' = 'waiting' AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
    GROUP BY 1 ORDER BY 1
"""
_FAILING: Final = """
    SELECT webhook_id, count(*) FROM notifications_private.deliveries
    WHERE (state = 'failed' AND settled_at > now() - interval '1 day' OR state = 'pending' AND tries > 2)
        AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s) GROUP BY 1 ORDER BY 1
"""
_RUN_OUT: Final = """
    SELECT doc ->> 'key_id' FROM read_access.api_keys WHERE to_position = %(open)s AND doc ->> 'status' = 'active'
        AND doc ->> 'expires_at' BETWEEN %(now)s AND %(soon)s AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s) ORDER BY 1
"""
_ONE_FACTOR: Final = """
    SELECT a.doc ->> 'actor_id' FROM read_access.actors AS a LEFT JOIN access_private.second_factors AS f
        ON f.tenant = a.tenant AND f.actor = a.id AND f.confirmed
    WHERE a.to_position = %(open)s AND a.doc -> 'roles' ? 'admin' AND a.doc ->> 'status' = 'active' AND a.doc ->> 'kind' = 'person'
        AND f.actor IS NULL AND EXISTS (SELECT FROM access_private.passwords AS p WHERE p.tenant = a.tenant AND p.actor = a.id)
        AND (%(tenant)s::text IS NULL OR a.tenant = %(tenant)s) ORDER BY 1
"""
_COSIGNED: Final = "SELECT witness, max(size) FROM ledger.cosignatures GROUP BY witness"
_BEHIND_SINCE: Final = "SELECT extract(epoch FROM now() - min(at)) FROM ledger.events WHERE position = %s + 1"
WITNESS_SECONDS: Final = 300.0


class Database:
    """The checks that one connection, as the database's owner, can make. `tenant` narrows what is somebody's; None looks at everybody's."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow], settings: Settings, tenant: str | None) -> None:
        self._connection, self._settings = connection, settings
        self._about = {"open": OPEN, "tenant": tenant}

    async def looked_at(self) -> AsyncIterator[Finding]:
        for check in (self._version, self._durability, self._clock, self._connections, self._superuser, self._roles, self._walls):
            yield await check()
        if not (await self._has("ledger.head") and await self._has("read_access.api_keys")):
            yield Finding("ledger.present", "warn", "no ledger was founded here yet", "Start Aureus once: aureus serve.")
            return
        yield await self._schema()
        waiting = (self._dead_letters, self._webhooks, self._api_keys, self._second_factors)
        for check in (self._leakproof, self._kek, self._read_models, *waiting, self._witnesses):
            yield await check()

    async def _rows(self, query: str, arguments: Any = None) -> list[TupleRow]:
        return await (await self._connection.execute(query.encode(), arguments)).fetchall()

    async def _version(self) -> Finding:
        version = self._connection.info.server_version
        remedy = "Upgrade it to version 15 or later."
        return judged("database.version", f"PostgreSQL {version // 10_000}.{version % 10_000}", remedy, fail=version < VERSION_MIN)

    async def _durability(self) -> Finding:
        settings = {name: (await self._rows(f"SHOW {name}"))[0][0] for name in _DURABLE}
        off = [name for name, value in settings.items() if value == "off"]
        found = ", ".join(f"{name}={value}" for name, value in settings.items())
        lines = "".join(f" ALTER SYSTEM SET {name} = on;" for name in off)
        remedy = f"What is answered may be lost. As a superuser:{lines} SELECT pg_reload_conf();"
        return judged("database.durability", found, remedy, fail=bool(off))

    async def _clock(self) -> Finding:
        skews = []
        for _ in range(3):
            before = datetime.now(UTC)
            ((theirs,),) = await self._rows("SELECT clock_timestamp()")
            after = datetime.now(UTC)
            skews.append(abs((theirs - (before + (after - before) / 2)).total_seconds()))
        skew, (some, much) = min(skews), SKEW_SECONDS
        found = f"the database's clock and this one are {skew:.3f} s apart"
        return judged("clock.skew", found, "Have both keep time by NTP.", warn=skew > some, fail=skew > much)

    async def _connections(self) -> Finding:
        ((used, most),) = await self._rows(_CONNECTIONS)
        return judged(
            "database.connections", f"{used} of {most} are in use", "Raise max_connections, or run fewer processes.", warn=used > most * 0.8
        )

    async def _superuser(self) -> Finding:
        ((user, is_super),) = await self._rows("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
        if self._settings.database_url is None:
            return well("database.user", "the embedded PostgreSQL, which nobody else reaches")
        remedy = "Make an ordinary role that owns the database, as docs/operators.md shows, and let Aureus log in as it."
        return judged("database.user", f"Aureus logs in as {user}" + (", a superuser" if is_super else ""), remedy, warn=is_super)

    async def _roles(self) -> Finding:
        rows = await self._rows(_ROLES, ([APPLICATION_ROLE, READER_ROLE],))
        missing, mighty = [name for name, gone, _ in rows if gone], [name for name, _, above in rows if above]
        found = " and ".join([*(f"{name} is not there" for name in missing), *(f"{name} is above every wall" for name in mighty)])
        remedy = " ".join(
            [*(f"CREATE ROLE {name} NOLOGIN;" for name in missing), *(f"ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS;" for name in mighty)]
        )
        return judged("database.roles", found or f"{APPLICATION_ROLE} and {READER_ROLE} may do what they should", remedy, fail=bool(found))

    async def _walls(self) -> Finding:
        open_tables = [row[0] for row in await self._rows(_UNWALLED)]
        found = f"no wall between tenants around {named(open_tables)}" if open_tables else "a wall between tenants around every read table"
        return judged("database.row_security", found, "Start Aureus again: it puts them up.", fail=bool(open_tables))

    async def _schema(self) -> Finding:
        ((stamp,),) = await self._rows("SELECT obj_description('ledger'::regnamespace, 'pg_namespace')")
        is_ours = stamp == ledger_stamp()
        found = "as this version makes it" if is_ours else "as another version of Aureus makes it"
        return judged("database.schema", found, "Start this version of Aureus: it brings it up to date.", warn=not is_ours)

    async def _leakproof(self) -> Finding:
        slow = [row[0] for row in await self._rows(_NOT_LEAKPROOF)]
        if not slow:
            return well("database.leakproof", "filtered lists use their indexes behind the wall")
        lines = " ".join(f"ALTER FUNCTION pg_catalog.{name} LEAKPROOF;" for name in slow)
        found = "filtered lists read all rows of their tenant: behind the wall their indexes are not used"
        return Finding("database.leakproof", "warn", found, f"Let a superuser run, in this database: {lines}")

    async def _kek(self) -> Finding:
        keks = KeyEncryptionKeys(self._settings.keys_dir)
        if self._settings.vault_keys_url is not None or not await self._rows("SELECT FROM vault.wrapping"):
            return well("keys.vault", "the keys of personal values are kept elsewhere, or there are none yet")
        lost = (
            [row[0] for row in await self._rows("SELECT DISTINCT kek FROM vault.keys") if not keks.has(row[0])] if keks.ids() else ["all"]
        )
        found = (
            f"{named(lost)} wrap personal values, and are not in {self._settings.keys_dir}"
            if lost
            else "what wraps personal values is here"
        )
        return judged(
            "keys.vault", found, "Put the key-encryption keys back from where they were made, or from your backup.", fail=bool(lost)
        )

    async def _read_models(self) -> Finding:
        rows = await self._rows(_LAG)
        stopped = [f"{name} ({why.splitlines()[0][:80]})" for name, _, why in rows if why]
        behind = [f"{name} by {lag}" for name, lag, _ in rows if lag > LAG_EVENTS]
        found = f"stopped: {named(stopped)}" if stopped else f"behind: {named(behind)}" if behind else f"all {len(rows)} are up to date"
        remedy = "Look at `aureus projections status`; `aureus projections rebuild NAME` starts one again."
        return judged("read_models.current", found, remedy, warn=bool(behind), fail=bool(stopped))

    async def _dead_letters(self) -> Finding:
        rows = await self._rows(_WAITING, self._about)
        found = named(f"{count} of {reaction}" for reaction, count in rows) + " wait" if rows else "none wait"
        return judged("reactions.dead_letters", found, "Look: aureus dead-letters list; then replay or discard them.", warn=bool(rows))

    async def _webhooks(self) -> Finding:
        rows = await self._rows(_FAILING, self._about) if await self._has("notifications_private.deliveries") else []
        found = (
            named(f"{webhook} ({count})" for webhook, count in rows) + " did not take what was sent" if rows else "all take what is sent"
        )
        return judged(
            "webhooks.delivered", found, "Look: aureus webhooks deliveries ID; mend the receiver, then send it again.", warn=bool(rows)
        )

    async def _api_keys(self) -> Finding:
        now = datetime.now(UTC)
        times = {"now": timestamp(now), "soon": timestamp(now + RUNS_OUT_WITHIN)}
        keys = [row[0] for row in await self._rows(_RUN_OUT, self._about | times)]
        found = f"{named(keys)} within {RUNS_OUT_WITHIN.days} days" if keys else f"none within {RUNS_OUT_WITHIN.days} days"
        return judged("api_keys.run_out", found, "Issue new ones, or rotate them: aureus api-keys.", warn=bool(keys))

    async def _second_factors(self) -> Finding:
        admins = [row[0] for row in await self._rows(_ONE_FACTOR, self._about)] if await self._has("access_private.second_factors") else []
        found = f"{named(admins)} may administer with a password alone" if admins else "no administrator has a password alone"
        return judged(
            "access.second_factor", found, "Have them enrol one (aureus totp), or demand it: AUREUS_TOTP_ROLES=admin", warn=bool(admins)
        )

    async def _witnesses(self) -> Finding:
        wanted = [witness_id(place.key) for place in self._settings.witnesses or ()]
        if not wanted:
            remedy = "Have somebody independent run `aureus witness run`, and name it in AUREUS_WITNESSES."
            return Finding("witnesses.current", "warn", "nobody outside would notice if this ledger were rewritten", remedy)
        cosigned: dict[str, int] = dict(await self._rows(_COSIGNED))
        late = []
        for witness in wanted:
            ((seconds,),) = await self._rows(_BEHIND_SINCE, (cosigned.get(witness, 0),))
            if seconds is not None and seconds > WITNESS_SECONDS:
                late.append(f"{witness} by {seconds:.0f} s")
        found = f"behind: {named(late)}" if late else f"all {len(wanted)} have cosigned what there is"
        return judged("witnesses.current", found, "Look at `aureus witness status`, and at the witness itself.", warn=bool(late))

    async def _has(self, table: str) -> bool:
        return bool((await self._rows("SELECT to_regclass(%s) IS NOT NULL", (table,)))[0][0])


async def look_at_database(dsn: str | None, settings: Settings, tenant: str | None) -> Sequence[Finding]:
    """Every check of this module; the first alone when the database is out of reach."""
    remedy = "Check the address, the password and the server; the embedded one is started by `aureus serve`."
    if dsn is None:
        return [Finding("database.reachable", "fail", "the embedded PostgreSQL does not run", remedy)]
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5) as connection:
            found = well("database.reachable", f"{connection.info.dbname} answers")
            return [found, *[finding async for finding in Database(connection, settings, tenant).looked_at()]]
    except psycopg.OperationalError as error:
        return [Finding("database.reachable", "fail", f"it does not answer ({type(error).__name__})", remedy)]
