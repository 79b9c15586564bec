"""How an action ended, as its asker is told: allowed with its facts, blocked with a reason, or waiting for approval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from domain.actions import ActionParked, PolicyResult
from domain.actions import Outcome as OutcomeName
from domain.kernel import JsonObject


@dataclass(slots=True)
class Outcome:
    """The answer to a command. `position` is that of its last event: a read at least there sees all of it.

    It is written when the command is decided; its positions are filled in when they are known.
    """

    action_id: str
    outcome: OutcomeName
    stream: str
    version: int
    position: int = 0
    events: tuple[JsonObject, ...] = ()
    policy_results: tuple[JsonObject, ...] = ()
    code: str | None = None
    message: str | None = None
    facts: JsonObject = field(default_factory=dict)
    approval: JsonObject | None = None
    denied: bool = False

    def place(self, first_position: int, last_position: int) -> Outcome:
        """Fills in the positions its events came to; the facts come first, in order. A second try overwrites the first."""
        for position, event in enumerate(self.events, first_position):
            event["position"] = position
        self.position = last_position
        return self

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, stored: bytes) -> Outcome:
        values: dict[str, Any] = orjson.loads(stored)
        return cls(**{**values, "events": tuple(values["events"]), "policy_results": tuple(values["policy_results"])})


def results_json(results: tuple[PolicyResult, ...]) -> tuple[JsonObject, ...]:
    return tuple({"policy": result.policy, "outcome": result.outcome, "reason": result.reason} for result in results)


def approval_json(parked: ActionParked, *, carry_out: bool) -> JsonObject:
    return {
        "approval_id": parked.approval_id,
        "approver_roles": [role.value for role in parked.approver_roles],
        "quorum": parked.quorum,
        "action_digest": parked.intent.digest,
        "policy_version": parked.policy_version,
        "required_evidence": list(parked.required_evidence),
        "carry_out": carry_out,
    }
