"""`as_of_read`, `growth` and `storage`: what the past costs - to read, as the ledger grows, and to keep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import psycopg
from psycopg import sql

from api.services import open_services, projections
from bench import workload
from bench.aureus import Server, serving
from bench.bulk import Importer, history
from bench.lab import Lab
from bench.load import put_load, render
from bench.measure import Figure, Goal, Sample
from domain.values import uuid7
from infra.demo import ensure_demo
from infra.ledger import Append, StreamWrite
from infra.read_models import create_read_models
from infra.read_queries import ListQuery, Reads
from infra.read_tables import create_table, index_statements, schema_name
from infra.rebuild import rebuild_all
from infra.settings import Settings
from projections.budgets import budgets, reservations
from projections.engine import OPEN
from projections.evidence import actions

SMALL_EVENTS: Final = 50_000
LARGE_EVENTS: Final = 1_000_000
MOMENTS: Final = 20
APPENDS: Final = 1_000
READS: Final = 200
_LANE: Final = 3
_SIZE: Final = """
    SELECT sum(pg_total_relation_size(table_.oid)) FROM pg_class table_ JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND nspname {}
"""
READ: Final = {
    "row": [f"/v1/budgets/lake-{_LANE}.ingest", f"/v1/reservations/reservation-{_LANE}-1"],
    "list": ["/v1/budgets", "/v1/reservations", "/v1/actions"],
    "filtered": [f"/v1/budgets?root_id=lake-{_LANE}", "/v1/reservations?status=held", "/v1/actions?outcome=blocked"],
}
"""The same reads of the present and of the past: of rows that change all the time and once, of lists, and of lists with filters."""


@dataclass(frozen=True)
class World:
    """A ledger with its read models, and where its keys are."""

    dsn: str
    home: Path
    events: int


def _world(events: int) -> Callable[[Lab], World]:
    @contextmanager
    def made(lab: Lab) -> Iterator[World]:
        home = lab.subfolder("home")
        with lab.database("past") as dsn:
            lab.run(_fill(home, dsn, events))
            yield World(dsn, home, events)

    return lambda lab: lab.keep(f"world-{events}", made)


async def _fill(home: Path, dsn: str, events: int) -> None:
    """Founds it with the demo's logins, adds a history, and builds the read models at once instead of following."""
    async with open_services(Settings(home, database_url=dsn, tenant=workload.TENANT), run_projections=False) as services:
        await ensure_demo(services)
        await Importer(services.ledger, history()).add(events)
    await create_read_models(dsn, projections())
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("UPDATE projections.positions SET position = (SELECT size FROM ledger.head)")
        await rebuild_all(dsn, projections(), swap=True, accept_changes=True, progress=_silently)
        await connection.execute("VACUUM ANALYZE")


async def _silently(_phase: str, _done: int, _total: int) -> None:
    pass


def _moments(world: World) -> list[int]:
    """Positions from early on to just now."""
    return [world.events * number // MOMENTS for number in range(1, MOMENTS + 1)]


@contextmanager
def past_reads(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Over HTTP, one request at a time, by turns: each kind of read as of twenty moments, and of the present."""
    world = _world(lab.scaled(LARGE_EVENTS))(lab)
    folder = lab.subfolder("load")
    with serving(world.home, world.dsn, settings={"AUREUS_TENANT": workload.TENANT}) as server:

        def one_round() -> Sample:
            return {f"{kind}_ratio": _ratio(server, world, paths, folder, lab.round_seconds) for kind, paths in READ.items()}

        yield one_round


def _ratio(server: Server, world: World, paths: list[str], folder: Path, seconds: float) -> float:
    token = server.bearer()
    now = [render("GET", path, token) for path in paths]
    past = [render("GET", f"{path}{'&' if '?' in path else '?'}as_of={moment}", token) for moment in _moments(world) for path in paths]
    took = {
        name: put_load(server.port, asked, folder, connections=1, seconds=seconds)["mean_ms"]
        for name, asked in (("now", now), ("past", past))
    }
    return took["past"] / took["now"]


@contextmanager
def growing(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """A thousand appends, 64 in flight, and reads of the past: on the large ledger, beside the same on a small one."""
    worlds = {"small": _world(lab.scaled(SMALL_EVENTS))(lab), "large": _world(lab.scaled(LARGE_EVENTS))(lab)}

    async def one_round() -> Sample:
        appends = {name: await _appending_ms(world) for name, world in worlds.items()}
        reads = {name: await _reading_ms(world) for name, world in worlds.items()}
        return {"append_ratio": appends["large"] / appends["small"], "as_of_ratio": reads["large"] / reads["small"]}

    yield lambda: lab.run(one_round())


async def _appending_ms(world: World) -> float:
    settings = Settings(world.home, database_url=world.dsn, tenant=workload.TENANT)
    async with open_services(settings, run_projections=False) as services:
        numbers = iter(range(APPENDS))

        async def write() -> None:
            for number in numbers:
                write = StreamWrite(f"budget:grown-{uuid7()}", 0, (workload.reserved(number, 0),), fresh=True)
                await services.ledger.append(Append(workload.TENANT, workload.ACTOR, (write,), uuid7()))

        started = time.perf_counter()
        await asyncio.gather(*(write() for _ in range(64)))
        return (time.perf_counter() - started) * 1_000 / APPENDS


async def _reading_ms(world: World) -> float:
    """The median of reads of a busy row, a page and a filtered page, each as of moments all over the ledger."""
    reads = Reads(world.dsn, projections())
    await reads.open()
    held, blocked = ListQuery({"status": "held"}), ListQuery({"outcome": "blocked"})
    times: list[float] = []
    for number in range(READS):
        moment = _moments(world)[number % MOMENTS]
        started = time.perf_counter()
        await reads.get(budgets, workload.TENANT, f"lake-{_LANE}.ingest", moment)
        await reads.page(budgets, workload.TENANT, ListQuery(), moment)
        await reads.page(reservations, workload.TENANT, held, moment)
        await reads.page(actions, workload.TENANT, blocked, moment)
        times.append(time.perf_counter() - started)
    await reads.close()
    return median(times) * 1_000


@contextmanager
def keeping(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Bytes on disk for each event, indexes included: the ledger's, and what the history of the read models adds to them."""
    world = _world(lab.scaled(LARGE_EVENTS))(lab)

    with psycopg.connect(world.dsn, autocommit=True) as connection:
        raw = _one(connection, "SELECT sum(octet_length(body) + octet_length(signatures) + octet_length(leaf)) FROM ledger.events")
        events = _one(connection, "SELECT size FROM ledger.head")
        ledger, models = _one(connection, _SIZE.format("= 'ledger'")), _one(connection, _SIZE.format("LIKE 'read\\_%'"))
        history = models - _present_bytes(connection)
    kept = {
        "ledger_bytes": ledger / events,
        "ledger_share": ledger / raw,
        "history_bytes": history / events,
        "history_share": history / ledger,
    }
    yield lambda: kept  # no round would find anything else


def _one(connection: psycopg.Connection, query: str) -> float:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return float(row[0])


def _present_bytes(connection: psycopg.Connection) -> float:
    """What the read models would take if they knew the present alone."""
    connection.execute("CREATE SCHEMA present")
    total = 0.0
    for projection in projections():
        for read in projection.tables:
            kept, table = sql.Identifier("present", read.name), sql.Identifier(schema_name(projection.name), read.name)
            for statement in create_table("present", read):
                connection.execute(statement.encode())
            connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM {} WHERE to_position = {}").format(kept, table, sql.Literal(OPEN)))
            for statement in index_statements("present", read):
                connection.execute(statement.encode())
            total += _one(connection, f"SELECT pg_total_relation_size('present.{read.name}')")
    connection.execute("DROP SCHEMA present CASCADE")
    return total


FIGURES: Final = (
    Figure(
        "as_of_read",
        ours=past_reads,
        goals=tuple(Goal(1.0, f"{kind}_ratio", "x the present (mean)", 1.3, "lower", name=kind) for kind in READ),
    ),
    Figure(
        "growth",
        ours=growing,
        goals=(
            Goal(1.0, "append_ratio", "x 50,000 events", 1.2, "lower", name="append"),
            Goal(1.0, "as_of_ratio", "x 50,000 events (p50)", 1.2, "lower", name="as_of"),
        ),
    ),
    Figure(
        "storage",
        ours=keeping,
        goals=(
            Goal(1_000.0, "ledger_bytes", "bytes/event", 1.5, "lower", name="ledger"),
            Goal(1.0, "ledger_share", "x the bytes signed and kept", 1.5, "lower", name="ledger_share"),
            Goal(1_000.0, "history_bytes", "bytes/event", 1.0, "lower", name="history"),
            Goal(1.0, "history_share", "x the ledger", 1.0, "lower", name="history_share"),
        ),
    ),
)
