"""What may be asked of approvals: consent to one exact action, the decisions on it, and what else becomes of it."""

from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from domain.access import PersonId
from domain.approvals import DELEGATIONS, ApprovalType, Quorum, RiskLevel, StreamVersion
from domain.kernel import Command, JsonObject
from domain.values import EVERYBODY, PEOPLE, Identifier, Label, Role, Sha256, StreamName, Text

REQUESTERS: Final = frozenset({Role.ANALYST, Role.APPROVER, Role.ADMIN, Role.AGENT})
ADMINS: Final = frozenset({Role.ADMIN})
ApproverRoles = Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))]
SomeText = Annotated[Text, Field(min_length=1)]


class RequestApproval(Command, name="approvals.request_approval", roles=REQUESTERS):
    """Request consent to one exact action: a command with its inputs, or anything known by its SHA-256 digest.

    The digest of a command and its inputs is worked out here. Whoever names the stream that the command changes names the
    version they saw of it, too: the consent is to a change of that very thing. Without `expires_at` the request lives for
    three days; without `escalates_at` it escalates after half of its life. With `carry_out` the command is carried out on your
    behalf as soon as it is approved.
    """

    approval_id: Identifier
    type: ApprovalType = "action"
    description: SomeText
    risk_level: RiskLevel = "medium"
    command: Label | None = None
    inputs: JsonObject = {}
    action_digest: Sha256 | None = None
    stream: StreamName | None = None
    seen_version: StreamVersion | None = None
    policy_version: Label | None = None
    approver_roles: ApproverRoles = (Role.APPROVER,)
    quorum: Quorum = 1
    escalates_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    carry_out: bool | None = None


class CarryOutRequest(Command, name="approvals.carry_out_request", roles=REQUESTERS):
    """Have the command carried out on your behalf as soon as it is approved, or now that it is; nobody need send it again."""

    approval_id: Identifier


class ApproveRequest(Command, name="approvals.approve_request", roles=PEOPLE):
    """Agree to what is requested, for yourself or for somebody who delegated that to you; with the quorum it may be done, once."""

    approval_id: Identifier
    on_behalf_of: PersonId | None = None
    comment: Text | None = None

    def relies_on(self) -> tuple[str, ...]:
        return _who_speaks_for_whom(self.on_behalf_of)


class RejectRequest(Command, name="approvals.reject_request", roles=PEOPLE):
    """Say no to what is requested, and why, for yourself or for somebody who delegated that to you; one no settles it."""

    approval_id: Identifier
    on_behalf_of: PersonId | None = None
    comment: Text = ""

    def relies_on(self) -> tuple[str, ...]:
        return _who_speaks_for_whom(self.on_behalf_of)


def _who_speaks_for_whom(on_behalf_of: str | None) -> tuple[str, ...]:
    """Every decision relies on who stands in for whom; one for somebody else relies on what they may do now, as well."""
    return (DELEGATIONS,) if on_behalf_of is None else (DELEGATIONS, actor_stream(on_behalf_of))


def actor_stream(actor_id: str) -> str:
    return f"actor:{actor_id}"


class WithdrawRequest(Command, name="approvals.withdraw_request", roles=REQUESTERS):
    """Take back your own request, as long as it has not been used."""

    approval_id: Identifier
    comment: Text | None = None


class ExpireRequest(Command, name="approvals.expire_request", roles=EVERYBODY):
    """Put on record that a request's time has passed; it could not be used since then anyway."""

    approval_id: Identifier


class EscalateRequest(Command, name="approvals.escalate_request", roles=EVERYBODY):
    """Let administrators decide as well, once a request has waited for as long as it was to wait."""

    approval_id: Identifier


class VoidRequest(Command, name="approvals.void_request", roles=ADMINS):
    """Take an approval out of force, granted or not, and say why; it can neither be decided on nor used any more."""

    approval_id: Identifier
    reason: SomeText


class UseApproval(Command, name="approvals.use_approval", roles=frozenset()):
    """Carry out the approved action. Only the command path asks this, in the action's own commit: nobody holds a role for it.

    `seen_version` is that of the stream the action is about to change. `approver_roles` and `quorum` are what the policies
    demand of the action now: a request made with milder ones covers nothing. `left` are those of its approvers who have left since.
    """

    approval_id: Identifier
    action_digest: Sha256
    seen_version: StreamVersion
    policy_version: Label
    approver_roles: ApproverRoles
    quorum: Quorum
    left: tuple[Identifier, ...] = ()


ApprovalCommand = (
    RequestApproval
    | CarryOutRequest
    | ApproveRequest
    | RejectRequest
    | WithdrawRequest
    | ExpireRequest
    | EscalateRequest
    | VoidRequest
    | UseApproval
)


class DelegateAuthority(Command, name="approvals.delegate_authority", roles=PEOPLE):
    """Let another person decide on requests for you: until a time, up to a risk, on some types of request or on all.

    They decide in the roles that you hold when they do, and cannot pass it on. From now on it begins, if nothing else is said.
    """

    delegate: PersonId
    types: Annotated[tuple[ApprovalType, ...], Field(max_length=10)] = ()
    risk_up_to: RiskLevel = "high"
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime
    comment: Text | None = None

    def relies_on(self) -> tuple[str, ...]:
        return (actor_stream(self.delegate),)


class RevokeAuthority(Command, name="approvals.revoke_authority", roles=PEOPLE):
    """End a delegation before its time: whoever gave it or holds it, or an administrator."""

    delegation_id: Identifier
    comment: Text | None = None


AuthorityCommand = DelegateAuthority | RevokeAuthority
