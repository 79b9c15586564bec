"""Replays in the database: built beside the live tables, compared with them, asked by an auditor, and dropped without a trace."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from domain.replays import TableBuilt
from infra.audit_queries import Answer, Question, run
from infra.auditor_roles import create_role, drop_role, require_may_create_roles
from infra.key_encryption import KeyEncryptionKeys
from infra.read_tables import LIVE, schema_name
from infra.rebuild import digests, fold_into
from infra.replay_views import CREATE_EVENTS, FILL_EVENTS, INDEX_EVENTS, base_prefix, events_table, schemas, view_statements
from infra.vault import open_bytes, seal_bytes
from projections.engine import OPEN, Projection

Connection = psycopg.AsyncConnection[TupleRow]
DROP_LOCK_SECONDS: Final = 10
_TAKE: Final = """
    INSERT INTO replays_private.places (tenant, replay_id, requested, schema_prefix, role, sealed, kek)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_PLACE: Final = "SELECT schema_prefix, role, sealed, kek FROM replays_private.places WHERE tenant = %s AND replay_id = %s"
_SEALED_OTHERWISE: Final = "SELECT tenant, replay_id, sealed, kek FROM replays_private.places WHERE kek <> %s"
_RESEAL: Final = "UPDATE replays_private.places SET sealed = %s, kek = %s WHERE tenant = %s AND replay_id = %s AND sealed = %s"
_TELL: Final = "UPDATE replays_private.places SET phase = %s, done = %s, total = %s WHERE tenant = %s AND replay_id = %s"
_OURS: Final = "SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') = %s ORDER BY 1"
_OTHERS: Final = "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s) AND obj_description(oid, 'pg_namespace') IS DISTINCT FROM %s"
_NOT_OURS: Final = frozenset({"options", "passfile", "sslcert", "sslkey", "sslpassword"})
"""What of a connection string is for the database's own user."""


class SchemaTaken(Exception):
    """A schema of that name is somebody else's."""


class NotThere(Exception):
    """The replay's tables are not in this database: it was restored from a backup, or somebody dropped them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A replay as it was asked for; `requested` is the position of the request itself."""

    tenant: str
    replay_id: str
    requested: int
    until: int
    projections: tuple[Projection, ...]

    @property
    def key(self) -> tuple[str, str]:
        return (self.tenant, self.replay_id)

    @property
    def tenants(self) -> list[str]:
        """Whose events it is of: the tenant's own, and the ledger's where every tenant reads them."""
        return sorted({self.tenant, *(read.tenant for projection in self.projections for read in projection.tables if read.tenant)})


@dataclass(frozen=True, slots=True)
class Built:
    """What came of it; `differing` are tables whose live rows are others as of the same position."""

    schema_prefix: str
    role: str
    events: int
    tables: tuple[TableBuilt, ...]
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to a replay."""

    role: str
    password: str
    schema_prefix: str


class Scratch:
    """The replays of one ledger's database."""

    def __init__(self, dsn: str, ledger: str, main_tenant: str, keks: KeyEncryptionKeys, *, embedded: bool) -> None:
        """`main_tenant` is the one whose schemas bear the replay's own name, and no number."""
        self._dsn, self._ledger, self._main_tenant, self._keks, self._embedded = dsn, ledger, main_tenant, keks, embedded

    @property
    def database(self) -> str:
        """The name of the database that the replays lie in."""
        return str(conninfo_to_dict(self._dsn).get("dbname") or "")

    async def require_possible(self) -> None:
        """SettingsError when no role could be made for whoever is to ask."""
        async with await self._connect() as connection:
            await require_may_create_roles(connection)

    async def build(self, wanted: Wanted) -> Built:
        """Builds it, from nothing; what a killed build left is dropped first. Raises SchemaTaken, SettingsError, ProjectionError."""
        await self.drop(wanted.tenant, wanted.replay_id)
        async with await self._connect() as connection:
            await require_may_create_roles(connection)
            place = await self._take_place(connection, wanted)
            prefix = place.schema_prefix

            async def progress(phase: str, done: int, total: int) -> None:
                await connection.execute(_TELL, (phase, done, total, *wanted.key))

            if wanted.projections:
                await fold_into(self._dsn, wanted.projections, base_prefix(prefix), wanted.until, wanted.tenants, progress)
            await progress("events", 0, 1)
            events = await _fill_events(connection, prefix, wanted)
            for statement in view_statements(prefix, wanted.projections):
                await connection.execute(statement)
            tables, differing = await _compared(connection, prefix, wanted, progress)
            its_tables, its_views = schemas(prefix, [projection.name for projection in wanted.projections])
            await create_role(connection, place.role, place.password, [*its_tables, *its_views], its_views)
        return Built(prefix, place.role, events, tables, differing)

    async def _take_place(self, connection: Connection, wanted: Wanted) -> Login:
        """Writes down what is going to be made, then makes the schemas: whoever finds half of it knows whose it is."""
        row = await (await connection.execute("SELECT current_database()")).fetchone()
        assert row is not None
        tag = hashlib.sha256(orjson.dumps([self._ledger, row[0], *wanted.key])).hexdigest()[:8]
        prefix = wanted.replay_id if wanted.tenant == self._main_tenant else f"{wanted.replay_id}_{tag}"
        login = Login(f"aureus_replay_{wanted.replay_id}_{tag}", secrets.token_urlsafe(32), prefix)
        its_tables, its_views = schemas(prefix, [projection.name for projection in wanted.projections])
        mark = self._mark(*wanted.key)
        taken = await (await connection.execute(_OTHERS, ([*its_tables, *its_views], mark))).fetchall()
        if taken:
            raise SchemaTaken(f"The schema {taken[0][0]} is there already, and is no replay's. Choose another id.")
        kek = self._keks.current
        sealed = seal_bytes(login.password.encode(), _bound(*wanted.key), self._keks.key(kek))
        async with connection.transaction():
            await connection.execute(_TAKE, (*wanted.key, wanted.requested, prefix, login.role, sealed, kek))
            for schema in map(sql.Identifier, [*its_tables, *its_views]):
                await connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
                await connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, sql.Literal(mark)))
        return login

    async def drop(self, tenant: str, replay_id: str) -> None:
        """Its schemas, its role, and what was kept of it; safe when there is nothing, or half of it."""
        async with await self._connect() as connection:
            place = await (await connection.execute(_PLACE, (tenant, replay_id))).fetchone()
            if place is not None:
                await drop_role(connection, place[1])
            await connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(f"{DROP_LOCK_SECONDS}s")))
            for (schema,) in await (await connection.execute(_OURS, (self._mark(tenant, replay_id),))).fetchall():
                await connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
            await connection.execute("DELETE FROM replays_private.places WHERE tenant = %s AND replay_id = %s", (tenant, replay_id))

    async def places(self) -> dict[tuple[str, str], int]:
        """(tenant, replay id) -> position of the request that it was built for, of all that lie here, whole or half."""
        async with await self._connect() as connection:
            rows = await (await connection.execute("SELECT tenant, replay_id, requested FROM replays_private.places")).fetchall()
        return {(tenant, replay_id): requested for tenant, replay_id, requested in rows}

    async def login(self, tenant: str, replay_id: str) -> Login:
        """Its role and password. Raises NotThere."""
        async with await self._connect() as connection:
            place = await (await connection.execute(_PLACE, (tenant, replay_id))).fetchone()
        if place is None:
            raise NotThere
        prefix, role, sealed, kek = place
        return Login(role, open_bytes(sealed, _bound(tenant, replay_id), self._keks.key(kek)).decode(), prefix)

    async def reseal(self) -> None:
        """Seals under the key-encryption key of today what is sealed under another. Raises KekMissing, VaultError."""
        kek = self._keks.current
        async with await self._connect() as connection:
            for tenant, replay_id, sealed, old in await (await connection.execute(_SEALED_OTHERWISE, (kek,))).fetchall():
                bound_to = _bound(tenant, replay_id)
                again = seal_bytes(open_bytes(sealed, bound_to, self._keks.key(old)), bound_to, self._keks.key(kek))
                await connection.execute(_RESEAL, (again, kek, tenant, replay_id, sealed))

    async def ask(self, tenant: str, replay_id: str, contexts: Sequence[str], question: Question) -> Answer:
        """What a question comes to, asked as the replay's own role. Raises NotThere, SqlRefused, NoEntry."""
        login = await self.login(tenant, replay_id)
        given: dict[str, Any] = {name: value for name, value in conninfo_to_dict(self._dsn).items() if name not in _NOT_OURS}
        dsn = make_conninfo("", **{**given, "user": login.role, "password": login.password})
        return await run(dsn, schemas(login.schema_prefix, contexts)[1], question, own_server=self._embedded)

    def _mark(self, *replay: str) -> str:
        """By this a schema is known to be a replay's, and may be dropped. Every role can read it: it names nobody."""
        return f"Aureus: replay {hashlib.sha256(orjson.dumps([self._ledger, *replay])).hexdigest()}"

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)


def _bound(tenant: str, replay_id: str) -> bytes:
    return orjson.dumps(("replay", "password", tenant, replay_id))


async def _fill_events(connection: Connection, prefix: str, wanted: Wanted) -> int:
    table = events_table(prefix)
    await connection.execute(sql.SQL(CREATE_EVENTS).format(events=table))
    fill = sql.SQL(FILL_EVENTS).format(events=table, until=sql.Literal(wanted.until), tenants=sql.Literal(wanted.tenants))
    filled = await connection.execute(fill)
    await connection.execute(sql.SQL(INDEX_EVENTS).format(events=table))
    return filled.rowcount


async def _compared(
    connection: Connection, prefix: str, wanted: Wanted, progress: Callable[[str, int, int], Awaitable[None]]
) -> tuple[tuple[TableBuilt, ...], tuple[str, ...]]:
    """The tables as they were built, and those of them that live say something else."""
    tables: list[TableBuilt] = []
    differing: list[str] = []
    for done, projection in enumerate(wanted.projections):
        await progress("comparing", done, len(wanted.projections))
        schema = schema_name(projection.name, base_prefix(prefix))
        built = await digests(connection, projection, schema, wanted.until, wanted.tenants)
        live = await digests(connection, projection, schema_name(projection.name, LIVE), wanted.until, wanted.tenants)
        for read in projection.tables:
            query = sql.SQL("SELECT count(*) FROM {} WHERE to_position = {}").format(sql.Identifier(schema, read.name), sql.Literal(OPEN))
            row = await (await connection.execute(query)).fetchone()
            tables.append(TableBuilt(context=projection.name, table=read.name, rows=row[0] if row else 0, digest=built[read.name]))
        differing += [read.name for read in projection.tables if built[read.name] != live[read.name]]
    return tuple(tables), tuple(differing)
