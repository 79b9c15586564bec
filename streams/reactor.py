"""The reactor: follows the ledger behind the read models, answers what happens, and carries sagas on; one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import TupleRow

from commands.path import CommandPath
from commands.reactions import StartSaga
from domain.access import Actor
from domain.kernel import Asker, Command, Event, Recorded
from infra import tracing
from infra.audit_trail import Trail, read_trail
from infra.holdings import holdings_of
from infra.ledger import Ledger
from infra.logs import on_behalf_of
from infra.read_queries import ListQuery, Reads
from infra.standing import Standing
from projections.engine import ReadTable
from streams.answering import Answering
from streams.dead_letters import DeadLetters
from streams.leading import Connection, lead
from streams.positions import move, place
from streams.process_manager import ProcessManager
from streams.reactions import Reaction, Sweep
from streams.replaying import REPLAYS, Replays
from streams.sagas import Saga

WINDOW_EVENTS: Final = 10_000
IDLE_SECONDS: Final = 0.2
REACTIONS_LOCK: Final = 7_283_643
_PAGE_ROWS: Final = 1_000


class Rows:
    """Implements `ReadRows` on the live read models, as they stand or as they stood at a position."""

    def __init__(self, reads: Reads, as_of: int | None = None) -> None:
        self._reads, self._as_of = reads, as_of

    def at(self, position: int) -> Rows:
        return Rows(self._reads, position)

    async def tenants(self, table: ReadTable[Any]) -> list[str]:
        return await self._reads.tenants(table)

    async def rows(self, table: ReadTable[Any], tenant: str, where: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return [row async for row in self._found(table, tenant, where or {}, None)]

    async def rows_since(self, table: ReadTable[Any], tenant: str, where: dict[str, Any], moment: str, since: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for row in self._found(table, tenant, where, f"-{moment}"):
            if row[moment] < since:
                break
            found.append(row)
        return found

    async def _found(self, table: ReadTable[Any], tenant: str, where: dict[str, Any], sort: str | None) -> AsyncIterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = await self._reads.page(table, tenant, ListQuery(where=where, sort=sort, limit=_PAGE_ROWS, cursor=cursor), self._as_of)
            for document in page.documents:
                yield orjson.loads(document)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def row(self, table: ReadTable[Any], tenant: str, row_id: str) -> dict[str, Any] | None:
        return (await self._reads.many(table, tenant, [row_id], self._as_of)).get(row_id)

    async def asker(self, tenant: str, known: Actor) -> Asker:
        row = {
            "status": "active",
            "roles": known.roles,
            "kind": known.kind,
            "owner": known.owner,
            "domains": known.domains,
            "tier": known.tier,
        }
        standing = Standing(self._reads.many, partial(holdings_of, self._reads))
        return await standing.of(tenant, known.actor_id, known=row)

    async def trail(self, tenant: str, since: datetime, until: datetime) -> Trail:
        return await read_trail(self._reads, tenant, since, until)


async def place_reactions(dsn: str, reactions: Sequence[Reaction | Saga], size: int) -> None:
    """Gives every new reaction or saga its place: it answers what comes from now on, not years gone by."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await place(connection, [REPLAYS, *(reaction.name for reaction in reactions)], size)


class Reactor:
    """Answers what happens, looks for what comes due, and carries sagas on, until cancelled.

    It waits while the ledger is away. Anything else that cannot be done becomes a dead letter, and it goes on.
    """

    def __init__(
        self,
        ledger: Ledger,
        dsn: str,
        path: CommandPath,
        reads: Reads,
        reactions: Sequence[Reaction],
        sweeps: Sequence[Sweep],
        sagas: Sequence[Saga] = (),
    ) -> None:
        self._ledger, self._dsn, self._reads = ledger, dsn, reads
        rows, letters = Rows(reads), DeadLetters(ledger, path)
        self._manager = ProcessManager(ledger, path, rows, letters, sagas)
        self._answering = Answering(path, rows, letters, self._done)
        answers = (*reactions, *(saga.beginning() for saga in sagas))
        every = (*answers, Replays(ledger, path, self._answering, self._manager, answers, sagas).reaction)
        self._sweeps = dict.fromkeys(sweeps, 0.0)
        self._names = [reaction.name for reaction in every]
        self._event_names = sorted({event.event_name for reaction in every for event in reaction.on})
        self._by_event: dict[type[Event], list[Reaction]] = {}
        for reaction in every:
            for event in reaction.on:
                self._by_event.setdefault(event, []).append(reaction)

    def _done(self, tenant: str, command: Command) -> None:
        if isinstance(command, StartSaga):
            self._manager.take(tenant, command.saga_id)

    async def run(self) -> None:
        """Follows the ledger for ever; after a lost database or leadership it begins where it had come to."""
        await lead(self._dsn, REACTIONS_LOCK, "reactions", self._lead)

    async def _lead(self, connection: Connection) -> None:
        rows = await (await connection.execute("SELECT name, position FROM streams.positions")).fetchall()
        places = {name: position for name, position in rows if name in self._names}
        reached = min(places.values(), default=self._ledger.head.size)
        await self._manager.resume(self._reads)
        while True:
            # Behind the read models, never ahead: a reaction looks at what the event made of them.
            seen = min(await self._reads.position(), reached + WINDOW_EVENTS)
            if seen > reached:
                for recorded in await self._ledger.read_types(self._event_names, reached, seen):
                    await self._react(recorded, places)
                reached = seen
                await move(connection, self._names, reached)
            else:
                await _value(connection, "SELECT 1")  # leadership goes with the connection: this notices when it is lost
                await asyncio.sleep(IDLE_SECONDS)
            await self._sweep()
            await self._manager.drive()

    async def _react(self, recorded: Recorded[Any], places: dict[str, int]) -> None:
        for reaction in self._by_event.get(type(recorded.event), ()):
            if places[reaction.name] < recorded.position:
                with on_behalf_of(recorded.correlation), tracing.reaction(reaction.name, recorded):
                    await self._answering.answer(reaction, recorded)

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for sweep, due_at in self._sweeps.items():
            if due_at > now:
                continue
            for due in await self._answering.find(sweep):
                await self._answering.settle(sweep, due)
            self._sweeps[sweep] = now + sweep.every_seconds


async def _value(connection: psycopg.AsyncConnection[TupleRow], query: str, *arguments: Any) -> Any:
    row = await (await connection.execute(query.encode(), arguments)).fetchone()
    return row[0] if row else None
