"""An approval: the consent of people other than the requester to one exact action, good for one use until it expires.

Whoever may consent can delegate that for a while. All delegations of a tenant stand in one stream, because a decision
on any request has to know who stands in for its requester as well.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Final, Literal, assert_never, get_args

from immutables import Map
from pydantic import Field

from domain.kernel import Event, JsonObject
from domain.values import Identifier, Label, Role, Sha256, StreamName, Text

ApprovalType = Literal["pipeline_deploy", "policy_change", "pii_access", "dataset_onboard", "action"]
RiskLevel = Literal["low", "medium", "high"]
RISKS: Final[tuple[RiskLevel, ...]] = get_args(RiskLevel)
"""From the least on."""
Status = Literal["pending", "approved", "rejected", "withdrawn", "expired", "voided", "used"]
Quorum = Annotated[int, Field(ge=1, le=20)]
StreamVersion = Annotated[int, Field(ge=0)]
DELEGATIONS: Final = "authority:delegations"
"""The stream of a tenant's delegations."""


class ApprovalRequested(Event, name="approvals.approval_requested", schema=3):
    """Somebody asked for consent to the action with this digest, under this policy version, until it expires.

    `seen_version` is that of the stream the action changes: it is consent to the change of that very thing. Without a
    command it is consent to a thing known by its digest alone, and carries no command out. With `carry_out`, Aureus carries the
    command out on the requester's behalf once consent is given.
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
    stream: StreamName | None = None
    seen_version: StreamVersion | None = None
    policy_version: Label | None = None
    approver_roles: tuple[Role, ...]
    quorum: Quorum
    escalates_at: datetime | None = None
    expires_at: datetime
    carry_out: bool | None = None

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Schema 1 knew neither `seen_version` nor `escalates_at`: such a request is bound to no version and never escalates.
        Before schema 3 nothing was carried out by itself."""
        return data


class ApproverAgreed(Event, name="approvals.approver_agreed", schema=2):
    """One approver agreed, in the roles held at that moment; for somebody else, in the roles of whoever had delegated."""

    approval_id: Identifier
    approver: Identifier
    on_behalf_of: Identifier | None = None
    roles: tuple[Role, ...]
    comment: Text | None = None

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Schema 1 knew no delegation: everybody spoke for themselves."""
        return data


class CarryOutRequested(Event, name="approvals.carry_out_requested"):
    """The requester wants it carried out on their behalf, once consent is given or now that it is."""

    approval_id: Identifier


class ApprovalGranted(Event, name="approvals.approval_granted"):
    """The quorum is reached: the action may be carried out, once."""

    approval_id: Identifier
    approvers: tuple[Identifier, ...]


class ApprovalRejected(Event, name="approvals.approval_rejected", schema=2):
    """One approver said no, and why; that settles it."""

    approval_id: Identifier
    approver: Identifier
    on_behalf_of: Identifier | None = None
    roles: tuple[Role, ...]
    comment: Text

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Schema 1 knew no delegation: everybody spoke for themselves."""
        return data


class ApprovalEscalated(Event, name="approvals.approval_escalated"):
    """It has waited too long: these roles may decide as well from now on. It still takes the same quorum."""

    approval_id: Identifier
    to_roles: tuple[Role, ...]


class ApprovalWithdrawn(Event, name="approvals.approval_withdrawn"):
    """The requester wants it no more."""

    approval_id: Identifier
    comment: Text | None = None


class ApprovalExpired(Event, name="approvals.approval_expired"):
    """Its time passed before it was used; this only puts on record what the clock had settled."""

    approval_id: Identifier


class ApprovalVoided(Event, name="approvals.approval_voided"):
    """It was taken out of force from outside, whether granted yet or not."""

    approval_id: Identifier
    reason: Text


class ApprovalUsed(Event, name="approvals.approval_used"):
    """The approved action was carried out, in the same commit as this event."""

    approval_id: Identifier
    action_id: Identifier
    action_digest: Sha256


ApprovalEvent = (
    ApprovalRequested
    | CarryOutRequested
    | ApproverAgreed
    | ApprovalGranted
    | ApprovalRejected
    | ApprovalWithdrawn
    | ApprovalExpired
    | ApprovalEscalated
    | ApprovalVoided
    | ApprovalUsed
)


@dataclass(frozen=True, slots=True)
class Approval:
    """What was asked, who agreed in which roles, and how it stands; `request` is None before anything was asked."""

    request: ApprovalRequested | None = None
    status: Status = "pending"
    agreed: Mapping[str, frozenset[Role]] = field(default_factory=lambda: MappingProxyType({}))
    spoke_for: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Whom each approver agreed for: themselves, or whoever delegated that."""
    heard: frozenset[str] = frozenset()
    """Everybody who agreed, and everybody for whom somebody agreed: each of them is one vote, and it is spent."""
    escalated_to: frozenset[Role] = frozenset()
    carry_out: bool = False


def evolve(approval: Approval, event: ApprovalEvent) -> Approval:
    match event:
        case ApprovalRequested():
            return Approval(request=event, carry_out=bool(event.carry_out))
        case CarryOutRequested():
            return replace(approval, carry_out=True)
        case ApproverAgreed():
            agreed = {**approval.agreed, event.approver: frozenset(event.roles)}
            principal = event.on_behalf_of or event.approver
            spoke_for = {**approval.spoke_for, event.approver: principal}
            return replace(approval, agreed=agreed, spoke_for=spoke_for, heard=approval.heard | {event.approver, principal})
        case ApprovalGranted():
            return replace(approval, status="approved")
        case ApprovalRejected():
            return replace(approval, status="rejected")
        case ApprovalWithdrawn():
            return replace(approval, status="withdrawn")
        case ApprovalExpired():
            return replace(approval, status="expired")
        case ApprovalEscalated():
            return replace(approval, escalated_to=frozenset(event.to_roles))
        case ApprovalVoided():
            return replace(approval, status="voided")
        case ApprovalUsed():
            return replace(approval, status="used")
        case _:
            assert_never(event)


class AuthorityDelegated(Event, name="approvals.authority_delegated"):
    """One person lets another decide on requests for them: for a time, up to a risk, of some types or (none named) of all."""

    delegation_id: Identifier
    delegator: Identifier
    delegate: Identifier
    types: tuple[ApprovalType, ...] = ()
    risk_up_to: RiskLevel
    starts_at: datetime
    ends_at: datetime
    comment: Text | None = None


class AuthorityRevoked(Event, name="approvals.authority_revoked"):
    """A delegation is worth nothing from now on; what was decided by it stays decided."""

    delegation_id: Identifier
    comment: Text | None = None


AuthorityEvent = AuthorityDelegated | AuthorityRevoked


@dataclass(frozen=True, slots=True)
class Delegations:
    """A tenant's delegations that were not revoked, by id."""

    standing: Map[str, AuthorityDelegated] = field(default_factory=Map)

    def delegates_of(self, people: Collection[str], at: datetime) -> frozenset[str]:
        """Whoever stands in for one of these people, or is going to: such a person is not independent of them."""
        return frozenset(one.delegate for one in self.standing.values() if one.delegator in people and at < one.ends_at)

    def cover(self, delegate: str, delegator: str, request: ApprovalRequested, at: datetime) -> bool:
        """Whether one may decide on this request for the other at this moment."""
        return any(
            (one.delegate, one.delegator) == (delegate, delegator)
            and one.starts_at <= at < one.ends_at
            and (not one.types or request.type in one.types)
            and RISKS.index(request.risk_level) <= RISKS.index(one.risk_up_to)
            for one in self.standing.values()
        )


def evolve_delegations(delegations: Delegations, event: AuthorityEvent) -> Delegations:
    match event:
        case AuthorityDelegated():
            return Delegations(delegations.standing.set(event.delegation_id, event))
        case AuthorityRevoked():
            return Delegations(delegations.standing.delete(event.delegation_id))
        case _:
            assert_never(event)
