"""The reactor: follows the ledger behind the read models, and asks for what the reactions want; one process at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import TupleRow

from commands.path import Ask, CommandPath
from domain.kernel import Command, Event, Recorded, command_digest
from domain.values import uuid7
from infra.audit_trail import Trail, read_trail
from infra.ledger import Ledger
from infra.read_queries import ListQuery, Reads
from projections.engine import ReadTable
from streams.leading import Connection, lead
from streams.reactions import Reaction, Sweep, asker

WINDOW_EVENTS: Final = 10_000
IDLE_SECONDS: Final = 0.2
REACTIONS_LOCK: Final = 7_283_643
_PAGE_ROWS: Final = 1_000
_POSITIONS: Final = """
    CREATE SCHEMA IF NOT EXISTS streams;
    CREATE TABLE IF NOT EXISTS streams.positions (name text PRIMARY KEY, position bigint NOT NULL);
"""
_log = logging.getLogger("aureus.reactions")


class Rows:
    """Implements `ReadRows` on the live read models."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def tenants(self, table: ReadTable[Any]) -> list[str]:
        return await self._reads.tenants(table)

    async def rows(self, table: ReadTable[Any], tenant: str, where: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self._reads.page(table, tenant, ListQuery(where=where or {}, limit=_PAGE_ROWS, cursor=cursor))
            found.extend(orjson.loads(document) for document in page.documents)
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def row(self, table: ReadTable[Any], tenant: str, row_id: str) -> dict[str, Any] | None:
        return (await self._reads.many(table, tenant, [row_id])).get(row_id)

    async def trail(self, tenant: str, since: datetime, until: datetime) -> Trail:
        return await read_trail(self._reads, tenant, since, until)


async def place_reactions(dsn: str, reactions: Sequence[Reaction], size: int) -> None:
    """Gives every new reaction its place: it reacts to what comes from now on, not to years gone by."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (REACTIONS_LOCK + 1,))
        await connection.execute(_POSITIONS)
        for reaction in reactions:
            await connection.execute("INSERT INTO streams.positions VALUES (%s, %s) ON CONFLICT DO NOTHING", (reaction.name, size))


class Reactor:
    """Runs reactions and sweeps until cancelled. It waits rather than pass over an event that it cannot deal with now."""

    def __init__(
        self,
        ledger: Ledger,
        dsn: str,
        path: CommandPath,
        reads: Reads,
        reactions: Sequence[Reaction],
        sweeps: Sequence[Sweep],
    ) -> None:
        self._ledger, self._dsn, self._path, self._reads = ledger, dsn, path, reads
        self._rows = Rows(reads)
        self._sweeps = dict.fromkeys(sweeps, 0.0)
        self._names = [reaction.name for reaction in reactions]
        self._event_names = sorted({event.event_name for reaction in reactions for event in reaction.on})
        self._by_event: dict[type[Event], list[Reaction]] = {}
        for reaction in reactions:
            for event in reaction.on:
                self._by_event.setdefault(event, []).append(reaction)

    async def run(self) -> None:
        """Follows the ledger for ever; after a lost database or leadership it begins where it had come to."""
        await lead(self._dsn, REACTIONS_LOCK, "reactions", self._lead)

    async def _lead(self, connection: Connection) -> None:
        rows = await (await connection.execute("SELECT name, position FROM streams.positions")).fetchall()
        places = {name: position for name, position in rows if name in self._names}
        reached = min(places.values(), default=self._ledger.head.size)
        while True:
            # Behind the read models, never ahead: a reaction looks at what the event made of them.
            seen = min(await self._reads.position(), reached + WINDOW_EVENTS)
            if seen > reached:
                for recorded in await self._ledger.read_types(self._event_names, reached, seen):
                    await self._react(recorded, places)
                reached = seen
                move = "UPDATE streams.positions SET position = greatest(position, %s) WHERE name = ANY(%s)"
                await connection.execute(move, (reached, self._names))
            else:
                await _value(connection, "SELECT 1")  # leadership goes with the connection: this notices when it is lost
                await asyncio.sleep(IDLE_SECONDS)
            await self._sweep()

    async def _react(self, recorded: Recorded[Any], places: dict[str, int]) -> None:
        for reaction in self._by_event.get(type(recorded.event), ()):
            if places[reaction.name] < recorded.position:
                for command in await reaction.react(recorded, self._rows):
                    await self._ask(reaction.name, recorded.tenant, str(recorded.id), command, recorded)

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for sweep, due in self._sweeps.items():
            if due > now:
                continue
            for tenant, key, command in await sweep.find(self._rows, datetime.now(UTC)):
                await self._ask(sweep.name, tenant, key, command)
            self._sweeps[sweep] = now + sweep.every_seconds

    async def _ask(self, name: str, tenant: str, cause: str, command: Command, recorded: Recorded[Any] | None = None) -> None:
        """Once per cause: after a kill the same is asked for again, and answered from memory."""
        same = command_digest(command.command_name, command.intent())[:32]
        ask = Ask(
            command,
            asker(tenant),
            uuid7(),
            datetime.now(UTC),
            correlation=recorded.correlation if recorded else None,
            idempotency_key=f"{name}:{cause}:{same}",
            reason=f"Reaction {name} to position {recorded.position}." if recorded else f"Sweep {name}.",
        )
        outcome = await self._path.handle(ask)
        if outcome.outcome != "allowed":
            _log.warning("%s: %s was %s (%s)", name, command.command_name, outcome.outcome, outcome.code)


async def _value(connection: psycopg.AsyncConnection[TupleRow], query: str, *arguments: Any) -> Any:
    row = await (await connection.execute(query.encode(), arguments)).fetchone()
    return row[0] if row else None
