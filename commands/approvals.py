"""What may be asked of an approval, and when the answer is yes: four eyes, on one exact action, once, in time."""

from datetime import UTC, timedelta
from typing import Annotated, Any, Final, assert_never

from pydantic import AwareDatetime, Field

from domain.approvals import (
    Approval,
    ApprovalEvent,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRejected,
    ApprovalRequested,
    ApprovalType,
    ApprovalUsed,
    ApprovalWithdrawn,
    ApproverAgreed,
    Quorum,
    RiskLevel,
    evolve,
)
from domain.kernel import Asked, Command, Decider, JsonObject, command_digest, require, timestamp
from domain.values import EVERYBODY, PEOPLE, ActorKind, Identifier, Label, Role, Sha256, Text

REQUESTERS: Final = frozenset({Role.ANALYST, Role.APPROVER, Role.ADMIN, Role.AGENT})
DEFAULT_LIFETIME: Final = timedelta(days=3)
LONGEST_LIFETIME: Final = timedelta(days=30)
ApproverRoles = Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))]
SomeText = Annotated[Text, Field(min_length=1)]


class RequestApproval(Command, name="approvals.request_approval", roles=REQUESTERS):
    """Request consent to one exact action: a command with its inputs, or anything known by its SHA-256 digest.

    The digest of a command and its inputs is worked out here; without `expires_at` the request lives for three days.
    """

    approval_id: Identifier
    type: ApprovalType = "action"
    description: SomeText
    risk_level: RiskLevel = "medium"
    command: Label | None = None
    inputs: JsonObject = {}
    action_digest: Sha256 | None = None
    stream: Label | None = None
    policy_version: Label | None = None
    approver_roles: ApproverRoles = (Role.APPROVER,)
    quorum: Quorum = 1
    expires_at: AwareDatetime | None = None


class ApproveRequest(Command, name="approvals.approve_request", roles=PEOPLE):
    """Agree to what is requested; when the quorum is reached it may be carried out, once."""

    approval_id: Identifier
    comment: Text | None = None


class RejectRequest(Command, name="approvals.reject_request", roles=PEOPLE):
    """Say no to what is requested, and why; one no settles it."""

    approval_id: Identifier
    comment: Text = ""


class WithdrawRequest(Command, name="approvals.withdraw_request", roles=REQUESTERS):
    """Take back your own request, as long as it has not been used."""

    approval_id: Identifier
    comment: Text | None = None


class ExpireRequest(Command, name="approvals.expire_request", roles=EVERYBODY):
    """Put on record that a request's time has passed; it could not be used since then anyway."""

    approval_id: Identifier


class UseApproval(Command, name="approvals.use_approval", roles=frozenset()):
    """Carry out the approved action. Only the command path asks this, in the action's own commit: nobody holds a role for it.

    `approver_roles` and `quorum` are what the policies demand of the action now: a request made with
    milder ones covers nothing.
    """

    approval_id: Identifier
    action_digest: Sha256
    policy_version: Label
    approver_roles: ApproverRoles
    quorum: Quorum


ApprovalCommand = RequestApproval | ApproveRequest | RejectRequest | WithdrawRequest | ExpireRequest | UseApproval


def decide(approval: Approval, command: ApprovalCommand, asked: Asked) -> list[ApprovalEvent]:
    match command:
        case RequestApproval():
            return _request(approval, command, asked)
        case ApproveRequest():
            return _approve(approval, command, asked)
        case RejectRequest():
            request = _requested(approval, command.approval_id)
            _require_pending(approval, request, asked)
            _require_independent_approver(request, asked)
            require(
                bool(command.comment),
                "comment_required",
                "A rejection says why.",
                field="comment",
                remedy="Tell the requester in `comment` what would have to change.",
            )
            rejected = ApprovalRejected(
                approval_id=request.approval_id, approver=asked.by.actor, roles=_roles(asked), comment=command.comment
            )
            return [rejected]
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
    expires_at = (command.expires_at or asked.at + DEFAULT_LIFETIME).astimezone(UTC)
    require(
        asked.at < expires_at <= asked.at + LONGEST_LIFETIME,
        "expiry_out_of_range",
        f"An approval expires in the future and within {LONGEST_LIFETIME.days} days.",
        field="expires_at",
        latest=timestamp(asked.at + LONGEST_LIFETIME),
        remedy="Leave `expires_at` out for three days, or choose a time in that range.",
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
        policy_version=command.policy_version,
        approver_roles=tuple(sorted(set(command.approver_roles))),
        quorum=command.quorum,
        expires_at=expires_at,
    )
    return [requested]


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
    _require_independent_approver(request, asked)
    require(
        asked.by.actor not in approval.agreed,
        "already_agreed",
        f"{asked.by.actor} has agreed already; one person is one vote.",
        quorum=request.quorum,
        agreed=sorted(approval.agreed),
        remedy="Another approver has to agree.",
    )
    agreed = ApproverAgreed(approval_id=request.approval_id, approver=asked.by.actor, roles=_roles(asked), comment=command.comment)
    approvers = (*sorted(approval.agreed), asked.by.actor)
    if len(approvers) < request.quorum:
        return [agreed]
    return [agreed, ApprovalGranted(approval_id=request.approval_id, approvers=approvers)]


def _use(approval: Approval, command: UseApproval, asked: Asked) -> list[ApprovalEvent]:
    request = _requested(approval, command.approval_id)
    _require_requester(request, asked)
    require(
        approval.status != "used",
        "approval_used",
        f"Approval {request.approval_id} has been used; it was good for one action.",
        field="approval_id",
        remedy="Request another one.",
    )
    require(
        approval.status == "approved",
        "approval_not_granted",
        f"Approval {request.approval_id} is {approval.status}.",
        approval_status=approval.status,
        agreed=sorted(approval.agreed),
        quorum=request.quorum,
        remedy="Wait for the approvers, or request another one if this one is settled.",
    )
    _require_unexpired(request, asked)
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
    fitting = sorted(approver for approver, roles in approval.agreed.items() if roles & set(command.approver_roles))
    require(
        len(fitting) >= command.quorum,
        "approval_too_weak",
        f"The policies demand {command.quorum} approvers of the roles {', '.join(sorted(command.approver_roles))}; {len(fitting)} agreed.",
        quorum=command.quorum,
        approver_roles=sorted(command.approver_roles),
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
    require(
        approval.status == "pending",
        "approval_not_pending",
        f"Approval {request.approval_id} is {approval.status}.",
        approval_status=approval.status,
        remedy="It is settled; a new request would be needed.",
    )
    _require_unexpired(request, asked)


def _require_unexpired(request: ApprovalRequested, asked: Asked) -> None:
    require(
        asked.at < request.expires_at,
        "approval_expired",
        f"Approval {request.approval_id} expired at {timestamp(request.expires_at)}.",
        expires_at=timestamp(request.expires_at),
        remedy="Request another one.",
    )


def _require_open(approval: Approval, request: ApprovalRequested) -> None:
    require(
        approval.status in ("pending", "approved"),
        "approval_settled",
        f"Approval {request.approval_id} is {approval.status}; nothing can change that.",
        approval_status=approval.status,
    )


def _require_requester(request: ApprovalRequested, asked: Asked) -> None:
    require(
        asked.by.actor == request.requester,
        "not_the_requester",
        f"Approval {request.approval_id} was requested by {request.requester}: nobody else may withdraw or use it.",
        requester=request.requester,
        remedy="Request an approval of your own.",
    )


def _require_independent_approver(request: ApprovalRequested, asked: Asked) -> None:
    """Four eyes: neither the requester nor whoever answers for it, nor anything either of them owns; and a person."""
    require(
        {asked.by.actor, asked.by.owner or asked.by.actor}.isdisjoint({request.requester, request.requester_owner}),
        "approver_is_requester",
        "Whoever requested it, the owner of the agent that did, and what either of them owns cannot judge it.",
        requester=request.requester,
        requester_owner=request.requester_owner,
        remedy="Somebody independent has to decide.",
    )
    require(
        asked.by.kind is ActorKind.PERSON,
        "approver_not_a_person",
        f"Only people approve or reject; {asked.by.actor} is of kind {asked.by.kind.value}.",
        remedy="A person of the approvers' roles has to decide.",
    )
    require(
        not asked.by.roles.isdisjoint(request.approver_roles),
        "approver_role_missing",
        f"Deciding on approval {request.approval_id} takes one of the roles {', '.join(request.approver_roles)}.",
        approver_roles=list(request.approver_roles),
        roles=list(_roles(asked)),
        remedy="Somebody with one of these roles has to decide.",
    )


def _roles(asked: Asked) -> tuple[Role, ...]:
    return tuple(sorted(asked.by.roles))


def _facts(approval: Approval, command: ApprovalCommand) -> dict[str, Any]:
    about = command if isinstance(command, RequestApproval) else approval.request
    if about is None:
        return {}
    return {"type": about.type, "risk_level": about.risk_level, "command": about.command, "status": approval.status}


DECIDER: Decider[Approval, ApprovalCommand, ApprovalEvent] = Decider(
    context="approvals",
    category="approval",
    initial=Approval(),
    evolve=evolve,
    decide=decide,
    commands=(RequestApproval, ApproveRequest, RejectRequest, WithdrawRequest, ExpireRequest, UseApproval),
    events=(
        ApprovalRequested,
        ApproverAgreed,
        ApprovalGranted,
        ApprovalRejected,
        ApprovalWithdrawn,
        ApprovalExpired,
        ApprovalUsed,
    ),
    entity=lambda command: command.approval_id,
    facts=_facts,
)
