"""Approvals as people read them: what is asked, by whom, who decided what and why, and what became of it."""

from dataclasses import replace

from domain.approvals import (
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalWithdrawn,
    ApproverAgreed,
)
from domain.kernel import JsonObject, Recorded, timestamp
from projections.engine import Projection, ReadTable, read_row


@read_row
class ApprovalRow:
    """One request. A pending or approved one is of no use after `expires_at`, whether its expiry is on record or not.

    `decisions` are `{approver, decision: agreed|rejected, roles, comment, at}`; `evidence_action_id` is the action
    that asked for it, whose evidence pack holds the policies' answers.
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
    policy_version: str | None
    approver_roles: list[str]
    quorum: int
    agreed_count: int
    decisions: list[JsonObject]
    evidence_action_id: str
    expires_at: str
    withdrawal_comment: str | None
    used_by_action: str | None
    used_at: str | None
    changed_at: str


approvals = ReadTable(
    "approvals",
    ApprovalRow,
    filters=("status", "type", "requester", "risk_level", "command", "stream", "approver_roles"),
    sorts=("requested_at", "expires_at", "changed_at"),
    search=("approval_id", "description"),
)


@approvals.on(ApprovalRequested)
def requested(_row: None, recorded: Recorded[ApprovalRequested], approval_id: str) -> ApprovalRow:
    event = recorded.event
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
        policy_version=event.policy_version,
        approver_roles=[role.value for role in event.approver_roles],
        quorum=event.quorum,
        agreed_count=0,
        decisions=[],
        evidence_action_id=str(recorded.causation or recorded.correlation),
        expires_at=timestamp(event.expires_at),
        withdrawal_comment=None,
        used_by_action=None,
        used_at=None,
        changed_at=recorded.at_text,
    )


def _decision(recorded: Recorded[ApproverAgreed | ApprovalRejected], decision: str) -> JsonObject:
    event = recorded.event
    return {
        "approver": event.approver,
        "decision": decision,
        "roles": [role.value for role in event.roles],
        "comment": event.comment,
        "at": recorded.at_text,
    }


@approvals.on(ApproverAgreed)
def agreed(row: ApprovalRow, recorded: Recorded[ApproverAgreed], _approval_id: str) -> ApprovalRow:
    decisions = [*row.decisions, _decision(recorded, "agreed")]
    return replace(row, agreed_count=row.agreed_count + 1, decisions=decisions, changed_at=recorded.at_text)


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


@approvals.on(ApprovalUsed)
def used(row: ApprovalRow, recorded: Recorded[ApprovalUsed], _approval_id: str) -> ApprovalRow:
    return replace(row, status="used", used_by_action=recorded.event.action_id, used_at=recorded.at_text, changed_at=recorded.at_text)


PROJECTION = Projection("approvals", (approvals,))
