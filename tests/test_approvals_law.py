"""The law of approvals: whatever is asked in whatever order, one is used at most once, and never without its quorum of
distinct people of the right role, none of whom is the requester, answers for the requester, or stands in for either."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from commands.approvals import (
    APPROVALS,
    AUTHORITY,
    ApproveRequest,
    DelegateAuthority,
    RevokeAuthority,
    delegating,
    rules,
    voices,
)
from domain.approvals import (
    DELEGATIONS,
    ApprovalEscalated,
    ApprovalEvent,
    ApprovalExpired,
    ApprovalRejected,
    ApprovalUsed,
    ApprovalVoided,
    ApprovalWithdrawn,
    ApproverAgreed,
    AuthorityDelegated,
    AuthorityEvent,
    AuthorityRevoked,
)
from domain.kernel import Asked, Asker, Refused, require
from domain.values import ActorKind, Role
from tests.given import ACTION_ID, ADMIN, AGENT, ANALYST, APPROVER, AT
from tests.test_approvals import DIGEST, ESCALATE, ESCALATES, EXPIRE, EXPIRES, REJECT, REQUEST, SECOND, USE, VOID, WITHDRAW
from tests.test_delegation import registered

ANA = replace(ANALYST, roles=frozenset({Role.ANALYST, Role.APPROVER}))
BOT_OF_ANA = replace(AGENT, roles=frozenset({Role.AGENT, Role.APPROVER}))
BOT_OF_THE_MANAGER = Asker("agt-mgr", "acme", frozenset({Role.AGENT, Role.APPROVER}), ActorKind.AGENT, owner=APPROVER.actor)
BEN = Asker("usr-ben", "acme", frozenset({Role.ANALYST}))
GONE = Asker("usr-gone", "acme", frozenset({Role.APPROVER}))
VOTERS = (ANA, BOT_OF_ANA, BOT_OF_THE_MANAGER, APPROVER, SECOND, BEN, ADMIN)
REGISTERED = {f"actor:{one.actor}": registered(one, suspended=one is GONE) for one in (*VOTERS, GONE)}
FOR_OTHERS = ((BEN, APPROVER), (SECOND, APPROVER), (BEN, GONE), (SECOND, ANA))
CHANGES: tuple[dict[str, Any], ...] = ({}, {}, {"action_digest": "ab" * 32}, {"policy_version": "p2"}, {"seen_version": 5}, {"quorum": 2})
MEANWHILE = (ESCALATE, REJECT, WITHDRAW, EXPIRE, VOID)
OVER = (ApprovalRejected, ApprovalWithdrawn, ApprovalExpired, ApprovalVoided, ApprovalUsed)


class ApprovalLaw(RuleBasedStateMachine):
    """The law is written over what happened alone; it shares nothing with the guards."""

    def __init__(self) -> None:
        super().__init__()
        self.now = AT
        self.quorum = 0
        self.requester = ANA
        self.history: list[tuple[datetime, Asker, ApprovalEvent]] = []
        self.given: list[tuple[datetime, Asker, AuthorityEvent]] = []

    def ask(self, by: Asker, command: Any) -> None:
        self.now += timedelta(microseconds=1)  # what happens later has a later time
        asked = Asked(by, self.now, ACTION_ID, others={**REGISTERED, DELEGATIONS: AUTHORITY.replay(event for _, _, event in self.given)})
        try:
            events = APPROVALS.decide(APPROVALS.replay(event for _, _, event in self.history), command, asked)
        except Refused:
            return
        assert not any(isinstance(event, OVER) for _, _, event in self.history), "something happened after it was over"
        self.history.extend((self.now, by, event) for event in events)

    def ask_authority(self, by: Asker, command: Any) -> None:
        self.now += timedelta(microseconds=1)
        asked = Asked(by, self.now, UUID(int=len(self.given) + 1), others=REGISTERED)
        try:
            events = AUTHORITY.decide(AUTHORITY.replay(event for _, _, event in self.given), command, asked)
        except Refused:
            return
        self.given.extend((self.now, by, event) for event in events)

    @initialize(quorum=st.integers(1, 2), requester=st.sampled_from((ANA, BOT_OF_ANA)))
    def request(self, quorum: int, requester: Asker) -> None:
        self.quorum, self.requester = quorum, requester
        self.ask(requester, REQUEST.model_copy(update={"quorum": quorum}))

    @rule(speaking=st.sampled_from([*((voter, None) for voter in VOTERS), *FOR_OTHERS]))
    def approve(self, speaking: tuple[Asker, Asker | None]) -> None:
        by, principal = speaking
        self.ask(by, ApproveRequest(approval_id="a1", on_behalf_of=principal.actor if principal else None))

    @rule(between=st.sampled_from(FOR_OTHERS), days=st.integers(1, 2), types=st.sampled_from(((), (), ("pii_access",))))
    def delegate(self, between: tuple[Asker, Asker], days: int, types: Any) -> None:
        to, by = between
        self.ask_authority(by, DelegateAuthority(delegate=to.actor, types=types, ends_at=self.now + timedelta(days=days)))

    @precondition(lambda self: self.given)
    @rule(last=st.booleans())
    def revoke(self, last: bool) -> None:
        self.ask_authority(ADMIN, RevokeAuthority(delegation_id=self.given[-1 if last else 0][2].delegation_id))

    @rule(days=st.sampled_from((0, 1, 2)), by=st.sampled_from((ANA, APPROVER, ADMIN)), command=st.sampled_from(MEANWHILE))
    def something_else(self, days: int, by: Asker, command: Any) -> None:
        self.now += timedelta(days=days)
        self.ask(by, command)

    @rule(by=st.sampled_from((None, None, ADMIN)), change=st.sampled_from(CHANGES))
    def use(self, by: Asker | None, change: dict[str, Any]) -> None:
        before, command, asker = list(self.history), USE.model_copy(update=change), by or self.requester
        self.ask(asker, command)
        if len(self.history) == len(before):
            return
        assert self.now < EXPIRES, "used after its expiry"
        used_for = (asker, command.action_digest, command.policy_version, command.seen_version)
        assert used_for == (self.requester, DIGEST, "p1", 4), "used by another, for another action or version, or under other policies"
        votes = [{event.approver, event.on_behalf_of or event.approver} for _, _, event in before if isinstance(event, ApproverAgreed)]
        assert all(one.isdisjoint(other) for one, other in combinations(votes, 2)), "one person was two votes"
        assert len(votes) >= max(self.quorum, command.quorum), "used without a quorum"

    @invariant()
    def every_vote_is_an_independent_persons_of_the_right_role(self) -> None:
        for at, voter, event in self.history[-2:]:
            if isinstance(event, ApproverAgreed):
                self.check_vote(at, voter, event)
            if isinstance(event, ApprovalEscalated):
                assert at >= ESCALATES, "escalated too early"

    def check_vote(self, at: datetime, voter: Asker, event: ApproverAgreed) -> None:
        principal = event.on_behalf_of or voter.actor
        people = {voter.actor, principal}
        standing = self.standing(at)
        assert at < EXPIRES, "somebody agreed after its expiry"
        assert voter.kind is ActorKind.PERSON, "something agreed that is no person"
        assert ANA.actor not in people, "the requester, or who answers for it, agreed"
        assert not any(one.delegator == ANA.actor and one.delegate in people for one in standing), "who stands in for the requester agreed"
        if principal != voter.actor:
            assert principal != GONE.actor, "somebody agreed for one who cannot act"
            covering = [one for one in standing if (one.delegator, one.delegate) == (principal, voter.actor) and not one.types]
            assert covering, "somebody agreed for another who had not let them"
        escalated = any(isinstance(happened, ApprovalEscalated) and when < at for when, _, happened in self.history)
        speaking = next(one for one in (*VOTERS, GONE) if one.actor == principal)
        assert speaking.roles & {Role.APPROVER, *([Role.ADMIN] if escalated else [])}, "somebody agreed who lacks the role"

    def standing(self, at: datetime) -> list[AuthorityDelegated]:
        revoked = {event.delegation_id for when, _, event in self.given if isinstance(event, AuthorityRevoked) and when < at}
        given = [event for when, _, event in self.given if isinstance(event, AuthorityDelegated) and when <= at < event.ends_at]
        return [event for event in given if event.delegation_id not in revoked]


QUICK = settings(max_examples=60, stateful_step_count=20, deadline=None)
THOROUGH = settings(QUICK, max_examples=6_000, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False)


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
        "approver_is_delegate",
        "approver_not_a_person",
        "approver_role_missing",
        "already_agreed",
        "not_delegated",
        "delegator_cannot_act",
        "escalation_not_due",
        "approval_expired",
        "approval_not_granted",
        "approval_not_pending",
        "approval_settled",
        "approval_is_for_another_action",
        "policy_changed_since_approval",
        "entity_changed_since_approval",
        "approval_too_weak",
        "not_the_requester",
    ],
)
def test_the_law_notices_a_deleted_guard(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rules, voices, delegating):
        monkeypatch.setattr(module, "require", without(guard))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(ApprovalLaw, settings=THOROUGH)
