"""Who approves whom: pairs that approve each other more than others do, and approvals that come too soon to have been thought about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from infra.audit_trail import Entry
from infra.unusual import DAY, Finding, Kind, Unjudged, Usual, Window, finding, unusual, usual_of

OTHERS_LEAST: Final = 10
OWN_WEEKS: Final = 3
"""Fewer weeks of other pairs, or of this one, are not enough to compare with."""
MUTUAL_LEAST: Final = 6
HASTY_LEAST: Final = 4
HASTY: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Consent:
    """One approver's yes to one request."""

    request: Entry
    yes: Entry

    @property
    def from_to(self) -> tuple[str, str]:
        return self.yes.actor, self.request.actor

    @property
    def week(self) -> date:
        """The Monday it begins with."""
        day = self.yes.at.date()
        return day - DAY * day.weekday()

    @property
    def hasty(self) -> bool:
        return self.yes.at - self.request.at <= HASTY


PairWeek = tuple[tuple[str, str], date]
Consents = Mapping[PairWeek, Sequence[Consent]]


def consents(entries: Iterable[Entry]) -> Iterator[Consent]:
    """What was approved of what was requested in the same trail; a parked action is requested under its own id."""
    requests: dict[str, Entry] = {}
    for entry in entries:
        about = entry.stream.partition(":")[2]
        if entry.outcome == "requires_approval":
            requests[entry.action_id] = entry
        elif entry.outcome == "allowed" and entry.command == "approvals.request_approval":
            requests[about] = entry
        elif entry.outcome == "allowed" and entry.command == "approvals.approve_request" and about in requests:
            yield Consent(requests[about], entry)


def unusual_pairs(entries: Iterable[Entry], window: Window) -> Iterator[Finding | Unjudged]:
    """Week by week, each pair against all others up to then: of those who approve, and of approver and requester."""
    from_to: dict[PairWeek, list[Consent]] = defaultdict(list)
    for consent in consents(entries):
        from_to[consent.from_to, consent.week].append(consent)
    approvers = {approver for (approver, _), _ in from_to}
    between: dict[PairWeek, list[Consent]] = defaultdict(list)
    for (pair, week), given in sorted(from_to.items()):
        if approvers.issuperset(pair):
            between[(min(pair), max(pair)), week] += given
    for (pair, week), given in sorted(between.items()):
        if len(given) >= MUTUAL_LEAST and len({consent.from_to for consent in given}) == 2 and _falls_into(window, week):
            told = f"{pair[0]} and {pair[1]} approved {len(given)} requests of each other in the week of {week}."
            past = [len(consented) for (other, before), consented in between.items() if other == pair and before < week]
            own = [usual_of("pair_past", past)] if len(past) >= OWN_WEEKS else []
            yield from _compared("mutual_approvals", (pair, week), between, told, own)
    hasty = {pair_week: [consent for consent in given if consent.hasty] for pair_week, given in from_to.items()}
    for (pair, week), given in sorted(hasty.items()):
        if len(given) >= HASTY_LEAST and _falls_into(window, week):
            told = f"{pair[0]} approved {len(given)} requests of {pair[1]} within {HASTY.seconds} s each, in the week of {week}."
            yield from _compared("hasty_approvals", (pair, week), hasty, told, [])


def _falls_into(window: Window, week: date) -> bool:
    return window.overlaps(week, week + 6 * DAY)


def _compared(kind: Kind, pair_week: PairWeek, every: Consents, told: str, own: list[Usual]) -> Iterator[Finding | Unjudged]:
    (pair, week), given = pair_week, every[pair_week]
    others = [len(consented) for (other, past), consented in every.items() if other != pair and past <= week]
    if len(others) < OTHERS_LEAST:
        yield Unjudged(" and ".join(pair), f"not enough history: {len(given)} approvals, {len(others)} weeks of other pairs")
    elif what := unusual(len(given), [*own, usual_of("other_pairs", others)]):
        yield finding(kind, pair, week, 7, what, f"{told} Usual: {what.told()}.", [consent.yes for consent in given])
