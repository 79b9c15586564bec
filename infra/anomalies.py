"""What is unusual in the audit trail: an actor's days against that actor's own past and against its role's, and who approves whom.

Usual is a median and the median distance from it: a few wild days among many move neither. Where there is too little to
compare with, that is said, and nothing is guessed. Nothing here reads or waits: the same trail leads to the same findings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from infra.approval_pairs import unusual_pairs
from infra.audit_trail import Entry, Trail, is_sensitive
from infra.unusual import Finding, Kind, Unjudged, Unusual, Usual, Window, finding, unusual, usual_of

HISTORY: Final = timedelta(days=28)
"""How far before a day it is looked for what is usual."""
OWN_DAYS: Final = 10
ROLE_ACTORS: Final = 4
ROLE_DAYS: Final = 20
"""Fewer days of the actor's own, actors of its role, or days of theirs are not enough to compare with."""
HOURS_NEAR: Final = 2
"""An hour as near as this to one in which the actor works is not unusual: people stay late, and clocks change twice a year."""
STRANGE_LEAST: Final = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, the most unusual first, and of whom not everything can be said."""

    findings: tuple[Finding, ...]
    unjudged: tuple[Unjudged, ...]


def examine(trail: Trail, since: datetime, until: datetime) -> Report:
    """What is unusual on the days from `since` to `until`, whole days of UTC."""
    window = Window(since.astimezone(UTC).date(), until.astimezone(UTC).date())
    findings: list[Finding] = []
    unjudged: dict[str, Unjudged] = {}
    for each in (*_unusual_days(trail, window), *unusual_pairs(trail.entries, window)):
        if isinstance(each, Finding):
            findings.append(each)
        else:
            unjudged[each.actor] = each
    findings.sort(key=lambda one: (-one.score, one.since, one.kind, one.actor, one.id))
    return Report(tuple(findings), tuple(unjudged[actor] for actor in sorted(unjudged)))


# -- what is counted of a day


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is counted: `counted` picks an action of the day for each. Fewer than `least` are never unusual."""

    kind: Kind
    least: int
    counted: Callable[[Sequence[Entry]], Sequence[Entry]]
    noun: str


def _busiest_hour(day: Sequence[Entry]) -> Sequence[Entry]:
    hours: dict[int, list[Entry]] = defaultdict(list)
    for entry in day:
        hours[entry.at.hour].append(entry)
    return max(hours.values(), key=len)


def _refused(day: Sequence[Entry]) -> Sequence[Entry]:
    return [entry for entry in day if entry.outcome == "blocked"]


def _streams(day: Sequence[Entry]) -> Sequence[Entry]:
    return _first_of_each((entry.stream, entry) for entry in day)


def _high_pii(day: Sequence[Entry]) -> Sequence[Entry]:
    return _first_of_each((dataset, entry) for entry in day for dataset in entry.high_pii)


def _first_of_each(named: Iterable[tuple[str, Entry]]) -> Sequence[Entry]:
    first: dict[str, Entry] = {}
    for name, entry in named:
        first.setdefault(name, entry)
    return list(first.values())


MEASURES: Final = (
    Measure("many_actions", 30, list, "actions"),
    Measure("busy_hour", 20, _busiest_hour, "actions in one hour"),
    Measure("many_refusals", 10, _refused, "refused attempts"),
    Measure("many_streams", 20, _streams, "different things touched"),
    Measure("many_high_pii", 8, _high_pii, "datasets of PII level high touched"),
)


class Days:
    """Every actor's active days, and what is usual of them."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.of: dict[str, dict[date, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for entry in entries:
            self.of[entry.actor][entry.at.date()].append(entry)
        self._actors: dict[tuple[str, ...], dict[date, list[str]]] = defaultdict(lambda: defaultdict(list))
        for actor, days in self.of.items():
            for day in days:
                self._actors[self._role(actor, day)][day].append(actor)
        self._pasts: dict[tuple[tuple[str, ...], date], list[tuple[str, date]]] = {}
        self._values: dict[tuple[Kind, str, date], int] = {}
        self._known: dict[tuple[Kind, tuple[str, ...], date], tuple[Usual, ...]] = {}

    def _role(self, actor: str, day: date) -> tuple[str, ...]:
        return self.of[actor][day][-1].role

    def before(self, actor: str, day: date) -> list[date]:
        """The days on which an actor was active before, as far back as it is looked."""
        return [past for past in self.of[actor] if day - HISTORY <= past < day]

    def value(self, measure: Measure, actor: str, day: date) -> int:
        key = (measure.kind, actor, day)
        if key not in self._values:
            self._values[key] = len(measure.counted(self.of[actor][day]))
        return self._values[key]

    def usual(self, measure: Measure, actor: str, day: date) -> Iterator[Usual]:
        """What a measure usually comes to: for the actor, for its role, and for its role on that very day."""
        own = self.before(actor, day)
        if len(own) >= OWN_DAYS:
            yield usual_of("own_past", [self.value(measure, actor, past) for past in own])
        role = self._role(actor, day)
        if (measure.kind, role, day) not in self._known:
            self._known[measure.kind, role, day] = tuple(self._usual_of_role(measure, role, day))
        yield from self._known[measure.kind, role, day]

    def _usual_of_role(self, measure: Measure, role: tuple[str, ...], day: date) -> Iterator[Usual]:
        if past := self._past_of_role(role, day):
            yield usual_of("role_past", [self.value(measure, actor, past_day) for actor, past_day in past])
            today = self._actors[role][day]
            if len(today) >= ROLE_ACTORS:  # on a hard day for everybody nobody stands out
                yield usual_of("role_that_day", [self.value(measure, actor, day) for actor in today])

    def _past_of_role(self, role: tuple[str, ...], day: date) -> list[tuple[str, date]]:
        """Who of a role was active before, and when; nobody when that is too little to compare with."""
        if (role, day) not in self._pasts:
            past = [(actor, past) for past, actors in self._actors[role].items() if day - HISTORY <= past < day for actor in actors]
            enough = len(past) >= ROLE_DAYS and len({actor for actor, _ in past}) >= ROLE_ACTORS
            self._pasts[role, day] = past if enough else []
        return self._pasts[role, day]

    def too_short(self, actor: str, day: date) -> Unjudged | None:
        """What is missing to judge an actor's day by its own past; None when nothing is."""
        own = len(self.before(actor, day))
        if own >= OWN_DAYS:
            return None
        others = "compared with its role alone" if self._past_of_role(self._role(actor, day), day) else "and too few of its role"
        return Unjudged(actor, f"not enough history: {own} days of its own, {others}")


# -- an actor's day


def _unusual_days(trail: Trail, window: Window) -> Iterator[Finding | Unjudged]:
    days = Days(trail.entries)
    used = {entry.use for entry in trail.entries if entry.at.date() < window.first} | trail.used_before
    for actor, active in sorted(days.of.items()):
        for day in sorted(active):
            if not window.overlaps(day, day):
                continue
            yield from _much(days, actor, day)
            short = days.too_short(actor, day)
            if short is None:
                yield from _strange_hours(days, actor, day)
                yield from _first_uses(days, actor, day, used)
            else:
                yield short
            used.update(entry.use for entry in active[day])


def _much(days: Days, actor: str, day: date) -> Iterator[Finding]:
    found: dict[Kind, Finding] = {}
    for measure in MEASURES:
        value = days.value(measure, actor, day)
        if value >= measure.least and (what := unusual(value, days.usual(measure, actor, day))):
            told = f"{actor}: {value} {measure.noun} on {day}. Usual: {what.told()}."
            found[measure.kind] = finding(measure.kind, [actor], day, 1, what, told, measure.counted(days.of[actor][day]))
    if "many_actions" in found:
        found.pop("busy_hour", None)  # an hour is told of where the whole day does not stand out
    yield from found.values()


def _strange_hours(days: Days, actor: str, day: date) -> Iterator[Finding]:
    """Actions at hours that no past day of the actor's came near."""
    past = days.before(actor, day)
    worked = {entry.at.hour for past_day in past for entry in days.of[actor][past_day]}
    strange = [entry for entry in days.of[actor][day] if all(_apart(entry.at.hour, hour) > HOURS_NEAR for hour in worked)]
    if len(strange) >= STRANGE_LEAST and (what := unusual(len(strange), [usual_of("own_past", [0] * len(past))])):
        hours = ", ".join(f"{hour:02}:00" for hour in sorted({entry.at.hour for entry in strange}))
        told = f"{actor}: {what.value} actions at {hours} UTC on {day}. Usual: none near these hours on {len(past)} days of its own."
        yield finding("unusual_hours", [actor], day, 1, what, told, strange)


def _apart(hour: int, other: int) -> int:
    return min((hour - other) % 24, (other - hour) % 24)


def _first_uses(days: Days, actor: str, day: date, used: set[tuple[str, str]]) -> Iterator[Finding]:
    """Sensitive commands that the actor never asked for before, refused or not."""
    asked = _first_of_each((entry.command, entry) for entry in days.of[actor][day] if is_sensitive(entry.command))
    if first := [entry for entry in asked if entry.use not in used]:
        past = len(days.before(actor, day))
        names = ", ".join(sorted(entry.command for entry in first))
        told = f"{actor}: first use of {names} on {day}. Usual: never, neither on {past} days of its own nor ever before."
        yield finding("first_sensitive_use", [actor], day, 1, Unusual(len(first), (usual_of("own_past", [0] * past),), past), told, first)
