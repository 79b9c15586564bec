"""Approvals: who may consent to what, what is refused, and the law that an approval carries one action out, once, in time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import commands.approvals
from commands.approvals import (
    DECIDER,
    LONGEST_LIFETIME,
    ApproveRequest,
    ExpireRequest,
    RejectRequest,
    RequestApproval,
    UseApproval,
    WithdrawRequest,
)
from commands.budgets import OpenBudget
from domain.approvals import (
    ApprovalEvent,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalWithdrawn,
    ApproverAgreed,
)
from domain.kernel import Asked, Asker, Event, Recorded, Refused, command_digest, require
from domain.values import ActorKind, Role
from projections.approvals import PROJECTION, ApprovalRow
from projections.engine import replay
from tests.given import ACTION_ID, ADMIN, AGENT, ANALYST, APPROVER, AT, Given, given

INPUTS = {"budget_id": "lake"}
DIGEST = command_digest("budgets.close_budget", INPUTS)
EXPIRES = AT + timedelta(days=3)
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
    policy_version="p1",
    approver_roles=(Role.APPROVER,),
    quorum=1,
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
    policy_version="p1",
)
APPROVE = ApproveRequest(approval_id="a1")
REJECT = RejectRequest(approval_id="a1", comment="Not in the middle of the month")
WITHDRAW = WithdrawRequest(approval_id="a1")
EXPIRE = ExpireRequest(approval_id="a1")
USE = UseApproval(approval_id="a1", action_digest=DIGEST, policy_version="p1", approver_roles=(Role.APPROVER,), quorum=1)


def agreed(by: Asker = APPROVER) -> ApproverAgreed:
    return ApproverAgreed(approval_id="a1", approver=by.actor, roles=tuple(sorted(by.roles)))


GRANTED = ApprovalGranted(approval_id="a1", approvers=(APPROVER.actor,))
REJECTED = ApprovalRejected(approval_id="a1", approver=APPROVER.actor, roles=(Role.APPROVER,), comment=REJECT.comment)
WITHDRAWN = ApprovalWithdrawn(approval_id="a1")
EXPIRED = ApprovalExpired(approval_id="a1")
USED = ApprovalUsed(approval_id="a1", action_id=str(ACTION_ID), action_digest=DIGEST)


def asked(*history: Event) -> Given:
    return given(DECIDER, *history)


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
    ],
)
def test_a_request_is_refused(change: dict[str, Any], code: str, field: str) -> None:
    asked().when(REQUEST.model_copy(update=change)).refused(code, field=field)


def test_a_request_never_changes() -> None:
    asked(REQUESTED).when(REQUEST).refused("approval_exists", field="approval_id")


@pytest.mark.parametrize("command", [APPROVE, REJECT, WITHDRAW, EXPIRE, USE])
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
    ("history", "status"),
    [
        ((agreed(), GRANTED), "approved"),
        ((REJECTED,), "rejected"),
        ((WITHDRAWN,), "withdrawn"),
        ((EXPIRED,), "expired"),
        ((agreed(), GRANTED, USED), "used"),
    ],
)
def test_what_is_settled_stays_so(history: tuple[Event, ...], status: str, command: Any) -> None:
    asked(REQUESTED, *history).by(SECOND).when(command).refused("approval_not_pending", approval_status=status)


@pytest.mark.parametrize("command", [APPROVE, REJECT])
def test_time_settles_it_though_nobody_recorded_that(command: Any) -> None:
    expired = asked(REQUESTED).by(APPROVER).at(EXPIRES).when(command)
    expired.refused("approval_expired", expires_at="2026-03-06T14:00:00.000000Z")


# Withdrawing and expiring


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


@pytest.mark.parametrize("command", [WITHDRAW, EXPIRE])
@pytest.mark.parametrize("last", [REJECTED, WITHDRAWN, EXPIRED, USED])
def test_what_is_over_is_neither_withdrawn_nor_expired(last: Event, command: Any) -> None:
    asked(REQUESTED, last).at(EXPIRES).when(command).refused("approval_settled")


# Using


def test_the_approved_action_is_carried_out_once() -> None:
    asked(REQUESTED, agreed(), GRANTED).when(USE).then(USED)
    asked(REQUESTED, agreed(), GRANTED, USED).when(USE).refused("approval_used")


def test_no_role_may_use_an_approval_by_itself() -> None:
    assert UseApproval.roles == frozenset()


@pytest.mark.parametrize(
    ("history", "status"), [((), "pending"), ((REJECTED,), "rejected"), ((WITHDRAWN,), "withdrawn"), ((EXPIRED,), "expired")]
)
def test_only_a_granted_approval_is_used(history: tuple[Event, ...], status: str) -> None:
    asked(REQUESTED, *history).when(USE).refused("approval_not_granted", approval_status=status)


def test_an_agreement_short_of_the_quorum_is_not_a_grant() -> None:
    asked(OF_TWO, agreed()).when(USE).refused("approval_not_granted", agreed=["usr-app"], quorum=2)


def test_an_approval_is_of_no_use_once_it_expired() -> None:
    asked(REQUESTED, agreed(), GRANTED).at(EXPIRES).when(USE).refused("approval_expired")


def test_nobody_else_uses_it() -> None:
    asked(REQUESTED, agreed(), GRANTED).by(ADMIN).when(USE).refused("not_the_requester")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"action_digest": "ab" * 32}, "approval_is_for_another_action"),
        ({"policy_version": "p2"}, "policy_changed_since_approval"),
        ({"quorum": 2}, "approval_too_weak"),
        ({"approver_roles": (Role.ADMIN,)}, "approval_too_weak"),
    ],
)
def test_an_approval_covers_this_action_under_these_policies_alone(change: dict[str, Any], code: str) -> None:
    asked(REQUESTED, agreed(), GRANTED).when(USE.model_copy(update=change)).refused(code)


def test_consent_to_a_bare_digest_carries_no_command_out() -> None:
    unnamed = REQUESTED.model_copy(update={"command": None, "inputs": None})
    asked(unnamed, agreed(), GRANTED).when(USE).refused("approval_is_for_another_action")


def test_consent_without_a_policy_version_carries_no_command_out() -> None:
    timeless = REQUESTED.model_copy(update={"policy_version": None})
    asked(timeless, agreed(), GRANTED).when(USE).refused("policy_changed_since_approval")


# The law

ACTORS = (ANALYST_AS_APPROVER, AGENT_OF_THE_REQUESTER, BOT_OF_THE_MANAGER, APPROVER, SECOND, ADMIN)
CHANGES: tuple[dict[str, Any], ...] = ({}, {"action_digest": "ab" * 32}, {"policy_version": "p2"}, {"quorum": 2})


class ApprovalLaw(RuleBasedStateMachine):
    """An approval is used at most once, by its requester, for its own action and policies, in time, and only after a quorum
    of distinct, independent people agreed; nothing follows its use, rejection, withdrawal or expiry.

    The law is written over the history alone; it shares nothing with the decider's guards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = AT
        self.quorum = 0
        self.history: list[tuple[datetime, Asker, ApprovalEvent]] = []

    def ask(self, by: Asker, command: Any) -> None:
        state = DECIDER.replay(event for _, _, event in self.history)
        try:
            events = DECIDER.decide(state, command, Asked(by, self.now, ACTION_ID))
        except Refused:
            return
        over = (ApprovalRejected, ApprovalWithdrawn, ApprovalExpired, ApprovalUsed)
        assert not any(isinstance(event, over) for _, _, event in self.history), "something happened after it was over"
        self.history.extend((self.now, by, event) for event in events)

    @initialize(quorum=st.integers(1, 2))
    def request(self, quorum: int) -> None:
        self.quorum = quorum
        self.ask(ANALYST_AS_APPROVER, REQUEST.model_copy(update={"quorum": quorum}))

    @rule(by=st.sampled_from(ACTORS))
    def approve(self, by: Asker) -> None:
        self.ask(by, APPROVE)

    @rule(by=st.sampled_from(ACTORS), ending=st.sampled_from((REJECT, WITHDRAW, EXPIRE)))
    def end(self, by: Asker, ending: Any) -> None:
        self.ask(by, ending)

    @precondition(lambda self: self.now < EXPIRES)
    @rule(days=st.sampled_from((1, 3)))
    def wait(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule(by=st.sampled_from((ANALYST_AS_APPROVER, ANALYST_AS_APPROVER, ADMIN)), change=st.sampled_from(CHANGES))
    def use(self, by: Asker, change: dict[str, Any]) -> None:
        before, command = list(self.history), USE.model_copy(update=change)
        self.ask(by, command)
        if len(self.history) == len(before):
            return
        assert self.now < EXPIRES, "used after its expiry"
        used_for = (by.actor, command.action_digest, command.policy_version)
        assert used_for == (ANALYST.actor, DIGEST, "p1"), "used by another, for another action or under other policies"
        votes = [(at, voter) for at, voter, event in before if isinstance(event, ApproverAgreed)]
        assert all(at < EXPIRES for at, _ in votes), "somebody agreed after its expiry"
        assert all(voter in (APPROVER, SECOND) for _, voter in votes), "somebody agreed who may not"
        assert len({voter.actor for _, voter in votes}) >= max(self.quorum, command.quorum), "used without a quorum of distinct people"


QUICK = settings(max_examples=60, stateful_step_count=25, deadline=None)
THOROUGH = settings(QUICK, max_examples=3_000, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False)


def test_the_law_holds() -> None:
    run_state_machine_as_test(ApprovalLaw, settings=QUICK)


def without(guard: str) -> Callable[..., None]:
    """`require` as it would be with one guard deleted."""

    def lenient(condition: bool, code: str, message: str, **facts: Any) -> None:
        require(condition or code == guard, code, message, **facts)

    return lenient


@pytest.mark.parametrize(
    "guard",
    [
        "approver_is_requester",
        "approver_not_a_person",
        "approver_role_missing",
        "already_agreed",
        "approval_expired",
        "approval_not_granted",
        "approval_not_pending",
        "approval_settled",
        "approval_is_for_another_action",
        "policy_changed_since_approval",
        "approval_too_weak",
        "not_the_requester",
    ],
)
def test_the_law_notices_a_deleted_guard(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.approvals, "require", without(guard))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(ApprovalLaw, settings=THOROUGH)


# The read model


def record(*events: ApprovalEvent) -> list[Recorded[ApprovalEvent]]:
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


def row_after(*events: ApprovalEvent) -> ApprovalRow:
    row = replay(PROJECTION, record(*events))[("approvals", "acme", "a1")]
    assert isinstance(row, ApprovalRow)
    return row


def test_a_request_is_read_with_all_that_an_approver_needs() -> None:
    row = row_after(REQUESTED)
    assert (row.status, row.requester, row.risk_level, row.approver_roles, row.quorum) == ("pending", "usr-ana", "medium", ["approver"], 1)
    assert (row.command, row.inputs, row.action_digest, row.policy_version) == ("budgets.close_budget", INPUTS, DIGEST, "p1")
    assert (row.evidence_action_id, row.expires_at) == (str(ACTION_ID), "2026-03-06T14:00:00.000000Z")


def test_decisions_are_read_with_comment_and_time() -> None:
    row = row_after(OF_TWO, agreed(), REJECTED)
    assert (row.status, row.agreed_count) == ("rejected", 1)
    assert row.decisions == [
        {"approver": "usr-app", "decision": "agreed", "roles": ["approver"], "comment": None, "at": "2026-03-03T14:01:00.000000Z"},
        {
            "approver": "usr-app",
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


def test_every_event_of_the_context_is_read() -> None:
    assert set(PROJECTION.folds) == set(DECIDER.events)
