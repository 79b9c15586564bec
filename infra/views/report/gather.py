"""What a report says of an export, counted while its events pass by.

Memory is bounded: each kind of thing is followed up to a number of different ones, and of the rest it is known how often they came
up. What is listed are the first of each kind, in the order of their positions; how many more there are is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from domain.kernel import JsonObject
from infra.views.view import ViewEvent

FOLLOWED: Final = 10_000
"""Different actors, policies, entities, budgets and approvals that are followed, of each."""
LISTED: Final = 100
"""Rows of each table."""
OUTCOMES: Final = ("allowed", "requires approval", "blocked")
_OUTCOME_OF: Final = MappingProxyType(
    {"actions.action_allowed": "allowed", "actions.action_parked": "requires approval", "actions.action_blocked": "blocked"}
)
_DECIDED: Final = MappingProxyType({"allow": "allowed", "require_approval": "requires approval", "block": "blocked"})
_NO_ENTITY: Final = frozenset({"action", "approval", "pack", "notification", "tool", "index", "keys"})
"""Streams that are about one occurrence, or told of elsewhere in the report."""

T = TypeVar("T")


class Followed(Generic[T]):
    """Things by name, the first `FOLLOWED` of them; `others` counts how often any further one came up."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.found: dict[str, T] = {}
        self.others = 0

    def get(self, name: str) -> T | None:
        """What is known of it so far; None: it is one too many."""
        if name not in self.found:
            if len(self.found) >= FOLLOWED:
                self.others += 1
                return None
            self.found[name] = self._make()
        return self.found[name]


class Listed(Generic[T]):
    """The first `LISTED` rows, and how many there are in all."""

    def __init__(self) -> None:
        self.rows: list[T] = []
        self.count = 0

    def add(self, row: T) -> None:
        self.count += 1
        if len(self.rows) < LISTED:
            self.rows.append(row)

    @property
    def more(self) -> int:
        return self.count - len(self.rows)


@dataclass(slots=True)
class Outcomes:
    """How many actions ended in which way, and the positions of the first and the last of them."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    first: int = 0
    last: int = 0

    def add(self, outcome: str, position: int) -> None:
        self.counts[outcome] += 1
        self.first = self.first or position
        self.last = position

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Action:
    """One action, as a row of a table."""

    position: int
    at: str
    actor: str
    command: str
    stream: str
    outcome: str
    why: str


@dataclass(slots=True)
class Approval:
    """One request for consent, and what became of it."""

    position: int = 0
    at: str = ""
    requester: str = ""
    what: str = ""
    risk: str = ""
    state: str = "open"
    used: bool = False
    settled_by: str = ""
    settled_at: str = ""
    settled_position: int = 0

    @property
    def waited_seconds(self) -> float | None:
        """From the request to the decision of people; None without one."""
        if self.state not in ("granted", "rejected") or not self.at:
            return None
        return (datetime.fromisoformat(self.settled_at) - datetime.fromisoformat(self.at)).total_seconds()


@dataclass(slots=True)
class Budget:
    """What moved on one budget itself; amounts in minor units. `currency` and `limit` are known once it was opened in the export."""

    currency: str = ""
    limit: int | None = None
    promised: int = 0
    spent: int = 0
    returned: int = 0
    moves: int = 0
    last: int = 0


@dataclass(slots=True)
class Entity:
    """How one entity changed: versions from `first_version` to `last_version`, the last by an event of type `type`."""

    changes: int = 0
    first_version: int = 0
    last_version: int = 0
    first: int = 0
    last: int = 0
    at: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that stood out, in one of the lanes of the timeline."""

    position: int
    at: str
    lane: str
    actor: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One event of the key stream."""

    position: int
    at: str
    role: str
    change: str
    key_id: str
    custody: str


class Gathered:
    """All of it, event by event."""

    def __init__(self) -> None:
        self.entries = 0
        self.first_at = ""
        self.last_at = ""
        self.days: dict[str, dict[str, int]] = {}
        """Actions by day of UTC (2026-04-01) and outcome."""
        self.actions = Outcomes()
        self.by_actor: Followed[Outcomes] = Followed(Outcomes)
        self.by_policy: Followed[Outcomes] = Followed(Outcomes)
        self.stopped: Listed[Action] = Listed()
        """Blocked, or waiting for consent."""
        self.carried_out: Listed[Action] = Listed()
        self.approvals: Followed[Approval] = Followed(Approval)
        self.budgets: Followed[Budget] = Followed(Budget)
        self.entities: Followed[Entity] = Followed(Entity)
        self.keys: Listed[KeyChange] = Listed()
        self.moments: Listed[Moment] = Listed()
        self.moment_days: dict[tuple[str, str], int] = {}
        """Moments by lane and day of UTC."""

    def see(self, event: ViewEvent) -> None:
        body = event.body
        self.entries += 1
        self.first_at = self.first_at or body["at"]
        self.last_at = body["at"]
        name: str = body["type"]
        context, _, _ = name.partition(".")
        if name in _OUTCOME_OF:
            self._action(event, _OUTCOME_OF[name])
            return
        self._entity(event)
        if context == "approvals":
            self._approval(event, name)
        elif context == "budgets":
            self._budget(name, body["data"], event.position)
        elif context == "keys":
            self._key(event, name)
        if name in LANES:
            self._moment(event, LANES[name])

    # -- one kind of event each

    def _action(self, event: ViewEvent, outcome: str) -> None:
        body, data = event.body, event.body["data"]
        day = self.days.setdefault(body["at"][:10], dict.fromkeys(OUTCOMES, 0))
        day[outcome] += 1
        self.actions.add(outcome, event.position)
        if by_actor := self.by_actor.get(body["actor"]):
            by_actor.add(outcome, event.position)
        for result in data.get("policy_results") or []:
            if by_policy := self.by_policy.get(result["policy"]):
                by_policy.add(_DECIDED[result["outcome"]], event.position)
        intent = data["intent"]
        listed = self.carried_out if outcome == "allowed" else self.stopped
        listed.add(Action(event.position, body["at"], body["actor"], intent["command"], intent["stream"], outcome, _why(data)))

    def _entity(self, event: ViewEvent) -> None:
        body = event.body
        if body["stream"].partition(":")[0] in _NO_ENTITY:
            return
        if entity := self.entities.get(body["stream"]):
            entity.changes += 1
            entity.first = entity.first or event.position
            entity.first_version = entity.first_version or body["version"]
            entity.last_version, entity.last, entity.at, entity.type = body["version"], event.position, body["at"], body["type"]

    def _approval(self, event: ViewEvent, name: str) -> None:
        body, data = event.body, event.body["data"]
        if name not in _APPROVAL_STATES or (approval := self.approvals.get(data["approval_id"])) is None:
            return
        if name == "approvals.approval_requested":
            approval.position, approval.at, approval.requester = event.position, body["at"], data["requester"]
            approval.what, approval.risk = data.get("command") or data["type"], data["risk_level"]
        elif name == "approvals.approval_used":
            approval.used = True
        else:
            approval.state = _APPROVAL_STATES[name]
            approval.settled_by = ", ".join(data.get("approvers", [])) or body["actor"]
            approval.settled_at, approval.settled_position = body["at"], event.position

    def _budget(self, name: str, data: JsonObject, position: int) -> None:
        if name not in _BUDGET_MOVES or (budget := self.budgets.get(data["budget_id"])) is None:
            return
        budget.moves += 1
        budget.last = position
        if name == "budgets.budget_opened":
            budget.currency, budget.limit = data["currency"], data["limit_minor"]
        elif name == "budgets.budget_funded":
            budget.limit = data["limit_minor"]
        elif name == "budgets.funds_reserved":
            budget.promised += data["amount_minor"]
        elif name == "budgets.funds_committed":
            budget.spent += data["spent_minor"]
            budget.returned += data["returned_minor"]
        else:
            budget.returned += data["amount_minor"]

    def _key(self, event: ViewEvent, name: str) -> None:
        body, data = event.body, event.body["data"]
        change = name.partition(".")[2].replace("_", " ")
        since = f", disputed from position {data['compromised_since']}" if data.get("compromised_since") else ""
        said = f"{change}{since}"
        self.keys.add(KeyChange(event.position, body["at"], data.get("role", ""), said, data["key_id"], data.get("custody", "")))

    def _moment(self, event: ViewEvent, lane: str) -> None:
        body = event.body
        day = (lane, body["at"][:10])
        self.moment_days[day] = self.moment_days.get(day, 0) + 1
        data = body["data"]
        about = data.get("policy_id") or data.get("key_id", "")[:16] or body["stream"].partition(":")[2]
        what = f"{in_words(body['type'])}: {about}"
        self.moments.add(Moment(event.position, body["at"], lane, body["actor"], what, str(data.get("reason") or "")))


def in_words(event_name: str) -> str:
    """`budgets.funds_reserved` as `funds reserved`."""
    return event_name.partition(".")[2].replace("_", " ")


def _why(data: JsonObject) -> str:
    """In one sentence why an action ended as it did: the rule that refused, or the reasons of the policies, or the actor's own."""
    if "message" in data:
        return str(data["message"])
    reasons = [result["reason"] for result in data.get("policy_results") or [] if result["outcome"] != "allow" and result.get("reason")]
    return "; ".join(reasons) or str(data["intent"].get("reason") or "")


_APPROVAL_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "approvals.approval_requested": "open",
        "approvals.approval_granted": "granted",
        "approvals.approval_rejected": "rejected",
        "approvals.approval_expired": "expired",
        "approvals.approval_voided": "voided",
        "approvals.approval_withdrawn": "withdrawn",
        "approvals.approval_used": "granted",
    }
)
_BUDGET_MOVES: Final = frozenset(
    f"budgets.{name}" for name in ("budget_opened", "budget_funded", "funds_reserved", "funds_committed", "funds_released")
)
LANES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("policies.policy_activated", "policies.policy_retired", "policies.defaults_adopted"), "Policies"),
        **dict.fromkeys(("agents.agent_stopped", "agents.agent_resumed"), "Agents"),
        **dict.fromkeys(("access.roles_changed", "access.actor_suspended", "access.actor_reinstated"), "People and rights"),
        **dict.fromkeys(("approvals.authority_delegated", "approvals.authority_revoked"), "People and rights"),
        **dict.fromkeys(("pipelines.version_deployed", "pipelines.deployment_failed", "pipelines.pipeline_retired"), "Pipelines"),
        **dict.fromkeys(("policies.policies_rolled_back", "pipelines.pipeline_rolled_back"), "Rollbacks"),
        **dict.fromkeys(("catalog.dataset_rolled_back", "budgets.settings_rolled_back"), "Rollbacks"),
        "budgets.threshold_reached": "Budgets",
        **dict.fromkeys(("keys.key_added", "keys.key_rotated", "keys.key_revoked"), "Keys"),
        **dict.fromkeys(("exports.export_sealed", "exports.pack_downloaded"), "Exports"),
    }
)
"""Events that stand out, by the lane of the timeline they are shown in."""
