"""Past decisions asked again: the same under the policies of their time, or an alarm; under others, what would flip."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from api.services import deciders
from commands.budgets import OpenBudget
from commands.evidence import RegisterArtifact
from commands.path import CommandPath
from commands.policies import (
    DECIDER,
    ActivatePolicies,
    AdoptDefaults,
    ProposePolicy,
    RecordImpact,
    RecordTest,
    RollBackPolicies,
    WrittenPolicy,
    left_by,
)
from commands.policy import Rulebook, Verdict
from domain.actions import PolicyResult
from domain.kernel import Asker, Command, JsonObject
from domain.policies import Change, PolicyProposed, PolicyRef, PolicySet, Rule, Scope
from domain.values import Role
from infra.decision_replay import Range
from infra.examining import ExaminationFailed, Job, examine
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.policy import DEFAULT_BUNDLE
from infra.policy_bundle import Bundle, BundleRefused
from infra.policy_panel import GIVE_UP_AFTER
from infra.policy_sets import GovernedPolicies
from tests.support.kernel import ADM, ANA, APP, ask
from tests.test_policy_sets import HEAD, RUNAWAY, proposed, with_policies

pytestmark = pytest.mark.anyio

ELSEWHERE = Asker("usr-adm", "globex", frozenset({Role.ADMIN}))
NO_FRANCS = WrittenPolicy(
    policy_id="francs",
    type="access",
    title="No francs",
    scope=Scope(actions=("budgets.open_budget",)),
    rego=f"""{HEAD}francs(question) := [finding |
	question.facts.currency == "CHF"
	finding := {{"policy": "francs", "outcome": "block", "reason": "No francs."}}
]
""",
)
BLOCK_BUDGETS = proposed("budgets_closed", scope=Scope(actions=("budgets.*",)), rule=Rule(outcome="block", reason="No budgets."))


def lenient() -> Bundle:
    """The shipped policies, but for what they say of changing policies: that takes approvers, whom the tests of REST have."""
    shipped = Bundle.read(DEFAULT_BUNDLE)
    lists = orjson.loads(shipped.data)
    for name in ("high_risk", "required_evidence"):
        lists["bank"][name] = {action: held for action, held in lists["bank"][name].items() if not action.startswith("policies.")}
    return Bundle({**shipped.files, "data.json": orjson.dumps(lists)})


@dataclass
class Bank:
    """A ledger, policies that can change, and the commands that are judged by them."""

    dsn: str
    ledger: Ledger
    port: GovernedPolicies
    path: CommandPath

    async def ask(self, command: Command, by: Asker = ADM) -> Any:
        return await self.path.handle(ask(command, by))

    async def open_budget(self, budget_id: str, currency: str = "EUR", by: Asker = ADM) -> Any:
        return await self.ask(OpenBudget(budget_id=budget_id, label="B", currency=currency, limit_minor=1), by)

    async def adopt(self, by: Asker = ADM) -> None:
        shipped = self.port.shipped.active()
        said = tuple(WrittenPolicy(policy_id=policy.policy_id, **policy.text()) for policy in shipped)
        assert (await self.ask(AdoptDefaults(policies=said), by)).outcome == "allowed"

    async def policies(self) -> PolicySet:
        history: list[Any] = list(await self.ledger.read_stream("acme", "policyset:active"))
        return DECIDER.replay(recorded.event for recorded in history)

    async def put_in_force(self, policy: WrittenPolicy) -> None:
        """Proposes and activates a policy, as if it were tested and analysed."""
        assert (await self.ask(ProposePolicy(**policy.model_dump()))).outcome == "allowed"
        policies = await self.policies()
        change = Change(activate=(PolicyRef(policy_id=policy.policy_id, version=len(policies.versions[policy.policy_id])),))
        after, sha = left_by(policies, change).digest, "a" * 64
        await self.ask(RecordTest(change=change, digest_after=after, passed=1, failed=0, report=sha))
        await self.analyse(policies, change)
        assert (await self.ask(ActivatePolicies(activate=change.activate))).outcome == "allowed"

    async def analyse(self, policies: PolicySet, change: Change) -> None:
        """Puts on record that the impact of a change was looked at."""
        after, sha = left_by(policies, change).digest, "a" * 64
        impact = RecordImpact(change=change, digest_before=policies.digest, digest_after=after, examined=0, report=sha, rollback_plan=sha)
        assert (await self.ask(impact)).outcome == "allowed"

    async def replay(self, wanted: Range | None = None) -> JsonObject:
        return await examine(Job("recorded", self.dsn, wanted or Range("acme"), self.port.shipped.active()))

    async def under(self, policies: PolicySet, wanted: Range | None = None) -> JsonObject:
        return await examine(Job("candidate", self.dsn, wanted or Range("acme"), policies.active()))


@asynccontextmanager
async def opened(dsn: str, keystore: FileKeystore, port: GovernedPolicies | None = None) -> AsyncIterator[Bank]:
    governed = port or GovernedPolicies(lenient(), timeout_s=5)
    ledger = await open_ledger(dsn, keystore)
    try:
        yield Bank(dsn, ledger, governed, CommandPath(ledger, governed, deciders()))
    finally:
        await governed.close()
        await ledger.close()


@pytest.fixture
def keystore(tmp_path_factory: pytest.TempPathFactory) -> FileKeystore:
    return FileKeystore.open(tmp_path_factory.mktemp("keys"))


async def test_every_decision_comes_out_the_same_under_the_policies_of_its_time(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.open_budget("before", "CHF")
        await bank.adopt()
        await bank.open_budget("adopted", "CHF")
        await bank.put_in_force(NO_FRANCS)
        assert (await bank.open_budget("late", "CHF")).code == "policy_blocked"
        await bank.analyse(await bank.policies(), Change(retire=(NO_FRANCS.policy_id,)))
        await bank.ask(RollBackPolicies(to_version=len(bank.port.shipped.active()) + 1))
        assert (await bank.open_budget("back", "CHF")).outcome == "allowed"
        replayed = await bank.replay()
        assert (replayed["different"], replayed["differences"]) == (0, [])
        assert replayed["asked_again"] == replayed["examined"] == 11


class Liar(GovernedPolicies):
    """It says whose policies it judges by, and judges otherwise."""

    version = ""

    async def rulebook(self, policies: PolicySet) -> Any:
        return _Lie(await super().rulebook(policies), self.version)


class _Lie:
    def __init__(self, honest: Rulebook, version: str) -> None:
        self._honest = honest
        self.version = version or honest.version

    async def check(self, question: JsonObject) -> Verdict:
        if question["facts"].get("currency") == "CHF":
            return Verdict("allow", (PolicyResult(policy="liar", outcome="allow", reason="For a friend."),))
        return await self._honest.check(question)


async def test_a_decision_that_its_policies_did_not_make_is_an_alarm(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore, Liar(lenient(), timeout_s=5)) as bank:
        await bank.adopt()
        await bank.open_budget("honest")
        lied = await bank.open_budget("friend", "CHF")
        replayed = await bank.replay()
        (alarm,) = replayed["differences"]
        assert (alarm["action_id"], alarm["position"], alarm["action"]) == (lied.action_id, lied.position, "budgets.open_budget")
        assert alarm["why"] == "The same policies answer differently now."
        assert replayed["different"] == 1


async def test_a_version_that_was_never_in_force_is_an_alarm(database_url: str, keystore: FileKeystore) -> None:
    port = Liar(lenient(), timeout_s=5)
    async with opened(database_url, keystore, port) as bank:
        await bank.adopt()
        port.version = "0123456789abcdef"
        forged = await bank.open_budget("forged")
        replayed = await bank.replay()
        (alarm,) = replayed["differences"]
        assert (alarm["action_id"], alarm["after"]) == (forged.action_id, "unknown")
        assert alarm["why"] == "The policies of that time cannot be put together as they were."


async def test_a_candidate_shows_what_flips_and_why(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        opened_budgets = [await bank.open_budget(f"b{number}") for number in range(20)]
        await bank.ask(RegisterArtifact(sha256="b" * 64, size_bytes=1, name="x"))
        replayed = await bank.under(with_policies(BLOCK_BUDGETS))
        assert replayed["flips"] == [{"before": "allow", "after": "block", "count": 20}]
        assert [flip["action_id"] for flip in replayed["differences"]] == [budget.action_id for budget in opened_budgets]
        assert {flip["why"] for flip in replayed["differences"]} == {"budgets_closed: No budgets."}
        assert replayed["distinct_questions"] == 3, "the adoption, the budgets all alike, and the artifact"
        assert replayed["asked_again"] == 22


async def test_what_no_longer_blocks_says_which_policy_fell_silent(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        await bank.put_in_force(NO_FRANCS)
        await bank.open_budget("francs", "CHF")
        replayed = await bank.under(bank.port.shipped)
        (flip,) = replayed["differences"]
        assert (flip["before"], flip["after"]) == ("block", "allow")
        assert "francs is silent" in flip["why"]


async def test_a_candidate_that_wants_evidence_blocks_what_had_none(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        await bank.ask(RegisterArtifact(sha256="b" * 64, size_bytes=1, name="x", kind="report"))
        await bank.open_budget("bare")
        proof = ask(OpenBudget(budget_id="proven", label="B", currency="EUR", limit_minor=1), ADM, artifacts=("b" * 64,))
        assert (await bank.path.handle(proof)).outcome == "allowed"
        wants = Rule(outcome="allow", reason="With a report.", required_evidence=("report",))
        replayed = await bank.under(with_policies(proposed("proof", scope=Scope(actions=("budgets.*",)), rule=wants)))
        (flip,) = replayed["differences"]
        assert (flip["before"], flip["after"], flip["why"]) == ("allow", "block", "It would need report.")
        await bank.put_in_force(
            WrittenPolicy(policy_id="proof", type="quality", title="P", scope=Scope(actions=("budgets.*",)), rule=wants)
        )
        assert (await bank.open_budget("bare2")).code == "evidence_incomplete"
        assert (await bank.replay())["different"] == 0
        (flip, *_) = (await bank.under(bank.port.shipped))["differences"]
        assert (flip["before"], flip["after"]) == ("block", "allow")


async def test_only_the_tenants_own_decisions_of_the_range_are_asked(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        outcomes = [await bank.open_budget(f"b{number}") for number in range(6)]
        await bank.open_budget("theirs", by=ELSEWHERE)
        assert (await bank.replay(Range("globex")))["examined"] == 1
        assert (await bank.replay(Range("acme", after=outcomes[2].position)))["examined"] == 3
        assert (await bank.replay(Range("acme", after=outcomes[2].position, to=outcomes[4].position)))["examined"] == 2
        first, latest = await bank.replay(Range("acme", limit=2)), await bank.replay(Range("acme", limit=2, latest=True))
        assert (first["examined"], latest["examined"]) == (2, 2)
        assert latest["from_position"] == outcomes[4].position
        assert first["to_position"] == outcomes[0].position
        assert (await bank.replay(Range("nobody")))["examined"] == 0


async def test_what_the_policies_were_not_asked_or_did_not_answer_is_counted_apart(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        assert (await bank.open_budget("no", by=ANA)).code == "role_missing"
        await bank.port.close()
        broken = _Silent(bank.port)
        path = CommandPath(bank.ledger, broken, deciders())
        assert (await path.handle(ask(OpenBudget(budget_id="b", label="B", currency="EUR", limit_minor=1), APP))).outcome == "blocked"
        replayed = await bank.replay()
        assert (replayed["examined"], replayed["asked_again"]) == (3, 1)
        assert (replayed["unasked"], replayed["unanswered_then"], replayed["different"]) == (1, 1, 0)


async def test_what_lies_in_the_policies_and_not_in_the_moment_is_asked_again(database_url: str, keystore: FileKeystore) -> None:
    """Two policies that nobody could satisfy block, by the engine's word, then and now."""
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        for policy_id, role in (("one", Role.ADMIN), ("two", Role.AUDITOR)):
            asks = Rule(outcome="require_approval", reason="Ask.", approver_roles=(role,))
            scope = Scope(actions=("budgets.open_budget",))
            await bank.put_in_force(WrittenPolicy(policy_id=policy_id, type="approval", title="Ask", scope=scope, rule=asks))
        assert (await bank.open_budget("nobody")).policy_results[0]["reason"] == "contradiction"
        replayed = await bank.replay()
        assert (replayed["unanswered_then"], replayed["different"]) == (0, 0)
        assert [flip["before"] for flip in (await bank.under(bank.port.shipped))["differences"]] == ["block"]


class _Silent:
    """Policies that do not answer."""

    def __init__(self, port: GovernedPolicies) -> None:
        self._port = port

    async def rulebook(self, policies: PolicySet) -> Any:
        return self

    @property
    def version(self) -> str:
        return "silent"

    async def check(self, _question: JsonObject) -> Verdict:
        return Verdict("block", (PolicyResult(policy="engine", outcome="block", reason="timeout"),))


async def test_a_candidate_that_loops_is_given_up_and_says_so(database_url: str, keystore: FileKeystore) -> None:
    source = f'{HEAD}loops(question) := [finding |\n\t{RUNAWAY}i * j == -1\n\tfinding := {{"policy": "loops", "outcome": "block"}}\n]\n'
    loops = proposed("loops", rego=source, scope=Scope(actions=("budgets.open_budget",)))
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        for number in range(2 * GIVE_UP_AFTER):
            await bank.open_budget(f"b{number}", f"X{chr(65 + number)}X")
        replayed = await bank.under(with_policies(loops))
        reasons = Counter(flip["why"] for flip in replayed["differences"])
        assert reasons["The candidate gives no answer (timeout)."] >= 1
        assert reasons.total() == replayed["different"] == 2 * GIVE_UP_AFTER, "those that were not waited for are not answered either"


async def test_a_candidate_that_does_not_compile_is_refused_with_place_and_rule(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as bank:
        await bank.adopt()
        with pytest.raises(BundleRefused, match=r"bad.rego"):
            await bank.under(with_policies(proposed("bad", rego=f"{HEAD}bad(question) := [\n")))


async def test_an_examination_without_its_database_fails_and_leaves_nothing_behind() -> None:
    with pytest.raises(ExaminationFailed, match="ended with 1"):
        await examine(Job("recorded", "postgresql://127.0.0.1:1/none", Range("acme"), []))


def test_a_job_survives_its_way_to_the_process() -> None:
    policies: list[PolicyProposed] = [BLOCK_BUDGETS]
    job = Job("conflicts", "dsn", Range("acme", after=3, latest=True), policies, ["a.b"])
    assert Job.from_json(job.to_json()) == job
    assert orjson.loads(job.to_json())["range"]["after"] == 3
