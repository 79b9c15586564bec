"""What the policies are asked about a command, and what they may answer."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from domain.actions import PolicyResult
from domain.kernel import JsonObject
from domain.values import Role

APPROVAL_TTL_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Verdict:
    """The policies' answer: the strictest outcome of all that judged, and who may lift it when it asks for approval."""

    outcome: Literal["allow", "block", "require_approval"]
    results: tuple[PolicyResult, ...]
    approver_roles: tuple[Role, ...] = ()
    quorum: int = 1
    approval_ttl_seconds: int = APPROVAL_TTL_SECONDS


class PolicyPort(Protocol):
    """Whoever judges commands before they are decided.

    A question holds only attributes that classify (`action`, `actor`, `tenant`, `facts`, `has_reason`), never ids or
    free text, so the verdict is a pure function of `version` and the question. `check` never raises for want of an
    answer: a policy that is undefined, fails or takes too long blocks.
    """

    @property
    def version(self) -> str:
        """The id of the loaded policies, derived from their bytes."""
        ...

    async def check(self, question: JsonObject) -> Verdict: ...
