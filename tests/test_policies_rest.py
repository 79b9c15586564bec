"""The life of a policy over REST, end to end: adopted, pushed, tested, analysed, approved, in force, rolled back - and replayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.services import open_services
from commands.policies import AdoptDefaults
from domain.kernel import Asker
from domain.values import Role
from infra.adoption import ensure_policies
from infra.policy import DEFAULT_BUNDLE
from infra.policy_sets import STREAM
from infra.settings import Settings
from tests.support.kernel import ADM, ANA, APP, ask
from tests.support.running import Aureus

pytestmark = pytest.mark.anyio

APP2 = Asker("usr-app2", "acme", frozenset({Role.APPROVER}))
VIEWER = Asker("usr-vic", "acme", frozenset({Role.VIEWER}))
STRICTER = """# Sales opens no budgets in francs.
package aureus

import rego.v1

francs(question) := [finding |
	question.facts.currency == "CHF"
	finding := {"policy": "francs", "outcome": "block", "reason": "No francs."}
]
"""
TESTS = """package aureus

import rego.v1

test_francs_are_blocked if count(francs({"facts": {"currency": "CHF"}})) == 1

test_euros_are_not if francs({"facts": {"currency": "EUR"}}) == []
"""


@pytest.fixture(scope="module")
async def aureus(tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    """An Aureus with the shipped policies, adopted, and who is needed to change them."""
    async with open_services(Settings(home=tmp_path_factory.mktemp("home"), tenant="acme", demo=False)) as services:
        await ensure_policies(services)
        app = create_app(services=services)
        app.state.services = services
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            opened = Aureus(services, http)
            await opened.know(ADM, ANA, APP, APP2, VIEWER)
            yield opened


async def answered(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


async def read(aureus: Aureus, path: str, **parameters: Any) -> Any:
    """What the read models say once they know all that is in the ledger."""
    await aureus.services.wait_for(aureus.services.ledger.head.size)
    return await answered(await aureus.get(path, ADM, **parameters))


async def open_budgets(aureus: Aureus, currency: str, count: int, prefix: str) -> list[int]:
    statuses = []
    for number in range(count):
        body = {"budget_id": f"{prefix}{number}", "label": "B", "currency": currency, "limit_minor": 100}
        statuses.append((await aureus.post("/v1/budgets", body, APP)).status_code)
    return statuses


async def approved(aureus: Aureus, path: str, body: Any, evidence: str = "") -> httpx.Response:
    """Asks as the administrator; where the policies want it approved, has two others approve it and asks again."""
    asked = await aureus.post(path, body, ADM, Aureus_Evidence=evidence)
    if asked.status_code != 202:
        return asked
    approval_id = asked.json()["approval_id"]
    for approver in (APP, APP2)[: asked.json()["quorum"]]:
        await answered(await aureus.post(f"/v1/approvals/{approval_id}/approve", {}, approver))
    return await aureus.post(path, body, ADM, Aureus_Approval=approval_id)


async def in_force(aureus: Aureus) -> dict[str, int]:
    listed = await read(aureus, "/v1/policies", status="in_force", limit=200)
    return {row["policy_id"]: row["version"] for row in listed["items"]}


async def test_the_life_of_a_policy(aureus: Aureus) -> None:
    adopted = await in_force(aureus)
    assert {path.stem for path in DEFAULT_BUNDLE.glob("*.rego") if not path.stem.endswith("_test")} <= adopted.keys()
    assert await open_budgets(aureus, "CHF", 3, "early") == [201] * 3
    files = {"francs.rego": STRICTER, "francs_test.rego": TESTS}

    dry = await answered(await aureus.post("/v1/policies/push", {"files": files, "dry_run": True}, ANA))
    assert [(item["policy_id"], item["status"], item["version"]) for item in dry["policies"]] == [("francs", "new", None)]
    assert "+francs(question)" in dry["policies"][0]["diff"]
    assert dry["change"]["activate"] == []
    assert await in_force(aureus) == adopted

    pushed = await answered(await aureus.post("/v1/policies/push", {"files": files}, ANA))
    change = pushed["change"]
    assert change == {"activate": [{"policy_id": "francs", "version": 1}], "retire": []}
    again = await answered(await aureus.post("/v1/policies/push", {"files": files}, ANA))
    assert [(item["status"], item["version"]) for item in again["policies"]] == [("proposed", 1)]

    refused = await answered(await aureus.post("/v1/policies/activate", change, ADM), 409)
    assert refused["error"]["code"] == "policies_untested"
    tested = await answered(await aureus.post("/v1/policies/test", change, ANA))
    assert (tested["failed"], tested["problems"]) == (0, [])
    assert {"aureus/test_francs_are_blocked", "aureus/test_euros_are_not"} <= {test["name"] for test in tested["tests"]}
    refused = await answered(await aureus.post("/v1/policies/activate", change, ADM), 409)
    assert refused["error"]["code"] == "impact_not_analysed"

    impact = await answered(await aureus.post("/v1/policies/impact", change, ANA))
    assert impact["flips"] == [{"before": "allow", "after": "block", "count": 3}]
    assert {(item["action"], item["before"], item["after"], item["why"]) for item in impact["differences"]} == {
        ("budgets.open_budget", "allow", "block", "francs: No francs.")
    }

    activated = await answered(await approved(aureus, "/v1/policies/activate", change))
    assert await in_force(aureus) == {**adopted, "francs": 1}
    pack = await read(aureus, f"/v1/evidence/{activated['action_id']}")
    assert {tested["report"], impact["report"], impact["rollback_plan"]} <= set(pack["artifacts"])
    assert await open_budgets(aureus, "CHF", 2, "late") == [403] * 2
    assert await open_budgets(aureus, "EUR", 1, "late-eur") == [201]

    replayed = await answered(await aureus.get("/v1/decisions/replay", ADM))
    assert (replayed["under"], replayed["different"], replayed["differences"]) == ("recorded", 0, [])
    assert replayed["asked_again"] > 10

    await back_to_the_start(aureus, adopted)


async def back_to_the_start(aureus: Aureus, adopted: dict[str, int]) -> None:
    steps = await read(aureus, "/v1/policy-steps", event="defaults_adopted")
    to_version = steps["items"][0]["stream_version"]
    impact = await answered(await aureus.post("/v1/policies/impact", {"to_version": to_version}, ANA))
    assert impact["flips"] == [{"before": "block", "after": "allow", "count": 2}]
    back = {"entity_type": "policy", "entity_id": "active", "to_version": to_version}
    rolled_back = await answered(await approved(aureus, "/v1/rollbacks", back, f"{impact['report']}, {impact['rollback_plan']}"))
    assert [event["type"] for event in rolled_back["events"]] == ["policies.policies_rolled_back"]
    assert await in_force(aureus) == adopted
    assert await open_budgets(aureus, "CHF", 1, "after") == [201]
    replayed = await answered(await aureus.get("/v1/decisions/replay", ADM))
    assert replayed["different"] == 0


async def test_the_tests_of_a_stream_of_policies_are_told_by_the_past(aureus: Aureus) -> None:
    """As of a position, the policies are those of that time."""
    before = aureus.services.ledger.head.size
    body = {"policy_id": "later", "type": "access", "title": "Later", "rule": {"outcome": "block", "reason": "Later."}}
    await answered(await aureus.post("/v1/policies", body, ANA), 201)
    assert (await read(aureus, "/v1/policies", q="later"))["items"][0]["status"] == "proposed"
    assert (await read(aureus, "/v1/policies", q="later", as_of=before))["items"] == []
    shown = await read(aureus, "/v1/policy-versions/later@1")
    assert (shown["rule"]["reason"], shown["status"]) == ("Later.", "proposed")


async def test_the_shipped_folder_says_what_is_in_force(aureus: Aureus) -> None:
    files = {path.name: path.read_text() for path in (*DEFAULT_BUNDLE.glob("*.rego"), DEFAULT_BUNDLE / "data.json")}
    pushed = await answered(await aureus.post("/v1/policies/push", {"files": files}, ANA))
    assert {item["status"] for item in pushed["policies"]} == {"in_force"}
    assert {item["diff"] for item in pushed["policies"]} == {""}
    assert pushed["change"] == {"activate": [], "retire": []}


@pytest.mark.parametrize(
    ("rego", "problem"),
    [
        ("package aureus\n\nimport rego.v1\n\nbad(question) := [\n", "bad.rego"),
        ("package aureus\n\nimport rego.v1\n\nbad(question) := http.send({})\n", "`http.send` is neither defined here"),
        ("package aureus\n\nimport rego.v1\n\nbad(question) := verdict with input as question\n", "`with` is not allowed"),
        ("package aureus\n\nimport rego.v1\n\nbad(question) := []\n", "no test mentions `bad`"),
    ],
)
async def test_what_does_not_compile_or_has_no_test_is_on_record_and_never_in_force(aureus: Aureus, rego: str, problem: str) -> None:
    body = {"policy_id": "bad", "type": "access", "title": "Bad", "rego": rego}
    proposed = await answered(await aureus.post("/v1/policies", body, ANA), 201)
    version = proposed["events"][0]["data"]["version"]
    change = {"activate": [{"policy_id": "bad", "version": version}]}
    tested = await answered(await aureus.post("/v1/policies/test", change, ANA))
    assert tested["failed"] >= 1
    assert any(problem in found for found in tested["problems"]), tested["problems"]
    assert (await read(aureus, f"/v1/policy-versions/bad@{version}"))["status"] == "failed"
    await aureus.post("/v1/policies/impact", change, ANA)
    refused = await answered(await aureus.post("/v1/policies/activate", change, ADM), 409)
    assert refused["error"]["code"] == "policy_tests_failed"
    entry = await read(aureus, f"/v1/actions/{refused['error']['details']['action_id']}")
    assert (entry["outcome"], entry["code"]) == ("blocked", "policy_tests_failed")


async def test_nobody_can_say_by_a_request_that_tests_passed(aureus: Aureus) -> None:
    body = {"policy_id": "x", "type": "access", "title": "X", "rule": {"outcome": "block", "reason": "X."}, "passed": 1}
    assert (await aureus.post("/v1/policies", body, ADM)).status_code == 422
    change = {"activate": [{"policy_id": "x", "version": 1}], "failed": 0}
    for path in ("test", "impact", "activate"):
        assert (await aureus.post(f"/v1/policies/{path}", change, ADM)).status_code == 422
    paths = {route.path for route in aureus.http._transport.app.routes}  # type: ignore[attr-defined]
    assert not any("record" in path for path in paths if "polic" in path)


async def test_a_change_of_what_is_not_there_is_refused_before_anything_runs(aureus: Aureus) -> None:
    change = {"activate": [{"policy_id": "nobody", "version": 1}]}
    for path in ("test", "impact"):
        refused = await answered(await aureus.post(f"/v1/policies/{path}", change, ADM), 404)
        assert refused["error"]["code"] == "policy_not_found"
    refused = await answered(await aureus.post("/v1/policies/push", {"files": {"A.rego": "x"}}, ADM), 422)
    assert refused["error"]["code"] == "policies_refused"
    assert refused["error"]["details"]["problems"][0]["path"] == "A.rego:1"
    candidate = {"files": {"x.rego": "package aureus\n\nx(question) := [\n"}}
    refused = await answered(await aureus.post("/v1/decisions/replay", candidate, ADM), 422)
    assert refused["error"]["code"] == "policies_refused"


async def test_who_may_examine_and_who_may_not(aureus: Aureus) -> None:
    for path in ("/v1/policies/conflicts", "/v1/decisions/replay"):
        assert (await aureus.get(path, VIEWER)).status_code == 403
    body = {"policy_id": "x", "type": "access", "title": "X", "rule": {"outcome": "block", "reason": "X."}}
    assert (await aureus.post("/v1/policies", body, APP)).status_code == 403
    assert (await aureus.post("/v1/policies/activate", {"activate": [{"policy_id": "x", "version": 1}]}, ANA)).status_code == 403


async def test_conflicts_in_force_are_told_with_an_example(aureus: Aureus) -> None:
    found = await answered(await aureus.get("/v1/policies/conflicts", ADM))
    pairs = {(conflict["kind"], *conflict["policies"]) for conflict in found["conflicts"]}
    assert ("held", "baseline_allow", "pii_onboarding") in pairs
    for conflict in found["conflicts"]:
        assert conflict["example"]["question"]["action"]


async def test_defaults_are_adopted_once_whoever_starts(aureus: Aureus) -> None:
    size = aureus.services.ledger.head.size
    await asyncio.gather(*(ensure_policies(aureus.services) for _ in range(3)))
    assert aureus.services.ledger.head.size == size
    shipped = await aureus.services.ledger.read_stream("acme", STREAM)
    again = AdoptDefaults(policies=({"policy_id": "x", "type": "shared", "title": "X", "data": {"x": 1}},))  # type: ignore[arg-type]
    outcome = await aureus.services.path.handle(ask(again, ADM))
    assert (outcome.outcome, outcome.code) == ("blocked", "defaults_adopted")
    assert len(await aureus.services.ledger.read_stream("acme", STREAM)) == len(shipped)


LOOPS = """# Closing a budget is thought about for ever.
package aureus

import rego.v1

broods(question) := [finding |
	some i in numbers.range(1, 4000)
	some j in numbers.range(1, 4000)
	i * j == -1
	finding := {"policy": "broods", "outcome": "allow", "reason": "At last."}
]
"""
LOOPS_TEST = """package aureus

import rego.v1

test_broods_is_named if count("broods") == 6
"""


async def test_a_policy_that_loops_refuses_what_it_looks_at_on_record_and_nothing_else(aureus: Aureus) -> None:
    """Its tests pass and it was approved all the same: the engine kills it at work, each time, and the rest goes on."""
    body = {"policy_id": "broods", "type": "access", "title": "Broods", "rego": LOOPS, "tests": LOOPS_TEST}
    await answered(await aureus.post("/v1/policies", {**body, "scope": {"actions": ["budgets.close_budget"]}}, ANA), 201)
    change = {"activate": [{"policy_id": "broods", "version": 1}]}
    assert (await answered(await aureus.post("/v1/policies/test", change, ANA)))["failed"] == 0
    await answered(await aureus.post("/v1/policies/impact", change, ANA))
    await answered(await approved(aureus, "/v1/policies/activate", change))
    assert await open_budgets(aureus, "EUR", 1, "brood") == [201]
    for _ in range(2):
        refused = await answered(await aureus.post("/v1/budgets/brood0/close", {}, APP), 403)
        assert refused["error"]["code"] == "policy_blocked"
        entry = await read(aureus, f"/v1/actions/{refused['error']['details']['action_id']}")
        assert (entry["outcome"], entry["policyResults"][0]) == ("blocked", {"policy": "engine", "outcome": "block", "reason": "timeout"})
        assert (await aureus.post("/v1/budgets/brood0/fund", {"amount_minor": 1}, APP)).status_code == 200
    retire = {"retire": ["broods"]}
    assert (await answered(await aureus.post("/v1/policies/test", retire, ANA)))["failed"] == 0
    await answered(await aureus.post("/v1/policies/impact", retire, ANA))
    retired = await approved(aureus, "/v1/policies/broods/retire", {})
    assert retired.status_code == 200, retired.text
    assert (await aureus.post("/v1/budgets/brood0/close", {}, APP)).status_code == 200
