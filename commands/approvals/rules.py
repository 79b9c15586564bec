"""When the answer is yes: four eyes, on one exact action, once, in time."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never

from commands.approvals.intents import (
    ApprovalCommand,
    ApproveRequest,
    CarryOutRequest,
    EscalateRequest,
    ExpireRequest,
    RejectRequest,
    RequestApproval,
    UseApproval,
    VoidRequest,
    WithdrawRequest,
)
from commands.approvals.voices import voice
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
)
from domain.kernel import Asked, command_digest, require, timestamp
from domain.values import Role

DEFAULT_LIFETIME: Final = timedelta(days=3)
LONGEST_LIFETIME: Final = timedelta(days=30)
ESCALATED_TO: Final = (Role.ADMIN,)


def decide(approval: Approval, command: ApprovalCommand, asked: Asked) -> list[ApprovalEvent]:
    match command:
        case RequestApproval():
            return _request(approval, command, asked)
        case CarryOutRequest():
            return _carry_out(approval, command, asked)
        case ApproveRequest():
            return _approve(approval, command, asked)
        case RejectRequest():
            return _reject(approval, command, asked)
        case WithdrawRequest():
            request = _requested(approval, command.approval_id)
            _require_requester(request, asked)
            _require_open(approval, request)
            return [ApprovalWithdrawn(approval_id=request.approval_id, comment=command.comment)]
        case ExpireRequest():
            request = _requested(approval, command.approval_id)
            _require_open(approval, request)
            require(
                asked.at >= request.expires_at,
                "approval_not_expired",
                f"Approval {request.approval_id} lives until {timestamp(request.expires_at)}.",
                expires_at=timestamp(request.expires_at),
                remedy="Its requester may withdraw it, an approver may reject it; time alone expires it.",
            )
            return [ApprovalExpired(approval_id=request.approval_id)]
        case EscalateRequest():
            return _escalate(approval, command, asked)
        case VoidRequest():
            request = _requested(approval, command.approval_id)
            _require_open(approval, request)
            return [ApprovalVoided(approval_id=request.approval_id, reason=command.reason)]
        case UseApproval():
            return _use(approval, command, asked)
        case _:
            assert_never(command)


def _request(approval: Approval, command: RequestApproval, asked: Asked) -> list[ApprovalEvent]:
    require(
        approval.request is None,
        "approval_exists",
        f"Approval {command.approval_id} has been requested already.",
        field="approval_id",
        remedy="Choose another id: a request never changes.",
    )
    require(
        Role.AGENT not in command.approver_roles,
        "approver_role_unfit",
        "Only people approve, so the role agent cannot stand among the approvers' roles.",
        field="approver_roles",
        remedy="Name roles that people hold, such as approver.",
    )
    escalates_at, expires_at = _life(command, asked)
    require(
        command.command is None or command.stream is None or command.seen_version is not None,
        "seen_version_missing",
        f"Consent to a change of {command.stream} is consent to the change of one version of it.",
        field="seen_version",
        remedy="Name the version you saw, the ETag of a read; or leave the stream out, if it is not known.",
    )
    requested = ApprovalRequested(
        approval_id=command.approval_id,
        type=command.type,
        description=command.description,
        risk_level=command.risk_level,
        requester=asked.by.actor,
        requester_owner=asked.by.owner,
        action_digest=_digest(command),
        command=command.command,
        inputs=command.inputs if command.command else None,
        stream=command.stream,
        seen_version=command.seen_version,
        policy_version=command.policy_version,
        approver_roles=tuple(sorted(set(command.approver_roles))),
        quorum=command.quorum,
        escalates_at=escalates_at,
        expires_at=expires_at,
        carry_out=command.carry_out or None,
    )
    return [requested]


def _carry_out(approval: Approval, command: CarryOutRequest, asked: Asked) -> list[ApprovalEvent]:
    request = _requested(approval, command.approval_id)
    _require_requester(request, asked)
    _require_in_force(approval, request, asked)
    _require_open(approval, request)
    return [] if approval.carry_out else [CarryOutRequested(approval_id=request.approval_id)]


def _life(command: RequestApproval, asked: Asked) -> tuple[datetime, datetime]:
    """When it escalates, and when it expires."""
    expires_at = (command.expires_at or asked.at + DEFAULT_LIFETIME).astimezone(UTC)
    require(
        asked.at < expires_at <= asked.at + LONGEST_LIFETIME,
        "expiry_out_of_range",
        f"An approval expires in the future and within {LONGEST_LIFETIME.days} days.",
        field="expires_at",
        latest=timestamp(asked.at + LONGEST_LIFETIME),
        remedy="Leave `expires_at` out for three days, or choose a time in that range.",
    )
    escalates_at = (command.escalates_at or asked.at + (expires_at - asked.at) / 2).astimezone(UTC)
    require(
        asked.at < escalates_at < expires_at,
        "escalation_out_of_range",
        "An approval escalates in the future, and before it expires.",
        field="escalates_at",
        expires_at=timestamp(expires_at),
        remedy="Leave `escalates_at` out for half of its life, or choose a time in that range.",
    )
    return escalates_at, expires_at


def _digest(command: RequestApproval) -> str:
    """What is consented to. A named command's digest is never taken on trust: approvers decide on what they can read."""
    if command.command is None:
        require(
            command.action_digest is not None and not command.inputs,
            "action_unnamed",
            "An approval names one exact action: a command with its inputs, or a digest alone.",
            field="action_digest",
            remedy="Give `command` and `inputs`, or only the `action_digest` of what is to be approved.",
        )
        assert command.action_digest is not None
        return command.action_digest
    digest = command_digest(command.command, command.inputs)
    require(
        command.action_digest in (None, digest),
        "action_digest_differs",
        "The digest is not that of the command and inputs shown to the approvers.",
        field="action_digest",
        expected=digest,
        remedy="Leave `action_digest` out: it follows from the command and its inputs.",
    )
    return digest


def _approve(approval: Approval, command: ApproveRequest, asked: Asked) -> list[ApprovalEvent]:
    request = _requested(approval, command.approval_id)
    _require_pending(approval, request, asked)
    heard = voice(approval, request, command, asked)
    again = sorted(heard.people & approval.heard)
    require(
        not again,
        "already_agreed",
        f"{', '.join(again)} has agreed already; one person is one vote, whoever speaks for them.",
        quorum=request.quorum,
        agreed=sorted(approval.agreed),
        remedy="Another approver has to agree.",
    )
    agreed = ApproverAgreed(
        approval_id=request.approval_id,
        approver=heard.approver,
        on_behalf_of=heard.on_behalf_of,
        roles=heard.roles,
        comment=command.comment,
    )
    approvers = (*sorted(approval.agreed), heard.approver)
    if len(approvers) < request.quorum:
        return [agreed]
    return [agreed, ApprovalGranted(approval_id=request.approval_id, approvers=approvers)]


def _reject(approval: Approval, command: RejectRequest, asked: Asked) -> list[ApprovalEvent]:
    request = _requested(approval, command.approval_id)
    _require_pending(approval, request, asked)
    heard = voice(approval, request, command, asked)
    require(
        bool(command.comment),
        "comment_required",
        "A rejection says why.",
        field="comment",
        remedy="Tell the requester in `comment` what would have to change.",
    )
    rejected = ApprovalRejected(
        approval_id=request.approval_id,
        approver=heard.approver,
        on_behalf_of=heard.on_behalf_of,
        roles=heard.roles,
        comment=command.comment,
    )
    return [rejected]


def _escalate(approval: Approval, command: EscalateRequest, asked: Asked) -> list[ApprovalEvent]:
    request = _requested(approval, command.approval_id)
    _require_pending(approval, request, asked)
    require(
        not approval.escalated_to,
        "approval_escalated",
        f"Approval {request.approval_id} has been escalated already, to {', '.join(sorted(approval.escalated_to))}.",
        escalated_to=sorted(approval.escalated_to),
        remedy="Nothing is left to do: whoever holds one of these roles can decide.",
    )
    due_at = request.escalates_at
    require(
        due_at is not None and asked.at >= due_at,
        "escalation_not_due",
        f"Approval {request.approval_id} escalates {f'at {timestamp(due_at)}' if due_at else 'at no time'}.",
        escalates_at=timestamp(due_at) if due_at else None,
        remedy="Its approvers have until then.",
    )
    return [ApprovalEscalated(approval_id=request.approval_id, to_roles=ESCALATED_TO)]


def _use(approval: Approval, command: UseApproval, asked: Asked) -> list[ApprovalEvent]:
    request = _requested(approval, command.approval_id)
    _require_requester(request, asked)
    _require_in_force(approval, request, asked)
    require(
        approval.status == "approved",
        "approval_not_granted",
        f"Approval {request.approval_id} is {approval.status}.",
        approval_status=approval.status,
        agreed=sorted(approval.agreed),
        quorum=request.quorum,
        remedy="Wait for the approvers, or request another one if this one is settled.",
    )
    _require_covering(approval, request, command)
    return [ApprovalUsed(approval_id=request.approval_id, action_id=str(asked.action_id), action_digest=request.action_digest)]


def _require_covering(approval: Approval, request: ApprovalRequested, command: UseApproval) -> None:
    """This action and no other, under these policies, with as many approvers of the right roles as they demand now."""
    require(
        request.command is not None and request.action_digest == command.action_digest,
        "approval_is_for_another_action",
        f"Approval {request.approval_id} was given for another action than this one.",
        field="approval_id",
        approved_digest=request.action_digest,
        action_digest=command.action_digest,
        remedy="Send exactly the command that was approved, or request an approval of this one.",
    )
    require(
        request.policy_version == command.policy_version,
        "policy_changed_since_approval",
        f"Approval {request.approval_id} was given under policy version {request.policy_version}; {command.policy_version} is in force.",
        approved_under=request.policy_version,
        policy_version=command.policy_version,
        remedy="Send the command without an approval: it is judged, and parked if need be, under the policies in force.",
    )
    require(
        request.seen_version in (None, command.seen_version),
        "entity_changed_since_approval",
        f"Approval {request.approval_id} was given for {request.stream} at version {request.seen_version}; "
        f"it is at {command.seen_version} by now.",
        field="approval_id",
        approved_version=request.seen_version,
        seen_version=command.seen_version,
        remedy="Send the command without an approval: it is judged, and a new one requested if need be, on what is there now.",
    )
    counting = {each: roles for each, roles in approval.agreed.items() if {each, approval.spoke_for[each]}.isdisjoint(command.left)}
    require(
        len(counting) >= min(request.quorum, len(approval.agreed)),
        "approver_has_left",
        f"Of those who agreed to {request.approval_id}, {', '.join(sorted(command.left))} left before it was used.",
        field="approval_id",
        quorum=request.quorum,
        agreed=sorted(counting),
        remedy="Send the command without an approval: a new one is requested, of those who are here.",
    )
    wanted = {*command.approver_roles, *approval.escalated_to}
    fitting = sorted(approver for approver, roles in counting.items() if roles & wanted)
    require(
        len(fitting) >= command.quorum,
        "approval_too_weak",
        f"The policies demand {command.quorum} approvers of the roles {', '.join(sorted(wanted))}; {len(fitting)} agreed.",
        quorum=command.quorum,
        approver_roles=sorted(wanted),
        agreed=fitting,
        remedy="Send the command without an approval: the request made for it asks the right people.",
    )


def _requested(approval: Approval, approval_id: str) -> ApprovalRequested:
    require(
        approval.request is not None,
        "approval_not_found",
        f"Nobody requested an approval {approval_id}.",
        field="approval_id",
        remedy="Look it up in the list of approvals.",
    )
    assert approval.request is not None
    return approval.request


def _require_pending(approval: Approval, request: ApprovalRequested, asked: Asked) -> None:
    _require_in_force(approval, request, asked)
    require(
        approval.status == "pending",
        "approval_not_pending",
        f"Approval {request.approval_id} is {approval.status}.",
        approval_status=approval.status,
        remedy="It is settled; a new request would be needed.",
    )


def _require_in_force(approval: Approval, request: ApprovalRequested, asked: Asked) -> None:
    """Nothing is decided about an approval, and nothing done by it, once it was used, voided or out of time."""
    require(
        approval.status != "used",
        "approval_used",
        f"Approval {request.approval_id} has been used; it was good for one action.",
        field="approval_id",
        remedy="Request another one.",
    )
    require(
        approval.status != "voided",
        "approval_voided",
        f"Approval {request.approval_id} was voided.",
        field="approval_id",
        remedy="See why it was voided before you request another one.",
    )
    require(
        approval.status != "expired" and asked.at < request.expires_at,
        "approval_expired",
        f"Approval {request.approval_id} expired at {timestamp(request.expires_at)}.",
        field="approval_id",
        expires_at=timestamp(request.expires_at),
        remedy="Request another one.",
    )


def _require_open(approval: Approval, request: ApprovalRequested) -> None:
    require(
        approval.status in ("pending", "approved"),
        "approval_settled",
        f"Approval {request.approval_id} is {approval.status}; nothing can change that.",
        approval_status=approval.status,
        remedy="Request another one if it is still needed.",
    )


def _require_requester(request: ApprovalRequested, asked: Asked) -> None:
    require(
        asked.by.actor == request.requester,
        "not_the_requester",
        f"Approval {request.approval_id} was requested by {request.requester}: nobody else may withdraw or use it.",
        requester=request.requester,
        remedy="Request an approval of your own.",
    )


def facts(approval: Approval, command: ApprovalCommand) -> dict[str, Any]:
    about = command if isinstance(command, RequestApproval) else approval.request
    if about is None:
        return {}
    return {"type": about.type, "risk_level": about.risk_level, "command": about.command, "status": approval.status}
