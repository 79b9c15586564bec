"""Behind the condition that every query bears stands a wall: without the condition, still nobody sees anything of another tenant."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import psycopg
import pytest
from psycopg import errors

from api.cli.entries import entries_after
from api.cli.failures import ExitCode, Failure
from api.services import projections
from commands.budgets import OpenBudget
from domain.kernel import Asker
from domain.values import Role
from infra.envelope import entry_bytes
from infra.operations_settings import Operations
from infra.read_models import create_read_models
from infra.read_queries import EVERY_TENANT, ListQuery, Reads
from infra.read_tables import schema_name
from infra.rebuild import rebuild
from infra.row_security import ReaderConnection
from infra.schema import create_schema
from infra.settings_error import SettingsError
from projections.budgets import PROJECTION as BUDGETS
from projections.budgets import budgets
from projections.engine import OPEN
from tests.conftest import fresh_database
from tests.support.kernel import ask, quiet
from tests.support.running import Aureus, running
from tests.test_api import refused

pytestmark = [pytest.mark.anyio, pytest.mark.postgres15]
EVE: Final = Asker("usr-eve", "acme", frozenset(Role) - {Role.AGENT})
ZOE: Final = Asker("usr-zoe", "zeta", frozenset(Role) - {Role.AGENT})
THEIRS: Final = "their-lake"
_CONDITION: Final = re.compile(r"[\w.]*\btenant = (%(?:\(\w+\))?[sb])(?:::\w+)?")


@pytest.fixture(scope="module")
async def aureus(postgres_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    """Two tenants in one ledger: each has a budget of its own, and one whose id the other has as well."""
    with fresh_database(postgres_url) as dsn:
        async with running(dsn, tmp_path_factory.mktemp("home")) as served:
            await settled(served)
            yield served


async def settled(served: Aureus) -> None:
    position = 0
    for by, budget_id in ((EVE, "our-lake"), (EVE, "both"), (ZOE, THEIRS), (ZOE, "both")):
        command = OpenBudget(budget_id=budget_id, label=f"of {by.actor}", currency="EUR", limit_minor=100)
        position = (await served.services.path.handle(ask(command, by))).position
    await served.services.wait_for(position)
    await served.know(EVE)


def without_conditions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From here on no query asks for a tenant: each is as if its author had forgotten to. Returns those it was taken out of."""
    fetch, forgetful = Reads.fetch, []

    async def fetched(self: Reads, query: str, arguments: Any, **more: Any) -> Any:
        forgotten, found = _CONDITION.subn(r"\1::text IS NOT NULL", query)
        if found:
            forgetful.append(query)
        return await fetch(self, forgotten, arguments, **more)

    monkeypatch.setattr(Reads, "fetch", fetched)
    return forgetful


def without_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    read_for = ReaderConnection.read_for
    monkeypatch.setattr(ReaderConnection, "read_for", lambda self, _tenant: read_for(self, EVERY_TENANT))


async def everything_told(aureus: Aureus) -> dict[str, str]:
    """What reads answer Eve, who may read everything of her tenant: path -> text."""
    end = (await aureus.services.ledger.refresh()).size
    paths = [
        "/v1/budgets", f"/v1/budgets?as_of={end}", "/v1/budgets?currency=EUR", f"/v1/budgets?currency=EUR&as_of={end}",
        "/v1/budgets?q=lake", f"/v1/budgets/{THEIRS}", f"/v1/budgets/{THEIRS}?as_of={end}", "/v1/actions",
        f"/v1/timeline/budget/{THEIRS}", "/v1/timeline/budget/both", f"/v1/diff?from=0&to={end}", "/v1/ledger/events?limit=500",
        "/v1/audit/anomalies", "/v1/exports", "/v1/replays", "/v1/streams", "/v1/projections",
    ]  # fmt: skip
    return {path: (await aureus.get(path, EVE)).text for path in paths}


async def test_with_the_condition_forgotten_nothing_of_another_tenant_is_seen(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = without_conditions(monkeypatch)
    for path, text in (await everything_told(aureus)).items():
        assert ZOE.actor not in text, path
    assert len({query.partition("FROM")[2][:40] for query in forgetful}) > 4
    refused(await aureus.get(f"/v1/budgets/{THEIRS}", EVE), 404, "budget_not_found")
    refused(await aureus.get(f"/v1/timeline/budget/{THEIRS}", EVE), 404, "budget_not_found")
    ids = [row["budget_id"] for row in (await aureus.get("/v1/budgets", EVE)).json()["items"]]
    assert ids == ["both", "our-lake"]


async def test_without_the_wall_the_forgotten_condition_would_have_told(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    without_conditions(monkeypatch)
    without_walls(monkeypatch)
    told = await everything_told(aureus)
    for path in ("/v1/budgets", "/v1/budgets?currency=EUR", f"/v1/timeline/budget/{THEIRS}", "/v1/actions", f"/v1/budgets/{THEIRS}"):
        assert ZOE.actor in told[path], path


@asynccontextmanager
async def reader(dsn: str) -> AsyncIterator[ReaderConnection]:
    connection = await ReaderConnection.connect(dsn, autocommit=True)
    try:
        await connection.take_role()
        yield connection
    finally:
        await connection.close()


async def seen(connection: ReaderConnection, table: str) -> set[str]:
    return {row[0] for row in await (await connection.execute(f"SELECT DISTINCT tenant FROM {table}")).fetchall()}


async def test_a_connection_sees_the_tenant_it_was_told_and_nobody_before(aureus: Aureus) -> None:
    async with reader(aureus.services.dsn) as connection:
        for tenant, visible in ((None, set()), ("zeta", {"zeta"}), ("acme", {"acme"}), ("nobody", set()), ("", set())):
            await connection.read_for(tenant)
            for table in ("read_budgets.budgets", "read_evidence.actions", "ledger.events"):
                assert await seen(connection, table) == visible, (tenant, table)
        assert await (await connection.execute("SELECT ledger.position_at(now())")).fetchone() == (
            (await aureus.services.ledger.refresh()).size,
        )


FORBIDDEN: Final = (
    "INSERT INTO ledger.events SELECT * FROM ledger.events",
    "UPDATE read_budgets.budgets SET doc = '{}'",
    "SELECT * FROM vault.keys",
    "SELECT * FROM vault.disclosures",
    "SELECT * FROM ledger.requests",
    "SELECT * FROM access_private.passwords",
    "SELECT sealed FROM replays_private.places",
    "ALTER TABLE read_budgets.budgets DISABLE ROW LEVEL SECURITY",
)


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_a_reader_may_do_nothing_else(shared_reader: ReaderConnection, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        await shared_reader.execute(statement.encode())


@pytest.fixture
async def shared_reader(shared_database_url: str) -> AsyncIterator[ReaderConnection]:
    async with await psycopg.AsyncConnection.connect(shared_database_url, autocommit=True) as owner:
        await create_schema(shared_database_url)
        await create_read_models(shared_database_url, projections())
        await owner.execute("CREATE SCHEMA IF NOT EXISTS access_private")
        await owner.execute("CREATE TABLE IF NOT EXISTS access_private.passwords (tenant text)")
    async with reader(shared_database_url) as connection:
        yield connection


async def walls(dsn: str) -> dict[str, bool]:
    asked = """
        SELECT n.nspname || '.' || c.relname, c.relrowsecurity FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname ~ '^(read|build)_'
    """
    async with await psycopg.AsyncConnection.connect(dsn) as owner:
        return dict(await (await owner.execute(asked)).fetchall())


async def test_every_read_table_has_its_wall_and_one_that_was_made_before_there_were_walls_gets_it(
    shared_reader: Any, shared_database_url: str
) -> None:
    dsn = shared_database_url
    expected = {f"{schema_name(projection.name)}.{read.name}" for projection in projections() for read in projection.tables}
    assert await walls(dsn) == dict.fromkeys(expected, True)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        await owner.execute("ALTER TABLE read_budgets.budgets DISABLE ROW LEVEL SECURITY; DROP POLICY tenants ON read_budgets.budgets")
    await create_read_models(dsn, projections())
    assert await walls(dsn) == dict.fromkeys(expected, True)


async def test_a_rebuild_puts_the_wall_around_what_it_swaps_in(aureus: Aureus) -> None:
    built = await rebuild(aureus.services.dsn, BUDGETS, swap=True, accept_changes=False, progress=quiet)
    assert built.swapped
    assert all((await walls(aureus.services.dsn)).values())
    async with reader(aureus.services.dsn) as connection:
        assert await seen(connection, "read_budgets.budgets") == set()
        await connection.read_for("zeta")
        assert await seen(connection, "read_budgets.budgets") == {"zeta"}
    assert len((await aureus.get("/v1/budgets", EVE)).json()["items"]) == 2


class Answered:
    """The command line's connection to a server that has answered already."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def one(self, _path: str, **_asked: Any) -> Any:
        return self._body


async def test_entries_of_other_tenants_are_withheld_and_proofs_go_on(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (await aureus.services.ledger.refresh()).size
    stored = await aureus.services.ledger.entries(0, size)
    entries = [entry_bytes(event.body, event.signatures) for event in stored]
    shown = [entry and base64.b64decode(entry) for entry in (await aureus.get("/v1/ledger/entries", EVE)).json()["entries"]]
    assert shown == [None if event.tenant == "zeta" else entry for event, entry in zip(stored, entries, strict=True)]
    assert None in shown
    with pytest.raises(Failure, match="holds another tenant's event") as told:
        entries_after(Answered((await aureus.get("/v1/ledger/entries", EVE)).json()), 0, size)  # type: ignore[arg-type]
    assert told.value.exit_code == ExitCode.NOT_ALLOWED
    theirs = next(event for event in stored if event.tenant == "zeta").position
    proof = (await aureus.get("/v1/proofs/inclusion", EVE, position=theirs)).json()
    assert base64.b64decode(proof["leaf"]) == stored[theirs - 1].leaf
    refused(await aureus.get(f"/v1/log/tile/entries/000.p/{size}", EVE), 403, "outside_tenant")
    assert (await aureus.get("/v1/log/tile/entries/000.p/3", EVE)).status_code == 200, "the founding keys are everybody's"
    monkeypatch.setitem(vars(aureus.services.settings), "operations", Operations(operator_tenant="acme"))
    assert None not in (await aureus.get("/v1/ledger/entries", EVE)).json()["entries"]
    bundle = (await aureus.get(f"/v1/log/tile/entries/000.p/{size}", EVE)).content
    assert bundle == b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


async def test_a_tenant_that_is_not_the_callers_is_answered_nowhere(aureus: Aureus) -> None:
    zoes = {"x-tenant": "zeta", "tenant": "zeta"}
    for path in (f"/v1/budgets/{THEIRS}", f"/v1/budgets/{THEIRS}?tenant=zeta", f"/v1/zeta/budgets/{THEIRS}", "/v1/tenants/zeta/budgets"):
        answer = await aureus.http.get(path, headers={"Authorization": f"Bearer {aureus.services.tokens.issue(EVE)}", **zoes})
        assert answer.status_code in (404, 422), path
        assert ZOE.actor not in answer.text
    body = {"budget_id": "new", "label": "New", "currency": "EUR", "limit_minor": 1, "tenant": "zeta"}
    assert (await aureus.post("/v1/budgets", body, EVE)).status_code == 422
    assert (await aureus.post(f"/v1/budgets/{THEIRS}/close", {}, EVE)).status_code in (404, 409)


# -- what it costs

ROWS: Final = 4_000


async def filled(dsn: str, table: str, doc: str, *, versions: int = 1) -> None:
    """Rows of two tenants, all open; `versions` before each that have ended."""
    insert = f"""
        INSERT INTO {table} SELECT CASE n % 2 WHEN 0 THEN 'acme' ELSE 'zeta' END, 'row-' || n, n + 10 * v,
            CASE v WHEN {versions} THEN {OPEN} ELSE n + 10 * (v + 1) END, {doc}
        FROM generate_series(1, {ROWS}) AS n, generate_series(1, {versions}) AS v
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        await owner.execute(insert.encode())
        await owner.execute(f"ANALYZE {table}".encode())


async def plan(connection: ReaderConnection, statement: tuple[str, dict[str, Any]]) -> str:
    rows = await (await connection.execute(f"EXPLAIN (COSTS off) {statement[0]}", statement[1], prepare=False)).fetchall()
    return "\n".join(row[0] for row in rows)


FILTERS: Final = (
    ("read_approvals.approvals", "approvals", "approvals", "jsonb_build_object('requester', 'usr-' || n)", {"requester": "usr-42"}),
    ("read_catalog.datasets", "catalog", "datasets", "jsonb_build_object('tags', jsonb_build_array('t' || n))", {"tags": ["t42"]}),
    ("read_subjects.holds", "subjects", "holds", "jsonb_build_object('everybody', n = 42)", {"everybody": "true"}),
)


@pytest.mark.parametrize(("table", "context", "kind", "doc", "where"), FILTERS)
@pytest.mark.parametrize("past", [False, True], ids=["now", "then"])
async def test_a_filtered_list_uses_its_index_behind_the_wall(
    shared_reader: ReaderConnection,
    shared_database_url: str,
    table: str,
    context: str,
    kind: str,
    doc: str,
    where: dict[str, Any],
    past: bool,
) -> None:
    if not past:
        await filled(shared_database_url, table, doc, versions=3)
    await shared_reader.read_for("acme")
    reads = Reads(shared_database_url, projections())
    read = next(read for projection in projections() for read in projection.tables if (projection.name, read.name) == (context, kind))
    shown = await plan(shared_reader, reads._pages[id(read)].listing("acme", ListQuery(where), 5_000 if past else None))
    (name,) = where
    assert f"{kind}_{name}" in shown, shown
    assert re.search(rf"Index Cond: .*doc ->>? '{name}'", shown), shown
    assert "Seq Scan on" not in shown.replace("Seq Scan on span", ""), shown
    if past and read.history == "short":
        assert f"{kind}_spans" in shown, shown
        assert re.search(r"Index Cond: .*from_position", shown), shown


async def test_one_row_is_one_look_into_an_index(shared_reader: ReaderConnection, shared_database_url: str) -> None:
    await filled(shared_database_url, "read_budgets.budgets", "jsonb_build_object('currency', 'EUR')")
    reads = Reads(shared_database_url, projections())
    for past, index in ((False, "budgets_open"), (True, "budgets_key")):
        query = reads._one_row(budgets, past, with_stream=False, narrowed=False)
        shown = await plan(shared_reader, (query, {"tenant": "acme", "id": "row-42", "as_of": 5_000}))
        assert re.search(rf"Index Scan .*using {index}", shown), shown
        assert re.search(r"Index Cond: .*tenant = 'acme'.*id = 'row-42'", shown), shown


# -- where the database's user is nobody special


async def test_an_owner_who_may_not_make_roles_is_told_the_lines_to_run(database_url: str) -> None:
    user = "plain_owner"
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    plain = psycopg.conninfo.make_conninfo(database_url, user=user, password="plain")
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as server:
        await server.execute(f"CREATE ROLE {user} LOGIN NOSUPERUSER PASSWORD 'plain'; ALTER DATABASE \"{name}\" OWNER TO {user}".encode())
        try:
            with pytest.raises(SettingsError) as told:
                await create_schema(plain)
            for role in ("aureus_app", "aureus_reader"):
                assert f"GRANT {role} TO <user> WITH ADMIN OPTION" in told.value.remedy
                await server.execute(f"GRANT {role} TO {user} WITH ADMIN OPTION".encode())
            await create_schema(plain)
            await create_read_models(plain, projections())
            reads = Reads(plain, projections())
            await reads.open()
            await server.execute(
                "INSERT INTO read_budgets.budgets SELECT t, 'one', 1, %s, '{}' FROM unnest(ARRAY['acme', 'zeta']) AS t", (OPEN,)
            )
            assert await reads.fetch("SELECT tenant FROM read_budgets.budgets", (), tenant="zeta") == [("zeta",)]
            page = await reads.page(budgets, "acme", ListQuery({"currency": "null"}))
            assert [orjson.loads(document) for document in page.documents] == [{}]
            await reads.close()
        finally:
            await server.execute(f"REASSIGN OWNED BY {user} TO CURRENT_USER; DROP OWNED BY {user}; DROP ROLE {user}".encode())
