"""An action: one command on its way through the Guard, and how it ended - allowed, blocked, or parked for approval.

One such event is written for every command, in the same commit as the facts it led to: it is the audit entry and the
sealed evidence in one. It keeps what the policies were asked, so that the decision can be asked again.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.kernel import Event, JsonObject
from domain.values import ActorKind, Identifier, Role, Sha256, Text

Outcome = Literal["allowed", "blocked", "requires_approval"]
GuardState = Literal["IDLE", "INTENT_VALIDATION", "POLICY_CHECK", "EXECUTION", "EVIDENCE_GEN", "COMPLETE", "BLOCKED"]
GuardStep = tuple[GuardState, Annotated[int, Field(ge=0)]]
"""A state of the Guard, and how many microseconds after the request the action entered it."""


class PolicyResult(BaseModel):
    """What one policy said about an action."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    outcome: Literal["allow", "block", "require_approval"]
    reason: str = ""


class Output(BaseModel):
    """A fact the action led to: where it stands in which stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    stream: str
    version: int


class Intent(BaseModel):
    """What was asked, by whom in which roles, on which version of what, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    digest: Sha256
    stream: str
    seen_version: Annotated[int, Field(ge=0)]
    roles: tuple[Role, ...]
    kind: ActorKind
    inputs: JsonObject
    reason: Text | None = None


class Snapshot(BaseModel):
    """The settings of what an action changed, as they were before: the digest of their canonical JSON, and where they stand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: str
    version: Annotated[int, Field(ge=1)]
    sha256: Sha256


class RequestSignature(BaseModel):
    """The actor's own signature over what it asked (`domain.keys.request_message`); `nonce` stands once per key. `sig` is base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: Sha256
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    at: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    """RFC 3339 in UTC with six digits: text, for it is signed as it stands."""
    sig: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class _ActionEnded(BaseModel):
    """What all endings share. `guard` is the way through the Guard, `question` what the policies were asked (None: nothing).

    `signature` is there when the actor has a key of its own, and it holds.
    """

    intent: Intent
    policy_version: str
    policy_results: tuple[PolicyResult, ...] = ()
    guard: tuple[GuardStep, ...] = ()
    question: JsonObject | None = None
    signature: RequestSignature | None = None

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Schema 1 kept neither the way through the Guard nor the question, schema 2 no signature; nothing stands in for them."""
        assert schema in {1, 2}, f"no action was written under schema {schema}"
        return data


class ActionAllowed(_ActionEnded, Event, name="actions.action_allowed", schema=3):
    """The action was carried out; with its facts, tests and artifacts this is its sealed evidence."""

    outputs: tuple[Output, ...]
    artifacts: tuple[Sha256, ...] = ()
    approval_id: Identifier | None = None
    snapshot: Snapshot | None = None


class ActionBlocked(_ActionEnded, Event, name="actions.action_blocked", schema=3):
    """The action was refused: by a role, a policy, or the context's own rules (`code`)."""

    code: str
    message: Text
    facts: dict[str, Any] = {}
    artifacts: tuple[Sha256, ...] = ()


class ActionParked(_ActionEnded, Event, name="actions.action_parked", schema=3):
    """The action waits, at the policy check, for an approval that names its exact digest; then it needs this evidence."""

    approval_id: Identifier
    approver_roles: tuple[Role, ...]
    quorum: Annotated[int, Field(ge=1)] = 1
    artifacts: tuple[Sha256, ...] = ()
    required_evidence: tuple[str, ...] = ()


ActionEvent = ActionAllowed | ActionBlocked | ActionParked
