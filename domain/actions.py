"""An action: one command on its way through the Guard, and how it ended - allowed, blocked, or parked for approval.

One such event is written for every command, in the same commit as the facts it led to: it is the audit entry and the
sealed evidence in one.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.kernel import Event, JsonObject
from domain.values import ActorKind, Identifier, Role, Sha256, Text

Outcome = Literal["allowed", "blocked", "requires_approval"]


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


class _ActionEnded(BaseModel):
    intent: Intent
    policy_version: str
    policy_results: tuple[PolicyResult, ...] = ()


class ActionAllowed(Event, _ActionEnded, name="actions.action_allowed"):
    """The action was carried out; with its facts, tests and artifacts this is its sealed evidence."""

    outputs: tuple[Output, ...]
    artifacts: tuple[Sha256, ...] = ()
    approval_id: Identifier | None = None


class ActionBlocked(Event, _ActionEnded, name="actions.action_blocked"):
    """The action was refused: by a role, a policy, or the context's own rules (`code`)."""

    code: str
    message: Text
    facts: dict[str, Any] = {}
    artifacts: tuple[Sha256, ...] = ()


class ActionParked(Event, _ActionEnded, name="actions.action_parked"):
    """The action waits for an approval that names its exact digest."""

    approval_id: Identifier
    approver_roles: tuple[Role, ...]
    quorum: Annotated[int, Field(ge=1)] = 1
    artifacts: tuple[Sha256, ...] = ()


ActionEvent = ActionAllowed | ActionBlocked | ActionParked
