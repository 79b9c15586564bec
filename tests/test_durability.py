"""Bad days: what was acknowledged is there and whole, whatever was killed, restarted or full, and what failed is not."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import psutil
import psycopg
import pytest
import uvloop

from domain.kernel import Recorded
from domain.ledger import LedgerUnavailable
from domain.values import uuid7
from infra.embedded import EmbeddedPostgres
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.postgres_store import PostgresStore
from tests.support.kernel import catch_up, everything, unequal, verification
from tests.support.writer import WRITERS, pair, start

KILLS: Final = 50
SERVER_KILLS: Final = frozenset(range(9, KILLS, 10))
"""After these kills of the writer the database server is killed as well, at the same moment."""


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with TemporaryDirectory(prefix="aureus-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        try:
            yield postgres
        finally:
            postgres.stop()


def kill(server: EmbeddedPostgres) -> None:
    """The whole database server, without a chance to tidy up."""
    process = psutil.Process(int((server.data_dir / "postmaster.pid").read_text().splitlines()[0]))
    process.kill()
    process.wait(10)


def halves(events: list[Recorded[Any]]) -> list[UUID]:
    """Appends of which only one of the two streams got its event, or whose two events do not stand together."""
    positions: dict[UUID, list[int]] = defaultdict(list)
    for recorded in events:
        if recorded.stream.startswith("budget:"):
            positions[recorded.correlation].append(recorded.position)
    return [correlation for correlation, at in positions.items() if len(at) != 2 or at[1] != at[0] + 1]


def killed_at_random(server: EmbeddedPostgres, dsn: str, keys: Path, chance: random.Random, with_server: bool) -> list[tuple[int, UUID]]:
    """(first position, correlation) of what a writer was told before it was killed."""
    pid, told = start(dsn, keys)
    with os.fdopen(told) as lines:
        time.sleep(chance.uniform(0.0, 0.3))
        if with_server:
            kill(server)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        whole = [line.split() for line in lines.read().splitlines(keepends=True) if line.endswith("\n")]
    return [(int(first), UUID(correlation)) for first, correlation in whole]


def test_nothing_acknowledged_is_lost_however_often_the_writer_and_the_server_are_killed(
    server: EmbeddedPostgres, tmp_path: Path, keystore: FileKeystore
) -> None:
    dsn = server.start()
    chance = random.Random(20260303)
    acknowledged: list[tuple[int, UUID]] = []

    async def check(*, read_models: bool) -> None:
        ledger = await open_ledger(dsn, keystore)
        events = await everything(ledger)
        stands = {recorded.position: recorded.correlation for recorded in events}
        assert [one for one in acknowledged if stands.get(one[0]) != one[1]] == [], "acknowledged and not there"
        assert halves(events) == []
        found = await verification(ledger)
        assert (found.problems, found.events) == ([], len(events))
        if read_models:
            assert await catch_up(dsn, ledger) == len(events)
            assert await unequal(dsn) == []
        await ledger.close()

    for number in range(KILLS):
        acknowledged += killed_at_random(server, dsn, tmp_path / "keys", chance, number in SERVER_KILLS)
        dsn = server.start()
        if number % 10 == 9:
            uvloop.run(check(read_models=number == KILLS - 1))
    assert len(acknowledged) > KILLS


# -- the server goes away under load


class Load:
    """Writers that note what they were told of each append."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.there: set[UUID] = set()
        self.not_there: set[UUID] = set()
        self.unknown: set[UUID] = set()
        self.codes: set[str] = set()
        self.strange: list[BaseException] = []
        self.stop = False

    async def write(self) -> None:
        name, version = uuid7().hex, 0
        while not self.stop:
            append = pair(name, version, f"{name}-{version}" if version % 3 == 0 else None)
            try:
                await self.ledger.append(append)
            except LedgerUnavailable as error:
                await asyncio.sleep(0)  # refused at once, as while closing, it would leave nobody else a turn
                self.codes.add(error.code)
                (self.unknown if error.code == "ledger_unreachable" else self.not_there).add(append.correlation)
                name, version = uuid7().hex, 0
            except Exception as error:  # noqa: BLE001 - whatever else it is told is what the test is about
                self.strange.append(error)
                self.not_there.add(append.correlation)
                name, version = uuid7().hex, 0
            else:
                self.there.add(append.correlation)
                version += 1

    async def grown(self, by: int) -> None:
        """Waits until so many more were acknowledged."""
        enough = len(self.there) + by
        await self.until(lambda: len(self.there) >= enough)

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not reached():  # noqa: ASYNC110 - the writers have nobody to tell
                await asyncio.sleep(0.01)


async def backend_killed(server: EmbeddedPostgres, ledger: Ledger) -> None:
    """The writer's own backend, by SIGKILL: the server takes all others down with it and recovers."""
    store = ledger.store
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    os.kill(store._writer.connection.info.backend_pid, signal.SIGKILL)


async def backend_ended(server: EmbeddedPostgres, ledger: Ledger) -> None:
    store = ledger.store
    assert isinstance(store, PostgresStore)
    async with await psycopg.AsyncConnection.connect(store.dsn, autocommit=True) as owner:
        mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        await owner.execute(mine)


async def restarted(server: EmbeddedPostgres, ledger: Ledger) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.start)


async def server_killed(server: EmbeddedPostgres, ledger: Ledger) -> None:
    await asyncio.to_thread(kill, server)
    await asyncio.to_thread(server.start)


@pytest.fixture
async def load(server: EmbeddedPostgres, keystore: FileKeystore) -> AsyncIterator[Load]:
    ledger = await open_ledger(await asyncio.to_thread(server.start), keystore)
    writers = Load(ledger)
    yield writers
    writers.stop = True
    await ledger.close()


@pytest.mark.anyio
async def test_every_append_under_load_ends_truthfully_when_the_database_goes_away(server: EmbeddedPostgres, load: Load) -> None:
    writing = [asyncio.create_task(load.write()) for _ in range(WRITERS)]
    for goes_away in (backend_ended, backend_killed, restarted, server_killed, backend_ended):
        await load.grown(50)
        await goes_away(server, load.ledger)
    await load.grown(50)
    load.stop = True
    await asyncio.gather(*writing)
    events = await everything(load.ledger)
    written = {recorded.correlation for recorded in events}
    assert load.strange == []
    assert load.there - written == set(), "acknowledged and not there"
    assert load.not_there & written == set(), "reported as failed, and there"
    assert halves(events) == []
    assert (await verification(load.ledger)).problems == []


# -- the disk fills up


def _as_root(*command: str) -> None:
    words = command if os.geteuid() == 0 else ("sudo", "-n", *command)
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own that soon is full."""
    folder.mkdir()
    _as_root("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700,uid={os.geteuid()},gid={os.getegid()}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _as_root("umount", "--lazy", str(folder))


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block_bytes in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"\0" * block_bytes)
            except OSError:
                continue


@pytest.mark.anyio
async def test_a_full_disk_is_said_and_nothing_is_acknowledged_until_there_is_room(tmp_path: Path, keystore: FileKeystore) -> None:
    with small_disk(tmp_path / "disk", 160) as disk:
        server = EmbeddedPostgres(disk / "postgres", free_bytes_min=0)
        try:
            ledger = await open_ledger(await asyncio.to_thread(server.start), keystore)
            filler = disk / "filler"
            fill(filler)
            load = Load(ledger)
            writing = [asyncio.create_task(load.write()) for _ in range(WRITERS)]
            await load.until(lambda: bool(load.not_there))
            assert load.codes == {"disk_full"}
            acknowledged = len(load.there)
            filler.unlink()
            await load.grown(50)
            load.stop = True
            await asyncio.gather(*writing)
            events = await everything(ledger)
            written = {recorded.correlation for recorded in events}
            assert load.strange == []
            assert acknowledged < len(load.there)
            assert load.there - written == set()
            assert load.not_there & written == set()
            assert halves(events) == []
            assert (await verification(ledger)).problems == []
            await ledger.close()
        finally:
            server.stop()
