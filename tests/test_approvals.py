"""Approvals: who may consent to what, what is refused, and what becomes of a request. Deciding for others: test_delegation."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from commands.approvals import (
    APPROVALS,
    LONGEST_LIFETIME,
    ApproveRequest,
    EscalateRequest,
    ExpireRequest,
    RejectRequest,
    RequestApproval,
    UseApproval,
    VoidRequest,
    WithdrawRequest,
)
from commands.budgets import OpenBudget
from domain.actions import ActionParked, Intent, PolicyResult
from domain.approvals import (
    DELEGATIONS,
    ApprovalEscalated,
    ApprovalEvent,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoided,
    ApprovalWithdrawn,
    ApproverAgreed,
    Delegations,
)
from domain.kernel import Asker, Event, Recorded, command_digest
from domain.values import ActorKind, Role
from projections.approvals import ApprovalRow, approvals
from projections.engine import Projection, replay
from tests.given import ACTION_ID, ADMIN, AGENT, ANALYST, APPROVER, AT, Given, given
from tests.golden import EVENT_SAMPLES

INPUTS = {"budget_id": "lake"}
DIGEST = command_digest("budgets.close_budget", INPUTS)
EXPIRES = AT + timedelta(days=3)
ESCALATES = AT + timedelta(hours=36)
REQUESTED = ApprovalRequested(
    approval_id="a1",
    type="action",
    description="Close the lake's budget",
    risk_level="medium",
    requester=ANALYST.actor,
    action_digest=DIGEST,
    command="budgets.close_budget",
    inputs=INPUTS,
    stream="budget:lake",
    seen_version=4,
    policy_version="p1",
    approver_roles=(Role.APPROVER,),
    quorum=1,
    escalates_at=ESCALATES,
    expires_at=EXPIRES,
)
OF_TWO = REQUESTED.model_copy(update={"quorum": 2})
BY_AGENT = REQUESTED.model_copy(update={"requester": AGENT.actor, "requester_owner": AGENT.owner})
SECOND = Asker("usr-app2", "acme", frozenset({Role.APPROVER}))
REQUEST = RequestApproval(
    approval_id="a1",
    description="Close the lake's budget",
    command="budgets.close_budget",
    inputs=INPUTS,
    stream="budget:lake",
    seen_version=4,
    policy_version="p1",
)
APPROVE = ApproveRequest(approval_id="a1")
REJECT = RejectRequest(approval_id="a1", comment="Not in the middle of the month")
WITHDRAW = WithdrawRequest(approval_id="a1")
EXPIRE = ExpireRequest(approval_id="a1")
ESCALATE = EscalateRequest(approval_id="a1")
VOID = VoidRequest(approval_id="a1", reason="The agent was stopped")
USE = UseApproval(approval_id="a1", action_digest=DIGEST, seen_version=4, policy_version="p1", approver_roles=(Role.APPROVER,), quorum=1)


def agreed(by: Asker = APPROVER) -> ApproverAgreed:
    return ApproverAgreed(approval_id="a1", approver=by.actor, roles=tuple(sorted(by.roles)))


GRANTED = ApprovalGranted(approval_id="a1", approvers=(APPROVER.actor,))
REJECTED = ApprovalRejected(approval_id="a1", approver=APPROVER.actor, roles=(Role.APPROVER,), comment=REJECT.comment)
WITHDRAWN = ApprovalWithdrawn(approval_id="a1")
EXPIRED = ApprovalExpired(approval_id="a1")
USED = ApprovalUsed(approval_id="a1", action_id=str(ACTION_ID), action_digest=DIGEST)
VOIDED = ApprovalVoided(approval_id="a1", reason=VOID.reason)
ESCALATED = ApprovalEscalated(approval_id="a1", to_roles=(Role.ADMIN,))


def asked(*history: Event) -> Given:
    """Where nobody decides for anybody else."""
    return given(APPROVALS, *history).beside(**{DELEGATIONS: Delegations()})


# Requesting


def test_a_request_names_the_digest_of_its_command_and_lives_three_days() -> None:
    asked().when(REQUEST).then(REQUESTED)


def test_the_digest_is_that_of_the_command_itself() -> None:
    command = OpenBudget(budget_id="lake", label="Läke", currency="EUR", limit_minor=100)
    described = REQUEST.model_copy(update={"command": command.command_name, "inputs": command.intent()})
    requested = asked().when(described).events[0]
    assert isinstance(requested, ApprovalRequested)
    assert requested.action_digest == command.digest()


def test_a_digest_alone_can_be_consented_to() -> None:
    command = RequestApproval(approval_id="a1", type="policy_change", description="Bundle 7", action_digest="ab" * 32)
    requested = asked().when(command).events[0]
    assert isinstance(requested, ApprovalRequested)
    assert (requested.action_digest, requested.command, requested.inputs) == ("ab" * 32, None, None)


def test_an_agent_requests_in_its_owners_name_too() -> None:
    requested = asked().by(AGENT).when(REQUEST).events[0]
    assert isinstance(requested, ApprovalRequested)
    assert (requested.requester, requested.requester_owner) == ("agt-bot", "usr-ana")


def test_an_expiry_in_another_time_zone_is_kept_in_utc() -> None:
    local = datetime.fromisoformat("2026-03-04T15:00:00+02:00")
    requested = asked().when(REQUEST.model_copy(update={"expires_at": local})).events[0]
    assert isinstance(requested, ApprovalRequested)
    assert (requested.expires_at, requested.expires_at.tzinfo) == (local, UTC)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"command": None, "inputs": {}}, "action_unnamed", "action_digest"),
        ({"command": None, "action_digest": "ab" * 32}, "action_unnamed", "action_digest"),
        ({"action_digest": "ab" * 32}, "action_digest_differs", "action_digest"),
        ({"approver_roles": (Role.AGENT, Role.APPROVER)}, "approver_role_unfit", "approver_roles"),
        ({"expires_at": AT}, "expiry_out_of_range", "expires_at"),
        ({"expires_at": AT + LONGEST_LIFETIME + timedelta(seconds=1)}, "expiry_out_of_range", "expires_at"),
        ({"escalates_at": AT}, "escalation_out_of_range", "escalates_at"),
        ({"escalates_at": EXPIRES}, "escalation_out_of_range", "escalates_at"),
        ({"seen_version": None}, "seen_version_missing", "seen_version"),
    ],
)
def test_a_request_is_refused(change: dict[str, Any], code: str, field: str) -> None:
    asked().when(REQUEST.model_copy(update=change)).refused(code, field=field)


def test_a_request_never_changes() -> None:
    asked(REQUESTED).when(REQUEST).refused("approval_exists", field="approval_id")


@pytest.mark.parametrize("command", [APPROVE, REJECT, WITHDRAW, EXPIRE, ESCALATE, VOID, USE])
def test_what_nobody_requested_cannot_be_decided(command: Any) -> None:
    asked().by(APPROVER).when(command).refused("approval_not_found", field="approval_id")


# Deciding


def test_the_quorum_of_one_grants_at_once() -> None:
    asked(REQUESTED).by(APPROVER).when(APPROVE).then(agreed(), GRANTED)


def test_a_quorum_of_two_takes_two_people() -> None:
    asked(OF_TWO).by(APPROVER).when(APPROVE).then(agreed())
    asked(OF_TWO, agreed()).by(APPROVER).when(APPROVE).refused("already_agreed", agreed=["usr-app"], quorum=2)
    granted = ApprovalGranted(approval_id="a1", approvers=("usr-app", "usr-app2"))
    asked(OF_TWO, agreed()).by(SECOND).when(APPROVE).then(agreed(SECOND), granted)


def test_a_comment_is_kept() -> None:
    expected = agreed().model_copy(update={"comment": "Checked with finance"})
    asked(REQUESTED).by(APPROVER).when(ApproveRequest(approval_id="a1", comment="Checked with finance")).then(expected, GRANTED)


def test_one_no_settles_it() -> None:
    asked(OF_TWO, agreed()).by(SECOND).when(REJECT).then(REJECTED.model_copy(update={"approver": "usr-app2"}))


def test_an_approver_who_agreed_may_still_stop_it_before_the_quorum() -> None:
    asked(OF_TWO, agreed()).by(APPROVER).when(REJECT).then(REJECTED)


def test_a_rejection_says_why() -> None:
    asked(REQUESTED).by(APPROVER).when(RejectRequest(approval_id="a1", comment="  ")).refused("comment_required", field="comment")


BOTH_ROLES = frozenset({Role.AGENT, Role.APPROVER})
ANALYST_AS_APPROVER = replace(ANALYST, roles=frozenset({Role.ANALYST, Role.APPROVER}))
AGENT_OF_THE_REQUESTER = replace(AGENT, roles=BOTH_ROLES)
SERVICE_OF_THE_REQUESTER = Asker("svc-ci", "acme", frozenset({Role.APPROVER}), ActorKind.SERVICE, owner=ANALYST.actor)
BOT_OF_THE_MANAGER = Asker("agt-mgr", "acme", BOTH_ROLES, ActorKind.AGENT, owner=APPROVER.actor)
SIBLING_AGENT = Asker("agt-two", "acme", BOTH_ROLES, ActorKind.AGENT, owner=ANALYST.actor)


@pytest.mark.parametrize("decision", [APPROVE, REJECT])
@pytest.mark.parametrize(
    ("request_", "by", "code"),
    [
        (REQUESTED, ANALYST_AS_APPROVER, "approver_is_requester"),
        (REQUESTED, AGENT_OF_THE_REQUESTER, "approver_is_requester"),
        (REQUESTED, SERVICE_OF_THE_REQUESTER, "approver_is_requester"),
        (BY_AGENT, AGENT_OF_THE_REQUESTER, "approver_is_requester"),
        (BY_AGENT, ANALYST_AS_APPROVER, "approver_is_requester"),
        (BY_AGENT, SIBLING_AGENT, "approver_is_requester"),
        (REQUESTED, BOT_OF_THE_MANAGER, "approver_not_a_person"),
        (REQUESTED, ADMIN, "approver_role_missing"),
    ],
)
def test_only_an_independent_person_of_the_right_role_decides(request_: ApprovalRequested, by: Asker, code: str, decision: Any) -> None:
    asked(request_).by(by).when(decision).refused(code)


@pytest.mark.parametrize("command", [APPROVE, REJECT])
@pytest.mark.parametrize(
    ("history", "code", "facts"),
    [
        ((agreed(), GRANTED), "approval_not_pending", {"approval_status": "approved"}),
        ((REJECTED,), "approval_not_pending", {"approval_status": "rejected"}),
        ((WITHDRAWN,), "approval_not_pending", {"approval_status": "withdrawn"}),
        ((EXPIRED,), "approval_expired", {"field": "approval_id"}),
        ((VOIDED,), "approval_voided", {"field": "approval_id"}),
        ((agreed(), GRANTED, USED), "approval_used", {"field": "approval_id"}),
    ],
)
def test_what_is_settled_stays_so(history: tuple[Event, ...], code: str, facts: dict[str, str], command: Any) -> None:
    asked(REQUESTED, *history).by(SECOND).when(command).refused(code, **facts)


@pytest.mark.parametrize("command", [APPROVE, REJECT])
def test_time_settles_it_though_nobody_recorded_that(command: Any) -> None:
    expired = asked(REQUESTED).by(APPROVER).at(EXPIRES).when(command)
    expired.refused("approval_expired", expires_at="2026-03-06T14:00:00.000000Z")


# Waiting too long


def test_after_half_of_its_life_administrators_may_decide_too() -> None:
    asked(OF_TWO, agreed()).by(ADMIN).at(ESCALATES).when(APPROVE).refused("approver_role_missing")
    asked(OF_TWO, agreed()).by(AGENT).at(ESCALATES).when(ESCALATE).then(ESCALATED)
    granted = ApprovalGranted(approval_id="a1", approvers=("usr-app", "usr-adm"))
    asked(OF_TWO, agreed(), ESCALATED).by(ADMIN).at(ESCALATES).when(APPROVE).then(agreed(ADMIN), granted)
    asked(OF_TWO, agreed(), ESCALATED, agreed(ADMIN), granted).when(USE.model_copy(update={"quorum": 2})).then(USED)


def test_escalation_takes_nothing_off_the_quorum() -> None:
    asked(OF_TWO, ESCALATED).by(ADMIN).at(ESCALATES).when(APPROVE).then(agreed(ADMIN))
    asked(OF_TWO, ESCALATED, agreed(ADMIN)).when(USE).refused("approval_not_granted", quorum=2)


def test_escalation_does_not_make_an_administrator_independent() -> None:
    requester = replace(ADMIN, roles=frozenset({Role.ADMIN, Role.ANALYST}))
    own = REQUESTED.model_copy(update={"requester": requester.actor})
    asked(own, ESCALATED).by(requester).at(ESCALATES).when(APPROVE).refused("approver_is_requester")


def test_a_request_says_itself_when_it_escalates() -> None:
    requested = asked().when(REQUEST.model_copy(update={"escalates_at": AT + timedelta(hours=1)})).events[0]
    assert isinstance(requested, ApprovalRequested)
    assert requested.escalates_at == AT + timedelta(hours=1)


def test_it_is_escalated_when_due_and_once() -> None:
    early = ESCALATES - timedelta(microseconds=1)
    asked(REQUESTED).by(ADMIN).at(early).when(ESCALATE).refused("escalation_not_due", escalates_at="2026-03-05T02:00:00.000000Z")
    asked(REQUESTED, ESCALATED).by(ADMIN).at(ESCALATES).when(ESCALATE).refused("approval_escalated", escalated_to=["admin"])
    never = REQUESTED.model_copy(update={"escalates_at": None})
    asked(never).by(ADMIN).at(ESCALATES).when(ESCALATE).refused("escalation_not_due", escalates_at=None)


@pytest.mark.parametrize(("last", "code"), [(WITHDRAWN, "approval_not_pending"), (VOIDED, "approval_voided"), (USED, "approval_used")])
def test_what_is_settled_is_not_escalated(last: Event, code: str) -> None:
    asked(REQUESTED, last).at(ESCALATES).when(ESCALATE).refused(code)


# Withdrawing, voiding and expiring


@pytest.mark.parametrize("history", [(), (agreed(), GRANTED)])
def test_the_requester_withdraws_it_until_it_is_used(history: tuple[Event, ...]) -> None:
    asked(REQUESTED, *history).when(WITHDRAW).then(WITHDRAWN)


def test_nobody_else_withdraws_it() -> None:
    asked(REQUESTED).by(ADMIN).when(WITHDRAW).refused("not_the_requester", requester="usr-ana")


def test_anybody_records_that_its_time_has_passed() -> None:
    asked(REQUESTED).by(AGENT).at(EXPIRES).when(EXPIRE).then(EXPIRED)
    asked(REQUESTED, agreed(), GRANTED).by(AGENT).at(EXPIRES).when(EXPIRE).then(EXPIRED)


def test_nobody_expires_it_early() -> None:
    early = EXPIRES - timedelta(microseconds=1)
    asked(REQUESTED).by(ADMIN).at(early).when(EXPIRE).refused("approval_not_expired", expires_at="2026-03-06T14:00:00.000000Z")


@pytest.mark.parametrize("history", [(), (agreed(), GRANTED)])
def test_an_administrator_voids_it_until_it_is_used(history: tuple[Event, ...]) -> None:
    asked(REQUESTED, *history).by(ADMIN).when(VOID).then(VOIDED)
    asked(REQUESTED, *history, VOIDED).when(USE).refused("approval_voided", field="approval_id")
    assert VoidRequest.roles == frozenset({Role.ADMIN})


@pytest.mark.parametrize("command", [WITHDRAW, EXPIRE, VOID])
@pytest.mark.parametrize("last", [REJECTED, WITHDRAWN, EXPIRED, VOIDED, USED])
def test_what_is_over_is_neither_withdrawn_nor_expired_nor_voided(last: Event, command: Any) -> None:
    asked(REQUESTED, last).at(EXPIRES).when(command).refused("approval_settled")


# Using


def test_the_approved_action_is_carried_out_once() -> None:
    asked(REQUESTED, agreed(), GRANTED).when(USE).then(USED)
    asked(REQUESTED, agreed(), GRANTED, USED).when(USE).refused("approval_used")


def test_no_role_may_use_an_approval_by_itself() -> None:
    assert UseApproval.roles == frozenset()


@pytest.mark.parametrize(("history", "status"), [((), "pending"), ((REJECTED,), "rejected"), ((WITHDRAWN,), "withdrawn")])
def test_only_a_granted_approval_is_used(history: tuple[Event, ...], status: str) -> None:
    asked(REQUESTED, *history).when(USE).refused("approval_not_granted", approval_status=status)


def test_an_agreement_short_of_the_quorum_is_not_a_grant() -> None:
    asked(OF_TWO, agreed()).when(USE).refused("approval_not_granted", agreed=["usr-app"], quorum=2)


def test_an_approval_is_of_no_use_once_it_expired() -> None:
    asked(REQUESTED, agreed(), GRANTED).at(EXPIRES).when(USE).refused("approval_expired")
    asked(REQUESTED, agreed(), GRANTED, EXPIRED).at(EXPIRES).when(USE).refused("approval_expired", field="approval_id")


def test_nobody_else_uses_it() -> None:
    asked(REQUESTED, agreed(), GRANTED).by(ADMIN).when(USE).refused("not_the_requester")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"action_digest": "ab" * 32}, "approval_is_for_another_action"),
        ({"policy_version": "p2"}, "policy_changed_since_approval"),
        ({"seen_version": 5}, "entity_changed_since_approval"),
        ({"quorum": 2}, "approval_too_weak"),
        ({"approver_roles": (Role.ADMIN,)}, "approval_too_weak"),
    ],
)
def test_an_approval_covers_this_action_under_these_policies_alone(change: dict[str, Any], code: str) -> None:
    asked(REQUESTED, agreed(), GRANTED).when(USE.model_copy(update=change)).refused(code)


def test_a_change_since_is_told_with_both_versions_and_the_way_out() -> None:
    refusal = asked(REQUESTED, agreed(), GRANTED).when(USE.model_copy(update={"seen_version": 6})).refusal
    assert refusal is not None
    assert (refusal.facts["approved_version"], refusal.facts["seen_version"]) == (4, 6)
    assert "budget:lake at version 4; it is at 6" in refusal.message
    assert "a new one requested" in refusal.facts["remedy"]


def test_a_request_from_before_versions_were_seen_is_bound_to_none_and_never_escalates() -> None:
    stored = json.loads((EVENT_SAMPLES / "approvals.approval_requested.v1.json").read_text())
    old = ApprovalRequested.load(stored, 1)
    assert (old.seen_version, old.escalates_at) == (None, None)
    assert old.dump() == stored, "what was absent stays absent"


def test_where_the_stream_is_not_known_consent_is_to_the_digest_under_the_policies() -> None:
    unseen = REQUEST.model_copy(update={"stream": None, "seen_version": None})
    requested = asked().when(unseen).events
    asked(*requested, agreed(), GRANTED).when(USE.model_copy(update={"seen_version": 9})).then(USED)


def test_consent_to_a_bare_digest_carries_no_command_out() -> None:
    unnamed = REQUESTED.model_copy(update={"command": None, "inputs": None})
    asked(unnamed, agreed(), GRANTED).when(USE).refused("approval_is_for_another_action")


def test_consent_without_a_policy_version_carries_no_command_out() -> None:
    timeless = REQUESTED.model_copy(update={"policy_version": None})
    asked(timeless, agreed(), GRANTED).when(USE).refused("policy_changed_since_approval")


# The read model


ONLY_APPROVALS = Projection("approvals", (approvals,))
PARKED = ActionParked(
    intent=Intent(
        command="budgets.close_budget",
        digest=DIGEST,
        stream="budget:lake",
        seen_version=4,
        roles=(Role.ANALYST,),
        kind=ActorKind.PERSON,
        inputs=INPUTS,
    ),
    policy_version="p1",
    policy_results=(PolicyResult(policy="budgets", outcome="require_approval", reason="It closes a budget."),),
    approval_id="a1",
    approver_roles=(Role.APPROVER,),
)


def record(*events: ApprovalEvent | ActionParked) -> list[Recorded[ApprovalEvent | ActionParked]]:
    return [
        Recorded(
            position=10 + version,
            tenant="acme",
            stream="approval:a1",
            version=version,
            id=UUID(int=version),
            at=AT + timedelta(minutes=version - 1),
            actor="usr-ana",
            correlation=UUID(int=99),
            causation=ACTION_ID,
            event=event,
        )
        for version, event in enumerate(events, 1)
    ]


def row_after(*events: ApprovalEvent | ActionParked) -> ApprovalRow:
    row = replay(ONLY_APPROVALS, record(*events))[("approvals", "acme", "a1")]
    assert isinstance(row, ApprovalRow)
    return row


def test_a_request_is_read_with_all_that_an_approver_needs() -> None:
    row = row_after(REQUESTED)
    assert (row.status, row.requester, row.risk_level, row.approver_roles, row.quorum) == ("pending", "usr-ana", "medium", ["approver"], 1)
    assert (row.command, row.inputs, row.action_digest, row.policy_version) == ("budgets.close_budget", INPUTS, DIGEST, "p1")
    assert (row.stream, row.seen_version) == ("budget:lake", 4)
    assert (row.evidence_action_id, row.evidence) == (str(ACTION_ID), f"/v1/evidence/{ACTION_ID}")
    assert (row.escalates_at, row.expires_at) == ("2026-03-05T02:00:00.000000Z", "2026-03-06T14:00:00.000000Z")


def test_a_parked_action_says_why_it_was_parked() -> None:
    row = row_after(REQUESTED, PARKED)
    assert row.policy_results == [{"policy": "budgets", "outcome": "require_approval", "reason": "It closes a budget."}]


def test_it_is_read_to_whom_it_was_escalated_and_why_it_was_voided() -> None:
    row = row_after(REQUESTED, ESCALATED, VOIDED)
    assert (row.escalated_to, row.escalated_at) == (["admin"], "2026-03-03T14:01:00.000000Z")
    assert (row.status, row.void_reason) == ("voided", "The agent was stopped")


def test_decisions_are_read_with_comment_and_time() -> None:
    row = row_after(OF_TWO, agreed().model_copy(update={"approver": "usr-ben", "on_behalf_of": "usr-app"}), REJECTED)
    assert (row.status, row.agreed_count) == ("rejected", 1)
    assert row.decisions == [
        {
            "approver": "usr-ben",
            "on_behalf_of": "usr-app",
            "decision": "agreed",
            "roles": ["approver"],
            "comment": None,
            "at": "2026-03-03T14:01:00.000000Z",
        },
        {
            "approver": "usr-app",
            "on_behalf_of": None,
            "decision": "rejected",
            "roles": ["approver"],
            "comment": "Not in the middle of the month",
            "at": "2026-03-03T14:02:00.000000Z",
        },
    ]


def test_a_used_approval_names_the_action_it_carried_out() -> None:
    row = row_after(REQUESTED, agreed(), GRANTED, USED)
    assert (row.status, row.used_by_action, row.used_at) == ("used", str(ACTION_ID), "2026-03-03T14:03:00.000000Z")


@pytest.mark.parametrize(("last", "status"), [(WITHDRAWN, "withdrawn"), (EXPIRED, "expired"), (GRANTED, "approved")])
def test_the_status_follows_the_events(last: ApprovalEvent, status: str) -> None:
    assert row_after(REQUESTED, agreed(), last).status == status
