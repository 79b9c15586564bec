"""Attacks on a running Aureus, one section per threat of docs/threat-model.md: each fails, and is on record where it became a command."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import psycopg
import pytest

from api.app import create_app
from api.services import open_services
from domain.budgets import FundsReserved
from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.adoption import ensure_policies
from infra.policy import DEFAULT_BUNDLE
from infra.settings import Settings
from tests.support.kernel import ADM, ANA, APP, BEN, everything, written
from tests.support.running import CALM, Aureus, running
from tests.test_house import api_routes

pytestmark = pytest.mark.anyio

APP2: Final = Asker("usr-app2", "acme", frozenset({Role.APPROVER}))
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
ALLOW_ALL: Final = """package aureus

import rego.v1

verdict := {"outcome": "allow", "results": [{"policy": "all", "outcome": "allow"}]}
"""


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# -- approval bypass

FRANCS: Final = "/v1/budgets/alp/reserve"
SIXTY: Final = {"amount_minor": 60}


@pytest.fixture
async def alp(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    """An Aureus with a budget in francs, of which a reservation takes an approver."""
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(ADM, ANA, BEN, APP, AUD)
        assert (await aureus.post("/v1/budgets", budget("alp", "CHF"), ADM)).status_code == 201
        yield aureus


def budget(budget_id: str, currency: str) -> dict[str, Any]:
    return {"budget_id": budget_id, "label": budget_id, "currency": currency, "limit_minor": 1_000}


async def reserved(aureus: Aureus) -> int:
    return sum(isinstance(recorded.event, FundsReserved) for recorded in await everything(aureus.services.ledger))


async def approved(aureus: Aureus, by: Asker = ANA) -> str:
    """The approval of 60 francs, asked for by one and given by another."""
    parked = await aureus.post(FRANCS, SIXTY, by)
    assert parked.status_code == 202, parked.text
    approval_id: str = parked.json()["approval_id"]
    assert (await aureus.post(f"/v1/approvals/{approval_id}/approve", {}, APP)).status_code == 200
    return approval_id


async def test_no_approval_of_any_kind_but_the_right_one_lets_an_action_through(alp: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def with_approval(approval_id: str, by: Asker = ANA, body: Any = SIXTY) -> tuple[int, str]:
        return refusal(await alp.post(FRANCS, body, by, Aureus_Approval=approval_id))

    assert await with_approval("made-up") == (404, "approval_not_found")
    pending = (await alp.post(FRANCS, SIXTY, ANA)).json()["approval_id"]
    assert await with_approval(pending) == (409, "approval_not_granted")
    good = await approved(alp)
    assert await with_approval(good, BEN) == (409, "not_the_requester")
    assert await with_approval(good, ANA, {"amount_minor": 61}) == (409, "approval_is_for_another_action")
    voided = await approved(alp)
    assert (await alp.post(f"/v1/approvals/{voided}/void", {"reason": "A mistake"}, ADM)).status_code == 200
    assert await with_approval(voided) == (409, "approval_voided")
    with monkeypatch.context() as later:
        later.setattr("api.asking.now", lambda: datetime.now(UTC) + timedelta(days=4))
        assert await with_approval(good) == (409, "approval_expired")
    assert await reserved(alp) == 0
    assert (await alp.post(FRANCS, SIXTY, ANA, Aureus_Approval=good)).status_code == 201
    assert await with_approval(good) == (409, "approval_used")
    assert await reserved(alp) == 1


async def test_an_approval_is_neither_used_nor_made_by_a_request(alp: Aureus) -> None:
    """Using one is the command path's own affair, and consent is an event of an approver: there is no door to either."""
    pending = (await alp.post(FRANCS, SIXTY, ANA)).json()["approval_id"]
    for path in (f"/v1/approvals/{pending}/use", "/v1/approvals/use_approval", f"/v1/approvals/{pending}/grant"):
        assert (await alp.post(path, {"approval_id": pending, "action_digest": "0" * 64}, ADM)).status_code in {404, 405}, path
    forged = {
        "approval_id": "forged",
        "description": "60 francs",
        "command": "budgets.reserve_funds",
        "inputs": {"budget_id": "alp", **SIXTY},
    }
    for field, value in (("status", "approved"), ("agreed", {"usr-app": ["approver"]}), ("decisions", []), ("requester", "usr-ben")):
        assert refusal(await alp.post("/v1/approvals", {**forged, field: value}, ANA)) == (422, "validation_failed"), field
    assert (await alp.post("/v1/approvals", {**forged, "approver_roles": ["analyst"]}, ANA)).status_code == 201
    assert (await alp.post("/v1/approvals/forged/approve", {}, BEN)).status_code == 200
    assert refusal(await alp.post(FRANCS, SIXTY, ANA, Aureus_Approval="forged")) == (409, "approval_too_weak")
    assert refusal(await alp.post(f"/v1/approvals/{pending}/approve", {"on_behalf_of": APP.actor}, ANA))[1] == "approver_is_requester"
    assert await reserved(alp) == 0


async def test_headers_say_nothing_beyond_what_they_are_for(alp: Aureus) -> None:
    good = await approved(alp)
    identity = alp._identity(ANA)
    token = {name.encode(): value.encode() for name, value in identity.items()}
    injected = (b"x\r\nAureus-Approval: ", b"x\n", b"x, ", b" ", b"approval:", b"../", b"'; --", b"%0d%0a", b"\xff")
    for prefix in injected:
        answer = await alp.http.post(FRANCS, headers={**token, b"Aureus-Approval": prefix + good.encode()}, json={"amount_minor": 61})
        assert answer.status_code in {202, 404, 409, 422}, (prefix, answer.text)
    twice = [*identity.items(), ("Aureus-Approval", "made-up"), ("Aureus-Approval", good)]
    assert (await alp.http.post(FRANCS, headers=twice, json={"amount_minor": 61})).status_code in {404, 409, 422}
    for name in ("X-Roles", "X-Forwarded-User", "Aureus-Actor", "Aureus-Tenant", "X-Original-URL", "X-HTTP-Method-Override"):
        assert (await alp.post(FRANCS, SIXTY, BEN, **{name: "usr-app; admin"})).status_code == 202, name
    assert refusal(await alp.http.post("/v1/budgets/alp/fund", headers={**identity, "X-Roles": "admin"}, json=SIXTY))[1] == "role_missing"
    assert await reserved(alp) == 0


# -- policy circumvention


@asynccontextmanager
async def governed(dsn: str | None, home: Path, **environment: str) -> AsyncIterator[Aureus]:
    """An Aureus started in an environment, with the policies adopted as a start does it."""
    named = Settings.from_environment({"AUREUS_HOME": str(home), "AUREUS_TENANT": "acme", "AUREUS_DEMO": "off", **environment})
    async with open_services(replace(named, database_url=dsn, **CALM)) as services:
        await ensure_policies(services)
        app = create_app(services=services)
        app.state.services = services
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            yield Aureus(services, http)


def people(dataset_id: str) -> dict[str, Any]:
    return {"dataset_id": dataset_id, "name": "People", "domain": "crm", "pii_level": "high", "jurisdiction": "EU"}


async def test_policies_that_changed_on_disk_or_in_the_environment_change_nothing_that_is_in_force(
    database_url: str, tmp_path: Path
) -> None:
    home, folder = tmp_path / "home", tmp_path / "policies"
    shutil.copytree(DEFAULT_BUNDLE, folder)
    async with governed(database_url, home, AUREUS_POLICIES=str(folder)) as aureus:
        await aureus.know(ADM, ANA)
        assert (await aureus.post("/v1/datasets", people("one"), ANA)).status_code == 202
        version = await aureus.services.path.policy_version("acme")
    for file in folder.glob("*"):
        file.unlink()
    elsewhere = written(tmp_path / "elsewhere", ALLOW_ALL)
    for number, given in enumerate((written(folder, ALLOW_ALL), elsewhere)):
        async with governed(database_url, home, AUREUS_POLICIES=str(given)) as aureus:
            assert (await aureus.post("/v1/datasets", people(f"more{number}"), ANA)).status_code == 202
            assert await aureus.services.path.policy_version("acme") == version


def gate(findings: str) -> dict[str, Any]:
    """The policy on much personal data in other words, with a test that agrees."""
    head = "package aureus\n\nimport rego.v1\n\n"
    test = "test_the_gate_answers if is_array(pii_onboarding({}))\n"
    return {"files": {"pii_onboarding.rego": f"{head}pii_onboarding(_) := {findings}\n", "pii_onboarding_test.rego": head + test}}


async def test_a_policy_that_allows_everything_fails_the_tests_of_the_others(database_url: str, tmp_path: Path) -> None:
    async with governed(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM)
        allowing = gate('[{"policy": "pii_onboarding", "outcome": "allow", "reason": "Go ahead."}]')
        change = (await aureus.post("/v1/policies/push", allowing, ADM)).json()["change"]
        assert (await aureus.post("/v1/policies/test", change, ADM)).json()["failed"] > 0
        assert refusal(await aureus.post("/v1/policies/activate", change, ADM)) == (409, "policy_tests_failed")


async def test_one_person_alone_puts_no_policy_in_force(database_url: str, tmp_path: Path) -> None:
    async with governed(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM, ANA, APP, APP2)
        before = await aureus.services.path.policy_version("acme")
        change = (await aureus.post("/v1/policies/push", gate("[]"), ADM)).json()["change"]
        assert refusal(await aureus.post("/v1/policies/activate", change, ADM)) == (409, "policies_untested")
        assert (await aureus.post("/v1/policies/test", change, ADM)).json()["failed"] == 0
        assert refusal(await aureus.post("/v1/policies/activate", change, ADM)) == (409, "impact_not_analysed")
        assert (await aureus.post("/v1/policies/impact", change, ADM)).status_code == 200
        parked = await aureus.post("/v1/policies/activate", change, ADM)
        assert (parked.status_code, parked.json()["quorum"]) == (202, 2), parked.text
        approval_id = parked.json()["approval_id"]
        own = await aureus.post(f"/v1/approvals/{approval_id}/approve", {}, ADM)
        assert refusal(own) == (409, "approver_is_requester")
        assert (await aureus.post(f"/v1/approvals/{approval_id}/approve", {}, APP)).status_code == 200
        one_yes = await aureus.post("/v1/policies/activate", change, ADM, Aureus_Approval=approval_id)
        assert refusal(one_yes) == (409, "approval_not_granted")
        assert await aureus.services.path.policy_version("acme") == before
        assert (await aureus.post("/v1/datasets", people("still"), ANA)).status_code == 202


# -- data exfiltration

RUNAWAY: Final = ALLOW_ALL.replace(
    'verdict := {"outcome": "allow"',
    """verdict := {"outcome": "block", "results": [{"policy": "runaway", "outcome": "block", "reason": "Too many."}]} if {
	input.recent > 64
} else := {"outcome": "allow\"""",
)


async def test_a_runaway_is_stopped_by_a_policy_and_nobody_else_is(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, RUNAWAY) as aureus:
        await aureus.know(ADM, ANA, BOT)
        assert (await aureus.post("/v1/budgets", budget("b", "EUR"), ADM)).status_code == 201
        # Of so many, at least 65 fall into one minute, whenever it begins.
        answers = [await aureus.post("/v1/budgets/b/reserve", {"amount_minor": 1}, BOT) for _ in range(129)]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert refused
        assert {refusal(answer) for answer in refused} == {(403, "policy_blocked")}
        assert (await aureus.post("/v1/budgets/b/reserve", {"amount_minor": 1}, ANA)).status_code == 201
        seen = {"outcome": "blocked", "actor_id": BOT.actor, "at_least": aureus.services.ledger.head.size}
        assert (await aureus.get("/v1/actions", ADM, **seen)).json()["items"]


# -- SQL injection

NASTY: Final = (
    "' OR '1'='1",
    "'; DROP SCHEMA ledger CASCADE; --",
    "x') UNION SELECT body::text FROM ledger.events --",
    "\\'; SELECT pg_sleep(9); --",
    "%' AND 1=CAST((SELECT version()) AS int) --",
    "doc->>'x' DESC, (SELECT 1)",
    "position; --",
    "$1 %s %(tenant)s :tenant {tenant}",
    "\0\ud7ff\uffff",
    "-1",
    "9" * 40,
    "0001-01-01T00:00:00+14:00",
)
SLOW: Final = {"/v1/policies/conflicts", "/v1/decisions/replay"}
"""Each such question starts a process of its own: a few are enough."""
FEEDS: Final = {"/v1/feeds/changes", "/v1/feeds/events"}
"""What they answer never ends; what they refuse, tests/test_feeds.py tells."""
GETS: Final = sorted({route.path for route in api_routes() if "GET" in (route.methods or ()) and route.include_in_schema})
POSTS: Final = sorted({route.path for route in api_routes() if "POST" in (route.methods or ()) and "{" in route.path})


@pytest.fixture(scope="module")
async def bank(tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    """An Aureus on a database of its own, with something in it."""
    async with governed(None, tmp_path_factory.mktemp("home")) as aureus:
        await aureus.know(ADM, ANA, APP, AUD, BOT)
        dataset = {**people("crm.people"), "pii_level": "none"}
        for path, body in (("/v1/budgets", budget("lake", "EUR")), ("/v1/datasets", dataset)):
            answer = await aureus.post(path, body, ADM)
            assert answer.status_code == 201, answer.text
        await aureus.services.wait_for(aureus.services.ledger.head.size)
        yield aureus


def data_of(aureus: Aureus) -> dict[str, Any]:
    """How many rows every table of the ledger, the vault and the read models holds, and a hash of them."""
    told = {}
    with psycopg.connect(aureus.services.dsn) as connection:
        names = r"SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname ~ '^(ledger$|vault$|read_)'"
        for (table,) in connection.execute(names).fetchall():
            query = f"SELECT count(*), md5(string_agg(held::text, '|' ORDER BY held::text)) FROM {table} AS held"
            told[table] = connection.execute(query.encode()).fetchone()
    return told


@cache
def described() -> dict[str, Any]:
    return create_app().openapi()


def parameters_of(path: str) -> list[str]:
    operation, shared = described()["paths"][re.sub(r":path}", "}", path)]["get"], described()["components"]["parameters"]
    own = [shared[said["$ref"].rpartition("/")[2]] if "$ref" in said else said for said in operation.get("parameters", ())]
    return [parameter["name"] for parameter in own if parameter["in"] == "query"]


def naming(path: str, value: str) -> str:
    """The path with this in place of every parameter."""
    return re.sub(r"{\w+(:\w+)?}", lambda _: quote(value, safe=""), path)


async def answered(bank: Aureus, path: str, **parameters: str) -> httpx.Response | None:
    """None for a feed that has begun to tell: it took its parameters, and never ends."""
    try:
        async with asyncio.timeout(0.2 if path in FEEDS else None):
            return await bank.get(path, AUD, **parameters)
    except TimeoutError:
        return None


@pytest.mark.parametrize("path", GETS)
async def test_no_parameter_of_a_read_is_ever_code(bank: Aureus, path: str) -> None:
    before = data_of(bank)
    for nasty in NASTY[:2] if path in SLOW or path in FEEDS else NASTY:
        answers = [await answered(bank, naming(path, nasty))]
        answers += [await answered(bank, naming(path, "x"), **{name: nasty}) for name in parameters_of(path)]
        for answer in answers:
            if answer is None:
                continue
            assert answer.status_code < 500, (answer.url, answer.text)
            assert "psycopg" not in answer.text
            assert "syntax error" not in answer.text
    assert data_of(bank) == before


@pytest.mark.parametrize(
    ("path", "column"), [("/v1/budgets", "status"), ("/v1/datasets", "domain"), ("/v1/actors", "kind"), ("/v1/actions", "actor_id")]
)
async def test_a_filter_is_compared_and_not_carried_out(bank: Aureus, path: str, column: str) -> None:
    """Had the text become part of the query, it would find every row."""
    assert (await bank.get(path, ADM)).json()["items"]
    for nasty in NASTY[:6]:
        for name in (column, "q"):
            assert (await bank.get(path, ADM, **{name: nasty})).json()["items"] == [], (name, nasty)


@pytest.mark.parametrize("path", POSTS)
async def test_no_id_in_a_command_is_ever_code(bank: Aureus, path: str) -> None:
    tables = data_of(bank).keys()
    for nasty in NASTY:
        answer = await bank.post(naming(path, nasty), {}, ADM)
        assert answer.status_code < 500, (answer.url, answer.text)
    assert data_of(bank).keys() == tables
