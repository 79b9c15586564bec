"""Sealed packs: the same bytes whoever seals them and whenever, kept by their hash, free of personal data, and never given out changed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import rfc8785

from commands.access import RegisterActor
from domain.kernel import Asker, JsonObject
from domain.values import Role
from infra.read_tables import LIVE, schema_name
from tests.support.kernel import ADM, ANA, APP, ask
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio

AUD = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
VIEWER = Asker("usr-vie", "acme", frozenset({Role.VIEWER}))
STRANGER = Asker("usr-str", "another", frozenset({Role.ADMIN}))
ADA = {"actor_id": "usr-ada", "kind": "person", "granted_roles": ["analyst"], "display_name": "Ada Lovelace"}


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path) as opened:
        await opened.know(ADM, ANA, APP, AUD, VIEWER)
        yield opened


async def done(aureus: Aureus, path: str, body: JsonObject, by: Asker, status: int = 201, **headers: str) -> JsonObject:
    answer = await aureus.post(path, body, by, **headers)
    assert answer.status_code == status, answer.text
    told: JsonObject = answer.json()
    return told


async def a_budget(aureus: Aureus, currency: str = "EUR") -> JsonObject:
    body = {"budget_id": currency.lower(), "label": "Lake", "currency": currency, "limit_minor": 1_000}
    return await done(aureus, "/v1/budgets", body, ADM, Aureus_Reason="The lake needs money")


async def sealed(aureus: Aureus, action_id: str, by: Asker = AUD) -> JsonObject:
    return await done(aureus, f"/v1/evidence/{action_id}/seal", {}, by)


async def pack(aureus: Aureus, action_id: str, form: str, **parameters: Any) -> httpx.Response:
    return await aureus.get(f"/v1/evidence/{action_id}", AUD, format=form, **parameters)


def hashed(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return hashlib.sha256(answer.content).hexdigest()


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def kept_file(home: Path, sha256: str) -> Path:
    return home / "blobs" / sha256[:2] / sha256


async def test_a_pack_is_sealed_at_once_and_read_as_it_was_sealed(aureus: Aureus) -> None:
    opened = await a_budget(aureus)
    answer = await sealed(aureus, opened["action_id"])
    (event,) = answer["events"]
    assert (event["type"], event["data"]["position"]) == ("evidence.pack_sealed", opened["position"])
    as_json = await pack(aureus, opened["action_id"], "json", at_least=answer["position"])
    as_markdown = await pack(aureus, opened["action_id"], "markdown")
    assert (hashed(as_json), hashed(as_markdown)) == (answer["json_sha256"], answer["markdown_sha256"])
    assert (len(as_json.content), len(as_markdown.content)) == (answer["json_bytes"], answer["markdown_bytes"])
    assert (as_json.headers["etag"], as_json.headers["content-type"]) == (f'"{answer["json_sha256"]}"', "application/json")
    assert as_json.json()["reason"] == "The lake needs money"
    assert as_json.content == rfc8785.dumps(as_json.json())
    assert as_markdown.text.startswith(f"# Evidence of action {opened['action_id']}\n")


async def test_what_is_sealed_is_listed(aureus: Aureus) -> None:
    opened = await a_budget(aureus)
    answer = await sealed(aureus, opened["action_id"])
    row = (await aureus.get(f"/v1/packs/{opened['action_id']}", AUD, at_least=answer["position"])).json()
    assert (row["json_sha256"], row["position"], row["sealed_by"]) == (answer["json_sha256"], opened["position"], "usr-aud")
    assert [found["action_id"] for found in (await aureus.get("/v1/packs", AUD)).json()["items"]] == [opened["action_id"]]


async def test_sealing_twice_changes_nothing_and_anybody_can_write_the_same_pack(aureus: Aureus) -> None:
    opened = await a_budget(aureus)
    unsealed = await pack(aureus, opened["action_id"], "json", at_least=opened["position"])
    first, again = await sealed(aureus, opened["action_id"]), await sealed(aureus, opened["action_id"], ADM)
    assert hashed(unsealed) == first["json_sha256"] == again["json_sha256"]
    assert (again["events"], again["version"]) == ([], 1)
    before = await pack(aureus, opened["action_id"], "markdown", as_of=opened["position"])
    assert hashed(before) == first["markdown_sha256"]


async def test_what_happens_after_the_action_is_no_part_of_its_pack(aureus: Aureus) -> None:
    await a_budget(aureus, "CHF")
    reserve = "/v1/budgets/chf/reserve"
    parked = await done(aureus, reserve, {"amount_minor": 100}, ANA, 202)
    first = await sealed(aureus, parked["action_id"])
    await done(aureus, f"/v1/approvals/{parked['approval_id']}/approve", {}, APP, 200)
    used = await done(aureus, reserve, {"amount_minor": 100}, ANA, Aureus_Approval=parked["approval_id"])
    assert (await sealed(aureus, parked["action_id"]))["json_sha256"] == first["json_sha256"]
    then = (await pack(aureus, parked["action_id"], "json", at_least=used["position"])).json()
    assert (then["outcome"], then["approval"]["decisions"]) == ("requires_approval", [])
    allowed = await sealed(aureus, used["action_id"])
    now = (await pack(aureus, used["action_id"], "json", at_least=allowed["position"])).json()
    assert [(decision["approver"], decision["decision"]) for decision in now["approval"]["decisions"]] == [("usr-app", "agreed")]
    assert now["approval"]["status"] == "used"


async def test_no_personal_data_is_sealed(aureus: Aureus, database_url: str, tmp_path: Path) -> None:
    registered = await done(aureus, "/v1/actors", ADA, ADM)
    with psycopg.connect(database_url) as owner:
        kept = owner.execute("SELECT position FROM vault.disclosures WHERE subject = 'usr-ada'").fetchall()
    assert [position for (position,) in kept] == [registered["events"][0]["position"]]
    answer = await sealed(aureus, registered["action_id"])
    for form in ("json", "markdown"):
        content = kept_file(tmp_path, answer[f"{form}_sha256"]).read_bytes()
        assert b"usr-ada" in content
        assert b"Lovelace" not in content


@pytest.mark.parametrize("form", ["json", "markdown"])
async def test_a_pack_that_was_changed_or_lost_is_not_given_out_and_sealing_again_mends_it(
    aureus: Aureus, tmp_path: Path, form: str
) -> None:
    opened = await a_budget(aureus)
    answer = await sealed(aureus, opened["action_id"])
    await aureus.services.wait_for(answer["position"])
    file = kept_file(tmp_path, answer[f"{form}_sha256"])
    file.write_bytes(file.read_bytes().replace(b"usr-adm", b"usr-ana"))
    assert refused(await pack(aureus, opened["action_id"], form)) == (500, "artifact_tampered")
    file.unlink()
    assert refused(await pack(aureus, opened["action_id"], form)) == (500, "artifact_lost")
    await sealed(aureus, opened["action_id"])
    assert hashed(await pack(aureus, opened["action_id"], form)) == answer[f"{form}_sha256"]


async def test_read_models_that_were_changed_show_when_a_pack_is_sealed_again(aureus: Aureus, database_url: str) -> None:
    opened = await a_budget(aureus)
    answer = await sealed(aureus, opened["action_id"])
    with psycopg.connect(database_url, autocommit=True) as owner:
        table = psycopg.sql.Identifier(schema_name("evidence", LIVE), "actions")
        forge = psycopg.sql.SQL("UPDATE {} SET doc = jsonb_set(doc, '{{actor,userId}}', '\"usr-ana\"') WHERE id = %s").format(table)
        owner.execute(forge, (opened["action_id"],))
    again = await aureus.post(f"/v1/evidence/{opened['action_id']}/seal", {}, AUD)
    assert refused(again) == (409, "pack_sealed_differently")
    assert again.json()["error"]["details"]["sealed"]["json_sha256"] == answer["json_sha256"]
    assert (await pack(aureus, opened["action_id"], "json", at_least=answer["position"])).json()["actor"] == "usr-adm"


async def test_who_may_seal_and_what(aureus: Aureus) -> None:
    opened = await a_budget(aureus)
    where = f"/v1/evidence/{opened['action_id']}/seal"
    assert refused(await aureus.post(where, {}, VIEWER)) == (403, "role_missing")
    command = RegisterActor(actor_id=STRANGER.actor, kind=STRANGER.kind, granted_roles=(Role.ADMIN,))
    await aureus.services.wait_for((await aureus.services.path.handle(ask(command, STRANGER))).position)
    assert refused(await aureus.post(where, {}, STRANGER)) == (404, "evidence_not_found")
    assert refused(await aureus.post("/v1/evidence/no-such-action/seal", {}, AUD)) == (404, "evidence_not_found")
    assert refused(await aureus.post("/v1/evidence/a%20b/seal", {}, AUD)) == (422, "validation_failed")


async def test_a_refused_action_is_sealed_like_any_other(aureus: Aureus) -> None:
    await a_budget(aureus)
    answer = await aureus.post("/v1/budgets/eur/reserve", {"amount_minor": 5_000}, ANA)
    action_id = answer.json()["error"]["details"]["action_id"]
    position = (await sealed(aureus, action_id))["position"]
    document = (await pack(aureus, action_id, "markdown", at_least=position)).text
    assert "was **blocked**" in document
