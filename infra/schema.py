"""The schema of the ledger's database: set up by whoever starts first, stamped, and left alone by all who start after."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from infra.settings_error import SettingsError

Connection = psycopg.AsyncConnection[TupleRow]

APPLICATION_ROLE: Final = "aureus_app"
READER_ROLE: Final = "aureus_reader"
"""Reads for one tenant at a time, and changes nothing."""
SCHEMA_LOCK: Final = 7_283_641
LOCK_TIMEOUT_MS: Final = 500
"""Less than the second after which PostgreSQL looks for a deadlock."""
UPGRADE_TRIES: Final = 60
UPGRADE_PAUSE_SECONDS: Final = 0.5
_HERE: Final = Path(__file__).parent


async def create_schema(dsn: str) -> None:
    """Creates what is missing, as the database's owner, and the roles the application works under.

    Raises SettingsError when the database cannot be reached, or its user may not do that.
    """
    await _create("DATABASE_URL", dsn, "ledger", _statements(), (APPLICATION_ROLE, READER_ROLE))


async def create_keys_schema(dsn: str) -> None:
    """The same for a database that has nothing but the vault's keys."""
    await _create("AUREUS_VAULT_KEYS_URL", dsn, "vault", (_HERE / "schema_vault_keys.sql").read_text(), (APPLICATION_ROLE,))


def ledger_stamp() -> str:
    """What the comment on the schema `ledger` says when this very version has set it up."""
    return _stamp(_statements())


def _statements() -> str:
    return "\n".join(path.read_text() for path in [_HERE / "schema.sql", *sorted(_HERE.glob("schema_*.sql"))])


def _stamp(schema: str) -> str:
    return f"Aureus sha256:{hashlib.sha256(schema.encode()).hexdigest()}"


async def _create(setting: str, dsn: str, stamped: str, schema: str, roles: Sequence[str]) -> None:
    try:
        await _create_schema(dsn, stamped, schema, roles)
    except errors.InsufficientPrivilege as error:
        raise SettingsError(
            setting,
            f"its user may not set it up: {error.diag.message_primary}.",
            "Let a superuser run: "
            + "".join(f"CREATE ROLE {role} NOLOGIN; GRANT {role} TO <user> WITH ADMIN OPTION; " for role in roles)
            + "GRANT CREATE ON DATABASE <name> TO <user>;",
        ) from error
    except psycopg.OperationalError as error:
        raise SettingsError(
            setting, f"the database cannot be reached: {error}.", "Check the address, the password and the server."
        ) from error


async def _create_schema(dsn: str, stamped: str, schema: str, roles: Sequence[str]) -> None:
    stamp = _stamp(schema)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for tried in range(1, UPGRADE_TRIES + 1):
            try:
                if not await _is_stamped(connection, stamped, stamp, roles):
                    await _apply(connection, stamped, schema, stamp, roles)
                return
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                if tried == UPGRADE_TRIES:
                    raise
                await asyncio.sleep(UPGRADE_PAUSE_SECONDS)


async def _is_stamped(connection: Connection, stamped: str, stamp: str, roles: Sequence[str]) -> bool:
    """Whether this very schema is in place already: the usual case, in which starting beside a busy server locks nothing."""
    asked = "SELECT obj_description(to_regnamespace(%s), 'pg_namespace') = %s"
    found = await (await connection.execute(asked, (stamped, stamp))).fetchone()
    return bool(found and found[0]) and not await _not_ours(connection, roles)


async def _not_ours(connection: Connection, roles: Sequence[str]) -> dict[str, bool]:
    """The roles that the database's user cannot take, and whether they exist."""
    # Since PostgreSQL 16, whoever made a role is a member of it that may hand it out, and not take it.
    taken = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
    asked = """
        SELECT wanted.name, r.oid IS NOT NULL FROM unnest(%s::text[]) AS wanted(name) LEFT JOIN pg_roles AS r ON r.rolname = wanted.name
        WHERE r.oid IS NULL OR NOT pg_has_role(current_user, r.oid, %s)
    """
    return dict(await (await connection.execute(asked, (list(roles), taken))).fetchall())


async def _apply(connection: Connection, stamped: str, schema: str, stamp: str, roles: Sequence[str]) -> None:
    async with connection.transaction():
        # Roles belong to the whole server: two databases set up at once would race for the same one.
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        if await _is_stamped(connection, stamped, stamp, roles):
            return
        # Under load, whoever upgrades gives way before PostgreSQL looks for a deadlock: no append is ever its victim.
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'")
        for role, exists in (await _not_ours(connection, roles)).items():
            if not exists:
                try:
                    async with connection.transaction():
                        await connection.execute(f"CREATE ROLE {role} NOLOGIN")
                except (errors.DuplicateObject, errors.UniqueViolation):
                    pass
        for role in await _not_ours(connection, roles):
            await connection.execute(f"GRANT {role} TO CURRENT_USER")
        await connection.execute(schema)
        await connection.execute(f"COMMENT ON SCHEMA {stamped} IS '{stamp}'")
