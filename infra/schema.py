"""The schema of the ledger's database: set up by whoever starts first, stamped, and left alone by all who start after."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Final

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from infra.settings_error import SettingsError

Connection = psycopg.AsyncConnection[TupleRow]

APPLICATION_ROLE: Final = "aureus_app"
SCHEMA_LOCK: Final = 7_283_641
LOCK_TIMEOUT_MS: Final = 500
"""Less than the second after which PostgreSQL looks for a deadlock."""
UPGRADE_TRIES: Final = 60
UPGRADE_PAUSE_SECONDS: Final = 0.5


async def create_schema(dsn: str) -> None:
    """Creates what is missing, as the database's owner, and the role the application works under.

    Raises SettingsError when the database cannot be reached, or its user may not do that.
    """
    here = Path(__file__).parent
    await _create("DATABASE_URL", dsn, "ledger", [here / "schema.sql", *sorted(here.glob("schema_*.sql"))])


async def create_keys_schema(dsn: str) -> None:
    """The same for a database that has nothing but the vault's keys."""
    await _create("AUREUS_VAULT_KEYS_URL", dsn, "vault", [Path(__file__).parent / "schema_vault_keys.sql"])


async def _create(setting: str, dsn: str, stamped: str, files: list[Path]) -> None:
    try:
        await _create_schema(dsn, stamped, "\n".join(path.read_text() for path in files))
    except errors.InsufficientPrivilege as error:
        raise SettingsError(
            setting,
            f"its user may not set it up: {error.diag.message_primary}.",
            f"Let a superuser run: CREATE ROLE {APPLICATION_ROLE} NOLOGIN; GRANT {APPLICATION_ROLE} TO <user> WITH ADMIN OPTION; "
            "GRANT CREATE ON DATABASE <name> TO <user>;",
        ) from error
    except psycopg.OperationalError as error:
        raise SettingsError(
            setting, f"the database cannot be reached: {error}.", "Check the address, the password and the server."
        ) from error


async def _create_schema(dsn: str, stamped: str, schema: str) -> None:
    stamp = f"Aureus sha256:{hashlib.sha256(schema.encode()).hexdigest()}"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for tried in range(1, UPGRADE_TRIES + 1):
            try:
                if not await _is_stamped(connection, stamped, stamp):
                    await _apply(connection, stamped, schema, stamp)
                return
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                if tried == UPGRADE_TRIES:
                    raise
                await asyncio.sleep(UPGRADE_PAUSE_SECONDS)


async def _is_stamped(connection: Connection, stamped: str, stamp: str) -> bool:
    """Whether this very schema is in place already: the usual case, in which starting beside a busy server locks nothing."""
    asked = """
        SELECT obj_description(to_regnamespace(%s), 'pg_namespace') = %s
        AND pg_has_role(current_user, (SELECT oid FROM pg_roles WHERE rolname = %s), 'MEMBER')
    """
    found = await (await connection.execute(asked, (stamped, stamp, APPLICATION_ROLE))).fetchone()
    return bool(found and found[0])


async def _apply(connection: Connection, stamped: str, schema: str, stamp: str) -> None:
    async with connection.transaction():
        # Roles belong to the whole server: two databases set up at once would race for the same one.
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        if await _is_stamped(connection, stamped, stamp):
            return
        # Under load, whoever upgrades gives way before PostgreSQL looks for a deadlock: no append is ever its victim.
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'")
        known = await (await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (APPLICATION_ROLE,))).fetchone()
        if known is None:
            try:
                async with connection.transaction():
                    await connection.execute(f"CREATE ROLE {APPLICATION_ROLE} NOLOGIN")
            except (errors.DuplicateObject, errors.UniqueViolation):
                pass
        member = await (await connection.execute("SELECT pg_has_role(current_user, %s, 'MEMBER')", (APPLICATION_ROLE,))).fetchone()
        if not (member and member[0]):
            await connection.execute(f"GRANT {APPLICATION_ROLE} TO CURRENT_USER")
        await connection.execute(schema)
        await connection.execute(f"COMMENT ON SCHEMA {stamped} IS '{stamp}'")
