"""Why somebody can do something, or cannot: the verdict of the command path, every step of it, and nothing asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from commands.access import SuspendActor
from commands.duties import DefineRule
from commands.grants import GrantRole
from commands.groups import AddMember, CreateGroup, MapRoles
from domain.kernel import Asker, Command
from domain.values import Role
from tests.support.kernel import ADM, ANA, APP, ask
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
EVE: Final = Asker("usr-eve", "acme", frozenset({Role.VIEWER}))
SUE: Final = Asker("usr-sue", "acme", frozenset({Role.ANALYST}))


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as opened:
        await opened.know(ADM, ANA, APP, AUD, EVE, SUE)
        for budget_id, currency in (("lake", "EUR"), ("swiss", "CHF"), ("zoo", "EUR")):
            body = {"budget_id": budget_id, "label": "L", "currency": currency, "limit_minor": 100}
            assert (await opened.post("/v1/budgets", body, ADM)).status_code == 201
        yield opened


async def done(aureus: Aureus, command: Command, by: Asker = ADM) -> int:
    outcome = await aureus.services.path.handle(ask(command, by))
    assert outcome.outcome == "allowed", outcome
    await aureus.services.wait_for(outcome.position)
    return outcome.position


async def why(aureus: Aureus, by: Asker, command: str, entity: str | None = None, /, *, actor: str | None = None, **fields: Any) -> Any:
    as_of = {"as_of": fields.pop("as_of")} if "as_of" in fields else {}
    asked = {"command": f"budgets.{command}", "entity": entity, "actor": actor, "fields": json.dumps(fields) if fields else None, **as_of}
    answer = await aureus.get("/v1/why", by, **{name: value for name, value in asked.items() if value is not None})
    assert answer.status_code == 200, answer.text
    return answer.json()


def step(told: Any, name: str) -> Any:
    return next(one for one in told["steps"] if one["step"] == name)


def verdicts(told: Any) -> dict[str, str]:
    return {one["step"]: one["verdict"] for one in told["steps"]}


async def test_what_is_allowed_passes_every_step_and_nothing_was_asked(aureus: Aureus) -> None:
    size = (await aureus.services.ledger.refresh()).size
    told = await why(aureus, ANA, "reserve_funds", "lake", amount_minor=5)
    assert (told["verdict"], told["stream"], told["remedies"]) == ("allowed", "budget:lake", [])
    assert set(verdicts(told).values()) == {"passed"}
    assert step(told, "policies")["details"]["said"][0]["policy"] == "rest"
    assert step(told, "roles")["details"]["held"] == [{"role": "analyst", "way": "own"}]
    assert (await aureus.services.ledger.refresh()).size == size, "a question is no action"


@pytest.mark.parametrize(
    ("by", "entity", "amount", "failed", "code"),
    [
        (ANA, "lake", 500, "rules", "budget_exceeded"),
        (ANA, "nowhere", 1, "rules", "budget_not_found"),
        (EVE, "lake", 1, "roles", "role_missing"),
    ],
)
async def test_it_says_what_the_command_itself_says(aureus: Aureus, by: Asker, entity: str, amount: int, failed: str, code: str) -> None:
    told = await why(aureus, by, "reserve_funds", entity, amount_minor=amount)
    asked = await aureus.post(f"/v1/budgets/{entity}/reserve", {"amount_minor": amount}, by)
    refused = asked.json()["error"]
    assert (told["verdict"], step(told, failed)["verdict"], step(told, failed)["details"]["code"]) == ("blocked", "failed", code)
    assert (refused["code"], refused["message"], [refused["details"]["remedy"]]) == (code, step(told, failed)["message"], told["remedies"])
    order = list(verdicts(told).values())
    at = order.index("failed")
    assert set(order[:at]) <= {"passed"}
    assert set(order[at + 1 :]) <= {"not_reached"}


async def test_a_policy_that_wants_an_approval_names_who_could_give_it(aureus: Aureus) -> None:
    told = await why(aureus, ANA, "reserve_funds", "swiss", amount_minor=5)
    assert told["verdict"] == "needs_approval"
    waits = step(told, "approval")
    assert (waits["verdict"], waits["details"]["approver_roles"], waits["details"]["approvers"]) == ("waits", ["approver"], ["usr-app"])
    assert step(told, "policies")["details"]["said"][0]["reason"] == "Francs need a second person."


async def test_where_a_role_comes_from_is_told_and_a_conflict_of_duties_names_its_rule(aureus: Aureus) -> None:
    before = (await aureus.services.ledger.refresh()).size
    await done(aureus, CreateGroup(group_id="grp-lake", label="Lake"))
    await done(aureus, MapRoles(group_id="grp-lake", mapped_roles=(Role.AUDITOR,)))
    await done(aureus, AddMember(group_id="grp-lake", actor_id=SUE.actor))
    until = datetime.now(UTC) + timedelta(days=1)
    await done(aureus, GrantRole(grant_id="grt-1", role=Role.APPROVER, about="domain:sales", actor_id="usr-sue", until=until))
    told = await why(aureus, APP, "reserve_funds", "lake", actor=SUE.actor, amount_minor=5)
    held = step(told, "roles")["details"]["held"]
    assert [(one["role"], one["way"], one.get("source")) for one in held] == [
        ("analyst", "own", None),
        ("auditor", "group", "grp-lake"),
        ("approver", "grant", "grt-1"),
    ]
    assert (held[2]["reach"], held[2]["until"][:19]) == (["domain:sales"], until.isoformat()[:19])
    assert told["verdict"] == "allowed"
    rule = DefineRule(rule_id="look-or-act", reason="Auditors approve nothing.", roles_apart=(Role.AUDITOR, Role.APPROVER))
    position = await done(aureus, rule)
    told = await why(aureus, SUE, "reserve_funds", "lake", amount_minor=5)
    assert (told["verdict"], step(told, "duties")["details"]["rule"]) == ("blocked", "look-or-act")
    found = (await aureus.get("/v1/duties/violations", AUD, at_least=position)).json()["items"]
    assert [(one["actor_id"], one["rule_id"], one["roles"]) for one in found] == [("usr-sue", "look-or-act", ["approver", "auditor"])]
    assert [(one["way"], one["source"]) for one in found[0]["held"]] == [("group", "grp-lake"), ("grant", "grt-1")]
    assert (await aureus.get("/v1/duties/violations", AUD, as_of=before)).json()["items"] == []
    assert (await aureus.get("/v1/duties/violations", ANA)).status_code == 403
    past = await why(aureus, SUE, "reserve_funds", "lake", amount_minor=5, as_of=position - 3)
    assert past["verdict"] == "allowed", "the rule was not there yet"


async def test_who_is_suspended_does_not_get_in(aureus: Aureus) -> None:
    zed = Asker("usr-zed", "acme", frozenset({Role.ANALYST}))
    await aureus.know(zed)
    await done(aureus, SuspendActor(actor_id=zed.actor))
    told = await why(aureus, ADM, "reserve_funds", "lake", actor=zed.actor, amount_minor=1)
    assert (told["verdict"], step(told, "identity")["verdict"]) == ("blocked", "failed")
    assert step(told, "identity")["details"] == {"code": "actor_suspended"}


async def test_without_a_whole_command_it_says_what_is_missing(aureus: Aureus) -> None:
    told = await why(aureus, ANA, "reserve_funds", "lake")
    assert told["verdict"] == "incomplete"
    assert "amount_minor" in told["explanation"]
    told = await why(aureus, EVE, "reserve_funds")
    assert (told["verdict"], step(told, "roles")["verdict"]) == ("blocked", "failed")


async def test_what_cannot_be_asked_is_refused(aureus: Aureus) -> None:
    for by, parameters, status, code in [
        (ANA, {"command": "x.y"}, 404, "command_not_found"),
        (ANA, {"command": "budgets.fund_budget", "actor": "usr-app"}, 403, "role_missing"),
        (ADM, {"command": "budgets.fund_budget", "actor": "usr-nobody"}, 404, "actor_not_found"),
        (ANA, {"command": "budgets.fund_budget", "fields": "[]"}, 422, "invalid_parameter"),
        (ANA, {"command": "budgets.fund_budget", "fields": "{"}, 422, "invalid_parameter"),
    ]:
        answer = await aureus.get("/v1/why", by, **parameters)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


@pytest.mark.parametrize("commands", [["budgets.open_budget", "budgets.opne_budget"], ["budgets.open_budget", "pipelines.deploy_version"]])
async def test_a_rule_that_could_never_hold_is_refused(aureus: Aureus, commands: list[str]) -> None:
    answer = await aureus.post("/v1/duties/rules", {"rule_id": "r", "reason": "So.", "commands_apart": commands}, ADM)
    assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "commands_apart")
