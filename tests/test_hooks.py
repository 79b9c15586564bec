"""Hooks: what another system reports becomes one command, once - whoever signs, repeats, records or forges it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import httpx
import orjson
import psycopg
import pytest

from commands.hooks import DECIDER, AddHook, RemoveHook, RotateHookSecret
from domain.access import Actor, Registration
from domain.actions import ActionAllowed
from domain.hooks import HookAdded, HookRemoved, HookSecretRotated
from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.hook_signatures import NotSigned, verified
from infra.sealed_secrets import secret_digest
from tests.given import ADMIN, AT, given
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus, running

DBT = Asker("svc-dbt", "acme", frozenset({Role.ANALYST}), ActorKind.SERVICE, owner="usr-ana")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
SHA = secret_digest(SECRET)
FIELDS = {"dataset_id": "/data/models/0", "refreshed_at": "/data/finishedAt"}
ADD = AddHook(hook_id="dbt", label="dbt", acts_as=DBT.actor, command="catalog.record_refresh", fields=FIELDS, secret_sha256=SHA)
ADDED = HookAdded(**ADD.model_dump())
SECONDS = count()
THERE = {"actor:svc-dbt": Registration(Actor(DBT.actor, DBT.kind, DBT.roles, DBT.owner))}


# -- decisions


def test_a_hook_comes_once_and_goes_for_good() -> None:
    given(DECIDER).by(ADMIN).beside(**THERE).when(ADD).then(ADDED)
    given(DECIDER, ADDED).by(ADMIN).beside(**THERE).when(ADD).refused("hook_exists", field="hook_id")
    removed = HookRemoved(hook_id="dbt")
    given(DECIDER, ADDED).by(ADMIN).when(RemoveHook(hook_id="dbt")).then(removed)
    given(DECIDER, ADDED, removed).by(ADMIN).when(RemoveHook(hook_id="dbt")).then()
    given(DECIDER, ADDED, removed).by(ADMIN).beside(**THERE).when(ADD).refused("hook_exists", field="hook_id")
    given(DECIDER).by(ADMIN).when(RemoveHook(hook_id="dbt")).refused("hook_not_found", field="hook_id")


def test_a_hook_acts_as_a_service_that_is_there() -> None:
    nobody = {"actor:svc-dbt": Registration()}
    given(DECIDER).by(ADMIN).beside(**nobody).when(ADD).refused("actor_not_found", field="actor_id")
    itself = ADD.model_copy(update={"acts_as": "svc-reactions"})
    given(DECIDER).by(ADMIN).beside(**THERE).when(itself).refused("actor_id_reserved", field="acts_as")
    twice = ADD.model_copy(update={"constants": {"dataset_id": "d"}})
    given(DECIDER).by(ADMIN).beside(**THERE).when(twice).refused("field_said_twice", field="constants")


def test_a_secret_is_rotated_with_an_overlap() -> None:
    rotate = RotateHookSecret(hook_id="dbt", secret_sha256="ab" * 32, overlap="PT2H")
    rotated = HookSecretRotated(hook_id="dbt", secret_sha256="ab" * 32, old_until=AT + timedelta(hours=2))
    given(DECIDER, ADDED).by(ADMIN).when(rotate).then(rotated)
    given(DECIDER, ADDED, rotated).by(ADMIN).when(rotate).then()
    given(DECIDER, ADDED).by(ADMIN).when(rotate.model_copy(update={"overlap": "P31D"})).refused("overlap_too_long", field="overlap")
    given(DECIDER).by(ADMIN).when(rotate).refused("hook_not_found", field="hook_id")
    given(DECIDER, ADDED, HookRemoved(hook_id="dbt")).by(ADMIN).when(rotate).refused("hook_not_found", field="hook_id")


# -- signatures


def signed(body: bytes, message_id: str = "msg_1", *, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """As a sender by the Standard Webhooks specification has it."""
    moment = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{message_id}.{moment}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-id": message_id, "webhook-timestamp": moment, "webhook-signature": f"v1,{base64.b64encode(mac).decode()}"}


def test_the_published_examples_are_verified() -> None:
    """Those of the Standard Webhooks specification, and of GitHub's documentation."""
    standard = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1a,bm9ldHUjKzFob2VudXRob2VodWUzMjRvdWVvdW9ldQo= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert verified("standard", [secret], standard, b'{"test": 2432232314}', 1_614_265_330) == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    github = {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
    assert verified("github", ["It's a Secret to Everybody"], github, b"Hello, World!", 0) == hashlib.sha256(b"Hello, World!").hexdigest()


BODY = b'{"type": "job"}'
T = int(AT.timestamp())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**signed(BODY, at=T), "webhook-signature": ""},
        {**signed(BODY, at=T), "webhook-id": "msg_2"},
        {**signed(BODY, at=T), "webhook-timestamp": str(T + 1)},
        {**signed(BODY, at=T), "webhook-signature": "v1,\xff\xfe"},
        signed(BODY + b" ", at=T),
        signed(BODY, secret="whsec_" + base64.b64encode(bytes(32)).decode(), at=T),
        signed(BODY, at=T - 301),
        signed(BODY, at=T + 301),
        {"x-hub-signature-256": "sha256=" + hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()},
    ],
    ids=["none", "empty", "other id", "other time", "no text", "other body", "other secret", "old", "early", "other scheme"],
)
def test_what_is_not_signed_now_with_the_secret_is_refused(headers: dict[str, str]) -> None:
    assert verified("standard", [SECRET], signed(BODY, at=T), BODY, T) == "msg_1"
    with pytest.raises(NotSigned):
        verified("standard", [SECRET], headers, BODY, T)


def test_a_hook_that_is_not_there_has_no_secret_that_fits() -> None:
    nobodys = signed(BODY, secret="whsec_" + base64.b64encode(bytes(32)).decode(), at=T)
    with pytest.raises(NotSigned):
        verified("standard", [], nobodys, BODY, T)


# -- over everything real


@dataclass
class Sender:
    """Another system that reports to a hook."""

    aureus: Aureus
    hook_id: str
    secret: str

    async def report(self, document: Any, message_id: str, *, secret: str | None = None, query: str = "") -> httpx.Response:
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        headers = signed(body, message_id, secret=secret or self.secret)
        return await self.aureus.http.post(f"/v1/hooks/{self.hook_id}{query}", content=body, headers=headers)

    async def deliveries(self, **query: str) -> dict[str, tuple[str, str | None]]:
        listed = await self.aureus.get(f"/v1/hooks/{self.hook_id}/deliveries", ADM, **query)
        assert listed.status_code == 200, listed.text
        return {one["delivery_id"]: (one["state"], one["code"]) for one in listed.json()["items"]}

    async def refreshes(self, dataset_id: str = "people") -> int:
        stream = await self.aureus.services.ledger.read_stream("acme", f"dataset:{dataset_id}")
        return sum(recorded.event.event_name == "catalog.dataset_refreshed" for recorded in stream)


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    """One deployment for all of these tests: each has a hook of its own."""
    async with running(shared_database_url, tmp_path_factory.mktemp("aureus")) as opened:
        await opened.know(ADM, ANA, DBT)
        assert (await opened.post("/v1/datasets", {"dataset_id": "people", "name": "People"}, ANA)).status_code == 201
        yield opened


async def hook(aureus: Aureus, hook_id: str, **more: Any) -> Sender:
    wanted = {"hook_id": hook_id, "label": "dbt", "acts_as": DBT.actor, "command": ADD.command, "fields": FIELDS, **more}
    added = await aureus.post("/v1/hooks", wanted, ADM)
    assert added.status_code == 201, added.text
    await aureus.services.wait_for(added.json()["position"])
    assert added.json()["address"] == f"/v1/hooks/{hook_id}"
    return Sender(aureus, hook_id, added.json()["secret"])


def job(dataset_id: str = "people", **more: Any) -> dict[str, Any]:
    """Each ends later than the one before: carried out twice, it would be on record twice."""
    ended = (AT + timedelta(seconds=next(SECONDS))).isoformat()
    return {"eventType": "job.run.completed", "data": {"models": [dataset_id], "finishedAt": ended}, "took": 1.5, **more}


pytestmark = pytest.mark.anyio


async def test_a_report_becomes_one_command_of_the_service(aureus: Aureus) -> None:
    dbt = await hook(aureus, "dbt", only_when={"/eventType": "job.run.completed"})
    before = await dbt.refreshes()
    first = await dbt.report(job(), "msg_1")
    assert (first.status_code, first.json()["state"]) == (200, "done"), first.text
    action = await aureus.services.ledger.read_stream("acme", f"action:{first.json()['action_id']}")
    allowed = action[0].event
    assert isinstance(allowed, ActionAllowed)
    assert (action[0].actor, allowed.intent.reason) == (DBT.actor, "Hook dbt, report msg_1.")
    again = [await dbt.report(job(), "msg_1") for _ in range(2)]
    assert [(each.status_code, each.json()["action_id"]) for each in again] == [(200, first.json()["action_id"])] * 2
    assert await dbt.refreshes() == before + 1, "once, however often it is sent"
    ignored = await dbt.report(job(eventType="job.run.started"), "msg_2")
    assert (ignored.status_code, ignored.json()["state"]) == (200, "ignored")
    assert await dbt.deliveries() == {"msg_1": ("done", None), "msg_2": ("ignored", None)}


async def test_the_same_report_at_the_same_time_to_two_processes_is_one_command(aureus: Aureus) -> None:
    dbt = await hook(aureus, "twice")
    before = await dbt.refreshes()
    async with running(aureus.services.dsn, aureus.services.settings.home, reacting=False) as beside:
        senders = (dbt, Sender(beside, "twice", dbt.secret)) * 3
        answers = await asyncio.gather(*(sender.report(job(), "msg_1") for sender in senders))
    assert {answer.status_code for answer in answers} == {200}
    assert await dbt.refreshes() == before + 1


async def test_what_was_taken_and_not_carried_out_is_carried_out_when_it_comes_again(aureus: Aureus) -> None:
    """As after a kill between the two."""
    dbt = await hook(aureus, "killed")
    before = await dbt.refreshes()
    await aureus.services.hooks.received("acme", "killed", "msg_1", orjson.dumps(job()))
    assert await dbt.deliveries() == {"msg_1": ("received", None)}
    assert (await dbt.report(job(), "msg_1")).json()["state"] == "done"
    assert await dbt.refreshes() == before + 1


async def test_what_fails_is_kept_and_replayed(aureus: Aureus) -> None:
    dbt = await hook(aureus, "failing")
    late = await dbt.report(job("orders"), "msg_1")
    assert (late.status_code, late.json()["state"], late.json()["code"]) == (202, "failed", "dataset_not_found")
    odd = await dbt.report({"eventType": "job"}, "msg_2")
    assert (odd.status_code, odd.json()["code"]) == (202, "pointer_leads_nowhere")
    assert (await dbt.report(b"no JSON", "msg_3")).json()["state"] == "failed"
    failed = {"msg_1": ("failed", "dataset_not_found"), "msg_2": ("failed", "pointer_leads_nowhere")}
    assert failed.items() <= (await dbt.deliveries(state="failed")).items()
    replay = "/v1/hooks/failing/deliveries/{}/replay"
    assert (await aureus.post(replay.format("msg_1"), {}, ANA)).status_code == 403
    assert (await aureus.post(replay.format("msg_1"), {}, ADM)).json()["state"] == "failed", "nothing was mended yet"
    assert (await aureus.post("/v1/datasets", {"dataset_id": "orders", "name": "Orders"}, ANA)).status_code == 201
    mended = await aureus.post(replay.format("msg_1"), {}, ADM)
    assert (mended.status_code, mended.json()["state"]) == (200, "done"), mended.text
    assert await dbt.refreshes("orders") == 1
    twice = await aureus.post(replay.format("msg_1"), {}, ADM)
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "delivery_not_replayable")
    assert (await aureus.post(replay.format("msg_9"), {}, ADM)).json()["error"]["code"] == "delivery_not_found"
    assert (await aureus.get("/v1/hooks/none/deliveries", ADM)).status_code == 404


async def test_nobody_is_told_why_a_report_is_refused(aureus: Aureus) -> None:
    dbt = await hook(aureus, "forged")
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    nowhere = Sender(aureus, "nowhere", other)
    answers = [
        await dbt.report(job(), "msg_1", secret=other),
        await nowhere.report(job(), "msg_1"),
        await dbt.report(job(), "m", query="?tenant=x"),
    ]
    assert {(answer.status_code, answer.json()["error"]["message"]) for answer in answers} == {(401, answers[0].json()["error"]["message"])}
    large = await dbt.report(b" " * 1_048_577, "msg_2")
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    assert await dbt.deliveries() == {}


async def test_a_service_that_may_not_act_reports_nothing(aureus: Aureus) -> None:
    ghost = Asker("svc-ghost", "acme", frozenset({Role.ANALYST}), ActorKind.SERVICE, owner="usr-ana")
    await aureus.know(ghost)
    dbt = await hook(aureus, "ghost", acts_as=ghost.actor)
    suspended = await aureus.post(f"/v1/actors/{ghost.actor}/suspend", {}, ADM)
    await aureus.services.wait_for(suspended.json()["position"])
    assert (await dbt.report(job(), "msg_1")).json()["state"] == "failed"
    assert (await dbt.deliveries())["msg_1"][0] == "failed"


async def test_both_secrets_are_good_while_they_overlap_and_none_after_a_removal(aureus: Aureus) -> None:
    dbt = await hook(aureus, "rotated")
    rotated = await aureus.post("/v1/hooks/rotated/secret", {"overlap": "PT1H"}, ADM)
    assert rotated.status_code == 200, rotated.text
    await aureus.services.wait_for(rotated.json()["position"])
    new = rotated.json()["secret"]
    assert new != dbt.secret
    assert [(await dbt.report(job(), f"msg_{secret[-5:-2]}", secret=secret)).status_code for secret in (dbt.secret, new)] == [200, 200]
    at_once = await aureus.post("/v1/hooks/rotated/secret", {"overlap": "PT0S"}, ADM)
    await aureus.services.wait_for(at_once.json()["position"])
    assert [(await dbt.report(job(), "msg_9", secret=secret)).status_code for secret in (new, dbt.secret)] == [401, 401]
    newest = at_once.json()["secret"]
    assert (await dbt.report(job(), "msg_9", secret=newest)).status_code == 200
    removed = await aureus.post("/v1/hooks/rotated/remove", {}, ADM)
    await aureus.services.wait_for(removed.json()["position"])
    assert (await dbt.report(job(), "msg_10", secret=newest)).status_code == 401
    assert await aureus.services.hooks.secrets.kept("acme", "rotated", 2) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"command": "catalog.no_such"}, "command"),
        ({"fields": {"dataset_id": "/data/id"}}, "fields"),
        ({"fields": {**FIELDS, "colour": "/data/colour"}}, "fields"),
        ({"fields": {**FIELDS, "row_count": "{{ rows }}"}}, "fields.row_count"),
        ({"secret": "whsec_c2hvcnQgYnV0IGxvbmcgZW5vdWdo"}, "secret"),
        ({"scheme": "gitlab"}, "scheme"),
    ],
)
async def test_a_hook_that_could_never_work_is_refused(aureus: Aureus, change: dict[str, Any], field: str) -> None:
    wanted = {"hook_id": "wrong", "label": "dbt", "acts_as": DBT.actor, "command": ADD.command, "fields": FIELDS, **change}
    refused = await aureus.post("/v1/hooks", wanted, ADM)
    assert (refused.status_code, refused.json()["error"]["details"]["field"]) == (422, field), refused.text
    assert (await aureus.post("/v1/hooks", {**wanted, **ADD.model_dump(exclude={"secret_sha256"})}, ANA)).status_code == 403


async def test_no_secret_stands_in_the_ledger_or_in_clear(aureus: Aureus) -> None:
    dbt = await hook(aureus, "sealed", secret=SECRET)
    assert dbt.secret == SECRET
    written = b"".join(event.body for event in await aureus.services.ledger.entries(0, 10_000))
    async with await psycopg.AsyncConnection.connect(aureus.services.dsn) as connection:
        kept = str(await (await connection.execute("SELECT * FROM hooks_private.secrets")).fetchall()).encode()
    assert SECRET.encode() not in written + kept
    assert SHA.encode() in written
