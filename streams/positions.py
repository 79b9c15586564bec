"""How far each follower of the ledger has come, kept beside the ledger: after a kill it begins there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from streams.leading import Connection

RELAY: Final = "relay"
RELAY_LOCK: Final = 7_283_660
CLOUDEVENTS: Final = "cloudevents"
CLOUDEVENTS_LOCK: Final = 7_283_661
_LOCK: Final = 7_283_644


async def place(connection: Connection, names: Iterable[str], position: int) -> None:
    """Lets each follower that is not known yet begin after this position."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for name in names:
            await connection.execute("INSERT INTO streams.positions VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, position))


async def position_of(connection: Connection, name: str) -> int:
    row = await (await connection.execute("SELECT position FROM streams.positions WHERE name = %s", (name,))).fetchone()
    assert row is not None, f"{name} was given no place"
    return int(row[0])


async def move(connection: Connection, names: Iterable[str], position: int) -> None:
    """Moves them on; never back."""
    sql = "UPDATE streams.positions SET position = greatest(position, %s) WHERE name = ANY(%s)"
    await connection.execute(sql, (position, list(names)))
