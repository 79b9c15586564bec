"""Actors who sign what they ask: what is taken, what is refused and how it is told, over HTTP and on the command line."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.signing import NotSigned, SignedRequests, place_of
from commands.agents import RegisterAgent
from commands.budgets import OpenBudget, ReserveFunds
from commands.catalog import RegisterDataset
from domain.kernel import Asker, Command
from domain.values import ActorKind, Role
from infra.key_files import FileSigner, read_key, write_key
from infra.request_signing import HEADER, PREPARE, header_of, parse
from tests.support.kernel import ADM, ask
from tests.support.keys import MADE, adding, lines, new_key, signature
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
ALLOW = 'package aureus\n\nimport rego.v1\n\nverdict := {"outcome": "allow", "results": [{"policy": "all", "outcome": "allow"}]}\n'
FORMATS = Path(__file__).parent.parent / "docs" / "formats.md"
NUMBERS = count(1)


class _Header(httpx.Auth):
    """Sends a header as it is given."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers[self._name] = self._value
        yield request


@dataclass(frozen=True)
class Actor:
    """Somebody with a key of their own, who may open budgets."""

    aureus: Aureus
    asker: Asker
    key: FileSigner

    @property
    def ledger(self) -> str:
        return self.aureus.services.ledger.name

    def signing(self, **changed: Any) -> SignedRequests:
        said = {"ledger": self.ledger, "tenant": self.asker.tenant, "actor": self.asker.actor, "key": self.key, **changed}
        return SignedRequests(**said)

    async def post(self, path: str, body: Any, auth: httpx.Auth | None = None, **headers: str) -> httpx.Response:
        identity = {"Authorization": f"Bearer {self.aureus.services.tokens.issue(self.asker)}"}
        return await self.aureus.http.post(path, headers={**identity, **headers}, json=body, auth=auth or httpx.Auth())

    async def open(self, name: str, auth: httpx.Auth | None = None, key: str | None = None) -> httpx.Response:
        """Asks for a budget, under an idempotency key when one is given."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.post("/v1/budgets", {"budget_id": name, "label": name, "currency": "EUR", "limit_minor": 100}, auth, **headers)

    async def open_with(self, name: str, header: str, key: str | None = None) -> httpx.Response:
        """The same, with a signature made by hand."""
        return await self.open(name, _Header(HEADER, header), key)

    async def event(self, action_id: str) -> dict[str, Any]:
        (recorded,) = await self.aureus.services.ledger.read_stream("acme", f"action:{action_id}")
        return recorded.event.dump()


def opening(name: str, limit_minor: int = 100) -> OpenBudget:
    return OpenBudget(budget_id=name, label=name, currency="EUR", limit_minor=limit_minor)


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home"), ALLOW) as started:
        yield started


@pytest.fixture
async def ana(aureus: Aureus) -> Actor:
    return await holder(aureus)


async def holder(aureus: Aureus) -> Actor:
    """A new actor with a key in the ledger, that the server's own root key let in."""
    asker = Asker(f"usr-holder-{next(NUMBERS)}", "acme", frozenset({Role.ADMIN}))
    await aureus.know(asker)
    key = new_key("actor", f"acme/{asker.actor}")
    answer = await aureus.post("/v1/keys", adding(aureus.services.ledger.name, key).model_dump(exclude_none=True), asker)
    assert answer.status_code == 201, answer.text
    return Actor(aureus, asker, key)


def refused(answer: httpx.Response, status: int, code: str, **details: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert {name: error["details"].get(name) for name in details} == details
    assert error["details"]["remedy"]
    return error


# -- what is taken


async def test_what_its_actor_signed_is_carried_out_and_the_signature_is_kept(ana: Actor) -> None:
    answer = await ana.open("signed", ana.signing())
    assert answer.status_code == 201, answer.text
    event = await ana.event(answer.json()["action_id"])
    assert event["signature"]["key_id"] == ana.key.key_id
    assert event["intent"]["digest"] == opening("signed").digest()


async def test_what_is_sent_again_is_carried_out_once(ana: Actor) -> None:
    header = header_of(signature(ana.ledger, ana.asker, opening("once"), ana.key))
    first, again = await ana.open_with("once", header), await ana.open_with("once", header)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["action_id"] == again.json()["action_id"]


async def test_a_lost_answer_is_asked_for_again_with_the_same_nonce(ana: Actor) -> None:
    """The clock has moved on, so the signature is another one; the nonce says that it is the same request."""
    nonce = str(uuid4())
    answers = [await ana.open("lost", ana.signing(), nonce) for _ in range(2)]
    assert len({answer.json()["action_id"] for answer in answers}) == 1
    assert parse(answers[1].request.headers[HEADER]).nonce == nonce


async def test_either_of_two_keys_will_do_and_each_ends_alone(ana: Actor) -> None:
    second = new_key("actor", f"acme/{ana.asker.actor}")
    body = adding(ana.ledger, second).model_dump(exclude_none=True)
    added = await ana.post("/v1/keys", body, ana.signing())
    assert added.status_code == 201, added.text
    assert (await ana.open("first", ana.signing())).status_code == 201
    assert (await ana.open("second", ana.signing(key=second))).status_code == 201
    lost = await ana.post(f"/v1/keys/{ana.key.key_id}/revoke", {"reason": "lost"}, ana.signing(key=second))
    assert lost.status_code == 200, lost.text
    refused(await ana.open("third", ana.signing()), 403, "signature_invalid")
    assert (await ana.open("third", ana.signing(key=second))).status_code == 201


async def test_reads_need_no_signature(ana: Actor) -> None:
    assert (await ana.aureus.get("/v1/budgets", ana.asker)).status_code == 200


# -- what is refused


async def test_a_missing_signature_is_refused_and_that_is_on_record(ana: Actor) -> None:
    error = refused(await ana.open("bare"), 403, "signature_missing", field=HEADER)
    event = await ana.event(error["details"]["action_id"])
    assert (event["code"], "signature" in event) == ("signature_missing", False)


async def test_a_key_of_nobody_and_a_key_of_somebody_else_sign_nothing_here(ana: Actor) -> None:
    ben = await holder(ana.aureus)
    for key in (new_key("actor", f"acme/{ana.asker.actor}"), ben.key):
        refused(await ana.open("theirs", ana.signing(key=key)), 403, "signature_invalid", key_id=key.key_id)
    claimed = signature(ana.ledger, ana.asker, opening("claimed"), ben.key).model_copy(update={"key_id": ana.key.key_id})
    refused(await ana.open_with("claimed", header_of(claimed)), 403, "signature_invalid", key_id=ana.key.key_id)


@pytest.mark.parametrize(
    "changed", [{"ledger": "aureus.test/other"}, {"tenant": "beta"}, {"actor": "usr-adm"}], ids=lambda changed: next(iter(changed))
)
async def test_a_signature_is_for_one_ledger_tenant_and_actor(ana: Actor, changed: dict[str, str]) -> None:
    refused(await ana.open("elsewhere", ana.signing(**changed)), 403, "signature_invalid")


@pytest.mark.parametrize("signed", [opening("tampered", 1), opening("tampered", 10_000)], ids=["less", "more"])
async def test_a_body_that_was_changed_on_the_way_is_refused(ana: Actor, signed: Command) -> None:
    error = refused(await ana.open_with("tampered", header_of(signature(ana.ledger, ana.asker, signed, ana.key))), 403, "signature_invalid")
    assert error["details"]["digest"] == opening("tampered").digest() != signed.digest()


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_signature_is_taken_for_five_minutes_whichever_clock_is_wrong(ana: Actor, minutes: int) -> None:
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    refused(await ana.open("late", ana.signing(clock=lambda: moment)), 403, "signature_stale")
    nearly = datetime.now(UTC) + timedelta(minutes=minutes - minutes // abs(minutes) * 2)
    assert (await ana.open(f"in-time{minutes}", ana.signing(clock=lambda: nearly))).status_code == 201


async def test_a_nonce_signs_one_command(ana: Actor) -> None:
    nonce = str(uuid4())
    headers = {name: header_of(signature(ana.ledger, ana.asker, opening(name), ana.key, nonce=nonce)) for name in ("spent", "again")}
    assert (await ana.open_with("spent", headers["spent"])).status_code == 201
    refused(await ana.open_with("again", headers["again"]), 409, "idempotency_key_reused")


async def test_the_idempotency_key_of_what_is_signed_is_its_nonce(ana: Actor) -> None:
    """Else what was lost and signed again would be carried out twice."""
    header = header_of(signature(ana.ledger, ana.asker, opening("keyed"), ana.key))
    error = refused(await ana.open_with("keyed", header, "another"), 422, "validation_failed", field="Idempotency-Key")
    assert "nonce" in error["message"]
    same = parse(header).nonce
    assert (await ana.open_with("keyed", header, same)).status_code == 201


async def test_who_has_no_key_cannot_sign(ana: Actor) -> None:
    """A signature that nobody can check is not passed over in silence."""
    nobody = Asker(f"usr-holder-{next(NUMBERS)}", "acme", frozenset({Role.ADMIN}))
    await ana.aureus.know(nobody)
    without = Actor(ana.aureus, nobody, new_key("actor", f"acme/{nobody.actor}"))
    refused(await without.open("unknown", without.signing()), 403, "signature_invalid")
    assert (await without.open("unknown")).status_code == 201


@pytest.mark.parametrize(
    ("member", "rule"),
    [
        ("keyid=12", "64 hex digits"),
        ("nonce=1", "UUID"),
        ("at=2026-03-03T14:00:00Z", "six digits"),
        ("sig=AAAA", "64 bytes"),
        ("sig=", "each once"),
        ("keyid", "each once"),
        ("more=1", "each once"),
    ],
)
async def test_a_header_that_is_none_names_its_rule(ana: Actor, member: str, rule: str) -> None:
    whole = header_of(signature(ana.ledger, ana.asker, opening("odd"), ana.key))
    name = member.partition("=")[0]
    parts = [part for part in whole.split(", ") if not part.startswith(f"{name}=")]
    error = refused(await ana.open_with("odd", ", ".join([*parts, member])), 422, "validation_failed", field=HEADER)
    assert rule in error["message"]


def test_a_header_says_each_member_once() -> None:
    said = signature("l", ADM, opening("x"), new_key())
    assert parse(header_of(said)) == said
    assert parse(", ".join(reversed(header_of(said).split(", ")))) == said, "in whatever order"
    for odd in ("", header_of(said) + ", " + header_of(said), header_of(said) + ","):
        with pytest.raises(ValueError, match="each once"):
            parse(odd)


# -- what is signed is worked out here


def asked_at(path: str, body: bytes) -> Command | None:
    place = place_of(path)
    return place.asked(body) if place is not None and not place.completed else None


def test_the_digest_is_of_the_command_as_its_own_class_reads_it() -> None:
    """Defaults and the path's fields included."""
    body = json.dumps({"label": "lake", "currency": "EUR", "limit_minor": 100, "budget_id": "lake"}).encode()
    found = asked_at("/v1/budgets", body)
    assert found is not None
    assert found.digest() == opening("lake").digest()
    in_path = asked_at("/v1/budgets/lake/fund", b'{"amount_minor": 5}')
    assert in_path is not None
    assert in_path.intent() == {"budget_id": "lake", "amount_minor": 5}


@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/rollbacks", "/v1/budgets/lake", "/v1/budgets/lake/fund/", "/v1/nowhere"])
def test_what_is_no_command_is_not_signed(path: str) -> None:
    assert place_of(path) is None


def test_what_will_be_refused_as_it_is_is_sent_as_it_is() -> None:
    for body in (b"{", b"[]", b'{"budget_id": "lake"}', b'{"budget_id": "a", "budget_id": "a"}'):
        assert asked_at("/v1/budgets", body) is None


def test_a_nonce_is_a_uuid_or_nothing_is_sent() -> None:
    signing = SignedRequests(new_key(), "l", "acme", "usr-ana")
    body = {"budget_id": "b", "label": "b", "currency": "EUR", "limit_minor": 1}
    request = httpx.Request("POST", "http://aureus.test/v1/budgets", json=body, headers={"Idempotency-Key": "mine"})
    with pytest.raises(NotSigned, match="UUID"):
        next(signing.auth_flow(request))


def test_a_client_in_another_language_can_do_it_with_formats_md_alone() -> None:
    """The bytes, put together by hand."""
    key, nonce = new_key(), str(uuid4())
    at = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)
    made = signature("aureus.test/hand", ADM, opening("lake"), key, at=at, nonce=nonce)
    payload = (
        f'{{"actor":"usr-adm","at":"2026-03-03T14:00:00.000000Z","command":"budgets.open_budget","digest":"{opening("lake").digest()}",'
        f'"ledger":"aureus.test/hand","nonce":"{nonce}","tenant":"acme","v":1}}'
    )
    message = f"DSSEv1 38 application/vnd.aureus.request.v1+json {len(payload)} {payload}".encode()
    assert base64.b64decode(made.sig) == key.sign(message)


def test_the_example_in_formats_md_is_what_this_program_signs() -> None:
    example = FORMATS.read_text().partition("with the key whose seed is 32 bytes of 0x07:")[2].split("```")[1]
    key = FileSigner.from_seed("actor", bytes([7]) * 32, MADE, "client", "acme/usr-ana")
    reserving = ReserveFunds(budget_id="eu-lake", amount_minor=1_000)
    nonce, at = "01990000-0000-7000-8000-000000000001", datetime(2026, 3, 3, 14, 0, tzinfo=UTC)
    made = signature("aureus.example/golden", replace(ADM, actor="usr-ana"), reserving, key, nonce=nonce, at=at)
    assert re.findall(r"^(?:keyid|sig) +(\S+)$", example, re.MULTILINE) == [made.key_id, made.sig]
    assert re.findall(r'"digest":"(\w+)"', example) == [reserving.digest()]


# -- what the server completes


async def test_an_agent_signs_what_the_server_says_its_data_is_like(aureus: Aureus) -> None:
    agent = Asker(f"agt-holder-{next(NUMBERS)}", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, "usr-owner")
    await aureus.know(agent)
    described = {"agent_id": agent.actor, "label": "x", "purpose": "x", "model": "x", "provider": "x", "owner": "usr-owner"}
    await aureus.services.path.handle(ask(RegisterAgent.model_validate(described), ADM))
    people = {"dataset_id": "crm.people", "name": "people", "pii_level": "high"}
    await aureus.services.path.handle(ask(RegisterDataset.model_validate(people), ADM))
    key = new_key("actor", f"acme/{agent.actor}")
    added = await aureus.post("/v1/keys", adding(aureus.services.ledger.name, key).model_dump(exclude_none=True), agent)
    assert added.status_code == 201, added.text
    bot, path = Actor(aureus, agent, key), f"/v1/agents/{agent.actor}/actions"
    call = {"request_id": "r-1", "tool": "sql", "datasets": ["crm.people"], "purpose": "To count them"}
    refused(await bot.post(path, call), 403, "signature_missing")
    answer = await bot.post(path, call, bot.signing())
    assert answer.status_code == 201, answer.text
    event = await bot.event(answer.json()["action_id"])
    assert event["signature"]["key_id"] == key.key_id
    (facts,) = event["intent"]["inputs"]["facts"]
    assert (facts["dataset_id"], facts["pii_level"]) == ("crm.people", "high")


async def test_a_command_can_be_seen_before_it_is_asked(ana: Actor) -> None:
    seen = await ana.post("/v1/budgets", opening("seen").intent(), _Header(PREPARE, "1"))
    assert seen.json() == {"command": "budgets.open_budget", "inputs": opening("seen").intent(), "digest": opening("seen").digest()}
    assert (await ana.open("seen", ana.signing())).status_code == 201, "nothing was asked by looking"


def test_a_server_that_makes_another_command_of_it_gets_no_signature() -> None:
    place = place_of("/v1/agents/agt-bot/actions")
    assert place is not None
    call = {"request_id": "r-1", "tool": "sql", "datasets": ["crm.people"], "purpose": "To count them"}
    inputs: dict[str, Any] = {**call, "agent_id": "agt-bot", "facts": [{"dataset_id": "crm.people"}]}
    honest = {"command": "agents.request_action", "inputs": inputs}
    sent = json.dumps(call).encode()
    assert place.checked(honest, sent).intent()["facts"][0]["dataset_id"] == "crm.people"
    with pytest.raises(NotSigned, match=r"prepared 'agents\.stop_agent'"):
        place.checked({**honest, "command": "agents.stop_agent"}, sent)
    for name, other in (("agent_id", "agt-other"), ("tool", "shell"), ("datasets", []), ("purpose", "To sell them")):
        with pytest.raises(NotSigned, match=f"another {name}"):
            place.checked({**honest, "inputs": {**inputs, name: other}}, sent)


# -- on the command line


async def test_the_command_line_signs_with_the_key_of_its_actor(ana: Actor, tmp_path: Path) -> None:
    file, other = tmp_path / "ana.key", tmp_path / "other.key"
    write_key(file, ana.key)
    write_key(other, new_key("actor", "acme/usr-somebody-else"))
    async with lines(ana.aureus, tmp_path / "home", ana.asker) as aureus:
        opened = ("budgets", "open", "cli", "--label", "cli", "--limit", "1.00")
        assert "signature_missing" in await aureus(*opened, exit_code=6)
        aureus.environment["AUREUS_SIGNING_KEY"] = str(file)
        result = await aureus.json(*opened)
        assert (await ana.event(result["action_id"]))["signature"]["key_id"] == ana.key.key_id
        aureus.environment["AUREUS_SIGNING_KEY"] = str(other)
        assert "signature_missing" in await aureus("budgets", "close", "cli", exit_code=6), "another actor's key signs nothing"
        other.chmod(0o644)
        assert "chmod 0600" in await aureus("budgets", "close", "cli", exit_code=2)
        aureus.environment["AUREUS_SIGNING_KEY"] = str(file)
        assert "is the log key" in await aureus("keys", "rotate-server", "log"), "a command that the server completes"
        assert "UUID" in await aureus("--idempotency-key", "mine", "budgets", "close", "cli", exit_code=2)


async def test_a_key_is_made_let_in_used_and_handed_on_from_the_command_line(aureus: Aureus, tmp_path: Path) -> None:
    asker = Asker(f"usr-holder-{next(NUMBERS)}", "acme", frozenset({Role.ADMIN}))
    await aureus.know(asker)
    await aureus.services.passwords.set("acme", asker.actor, asker.actor, "correct horse battery")
    first, second, request = (tmp_path / name for name in ("first.key", "second.key", "request.json"))
    async with lines(aureus, tmp_path / "home", asker) as line:
        request.write_text(await line("keys", "new", "--holder", f"acme/{asker.actor}", "-o", str(first)))
        other = {**json.loads(request.read_text()), "ledger": "aureus.test/other"}
        (tmp_path / "other.json").write_text(json.dumps(other))
        assert "other_ledger" in await line("keys", "add", str(tmp_path / "other.json"), exit_code=2)
        added = read_key(first, "actor")
        assert added.key_id[:16] in await line("keys", "add", str(request))
        line.environment["AUREUS_TOKEN"] = None
        await line("login", asker.actor, "--password-stdin", "--signing-key", str(first), said="correct horse battery")
        await line("keys", "new", "--holder", f"acme/{asker.actor}", "-o", str(second))
        await line("keys", "rotate", str(first), str(second))
        following = read_key(second, "actor")
        rows = (await line.json("keys", "list", "--holder", f"acme/{asker.actor}"))["items"]
        assert [(row["key_id"], row["status"]) for row in rows] == [(added.key_id, "rotated"), (following.key_id, "active")]
        # The login goes on with the key that took over.
        await line("keys", "revoke", following.key_id, "--because", "no longer needed")
        assert (await line.json("keys", "show", following.key_id))["reason"] == "no longer needed"
