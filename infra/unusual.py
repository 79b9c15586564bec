"""What it is to be unusual: so many spreads above a median; and what a finding tells an auditor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import sqrt
from statistics import median
from typing import Final, Literal

from domain.kernel import timestamp
from infra.audit_trail import Entry

UNUSUAL: Final = 8.0
"""So many spreads above the median: chance alone does not come near it."""
NAMED_MAX: Final = 20
DAY: Final = timedelta(days=1)
_MAD_TO_DEVIATION: Final = 1.4826
"""Makes the median distance comparable to a standard deviation."""

Kind = Literal[
    "many_actions",
    "busy_hour",
    "many_refusals",
    "many_streams",
    "many_high_pii",
    "unusual_hours",
    "first_sensitive_use",
    "mutual_approvals",
    "hasty_approvals",
]
Against = Literal["own_past", "role_past", "role_that_day", "pair_past", "other_pairs"]
_COMPARED: Final[dict[Against, str]] = {
    "own_past": "on {} days of its own",
    "role_past": "on {} days of its role",
    "role_that_day": "with {} of its role that day",
    "pair_past": "in {} weeks of their own",
    "other_pairs": "in {} weeks of other pairs",
}


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual, and against what: so many days or weeks of it."""

    against: Against
    median: float
    spread: float
    count: int

    def score(self, value: int) -> float:
        return (value - self.median) / self.spread


def usual_of(against: Against, values: Sequence[int]) -> Usual:
    """Honest counts scatter by their square root, so no spread is taken for less than that."""
    middle = median(values)
    distance = median(abs(value - middle) for value in values)
    return Usual(against, middle, round(max(_MAD_TO_DEVIATION * distance, sqrt(middle), 0.5), 2), len(values))


@dataclass(frozen=True, slots=True)
class Unusual:
    """A value that stands out from each of what is usual. A first use scores the days that went by without it."""

    value: int
    usual: tuple[Usual, ...]
    score: float

    def told(self) -> str:
        return ", ".join(f"{each.median:g} {_COMPARED[each.against].format(each.count)} (spread {each.spread:g})" for each in self.usual)


def unusual(value: int, usual: Iterable[Usual]) -> Unusual | None:
    """None when one comparison finds nothing to it, or when there is none."""
    told = tuple(usual)
    score = min((each.score(value) for each in told), default=0.0)
    return Unusual(value, told, score) if score >= UNUSUAL else None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something unusual: `value` stands `score` spreads above what is usual, by the comparison in which it stands out least.

    `id` is the same whenever the same is found again; `action_ids` are the first of the `actions` that it rests on.
    """

    id: str
    kind: Kind
    actor: str
    counterpart: str | None
    since: str
    until: str
    value: int
    score: float
    usual: tuple[Usual, ...]
    explanation: str
    actions: int
    action_ids: tuple[str, ...]


def finding(kind: Kind, who: Sequence[str], first: date, days: int, what: Unusual, told: str, rests_on: Iterable[Entry]) -> Finding:
    """About one actor or a pair, and whole days of UTC."""
    since, until = (timestamp(datetime.combine(day, time(), UTC)) for day in (first, first + days * DAY))
    actor, counterpart = (*who, None)[:2]
    assert actor is not None
    action_ids = tuple(dict.fromkeys(entry.action_id for entry in rests_on))
    return Finding(
        id=hashlib.sha256("\n".join((kind, *who, since)).encode()).hexdigest()[:32],
        kind=kind,
        actor=actor,
        counterpart=counterpart,
        since=since,
        until=until,
        value=what.value,
        score=round(what.score, 1),
        usual=what.usual,
        explanation=told,
        actions=len(action_ids),
        action_ids=action_ids[:NAMED_MAX],
    )


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Of whom nothing, or not all, can be said, and why."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Window:
    """Whole days of UTC, both included."""

    first: date
    last: date

    def overlaps(self, first: date, last: date) -> bool:
        return first <= self.last and last >= self.first
