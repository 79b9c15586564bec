"""Reactors at work on a ledger: the read models moving, and what the reactions and sagas of a test make of what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psycopg

from api.services import projections
from commands.outcome import Outcome
from commands.path import CommandPath
from domain.kernel import Asker, Command, Recorded
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.read_models import create_read_models
from infra.read_queries import Reads
from infra.tasks import ended
from streams.progress import Progress
from streams.reactions import Reaction, Sweep
from streams.reactor import Reactor, place_reactions
from streams.runner import Runner
from streams.sagas import Saga
from tests.support.kernel import ADM, ask, everything

PATIENCE_SECONDS: Final = 20.0


@asynccontextmanager
async def reacting(
    dsn: str,
    ledger: Ledger,
    path: CommandPath,
    *reactions: Reaction,
    sweeps: tuple[Sweep, ...] = (),
    sagas: tuple[Saga, ...] = (),
    number: int = 1,
) -> AsyncIterator[Reads]:
    """The read models moving, and so many reactors side by side as there are processes."""
    reads = Reads(dsn, projections())
    await reads.open()
    await place_reactions(dsn, [*reactions, *sagas], ledger.head.size)
    runner = Runner(ledger, dsn, projections(), Progress())
    reactors = [Reactor(ledger, dsn, path, reads, reactions, sweeps, sagas) for _ in range(number)]
    tasks = [asyncio.create_task(runner.run()), *(asyncio.create_task(reactor.run()) for reactor in reactors)]
    try:
        yield reads
    finally:
        await ended(*tasks)
        await reads.close()


async def eventually(ledger: Ledger, holds: Callable[[list[Recorded[Any]]], bool]) -> list[Recorded[Any]]:
    """Everything in the ledger, as soon as that holds of it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for _size in ledger.appended():
            if holds(events := await everything(ledger)):
                return events
    raise AssertionError("the ledger ends")


@dataclass(frozen=True)
class Tenant:
    """A tenant of a test's own on a ledger that others use as well: it sees its own events alone, and begins with none."""

    name: str
    dsn: str
    ledger: Ledger
    path: CommandPath

    async def do(self, command: Command, by: Asker = ADM) -> Outcome:
        return await self.path.handle(ask(command, self.of(by)))

    def of(self, asker: Asker) -> Asker:
        """Somebody of the same name here."""
        return replace(asker, tenant=self.name)

    async def events(self) -> list[Recorded[Any]]:
        return [recorded for recorded in await everything(self.ledger) if recorded.tenant == self.name]

    async def eventually(self, holds: Callable[[list[Recorded[Any]]], bool]) -> list[Recorded[Any]]:
        """All its events, as soon as that holds of them."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for _size in self.ledger.appended():
                if holds(events := await self.events()):
                    return events
        raise AssertionError("the ledger ends")

    @asynccontextmanager
    async def reacting(
        self, *reactions: Reaction, path: CommandPath | None = None, since: int | None = None, **more: Any
    ) -> AsyncIterator[Reads]:
        """From now on, or from a position on, these react, whatever reacted under their names before."""
        position = self.ledger.head.size if since is None else since
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM streams.positions")
        await place_reactions(self.dsn, [*reactions, *more.get("sagas", ())], position)
        async with reacting(self.dsn, self.ledger, path or self.path, *reactions, **more) as reads:
            yield reads


@asynccontextmanager
async def ledger_of(dsn: str, home: Path) -> AsyncIterator[Ledger]:
    """A ledger with its read models, on a database of its own."""
    opened = await open_ledger(dsn, FileKeystore.open(home / "keys"))
    await create_read_models(dsn, projections())
    yield opened
    await opened.close()


def of(kind: type[Any], events: list[Recorded[Any]]) -> list[Recorded[Any]]:
    """Those of one kind."""
    return [recorded for recorded in events if isinstance(recorded.event, kind)]
