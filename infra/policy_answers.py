"""What an evaluator of policies may be asked and may answer - embedded or an OPA server - and what stands in for a missing answer: a no."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from commands.policy import APPROVAL_TTL_SECONDS, ENGINE, Verdict
from domain.actions import PolicyResult
from domain.evidence import ArtifactKind
from domain.kernel import JsonObject
from domain.values import Role

_STRICTNESS: Final = {"allow": 0, "require_approval": 1, "block": 2}

Outcome = Literal["allow", "block", "require_approval"]
Failure = Literal["timeout", "crash", "undefined", "error", "garbage", "contradiction", "unavailable", "overloaded", "unsafe_text"]


class _Finding(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    policy: str
    outcome: Outcome
    reason: str = ""
    approver_roles: list[str] = []
    quorum: int = 1
    approval_ttl_seconds: int = APPROVAL_TTL_SECONDS
    required_evidence: list[ArtifactKind] = []
    masked: list[str] = []


class _Answer(BaseModel):
    """What the entrypoint must evaluate to; anything else is garbage."""

    model_config = ConfigDict(extra="forbid")

    outcome: Outcome
    results: Annotated[list[_Finding], Field(min_length=1)]
    approver_roles: tuple[Role, ...] = ()
    quorum: Annotated[int, Field(ge=1, strict=True)] = 1
    approval_ttl_seconds: Annotated[int, Field(ge=1, strict=True)] = APPROVAL_TTL_SECONDS
    required_evidence: tuple[ArtifactKind, ...] = ()


class _Reply(BaseModel):
    """What the worker says to a question."""

    model_config = ConfigDict(extra="forbid")

    value: _Answer | None = None
    failure: Literal["undefined", "error"] | None = None
    detail: str = ""


def key_of(question: JsonObject) -> bytes:
    """The question as canonical JSON: what it is asked, remembered and compared as."""
    return orjson.dumps(question, option=orjson.OPT_SORT_KEYS)


def is_safe(question: bytes) -> bool:
    """Whether no text in it holds a quote, a backslash or a control character.

    The embedded evaluator writes text into its answer as it came: with a quote in it, a dataset's domain could write a verdict.
    """
    return b"\\" not in question


def verdict_of(answer: bytes) -> Verdict:
    """The verdict that the worker's words stand for."""
    try:
        reply = _Reply.model_validate_json(answer)
    except ValidationError:
        return refusal("garbage")
    if (said := reply.value) is None:
        return refusal(reply.failure or "garbage")
    results = tuple(PolicyResult(policy=found.policy, outcome=found.outcome, reason=found.reason) for found in said.results)
    if _is_milder(said):
        return refusal("contradiction", results)
    # Each policy's demand stands, whatever the bundle makes of them together.
    required = {*said.required_evidence, *(kind for found in said.results for kind in found.required_evidence)}
    masked = {field for found in said.results for field in found.masked}
    return Verdict(
        said.outcome,
        results,
        said.approver_roles,
        said.quorum,
        said.approval_ttl_seconds,
        tuple(sorted(required)),
        tuple(sorted(masked)),
    )


def _is_milder(said: _Answer) -> bool:
    """The bundle combines its findings itself; it is not trusted to come out milder than the strictest of them."""
    if _STRICTNESS[said.outcome] < max(_STRICTNESS[found.outcome] for found in said.results):
        return True
    if said.outcome != "require_approval":
        return False
    return not said.approver_roles or said.quorum < max(found.quorum for found in said.results)


def refusal(failure: Failure, results: tuple[PolicyResult, ...] = ()) -> Verdict:
    """Without an answer there is no permission; the reason says what was missing."""
    return Verdict("block", (PolicyResult(policy=ENGINE, outcome="block", reason=failure), *results))
