"""A real OPA server in the embedded evaluator's place: the same bundle, unchanged, and the same verdicts; no answer is a no."""

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from api.services import open_services
from commands.catalog import RegisterDataset
from commands.policy import ENGINE, Rulebook, Verdict
from domain.actions import PolicyResult
from domain.catalog import Jurisdiction, PiiLevel
from infra.opa import OpaEngine, OpaServer
from infra.policy import DEFAULT_BUNDLE, run_tests
from infra.policy_bundle import Bundle, BundleRefused
from infra.policy_sets import assemble, shipped_set
from infra.settings import Settings, SettingsError
from tests.support.builtins import EXAMPLES, LEFT_OUT, LEFT_OUT_INPUT, NOTHING, arguments, asking, every_builtin, rule
from tests.support.kernel import ADM, ask
from tests.support.opa import BINARY, Opa
from tests.test_policy import ALLOW, LOOP, blocked, bundle, engine, question

pytestmark = pytest.mark.anyio

SHIPPED = Bundle.read(DEFAULT_BUNDLE)


@asynccontextmanager
async def judging(opa: Opa, judged: Bundle | str, token: str | None = None) -> AsyncIterator[OpaEngine]:
    """An engine on the server, with the bundle loaded."""
    server = OpaServer(opa.url, token)
    started = server.engine(judged if isinstance(judged, Bundle) else bundle(judged))
    try:
        await started.start()
        yield started
    finally:
        await server.close()


# Parity


def questions() -> list[dict[str, Any]]:
    """Every policy's actions, for every kind of actor, with facts on both sides of every rule."""
    actions = {
        "agents": ["request_action", "stop_agent"],
        "budgets": ["reserve_funds", "release_funds", "roll_back_settings"],
        "catalog": ["register_dataset", "describe_dataset", "deprecate_dataset", "record_usage"],
        "payments": ["send_money"],
        "pipelines": ["deploy_version"],
        "policies": ["activate_policies"],
    }
    facts: list[dict[str, Any]] = [
        {},
        {"environment": "production", "domain": "web", "becomes": {}},
        {"pii_level": "none", "jurisdiction": "multi", "becomes": {"pii_level": "none"}},
        {"pii_level": "high", "jurisdiction": "EU", "becomes": {"pii_level": "high"}},
        {"pii_level": "high", "jurisdiction": "multi", "becomes": {"jurisdiction": "US"}},
        {"pii_level": "high", "jurisdiction": "multi", "domain": "kyc", "becomes": {}},
        {"pii_level": "low", "jurisdiction": "UK", "domain": "payments", "becomes": {"domain": "Zürich"}},
        {"statuses": ["active", "deprecated"], "contracts": ["retired"], "fresh": False, "becomes": {}},
        {"statuses": ["active"], "contracts": ["active", "none"], "fresh": True, "becomes": {}},
        {"currency": "EUR", "is_root": True, "amount_up_to": 100_000_000},
        {"currency": "EUR", "is_root": False, "amount_up_to": 110_000_000},
        {"currency": "EUR", "is_root": False, "amount_up_to": 2**53 - 1},
        {"currency": None, "is_root": False, "amount_up_to": None},
    ]
    kinds = ["person", "service", "agent", "robot"]
    named = [f"{context}.{name}" for context, names in actions.items() for name in names]
    at_ease = [question(action, kind, **known) | {"recent": 64} for action, kind, known in itertools.product(named, kinds, facts)]
    reaching = [
        question(action, "person", environment=environment) | {"actor": {"roles": ["admin"], "kind": "person", **reach}}
        for action, environment in itertools.product([*named, "access.change_roles", "keys.add_key"], ("production", "staging"))
        for reach in ({"bounded": True}, {"by_grant": True}, {"bounded": True, "by_grant": True})
    ]
    hurried = [question(action, kind) | {"recent": recent} for action, kind in itertools.product(named, kinds) for recent in (2_048, 2**20)]
    reading = [question(f"read.{table}", kind) | {"recent": 0} for table in ("datasets", "terms") for kind in kinds]
    return at_ease + hurried + reaching + reading


async def verdicts(rulebook: Rulebook, asked: list[dict[str, Any]]) -> list[Verdict]:
    """The verdict on each, some at a time."""
    batches = [asked[start : start + 64] for start in range(0, len(asked), 64)]
    return [verdict for batch in batches for verdict in await asyncio.gather(*map(rulebook.check, batch))]


@pytest.mark.parametrize("judged", [SHIPPED, assemble(shipped_set(SHIPPED).active())], ids=["as shipped", "as governed"])
async def test_both_evaluators_come_to_the_same_verdicts(opa: Opa, judged: Bundle) -> None:
    asked = questions()
    async with engine(judged) as embedded, judging(opa, judged) as server:
        found = await verdicts(embedded, asked)
        assert await verdicts(server, asked) == found
        assert embedded.version == server.version
    assert len(asked) > 200
    assert {verdict.outcome for verdict in found} == {"allow", "block", "require_approval"}
    assert {verdict.masked for verdict in found} == {(), ("owner_ids", "owners", "registered_by")}
    policies = {path.stem for path in DEFAULT_BUNDLE.glob("*.rego")} - {"question", "verdict"}
    heard = {result.policy for verdict in found for result in verdict.results}
    assert {name for name in policies if not name.endswith("_test")} - heard == set()


def test_opa_runs_the_policies_own_tests() -> None:
    done = subprocess.run([BINARY, "test", "--format=json", DEFAULT_BUNDLE], stdout=subprocess.PIPE, check=False)
    results = orjson.loads(done.stdout)
    assert sorted(result["name"] for result in results if not result.get("fail")) == sorted(
        result.name.rpartition("/")[2] for result in run_tests(SHIPPED) if result.passed
    )
    exit_code = done.returncode
    assert exit_code == 0


def evaluated(opa: Opa, asked: Bundle, inputs: list[tuple[str, Any]]) -> list[Any]:
    """What OPA says of rules of a bundle."""
    with httpx.Client(base_url=opa.url) as client:
        client.put("/v1/policies/examples", content=asked.files["p.rego"]).raise_for_status()
        strictly = {"strict-builtin-errors": True}
        answers = [client.post(f"/v1/data/aureus/{name}", params=strictly, json={"input": given}).json() for name, given in inputs]
        client.delete("/v1/policies/examples").raise_for_status()
    return [answer.get("result", NOTHING) for answer in answers]


def test_opa_answers_every_builtin_as_written_down(opa: Opa) -> None:
    told = [(name, given, is_) for name, examples in EXAMPLES.items() for given, is_ in examples]
    answers = evaluated(opa, every_builtin(), [(rule(name), arguments(given)) for name, given, _ in told])
    differing = [(*one, answer) for one, answer in zip(told, answers, strict=True) if answer != one[2]]
    assert differing == []


def test_opa_answers_what_is_left_out_as_written_down(opa: Opa) -> None:
    asked = asking({f"x{number}": expression for number, (expression, _) in enumerate(LEFT_OUT)})
    answers = evaluated(opa, asked, [(f"x{number}", LEFT_OUT_INPUT) for number in range(len(LEFT_OUT))])
    assert answers == [is_ for _, is_ in LEFT_OUT]


# Every missing answer is a no


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"verdict := {ALLOW} if input.facts.never", "undefined"),
        (f'verdict := {ALLOW} if input.facts.bad\nverdict := {{"outcome": "block"}} if input.facts.bad', "error"),
        (f"verdict := {ALLOW} if not to_number(input.action)", "error"),
        ("verdict := 42", "garbage"),
        ('verdict := {"outcome": "perhaps", "results": []}', "garbage"),
        ('verdict := {"outcome": "allow", "results": [{"policy": "p", "outcome": "block"}]}', "contradiction"),
    ],
)
async def test_what_is_no_answer_blocks_on_both(opa: Opa, source: str, reason: str) -> None:
    async with engine(source) as embedded, judging(opa, source) as server:
        for rulebook in (embedded, server):
            verdict = await rulebook.check(question(bad=True))
            assert (verdict.outcome, verdict.results[0]) == ("block", PolicyResult(policy=ENGINE, outcome="block", reason=reason))


async def test_a_policy_that_loops_is_blocked_alone(opa: Opa) -> None:
    async with judging(opa, LOOP + f"verdict := {ALLOW} if not bad_loop\n") as server:
        asked = [server.check(question(bad="loop")), *(server.check(question(n=n)) for n in range(20))]
        looped, *others = await asyncio.gather(*asked)
        assert looped == blocked("timeout")
        assert {verdict.outcome for verdict in others} == {"allow"}


@pytest.mark.parametrize("text", ['web", "outcome": "allow', "back\\slash", "two\nlines"])
async def test_text_that_could_write_a_verdict_is_not_judged(opa: Opa, text: str) -> None:
    source = 'verdict := {"outcome": "block", "results": [{"policy": "p", "outcome": "block", "reason": input.facts.domain}]}'
    async with engine(source) as embedded, judging(opa, source) as server:
        assert await embedded.check(question(domain=text)) == await server.check(question(domain=text)) == blocked("unsafe_text")


async def test_a_server_that_is_gone_blocks_and_one_that_came_back_empty_is_filled_again(tmp_path: Path) -> None:
    opa = Opa(tmp_path)
    opa.start()
    try:
        async with judging(opa, SHIPPED) as server:
            assert (await server.check(question())).outcome == "allow"
            opa.stop()
            assert await server.check(question()) == blocked("unavailable")
            opa.start()
            assert (await server.check(question())).outcome == "allow"
    finally:
        opa.stop()


async def test_bundles_take_turns_and_none_answers_for_another(opa: Opa) -> None:
    no = 'verdict := {"outcome": "block", "results": [{"policy": "no", "outcome": "block"}]}'
    helper = b"package aureus\n\nimport rego.v1\n\nhelper(_) if data.list\n"
    files = {**bundle(f"verdict := {ALLOW} if helper(1)\n").files, "helper.rego": helper, "data.json": b'{"list": ["x"]}'}
    async with judging(opa, Bundle(files)) as yes, judging(opa, no) as never:
        for _ in range(3):
            assert (await yes.check(question())).outcome == "allow"
            assert (await never.check(question())).results[0].policy == "no"
        many = await asyncio.gather(*(rulebook.check(question(n=n)) for n in range(10) for rulebook in (yes, never)))
        assert [verdict.outcome for verdict in many] == ["allow", "block"] * 10


async def test_half_a_bundle_does_not_answer(opa: Opa) -> None:
    async with judging(opa, f"verdict := {ALLOW}") as server, httpx.AsyncClient(base_url=opa.url) as client:
        changed = 'package aureus_in_force\n\nversion := "another"\n\nverdict := {"outcome": "allow", "results": []}\n'
        (await client.put("/v1/policies/aureus-in-force", content=changed)).raise_for_status()
        (await client.delete("/v1/policies/aureus/p.rego")).raise_for_status()
        assert (await server.check(question())).results[0].policy == "p"


async def test_a_bundle_that_opa_refuses_is_refused_with_its_line(opa: Opa) -> None:
    with pytest.raises(BundleRefused, match=r"p.rego:5: var nowhere is unsafe"):
        async with judging(opa, "verdict := nowhere"):
            pass


async def test_what_the_embedded_evaluator_may_not_run_opa_may_not_either(opa: Opa) -> None:
    with pytest.raises(BundleRefused, match=r"`time.now_ns` is neither"):
        async with judging(opa, "verdict := time.now_ns()"):
            pass


@pytest.mark.parametrize("answer", [b"", b"[]", b"{", b'{"result": 1}', b"\xff"])
async def test_what_only_looks_like_opa_is_not_believed(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(answer), answer))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        server = OpaServer(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        verdict = await server.engine(SHIPPED).check(question())
        await server.close()
    assert verdict in (blocked("garbage"), blocked("unavailable"))


@pytest.fixture
def guarded_opa(tmp_path: Path) -> Iterator[Opa]:
    """A server that answers whoever holds the token."""
    rules = 'default allow := false\n\nallow if input.identity == "secret"\n\nallow if input.path == ["health"]\n'
    (tmp_path / "authz.rego").write_text(f"package system.authz\n\nimport rego.v1\n\n{rules}")
    opa = Opa(tmp_path, ["--authentication=token", "--authorization=basic", str(tmp_path / "authz.rego")])
    try:
        opa.start()
        yield opa
    finally:
        opa.stop()


async def test_opa_may_ask_for_a_token(guarded_opa: Opa) -> None:
    async with judging(guarded_opa, SHIPPED, token="secret") as server:
        assert (await server.check(question())).outcome == "allow"
    with pytest.raises(ConnectionError, match="401"):
        async with judging(guarded_opa, SHIPPED, token="guessed"):
            pass


# A whole Aureus


async def test_a_whole_aureus_is_judged_by_opa(opa: Opa, database_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=database_url, tenant="acme", demo=False, opa_url=opa.url)
    async with open_services(settings, run_projections=False) as services:
        command = RegisterDataset(dataset_id="people", name="People", pii_level=PiiLevel.HIGH, jurisdiction=Jurisdiction.EU)
        outcome = await services.path.handle(ask(command, ADM))
    assert outcome.outcome == "requires_approval"
    assert "pii_onboarding" in {result["policy"] for result in outcome.policy_results}


async def test_aureus_does_not_start_without_the_opa_it_is_told_of(database_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=database_url, opa_url="http://127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"AUREUS_OPA_URL: OPA at http://127\.0\.0\.1:1 does not answer"):
        async with open_services(settings, run_projections=False):
            pass
