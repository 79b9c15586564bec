"""Whose word counts on a request: a person's, in the right role, independent of whoever asked - their own, or of one who delegated."""

from dataclasses import dataclass

from commands.approvals.intents import ApproveRequest, RejectRequest, actor_stream
from domain.access import Registration
from domain.approvals import DELEGATIONS, Approval, ApprovalRequested, Delegations
from domain.kernel import Asked, require
from domain.values import ActorKind, Role


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks, for whom if not for themselves, and the roles in which that counts."""

    approver: str
    on_behalf_of: str | None
    roles: tuple[Role, ...]

    @property
    def people(self) -> frozenset[str]:
        return frozenset({self.approver, self.on_behalf_of or self.approver})


def voice(approval: Approval, request: ApprovalRequested, command: ApproveRequest | RejectRequest, asked: Asked) -> Voice:
    """The voice of whoever asks; Refused when it does not count on this request."""
    delegations: Delegations = asked.others[DELEGATIONS]
    principal = command.on_behalf_of
    _require_independent(request, {asked.by.actor, asked.by.owner or asked.by.actor, principal or asked.by.actor}, delegations, asked)
    require(
        asked.by.kind is ActorKind.PERSON,
        "approver_not_a_person",
        f"Only people approve or reject; {asked.by.actor} is of kind {asked.by.kind.value}.",
        remedy="A person of the approvers' roles has to decide.",
    )
    roles = asked.by.roles if principal is None else _delegated_roles(request, principal, delegations, asked)
    wanted = {*request.approver_roles, *approval.escalated_to}
    require(
        not roles.isdisjoint(wanted),
        "approver_role_missing",
        f"Deciding on approval {request.approval_id} takes one of the roles {', '.join(sorted(wanted))}.",
        approver_roles=sorted(wanted),
        roles=sorted(roles),
        remedy="Somebody with one of these roles has to decide.",
    )
    return Voice(asked.by.actor, principal, tuple(sorted(roles)))


def _require_independent(request: ApprovalRequested, people: set[str], delegations: Delegations, asked: Asked) -> None:
    """Four eyes: neither the requester nor whoever answers for it, nor what either of them owns, nor who stands in for them."""
    interested = {one for one in (request.requester, request.requester_owner) if one is not None}
    require(
        people.isdisjoint(interested),
        "approver_is_requester",
        "Whoever requested it, the owner of the agent that did, and what either of them owns cannot judge it.",
        requester=request.requester,
        requester_owner=request.requester_owner,
        remedy="Somebody independent has to decide.",
    )
    tied = sorted(people & delegations.delegates_of(interested, asked.at))
    require(
        not tied,
        "approver_is_delegate",
        f"{', '.join(tied)} stands in for the requester or the owner of the agent that requested it, and cannot judge it.",
        requester=request.requester,
        requester_owner=request.requester_owner,
        delegates=tied,
        remedy="Somebody independent has to decide.",
    )


def _delegated_roles(request: ApprovalRequested, principal: str, delegations: Delegations, asked: Asked) -> frozenset[Role]:
    """What the other may do now, not what they could when they delegated it."""
    require(
        delegations.cover(asked.by.actor, principal, request, asked.at),
        "not_delegated",
        f"{principal} has not delegated decisions like this one (type {request.type}, {request.risk_level} risk) to {asked.by.actor}.",
        field="on_behalf_of",
        type=request.type,
        risk_level=request.risk_level,
        remedy="Look at the delegations' types, risk and times; decide for yourself, or have it delegated.",
    )
    registration: Registration = asked.others[actor_stream(principal)]
    actor = registration.actor
    require(
        actor is not None and not actor.suspended,
        "delegator_cannot_act",
        f"{principal} is not registered here, or suspended: nobody can act for them.",
        field="on_behalf_of",
        remedy="Somebody else has to decide.",
    )
    assert actor is not None
    require(
        actor.domains is None or asked.domains <= actor.domains,
        "delegator_outside_reach",
        f"{principal} does not reach all of what this is about: {', '.join(sorted(asked.domains))}.",
        field="on_behalf_of",
        domains=sorted(asked.domains),
        remedy="Decide for yourself, or for somebody who reaches that domain.",
    )
    return actor.roles
