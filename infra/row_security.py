"""The second wall between tenants: PostgreSQL shows whoever reads the rows of the tenant they read for, and of no other.

The first is the condition that every query bears. Behind it, queries run as a role that owns nothing and bypasses nothing, on a
connection that is told for whom; told nothing, it sees nothing (docs/adr/0030-row-level-security.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from infra.schema import READER_ROLE

EVERY_TENANT: Final = "*"
"""Reads for all of them: what Aureus does by itself, and never an answer to anybody. No tenant can have this id."""
NOBODYS: Final = None
"""Reads what belongs to no tenant, such as how far the read models are."""
_UNWALLED: Final = """
    SELECT wanted.schema, wanted.name FROM unnest(%s::text[], %s::text[]) AS wanted(schema, name)
    JOIN pg_namespace AS n ON n.nspname = wanted.schema JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name
    WHERE NOT c.relrowsecurity
"""
_WALL: Final = (
    "GRANT USAGE ON SCHEMA {schema} TO {reader}",
    "GRANT SELECT ON {table} TO {reader}",
    """CREATE POLICY tenants ON {table} FOR SELECT TO {reader}
        USING (tenant = (SELECT current_setting('aureus.tenant', true)) OR (SELECT current_setting('aureus.tenant', true)) = '*')""",
    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
)


class ReaderConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection in the reader's role that remembers for which tenant it was told to read."""

    _tenant: str | None = None

    async def take_role(self) -> None:
        await self.execute(f"SET ROLE {READER_ROLE}")

    async def read_for(self, tenant: str | None) -> None:
        """From here on it sees this tenant's rows. Saying so costs a round trip only when it was another before."""
        if tenant is NOBODYS or tenant == self._tenant:
            return
        self._tenant = None
        await self.execute("SELECT set_config('aureus.tenant', %s, false)", (tenant,), prepare=True)
        self._tenant = tenant


async def raise_walls(connection: psycopg.AsyncConnection[TupleRow], tables: Iterable[tuple[str, str]]) -> None:
    """Puts the wall around those tables (schema, name) that have none, all of which have a column `tenant`."""
    schemas, names = zip(*tables, strict=True)
    for schema, name in await (await connection.execute(_UNWALLED, (list(schemas), list(names)))).fetchall():
        parts = {"schema": sql.Identifier(schema), "table": sql.Identifier(schema, name), "reader": sql.Identifier(READER_ROLE)}
        for statement in _WALL:
            await connection.execute(sql.SQL(statement).format(**parts))
