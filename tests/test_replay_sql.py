"""Replays in the database: equal to what live said then, pleasant to ask, and a place that no SQL gets out of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from commands.access import RegisterActor
from commands.budgets import OpenBudget
from domain.contexts import CONTEXTS
from domain.replays import SavedQuery
from domain.saved_queries import BUILT_IN
from domain.values import ActorKind
from infra import audit_queries
from infra.audit_queries import Question, SqlRefused, run
from infra.auditor_roles import CONNECTIONS_MAX
from infra.embedded import embedded_postgres
from tests.support.kernel import ADM, ANA, ask
from tests.support.replays import AUD, FOREIGN, lived_in, requested
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
NEEDED: Final = {"changes-of-a-stream": {"stream": "dataset:crm.people"}, "dataset-through-time": {"dataset": "crm.people"}}


class June:
    """The replay that the tests of this module ask: of all contexts, up to where the bank had come to before it went on."""

    def __init__(self, aureus: Aureus, row: dict[str, Any]) -> None:
        self.aureus, self.row = aureus, row

    async def ask(self, sql: str | None = None, by: Any = AUD, **body: Any) -> httpx.Response:
        return await self.aureus.post("/v1/replays/june/query", {**({"sql": sql} if sql else {}), **body}, by)

    async def rows(self, sql: str | None = None, **body: Any) -> list[dict[str, Any]]:
        answer = await self.ask(sql, **body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        return [dict(zip((column["name"] for column in found["columns"]), row, strict=True)) for row in found["rows"]]

    async def refused(self, sql: str, **body: Any) -> dict[str, Any]:
        answer = await self.ask(sql, **body)
        assert answer.status_code == 422, answer.text
        error: dict[str, Any] = answer.json()["error"]
        assert error["details"]["remedy"]
        return {"code": error["code"], "message": error["message"], **error["details"]}

    async def dsn(self) -> str:
        """As an auditor logs in with psql."""
        login = await self.aureus.services.scratch.login("acme", "june")
        return make_conninfo(self.aureus.services.dsn, user=login.role, password=login.password)


@pytest.fixture(scope="module")
async def june(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[June]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as aureus:
        until = await lived_in(aureus)
        for path, body in (
            ("/v1/budgets", {"budget_id": "late", "label": "After", "currency": "EUR", "limit_minor": 1}),
            ("/v1/datasets/crm.people/owners", {"owner_id": "usr-adm", "role": "steward"}),
        ):
            assert (await aureus.post(path, body, ADM)).status_code in {200, 201}
        row = await requested(aureus, "june", until=until)
        assert row["status"] == "built", row
        yield June(aureus, row)


# -- what it holds


async def test_it_is_what_live_said_at_that_position_table_by_table(june: June) -> None:
    assert june.row["differing"] == []
    assert {table["context"] for table in june.row["tables"]} == set(CONTEXTS)
    names = [table["table"] for table in june.row["tables"]]
    assert len(set(names)) == len(names), "search_path finds each by its bare name"
    assert "events" not in names
    for path, table, key in (("budgets", "budgets", "budget_id"), ("datasets", "datasets", "dataset_id"), ("actors", "actors", "actor_id")):
        live = (await june.aureus.get(f"/v1/{path}", AUD, as_of=june.row["until"])).json()["items"]
        folded = await june.rows(f"SELECT * FROM {table} ORDER BY {key}")
        assert [row[key] for row in folded] == [row[key] for row in live]
        for was, shown in zip(live, folded, strict=True):
            assert {name: _to_the_point(value) for name, value in was.items()} == {
                name: _to_the_point(value) for name, value in shown.items()
            }


def _to_the_point(value: Any) -> Any:
    """PostgreSQL leaves out the zeros at a time's end."""
    return re.sub(r"\.?0+Z$", "Z", value) if isinstance(value, str) else value


async def test_rows_read_like_the_question_that_was_asked(june: June) -> None:
    assert await june.rows("SELECT dataset_id, owner_ids FROM june_catalog.datasets WHERE 'usr-ana' = ANY(owner_ids)") == [
        {"dataset_id": "crm.people", "owner_ids": ["usr-ana"]}
    ]
    past = await june.rows("SELECT pii_level, from_at <= to_at AS ended, to_position FROM datasets_history ORDER BY from_position")
    assert [row["pii_level"] for row in past] == ["low", "low", "low", "high"]
    assert [row["ended"] for row in past] == [True, True, True, None]
    assert await june.rows("SELECT count(*) AS n, max(position) AS last FROM events") == [
        {"n": june.row["events"], "last": june.row["until"]}
    ]


async def test_every_column_of_every_view_can_be_read_and_needs_no_quotes(june: June) -> None:
    with psycopg.connect(june.aureus.services.dsn) as owner:
        reserved = {word for (word,) in owner.execute("SELECT word FROM pg_get_keywords() WHERE catcode = 'R'").fetchall()}
    for table in june.row["tables"]:
        for name in (table["table"], f"{table['table']}_history"):
            answer = await june.ask(f"SELECT * FROM june_{table['context']}.{name}")
            assert answer.status_code == 200, answer.text
            columns = {column["name"] for column in answer.json()["columns"]}
            assert all(re.fullmatch("[a-z][a-z0-9_]*", column) for column in columns), columns
            assert not columns & reserved


async def test_personal_values_are_in_no_replay(june: June) -> None:
    body = {"contact_name": "Berta Huber", "contact_email": "berta@example.org"}
    assert (await june.aureus.post("/v1/datasets/crm.people/owners/usr-ana/contact", body, ANA)).status_code == 200
    assert (await requested(june.aureus, "whole", contexts=["catalog"]))["status"] == "built"
    answer = await june.aureus.post("/v1/replays/whole/query", {"sql": "SELECT * FROM events WHERE stream = 'dataset:crm.people'"}, AUD)
    assert answer.json()["rows"]
    assert "catalog.owner_contact_recorded" in answer.text
    assert "Berta" not in answer.text
    assert (await june.aureus.post("/v1/replays/whole/drop", {}, AUD)).status_code == 200


@pytest.mark.parametrize("query", BUILT_IN, ids=lambda query: query.query_id)
async def test_every_query_that_came_with_aureus_finds_what_it_is_for(june: June, query: SavedQuery) -> None:
    rows = await june.rows(query=query.query_id, parameters=NEEDED.get(query.query_id, {}))
    expected: dict[str, Any] = {
        "who-approved-what": [{"approver": "usr-app", "decision": "agreed", "requester": "usr-ana", "comment": "Fine"}],
        "own-request-approved": [],
        "changes-of-a-stream": [{"type": "catalog.dataset_registered"}, {"type": "catalog.schema_changed"}, {}, {}],
        "blocked-attempts": [{"actor_id": "usr-ana", "action": "budgets.reserve_funds", "code": "budget_exceeded"}],
        "policies-in-force": [],
        "budgets-by-what-is-left": [{"budget_id": "lake", "percent_left": "10.0"}, {"budget_id": "alp", "percent_left": "100.0"}],
        "personal-data-and-owners": [{"dataset_id": "crm.people", "pii_level": "high"}],
        "dataset-through-time": [{"pii_level": "low"}, {"pii_level": "low"}, {"pii_level": "low"}, {"pii_level": "high"}],
        "agents-stopped": [{"agent_id": "agt-bot", "stopped_by": "usr-adm", "reason": "It runs wild"}],
    }
    if query.query_id in expected:
        shown = [{name: row[name] for name in wanted} for row, wanted in zip(rows, expected[query.query_id], strict=True)]
        assert shown == expected[query.query_id]
    else:
        assert rows
    if {"since", "before"} <= {parameter.name for parameter in query.parameters}:
        assert await june.rows(query=query.query_id, parameters={"before": "2020-01-01"}) == []


async def test_another_tenant_sees_its_own_rows_and_no_others(june: June) -> None:
    services = june.aureus.services
    roles = tuple(FOREIGN.roles)
    await services.path.handle(ask(RegisterActor(actor_id=FOREIGN.actor, kind=ActorKind.PERSON, granted_roles=roles), FOREIGN))
    opened = await services.path.handle(ask(OpenBudget(budget_id="fjord", label="Fjord", currency="NOK", limit_minor=1), FOREIGN))
    await services.wait_for(opened.position)
    row = await requested(june.aureus, "june", FOREIGN, contexts=["access", "budgets"])
    assert row["status"] == "built", row
    assert row["schema_prefix"].startswith("june_")
    assert row["role"] != june.row["role"]
    for sql, expected in (
        ("SELECT budget_id FROM budgets", [["fjord"]]),
        ("SELECT actor_id FROM actors", [["usr-ola"]]),
        ("SELECT DISTINCT actor FROM events", [["usr-ola"]]),
    ):
        answer = await june.ask(sql, by=FOREIGN)
        assert answer.json()["rows"] == expected, answer.text
    refused = await june.ask("SELECT * FROM june_budgets.budgets", by=FOREIGN)
    assert refused.json()["error"]["details"]["sqlstate"] == "42501"
    assert (await june.aureus.get("/v1/query-runs", AUD)).text.count("usr-ola") == 0
    assert (await june.aureus.post("/v1/replays/june/drop", {}, FOREIGN)).status_code == 200
    assert await june.rows("SELECT 1 AS still_there") == [{"still_there": 1}]


async def test_live_rows_that_were_changed_are_found(june: June) -> None:
    change = "UPDATE read_budgets.budgets SET doc = jsonb_set(doc, '{limit_minor}', '%s') WHERE id = 'alp'"
    with psycopg.connect(june.aureus.services.dsn, autocommit=True) as owner:
        owner.execute(change.replace("%s", "999").encode())
        row = await requested(june.aureus, "tampered", contexts=["budgets", "catalog"])
        owner.execute(change.replace("%s", "500").encode())
    assert row["differing"] == ["budgets"]
    answer = await june.aureus.post("/v1/replays/tampered/query", {"sql": "SELECT limit_minor FROM budgets WHERE budget_id = 'alp'"}, AUD)
    assert answer.json()["rows"] == [[500]]
    missing = await june.aureus.post("/v1/replays/tampered/query", {"sql": "SELECT * FROM approvals"}, AUD)
    assert "catalog, budgets" in missing.json()["error"]["details"]["remedy"]
    assert (await june.aureus.post("/v1/replays/tampered/drop", {}, AUD)).status_code == 200


# -- one statement that reads


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT 1; SELECT 2", "42601"),
        ("SELECT 1; DROP SCHEMA june_budgets CASCADE", "42601"),
        ("SELECT 1) TO STDOUT; --", "42601"),
        ("DELETE FROM budgets", "42601"),
        ("SET ROLE aureus", "42601"),
        ("DO 'BEGIN END'", "42601"),
        ("COPY budgets TO PROGRAM 'id'", "42601"),
        ("COMMIT", "42601"),
        ("SELECT 1 INTO fresh", "42601"),
        ("WITH gone AS (DELETE FROM june_budgets.budgets RETURNING 1) SELECT * FROM gone", "0A000"),
        ("SELECT * FROM budgets FOR UPDATE", "42501"),
        ("SELECT * FROM ledger.events", "42501"),
        ("SELECT * FROM vault.keys", "42501"),
        ("SELECT * FROM read_access.actors", "42501"),
        ("SELECT * FROM replays_private.places", "42501"),
        ("SELECT query_to_xml('SELECT * FROM vault.keys', true, true, '')", "42501"),
        ("SELECT query_to_xml('SET ROLE aureus', true, true, '')", None),
        ("SELECT set_config('role', 'aureus_app', false)", "42501"),
        ("SELECT set_config('session_authorization', 'aureus_app', false)", "42501"),
        ("SELECT set_config('transaction_read_only', 'off', false)", "25001"),
        ("SELECT pg_read_file('PG_VERSION')", "42501"),
        ("SELECT pg_ls_dir('.')", "42501"),
        ("SELECT lo_from_bytea(0, 'x')", "42501"),
        ("SELECT pg_advisory_lock(7283643)", "42501"),
        ("SELECT pg_advisory_xact_lock(7283642)", "42501"),
        ("SELECT pg_logical_emit_message(false, 'x', 'x')", "42501"),
        ("SELECT rolpassword FROM pg_authid", "42501"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELEC 1", "42601"),
        ("SELECT 1/0", "22012"),
        ("SELECT $1", "08P01"),
    ],
)
async def test_anything_else_is_refused_with_postgresqls_own_code(june: June, sql: str, sqlstate: str | None) -> None:
    refused = await june.refused(sql)
    assert refused["code"] == "sql_refused"
    assert sqlstate in (None, refused["sqlstate"]), refused
    assert await june.rows("SELECT current_user = session_user AS itself, current_setting('transaction_read_only') AS reads") == [
        {"itself": True, "reads": "on"}
    ]


async def test_a_mistake_is_shown_where_it_is(june: June) -> None:
    refused = await june.refused("SELECT budget_id, limt_minor FROM budgets")
    assert (refused["sqlstate"], refused["character"]) == ("42703", 19)
    assert "limit_minor" in refused["remedy"]


async def test_rows_come_in_pages_and_values_as_json(june: June) -> None:
    numbers = "SELECT n FROM generate_series(1, 5) AS n"
    seen, cursor = [], None
    while True:
        page = (await june.ask(numbers, limit=2, **({"cursor": cursor} if cursor else {}))).json()
        seen.append([row[0] for row in page["rows"]])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [[1, 2], [3, 4], [5]]
    values = (
        "SELECT 1.50::numeric, true, ARRAY['a', 'b'], '{\"a\": [1]}'::jsonb, '2026-03-03 14:00+01'::timestamptz, NULL, '\\x00ff'::bytea"
    )
    assert (await june.ask(values)).json()["rows"] == [["1.50", True, ["a", "b"], {"a": [1]}, "2026-03-03T13:00:00Z", None, "\\x00ff"]]
    assert (await june.ask("SELECT $1::int + $2::int", parameters=[40, "2"])).json()["rows"] == [[42]]
    none = (await june.ask("SELECT budget_id FROM budgets WHERE false")).json()
    assert none["rows"] == []
    assert none["columns"] == [{"name": "budget_id", "type": "text"}]


async def test_time_and_bytes_come_to_an_end(june: June, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_queries, "SECONDS_MAX", 0.3)
    assert (await june.refused("SELECT pg_sleep(20)"))["sqlstate"] == "57014"
    monkeypatch.undo()
    wide = (await june.ask("SELECT repeat('x', 1000000) FROM generate_series(1, 50)")).json()
    assert len(wide["rows"]) == int(wide["next_cursor"]) == 8
    assert (await june.refused("SELECT repeat('x', 9000000)"))["sqlstate"] == "54000"


@pytest.mark.slow
async def test_the_server_that_aureus_brings_along_gives_a_query_so_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_queries, "BACKEND_BYTES_MAX", 128 * 1024 * 1024)
    with embedded_postgres(tmp_path / "postgres") as dsn:
        hungry = Question("SELECT length(string_agg(repeat('x', 1000000), '')) FROM generate_series(1, 300)")
        with pytest.raises(SqlRefused, match="out of memory"):
            await run(dsn, ["pg_catalog"], hungry, own_server=True)
        assert (await run(dsn, ["pg_catalog"], hungry)).rows == [[300_000_000]]


async def test_what_is_sent_amiss_is_said(june: June) -> None:
    async def refused(**body: Any) -> tuple[int, str, str]:
        answer = await june.ask(**body)
        error = answer.json()["error"]
        assert error["details"]["remedy"]
        return answer.status_code, error["code"], error["details"]["field"]

    assert await refused() == (422, "validation_failed", "sql")
    assert await refused(sql="SELECT 1", query="blocked-attempts") == (422, "validation_failed", "sql")
    assert await refused(sql="SELECT '\0'") == (422, "validation_failed", "sql")
    assert await refused(query="unheard-of") == (404, "query_not_found", "query")
    assert await refused(query="changes-of-a-stream") == (422, "validation_failed", "parameters.stream")
    assert await refused(query="blocked-attempts", parameters={"sinc": "1"}) == (422, "validation_failed", "parameters.sinc")
    assert await refused(query="blocked-attempts", parameters=["1"]) == (422, "validation_failed", "parameters")
    assert await refused(sql="SELECT $1", parameters={"a": "1"}) == (422, "validation_failed", "parameters")
    assert await refused(query="blocked-attempts", parameters={"since": "soon"}) == (422, "sql_refused", "sql")
    assert (await june.ask("SELECT 1", by=ANA)).status_code == 403
    nothing = await june.aureus.post("/v1/replays/may/query", {"sql": "SELECT 1"}, AUD)
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "replay_not_found")


async def test_every_run_is_on_record_with_the_hash_of_its_text(june: June) -> None:
    sql = "SELECT budget_id FROM budgets"
    answer = (await june.ask(sql)).json()
    await june.ask("SELECT nothing FROM budgets")
    digest = hashlib.sha256(sql.encode()).hexdigest()
    assert answer["sql_sha256"] == digest
    head = june.aureus.services.ledger.head.size
    (kept,) = (await june.aureus.get("/v1/query-runs", AUD, sql_sha256=digest, at_least=head)).json()["items"]
    assert (kept["replay_id"], kept["run_by"], kept["rows"], kept["sqlstate"]) == ("june", "usr-aud", 2, None)
    (latest, *_) = (await june.aureus.get("/v1/query-runs", AUD, sort="-run_at", limit=1)).json()["items"]
    assert (latest["rows"], latest["sqlstate"]) == (0, "42703")


async def test_a_saved_query_is_asked_by_its_name_until_it_is_retired(june: June) -> None:
    parameter = {"name": "id", "description": "A budget", "default": "alp"}
    body = {
        "query_id": "limits",
        "title": "Limits",
        "sql": "SELECT limit_minor FROM budgets WHERE budget_id = $1",
        "parameters": [parameter],
    }
    saved = await june.aureus.post("/v1/audit-queries", body, AUD)
    assert saved.status_code == 201
    kept = (await june.aureus.get("/v1/audit-queries", AUD, at_least=saved.json()["position"])).json()["items"]
    assert [one["query_id"] for one in kept] == [*(query.query_id for query in BUILT_IN), "limits"]
    assert (await june.ask(query="limits")).json()["rows"] == [[500]]
    assert (await june.ask(query="limits", parameters={"id": "lake"})).json()["rows"] == [[1000]]
    retired = (await june.aureus.post("/v1/audit-queries/limits/retire", {}, AUD)).json()["position"]
    assert (await june.aureus.get("/v1/audit-queries/limits", AUD, at_least=retired)).status_code == 404
    assert (await june.ask(query="limits")).status_code == 404


# -- logging in oneself


async def test_the_password_is_shown_once_and_who_took_it_is_on_record(june: June) -> None:
    first = await june.aureus.post("/v1/replays/june/login", {}, AUD, Idempotency_Key="once")
    assert first.status_code == 200, first.text
    login = first.json()
    with psycopg.connect(make_conninfo(june.aureus.services.dsn, user=login["role"], password=login["password"])) as connection:
        assert connection.execute("SELECT session_user::text, count(*) FROM budgets").fetchone() == (login["role"], 2)
    again = await june.aureus.post("/v1/replays/june/login", {}, ADM)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "login_handed_out")
    row = (await june.aureus.get("/v1/replays/june", AUD, at_least=login["position"])).json()
    assert row["login_handed_to"] == "usr-aud"
    with psycopg.connect(june.aureus.services.dsn) as owner:
        kept = owner.execute("SELECT sealed FROM replays_private.places WHERE replay_id = 'june'").fetchone()
        said = owner.execute("SELECT count(*) FROM ledger.events WHERE position(%s::bytea IN body) > 0", (login["password"].encode(),))
        assert said.fetchone() == (0,)
    assert kept is not None
    assert login["password"].encode() not in kept[0]


async def test_the_role_has_no_right_outside_its_replay_whatever_there_is(june: June) -> None:
    role = june.row["role"]
    with psycopg.connect(june.aureus.services.dsn) as owner:
        schemas = owner.execute(
            "SELECT nspname::text FROM pg_namespace WHERE has_schema_privilege(%s, oid, 'USAGE, CREATE') AND nspname !~ '^pg_'", (role,)
        ).fetchall()
        others = {name for (name,) in schemas if not re.match("(june|replay_june)_[a-z]+$", name)}
        assert others <= {"information_schema", "public"}
        writes = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v', 'p', 'm', 'f') AND relname <> 'pg_settings' "
        writes += "AND has_table_privilege(%s, oid, %s)"
        assert owner.execute(writes, (role, "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER")).fetchall() == []
        member = "SELECT rolname FROM pg_roles WHERE rolname <> %s AND pg_has_role(%s, oid, 'MEMBER')"
        assert owner.execute(member, (role, role)).fetchall() == []
        powers = "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolconnlimit FROM pg_roles WHERE rolname = %s"
        assert owner.execute(powers, (role,)).fetchone() == (False, False, False, False, False, CONNECTIONS_MAX)
        as_owner = "SELECT proname FROM pg_proc WHERE prosecdef AND has_function_privilege(%s, oid, 'EXECUTE') AND pronamespace IN "
        as_owner += "(SELECT oid FROM pg_namespace WHERE has_schema_privilege(%s, oid, 'USAGE'))"
        assert owner.execute(as_owner, (role, role)).fetchall() == []


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO replay_june_budgets.budgets SELECT * FROM replay_june_budgets.budgets",
        "DROP VIEW june_budgets.budgets",
        "CREATE VIEW june_budgets.mine AS SELECT 1",
        "CREATE SCHEMA mine",
        "CREATE TABLE public.mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "SELECT lo_create(0)",
        "SELECT pg_advisory_lock_shared(7283643)",
        "SET ROLE aureus_app",
        "SET SESSION AUTHORIZATION aureus_app",
        "CREATE ROLE mine",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "ALTER SYSTEM SET fsync = off",
        "COPY june_budgets.budgets TO '/tmp/budgets'",
        "COPY june_budgets.budgets TO PROGRAM 'cat'",
        "DO $$ BEGIN PERFORM count(*) FROM vault.keys; END $$",
        "SELECT ledger.position_at(now())",
        "SET temp_file_limit = -1",
        "CREATE FUNCTION june_budgets.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
async def test_with_psql_and_its_limits_thrown_off_it_can_do_no_more(june: June, sql: str) -> None:
    with psycopg.connect(await june.dsn(), autocommit=True) as auditor:
        for freed in ("default_transaction_read_only = off", "statement_timeout = 0", "work_mem = '1GB'"):
            auditor.execute(f"SET {freed}".encode())
        with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedTable)):
            auditor.execute(sql.encode())


async def test_no_more_than_a_few_log_in_at_once(june: June) -> None:
    dsn = await june.dsn()
    taken: list[psycopg.Connection[Any]] = []
    try:
        taken += [psycopg.connect(dsn) for _ in range(CONNECTIONS_MAX)]
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(dsn)
        answer = await june.ask("SELECT 1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replay_not_reached")
    finally:
        for connection in taken:
            connection.close()
