"""Past decisions asked again: under the policies of their time they must come out the same, under others it shows what flips.

The ledger is the only source: what each action's policies were asked stands in its event, and what was in force then in
the policies' own stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import TupleRow

from commands.policies import DECIDER
from commands.policy import ENGINE, Verdict
from domain.kernel import JsonObject
from domain.policies import PolicySet
from infra.envelope import recorded
from infra.policy_bundle import Bundle, BundleRefused
from infra.policy_panel import PASSING, answered, ask_all
from infra.policy_sets import STREAM, assemble

DECISIONS_MAX: Final = 100_000
DIFFERENCES_TOLD: Final = 1_000
_ROWS_AT_ONCE: Final = 2_000
_INCOMPLETE: Final = "evidence_incomplete"
_STRICTNESS: Final = ("allow", "require_approval", "block")
_ACTIONS: Final = """
    SELECT position, stream, body FROM ledger.events
    WHERE tenant = %(tenant)s AND position > %(after)s AND position <= %(to)s
        AND type IN ('actions.action_allowed', 'actions.action_blocked', 'actions.action_parked')
"""
_OLDEST: Final = f"{_ACTIONS} ORDER BY position LIMIT %(limit)s"
_LATEST: Final = f"WITH latest AS ({_ACTIONS} ORDER BY position DESC LIMIT %(limit)s) SELECT * FROM latest ORDER BY position"  # noqa: S608 - constants
_SET_HISTORY: Final = "SELECT position, body, leaf FROM ledger.events WHERE tenant = %s AND stream = %s ORDER BY version"
Connection = psycopg.AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True)
class Range:
    """Which decisions of a tenant: those after one position up to another, the first or the latest so many."""

    tenant: str
    after: int = 0
    to: int = 2**62
    limit: int = DECISIONS_MAX
    latest: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of a decision that the policies were asked about."""

    position: int
    action_id: str
    action: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a class of decisions has in common: the policies' version, what was in force, what was answered, and how it came out."""

    policy_version: str
    set_version: int
    results: bytes
    outcome: str

    def said(self) -> list[JsonObject]:
        said: list[JsonObject] = orjson.loads(self.results)
        return said


@dataclass(slots=True)
class Past:
    """The decisions of a range, by question and then by what was answered: equal questions are asked again once."""

    questions: dict[bytes, dict[Answer, list[Decision]]] = field(default_factory=dict)
    examined: int = 0
    unasked: int = 0
    """Refused before the policies were asked, or from a time when the question was not yet kept."""
    unanswered: int = 0
    """The policies did not answer then: there is nothing to compare with."""
    first: int = 0
    last: int = 0


class SetHistory:
    """What a tenant had in force at each time, from the stream of its policies."""

    def __init__(self, versions: list[tuple[int, PolicySet]]) -> None:
        self._positions = [position for position, _ in versions]
        self._sets = [DECIDER.initial, *(policies for _, policies in versions)]

    @classmethod
    async def read(cls, connection: Connection, tenant: str) -> SetHistory:
        versions: list[tuple[int, PolicySet]] = []
        state = DECIDER.initial
        rows = await (await connection.execute(_SET_HISTORY, (tenant, STREAM), binary=True)).fetchall()
        for position, body, leaf in rows:
            event: Any = recorded(position, body, leaf).event
            state = DECIDER.evolve(state, event)
            versions.append((position, state))
        return cls(versions)

    def version_before(self, position: int) -> int:
        """The stream's version as a decision at this position knew it."""
        return bisect_left(self._positions, position)

    def at(self, version: int) -> PolicySet:
        return self._sets[version]

    def adopted(self) -> PolicySet | None:
        """What was adopted first: it was in force before as well, as what was shipped."""
        return next((policies for policies in self._sets if policies.adopted), None)


async def read_past(connection: Connection, wanted: Range, history: SetHistory) -> Past:
    """The decisions of a range, from the bytes of the ledger."""
    past = Past()
    async for position, stream, body in _rows(connection, wanted):
        member: JsonObject = orjson.loads(body)["data"]
        past.examined += 1
        past.first = past.first or position
        past.last = position
        results, question = member.get("policy_results"), member.get("question")
        if question is None or not results:
            past.unasked += 1
        elif results[0]["policy"] == ENGINE and results[0]["reason"] in PASSING:
            past.unanswered += 1
        else:
            intent = member["intent"]
            # A decision about the policies themselves wrote to their stream just before its own event.
            about_policies = intent["stream"] == STREAM
            set_version = intent["seen_version"] if about_policies else history.version_before(position)
            outcome = "block" if member.get("code") == _INCOMPLETE else _strictest(results)
            answer = Answer(member["policy_version"], set_version, orjson.dumps(results), outcome)
            key = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
            decision = Decision(position, stream.partition(":")[2], intent["command"])
            past.questions.setdefault(key, {}).setdefault(answer, []).append(decision)
    return past


async def _rows(connection: Connection, wanted: Range) -> AsyncIterator[tuple[int, str, bytes]]:
    arguments = {"tenant": wanted.tenant, "after": wanted.after, "to": wanted.to, "limit": min(wanted.limit, DECISIONS_MAX)}
    async with connection.transaction(), connection.cursor("past", binary=True) as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        await cursor.execute(_LATEST if wanted.latest else _OLDEST, arguments)
        async for row in cursor:
            yield row


async def under_recorded(past: Past, history: SetHistory, shipped: PolicySet) -> JsonObject:
    """Every decision asked again under the policies of its time; what comes out differently is an alarm."""
    found, bundles = _Found(past), _Bundles(history, shipped)
    pending: dict[str, tuple[Bundle, dict[bytes, list[Answer]]]] = {}
    for question, classes in past.questions.items():
        for answer, decisions in classes.items():
            bundle = bundles.find(answer)
            if bundle is None:
                found.add(decisions, answer, None, "The policies of that time cannot be put together as they were.")
            else:
                pending.setdefault(bundle.version, (bundle, {}))[1].setdefault(question, []).append(answer)
    for bundle, questions in pending.values():
        for (question, alike), now in zip(questions.items(), await ask_all(bundle, list(questions)), strict=True):
            for answer in alike:
                if _results(now) != answer.said():
                    why = "The same policies answer differently now."
                    found.add(past.questions[question][answer], answer, now, why, now.outcome)
    return found.report("recorded", len(past.questions))


async def under_candidate(past: Past, candidate: Bundle) -> JsonObject:
    """Every decision asked again under other policies: what would come out differently, and why."""
    found = _Found(past)
    questions = list(past.questions)
    for question, now in zip(questions, await ask_all(candidate, questions), strict=True):
        missing = _missing(question, now)
        outcome = "block" if missing and now.outcome == "allow" else now.outcome
        for answer, decisions in past.questions[question].items():
            if answer.outcome != outcome:
                found.add(decisions, answer, now, f"It would need {missing}." if outcome != now.outcome else _why(answer, now), outcome)
    return {**found.report("candidate", len(questions)), "candidate_version": candidate.version}


class _Bundles:
    """The bundle that was in force when something was asked, put together once per set."""

    def __init__(self, history: SetHistory, shipped: PolicySet) -> None:
        self._history, self._shipped = history, shipped
        self._known: dict[str, Bundle | None] = {}

    def find(self, answer: Answer) -> Bundle | None:
        """None when nothing that was in force comes to the recorded version."""
        policies = self._history.at(answer.set_version)
        # Before a tenant adopted policies of its own, those it was going to adopt were in force as they were shipped.
        candidates = [policies] if policies.adopted else [self._history.adopted() or self._shipped, self._shipped]
        found = (self._assembled(candidate) for candidate in candidates)
        return next((bundle for bundle in found if bundle is not None and bundle.version == answer.policy_version), None)

    def _assembled(self, policies: PolicySet) -> Bundle | None:
        if policies.digest not in self._known:
            try:
                self._known[policies.digest] = assemble(policies.active())
            except BundleRefused:
                self._known[policies.digest] = None
        return self._known[policies.digest]


class _Found:
    """What came out differently; all of it is counted, a bounded part is told."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self._flips: Counter[tuple[str, str]] = Counter()
        self._told: list[JsonObject] = []

    def add(self, decisions: list[Decision], answer: Answer, now: Verdict | None, why: str, after: str = "unknown") -> None:
        before = answer.outcome
        self._flips[before, after] += len(decisions)
        for decision in decisions:
            told = {"action_id": decision.action_id, "position": decision.position, "action": decision.action}
            self._told.append({**told, "before": before, "after": after, "why": why, "results": _results(now) if now else []})

    def report(self, under: str, distinct: int) -> JsonObject:
        past = self._past
        told = sorted(self._told, key=lambda difference: difference["position"])
        return {
            "under": under,
            "from_position": past.first,
            "to_position": past.last,
            "examined": past.examined,
            "asked_again": sum(len(decisions) for classes in past.questions.values() for decisions in classes.values()),
            "distinct_questions": distinct,
            "unasked": past.unasked,
            "unanswered_then": past.unanswered,
            "different": len(told),
            "flips": [{"before": before, "after": after, "count": count} for (before, after), count in sorted(self._flips.items())],
            "differences": told[:DIFFERENCES_TOLD],
        }


def _results(verdict: Verdict) -> list[JsonObject]:
    return [result.model_dump(mode="json") for result in verdict.results]


def _strictest(results: list[JsonObject]) -> str:
    return _STRICTNESS[max(_STRICTNESS.index(result["outcome"]) for result in results)]


def _missing(question: bytes, now: Verdict) -> str:
    """The kinds of evidence that were not there then, and without which the action would not complete."""
    if not now.required_evidence:
        return ""
    given = orjson.loads(question).get("evidence", {}).get("kinds", ())
    return ", ".join(sorted(set(now.required_evidence) - set(given)))


def _why(answer: Answer, now: Verdict) -> str:
    """What the candidate says that makes the difference: the policies that decide its outcome, and those that fell silent."""
    if not answered(now):
        return f"The candidate gives no answer ({now.results[0].reason})."
    deciding = [f"{result.policy}: {result.reason}" for result in now.results if result.outcome == now.outcome]
    known = {result.policy for result in now.results}
    silent = [result["policy"] for result in answer.said() if result["outcome"] == answer.outcome and result["policy"] not in known]
    return "; ".join([*deciding, *(f"{policy} is silent" for policy in silent)])
