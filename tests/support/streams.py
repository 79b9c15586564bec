"""The read models behind Kafka, put together for a test: a ledger that is written to all the while, its relay, and workers."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Final
from uuid import uuid4

import psycopg
import uvloop

from api.services import projections
from api.workers import follow
from bench import workload
from domain.values import uuid7
from infra.kafka_settings import KafkaPlace
from infra.keystore import FileKeystore
from infra.ledger import Append, Ledger, LedgerUnavailable
from infra.opening import open_ledger
from infra.read_models import create_read_models
from infra.settings import Settings
from infra.tasks import ended
from projections.engine import Projection
from streams.faust_app import following, group_name
from streams.progress import Progress
from streams.relay import PACK_FROM, Relay, stretches
from streams.worker import Worker
from tests.support.kafka import Kafka
from tests.support.kernel import unequal

LEVEL_SECONDS_MAX: Final = 120.0
_POLL_SECONDS: Final = 0.02
_LOWEST: Final = "SELECT min(position) FROM projections.positions WHERE stopped IS NULL AND name = ANY(%s)"


@dataclass
class Streams:
    """A ledger with its read models, and where Kafka is."""

    ledger: Ledger
    dsn: str
    place: KafkaPlace
    keystore: FileKeystore
    written: int = 0
    """Appends that were acknowledged."""

    async def position(self, names: Sequence[str] = ()) -> int:
        """Where the last of these running read models stands, or of all."""
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            row = await (await connection.execute(_LOWEST, (list(names or (p.name for p in projections())),))).fetchone()
        assert row is not None
        return int(row[0] or 0)

    async def reach(self, position: int, names: Sequence[str] = ()) -> None:
        async def reached() -> bool:
            return await self.position(names) >= position

        await until(reached)

    async def moved(self, names: Sequence[str] = ()) -> None:
        """Waits until they have moved from where they are."""
        await self.reach(await self.position(names) + 1, names)

    async def level(self) -> None:
        """All that was written is in the read models, and they are what a rebuild makes of the ledger: nothing lost, nothing doubled."""
        await self.reach((await self.ledger.refresh()).size)
        assert await unequal(self.dsn) == []

    @asynccontextmanager
    async def writing(self, per_second: int = 300) -> AsyncIterator[None]:
        """Appends go in all the while; one that fails is not repeated, and what follows goes to other streams."""
        task = asyncio.create_task(self._write(per_second))
        try:
            yield
        finally:
            assert not task.done(), task.exception()
            await ended(task)

    async def _write(self, per_second: int) -> None:
        at_once = 4  # some batches of the relay are packed then, and some are not
        history = workload.History(_lane())
        while True:
            try:
                await self.ledger.append(Append(workload.TENANT, workload.ACTOR, history.take(at_once), uuid7()))
                self.written += 1
            except LedgerUnavailable:
                history = workload.History(_lane())
            await asyncio.sleep(at_once / per_second)

    async def write(self, events: int) -> None:
        await self.ledger.append(Append(workload.TENANT, workload.ACTOR, workload.History(_lane()).take(events), uuid7()))

    @asynccontextmanager
    async def relaying(self, *, pack_from: int = PACK_FROM) -> AsyncIterator[Relay]:
        relay = Relay(self.ledger, self.dsn, self.place, rendering=stretches(self.place.topic, self.ledger.name, pack_from=pack_from))
        task = asyncio.create_task(relay.run())
        try:
            yield relay
        finally:
            await ended(task)

    @asynccontextmanager
    async def working(self, moved: Sequence[Projection] | None = None) -> AsyncIterator[Worker]:
        """A worker in this process; with `moved` one of a group of its own."""
        group = group_name(self.ledger.name, [projection.name for projection in moved or ()])
        async with following(self.place, self.ledger, self.dsn, moved or projections(), Progress(), group=group) as (worker, _):
            yield worker

    def environment(self) -> dict[str, str]:
        """What `aureus` needs to be told to work on this."""
        return {
            **os.environ,
            "AUREUS_HOME": str(self.keystore.folder.parent),
            "DATABASE_URL": self.dsn,
            "AUREUS_STREAMS": "kafka",
            "AUREUS_KAFKA_SERVERS": ",".join(self.place.servers),
            "AUREUS_KAFKA_TOPIC": self.place.topic,
        }

    @contextmanager
    def aureus_worker(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """`aureus worker`, in a process group of its own, ended as an operator would."""
        command = [sys.executable, "-m", "api.cli", "worker", *arguments]
        with subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            try:
                yield process
                process.terminate()
                process.wait(20)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


_lanes = iter(range(1_000_000))


def _lane() -> int:
    return next(_lanes)


@asynccontextmanager
async def streams(dsn: str, keystore: FileKeystore, kafka: Kafka) -> AsyncIterator[Streams]:
    """A ledger of its own on a topic of its own; nothing is relayed and nothing moved yet."""
    place = KafkaPlace(servers=(kafka.servers,), topic=f"test.{uuid4().hex}")
    async with AsyncExitStack() as stack:
        ledger = await open_ledger(dsn, keystore)
        stack.push_async_callback(ledger.close)
        await create_read_models(dsn, projections())
        yield Streams(ledger, dsn, place, keystore)


async def until(done: Callable[[], Any], seconds: float = LEVEL_SECONDS_MAX) -> None:
    """Asks again and again; what is asked may have to be awaited."""
    async with asyncio.timeout(seconds):
        while True:
            answer = done()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(_POLL_SECONDS)


_FORKING: Final = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["api.workers", "streams.faust_app"])


def forked_worker(s: Streams, names: Sequence[str]) -> BaseProcess:
    """A process that works like `aureus worker`, and starts at once: what it loads was loaded before it was forked."""
    process = _FORKING.Process(target=_work, args=(s.environment(), list(names)))
    process.start()
    return process


def _work(environment: dict[str, str], names: list[str]) -> None:
    uvloop.run(follow(Settings.from_environment(environment), names))
