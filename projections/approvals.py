"""Approvals as people read them: what is asked, by whom, who decided what and why, what became of it, and who decides for whom."""

from domain.actions import ActionParked
from domain.approvals import (
    ApprovalEscalated,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoided,
    ApprovalWithdrawn,
    ApproverAgreed,
    AuthorityDelegated,
    AuthorityRevoked,
    CarryOutRequested,
)
from domain.kernel import JsonObject, Recorded, timestamp
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class ApprovalRow:
    """One request. A pending or approved one is of no use after `expires_at`, whether its expiry is on record or not.

    `decisions` are `{approver, on_behalf_of, decision: agreed|rejected, roles, comment, at}`. `evidence` is the pack of the
    action `evidence_action_id` that asked for it: the parked action itself, whose `policy_results` say why it was parked,
    or the request that was made by hand. `seen_version` is that of `stream`: once it has moved, this approval covers nothing.
    With `carry_out` Aureus carries the command out on the requester's behalf once it is approved.
    """

    approval_id: str
    type: str
    status: str
    description: str
    risk_level: str
    requester: str
    requester_owner: str | None
    requested_at: str
    command: str | None
    inputs: JsonObject | None
    action_digest: str
    stream: str | None
    seen_version: int | None
    policy_version: str | None
    policy_results: list[JsonObject]
    approver_roles: list[str]
    escalated_to: list[str]
    quorum: int
    agreed_count: int
    decisions: list[JsonObject]
    evidence_action_id: str
    evidence: str
    escalates_at: str | None
    escalated_at: str | None
    expires_at: str
    carry_out: bool
    withdrawal_comment: str | None
    void_reason: str | None
    used_by_action: str | None
    used_at: str | None
    changed_at: str


@read_row
class DelegationRow:
    """One person's leave to decide for another, worth something from `starts_at` to `ends_at` unless it was `revoked`.

    It covers requests of the `types` named (none: of all) up to the risk `risk_up_to`.
    """

    delegation_id: str
    delegator: str
    delegate: str
    types: list[str]
    risk_up_to: str
    starts_at: str
    ends_at: str
    status: str
    comment: str | None
    delegated_at: str
    revoked_by: str | None
    revoked_at: str | None
    revocation_comment: str | None


approvals = ReadTable(
    "approvals",
    ApprovalRow,
    filters=("status", "type", "requester", "risk_level", "command", "stream", "approver_roles", "escalated_to"),
    sorts=("requested_at", "expires_at", "changed_at"),
    search=("approval_id", "description"),
)
delegations = ReadTable(
    "delegations",
    DelegationRow,
    filters=("delegator", "delegate", "status", "risk_up_to"),
    sorts=("starts_at", "ends_at", "delegated_at"),
)


@approvals.on(ApprovalRequested)
def requested(_row: None, recorded: Recorded[ApprovalRequested], approval_id: str) -> ApprovalRow:
    event, action_id = recorded.event, str(recorded.causation or recorded.correlation)
    return ApprovalRow(
        approval_id=approval_id,
        type=event.type,
        status="pending",
        description=event.description,
        risk_level=event.risk_level,
        requester=event.requester,
        requester_owner=event.requester_owner,
        requested_at=recorded.at_text,
        command=event.command,
        inputs=event.inputs,
        action_digest=event.action_digest,
        stream=event.stream,
        seen_version=event.seen_version,
        policy_version=event.policy_version,
        policy_results=[],
        approver_roles=[role.value for role in event.approver_roles],
        escalated_to=[],
        quorum=event.quorum,
        agreed_count=0,
        decisions=[],
        evidence_action_id=action_id,
        evidence=f"/v1/evidence/{action_id}",
        escalates_at=timestamp(event.escalates_at) if event.escalates_at else None,
        escalated_at=None,
        expires_at=timestamp(event.expires_at),
        carry_out=bool(event.carry_out),
        withdrawal_comment=None,
        void_reason=None,
        used_by_action=None,
        used_at=None,
        changed_at=recorded.at_text,
    )


def _parked_for(recorded: Recorded[ActionParked]) -> tuple[str, ...]:
    return (recorded.event.approval_id,)


@approvals.on(ActionParked, keys=_parked_for)
def parked(row: ApprovalRow, recorded: Recorded[ActionParked], _approval_id: str) -> ApprovalRow:
    """The action that waits for it, from the same commit: why the policies parked it."""
    return replace(row, policy_results=[result.model_dump(mode="json") for result in recorded.event.policy_results])


def _decision(recorded: Recorded[ApproverAgreed | ApprovalRejected], decision: str) -> JsonObject:
    event = recorded.event
    return {
        "approver": event.approver,
        "on_behalf_of": event.on_behalf_of,
        "decision": decision,
        "roles": [role.value for role in event.roles],
        "comment": event.comment,
        "at": recorded.at_text,
    }


@approvals.on(ApproverAgreed)
def agreed(row: ApprovalRow, recorded: Recorded[ApproverAgreed], _approval_id: str) -> ApprovalRow:
    decisions = [*row.decisions, _decision(recorded, "agreed")]
    return replace(row, agreed_count=row.agreed_count + 1, decisions=decisions, changed_at=recorded.at_text)


@approvals.on(CarryOutRequested)
def to_be_carried_out(row: ApprovalRow, recorded: Recorded[CarryOutRequested], _approval_id: str) -> ApprovalRow:
    return replace(row, carry_out=True, changed_at=recorded.at_text)


@approvals.on(ApprovalGranted)
def granted(row: ApprovalRow, recorded: Recorded[ApprovalGranted], _approval_id: str) -> ApprovalRow:
    return replace(row, status="approved", changed_at=recorded.at_text)


@approvals.on(ApprovalRejected)
def rejected(row: ApprovalRow, recorded: Recorded[ApprovalRejected], _approval_id: str) -> ApprovalRow:
    decisions = [*row.decisions, _decision(recorded, "rejected")]
    return replace(row, status="rejected", decisions=decisions, changed_at=recorded.at_text)


@approvals.on(ApprovalWithdrawn)
def withdrawn(row: ApprovalRow, recorded: Recorded[ApprovalWithdrawn], _approval_id: str) -> ApprovalRow:
    return replace(row, status="withdrawn", withdrawal_comment=recorded.event.comment, changed_at=recorded.at_text)


@approvals.on(ApprovalExpired)
def expired(row: ApprovalRow, recorded: Recorded[ApprovalExpired], _approval_id: str) -> ApprovalRow:
    return replace(row, status="expired", changed_at=recorded.at_text)


@approvals.on(ApprovalEscalated)
def escalated(row: ApprovalRow, recorded: Recorded[ApprovalEscalated], _approval_id: str) -> ApprovalRow:
    roles = [role.value for role in recorded.event.to_roles]
    return replace(row, escalated_to=roles, escalated_at=recorded.at_text, changed_at=recorded.at_text)


@approvals.on(ApprovalVoided)
def voided(row: ApprovalRow, recorded: Recorded[ApprovalVoided], _approval_id: str) -> ApprovalRow:
    return replace(row, status="voided", void_reason=recorded.event.reason, changed_at=recorded.at_text)


@approvals.on(ApprovalUsed)
def used(row: ApprovalRow, recorded: Recorded[ApprovalUsed], _approval_id: str) -> ApprovalRow:
    return replace(row, status="used", used_by_action=recorded.event.action_id, used_at=recorded.at_text, changed_at=recorded.at_text)


def _delegation(recorded: Recorded[AuthorityDelegated | AuthorityRevoked]) -> tuple[str, ...]:
    return (recorded.event.delegation_id,)


@delegations.on(AuthorityDelegated, keys=_delegation)
def delegated(_row: None, recorded: Recorded[AuthorityDelegated], delegation_id: str) -> DelegationRow:
    event = recorded.event
    return DelegationRow(
        delegation_id=delegation_id,
        delegator=event.delegator,
        delegate=event.delegate,
        types=list(event.types),
        risk_up_to=event.risk_up_to,
        starts_at=timestamp(event.starts_at),
        ends_at=timestamp(event.ends_at),
        status="standing",
        comment=event.comment,
        delegated_at=recorded.at_text,
        revoked_by=None,
        revoked_at=None,
        revocation_comment=None,
    )


@delegations.on(AuthorityRevoked, keys=_delegation)
def revoked(row: DelegationRow, recorded: Recorded[AuthorityRevoked], _delegation_id: str) -> DelegationRow:
    comment = recorded.event.comment
    return replace(row, status="revoked", revoked_by=recorded.actor, revoked_at=recorded.at_text, revocation_comment=comment)


PROJECTION = Projection("approvals", (approvals, delegations), version=2)
