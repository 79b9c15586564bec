"""A list as of a position is what the rows that held then say, whichever way the history of its table is found."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.budgets import BudgetOpened
from domain.kernel import Recorded
from domain.values import uuid7
from infra.read_history import sources
from infra.read_models import create_read_models
from infra.read_queries import ListQuery, Reads
from infra.read_rows import encode
from infra.read_tables import table_of
from projections.engine import OPEN, Folding, Projection, ProjectionError, ReadTable, read_row

pytestmark = pytest.mark.postgres15
LAST = 400


@read_row
class Thing:
    """A row with a field of each kind."""

    name: str | None
    size: int | None
    flag: bool
    tags: list[str]


table_of_things = partial(ReadTable, row=Thing, filters=("name", "size", "flag", "tags"), sorts=("name", "size"), search=("name",))
SHORT: ReadTable[Thing] = table_of_things("short")
ENDING: ReadTable[Thing] = table_of_things("ending", ends=True)
LONG: ReadTable[Thing] = table_of_things("long", history="long")
BUSY: ReadTable[Thing] = table_of_things("busy", history="busy")
ONCE: ReadTable[Thing] = table_of_things("once", immutable=True)
TABLES = (SHORT, LONG, ENDING, BUSY, ONCE)
THINGS = Projection("things", TABLES)

things = st.builds(
    Thing,
    name=st.sampled_from([None, "a", "b%", "c_"]),
    size=st.sampled_from([None, 0, 5, 70]),
    flag=st.booleans(),
    tags=st.lists(st.sampled_from(["x", "y"]), unique=True),
)
WANTED: dict[str, list[Any]] = {"name": ["a", "null", ["a", "b%"]], "size": ["5", ["0", "70"]], "flag": ["true"], "tags": ["x", ["x", "y"]]}
Version = tuple[str, int, int, Thing]


@st.composite
def histories(draw: st.DrawFn, table: ReadTable[Thing]) -> list[Version]:
    """(id, from, to, row) of every version of up to six rows."""
    versions = []
    for number in range(draw(st.integers(1, 6))):
        most = 1 if table.immutable else 8
        changes = sorted(draw(st.sets(st.integers(1, LAST), min_size=1, max_size=most)))
        for since, until in zip(changes, [*changes[1:], OPEN], strict=True):
            gone = table.ends and draw(st.booleans()) and until != OPEN
            versions.append((f"row-{number}", since, since + max(1, (until - since) // 2) if gone else until, draw(things)))
    return versions


@st.composite
def questions(draw: st.DrawFn) -> ListQuery:
    where: dict[str, Any] = {}
    for name, values in WANTED.items():
        if draw(st.integers(0, 3)) == 0:
            where[name] = draw(st.sampled_from(values))
    sort = draw(st.sampled_from([None, "name", "-name", "size", "-size"]))
    return ListQuery(where, sort, draw(st.sampled_from([None, None, "%"])), draw(st.integers(1, 3)))


def expected(versions: list[Version], asked: ListQuery, position: int) -> list[str]:
    """The ids that are to come, in order, by the words of the documentation alone."""

    def matches(row: Thing) -> bool:
        for name, value in asked.where.items():
            wanted = value if isinstance(value, list) else [value]
            has = getattr(row, name)
            found = set(has) if isinstance(has, list) else {"null" if has is None else str(has).lower()}
            if not found & set(wanted):
                return False
        return asked.search is None or asked.search in (row.name or "")

    def place(row: Thing) -> Any:
        if asked.sort is None:
            return 0
        value = getattr(row, asked.sort.removeprefix("-"))
        return value if value is not None else -1 if asked.sort.endswith("size") else ""

    held = [(place(row), row_id) for row_id, since, until, row in versions if since <= position < until and matches(row)]
    return [row_id for _, row_id in sorted(held, reverse=bool(asked.sort and asked.sort.startswith("-")))]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def reads(shared_database_url: str, runner: asyncio.Runner) -> Iterator[Reads]:
    made = Reads(shared_database_url, [THINGS])
    runner.run(create_read_models(shared_database_url, [THINGS]))
    runner.run(made.open())
    yield made
    runner.run(made.close())


def put(dsn: str, table: ReadTable[Thing], versions: list[Version]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE read_things.{table.name}".encode())
        rows = [("acme", row_id, since, until, encode(row).decode()) for row_id, since, until, row in versions]
        rows += [("other", row_id, since, until, encode(row).decode()) for row_id, since, until, row in versions[:2]]
        cursor.executemany(f"INSERT INTO read_things.{table.name} VALUES (%s, %s, %s, %s, %s::jsonb)".encode(), rows)


async def listed(reads: Reads, table: ReadTable[Thing], asked: ListQuery, position: int | None) -> list[tuple[str | None, Any]]:
    """Every page of a list, one after another."""
    found: list[Any] = []
    while True:
        page = await reads.page(table, "acme", asked, position)
        found += map(orjson.loads, page.documents)
        if page.next_cursor is None:
            return found
        asked = ListQuery(asked.where, asked.sort, asked.search, asked.limit, page.next_cursor)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_lists_of_the_past(shared_database_url: str, runner: asyncio.Runner, reads: Reads, table: ReadTable[Thing]) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(versions=histories(table), asked=questions(), positions=st.lists(st.integers(0, LAST), min_size=1, max_size=4))
    def holds(versions: list[Version], asked: ListQuery, positions: list[int]) -> None:
        put(shared_database_url, table, versions)
        rows = {(row_id, since): orjson.loads(encode(row)) for row_id, since, _, row in versions}
        for position in (*positions, versions[0][1], None):
            moment = LAST if position is None else position
            ids = expected(versions, asked, moment)
            at = {row_id: rows[row_id, since] for row_id, since, until, _ in versions if since <= moment < until}
            assert runner.run(listed(reads, table, asked, position)) == [at[row_id] for row_id in ids], (asked, position)
            assert runner.run(reads.many(table, "acme", [*at, "nobody"], position)) == at
            everything = ListQuery(asked.where)
            assert runner.run(reads.count(table, "acme", asked.where, position)) == len(expected(versions, everything, moment))

    holds()


def test_each_kind_of_table_finds_its_past_in_its_own_way() -> None:
    ways = {
        table.name: [len(sources(table, table_of("read_things", table.name), past=True, first_of_all=first)) for first in (True, False)]
        for table in TABLES
    }
    assert ways == {"short": [1, 2], "long": [1, 2], "ending": [1, 2], "busy": [1, 1], "once": [1, 1]}


def plan_of(connection: psycopg.Connection, reads: Reads, table: ReadTable[Thing], asked: ListQuery, as_of: int | None) -> str:
    statement, arguments = reads._pages[id(table)].listing("acme", asked, as_of)
    plan = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), arguments).fetchone()
    assert plan is not None
    return orjson.dumps(plan[0]).decode()


def test_the_past_of_many_changes_is_found_by_its_index(shared_database_url: str, reads: Reads) -> None:
    """Not by reading the table: a hundred thousand versions came and went since."""
    create = """
        INSERT INTO read_things.short
        SELECT 'acme', 'row-' || row, step * 100 + row, CASE WHEN step = 999 THEN %s ELSE step * 100 + row + 100 END,
            '{"name": "a", "size": 5, "flag": true, "tags": []}' FROM generate_series(1, 100) AS row, generate_series(0, 999) AS step
    """
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE read_things.short")
        connection.execute(create, (OPEN,))
        connection.execute("ANALYZE read_things.short")
        plan = plan_of(connection, reads, SHORT, ListQuery({"flag": "true"}, "name"), 500)
    assert "short_spans" in plan
    assert "Seq Scan" not in plan


def test_a_filter_that_leaves_few_rows_is_found_by_them_and_one_that_leaves_most_by_walking(shared_database_url: str, reads: Reads) -> None:
    create = """
        INSERT INTO read_things.once SELECT 'acme', 'row-' || lpad(row::text, 6, '0'), row, %s,
            jsonb_build_object('name', CASE WHEN row %% 1000 = 0 THEN 'b%%' ELSE 'a' END, 'size', 5, 'flag', true, 'tags', '[]'::jsonb)
        FROM generate_series(1, 20000) AS row
    """
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE read_things.once")
        connection.execute(create, (OPEN,))
        connection.execute("ANALYZE read_things.once")
        for as_of in (None, 15_000):
            assert "once_name" in plan_of(connection, reads, ONCE, ListQuery({"name": "b%"}), as_of)
            assert "once_key" in plan_of(connection, reads, ONCE, ListQuery({"name": "a"}), as_of)


def test_a_row_that_ends_although_its_table_is_not_said_to() -> None:
    table: ReadTable[Thing] = ReadTable("lasting", Thing)
    table.on(BudgetOpened)(lambda row, _recorded, _row_id: None if row else Thing("a", 1, True, []))
    folding = Folding(Projection("lasting", (table,)), {})
    event = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=1)
    at = datetime(2026, 3, 3, tzinfo=UTC)
    events = [Recorded(number, "acme", "budget:lake", number, uuid7(), at, "usr-ana", uuid7(), None, event) for number in (1, 2)]
    with pytest.raises(ProjectionError, match="whose rows are not said to end"):
        folding.fold(events)
