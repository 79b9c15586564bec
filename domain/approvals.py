"""An approval: the consent of people other than the requester to one exact action, good for one use until it expires."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Literal, assert_never

from pydantic import Field

from domain.kernel import Event, JsonObject
from domain.values import Identifier, Label, Role, Sha256, Text

ApprovalType = Literal["pipeline_deploy", "policy_change", "pii_access", "dataset_onboard", "action"]
RiskLevel = Literal["low", "medium", "high"]
Status = Literal["pending", "approved", "rejected", "withdrawn", "expired", "used"]
Quorum = Annotated[int, Field(ge=1, le=20)]


class ApprovalRequested(Event, name="approvals.approval_requested"):
    """Somebody asked for consent to the action with this digest, under this policy version, until it expires.

    Without a command it is consent to a thing known by its digest alone, and carries no command out.
    """

    approval_id: Identifier
    type: ApprovalType
    description: Text
    risk_level: RiskLevel
    requester: Identifier
    requester_owner: Identifier | None = None
    action_digest: Sha256
    command: Label | None = None
    inputs: JsonObject | None = None
    stream: Label | None = None
    policy_version: Label | None = None
    approver_roles: tuple[Role, ...]
    quorum: Quorum
    expires_at: datetime


class ApproverAgreed(Event, name="approvals.approver_agreed"):
    """One approver agreed, in the roles held at that moment."""

    approval_id: Identifier
    approver: Identifier
    roles: tuple[Role, ...]
    comment: Text | None = None


class ApprovalGranted(Event, name="approvals.approval_granted"):
    """The quorum is reached: the action may be carried out, once."""

    approval_id: Identifier
    approvers: tuple[Identifier, ...]


class ApprovalRejected(Event, name="approvals.approval_rejected"):
    """One approver said no, and why; that settles it."""

    approval_id: Identifier
    approver: Identifier
    roles: tuple[Role, ...]
    comment: Text


class ApprovalWithdrawn(Event, name="approvals.approval_withdrawn"):
    """The requester wants it no more."""

    approval_id: Identifier
    comment: Text | None = None


class ApprovalExpired(Event, name="approvals.approval_expired"):
    """Its time passed before it was used; this only puts on record what the clock had settled."""

    approval_id: Identifier


class ApprovalUsed(Event, name="approvals.approval_used"):
    """The approved action was carried out, in the same commit as this event."""

    approval_id: Identifier
    action_id: Identifier
    action_digest: Sha256


ApprovalEvent = ApprovalRequested | ApproverAgreed | ApprovalGranted | ApprovalRejected | ApprovalWithdrawn | ApprovalExpired | ApprovalUsed


@dataclass(frozen=True, slots=True)
class Approval:
    """What was asked, who agreed in which roles, and how it stands; `request` is None before anything was asked."""

    request: ApprovalRequested | None = None
    status: Status = "pending"
    agreed: Mapping[str, frozenset[Role]] = field(default_factory=lambda: MappingProxyType({}))


def evolve(approval: Approval, event: ApprovalEvent) -> Approval:
    match event:
        case ApprovalRequested():
            return Approval(request=event)
        case ApproverAgreed():
            return replace(approval, agreed={**approval.agreed, event.approver: frozenset(event.roles)})
        case ApprovalGranted():
            return replace(approval, status="approved")
        case ApprovalRejected():
            return replace(approval, status="rejected")
        case ApprovalWithdrawn():
            return replace(approval, status="withdrawn")
        case ApprovalExpired():
            return replace(approval, status="expired")
        case ApprovalUsed():
            return replace(approval, status="used")
        case _:
            assert_never(event)
