"""Policies: what is refused, what follows, and the law that nothing is in force but what was adopted, or tested and examined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from commands.policies import (
    DECIDER,
    ActivatePolicies,
    AdoptDefaults,
    ProposePolicy,
    RecordImpact,
    RecordTest,
    RetirePolicy,
    RollBackPolicies,
    WrittenPolicy,
    left_by,
)
from domain.kernel import Event, Recorded, Refused, json_digest
from domain.policies import (
    Change,
    DefaultsAdopted,
    Flip,
    ImpactAnalysed,
    PoliciesRolledBack,
    PoliciesTested,
    PolicyActivated,
    PolicyProposed,
    PolicyRef,
    PolicyRetired,
    PolicySet,
    PolicySuperseded,
    Rule,
    Scope,
)
from domain.values import Role, uuid7
from projections.engine import replay
from projections.policies import PROJECTION, PolicyRow, PolicyStepRow, PolicyVersionRow
from tests.given import ADMIN, AT, Given, given

SHA, OTHER_SHA = "a" * 64, "b" * 64
Said = dict[str, Any]
FRAMEWORK: Said = {"type": "shared", "title": "How policies combine", "rego": "package aureus\n"}
BASE: Said = {"type": "access", "title": "Who may act", "rego": "package aureus\n\nbase(question) := []\n"}
FOUR_EYES: Said = {
    "type": "approval",
    "title": "Four eyes",
    "rule": Rule(outcome="require_approval", reason="Four eyes.", approver_roles=(Role.ADMIN,)),
}


def proposed(policy_id: str, version: int = 1, **said: Any) -> PolicyProposed:
    text = WrittenPolicy(policy_id=policy_id, **said).text()
    return PolicyProposed(policy_id=policy_id, version=version, owner=ADMIN.actor, sha256=json_digest(text), **text)


def ref(policy_id: str, version: int = 1) -> PolicyRef:
    return PolicyRef(policy_id=policy_id, version=version)


def change(*activate: PolicyRef, retire: tuple[str, ...] = ()) -> Change:
    return Change(activate=activate, retire=retire)


ADOPTED = (proposed("verdict", **FRAMEWORK), proposed("base", **BASE), DefaultsAdopted(in_force=(ref("verdict"), ref("base"))))
BY_FOUR_EYES = change(ref("four_eyes"))
WITH_PROPOSAL = (*ADOPTED, proposed("four_eyes", **FOUR_EYES))


def state(*history: Any) -> PolicySet:
    return DECIDER.replay(history)


def was_tested(of: Change, *history: Event, failed: int = 0) -> PoliciesTested:
    return PoliciesTested(change=of, digest_after=state(*history).after(of).digest, passed=3, failed=failed, report=SHA)


def was_analysed(of: Change, *history: Event) -> ImpactAnalysed:
    before = state(*history)
    return ImpactAnalysed(
        change=of,
        digest_before=before.digest,
        digest_after=before.after(of).digest,
        examined=10,
        flips=(Flip(before="allow", after="require_approval", count=2),),
        report=SHA,
        rollback_plan=OTHER_SHA,
    )


EXAMINED = (*WITH_PROPOSAL, was_tested(BY_FOUR_EYES, *WITH_PROPOSAL), was_analysed(BY_FOUR_EYES, *WITH_PROPOSAL))


def by_admin(*history: Event) -> Given:
    return given(DECIDER, *history).by(ADMIN)


def test_a_proposal_is_the_next_version_and_belongs_to_who_made_it() -> None:
    said: Said = {**BASE, "title": "Who may act at all"}
    expected = proposed("base", 2, **said)
    by_admin(*ADOPTED).when(ProposePolicy(policy_id="base", **said)).then(expected)


def test_the_owner_may_be_somebody_else() -> None:
    expected = proposed("four_eyes", **FOUR_EYES).model_copy(update={"owner": "usr-risk"})
    by_admin(*ADOPTED).when(ProposePolicy(policy_id="four_eyes", owner="usr-risk", **FOUR_EYES)).then(expected)


@pytest.mark.parametrize(
    ("policy_id", "said", "code"),
    [
        ("base", BASE, "policy_unchanged"),
        ("judgements", BASE, "policy_id_reserved"),
        ("base_test", BASE, "policy_id_reserved"),
        ("lists", {"type": "shared", "title": "Lists"}, "shared_policy_judges"),
        ("lists", {"type": "shared", "title": "Lists", "rule": Rule(outcome="allow", reason="All.")}, "shared_policy_judges"),
        ("x", {"type": "access", "title": "X"}, "policy_judges_nothing"),
        ("x", {"type": "access", "title": "X", "rego": "x", "rule": Rule(outcome="allow", reason="All.")}, "policy_judges_nothing"),
        ("x", {"type": "access", "title": "X", "rego": "x", "data": {"bank": 1}}, "data_misplaced"),
        ("x", {"type": "approval", "title": "X", "rule": Rule(outcome="require_approval", reason="Ask.")}, "approvers_misplaced"),
        (
            "x",
            {"type": "access", "title": "X", "rule": Rule(outcome="block", reason="No.", approver_roles=(Role.ADMIN,))},
            "approvers_misplaced",
        ),
    ],
)
def test_what_says_nothing_or_two_things_is_no_policy(policy_id: str, said: dict[str, Any], code: str) -> None:
    by_admin(*ADOPTED).when(ProposePolicy(policy_id=policy_id, **said)).refused(code)


def test_defaults_are_adopted_once_and_are_in_force() -> None:
    defaults = (WrittenPolicy(policy_id="verdict", **FRAMEWORK), WrittenPolicy(policy_id="base", **BASE))
    by_admin().when(AdoptDefaults(policies=defaults)).then(*ADOPTED)
    by_admin(*ADOPTED).when(AdoptDefaults(policies=defaults)).refused("defaults_adopted")
    by_admin().when(AdoptDefaults(policies=(defaults[1], defaults[1]))).refused("policy_named_twice")


def test_before_that_nothing_can_be_put_in_force() -> None:
    by_admin(proposed("base", **BASE)).when(ActivatePolicies(activate=(ref("base"),))).refused("defaults_not_adopted")


def test_an_examined_change_is_put_in_force() -> None:
    expected = PolicyActivated(policy_id="four_eyes", version=1)
    by_admin(*EXAMINED).when(ActivatePolicies(activate=(ref("four_eyes"),))).then(expected)


def test_a_version_supersedes_the_one_before_and_what_goes_with_it_is_retired() -> None:
    history: tuple[Event, ...] = (*WITH_PROPOSAL, proposed("base", 2, **{**BASE, "title": "New"}))
    step = change(ref("base", 2), ref("four_eyes"), retire=("verdict",))
    history = (*history, was_tested(step, *history), was_analysed(step, *history))
    command = ActivatePolicies(activate=step.activate, retire=step.retire)
    by_admin(*history).when(command).then(
        PolicySuperseded(policy_id="base", version=1, by_version=2),
        PolicyActivated(policy_id="base", version=2),
        PolicyActivated(policy_id="four_eyes", version=1),
        PolicyRetired(policy_id="verdict", version=1),
    )


def test_retiring_takes_the_same_examination() -> None:
    step = change(retire=("base",))
    examined = (*ADOPTED, was_tested(step, *ADOPTED), was_analysed(step, *ADOPTED))
    by_admin(*examined).when(RetirePolicy(policy_id="base")).then(PolicyRetired(policy_id="base", version=1))
    by_admin(*ADOPTED).when(RetirePolicy(policy_id="base")).refused("policies_untested")


@pytest.mark.parametrize(
    ("history", "code"),
    [
        (WITH_PROPOSAL, "policies_untested"),
        ((*WITH_PROPOSAL, was_tested(BY_FOUR_EYES, *WITH_PROPOSAL)), "impact_not_analysed"),
        ((*WITH_PROPOSAL, was_analysed(BY_FOUR_EYES, *WITH_PROPOSAL)), "policies_untested"),
        ((*EXAMINED, was_tested(BY_FOUR_EYES, *WITH_PROPOSAL, failed=1)), "policy_tests_failed"),
        ((*EXAMINED, PolicyRetired(policy_id="base", version=1)), "policies_untested"),
        ((*EXAMINED, PolicyRetired(policy_id="base", version=1), PolicyActivated(policy_id="base", version=1)), "impact_not_analysed"),
    ],
)
def test_nothing_unexamined_comes_into_force(history: tuple[Event, ...], code: str) -> None:
    by_admin(*history).when(ActivatePolicies(activate=(ref("four_eyes"),))).refused(code)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (ActivatePolicies(activate=(ref("four_eyes", 2),)), "policy_not_found"),
        (ActivatePolicies(activate=(ref("nobody"),)), "policy_not_found"),
        (ActivatePolicies(activate=(ref("four_eyes"),), retire=("four_eyes",)), "policy_named_twice"),
        (ActivatePolicies(activate=(ref("four_eyes"), ref("four_eyes"))), "policy_named_twice"),
        (ActivatePolicies(activate=(ref("base"),)), "policies_in_force"),
        (RetirePolicy(policy_id="four_eyes"), "policy_not_in_force"),
    ],
)
def test_a_change_names_what_is_there(command: ActivatePolicies | RetirePolicy, code: str) -> None:
    by_admin(*EXAMINED).when(command).refused(code)


def test_what_was_found_out_is_about_the_set_that_is_there_now() -> None:
    right: Said = {"change": BY_FOUR_EYES, "passed": 1, "failed": 0, "report": SHA}
    after = state(*WITH_PROPOSAL).after(BY_FOUR_EYES).digest
    by_admin(*WITH_PROPOSAL).when(RecordTest(digest_after=SHA, **right)).refused("policies_changed_meanwhile")
    by_admin(*WITH_PROPOSAL).when(RecordTest(digest_after=after, **right)).then(PoliciesTested(digest_after=after, **right))
    impact: Said = {"change": BY_FOUR_EYES, "digest_after": after, "examined": 0, "report": SHA, "rollback_plan": SHA}
    by_admin(*WITH_PROPOSAL).when(RecordImpact(digest_before=SHA, **impact)).refused("policies_changed_meanwhile")
    before = state(*WITH_PROPOSAL).digest
    expected = ImpactAnalysed(digest_before=before, **impact)
    by_admin(*WITH_PROPOSAL).when(RecordImpact(digest_before=before, **impact)).then(expected)


def rolled_back(history: tuple[Event, ...], to_version: int, past: PolicySet | None) -> Given:
    asked = by_admin(*history)
    return replace(asked, asked=replace(asked.asked, past=past))


ACTIVATED = (*EXAMINED, PolicyActivated(policy_id="four_eyes", version=1))


def test_a_rollback_is_one_event_that_says_what_comes_back_and_what_goes() -> None:
    back = change(retire=("four_eyes",))
    given_then = rolled_back((*ACTIVATED, was_analysed(back, *ACTIVATED)), 3, state(*ACTIVATED[:3]))
    expected = PoliciesRolledBack(to_version=3, in_force=(ref("base"), ref("verdict")), withdrawn=(ref("four_eyes"),))
    given_then.when(RollBackPolicies(to_version=3)).then(expected)
    assert state(*ACTIVATED, expected).digest == state(*ADOPTED).digest


def test_a_rollback_is_looked_at_before_and_never_leads_into_the_middle_of_a_step() -> None:
    """A step of two policies passes through a version at which only one of them was in force: nobody tested that."""
    both = change(ref("base", 2), ref("four_eyes"))
    history: tuple[Event, ...] = (*WITH_PROPOSAL, proposed("base", 2, **{**BASE, "title": "New"}))
    history += (was_tested(both, *history), was_analysed(both, *history))
    history += tuple(DECIDER.decide(state(*history), ActivatePolicies(activate=both.activate), by_admin().asked))
    middle = len(history) - 1
    rolled_back(history, 3, state(*ADOPTED)).when(RollBackPolicies(to_version=3)).refused("impact_not_analysed", field="to_version")
    past = state(*history[:middle])
    rolled_back(history, middle, past).when(RollBackPolicies(to_version=middle)).refused("policies_untested", field="to_version")


@pytest.mark.parametrize(
    ("to_version", "past", "code"),
    [
        (99, None, "version_unknown"),
        (1, state(*ACTIVATED[:1]), "nothing_in_force_then"),
        (7, state(*ACTIVATED), "nothing_to_roll_back"),
    ],
)
def test_a_rollback_leads_to_another_set_that_was_in_force(to_version: int, past: PolicySet | None, code: str) -> None:
    rolled_back(ACTIVATED, to_version, past).when(RollBackPolicies(to_version=to_version)).refused(code, field="to_version")


def test_policies_judge_what_kind_of_policies_a_change_is_about() -> None:
    known = state(*WITH_PROPOSAL)
    assert DECIDER.facts(known, ProposePolicy(policy_id="x", **FOUR_EYES)) == {"types": ["approval"]}
    assert DECIDER.facts(known, ActivatePolicies(activate=(ref("four_eyes"), ref("base")))) == {"types": ["access", "approval"]}
    assert DECIDER.facts(known, RetirePolicy(policy_id="base")) == {"types": ["access"]}
    assert DECIDER.facts(known, RollBackPolicies(to_version=1)) == {}


def test_a_snapshot_is_what_a_rollback_restores() -> None:
    assert DECIDER.snapshot(state(*ADOPTED)) == {"in_force": {"base": 1, "verdict": 1}}
    assert DECIDER.snapshot(PolicySet()) is None


STEPS = (
    BY_FOUR_EYES,
    change(ref("base", 2)),
    change(ref("base", 1)),
    change(retire=("base",)),
    change(ref("base", 2), ref("four_eyes")),
    change(ref("base", 2), retire=("four_eyes",)),
)
"""Few enough to meet each other often."""


class Law(RuleBasedStateMachine):
    """Whatever is asked in whatever order: what is in force was adopted, or passed its tests and was examined as a step from there."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Event] = [*WITH_PROPOSAL, proposed("base", 2, **{**BASE, "title": "New"})]
        self.trusted = {self.policies.digest}
        self.history += [was_tested(step, *self.history) for step in STEPS if self.after(step)]
        self.passed = set(self.policies.tested)
        self.examined: set[str] = set()
        """Where the step leads to, since what is in force last changed."""

    @property
    def policies(self) -> PolicySet:
        return state(*self.history)

    def ask(self, command: Any, past: PolicySet | None = None) -> bool:
        before = self.policies.digest
        try:
            self.history += DECIDER.decide(self.policies, command, replace(by_admin().asked, past=past))
        except Refused:
            return False
        after = self.policies.digest
        if after != before:
            if after in self.passed and after in self.examined:
                self.trusted.add(after)
            self.examined.clear()
        return True

    def after(self, step: Change) -> str | None:
        try:
            return left_by(self.policies, step).digest
        except Refused:
            return None

    @rule(step=st.sampled_from(STEPS), failed=st.sampled_from([0, 0, 1]))
    def test(self, step: Change, failed: int) -> None:
        after = self.after(step)
        if after and self.ask(RecordTest(change=step, digest_after=after, passed=1, failed=failed, report=SHA)):
            (self.passed.discard if failed else self.passed.add)(after)

    @rule(step=st.sampled_from(STEPS))
    def examine(self, step: Change) -> None:
        after, before = self.after(step), self.policies.digest
        if after and self.ask(
            RecordImpact(change=step, digest_before=before, digest_after=after, examined=1, report=SHA, rollback_plan=SHA)
        ):
            self.examined.add(after)

    @rule(step=st.sampled_from(STEPS))
    def put_in_force(self, step: Change) -> None:
        if step.activate:
            self.ask(ActivatePolicies(activate=step.activate, retire=step.retire))
        else:
            self.ask(RetirePolicy(policy_id=step.retire[0]))

    @rule(to_version=st.integers(1, 40))
    def roll_back(self, to_version: int) -> None:
        past = state(*self.history[:to_version]) if to_version <= len(self.history) else None
        if self.ask(RollBackPolicies(to_version=to_version), past):
            assert past is not None
            assert self.policies.in_force == past.in_force

    @invariant()
    def only_what_was_examined_is_in_force(self) -> None:
        assert self.policies.digest in self.trusted

    @invariant()
    def every_version_in_force_is_there(self) -> None:
        policies = self.policies
        assert [policy.policy_id for policy in policies.active()] == sorted(policies.in_force)


TestLaw = Law.TestCase


def rows(*history: Event) -> dict[str, list[Any]]:
    """The read tables after a history of one stream."""
    stream = [
        Recorded(position, "acme", "policyset:active", position, uuid7(), AT, ADMIN.actor, uuid7(), None, event)
        for position, event in enumerate(history, 1)
    ]
    found: dict[str, list[Any]] = {}
    for (table, _, _), row in sorted(replay(PROJECTION, stream).items()):
        found.setdefault(table, []).append(row)
    return found


def test_what_people_read_follows_the_life_of_a_policy() -> None:
    def seen(*history: Event) -> tuple[dict[str, tuple[str, int | None]], dict[str, str]]:
        tables = rows(*history)
        policies: list[PolicyRow] = tables["policies"]
        versions: list[PolicyVersionRow] = tables["policy_versions"]
        return {row.policy_id: (row.status, row.version) for row in policies}, {row.version_id: row.status for row in versions}

    policies, versions = seen(*WITH_PROPOSAL)
    assert policies == {"base": ("in_force", 1), "four_eyes": ("proposed", None), "verdict": ("in_force", 1)}
    assert versions["four_eyes@1"] == "proposed"
    assert seen(*EXAMINED)[1]["four_eyes@1"] == "tested"
    assert seen(*WITH_PROPOSAL, was_tested(BY_FOUR_EYES, *WITH_PROPOSAL, failed=1))[1]["four_eyes@1"] == "failed"
    assert seen(*ACTIVATED)[0]["four_eyes"] == ("in_force", 1)
    back = PoliciesRolledBack(to_version=3, in_force=(ref("base"), ref("verdict")), withdrawn=(ref("four_eyes"),))
    policies, versions = seen(*ACTIVATED, back)
    assert (policies["four_eyes"], versions["four_eyes@1"]) == (("retired", None), "withdrawn")
    assert (policies["base"], versions["base@1"]) == (("in_force", 1), "in_force")
    second: tuple[Event, ...] = (*ACTIVATED, proposed("base", 2, **{**BASE, "title": "New"}))
    second = (*second, PolicySuperseded(policy_id="base", version=1, by_version=2), PolicyActivated(policy_id="base", version=2))
    policies, versions = seen(*second, PolicyRetired(policy_id="four_eyes", version=1))
    assert policies["base"] == ("in_force", 2)
    assert (versions["base@1"], versions["base@2"], versions["four_eyes@1"]) == ("superseded", "in_force", "retired")


def test_every_step_is_told_with_the_version_that_a_rollback_names() -> None:
    steps: list[PolicyStepRow] = rows(*ACTIVATED)["policy_steps"]
    assert [(row.stream_version, row.event) for row in sorted(steps, key=lambda row: row.stream_version)] == [
        (1, "policy_proposed"),
        (2, "policy_proposed"),
        (3, "defaults_adopted"),
        (4, "policy_proposed"),
        (5, "policies_tested"),
        (6, "impact_analysed"),
        (7, "policy_activated"),
    ]


def test_a_scope_and_a_rule_survive_the_ledger() -> None:
    event = proposed("x", type="access", title="X", scope=Scope(domains=("sales",)), rule=Rule(outcome="block", reason="No."))
    assert PolicyProposed.load(event.dump(), event.schema_version) == event
