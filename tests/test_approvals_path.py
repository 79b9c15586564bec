"""Approvals through the one command path: who is held, what an approval covers, and what nobody can make it cover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.services import deciders
from commands.access import ChangeRoles, RegisterActor
from commands.approvals import (
    ApproveRequest,
    DelegateAuthority,
    EscalateRequest,
    RejectRequest,
    RequestApproval,
    RevokeAuthority,
    UseApproval,
    VoidRequest,
)
from commands.budgets import FundBudget, OpenBudget, ReserveFunds
from commands.catalog import RegisterDataset, SyncDataset
from commands.outcome import Outcome
from commands.path import CommandPath
from domain.approvals import ApproverAgreed
from domain.budgets import FundsReserved
from domain.catalog import DatasetRegistered, Jurisdiction, PiiLevel
from domain.kernel import Asker, Command
from domain.ledger import Append
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_memory_ledger
from infra.policy import PolicyEngine
from tests.support.kernel import ADM, ANA, APP, BEN, ask, everything, policies

pytestmark = pytest.mark.anyio

FRANCS = OpenBudget(budget_id="alp", label="Alp", currency="CHF", limit_minor=1_000)
IN_FRANCS = ReserveFunds(budget_id="alp", amount_minor=60)
AGENT = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
IMPORTER = Asker("svc-import", "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE, owner="usr-adm")
SECOND = Asker("usr-app2", "acme", frozenset({Role.APPROVER}))
HELD = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "held", "outcome": "require_approval", "reason": "It takes somebody else."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	holding
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}

holding if input.facts.currency == "CHF"

holding if input.facts.pii_level == "high"
"""
"""Whatever concerns Swiss francs or much personal data takes an approver, whoever asks and whatever it is called."""


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies"), HELD) as running:
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_memory_ledger(FileKeystore.open(tmp_path / "keys"))
    yield opened
    await opened.close()


@pytest.fixture
async def path(ledger: Ledger, engine: PolicyEngine) -> CommandPath:
    """With a budget in francs that two people agreed to."""
    path = CommandPath(ledger, engine, deciders())
    await done(path, FRANCS, ADM, await approved(path, FRANCS, ADM))
    return path


async def parked(path: CommandPath, command: Command, by: Asker) -> str:
    outcome = await path.handle(ask(command, by))
    assert outcome.outcome == "requires_approval", outcome
    assert outcome.approval is not None
    return str(outcome.approval["approval_id"])


async def approved(path: CommandPath, command: Command, by: Asker, approver: Asker = APP) -> str:
    approval_id = await parked(path, command, by)
    await done(path, ApproveRequest(approval_id=approval_id), approver)
    return approval_id


async def done(path: CommandPath, command: Command, by: Asker, approval_id: str | None = None) -> Outcome:
    outcome = await path.handle(ask(command, by, approval_id=approval_id))
    assert outcome.outcome == "allowed", outcome
    return outcome


async def code(path: CommandPath, command: Command, by: Asker, approval_id: str | None = None, **circumstances: Any) -> str | None:
    """Why it was refused."""
    asked = ask(command, by, approval_id=approval_id)
    outcome = await path.handle(replace(asked, **circumstances))
    assert outcome.outcome == "blocked", outcome
    return outcome.code


# What others got wrong


@pytest.mark.parametrize("by", [ADM, IMPORTER], ids=["an administrator", "a bulk import"])
@pytest.mark.parametrize("command", [RegisterDataset, SyncDataset])
async def test_a_creation_is_held_whoever_creates(ledger: Ledger, path: CommandPath, by: Asker, command: type[Any]) -> None:
    """OpenMetadata#16905: what an administrator created was approved by that alone, and no approval was ever asked for."""
    people = command(dataset_id="crm.people", name="people", domain="crm", pii_level=PiiLevel.HIGH, jurisdiction=Jurisdiction.EU)
    approval_id = await parked(path, people, by)
    assert not any(isinstance(recorded.event, DatasetRegistered) for recorded in await everything(ledger))
    assert await code(path, ApproveRequest(approval_id=approval_id), by) in {"approver_is_requester", "approver_not_a_person"}
    assert await code(path, people, by, approval_id) == "approval_not_granted"
    await done(path, ApproveRequest(approval_id=approval_id), APP)
    await done(path, people, by, approval_id)
    assert sum(isinstance(recorded.event, DatasetRegistered) for recorded in await everything(ledger)) == 1


async def test_what_somebody_else_than_an_approver_accepts_stays_held(path: CommandPath) -> None:
    """OpenMetadata#24100: a change accepted by somebody who was no reviewer went through without any review."""
    approval_id = await parked(path, IN_FRANCS, AGENT)
    bystander = Asker("usr-by", "acme", frozenset({Role.ANALYST, Role.AUDITOR}))
    robot = Asker("agt-two", "acme", frozenset({Role.AGENT, Role.APPROVER}), ActorKind.AGENT, owner="usr-app")
    assert await code(path, ApproveRequest(approval_id=approval_id), bystander) == "approver_role_missing"
    assert await code(path, ApproveRequest(approval_id=approval_id), robot) == "approver_not_a_person"
    assert await code(path, ApproveRequest(approval_id=approval_id), replace(ANA, roles=APP.roles)) == "approver_is_requester"
    assert await code(path, IN_FRANCS, AGENT, approval_id) == "approval_not_granted"


async def test_an_approval_covers_the_exact_call_and_not_the_tool(path: CommandPath) -> None:
    """mcp-context-forge#5437: one approval of a tool let every later call of that tool through, whatever its arguments."""
    approval_id = await approved(path, IN_FRANCS, AGENT)
    other = IN_FRANCS.model_copy(update={"amount_minor": 61})
    assert await code(path, other, AGENT, approval_id) == "approval_is_for_another_action"
    assert await parked(path, other, AGENT) != approval_id
    await done(path, IN_FRANCS, AGENT, approval_id)
    assert await code(path, IN_FRANCS, AGENT, approval_id) == "approval_used"


async def test_no_client_can_make_up_that_something_was_approved(ledger: Ledger, path: CommandPath) -> None:
    """vercel/ai#15987: approved calls were rebuilt from the messages a client sent, so a client could forge the approval.

    Here an approval is what the ledger says happened. A client may name one; it cannot bring one along, nor have one
    made for something else, or by anybody else, than what it then sends.
    """
    version = await path.policy_version("acme")
    use = UseApproval(
        approval_id="a1",
        action_digest=IN_FRANCS.digest(),
        seen_version=1,
        policy_version=version,
        approver_roles=(Role.APPROVER,),
        quorum=1,
    )
    assert await code(path, IN_FRANCS, AGENT, "made-up") == "approval_not_found"
    assert await code(path, use, AGENT) == "role_missing"
    told = RequestApproval(approval_id="a1", description="10 francs", command="budgets.reserve_funds", inputs=IN_FRANCS.intent())
    shown = told.model_copy(update={"inputs": {**IN_FRANCS.intent(), "amount_minor": 10}})
    assert await code(path, shown.model_copy(update={"action_digest": IN_FRANCS.digest()}), AGENT) == "action_digest_differs"
    await done(path, shown, AGENT)
    await done(path, ApproveRequest(approval_id="a1"), APP)
    assert await code(path, IN_FRANCS, AGENT, "a1") == "approval_is_for_another_action"
    assert await code(path, told, AGENT) == "approval_exists"
    milder = told.model_copy(update={"approval_id": "a2", "approver_roles": (Role.ANALYST,)})
    await done(path, milder, AGENT)
    await done(path, ApproveRequest(approval_id="a2"), BEN)
    assert await code(path, IN_FRANCS, AGENT, "a2") == "approval_too_weak"
    assert not any(isinstance(recorded.event, FundsReserved) for recorded in await everything(ledger))


# What an approval is bound to


async def test_an_approval_is_for_the_version_that_was_seen(path: CommandPath) -> None:
    approval_id = await approved(path, IN_FRANCS, ANA)
    fund = FundBudget(budget_id="alp", amount_minor=1)
    await done(path, fund, ADM, await approved(path, fund, ADM))
    outcome = await path.handle(ask(IN_FRANCS, ANA, approval_id=approval_id))
    assert (outcome.code, outcome.facts["approved_version"], outcome.facts["seen_version"]) == ("entity_changed_since_approval", 1, 2)
    await done(path, IN_FRANCS, ANA, await approved(path, IN_FRANCS, ANA))


async def test_a_request_by_hand_that_names_no_stream_is_bound_to_digest_and_policies(path: CommandPath) -> None:
    by_hand = RequestApproval(approval_id="a1", description="60 francs", command="budgets.reserve_funds", inputs=IN_FRANCS.intent())
    await done(path, by_hand, ANA)
    await done(path, ApproveRequest(approval_id="a1"), APP)
    await done(path, IN_FRANCS, ANA, "a1")


async def test_an_approval_out_of_force_is_refused_by_name(path: CommandPath) -> None:
    later = datetime.now(UTC) + timedelta(days=2)
    for command in (ApproveRequest(approval_id="a1"), RejectRequest(approval_id="a1", comment="No")):
        assert await code(path, command, APP) == "approval_not_found"

    expired = await approved(path, IN_FRANCS, ANA)
    assert await code(path, ApproveRequest(approval_id=expired), SECOND, at=later) == "approval_expired"
    assert await code(path, IN_FRANCS, ANA, expired, at=later) == "approval_expired"

    voided = await approved(path, IN_FRANCS, ANA)
    await done(path, VoidRequest(approval_id=voided, reason="The agent was stopped"), IMPORTER)
    assert await code(path, ApproveRequest(approval_id=voided), SECOND) == "approval_voided"
    assert await code(path, IN_FRANCS, ANA, voided) == "approval_voided"

    used = await approved(path, IN_FRANCS, ANA)
    await done(path, IN_FRANCS, ANA, used)
    assert await code(path, ApproveRequest(approval_id=used), SECOND) == "approval_used"
    assert await code(path, IN_FRANCS, ANA, used) == "approval_used"


async def test_what_waited_too_long_is_decided_by_an_administrator(path: CommandPath) -> None:
    approval_id = await parked(path, IN_FRANCS, ANA)
    half = datetime.now(UTC) + timedelta(hours=13)
    assert await code(path, EscalateRequest(approval_id=approval_id), ADM) == "escalation_not_due"
    assert await code(path, ApproveRequest(approval_id=approval_id), ADM, at=half) == "approver_role_missing"
    assert (await path.handle(replace(ask(EscalateRequest(approval_id=approval_id), IMPORTER), at=half))).outcome == "allowed"
    await done(path, ApproveRequest(approval_id=approval_id), ADM)
    await done(path, IN_FRANCS, ANA, approval_id)


# Deciding for somebody else


async def delegated(path: CommandPath) -> str:
    """Lets Ben decide for an approver; answers the delegation's id."""
    for person in (APP, BEN):
        roles = tuple(person.roles)
        await done(path, RegisterActor(actor_id=person.actor, kind=ActorKind.PERSON, granted_roles=roles), ADM)
    week = datetime.now(UTC) + timedelta(days=7)
    outcome = await done(path, DelegateAuthority(delegate=BEN.actor, ends_at=week), APP)
    return str(outcome.events[0]["data"]["delegation_id"])


def for_app(approval_id: str) -> ApproveRequest:
    return ApproveRequest(approval_id=approval_id, on_behalf_of=APP.actor)


async def test_a_delegate_approves_and_the_delegator_is_not_counted_again(path: CommandPath) -> None:
    await delegated(path)
    approval_id = await parked(path, IN_FRANCS, ANA)
    assert await code(path, ApproveRequest(approval_id=approval_id), BEN) == "approver_role_missing"
    await done(path, for_app(approval_id), BEN)
    assert await code(path, ApproveRequest(approval_id=approval_id), APP) == "approval_not_pending"
    await done(path, IN_FRANCS, ANA, approval_id)


async def test_a_delegate_of_the_requester_cannot_approve_whoever_else_they_speak_for(path: CommandPath) -> None:
    await delegated(path)
    week = datetime.now(UTC) + timedelta(days=7)
    await done(path, DelegateAuthority(delegate=BEN.actor, ends_at=week), ANA)
    assert await code(path, for_app(await parked(path, IN_FRANCS, ANA)), BEN) == "approver_is_delegate"
    assert await code(path, for_app(await parked(path, IN_FRANCS, AGENT)), BEN) == "approver_is_delegate"


@pytest.mark.parametrize("what", ["the delegation is revoked", "the delegator loses the role"])
async def test_a_decision_for_another_holds_only_if_the_authority_still_does(
    ledger: Ledger, path: CommandPath, engine: PolicyEngine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The authority ends while the agreement is on its way: it is decided again, not recorded as it was."""
    delegation_id = await delegated(path)
    approval_id = await parked(path, IN_FRANCS, ANA)
    ending: Command = RevokeAuthority(delegation_id=delegation_id)
    if what != "the delegation is revoked":
        ending = ChangeRoles(actor_id=APP.actor, granted_roles=(Role.VIEWER,))
    enqueue, other = ledger.enqueue, CommandPath(ledger, engine, deciders())
    overtaken: list[asyncio.Future[Outcome]] = []

    def overtaking(append: Append) -> asyncio.Future[Any]:
        if overtaken or not any(isinstance(event, ApproverAgreed) for write in append.writes for event in write.events):
            return enqueue(append)
        overtaken.append(asyncio.ensure_future(other.handle(ask(ending, ADM))))

        async def afterwards() -> Any:
            assert (await overtaken[0]).outcome == "allowed"
            return await enqueue(append)

        return asyncio.ensure_future(afterwards())

    monkeypatch.setattr(ledger, "enqueue", overtaking)
    refused = await code(path, for_app(approval_id), BEN)
    assert overtaken
    assert refused == ("not_delegated" if isinstance(ending, RevokeAuthority) else "approver_role_missing")
    assert sum(isinstance(recorded.event, ApproverAgreed) for recorded in await everything(ledger)) == 1, "only that of the fixture"
