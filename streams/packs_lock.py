"""Whoever seals a pack, or withdraws packs, does it alone: no pack slips past an erasure that looks for those that show somebody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from streams.leading import Connection

PACKS_LOCK: Final = 7_283_675


@asynccontextmanager
async def packs_held(connection: Connection) -> AsyncIterator[None]:
    """Waits for the others; goes with the connection, should that be lost."""
    await connection.execute("SELECT pg_advisory_lock(%s)", (PACKS_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (PACKS_LOCK,))
