"""Delegated authority: who may let whom decide for them, what such a decision counts, and whom it can never make independent."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from commands.approvals import (
    APPROVALS,
    AUTHORITY,
    LONGEST_DELEGATION,
    ApproveRequest,
    DelegateAuthority,
    RejectRequest,
    RevokeAuthority,
)
from domain.access import Actor, Registration
from domain.approvals import (
    DELEGATIONS,
    ApprovalEscalated,
    ApprovalGranted,
    ApprovalRejected,
    ApproverAgreed,
    AuthorityDelegated,
    AuthorityEvent,
    AuthorityRevoked,
)
from domain.kernel import Asker, Event, Recorded
from domain.values import ActorKind, Role
from projections.approvals import DelegationRow, delegations
from projections.engine import Projection, replay
from tests.given import ACTION_ID, ADMIN, AGENT, ANALYST, APPROVER, AT, Given, given
from tests.test_approvals import BY_AGENT, OF_TWO, REQUESTED, SECOND, agreed

BEN = Asker("usr-ben", "acme", frozenset({Role.ANALYST}))
CEM = Asker("usr-cem", "acme", frozenset({Role.VIEWER}))
ENDS = AT + timedelta(days=14)
DELEGATE = DelegateAuthority(delegate="usr-ben", ends_at=ENDS)
DELEGATED = AuthorityDelegated(
    delegation_id=str(ACTION_ID), delegator="usr-app", delegate="usr-ben", risk_up_to="high", starts_at=AT, ends_at=ENDS
)
TO_CEM = DELEGATED.model_copy(update={"delegation_id": "d2", "delegate": "usr-cem"})
REVOKED = AuthorityRevoked(delegation_id=str(ACTION_ID))
FOR_APP = ApproveRequest(approval_id="a1", on_behalf_of="usr-app")
BY_BEN_FOR_APP = ApproverAgreed(approval_id="a1", approver="usr-ben", on_behalf_of="usr-app", roles=(Role.APPROVER,))


def registered(asker: Asker, *, suspended: bool = False) -> Registration:
    return Registration(Actor(asker.actor, asker.kind, asker.roles, asker.owner, suspended))


def authority(*history: AuthorityEvent, delegate: Registration | None = None) -> Given:
    """The authority to approve, where somebody who is to be a delegate is registered so."""
    known = registered(BEN) if delegate is None else delegate
    return given(AUTHORITY, *history).by(APPROVER).beside(**{"actor:usr-ben": known, "actor:usr-app": known})


def deciding(
    *history: Event, by: Asker, delegated: Iterable[AuthorityEvent] = (DELEGATED,), delegator: Registration | None = None
) -> Given:
    """A request that somebody decides on, under these delegations; whoever they may speak for is registered so."""
    others = {DELEGATIONS: AUTHORITY.replay(delegated), "actor:usr-app": registered(APPROVER) if delegator is None else delegator}
    others["actor:usr-ana"] = registered(replace(ANALYST, roles=frozenset({Role.APPROVER})))
    return given(APPROVALS, *history).by(by).beside(**others)


# Delegating


def test_a_person_delegates_for_a_time() -> None:
    authority().when(DELEGATE).then(DELEGATED)


def test_a_delegation_can_be_narrowed_and_begin_later() -> None:
    starts = AT + timedelta(days=1)
    narrow = DELEGATE.model_copy(update={"types": ("pii_access", "action", "action"), "risk_up_to": "low", "starts_at": starts})
    expected = DELEGATED.model_copy(update={"types": ("action", "pii_access"), "risk_up_to": "low", "starts_at": starts})
    authority().when(narrow).then(expected)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"delegate": "usr-app"}, "delegate_is_delegator", "delegate"),
        ({"ends_at": AT}, "delegation_period", "ends_at"),
        ({"starts_at": AT - timedelta(days=3), "ends_at": AT - timedelta(days=1)}, "delegation_period", "ends_at"),
        ({"starts_at": ENDS}, "delegation_period", "ends_at"),
        ({"ends_at": AT + LONGEST_DELEGATION + timedelta(seconds=1)}, "delegation_period", "ends_at"),
    ],
)
def test_a_delegation_is_refused(change: dict[str, Any], code: str, field: str) -> None:
    authority().when(DELEGATE.model_copy(update=change)).refused(code, field=field)


def test_only_people_delegate() -> None:
    service = Asker("svc-ci", "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE, owner="usr-ben")
    authority().by(service).when(DELEGATE).refused("delegator_not_a_person")


@pytest.mark.parametrize("delegate", [Registration(), registered(BEN, suspended=True)])
def test_a_delegate_is_somebody_who_can_act(delegate: Registration) -> None:
    authority(delegate=delegate).when(DELEGATE).refused("delegate_cannot_act", field="delegate")


@pytest.mark.parametrize("by", [APPROVER, BEN, ADMIN])
def test_both_of_them_and_administrators_may_end_it(by: Asker) -> None:
    authority(DELEGATED).by(by).when(RevokeAuthority(delegation_id=str(ACTION_ID))).then(REVOKED)


def test_nobody_else_ends_it_and_nobody_twice() -> None:
    revoke = RevokeAuthority(delegation_id=str(ACTION_ID))
    authority(DELEGATED).by(CEM).when(revoke).refused("delegation_of_another", field="delegation_id")
    authority(DELEGATED, REVOKED).when(revoke).refused("delegation_not_found", field="delegation_id")


# Deciding for somebody else


def test_a_delegate_decides_in_the_roles_of_whoever_delegated() -> None:
    granted = ApprovalGranted(approval_id="a1", approvers=("usr-ben",))
    deciding(REQUESTED, by=BEN).when(FOR_APP).then(BY_BEN_FOR_APP, granted)
    rejected = ApprovalRejected(approval_id="a1", approver="usr-ben", on_behalf_of="usr-app", roles=(Role.APPROVER,), comment="No")
    deciding(REQUESTED, by=BEN).when(RejectRequest(approval_id="a1", on_behalf_of="usr-app", comment="No")).then(rejected)


def test_a_delegate_has_no_authority_of_their_own_by_it() -> None:
    deciding(REQUESTED, by=BEN).when(ApproveRequest(approval_id="a1")).refused("approver_role_missing")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"starts_at": AT + timedelta(seconds=1)}, "not_delegated"),
        ({"starts_at": AT - timedelta(days=2), "ends_at": AT}, "not_delegated"),
        ({"types": ("pii_access",)}, "not_delegated"),
        ({"risk_up_to": "low"}, "not_delegated"),
        ({"delegate": "usr-cem"}, "not_delegated"),
        ({"delegator": "usr-app2"}, "not_delegated"),
    ],
)
def test_a_delegation_covers_its_time_types_risk_and_people(change: dict[str, Any], code: str) -> None:
    delegated = [DELEGATED.model_copy(update=change)]
    deciding(REQUESTED, by=BEN, delegated=delegated).when(FOR_APP).refused(code, field="on_behalf_of", type="action", risk_level="medium")


def test_what_was_revoked_covers_nothing() -> None:
    deciding(REQUESTED, by=BEN, delegated=[DELEGATED, REVOKED]).when(FOR_APP).refused("not_delegated")


def test_delegated_authority_cannot_be_passed_on() -> None:
    passed_on = DELEGATED.model_copy(update={"delegation_id": "d2", "delegator": "usr-ben", "delegate": "usr-cem"})
    deciding(REQUESTED, by=CEM, delegated=[DELEGATED, passed_on]).when(FOR_APP).refused("not_delegated")


@pytest.mark.parametrize("delegator", [Registration(), registered(APPROVER, suspended=True)])
def test_nobody_acts_for_one_who_cannot_act(delegator: Registration) -> None:
    deciding(REQUESTED, by=BEN, delegator=delegator).when(FOR_APP).refused("delegator_cannot_act", field="on_behalf_of")


def test_who_lost_the_role_has_nothing_left_to_delegate() -> None:
    demoted = registered(replace(APPROVER, roles=frozenset({Role.VIEWER})))
    deciding(REQUESTED, by=BEN, delegator=demoted).when(FOR_APP).refused("approver_role_missing", roles=["viewer"])


def test_after_an_escalation_an_administrators_delegate_decides_too() -> None:
    admin = registered(replace(APPROVER, roles=frozenset({Role.ADMIN})))
    escalated = ApprovalEscalated(approval_id="a1", to_roles=(Role.ADMIN,))
    then = deciding(REQUESTED, escalated, by=BEN, delegator=admin).when(FOR_APP)
    assert [type(event) for event in then.events] == [ApproverAgreed, ApprovalGranted]


# One person is one vote


@pytest.mark.parametrize(
    ("first", "by", "command"),
    [
        (agreed(), BEN, FOR_APP),
        (BY_BEN_FOR_APP, APPROVER, ApproveRequest(approval_id="a1")),
        (BY_BEN_FOR_APP, CEM, FOR_APP),
        (BY_BEN_FOR_APP, replace(BEN, roles=frozenset({Role.APPROVER})), ApproveRequest(approval_id="a1")),
        (agreed(replace(BEN, roles=frozenset({Role.APPROVER}))), BEN, FOR_APP),
    ],
    ids=["delegator-delegate", "delegate-delegator", "two-delegates", "delegate-then-self", "self-then-delegate"],
)
def test_a_delegator_and_their_delegates_are_one_vote(first: Event, by: Asker, command: Any) -> None:
    deciding(OF_TWO, first, by=by, delegated=[DELEGATED, TO_CEM]).when(command).refused("already_agreed", quorum=2)


def test_two_delegates_of_two_people_are_two_votes() -> None:
    then = deciding(OF_TWO, BY_BEN_FOR_APP, by=SECOND).when(ApproveRequest(approval_id="a1"))
    assert [type(event) for event in then.events] == [ApproverAgreed, ApprovalGranted]


# Separation of duties holds through delegation

OF_ANA = DELEGATED.model_copy(update={"delegator": "usr-ana"})


@pytest.mark.parametrize("request_", [REQUESTED, BY_AGENT], ids=["of-a-person", "of-her-agent"])
@pytest.mark.parametrize("command", [ApproveRequest(approval_id="a1"), RejectRequest(approval_id="a1", comment="No")])
def test_who_stands_in_for_the_requester_or_the_agents_owner_does_not_decide(request_: Event, command: Any) -> None:
    approver = replace(BEN, roles=frozenset({Role.APPROVER}))
    deciding(request_, by=approver, delegated=[OF_ANA]).when(command).refused("approver_is_delegate", delegates=["usr-ben"])


@pytest.mark.parametrize("change", [{"types": ("pii_access",)}, {"risk_up_to": "low"}, {"starts_at": AT + timedelta(days=1)}])
def test_whatever_it_is_limited_to_a_delegation_makes_one_dependent(change: dict[str, Any]) -> None:
    approver = replace(BEN, roles=frozenset({Role.APPROVER}))
    delegated = [OF_ANA.model_copy(update=change)]
    deciding(REQUESTED, by=approver, delegated=delegated).when(ApproveRequest(approval_id="a1")).refused("approver_is_delegate")


def test_who_stood_in_for_the_requester_may_decide_once_that_is_over() -> None:
    approver = replace(BEN, roles=frozenset({Role.APPROVER}))
    over: list[list[AuthorityEvent]] = [[OF_ANA, REVOKED], [OF_ANA.model_copy(update={"ends_at": AT})]]
    for delegated in over:
        then = deciding(REQUESTED, by=approver, delegated=delegated).when(ApproveRequest(approval_id="a1"))
        assert [type(event) for event in then.events] == [ApproverAgreed, ApprovalGranted]


def test_nobody_decides_through_one_who_stands_in_for_the_requester() -> None:
    to_app = OF_ANA.model_copy(update={"delegation_id": "d2", "delegate": "usr-app"})
    deciding(REQUESTED, by=BEN, delegated=[DELEGATED, to_app]).when(FOR_APP).refused("approver_is_delegate", delegates=["usr-app"])


@pytest.mark.parametrize("request_", [REQUESTED, BY_AGENT], ids=["of-a-person", "of-her-agent"])
def test_nobody_decides_for_the_requester_or_the_agents_owner(request_: Event) -> None:
    for_ana = ApproveRequest(approval_id="a1", on_behalf_of="usr-ana")
    deciding(request_, by=BEN, delegated=[OF_ANA]).when(for_ana).refused("approver_is_requester")


def test_the_requester_decides_for_nobody() -> None:
    to_ana = DELEGATED.model_copy(update={"delegate": "usr-ana"})
    deciding(REQUESTED, by=ANALYST, delegated=[to_ana]).when(FOR_APP).refused("approver_is_requester")
    deciding(REQUESTED, by=AGENT, delegated=[to_ana]).when(FOR_APP).refused("approver_is_requester")


def test_a_decision_relies_on_who_stands_in_for_whom_and_on_the_roles_it_is_made_in() -> None:
    assert ApproveRequest(approval_id="a1").relies_on() == (DELEGATIONS,)
    assert RejectRequest(approval_id="a1", on_behalf_of="usr-app", comment="No").relies_on() == (DELEGATIONS, "actor:usr-app")
    assert DELEGATE.relies_on() == ("actor:usr-ben",)


# The read model


def test_a_delegation_is_read_until_after_it_was_revoked() -> None:
    history = [
        Recorded(
            position=version,
            tenant="acme",
            stream=DELEGATIONS,
            version=version,
            id=UUID(int=version),
            at=AT + timedelta(minutes=version),
            actor=actor,
            correlation=UUID(int=99),
            causation=ACTION_ID,
            event=event,
        )
        for version, (actor, event) in enumerate([("usr-app", DELEGATED), ("usr-adm", REVOKED)], 1)
    ]
    tables = Projection("approvals", (delegations,))
    key = ("delegations", "acme", str(ACTION_ID))
    standing, revoked = replay(tables, history[:1])[key], replay(tables, history)[key]
    assert isinstance(standing, DelegationRow)
    assert (standing.delegator, standing.delegate, standing.types, standing.status) == ("usr-app", "usr-ben", [], "standing")
    assert (standing.starts_at, standing.ends_at) == ("2026-03-03T14:00:00.000000Z", "2026-03-17T14:00:00.000000Z")
    assert (revoked.status, revoked.revoked_by, revoked.revoked_at) == ("revoked", "usr-adm", "2026-03-03T14:02:00.000000Z")
