"""Conflicts: policies that answer differently to one question are found, told with the plainest example, and by how grave they are."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from commands.policy import Verdict
from domain.actions import PolicyResult
from domain.kernel import JsonObject
from domain.policies import PolicyProposed, Rule, Scope
from domain.values import Role
from infra.policy_conflicts import QUESTIONS_MAX, SEVERITY, Space, conflicts, questions
from infra.policy_panel import ask_all
from infra.policy_sets import assemble, shipped_set
from tests.test_policy_sets import FINDING, HEAD, SHIPPED, proposed, with_policies
from tests.test_policy_sets import question as asked_about

pytestmark = pytest.mark.anyio

ACTIONS = ["budgets.open_budget", "catalog.register_dataset", "catalog.deprecate_dataset", "evidence.register_artifact"]


def allows(policy_id: str, **scope: Any) -> PolicyProposed:
    return proposed(policy_id, scope=Scope(**scope), rule=Rule(outcome="allow", reason="Fine."))


def blocks(policy_id: str, **scope: Any) -> PolicyProposed:
    return proposed(policy_id, scope=Scope(**scope), rule=Rule(outcome="block", reason="Never."))


def asks(policy_id: str, role: Role, **scope: Any) -> PolicyProposed:
    rule = Rule(outcome="require_approval", reason="Ask.", approver_roles=(role,))
    return proposed(policy_id, type="approval", scope=Scope(**scope), rule=rule)


async def found(*policies: PolicyProposed, recorded: tuple[JsonObject, ...] = ()) -> dict[tuple[str, ...], JsonObject]:
    """The conflicts that these policies bring to the shipped ones, by kind and pair."""
    active = with_policies(*policies).active()
    really = [orjson.dumps(question, option=orjson.OPT_SORT_KEYS) for question in recorded]
    asked = questions(Space.of(active, ACTIONS, recorded), really, limit=1_500)
    known = conflicts(asked, await ask_all(assemble(active), asked), len(really))
    names = {policy.policy_id for policy in policies}
    return {(conflict["kind"], *conflict["policies"]): conflict for conflict in known if names & set(conflict["policies"])}


async def test_one_allows_what_another_blocks() -> None:
    conflicts_found = await found(allows("sun", domains=("sales",)), blocks("moon", domains=("sales",), pii_levels=("low",)))
    conflict = conflicts_found["contradiction", "moon", "sun"]
    facts = conflict["example"]["question"]["facts"]
    assert "sales" in {facts.get("domain"), facts["becomes"].get("domain")}
    assert "low" in {facts.get("pii_level"), facts["becomes"].get("pii_level")}
    assert conflict["example"]["outcome"] == "block"
    assert [answer["outcome"] for answer in conflict["answers"]] == ["block", "allow"]


async def test_one_asks_for_an_approval_of_what_another_blocks() -> None:
    assert ("overruled", "ask", "never") in await found(
        asks("ask", Role.ADMIN, actions=("budgets.open_budget",)), blocks("never", actions=("budgets.*",))
    )


async def test_two_who_want_different_approvers_leave_nobody_who_could_approve() -> None:
    conflicts_found = await found(asks("one", Role.ADMIN, domains=("risk",)), asks("two", Role.AUDITOR, domains=("risk",)))
    conflict = conflicts_found["deadlock", "one", "two"]
    assert conflict["example"]["outcome"] == "block"


async def test_a_policy_that_says_two_things_is_in_conflict_with_itself() -> None:
    source = f"{HEAD}night(question) := [{FINDING % 'allow'}, {FINDING % 'block'}] if question.action\n"
    assert ("self_contradiction", "night", "night") in await found(proposed("night", rego=source))


async def test_policies_that_never_meet_are_in_no_conflict() -> None:
    conflicts_found = await found(allows("sun", domains=("sales",)), blocks("moon", actor_kinds=("robot",)))
    assert ("contradiction", "moon", "sun") not in conflicts_found


async def test_a_limit_in_a_source_is_looked_for_on_both_sides() -> None:
    source = f"""{HEAD}night(question) := [finding |
	question.action == "budgets.open_budget"
	question.facts.limit_minor > 750000
	finding := {FINDING % "block"}
]
"""
    conflicts_found = await found(proposed("night", rego=source))
    question = conflicts_found["contradiction", "baseline_allow", "night"]["example"]["question"]
    assert question["facts"]["limit_minor"] == 750_001


async def test_what_was_really_asked_is_the_better_example() -> None:
    really = asked_about("budgets.open_budget", domain="treasury", becomes={"pii_level": "low"})
    conflicts_found = await found(blocks("moon", actions=("budgets.*",)), recorded=(really,))
    example = conflicts_found["contradiction", "baseline_allow", "moon"]["example"]
    assert example["recorded"] is True
    assert example["question"] == really


async def test_the_shipped_policies_leave_nobody_in_a_deadlock() -> None:
    active = shipped_set(SHIPPED).active()
    asked = questions(Space.of(active, ACTIONS, ()), [])
    graver = {conflict["kind"] for conflict in conflicts(asked, await ask_all(assemble(active), asked), 0)}
    assert not graver & {"deadlock", "self_contradiction"}


def test_the_search_is_bounded_and_the_same_every_time() -> None:
    active = with_policies(blocks("moon", domains=tuple(f"d{number}" for number in range(100)))).active()
    first, again = (questions(Space.of(active, ACTIONS, ()), []) for _ in range(2))
    assert first == again
    assert len(first) == len(set(first)) == QUESTIONS_MAX


def test_a_small_space_is_asked_whole() -> None:
    space = Space(actions={"a.b"}, facts={"domain": {"sales"}}, becomes={})
    asked = [orjson.loads(question) for question in questions(space, [], limit=10_000)]
    assert len(asked) == len(questions(space, [], limit=100_000))
    assert {question["actor"]["kind"] for question in asked} == {"person", "agent", "service"}
    assert {question["facts"].get("domain") for question in asked} == {None, "sales"}


@hypothesis_given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["allow", "block", "require_approval"])), min_size=1, max_size=5)
)
def test_every_disagreement_is_told_once_per_pair_and_kind(said: list[tuple[str, Any]]) -> None:
    verdict = Verdict("block", tuple(PolicyResult(policy=policy, outcome=outcome) for policy, outcome in said))
    told = conflicts([b'{"facts":{}}'], [verdict], 0)
    pairs = {frozenset((one, other)) for one, first in said for other, second in said if first != second}
    assert {frozenset(conflict["policies"]) for conflict in told} == pairs
    assert [SEVERITY.index(conflict["kind"]) for conflict in told] == sorted(SEVERITY.index(conflict["kind"]) for conflict in told)
