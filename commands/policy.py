"""What the policies are asked about a command, and what they may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from domain.actions import PolicyResult
from domain.kernel import JsonObject
from domain.values import Role

if TYPE_CHECKING:
    from domain.policies import PolicySet

APPROVAL_TTL_SECONDS: Final = 86_400
ENGINE: Final = "engine"
"""Stands in the results in place of a policy when none could answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The policies' answer: the strictest outcome of all that judged, who may lift it when it asks for approval,
    and the kinds of evidence without which the action cannot complete."""

    outcome: Literal["allow", "block", "require_approval"]
    results: tuple[PolicyResult, ...]
    approver_roles: tuple[Role, ...] = ()
    quorum: int = 1
    approval_ttl_seconds: int = APPROVAL_TTL_SECONDS
    required_evidence: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    """Of a question about reading: the fields that whoever asks is not shown."""

    @property
    def unanswered(self) -> bool:
        """Whether it is a refusal for want of an answer: no policy said no."""
        return self.outcome == "block" and [result.policy for result in self.results] == [ENGINE]


class Rulebook(Protocol):
    """The policies that are in force for one decision.

    A question holds only attributes that classify (`action`, `actor`, `tenant`, `facts`, `has_reason`, `evidence`,
    `recent`), never ids or free text, so the verdict is a pure function of `version` and the question. `check` never
    raises for want of an answer: a policy that is undefined, fails or takes too long blocks.
    """

    @property
    def version(self) -> str:
        """The id of these policies, derived from their bytes."""
        ...

    async def check(self, question: JsonObject) -> Verdict: ...


class PolicyPort(Protocol):
    """Whoever judges commands before they are decided."""

    async def rulebook(self, policies: PolicySet) -> Rulebook:
        """The policies that this set has in force; those shipped, while it holds none."""
        ...
