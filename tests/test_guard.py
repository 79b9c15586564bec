"""The Guard: the way of every action through it, what it was asked, the evidence it demands, and the rules it is bound to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from api.services import deciders
from commands.agents import AGENTS, StopAgent
from commands.approvals import ApproveRequest
from commands.budgets import OpenBudget, ReserveFunds
from commands.evidence import RegisterArtifact
from commands.path import Ask, CommandPath
from commands.policy import Rulebook
from domain.actions import ActionAllowed, ActionBlocked, ActionEvent, ActionParked
from domain.agents import AgentDelegated
from domain.kernel import Asker
from domain.ledger import Append, StreamWrite
from domain.policies import DefaultsAdopted, PolicyProposed, PolicyRef, PolicySet, PolicyText
from domain.values import ActorKind, Role, uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_memory_ledger
from infra.policy import PolicyEngine
from tests.support.kernel import ADM, ANA, APP, ask, everything, policies

pytestmark = pytest.mark.anyio

EVIDENCE = "a" * 64
BOT = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")

EXACTING = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "proof", "outcome": "require_approval", "required_evidence": ["test_result"]}],
	"approver_roles": ["approver"],
	"quorum": 1,
	"required_evidence": ["sql"],
} if {
	input.action == "budgets.open_budget"
	input.facts.currency == "CHF"
} else := {"outcome": "block", "results": [{"policy": "slow_down", "outcome": "block", "reason": "Too many."}]} if {
	input.recent > 64
} else := {"outcome": "allow", "results": [{"policy": "proof", "outcome": "allow"}]}
"""
"""Policies of a test's own: a budget in CHF takes an approver, a passed test and a query; 64 actions a minute are enough."""

ALPS = OpenBudget(budget_id="alp", label="Alp", currency="CHF", limit_minor=100)
LAKE = OpenBudget(budget_id="lake", label="Lake", currency="EUR", limit_minor=10_000)


@pytest.fixture(scope="module")
async def exacting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies"), EXACTING) as engine:
        yield engine


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_memory_ledger(FileKeystore.open(tmp_path / "keys"))
    yield opened
    await opened.close()


@pytest.fixture
def path(ledger: Ledger, exacting: PolicyEngine) -> CommandPath:
    return CommandPath(ledger, exacting, deciders())


async def action(ledger: Ledger, asked: Ask) -> ActionEvent:
    """How an action ended, as the ledger has it."""
    (recorded,) = await ledger.read_stream(asked.by.tenant, f"action:{asked.action_id}")
    assert isinstance(recorded.event, ActionAllowed | ActionBlocked | ActionParked)
    return recorded.event


def watched(asked: Ask) -> Ask:
    """With a stopwatch that shows another microsecond at every look."""
    ticks = count(1)
    return Ask(asked.command, asked.by, asked.action_id, asked.at, elapsed_us=lambda: next(ticks), approval_id=asked.approval_id)


# -- the way through


async def test_every_ending_keeps_its_way_through_the_guard(ledger: Ledger, path: CommandPath) -> None:
    allowed, parked, blocked, denied = (watched(ask(command, by)) for command, by in ((LAKE, ADM), (ALPS, ADM), (LAKE, ADM), (LAKE, ANA)))
    ways = {}
    for name, asked in {"allowed": allowed, "parked": parked, "blocked": blocked, "denied": denied}.items():
        await path.handle(asked)
        way = (await action(ledger, asked)).guard
        assert all(before < after for (_, before), (_, after) in pairwise(way))
        ways[name] = [state for state, _ in way]
    assert ways == {
        "allowed": ["IDLE", "INTENT_VALIDATION", "POLICY_CHECK", "EXECUTION", "EVIDENCE_GEN", "COMPLETE"],
        "parked": ["IDLE", "INTENT_VALIDATION", "POLICY_CHECK"],
        "blocked": ["IDLE", "INTENT_VALIDATION", "POLICY_CHECK", "EXECUTION", "BLOCKED"],
        "denied": ["IDLE", "INTENT_VALIDATION", "BLOCKED"],
    }


async def test_what_the_policies_were_asked_is_kept_so_that_it_can_be_asked_again(
    ledger: Ledger, path: CommandPath, exacting: PolicyEngine
) -> None:
    allowed, parked, denied = ask(LAKE, ADM), ask(ALPS, ADM), ask(LAKE, ANA)
    for asked in (allowed, parked, denied):
        await path.handle(asked)
    for asked in (allowed, parked):
        event = await action(ledger, asked)
        assert event.question is not None
        again = await exacting.check(event.question)
        assert (again.results, exacting.version) == (event.policy_results, event.policy_version)
    assert (await action(ledger, denied)).question is None, "nobody was asked: the role was missing"


async def test_policies_see_how_much_an_actor_asks(path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    minute = ask(LAKE).at.replace(second=0)
    codes = []
    for number in range(65):
        reserving = ask(ReserveFunds(budget_id="lake", amount_minor=1))
        codes.append((await path.handle(Ask(reserving.command, ANA, reserving.action_id, minute.replace(second=number % 60)))).code)
    assert codes == [None] * 64 + ["policy_blocked"]
    fresh = ask(ReserveFunds(budget_id="lake", amount_minor=1))
    later = Ask(fresh.command, ANA, fresh.action_id, minute.replace(minute=(minute.minute + 1) % 60))
    assert (await path.handle(later)).outcome == "allowed"


# -- evidence


async def _registered(path: CommandPath, sha256: str, kind: str, **counts: int) -> str:
    command = RegisterArtifact.model_validate({"sha256": sha256, "size_bytes": 1, "name": kind, "kind": kind, **counts})
    assert (await path.handle(ask(command))).outcome == "allowed"
    return sha256


async def test_an_action_completes_only_with_its_evidence(ledger: Ledger, path: CommandPath) -> None:
    """What was named when it was parked counts when it is carried out: the approvers saw it."""
    query = await _registered(path, "a" * 64, "sql")
    failed = await _registered(path, "b" * 64, "test_result", passed=9, failed=1)
    passed = await _registered(path, "c" * 64, "test_result", passed=10, failed=0)
    parked = await path.handle(ask(ALPS, ADM, artifacts=(query,)))
    assert parked.outcome == "requires_approval", "asking does not take the evidence"
    assert parked.approval is not None
    assert parked.approval["required_evidence"] == ["sql", "test_result"]
    approval_id = parked.approval["approval_id"]
    await path.handle(ask(ApproveRequest(approval_id=approval_id), APP))

    bare = await path.handle(ask(ALPS, ADM, approval_id=approval_id))
    assert (bare.code, bare.facts["missing"], bare.facts["failed_tests"]) == ("evidence_incomplete", ["test_result"], 0)
    flawed = await path.handle(ask(ALPS, ADM, approval_id=approval_id, artifacts=(failed,)))
    assert (flawed.code, flawed.facts["missing"], flawed.facts["failed_tests"]) == ("evidence_incomplete", ["test_result"], 1)
    complete = ask(ALPS, ADM, approval_id=approval_id, artifacts=(passed,))
    assert (await path.handle(complete)).outcome == "allowed"
    event = await action(ledger, complete)
    assert isinstance(event, ActionAllowed)
    assert event.artifacts == (query, passed)
    again = await path.handle(ask(ALPS, ADM, approval_id=approval_id, artifacts=(passed,)))
    assert again.code == "approval_used"


# -- the rules in force


@dataclass
class _ByAdoption:
    """Other policies judge from the moment a tenant has adopted some."""

    before: PolicyEngine
    after: PolicyEngine

    async def rulebook(self, policies: PolicySet) -> Rulebook:
        return self.after if policies.adopted else self.before


def _adoption(tenant: str) -> Append:
    text = PolicyText.model_validate({"type": "access", "title": "T", "rule": {"outcome": "block", "reason": "No."}})
    proposed = PolicyProposed(**text.model_dump(), policy_id="no", version=1, owner="usr-adm", sha256="0" * 64)
    adopted = DefaultsAdopted(in_force=(PolicyRef(policy_id="no", version=1),))
    return Append(tenant, "usr-adm", (StreamWrite("policyset:active", 0, (proposed, adopted)),), uuid7())


async def test_no_decision_is_written_under_policies_that_are_no_longer_in_force(
    ledger: Ledger, exacting: PolicyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others come into force while an action that the old ones allowed is on its way: it is decided again, by them."""
    refusing = EXACTING.replace('input.facts.currency == "CHF"', "false").replace("input.recent > 64", 'input.facts.currency == "EUR"')
    async with policies(tmp_path / "refusing", refusing) as strict:
        path = CommandPath(ledger, _ByAdoption(exacting, strict), deciders())
        enqueue, overtaken = ledger.enqueue, False

        def overtaking(append: Append) -> asyncio.Future[Any]:
            nonlocal overtaken
            if not overtaken and append.writes[0].stream == "budget:lake":
                overtaken = True
                enqueue(_adoption("acme"))
            return enqueue(append)

        monkeypatch.setattr(ledger, "enqueue", overtaking)
        outcome = await path.handle(ask(LAKE, ADM))
        assert overtaken
        assert (outcome.outcome, outcome.code) == ("blocked", "policy_blocked")
        assert not [recorded for recorded in await everything(ledger) if recorded.stream == "budget:lake"]
        elsewhere = Asker(ADM.actor, "other", ADM.roles)
        assert (await path.handle(ask(LAKE, elsewhere))).outcome == "allowed", "a tenant's policies are its own"


# -- agents


async def test_a_stopped_agent_and_whoever_acts_for_it_are_refused(ledger: Ledger, path: CommandPath) -> None:
    helper = Asker("agt-helper", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
    delegated = AgentDelegated(agent_id="agt-helper", delegated_by="agt-bot")
    await ledger.append(Append("acme", "usr-ana", (StreamWrite(f"{AGENTS.category}:agt-helper", 0, (delegated,)),), uuid7()))
    await path.handle(ask(LAKE, ADM))
    reserve = ReserveFunds(budget_id="lake", amount_minor=1)
    assert [(await path.handle(ask(reserve, by))).outcome for by in (BOT, helper)] == ["allowed", "allowed"]
    assert (await path.handle(ask(StopAgent(agent_id="agt-bot", reason="It spends too much."), ADM))).outcome == "allowed"
    refused = [await path.handle(ask(reserve, by)) for by in (BOT, helper)]
    assert [(outcome.code, outcome.denied, outcome.facts["agent"]) for outcome in refused] == [("agent_stopped", True, "agt-bot")] * 2
    assert (await path.handle(ask(reserve, ANA))).outcome == "allowed", "its owner is not stopped"


async def test_an_agents_action_that_a_stop_overtakes_is_not_carried_out(
    ledger: Ledger, path: CommandPath, exacting: PolicyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await path.handle(ask(LAKE, ADM))
    elsewhere = CommandPath(ledger, exacting, deciders())
    enqueue, overtaken = ledger.enqueue, False
    waiting: list[asyncio.Future[Any]] = []

    def overtaking(append: Append) -> Any:
        nonlocal overtaken
        if overtaken or append.actor != BOT.actor:
            return enqueue(append)
        overtaken = True
        stop = asyncio.ensure_future(elsewhere.handle(ask(StopAgent(agent_id=BOT.actor, reason="Now."), ADM)))
        waiting.append(stop)

        async def afterwards() -> Any:
            await stop
            return await enqueue(append)

        return asyncio.ensure_future(afterwards())

    monkeypatch.setattr(ledger, "enqueue", overtaking)
    outcome = await path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=1), BOT))
    assert overtaken
    assert (outcome.outcome, outcome.code) == ("blocked", "agent_stopped")


async def test_a_stop_needs_no_answer_of_the_policies_and_a_reservation_does(ledger: Ledger, tmp_path: Path) -> None:
    """With the engine gone nobody is let through - but whoever takes power away is not held up either."""
    async with policies(tmp_path / "gone", EXACTING) as engine:
        path = CommandPath(ledger, engine, deciders())
    refused = await path.handle(ask(LAKE, ADM))
    assert (refused.code, [result["reason"] for result in refused.policy_results]) == ("policy_blocked", ["unavailable"])
    stop = ask(StopAgent(agent_id=BOT.actor, reason="Now."), ADM)
    assert (await path.handle(stop)).outcome == "allowed"
    assert [result.reason for result in (await action(ledger, stop)).policy_results] == ["unavailable"]
    no = EXACTING.replace("input.recent > 64", 'input.action == "agents.stop_agent"')
    async with policies(tmp_path / "no", no) as forbidding:
        said_no = await CommandPath(ledger, forbidding, deciders()).handle(ask(StopAgent(agent_id="agt-other", reason="Now."), ADM))
    assert said_no.code == "policy_blocked", "a policy that says no is obeyed"
