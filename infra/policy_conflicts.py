"""Where policies disagree: questions to which two of them answer differently, found by asking many that could come up.

The questions are made of what policies look at - the values that stand in their sources, lists and scopes - and of those
that were really asked. The search is bounded and seeded: the same policies, the same questions.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import orjson

from commands.policy import ENGINE, Verdict
from domain.actions import PolicyResult
from domain.evidence import ArtifactKind
from domain.kernel import JsonObject
from domain.policies import PolicyProposed
from domain.values import ActorKind, Role

QUESTIONS_MAX: Final = 4_000
SEED: Final = 20_260_303
SEVERITY: Final = ("deadlock", "self_contradiction", "contradiction", "overruled", "held")
"""Nobody could approve; one policy says two things; one allows what another blocks; asks for approval of what another
blocks; allows what another wants approved."""
_ABSENT: Final = object()
_LINE: Final = re.compile(r"^\s*(?!#)(.*)$", re.MULTILINE)
_FACT: Final = re.compile(r'\b(?:facts|becomes)\.([a-z_]+)|\bobject\.get\([\w.]*(?:facts|becomes), "([a-z_]+)"')
_STRING: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_NUMBER: Final = re.compile(r"(?<![\w.])(\d{1,15})(?![\w.])")
_ACTION: Final = re.compile(r"[a-z_]+\.[a-z_]+")
_FACT_OF_SCOPE: Final = {"domains": "domain", "pii_levels": "pii_level", "jurisdictions": "jurisdiction", "environments": "environment"}
_KINDS: Final = {
    frozenset({"allow", "block"}): "contradiction",
    frozenset({"require_approval", "block"}): "overruled",
    frozenset({"allow", "require_approval"}): "held",
}


@dataclass
class Space:
    """The values that a question may be made of; `pointed` actions are those that some policy names."""

    actions: set[str] = field(default_factory=set)
    pointed: set[str] = field(default_factory=set)
    facts: dict[str, set[Any]] = field(default_factory=dict)
    becomes: dict[str, set[Any]] = field(default_factory=dict)
    recent: set[int] = field(default_factory=lambda: {64})

    @classmethod
    def of(cls, active: Sequence[PolicyProposed], actions: Iterable[str], recorded: Iterable[JsonObject]) -> Space:
        space = cls(actions=set(actions))
        for policy in active:
            space._scan(policy.rego or "")
            space._scan_data(policy.data)
            scope = policy.scope
            space.pointed |= {action for action in scope.actions if not action.endswith(".*")}
            for member, fact in _FACT_OF_SCOPE.items():
                space.facts.setdefault(fact, set()).update(getattr(scope, member))
        for question in recorded:
            space._learn(question)
        space.actions |= space.pointed
        return space

    def _scan(self, source: str) -> None:
        """Values that stand on one line with a fact are values of that fact; a number's neighbours lie across its limit."""
        for line in _LINE.findall(source):
            strings = {text for text in _STRING.findall(line) if text}
            numbers = {int(number) + step for number in _NUMBER.findall(line) for step in (-1, 0, 1)}
            self.pointed |= {text for text in strings if _ACTION.fullmatch(text)}
            names = {one or other for one, other in _FACT.findall(line)}
            for name in names - {"becomes"}:
                self.facts.setdefault(name, set()).update(strings - names, numbers)
            if "recent" in line:
                self.recent |= {number for number in numbers if number >= 0}

    def _scan_data(self, value: Any) -> None:
        if isinstance(value, str):
            if _ACTION.fullmatch(value):
                self.pointed.add(value)
        elif isinstance(value, Mapping | list):
            for item in value.values() if isinstance(value, Mapping) else value:
                self._scan_data(item)

    def _learn(self, question: JsonObject) -> None:
        facts = question.get("facts", {})
        self.actions.add(question["action"])
        for name, value in facts.items():
            if _plain(value):
                self.facts.setdefault(name, set()).add(value)
        for name, value in (facts.get("becomes") or {}).items():
            if _plain(value):
                self.becomes.setdefault(name, set()).add(value)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | bool)


def questions(space: Space, recorded: Sequence[bytes], limit: int = QUESTIONS_MAX) -> list[bytes]:
    """Those that were asked first, then all that the space holds or, when they are too many, a sample of them."""
    chosen = dict.fromkeys(recorded[: limit // 2])
    dimensions = _dimensions(space)
    few = math.prod(map(len, dimensions.values())) <= limit - len(chosen)
    made = _every(dimensions) if few else _sample(dimensions, space, limit)
    for question in made:
        if len(chosen) >= limit:
            break
        chosen.setdefault(orjson.dumps(question, option=orjson.OPT_SORT_KEYS))
    return list(chosen)


def _dimensions(space: Space) -> dict[str, list[Any]]:
    """What can be chosen, in one order; a fact may be absent, and may be about to change."""
    dimensions: dict[str, list[Any]] = {
        "action": sorted(space.actions),
        "kind": [kind.value for kind in ActorKind],
        "role": [role.value for role in Role],
        "has_reason": [False, True],
        "evidence": [[], list(get_args(ArtifactKind))],
        "recent": sorted(space.recent),
    }
    for name, values in sorted(space.facts.items()):
        dimensions[f"facts.{name}"] = [_ABSENT, *_ordered(values)]
    for name in sorted(space.becomes.keys() | space.facts.keys() & set(_FACT_OF_SCOPE.values())):
        values = space.becomes.get(name, set()) | space.facts.get(name, set())
        dimensions[f"becomes.{name}"] = [_ABSENT, *_ordered(values)]
    return dimensions


def _ordered(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (str(type(value)), str(value)))


def _every(dimensions: Mapping[str, list[Any]]) -> Iterator[JsonObject]:
    for values in itertools.product(*dimensions.values()):
        yield _question(dict(zip(dimensions, values, strict=True)))


def _sample(dimensions: Mapping[str, list[Any]], space: Space, limit: int) -> Iterator[JsonObject]:
    """Half of them about actions that policies name: what nobody looks at needs no more than a glance."""
    dice = random.Random(SEED)  # noqa: S311 - a search that can be repeated, not a secret
    pointed = sorted(space.pointed)
    for _ in range(limit * 2):
        chosen = {name: dice.choice(values) for name, values in dimensions.items()}
        if pointed and dice.random() < 0.5:
            chosen["action"] = dice.choice(pointed)
        yield _question(chosen)


def _question(chosen: Mapping[str, Any]) -> JsonObject:
    facts = {name[6:]: value for name, value in chosen.items() if name.startswith("facts.") and value is not _ABSENT}
    becomes = {name[8:]: value for name, value in chosen.items() if name.startswith("becomes.") and value is not _ABSENT}
    return {
        "action": chosen["action"],
        "actor": {"roles": [chosen["role"]], "kind": chosen["kind"]},
        "tenant": "example",
        "facts": {**facts, "becomes": becomes} if facts else {},
        "has_reason": chosen["has_reason"],
        "evidence": {"kinds": chosen["evidence"], "failed_tests": 0},
        "recent": chosen["recent"],
    }


def conflicts(asked: Sequence[bytes], verdicts: Sequence[Verdict], recorded: int) -> list[JsonObject]:
    """Each pair of policies that disagree, the gravest first, with the plainest example; the first `recorded` were really asked."""
    found: dict[tuple[str, str, str], JsonObject] = {}
    for index, (question, verdict) in enumerate(zip(asked, verdicts, strict=True)):
        for kind, one, other in _disagreements(verdict):
            example = {"question": orjson.loads(question), "recorded": index < recorded, "outcome": verdict.outcome}
            known = found.get((kind, one.policy, other.policy))
            if known is None:
                found[kind, one.policy, other.policy] = {
                    "kind": kind,
                    "policies": [one.policy, other.policy],
                    "answers": [_said(one), _said(other)],
                    "seen": 1,
                    "example": example,
                }
                continue
            known["seen"] += 1
            if _plainness(example) < _plainness(known["example"]):
                known |= {"answers": [_said(one), _said(other)], "example": example}
    return sorted(found.values(), key=lambda conflict: (SEVERITY.index(conflict["kind"]), conflict["policies"]))


def _plainness(example: JsonObject) -> tuple[bool, int]:
    return not example["recorded"], len(orjson.dumps(example["question"]))


def _said(result: PolicyResult) -> JsonObject:
    return {"outcome": result.outcome, "reason": result.reason}


def _disagreements(verdict: Verdict) -> Iterator[tuple[str, PolicyResult, PolicyResult]]:
    """How the policies that answered disagree; where the engine found that nobody could approve, that alone."""
    results = sorted((result for result in verdict.results if result.policy != ENGINE), key=lambda result: result.policy)
    deadlock = verdict.results[0].policy == ENGINE and verdict.results[0].reason == "contradiction"
    for one, other in itertools.combinations(results, 2):
        if deadlock:
            if one.outcome == other.outcome == "require_approval" and one.policy != other.policy:
                yield "deadlock", one, other
        elif one.outcome != other.outcome:
            kind = "self_contradiction" if one.policy == other.policy else _KINDS[frozenset({one.outcome, other.outcome})]
            yield kind, one, other
