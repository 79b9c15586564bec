"""The role an auditor's SQL runs as: it logs in, reads the schemas of one replay, and has no other right anywhere.

It owns nothing and is a member of nothing, so whatever a query is made to do - by `set_config`, `query_to_xml`, SET ROLE - is done as this
role. What PostgreSQL lets everybody do by default, and what would hurt those beside it, is taken from everybody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import errors, sql
from psycopg.rows import TupleRow

from infra.schema import APPLICATION_ROLE
from infra.settings_error import SettingsError

Connection = psycopg.AsyncConnection[TupleRow]
CONNECTIONS_MAX: Final = 4
LIMITS: Final = {
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "work_mem": "16MB",
    "hash_mem_multiplier": "1",
    "max_parallel_workers_per_gather": "0",
}
"""What a session of such a role begins with. One that logs in by itself may change these; its rights it cannot."""
TEMP_FILE_LIMIT: Final = "512MB"
_MAY_CREATE: Final = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
# Advisory locks say who leads; large objects and WAL messages are written whatever rights one has on tables.
_FOR_EVERYBODY: Final = """
    SELECT p.oid::regprocedure::text FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS granted
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND granted.grantee = 0 AND granted.privilege_type = 'EXECUTE'
    AND p.proname ~ '^(pg_(try_)?advisory_|pg_logical_emit_message$|lo_|lo(read|write)$)'
"""
_TEMPORARY: Final = """
    SELECT d.datname FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS granted
    WHERE d.datname = current_database() AND granted.grantee = 0 AND granted.privilege_type = 'TEMPORARY'
"""
_log = logging.getLogger("aureus.replays")


async def require_may_create_roles(connection: Connection) -> None:
    """SettingsError when the database's user may not make roles."""
    row = await (await connection.execute(_MAY_CREATE)).fetchone()
    if not (row and row[0]):
        user = connection.info.user
        raise SettingsError(
            "DATABASE_URL",
            f"its user {user} may not create the role that an auditor's SQL is to run as.",
            f"Let a superuser run: ALTER ROLE {user} CREATEROLE;",
        )


async def create_role(connection: Connection, role: str, password: str, schemas: Sequence[str], search_path: Sequence[str]) -> None:
    """The role, with rights on these schemas and nothing else. Only a hash of the password reaches the server."""
    await require_may_create_roles(connection)
    name = sql.Identifier(role)
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    async with connection.transaction():
        create = "CREATE ROLE {} LOGIN NOINHERIT CONNECTION LIMIT {} PASSWORD {}"
        await connection.execute(sql.SQL(create).format(name, sql.Literal(CONNECTIONS_MAX), sql.Literal(verifier)))
        for setting, value in LIMITS.items():
            await connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value)))
        path = sql.SQL(", ").join(map(sql.Identifier, search_path))
        await connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(name, path))
        for schema in map(sql.Identifier, schemas):
            await connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {0} TO {1}").format(schema, name))
            await connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {1}").format(schema, name))
        await _own(connection, name)
    await _withhold(connection, name)


async def _own(connection: Connection, role: sql.Identifier) -> None:
    """Whoever is no superuser must be a member to end the role's sessions and to drop it; the role itself gains nothing by that."""
    row = await (await connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")).fetchone()
    if not (row and row[0]):
        await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))


async def _withhold(connection: Connection, role: sql.Identifier) -> None:
    """Takes from everybody what no auditor needs, as far as the database's user may; the operators' guide says what is left to do else."""
    open_to_all = [str(row[0]) for row in await (await connection.execute(_FOR_EVERYBODY)).fetchall()]
    statements = [sql.SQL("ALTER ROLE {} SET temp_file_limit = {}").format(role, sql.Literal(TEMP_FILE_LIMIT))]
    for function in open_to_all:
        statements += _handed_over("EXECUTE", sql.SQL("FUNCTION pg_catalog.") + sql.SQL(function))
    for (database,) in await (await connection.execute(_TEMPORARY)).fetchall():
        statements += _handed_over("TEMPORARY", sql.SQL("DATABASE ") + sql.Identifier(database))
    for statement in statements:
        try:
            await connection.execute(statement)
        except errors.InsufficientPrivilege as error:
            _log.warning("not withheld from auditors: %s (%s)", statement.as_string(connection), error.diag.message_primary)


def _handed_over(right: str, of: sql.Composable) -> list[sql.Composed]:
    given = sql.SQL(right)
    return [
        sql.SQL("GRANT {} ON {} TO {}").format(given, of, sql.Identifier(APPLICATION_ROLE)),
        sql.SQL("REVOKE {} ON {} FROM PUBLIC").format(given, of),
    ]


async def drop_role(connection: Connection, role: str) -> None:
    """Ends the role's sessions, and the role; safe when there is none."""
    known = await (await connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))).fetchone()
    if known is None:
        return
    name = sql.Identifier(role)
    await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(name))
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,))
    await connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
    await connection.execute(sql.SQL("DROP ROLE {}").format(name))
