"""Hooks beside the ledger: their secrets, and what was reported to them, kept until it is a command on the ledger or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.ledger import LedgerUnavailable
from infra.key_encryption import KeyEncryptionKeys
from infra.sealed_secrets import SealedSecrets

BODY_DAYS: Final = 30
"""How long the body of a report is kept that became nothing."""
State = Literal["received", "done", "parked", "ignored", "failed"]
_SETTLED: Final = ("done", "parked", "ignored")
_COLUMNS: Final = "delivery_id, received_at, state, refusals, action_id, code, problem, settled_at"
_RECEIVE: Final = sql.SQL("""
    WITH forgotten AS (
        UPDATE hooks_private.deliveries SET body = NULL WHERE body IS NOT NULL AND received_at < now() - make_interval(days => %(days)s)
    )
    INSERT INTO hooks_private.deliveries (tenant, hook_id, delivery_id, body) VALUES (%(tenant)s, %(hook)s, %(id)s, %(body)s)
    ON CONFLICT DO NOTHING
""")
_WHERE: Final = "WHERE tenant = %(tenant)s AND hook_id = %(hook)s"
_GET: Final = sql.SQL(f"SELECT {_COLUMNS}, body FROM hooks_private.deliveries {_WHERE} AND delivery_id = %(id)s")  # noqa: S608
_LATEST: Final = sql.SQL(f"""
    SELECT {_COLUMNS}, NULL FROM hooks_private.deliveries {_WHERE} AND (%(state)s::text IS NULL OR state = %(state)s)
    ORDER BY received_at DESC, delivery_id LIMIT %(limit)s
""")  # noqa: S608
_SETTLE: Final = sql.SQL(f"""
    UPDATE hooks_private.deliveries
    SET state = %(state)s::text, action_id = %(action_id)s::text, code = %(code)s, problem = %(problem)s, settled_at = now(),
        refusals = refusals + (%(action_id)s::text IS NOT NULL AND %(state)s::text = 'failed')::int,
        body = CASE WHEN %(state)s::text = 'failed' THEN body END
    {_WHERE} AND delivery_id = %(id)s AND state NOT IN ('done', 'parked', 'ignored')
""")  # noqa: S608


@dataclass(frozen=True, slots=True)
class Delivery:
    """One report: what became of it, and why not. `refusals` counts the actions that were refused."""

    delivery_id: str
    received_at: datetime
    state: State
    refusals: int
    action_id: str | None
    code: str | None
    problem: str | None
    settled_at: datetime | None
    body: bytes | None = None

    @property
    def settled(self) -> bool:
        """Whether it became a command, or is to become nothing: sent again, it becomes nothing more."""
        return self.state in _SETTLED


class HookStore:
    """Several processes may share it."""

    def __init__(self, dsn: str, keks: KeyEncryptionKeys) -> None:
        self.secrets = SealedSecrets(keks, self._query, "hooks_private", "hook_id", "hook")
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn, open=False, min_size=0, max_size=4, timeout=10, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def received(self, tenant: str, hook_id: str, delivery_id: str, body: bytes) -> Delivery:
        """Keeps a report; how the first one with its id stands, which is another when it was sent before."""
        whose = {"tenant": tenant, "hook": hook_id, "id": delivery_id}
        await self._query(_RECEIVE, {**whose, "body": body, "days": BODY_DAYS})
        found = await self.get(tenant, hook_id, delivery_id)
        assert found is not None, "nothing is deleted there"
        return found

    async def get(self, tenant: str, hook_id: str, delivery_id: str) -> Delivery | None:
        rows = await self._query(_GET, {"tenant": tenant, "hook": hook_id, "id": delivery_id})
        return Delivery(*rows[0]) if rows else None

    async def latest(self, tenant: str, hook_id: str, limit: int, state: State | None = None) -> list[Delivery]:
        """The latest reports to a hook, newest first, without their bodies."""
        asked = {"tenant": tenant, "hook": hook_id, "state": state, "limit": limit}
        return [Delivery(*row) for row in await self._query(_LATEST, asked)]

    async def settle(
        self,
        tenant: str,
        hook_id: str,
        delivery_id: str,
        state: State,
        *,
        action_id: str | None = None,
        code: str | None = None,
        problem: str | None = None,
    ) -> None:
        """Says what became of a report; its body goes unless it failed."""
        whose = {"tenant": tenant, "hook": hook_id, "id": delivery_id}
        await self._query(_SETTLE, {**whose, "state": state, "action_id": action_id, "code": code, "problem": problem})

    async def _query(self, query: sql.SQL | sql.Composed, arguments: Mapping[str, Any]) -> Sequence[TupleRow]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query, arguments)
                return await cursor.fetchall() if cursor.description else []
        except (OperationalError, PoolTimeout) as error:
            await self._pool.check()
            raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error
