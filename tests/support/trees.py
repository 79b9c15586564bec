"""Ledgers for tests of the tree: any number of leaves in a second, or events that were really signed."""

from __future__ import annotations

from hashlib import sha256

import psycopg

from domain.budgets import BudgetOpened
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.ledger import Ledger
from infra.schema import create_schema


def planted_leaf(position: int) -> bytes:
    """The leaf that `plant` puts at a position."""
    return sha256(position.to_bytes(8, "big")).digest()


async def plant(dsn: str, size: int) -> list[bytes]:
    """Rows that nobody signed, under a tree as large as a test needs: their leaves, in order."""
    await create_schema(dsn)
    query = """
        INSERT INTO ledger.events
        SELECT n, 'acme', 'planted:' || n, 1, 'planted', now(), '', '', sha256(int8send(n)) FROM generate_series(1, %s) AS n
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(query, (size,))
    return [planted_leaf(position) for position in range(1, size + 1)]


async def grow(ledger: Ledger, size: int, per_commit: int = 100) -> None:
    """Appends events until the ledger has so many; each commit signs a checkpoint."""
    while (room := size - ledger.head.size) > 0:
        at = ledger.head.size
        events = tuple(BudgetOpened(budget_id=f"b{at}", label=f"v{n}", currency="EUR", limit_minor=1) for n in range(min(room, per_commit)))
        await ledger.append(Append("acme", "usr-ana", (StreamWrite(f"budget:b{at}", 0, events),), uuid7()))
