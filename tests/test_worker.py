"""A worker handed records by a test: whatever Kafka brings, or does not, the read models are what the ledger says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from api.cli.failures import ExitCode
from api.cli.main import app
from api.services import projections
from api.workers import supervise
from bench import workload
from domain.kernel import EVENTS, UnknownEvent
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.ledger import Append, Ledger
from infra.opening import open_ledger
from infra.read_models import create_read_models
from infra.tasks import ended
from streams.positions import move, place
from streams.progress import Progress
from streams.relay import stretches
from streams.roster import say, workers
from streams.worker import Arrived, Worker
from tests.support.kernel import unequal

pytestmark = pytest.mark.anyio
OF = 3
ALL = frozenset(range(OF))


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, keystore)
    await create_read_models(database_url, projections())
    yield opened
    await opened.close()


async def write(ledger: Ledger, events: int = 60) -> None:
    await ledger.append(Append(workload.TENANT, workload.ACTOR, workload.History(ledger.head.size).take(events), uuid7()))


async def records(ledger: Ledger, after: int = 0, pack_from: int = 8, of: int = OF) -> list[Arrived]:
    """What a relay sends that has come to `after`, of every partition in turn."""
    events = await ledger.store.read(after, 1_000)
    chains = stretches("topic", ledger.name, pack_from=pack_from).records(events, after, of)
    return [
        Arrived(partition, offset, record.value, record.headers)
        for partition, chain in enumerate(chains)
        for offset, record in enumerate(chain)
    ]


@asynccontextmanager
async def working(ledger: Ledger, dsn: str, own: frozenset[int] = ALL) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    worker = Worker(ledger, dsn, projections(), Progress())
    worker.assign(own, OF)
    task = asyncio.create_task(worker.run())
    try:
        yield worker, task
    finally:
        await ended(task)


async def hand(worker: Worker, given: Sequence[Arrived]) -> None:
    for one in given:
        await worker.offer(one)


async def level(dsn: str, ledger: Ledger, *of: Worker) -> None:
    async with asyncio.timeout(20):
        while any(worker.state.position < ledger.head.size for worker in of):  # noqa: ASYNC110 - it looks at plain attributes
            await asyncio.sleep(0.01)
    assert await unequal(dsn) == []


async def relayed(dsn: str, position: int) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await place(connection, ["relay"], 0)
        await move(connection, ["relay"], position)


@pytest.mark.parametrize("pack_from", [1, 1_000], ids=["packed", "one by one"])
async def test_it_moves_by_what_it_is_handed_and_by_nothing_else(database_url: str, ledger: Ledger, pack_from: int) -> None:
    await write(ledger)
    async with working(ledger, database_url) as (worker, _):
        given = await records(ledger, pack_from=pack_from)
        await hand(worker, given)
        await level(database_url, ledger, worker)
        assert worker.state.refilled == 0
        last = {record.partition: record.offset + 1 for record in given}
        assert worker.committable() == last, "Kafka may be told"
        assert worker.committable() == {}, "once"


async def test_a_hole_is_filled_from_the_ledger(database_url: str, ledger: Ledger) -> None:
    await write(ledger)
    async with working(ledger, database_url) as (worker, _):
        lost = ledger.head.size
        await write(ledger)
        await hand(worker, await records(ledger, after=lost))
        await level(database_url, ledger, worker)
        assert worker.state.refilled == lost


async def test_two_that_share_the_partitions_make_one_read_model(database_url: str, ledger: Ledger) -> None:
    await write(ledger)
    given = await records(ledger, pack_from=1_000)
    async with working(ledger, database_url, frozenset({0, 2})) as (one, _), working(ledger, database_url, frozenset({1})) as (other, _):
        await hand(one, [record for record in given if record.partition != 1])
        await hand(other, [record for record in given if record.partition == 1])
        async with asyncio.timeout(10):
            while await lowest(database_url) < ledger.head.size:  # noqa: ASYNC110 - PostgreSQL is asked
                await asyncio.sleep(0.05)
    assert await unequal(database_url) == []


async def lowest(dsn: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute("SELECT min(position) FROM projections.positions")).fetchone()
    assert row is not None
    return int(row[0])


async def test_what_is_not_ours_or_garbled_is_counted_and_the_ledger_asked(database_url: str, ledger: Ledger) -> None:
    await write(ledger)
    await relayed(database_url, ledger.head.size)
    garbled = [one._replace(value=b"\x00" + (one.value or b"")) for one in await records(ledger)]
    async with working(ledger, database_url) as (worker, _):
        await hand(worker, [*garbled, Arrived(0, 99, None, ())])
        await level(database_url, ledger, worker)
        assert worker.state.bad_records >= len(garbled)
        assert worker.state.refilled == ledger.head.size


async def test_records_dealt_out_among_another_number_of_partitions_are_not_mixed_in(database_url: str, ledger: Ledger) -> None:
    await write(ledger)
    await relayed(database_url, ledger.head.size)
    async with working(ledger, database_url) as (worker, _):
        await hand(worker, await records(ledger, of=OF - 1))
        await level(database_url, ledger, worker)
        assert worker.state.events == 0


async def test_an_event_that_the_ledger_holds_and_nobody_knows_ends_it(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(ledger)
    await relayed(database_url, ledger.head.size)
    given = await records(ledger)
    classes: dict[str, Any] = vars(EVENTS)["_classes"]
    monkeypatch.delitem(classes, "budgets.funds_reserved")
    async with working(ledger, database_url) as (worker, task):
        await hand(worker, given)
        with pytest.raises(UnknownEvent, match=r"budgets\.funds_reserved"):
            async with asyncio.timeout(10):
                await asyncio.shield(task)
        assert worker.state.bad_records > 0
    assert await lowest(database_url) < ledger.head.size


async def test_a_worker_is_on_the_roster_while_it_works(database_url: str, ledger: Ledger) -> None:
    worker = Worker(ledger, database_url, projections()[:1], Progress())
    worker.assign(frozenset({1}), OF)
    task = asyncio.create_task(say(worker, database_url))
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        async with asyncio.timeout(5):
            while not (found := await workers(connection)):  # noqa: ASYNC110 - PostgreSQL is asked
                await asyncio.sleep(0.01)
        assert [(one.id, one.partitions, one.projections) for one in found] == [(worker.id, [1], [projections()[0].name])]
        await ended(task)
        assert await workers(connection) == []


@pytest.mark.parametrize(
    ("line", "kafka", "said"),
    [
        ("worker -n 2", False, "AUREUS_STREAMS: without Kafka one worker moves all read models"),
        ("worker --projection catalog", False, "AUREUS_STREAMS: without Kafka one worker moves all read models"),
        ("worker --projection nix", True, "--projection: there is no projection 'nix'"),
        ("worker --projection catalog --all", True, "--all and --projection exclude each other"),
        ("worker", True, "AUREUS_HOME: no server runs on"),
        ("serve --streams pigeon", False, "AUREUS_STREAMS: 'pigeon' is no way for events to travel"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(tmp_path: Path, line: str, kafka: bool, said: str) -> None:
    environment = {"AUREUS_HOME": str(tmp_path), "AUREUS_STREAMS": "kafka" if kafka else "", "DATABASE_URL": ""}
    result = CliRunner().invoke(app, line.split(), env=environment, prog_name="aureus")
    assert result.exit_code == ExitCode.USAGE
    assert said in result.stderr


async def test_workers_that_could_only_end_again_are_not_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server runs on this home: each says so once, and that is the exit code of all."""
    for name, value in {"AUREUS_HOME": str(tmp_path), "AUREUS_STREAMS": "kafka", "DATABASE_URL": ""}.items():
        monkeypatch.setenv(name, value)
    assert await supervise((), 2) == ExitCode.USAGE
