"""Policies: what the default ones say, what is refused at load, and that every missing answer is a no."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from api.services import deciders
from commands.policy import PolicyPort, Verdict
from domain.actions import PolicyResult
from domain.contexts import CONTEXTS
from domain.policies import PolicySet
from domain.values import ActorKind, Role
from infra.policy import DEFAULT_BUNDLE, FRAME_BYTES_MAX, VERDICTS_REMEMBERED, PolicyEngine, check_bundle, run_tests
from infra.policy_bundle import BUILTINS, Bundle, BundleRefused

pytestmark = pytest.mark.anyio

ALLOW = '{"outcome": "allow", "results": [{"policy": "p", "outcome": "allow", "reason": ""}]}'
ANSWERS_X = f"verdict := {ALLOW} if not input.facts.bad\n"
LOOP = """
bad_loop if {
	input.facts.bad == "loop"
	some i in numbers.range(1, 5000)
	some j in numbers.range(1, 5000)
	i * j == -1
}
"""


def answering(**more: Any) -> str:
    """A verdict that allows, with something changed."""
    return orjson.dumps(orjson.loads(ALLOW) | more).decode()


def bundle(source: str, test: str = "", data: str = "{}") -> Bundle:
    head = "package aureus\n\nimport rego.v1\n\n"
    files = {"p.rego": (head + source).encode(), "data.json": data.encode()}
    return Bundle(files | ({"p_test.rego": (head + test).encode()} if test else {}))


def question(action: str = "catalog.register_dataset", kind: str = "person", **facts: Any) -> dict[str, Any]:
    return {"action": action, "actor": {"roles": ["analyst"], "kind": kind}, "tenant": "acme", "facts": facts, "has_reason": False}


@asynccontextmanager
async def engine(source: str | Bundle, timeout_s: float = 5.0) -> AsyncIterator[PolicyEngine]:
    """A running engine; its time limit is generous, for the machine under the tests may be busy."""
    running = PolicyEngine(source if isinstance(source, Bundle) else bundle(source), timeout_s=timeout_s)
    await running.start()
    try:
        yield running
    finally:
        await running.close()


def worker_pid(running: PolicyEngine) -> int:
    assert running._process is not None
    return running._process.pid


def blocked(reason: str) -> Verdict:
    return Verdict("block", (PolicyResult(policy="engine", outcome="block", reason=reason),))


# The default bundle


def test_the_default_bundle_loads_and_its_own_tests_pass() -> None:
    assert check_bundle(DEFAULT_BUNDLE) == []
    results = run_tests(Bundle.read(DEFAULT_BUNDLE))
    assert len(results) >= 17
    assert [result for result in results if not result.passed] == []


def test_every_policy_file_takes_part_in_the_verdict() -> None:
    verdict = (DEFAULT_BUNDLE / "verdict.rego").read_text()
    names = {path.stem for path in DEFAULT_BUNDLE.glob("*.rego") if not path.stem.endswith("_test")} - {"question", "verdict"}
    assert names
    assert [name for name in names if f"\t{name}(question),\n" not in verdict] == []


def test_the_default_bundle_knows_the_contexts() -> None:
    assert sorted(CONTEXTS) == orjson.loads(Bundle.read(DEFAULT_BUNDLE).data)["bank"]["contexts"]


def test_limits_of_money_have_two_digits_for_amounts_are_seen_in_two() -> None:
    limits = orjson.loads(Bundle.read(DEFAULT_BUNDLE).data)["bank"]["budget_limits"]
    assert [minor for limit in limits.values() for minor in limit.values() if len(str(minor).rstrip("0")) > 2] == []


def test_the_lists_name_what_can_be_asked() -> None:
    bank = orjson.loads(Bundle.read(DEFAULT_BUNDLE).data)["bank"]
    listed = {*bank["agents"]["actions"], *bank["budget_limits"], *bank["high_risk"], *bank["required_evidence"]}
    assert listed - {command.command_name for decider in deciders() for command in decider.commands} == set()


async def test_the_default_bundle_answers_as_a_bank_expects() -> None:
    async with engine(Bundle.read(DEFAULT_BUNDLE)) as running:
        port: PolicyPort = running
        policies = await port.rulebook(PolicySet())
        assert (await policies.check(question("catalog.sync_dataset", pii_level="none"))).outcome == "allow"
        assert (await policies.check(question("budgets.reserve_funds", kind=ActorKind.AGENT))).outcome == "allow"
        parked = await policies.check(question(pii_level="high", jurisdiction="multi"))
        assert (parked.outcome, parked.approver_roles, parked.quorum) == ("require_approval", (Role.ADMIN, Role.APPROVER), 2)
        assert [result.policy for result in parked.results] == ["baseline_allow", "cross_jurisdiction", "pii_onboarding"]
        onboarded = await policies.check(question(pii_level="high", becomes={"pii_level": "high"}))
        assert onboarded.required_evidence == ("data_contract", "test_result")
        of_all = await policies.check(question("vault.grant_unmasking", all_subjects=True))
        of_one = await policies.check(question("vault.grant_unmasking", all_subjects=False))
        assert (of_all.outcome, of_one.outcome) == ("require_approval", "allow")
        unknown = await policies.check(question("payments.send_money"))
        assert unknown == Verdict("block", (PolicyResult(policy="default_deny", outcome="block", reason="No policy allows this."),))


# What is refused at load


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        (f"verdict := {ALLOW} if {{\n\tx with input as {{}}\n}}\nx := 1", 6, "`with` is not allowed"),
        ('verdict := http.send({"url": "x"})', 5, "`http.send` is neither defined here nor an allowed builtin"),
        ("verdict := x\n\nx := time.now_ns()", 7, "`time.now_ns` is neither"),
        ("verdict := nosuch(1)", 5, "`nosuch` is neither"),
        ('verdict := http["send"]({})', 5, "a computed function name"),
        ("verdict := {\n\t:= 1\n}", 6, "nvalid"),
        ('verdict := "never ends', 5, "unexpected"),
        ('verdict := $"{time.now_ns()}"', 5, "unexpected '$'"),
        ("other := 1", 1, "no rule `verdict` in package `aureus`"),
        ('verdict := sprintf("%d", [1])', 5, "no verbs but %s (text) and %v (numbers)"),
        ("verdict := sprintf(input.form, [1])", 5, "takes a written format"),
        ('verdict := "\\u0061"', 5, "write the character itself"),
        ("verdict := 6 / 2", 5, "a division"),
        ("verdict := max([5, 10])", 5, "`max` is neither"),
        ("verdict := f(1)\nf(x) := f(x)", 1, "Recursion"),
    ],
)
def test_a_bad_policy_is_refused_with_its_line(tmp_path: Path, source: str, line: int, message: str) -> None:
    for path, content in bundle(source).files.items():
        (tmp_path / path).write_bytes(content)
    problems = check_bundle(tmp_path)
    assert (problems[0].line, message in problems[0].message) == (line, True), problems


@pytest.mark.parametrize(
    "name", ["time.now_ns", "rand.intn", "http.send", "opa.runtime", "uuid.rfc4122", "net.lookup_ip_addr", "io.jwt.decode_verify"]
)
def test_what_is_not_pure_is_not_allowed(name: str) -> None:
    assert name not in BUILTINS
    assert [problem.message for problem in bundle(f"verdict := {name}(1)").problems()] == [
        f"`{name}` is neither defined here nor an allowed builtin"
    ]


def test_words_in_strings_comments_and_fields_are_not_code() -> None:
    source = f'# with http.send()\nx := `with\nhttp.send(`\ny := "with \\" http.send("\nz := input.with\nverdict := {ALLOW}\n'
    assert bundle(source).problems() == []


async def test_the_compiled_plan_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.policy_bundle._Module.problems", lambda *_: iter(()))
    with pytest.raises(BundleRefused, match=r"`time.now_ns` is not an allowed builtin"):
        await PolicyEngine(bundle("verdict := time.now_ns()")).start()


async def test_an_engine_does_not_start_on_a_bad_bundle() -> None:
    with pytest.raises(BundleRefused, match=r"p.rego:5: `with` is not allowed"):
        await PolicyEngine(bundle("verdict := 1 with input as 2")).start()


@pytest.mark.parametrize(
    ("data", "message"), [("{", "not JSON"), ('{"aureus": {}}', "without the key `aureus`"), ("[]", "must be an object")]
)
def test_bad_data_is_refused(data: str, message: str) -> None:
    assert message in bundle(f"verdict := {ALLOW}", data=data).problems()[0].message


def test_bytes_that_are_not_utf8_are_refused() -> None:
    assert "p.rego:2: not UTF-8: save it as UTF-8" in [str(problem) for problem in Bundle({"p.rego": b"package aureus\n\xff"}).problems()]


def test_the_rego_tests_report_what_failed() -> None:
    results = run_tests(
        bundle(f"verdict := {ALLOW}", test="test_good if verdict.outcome == `allow`\ntest_bad if verdict.outcome == `block`\n")
    )
    assert [(result.name, result.passed, result.detail) for result in results] == [
        ("aureus/test_good", True, ""),
        ("aureus/test_bad", False, "undefined"),
    ]


# Every missing answer is a no


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"verdict := {ALLOW} if input.facts.never", "undefined"),
        (f'verdict := {ALLOW} if input.facts.bad\nverdict := {{"outcome": "block"}} if input.facts.bad', "error"),
        ("verdict := 42", "garbage"),
        ('verdict := {"outcome": "perhaps", "results": []}', "garbage"),
        ('verdict := {"outcome": "allow", "results": []}', "garbage"),
        (f"verdict := {answering(quorum=0)}", "garbage"),
        (f"verdict := {answering(surprise=1)}", "garbage"),
        (f"verdict := {answering(approver_roles=['king'])}", "garbage"),
    ],
)
async def test_what_is_not_an_answer_blocks(source: str, reason: str) -> None:
    async with engine(source) as running:
        assert await running.check(question(bad=True)) == blocked(reason)
        assert running._remembered == {}


@pytest.mark.parametrize("stricter", ["block", "require_approval"])
async def test_an_outcome_milder_than_its_findings_blocks(stricter: str) -> None:
    both = f'[{{"policy": "a", "outcome": "allow", "reason": ""}}, {{"policy": "b", "outcome": "{stricter}", "reason": ""}}]'
    async with engine(f'verdict := {{"outcome": "allow", "results": {both}}}') as running:
        verdict = await running.check(question())
        assert verdict.outcome == "block"
        assert [(result.policy, result.outcome) for result in verdict.results] == [("engine", "block"), ("a", "allow"), ("b", stricter)]
        assert verdict.results[0].reason == "contradiction"


async def test_an_approval_that_nobody_may_give_blocks() -> None:
    async with engine(f"verdict := {answering(outcome='require_approval')}") as running:
        assert (await running.check(question())).results[0] == PolicyResult(policy="engine", outcome="block", reason="contradiction")


async def test_fewer_approvers_than_a_policy_asks_for_block() -> None:
    found = {"policy": "p", "outcome": "require_approval", "quorum": 10}
    for quorum, outcome in ((9, "block"), (10, "require_approval")):
        said = answering(outcome="require_approval", approver_roles=["admin"], quorum=quorum, results=[found])
        async with engine(f"verdict := {said}") as running:
            assert (await running.check(question())).outcome == outcome


async def test_a_policy_that_loops_is_blocked_alone_and_its_worker_replaced() -> None:
    source = LOOP + f"verdict := {ALLOW} if not bad_loop\n"
    async with engine(source, timeout_s=0.25) as running:
        assert (await running.check(question())).outcome == "allow"
        before = worker_pid(running)
        asked = [running.check(question(bad="loop")), *(running.check(question(n=n)) for n in range(20))]
        looped, *others = await asyncio.gather(*asked)
        assert looped == blocked("timeout")
        assert {verdict.outcome for verdict in others} == {"allow"}
        assert worker_pid(running) != before
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)


async def test_a_long_queue_is_not_a_slow_policy() -> None:
    async with engine(ANSWERS_X, timeout_s=0.25) as running:
        verdicts = await asyncio.gather(*(running.check(question(n=n)) for n in range(3_000)))
        assert {verdict.outcome for verdict in verdicts} == {"allow"}


async def test_a_late_reader_is_not_a_slow_policy() -> None:
    async with engine(ANSWERS_X, timeout_s=0.25) as running:
        asked = asyncio.create_task(running.check(question()))
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - the loop itself is late here
        assert (await asked).outcome == "allow"


async def test_a_worker_that_dies_refuses_its_question_and_is_replaced() -> None:
    async with engine(LOOP + f"verdict := {ALLOW} if not bad_loop\n") as running:
        first = worker_pid(running)
        looping = asyncio.create_task(running.check(question(bad="loop")))
        behind = asyncio.create_task(running.check(question(n=1)))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        assert await looping == blocked("crash")
        assert (await behind).outcome == "allow"
        assert worker_pid(running) != first


async def test_a_worker_that_dies_idle_refuses_nobody() -> None:
    async with engine(ANSWERS_X) as running:
        os.kill(worker_pid(running), signal.SIGKILL)
        await asyncio.sleep(0.05)
        assert (await running.check(question())).outcome == "allow"


@pytest.mark.parametrize(
    ("impostor", "reason"),
    [
        ("o.write((9).to_bytes(4, 'big') + b'{\"value\":'[:9])", "garbage"),
        (f"o.write(({FRAME_BYTES_MAX} + 1).to_bytes(4, 'big'))", "garbage"),
        ("o.write(b'ab')", "crash"),
    ],
)
async def test_a_worker_that_talks_nonsense_is_blocked(monkeypatch: pytest.MonkeyPatch, impostor: str, reason: str) -> None:
    script = f"""
import sys
i, o = sys.stdin.buffer, sys.stdout.buffer
i.read(int.from_bytes(i.read(4), "big"))
o.write((14).to_bytes(4, "big") + b'{{"ready":true}}'); o.flush()
i.read(int.from_bytes(i.read(4), "big"))
{impostor}; o.flush()
"""
    monkeypatch.setattr("infra.policy._COMMAND", (sys.executable, "-c", script))
    async with engine(ANSWERS_X) as running:
        assert await running.check(question()) == blocked(reason)


async def test_without_any_worker_everything_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine(ANSWERS_X) as running:
        monkeypatch.setattr("infra.policy._COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
        os.kill(worker_pid(running), signal.SIGKILL)
        await asyncio.sleep(0.05)
        assert await running.check(question()) == blocked("unavailable")
        monkeypatch.undo()
        await asyncio.sleep(1)
        assert (await running.check(question())).outcome == "allow"


async def test_a_closed_engine_blocks_and_leaves_no_process() -> None:
    async with engine(ANSWERS_X) as running:
        pid = worker_pid(running)
    assert await running.check(question()) == blocked("unavailable")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_looping_worker_dies_with_its_parent() -> None:
    script = f"""
import asyncio, os, sys
from infra.policy import PolicyEngine
from tests.test_policy import LOOP, ALLOW, bundle, question
async def main():
    running = PolicyEngine(bundle(LOOP + "verdict := {ALLOW.replace('"', chr(92) + '"')} if not bad_loop"), timeout_s=60)
    await running.start()
    asyncio.create_task(running.check(question(bad="loop")))
    await asyncio.sleep(0.1)
    print(running._process.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    stat = Path(f"/proc/{done.stdout.strip()}/stat")
    deadline = time.monotonic() + 5
    while stat.exists() and " Z " not in stat.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not stat.exists() or " Z " in stat.read_text()


# Memory


async def test_a_remembered_verdict_is_the_evaluated_one() -> None:
    questions = [
        question(action, kind, pii_level=pii, jurisdiction=where, environment=env)
        for action in ("catalog.register_dataset", "catalog.deprecate_dataset", "budgets.open_budget", "x.y")
        for kind in ("person", "agent")
        for pii in ("none", "high")
        for where in ("EU", "multi")
        for env in ("production", None)
    ]
    async with engine(Bundle.read(DEFAULT_BUNDLE)) as first, engine(Bundle.read(DEFAULT_BUNDLE)) as second:
        evaluated = [await first.check(asked) for asked in questions]
        os.kill(worker_pid(first), signal.SIGSTOP)  # from here on only the memory can answer
        remembered = [await first.check(dict(reversed(asked.items()))) for asked in questions]
        assert remembered == evaluated == [await second.check(asked) for asked in questions]
        assert {verdict.outcome for verdict in evaluated} == {"allow", "block", "require_approval"}


async def test_identical_questions_in_flight_share_one_evaluation() -> None:
    async with engine(ANSWERS_X) as running:
        asked = [asyncio.create_task(running.check(question())) for _ in range(50)]
        await asyncio.sleep(0)
        assert len(running._waiting) == 1
        asked[0].cancel()
        verdicts = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(verdicts[0], asyncio.CancelledError)
        assert {verdict.outcome for verdict in verdicts[1:] if isinstance(verdict, Verdict)} == {"allow"}
        assert (running._shared, len(running._waiting)) == ({}, 0)


async def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VERDICTS_REMEMBERED == 10_000
    monkeypatch.setattr("infra.policy.VERDICTS_REMEMBERED", 3)
    async with engine(ANSWERS_X) as running:
        for n in (1, 2, 3, 1, 4):
            await running.check(question(n=n))
        assert [orjson.loads(key)["facts"]["n"] for key in running._remembered] == [3, 1, 4]


async def test_too_many_waiting_questions_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.policy.QUESTIONS_WAITING_MAX", 2)
    async with engine(ANSWERS_X) as running:
        verdicts = await asyncio.gather(*(running.check(question(n=n)) for n in range(3)))
        assert [verdict.outcome for verdict in verdicts] == ["allow", "allow", "block"]
        assert verdicts[2] == blocked("overloaded")


def test_the_version_is_that_of_the_bytes_that_decide() -> None:
    first = bundle(ANSWERS_X)
    assert len(first.version) == 16
    assert first.version == bundle(ANSWERS_X, test="test_x if true\n").version
    assert len({first.version, bundle(ANSWERS_X + "\n").version, bundle(ANSWERS_X, data='{"a":1}').version}) == 3


async def test_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    async with engine(Bundle.read(DEFAULT_BUNDLE)) as running:
        for name, questions in {"evaluated": [question(n=n) for n in range(2_000)], "remembered": [question(n=0)] * 20_000}.items():
            started = time.perf_counter()
            verdicts = await asyncio.gather(*map(running.check, questions))
            per_second = len(questions) / (time.perf_counter() - started)
            assert {verdict.outcome for verdict in verdicts} == {"allow"}
            with capsys.disabled():
                sys.stdout.write(f"\npolicy verdicts {name}: {per_second:,.0f}/s\n")
