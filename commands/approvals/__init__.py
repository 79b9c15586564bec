"""What may be asked of approvals, and of the authority to give them: each request its own stream, all delegations one."""

from typing import Any, Final

from commands.approvals.delegating import AUTHORITY, LONGEST_DELEGATION
from commands.approvals.intents import (
    ApprovalCommand,
    ApproveRequest,
    CarryOutRequest,
    DelegateAuthority,
    EscalateRequest,
    ExpireRequest,
    RejectRequest,
    RequestApproval,
    RevokeAuthority,
    UseApproval,
    VoidRequest,
    WithdrawRequest,
)
from commands.approvals.rules import LONGEST_LIFETIME, decide, facts
from domain.approvals import (
    Approval,
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
    CarryOutRequested,
    evolve,
)
from domain.kernel import Decider

APPROVALS: Final[Decider[Approval, ApprovalCommand, ApprovalEvent]] = Decider(
    context="approvals",
    category="approval",
    initial=Approval(),
    evolve=evolve,
    decide=decide,
    commands=(
        RequestApproval,
        CarryOutRequest,
        ApproveRequest,
        RejectRequest,
        WithdrawRequest,
        ExpireRequest,
        EscalateRequest,
        VoidRequest,
        UseApproval,
    ),
    events=(
        ApprovalRequested,
        CarryOutRequested,
        ApproverAgreed,
        ApprovalGranted,
        ApprovalRejected,
        ApprovalWithdrawn,
        ApprovalExpired,
        ApprovalEscalated,
        ApprovalVoided,
        ApprovalUsed,
    ),
    entity=lambda command: command.approval_id,
    facts=facts,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (APPROVALS, AUTHORITY)

__all__ = [
    "APPROVALS",
    "AUTHORITY",
    "DECIDERS",
    "LONGEST_DELEGATION",
    "LONGEST_LIFETIME",
    "ApproveRequest",
    "CarryOutRequest",
    "DelegateAuthority",
    "EscalateRequest",
    "ExpireRequest",
    "RejectRequest",
    "RequestApproval",
    "RevokeAuthority",
    "UseApproval",
    "VoidRequest",
    "WithdrawRequest",
]
