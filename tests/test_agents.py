"""Agents: who may tie one to another, who stops them and who lets them go on, and on what their tool calls are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands.agents import (
    AGENTS,
    TOOL_ACTIONS,
    Delegate,
    RegisterAgent,
    RequestAction,
    ResumeAgent,
    RevokeDelegation,
    StopAgent,
)
from domain.agents import (
    ActionRequested,
    Agent,
    AgentDelegated,
    AgentRegistered,
    AgentResumed,
    AgentStopped,
    DatasetFacts,
    DelegationRevoked,
    chain,
)
from domain.catalog import Dataset, Deprecation, Environment, Jurisdiction, PiiLevel, Profile
from domain.kernel import Asker, Event
from domain.values import Role
from tests.given import ADMIN, AGENT, ANALYST, APPROVER, Given, given
from tests.support.running import Aureus, running

BOT, HELPER = "agt-bot", "agt-helper"
AUDITOR = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
OTHER_ADMIN = Asker("usr-ad2", "acme", frozenset({Role.ADMIN}))
STRANGER = Asker("usr-eve", "acme", frozenset({Role.ANALYST}))
REGISTERED = AgentRegistered(agent_id=HELPER, label="Helper", purpose="Cleans up", model="m-1", owner="usr-ana")
DELEGATED = AgentDelegated(agent_id=HELPER, delegated_by=BOT)
STOPPED = AgentStopped(agent_id=HELPER, reason="It runs wild", stopped_by="usr-adm")
KNOWN = Agent(registered=True, owner="usr-ana")


def helper(*history: Event, above: Agent = KNOWN) -> Given:
    """The helper with this history, while the bot it may act for stands like `above`."""
    return given(AGENTS, *history).beside(**{f"agent:{BOT}": above})


# -- registering


def test_an_agent_is_registered_once_with_the_person_who_answers_for_it() -> None:
    command = RegisterAgent(agent_id=HELPER, label="Helper", purpose="Cleans up", model="m-1", owner="usr-ana")
    given(AGENTS).by(ADMIN).when(command).then(REGISTERED)
    given(AGENTS, REGISTERED).by(ADMIN).when(command).refused("agent_exists", field="agent_id")


def test_an_agent_that_was_stopped_before_it_was_registered_stays_stopped() -> None:
    assert AGENTS.replay([STOPPED, REGISTERED]).stopped


@pytest.mark.parametrize("fields", [{"agent_id": "usr-ana"}, {"agent_id": "agt:bot"}, {"owner": "agt-bot"}, {"purpose": " "}])
def test_an_agents_id_and_owner_are_of_their_kind(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        RegisterAgent.model_validate({"agent_id": HELPER, "label": "L", "purpose": "P", "model": "m", "owner": "usr-ana", **fields})


# -- delegating

DELEGATE = Delegate(agent_id=HELPER, delegated_by=BOT)
REVOKE = RevokeDelegation(agent_id=HELPER, delegated_by=BOT)


@pytest.mark.parametrize("by", [AGENT, ANALYST, ADMIN], ids=["itself", "its owner", "an administrator"])
def test_an_agent_delegates_to_another_of_its_owner(by: Asker) -> None:
    helper(REGISTERED).by(by).when(DELEGATE).then(DELEGATED)


@pytest.mark.parametrize("by", [STRANGER, replace(AGENT, actor="agt-other")], ids=["a stranger", "another agent"])
def test_nobody_else_delegates(by: Asker) -> None:
    helper(REGISTERED).by(by).when(DELEGATE).refused("delegation_not_yours", field="delegated_by")


@pytest.mark.parametrize("by", [AGENT, STRANGER, ANALYST], ids=["the agent", "its owner", "the delegate's owner"])
def test_only_an_administrator_ties_an_agent_to_that_of_another_owner(by: Asker) -> None:
    """To be a delegate is to be stopped together: nobody may do that to somebody else's agent."""
    others = helper(REGISTERED, above=replace(KNOWN, owner=STRANGER.actor))
    others.by(by).when(DELEGATE).refused("delegation_not_yours", owners=["usr-ana", "usr-eve"])
    others.by(ADMIN).when(DELEGATE).then(DELEGATED)


def test_a_delegate_acts_for_one_agent_at_a_time() -> None:
    helper(REGISTERED, DELEGATED).when(DELEGATE).then()
    elsewhere = AgentDelegated(agent_id=HELPER, delegated_by="agt-other")
    helper(REGISTERED, elsewhere).when(DELEGATE).refused("already_delegated", delegated_by="agt-other")


def test_an_agent_is_not_its_own_delegate() -> None:
    given(AGENTS, REGISTERED).when(Delegate(agent_id=HELPER, delegated_by=HELPER)).refused("delegate_is_itself")


def test_somebody_answers_for_both_sides_of_a_delegation() -> None:
    helper().by(ADMIN).when(DELEGATE).refused("agent_not_found", field="agent_id")
    helper(REGISTERED, above=Agent()).by(ADMIN).when(DELEGATE).refused("agent_not_found", field="delegated_by")


@pytest.mark.parametrize("by", [AGENT, ADMIN], ids=["the agent that gave it", "an administrator"])
def test_a_delegation_is_revoked(by: Asker) -> None:
    helper(REGISTERED, DELEGATED).by(by).when(REVOKE).then(DelegationRevoked(agent_id=HELPER, delegated_by=BOT))


def test_a_delegate_cannot_free_itself() -> None:
    itself = replace(AGENT, actor=HELPER)
    helper(REGISTERED, DELEGATED).by(itself).when(REVOKE).refused("delegation_not_yours", field="delegated_by")


def test_a_delegation_that_is_not_there_is_not_revoked() -> None:
    helper(REGISTERED).by(ADMIN).when(REVOKE).refused("delegation_not_found", field="delegated_by")


def test_who_stopped_an_agent_does_not_set_its_delegate_free() -> None:
    stopped = replace(KNOWN, stopped=True, stopped_by=ADMIN.actor)
    delegate = helper(REGISTERED, DELEGATED, above=stopped)
    delegate.by(ADMIN).when(REVOKE).refused("resumed_by_stopper", stopped_by=ADMIN.actor)
    delegate.by(OTHER_ADMIN).when(REVOKE).then(DelegationRevoked(agent_id=HELPER, delegated_by=BOT))


def test_a_chain_of_delegations_ends_where_it_began() -> None:
    assert chain("c", {"c": "b", "b": "a"}) == ("c", "b", "a")
    assert chain("c", {"c": "b", "b": "c"}) == ("c", "b")
    assert chain("x", {}) == ("x",)


# -- stopping

STOP = StopAgent(agent_id=HELPER, reason="It runs wild")
RESUME = ResumeAgent(agent_id=HELPER, reason="Mended")


@pytest.mark.parametrize("by", [ADMIN, APPROVER, AUDITOR, ANALYST], ids=["admin", "approver", "auditor", "its owner"])
def test_whoever_watches_over_agents_stops_one(by: Asker) -> None:
    helper(REGISTERED).by(by).when(STOP).then(replace_stopper(by))


def replace_stopper(by: Asker) -> AgentStopped:
    return STOPPED.model_copy(update={"stopped_by": by.actor})


def test_an_analyst_stops_no_agent_of_somebody_else() -> None:
    helper(REGISTERED).by(STRANGER).when(STOP).refused("not_the_owner", owner="usr-ana")
    helper().by(STRANGER).when(STOP).refused("not_the_owner")


def test_an_agent_that_nobody_registered_can_be_stopped() -> None:
    helper().by(AUDITOR).when(STOP).then(replace_stopper(AUDITOR))


def test_a_second_stop_is_no_second_event() -> None:
    helper(REGISTERED, STOPPED).by(AUDITOR).when(STOP).then()


def test_an_agent_stops_nobody() -> None:
    assert Role.AGENT not in StopAgent.roles


def test_it_takes_another_administrator_to_resume_an_agent() -> None:
    helper(REGISTERED, STOPPED).by(ADMIN).when(RESUME).refused("resumed_by_stopper", stopped_by=ADMIN.actor)
    helper(REGISTERED, STOPPED).by(OTHER_ADMIN).when(RESUME).then(AgentResumed(agent_id=HELPER, reason="Mended"))
    assert ResumeAgent.roles == {Role.ADMIN}


def test_an_agent_that_was_not_stopped_needs_no_resuming() -> None:
    helper(REGISTERED).by(ADMIN).when(RESUME).then()


def test_a_resumed_agent_can_be_stopped_again() -> None:
    helper(REGISTERED, STOPPED, AgentResumed(agent_id=HELPER, reason="Mended")).by(AUDITOR).when(STOP).then(replace_stopper(AUDITOR))


# -- tool calls

ORDERS = Dataset("orders", Profile(name="o", domain="sales", pii_level=PiiLevel.HIGH, jurisdiction=Jurisdiction.EU))
CLICKS = Dataset(
    "clicks",
    Profile(name="c", domain="web", pii_level=PiiLevel.NONE, jurisdiction=Jurisdiction.US, environment=Environment.DEV),
    contract={"status": "active"},
)
ORDERS_FACTS = DatasetFacts(
    dataset_id="orders", pii_level="high", jurisdiction="EU", environment="production", status="active", fresh=False, lineage_depth=3
)
CLICKS_FACTS = DatasetFacts(
    dataset_id="clicks", pii_level="none", jurisdiction="US", environment="dev", status="active", contract="active", lineage_depth=1
)
CALL = RequestAction(
    agent_id=BOT, request_id="r1", tool="sql.query", datasets=("orders", "clicks"), purpose="Report", facts=(ORDERS_FACTS, CLICKS_FACTS)
)
REQUESTED = ActionRequested(request_id="r1", agent_id=BOT, tool="sql.query", purpose="Report", datasets=CALL.facts)


def catalog(*history: Event, **datasets: Dataset | None) -> Given:
    known = {"orders": ORDERS, "clicks": CLICKS, **datasets}
    return given(TOOL_ACTIONS, *history).by(AGENT).beside(**{f"dataset:{name}": dataset for name, dataset in known.items()})


def test_a_tool_call_is_recorded_with_what_its_data_was_then() -> None:
    catalog().when(CALL).then(REQUESTED)


def test_policies_see_the_most_sensitive_of_all_the_data_a_call_is_for() -> None:
    assert TOOL_ACTIONS.facts(TOOL_ACTIONS.initial, CALL) == {
        "tool": "sql.query",
        "pii_level": "high",
        "jurisdiction": "multi",
        "environment": "production",
        "contracts": ["active", "none"],
        "statuses": ["active"],
        "fresh": False,
        "lineage_depth": 3,
        "becomes": {},
    }


def test_a_call_on_no_data_says_so() -> None:
    facts = TOOL_ACTIONS.facts(TOOL_ACTIONS.initial, CALL.model_copy(update={"datasets": (), "facts": ()}))
    assert (facts["pii_level"], facts["jurisdiction"], facts["environment"], facts["fresh"]) == (None, None, None, True)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": ORDERS.profile.model_copy(update={"pii_level": PiiLevel.LOW})},
        {"profile": ORDERS.profile.model_copy(update={"jurisdiction": Jurisdiction.UK})},
        {"profile": ORDERS.profile.model_copy(update={"environment": Environment.DEV})},
        {"contract": {"status": "active"}},
        {"deprecation": Deprecation(reason="Old")},
    ],
    ids=["pii", "jurisdiction", "environment", "contract", "deprecated"],
)
def test_what_the_policies_judged_must_still_be_so(change: dict[str, Any]) -> None:
    catalog(orders=replace(ORDERS, **change)).when(CALL).refused("facts_outdated", outdated=["orders"])


def test_facts_that_leave_a_dataset_out_are_refused() -> None:
    catalog().when(CALL.model_copy(update={"facts": (CLICKS_FACTS,)})).refused("facts_outdated", outdated=["orders"])


def test_what_the_catalog_does_not_know_is_not_used() -> None:
    catalog(orders=None).when(CALL).refused("dataset_not_found", unknown=["orders"])


def test_an_agent_asks_for_itself_alone() -> None:
    catalog().by(replace(AGENT, actor=HELPER)).when(CALL).refused("not_the_agent", field="agent_id")


def test_a_call_is_allowed_once() -> None:
    catalog(REQUESTED).when(CALL).refused("action_exists", field="request_id")


def test_a_decision_on_a_call_relies_on_every_dataset_it_is_for() -> None:
    assert CALL.relies_on() == ("dataset:orders", "dataset:clicks")


# -- a tool call over HTTP, from the catalog's word to the policies' answer

CAUTIOUS = """package aureus

import rego.v1

verdict := {"outcome": "block", "results": [{"policy": "stale", "outcome": "block", "reason": "Stale."}]} if {
	input.action == "agents.request_action"
	not input.facts.fresh
} else := {
	"outcome": "require_approval",
	"results": [{"policy": "pii", "outcome": "require_approval", "reason": "PII."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.action == "agents.request_action"
	input.facts.pii_level == "high"
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
WHERE = f"/v1/agents/{BOT}/actions"


async def asked(aureus: Aureus, request_id: str, *datasets: str, **headers: str) -> tuple[int, dict[str, Any]]:
    """The answer to a tool call of the bot."""
    call = {"request_id": request_id, "tool": "sql.query", "datasets": list(datasets), "purpose": "Report"}
    answer = await aureus.post(WHERE, call, AGENT, **headers)
    body: dict[str, Any] = answer.json()
    return answer.status_code, body.get("error", body)


async def known(aureus: Aureus, dataset_id: str, pii_level: str, **more: Any) -> None:
    profile = {"name": dataset_id, "domain": "sales", "pii_level": pii_level, "jurisdiction": "EU"}
    answer = await aureus.post("/v1/datasets", {"dataset_id": dataset_id, **profile, **more}, ANALYST)
    assert answer.status_code == 201, answer.text


@pytest.mark.anyio
async def test_a_tool_call_is_judged_on_what_its_data_is_at_that_moment(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, CAUTIOUS) as aureus:
        await aureus.know(AGENT, ANALYST, APPROVER)
        await known(aureus, "raw", "low")
        await known(aureus, "orders", "none", upstreams=[{"dataset_id": "raw"}])

        status, body = await asked(aureus, "r1", "orders")
        assert (status, body["outcome"], body["stream"]) == (201, "allowed", f"tool:{BOT}.r1")
        (facts,) = body["events"][0]["data"]["datasets"]
        told = ("orders", "none", "EU", "production", "active", "none", 1)
        names = ("dataset_id", "pii_level", "jurisdiction", "environment", "status", "contract", "lineage_depth")
        assert tuple(facts[name] for name in names) == told

        await aureus.post("/v1/datasets/orders/describe", {"pii_level": "high"}, ANALYST)
        status, body = await asked(aureus, "r2", "orders")
        assert (status, body["outcome"]) == (202, "requires_approval")
        approval_id = body["approval_id"]
        await aureus.post(f"/v1/approvals/{approval_id}/approve", {}, APPROVER)
        await aureus.post("/v1/datasets/orders/describe", {"jurisdiction": "UK"}, ANALYST)
        status, body = await asked(aureus, "r2", "orders", aureus_approval=approval_id)
        assert (status, body["code"]) == (409, "approval_is_for_another_action"), "the data is not what was approved"
        await aureus.post("/v1/datasets/orders/describe", {"jurisdiction": "EU"}, ANALYST)
        assert (await asked(aureus, "r2", "orders", aureus_approval=approval_id))[0] == 201

        await aureus.post("/v1/datasets/raw/freshness", {"freshness_sla": "PT1H"}, ANALYST)
        status, body = await asked(aureus, "r3", "raw")
        assert (status, body["code"]) == (403, "policy_blocked"), "it was promised to be fresh, and never was refreshed"
        assert (await asked(aureus, "r4", "nowhere"))[1]["code"] == "dataset_not_found"

        position = (await asked(aureus, "r5"))[1]["position"]
        listed = (await aureus.get("/v1/tool-actions", ANALYST, sort="requested_at", at_least=position)).json()["items"]
        assert [(one["request_id"], one["dataset_ids"]) for one in listed] == [("r1", ["orders"]), ("r2", ["orders"]), ("r5", [])]


@pytest.mark.anyio
async def test_no_caller_says_what_the_data_is_like(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, CAUTIOUS) as aureus:
        await aureus.know(AGENT, ANALYST)
        await known(aureus, "orders", "low")
        call = {"request_id": "r1", "tool": "t", "datasets": ["orders"], "purpose": "P"}
        harmless = {"dataset_id": "orders", "pii_level": "none", "jurisdiction": "EU", "environment": "dev", "status": "active"}
        answer = await aureus.post(WHERE, {**call, "facts": [harmless]}, AGENT)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "facts")
        assert (await aureus.post(WHERE, call, ANALYST)).status_code == 403, "only an agent asks"
        elsewhere = await aureus.post("/v1/agents/agt-other/actions", call, AGENT)
        assert elsewhere.json()["error"]["code"] == "not_the_agent"
