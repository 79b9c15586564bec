"""The policies in force as a bundle: that it is a function of the set, asks each policy within its scope, and never lets silence pass."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from commands.policies import DECIDER, WrittenPolicy
from commands.policy import Rulebook, Verdict
from domain.kernel import json_digest
from domain.policies import Change, PolicyProposed, PolicyRef, PolicySet, Rule, Scope
from domain.values import Role
from infra.opa import OpaServer
from infra.policy import DEFAULT_BUNDLE, PolicyEngine, run_tests
from infra.policy_bundle import Bundle, BundleRefused
from infra.policy_files import files_of, written
from infra.policy_sets import ENGINES_KEPT, GovernedPolicies, assemble, set_of, shipped_set
from tests.support.opa import Opa

pytestmark = pytest.mark.anyio

SHIPPED = Bundle.read(DEFAULT_BUNDLE)
HEAD = "package aureus\n\nimport rego.v1\n\n"
FINDING = '{"policy": "night", "outcome": "%s", "reason": "It is night."}'
ASK_ADMIN = Rule(outcome="require_approval", reason="Four eyes.", approver_roles=(Role.ADMIN,), quorum=2, required_evidence=("report",))


def proposed(policy_id: str, **said: Any) -> PolicyProposed:
    text = WrittenPolicy(policy_id=policy_id, **{"type": "access", "title": policy_id, **said}).text()
    return PolicyProposed(policy_id=policy_id, version=1, owner="usr-adm", sha256=json_digest(text), **text)


def with_policies(*policies: PolicyProposed) -> PolicySet:
    """The shipped set, and these in force besides or instead."""
    state = shipped_set(SHIPPED)
    for policy in policies:
        numbered = policy.model_copy(update={"version": len(state.versions.get(policy.policy_id, ())) + 1})
        state = DECIDER.evolve(state, numbered)
        state = state.after(Change(activate=(PolicyRef(policy_id=policy.policy_id, version=numbered.version),)))
    return state


def question(action: str = "catalog.register_dataset", kind: str = "person", becomes: Any = None, **facts: Any) -> dict[str, Any]:
    return {
        "action": action,
        "actor": {"roles": ["analyst"], "kind": kind},
        "tenant": "acme",
        "facts": {**facts, "becomes": becomes or {}},
        "has_reason": False,
        "evidence": {"kinds": [], "failed_tests": 0},
        "recent": 64,
    }


@asynccontextmanager
async def governed(timeout_s: float = 5.0) -> AsyncIterator[GovernedPolicies]:
    policies = GovernedPolicies(SHIPPED, timeout_s=timeout_s)
    try:
        yield policies
    finally:
        await policies.close()


async def verdict_of(policies: PolicySet, asked: dict[str, Any], timeout_s: float = 5.0) -> Verdict:
    async with governed(timeout_s) as port:
        return await (await port.rulebook(policies)).check(asked)


def problems_of(*policies: PolicyProposed) -> list[str]:
    try:
        bundle = assemble(with_policies(*policies).active())
        run_tests(bundle)
    except BundleRefused as refused:
        return [str(problem) for problem in refused.problems]
    return []


# What a set comes to


def test_the_same_set_comes_to_the_same_bytes_however_it_came_about() -> None:
    one, two = proposed("one", rule=Rule(outcome="block", reason="1")), proposed("two", rule=Rule(outcome="block", reason="2"))
    versions = {assemble(with_policies(*order).active()).version for order in itertools.permutations((one, two))}
    assert len(versions) == 1
    assert assemble(with_policies(one).active()).version not in versions


async def test_the_shipped_policies_judge_as_a_set_as_they_do_as_a_folder() -> None:
    """The verdicts are equal on a grid of questions; only the order of the results is the set's own."""
    actions = ["catalog.register_dataset", "catalog.deprecate_dataset", "budgets.reserve_funds", "policies.activate_policies", "x.y"]
    grid = itertools.product(
        actions, ["person", "agent", "service", "robot"], ["high", "low", None], ["EU", "multi"], ["production", "dev"]
    )
    asked = [
        question(action, kind, {"pii_level": pii} if pii else None, pii_level=pii, jurisdiction=where, environment=env)
        for action, kind, pii, where, env in grid
    ]
    assert len(asked) >= 200
    folder, together = PolicyEngine(SHIPPED, timeout_s=5), PolicyEngine(assemble(shipped_set(SHIPPED).active()), timeout_s=5)
    async with running(folder), running(together):
        for one in asked:
            expected, found = await folder.check(one), await together.check(one)
            assert sorted(expected.results, key=str) == sorted(found.results, key=str), one
            assert (expected.outcome, expected.approver_roles, expected.quorum) == (found.outcome, found.approver_roles, found.quorum), one


@asynccontextmanager
async def running(engine: PolicyEngine) -> AsyncIterator[None]:
    await engine.start()
    try:
        yield
    finally:
        await engine.close()


def test_the_shipped_tests_pass_on_what_is_put_together() -> None:
    results = run_tests(assemble(shipped_set(SHIPPED).active()))
    assert len(results) >= 17
    assert [result for result in results if not result.passed] == []


def test_a_set_rebuilt_from_what_is_in_force_is_the_same_set() -> None:
    policies = with_policies(proposed("one", rule=Rule(outcome="block", reason="1")))
    assert set_of(policies.active()).digest == policies.digest


def test_files_and_policies_are_two_forms_of_one_thing() -> None:
    policies = written(SHIPPED.files)
    assert written(files_of(policies)) == policies
    assert {policy.policy_id: policy.type for policy in policies}["verdict"] == "shared"
    rule = WrittenPolicy(policy_id="four_eyes", type="approval", title="Four eyes", scope=Scope(domains=("sales",)), rule=ASK_ADMIN)
    assert written(files_of([rule])) == (rule,)


def test_a_policy_says_in_its_metadata_what_it_is() -> None:
    source = """# Not the title.
package aureus

import rego.v1

# METADATA
# title: Nothing by night
# custom:
#   type: retention
#   scope:
#     domains: [sales]
#     actions: ["catalog.*"]
night(question) := []
"""
    (policy,) = written({"night.rego": source.encode(), "night_test.rego": b"package aureus\n"})
    assert (policy.policy_id, policy.type, policy.title) == ("night", "retention", "Nothing by night")
    assert policy.scope == Scope(domains=("sales",), actions=("catalog.*",))
    assert policy.tests == "package aureus\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Night.rego": b""}, "Night.rego:1: not the file of a policy"),
        ({"a/night.rego": b""}, "a/night.rego:1: not the file of a policy"),
        ({"night.rego": b"package aureus\n\xff"}, "night.rego:2: not UTF-8"),
        ({"night.json": b"{"}, "night.json:1: not JSON"),
        ({"night.json": b"[1]"}, "night.json:1: not a JSON object"),
        ({"night.json": b'{"type": "access", "title": "N", "rule": {"outcome": "no", "reason": "r"}}'}, "night.json:1: rule.outcome"),
        ({"night.json": b'{"rego": "x", "title": "N"}', "night.rego": b"package aureus\n"}, "night.json gives the rego of night already"),
        ({"night.rego": b"package aureus\n# METADATA\n# title: [\nx := 1\n"}, "night.rego:2: METADATA is not YAML"),
        ({"night.rego": b"package aureus\n# METADATA\n# - a\nx := 1\n"}, "night.rego:2: METADATA is not a mapping"),
    ],
)
def test_files_that_are_no_policies_are_refused_by_place_and_rule(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(BundleRefused) as refused:
        written(files)
    assert said in str(refused.value)


# Scopes and rules


IN_SCOPE = [
    (Scope(), question("budgets.open_budget")),
    (Scope(actions=("budgets.open_budget",)), question("budgets.open_budget")),
    (Scope(actions=("budgets.*",)), question("budgets.open_budget")),
    (Scope(domains=("sales", "risk")), question(domain="risk")),
    (Scope(pii_levels=("low",)), question(pii_level="none", becomes={"pii_level": "low"})),
    (Scope(jurisdictions=("EU",), environments=("dev",)), question(jurisdiction="EU", environment="dev")),
    (Scope(actor_kinds=("service",)), question(kind="service")),
]
OUT_OF_SCOPE = [
    (Scope(actions=("budgets.open",)), question("budgets.open_budget")),
    (Scope(actions=("budget.*",)), question("budgets.open_budget")),
    (Scope(domains=("sales",)), question(domain="risk")),
    (Scope(domains=("sales",)), question("budgets.open_budget")),
    (Scope(jurisdictions=("EU",), environments=("dev",)), question(jurisdiction="EU", environment="production")),
    (Scope(actor_kinds=("service",)), question(kind="person")),
]


@pytest.mark.parametrize(("scope", "asked"), IN_SCOPE)
async def test_a_rule_holds_within_its_scope(scope: Scope, asked: dict[str, Any]) -> None:
    verdict = await verdict_of(with_policies(proposed("night", scope=scope, rule=Rule(outcome="block", reason="Night."))), asked)
    assert verdict.outcome == "block"
    assert [result.reason for result in verdict.results if result.policy == "night"] == ["Night."]


@pytest.mark.parametrize(("scope", "asked"), OUT_OF_SCOPE)
async def test_a_rule_is_silent_elsewhere(scope: Scope, asked: dict[str, Any]) -> None:
    verdict = await verdict_of(with_policies(proposed("night", scope=scope, rule=Rule(outcome="block", reason="Night."))), asked)
    assert "night" not in {result.policy for result in verdict.results}


async def test_a_rule_says_who_approves_and_what_evidence_it_takes() -> None:
    policies = with_policies(proposed("night", type="approval", scope=Scope(domains=("sales",)), rule=ASK_ADMIN))
    verdict = await verdict_of(policies, question(domain="sales"))
    assert (verdict.outcome, verdict.approver_roles, verdict.quorum) == ("require_approval", (Role.ADMIN,), 2)


async def test_rego_out_of_its_scope_is_not_even_evaluated() -> None:
    """It would be undefined, and thereby refuse everything: `night` knows no other facts than those of its scope."""
    source = f'{HEAD}night(question) := [finding] if {{\n\tquestion.facts.domain == "sales"\n\tfinding := {FINDING % "block"}\n}}\n'
    policies = with_policies(proposed("night", rego=source, scope=Scope(domains=("sales",))))
    assert (await verdict_of(policies, question(domain="risk"))).outcome == "allow"
    assert (await verdict_of(policies, question(domain="sales"))).outcome == "block"


async def test_what_aureus_writes_runs_unchanged_on_opa(opa: Opa) -> None:
    """Scopes, rules, garbage and silence come out alike in both evaluators."""
    night = f'{HEAD}night(question) := [finding |\n\tquestion.facts.domain == "sales"\n\tfinding := {FINDING % "block"}\n]\n'
    fickle = """fickle(question) := "x" if question.facts.domain == "bad"

fickle(question) := [] if question.facts.domain in ["sales", "risk"]
"""
    policies = with_policies(
        proposed("night", rego=night, scope=Scope(pii_levels=("high", "low"), actions=("catalog.*", "budgets.open_budget"))),
        proposed(
            "four_eyes", type="approval", rule=ASK_ADMIN, scope=Scope(domains=("risk",), jurisdictions=("EU",), actor_kinds=("person",))
        ),
        proposed(
            "proof",
            rule=Rule(outcome="allow", reason='Zürich \\ "sagt" ja', required_evidence=("sql",)),
            scope=Scope(environments=("dev",)),
        ),
        proposed("fickle", rego=HEAD + fickle),
    )
    bundle = assemble(policies.active())
    grid = itertools.product(
        ["catalog.tag_dataset", "budgets.open_budget", "x.y"],
        ["person", "agent"],
        [None, {"pii_level": "low"}],
        ["sales", "risk", "bad", "silent"],
        ["high", "none"],
        ["EU", "US"],
        ["dev", "production"],
    )
    asked = [
        question(action, kind, becomes, domain=domain, pii_level=pii, jurisdiction=where, environment=env)
        for action, kind, becomes, domain, pii, where, env in grid
    ]
    server = OpaServer(opa.url)
    embedded, other = PolicyEngine(bundle, timeout_s=5), server.engine(bundle)
    try:
        async with running(embedded):
            await other.start()
            found = [await embedded.check(one) for one in asked]
            assert [await other.check(one) for one in asked] == found
    finally:
        await server.close()
    assert {verdict.outcome for verdict in found} == {"allow", "block", "require_approval"}
    assert {"governed", "fickle", "four_eyes", "night", "proof"} <= {result.policy for verdict in found for result in verdict.results}


# What does not fit together


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([proposed("night", rego=f"{HEAD}day(question) := []\n")], "night.rego:1: no function `night(question)`"),
        ([proposed("night", rego="package night\n\nnight(question) := []\n")], "night.rego:1: no function `night(question)`"),
        (
            [proposed("night", rego=f"{HEAD}night(question) := []\n\ndefault_deny := {{}}\n")],
            "`default_deny` is defined in night.rego already",
        ),
        ([proposed("night", rego=f"{HEAD}night(question) := []\n\njudgements(_) := []\n")], "night.rego:1: `judgements` is defined in"),
        ([proposed("night", rego=f"{HEAD}night(question) := http.send({{}})\n")], "night.rego:5: `http.send` is neither defined here nor"),
        ([proposed("night", rego=f"{HEAD}night(question) := time.now_ns()\n")], "night.rego:5: `time.now_ns` is neither defined here nor"),
        ([proposed("night", rego=f"{HEAD}night(question) := verdict with input as question\n")], "night.rego:5: `with` is not allowed"),
        ([proposed("night", rego=f"{HEAD}night(question) := [\n")], "night.rego"),
        ([proposed("lists", type="shared", data={"bank": {}})], "lists.json:1: `bank` is taken already"),
        ([proposed("lists", type="shared", data={"governed": {}})], "lists.json:1: `governed` is taken already"),
        ([proposed("lists", type="shared", data={"aureus": {}})], "data.json:1: must be an object without the key `aureus`"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_place_and_rule(policies: list[PolicyProposed], said: str) -> None:
    assert any(said in problem for problem in problems_of(*policies)), problems_of(*policies)


def test_without_the_framework_nothing_judges() -> None:
    policies = shipped_set(SHIPPED).after(Change(retire=("verdict",)))
    assert any("no rule `verdict`" in str(problem) for problem in assemble(policies.active()).problems())


# Policies that misbehave


RUNAWAY = "some i in numbers.range(1, 4000)\n\tsome j in numbers.range(1, 4000)\n\t"
MISBEHAVING = {
    "loops": (f"night(question) := [finding |\n\t{RUNAWAY}i * j == -1\n\tfinding := {FINDING % 'allow'}\n]", "engine", "timeout"),
    "allocates": (f"night(question) := [finding |\n\t{RUNAWAY}finding := [i, j]\n]", "engine", "timeout"),
    "answers with a word": ('night(question) := "allow"', "night", "It answers with what is no list of findings."),
    "answers with a set": ("night(question) := {1}", "engine", "garbage"),
    "lists garbage": ('night(question) := ["allow"]', "engine", "garbage"),
    "lists an unknown outcome": (f"night(question) := [{FINDING % 'perhaps'}]", "engine", "garbage"),
    "is undefined": ("night(question) := [] if question.no_such_thing", "governed", "One of the policies in force gives no answer."),
    "knows no such name": ("night(question) := no_such_name", "governed", "One of the policies in force gives no answer."),
    "allows and blocks": (f"night(question) := [{FINDING % 'allow'}, {FINDING % 'block'}]", "night", "It is night."),
    "contradicts itself": (
        f"night(question) := [{FINDING % 'allow'}] if question.tenant\n\nnight(question) := [] if question.action",
        "engine",
        "error",
    ),
}


@pytest.mark.parametrize("case", MISBEHAVING)
async def test_a_policy_that_misbehaves_blocks(case: str) -> None:
    source, policy, reason = MISBEHAVING[case]
    policies = with_policies(proposed("night", rego=f"{HEAD}{source}\n", scope=Scope(domains=("sales",))))
    async with governed(timeout_s=0.5) as port:
        book = await port.rulebook(policies)
        verdict = await book.check(question(domain="sales"))
        assert verdict.outcome == "block"
        assert reason in [result.reason for result in verdict.results if result.policy == policy]
        assert (await book.check(question(domain="risk"))).outcome == "allow", "what it does not look at goes on"


# Engines


def pid_of(book: Rulebook) -> int:
    engine: PolicyEngine = book._engine.result()  # type: ignore[attr-defined]
    assert engine._process is not None
    return engine._process.pid


async def test_many_who_ask_at_once_start_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = PolicyEngine.start

    async def counted(engine: PolicyEngine) -> None:
        started.append(engine.version)
        await start(engine)

    monkeypatch.setattr(PolicyEngine, "start", counted)
    policies = with_policies(proposed("night", rule=Rule(outcome="block", reason="Night.")))
    async with governed() as port:

        async def ask(number: int) -> str:
            return (await (await port.rulebook(policies)).check(question(n=number))).outcome

        assert set(await asyncio.gather(*map(ask, range(50)))) == {"block"}
        assert len(started) == 1


async def test_tenants_with_the_same_policies_share_and_others_do_not() -> None:
    async with governed() as port:
        nobody = await port.rulebook(PolicySet())
        assert await port.rulebook(shipped_set(SHIPPED)) is nobody
        other = await port.rulebook(with_policies(proposed("night", rule=Rule(outcome="block", reason="Night."))))
        assert other is not nobody
        assert other.version != nobody.version
        assert [(await book.check(question())).outcome for book in (nobody, other)] == ["allow", "block"]


async def test_engines_longest_unused_are_ended_and_start_again_when_asked() -> None:
    sets = [with_policies(proposed("night", rule=Rule(outcome="block", reason=str(number)))) for number in range(ENGINES_KEPT + 1)]
    async with governed() as port:
        books = [await port.rulebook(policies) for policies in sets[:ENGINES_KEPT]]
        for book in books:
            await book.check(question())
        first = pid_of(books[0])
        await (await port.rulebook(sets[-1])).check(question())
        await asyncio.gather(*port._endings)
        assert not alive(first)
        assert alive(pid_of(books[1]))
        assert (await books[0].check(question(n=1))).results[-1].reason == "0", "whoever still holds it gets an answer"
        assert (await (await port.rulebook(sets[0])).check(question(n=2))).results[-1].reason == "0"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_an_evaluator_that_crashes_refuses_one_question_and_comes_back() -> None:
    loop = f"night(question) := [finding |\n\t{RUNAWAY}i * j == -1\n\tfinding := {FINDING % 'allow'}\n]"
    policies = with_policies(proposed("night", rego=f"{HEAD}{loop}\n", scope=Scope(domains=("sales",))))
    async with governed(timeout_s=30) as port:
        book = await port.rulebook(policies)
        assert (await book.check(question())).outcome == "allow"
        looping = asyncio.create_task(book.check(question(domain="sales")))
        await asyncio.sleep(0.05)
        os.kill(pid_of(book), signal.SIGKILL)
        assert (await looping).results[0].reason == "crash"
        assert (await book.check(question(n=1))).outcome == "allow"


async def test_policies_that_cannot_start_refuse_every_question(caplog: pytest.LogCaptureFixture) -> None:
    unfit: list[Iterable[PolicyProposed]] = [
        [proposed("night", rego=f"{HEAD}night(question) := [\n")],
        [proposed("lists", type="shared", data={"bank": {}})],
    ]
    for policies in unfit:
        async with governed() as port:
            book = await port.rulebook(with_policies(*policies))
            verdicts = await asyncio.gather(*(book.check(question(n=number)) for number in range(5)))
            assert {(verdict.outcome, verdict.results[0].reason) for verdict in verdicts} == {("block", "unavailable")}
    assert sum("do not start" in record.message for record in caplog.records) == len(unfit), "one attempt answers all who wait"


async def test_a_start_that_failed_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with governed() as port:
        book = await port.rulebook(PolicySet())
        with monkeypatch.context() as broken:
            broken.setattr("infra.policy._COMMAND", ("/nowhere/python",))
            assert (await book.check(question())).results[0].reason == "unavailable"
        assert (await book.check(question())).results[0].reason == "unavailable"
        monkeypatch.setattr("infra.policy_sets.START_AGAIN_S", 0.0)
        book._start_again_at = 0.0
        assert (await book.check(question())).outcome == "allow"


def test_a_folder_that_is_no_set_of_policies_is_not_taken() -> None:
    with pytest.raises(BundleRefused):
        GovernedPolicies(Bundle({"Bad Name.rego": b""}))


def test_what_is_put_together_says_which_policies_judge() -> None:
    data = orjson.loads(assemble(with_policies(proposed("night", rule=ASK_ADMIN, type="approval")).active()).data)
    assert "night" in data["governed"]["judging"]
    assert data["governed"]["rules"]["night"]["quorum"] == 2
