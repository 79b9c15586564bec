"""Keys over REST and on the command line: who may let which in, what everybody can read, and the server's own keys in turn."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from commands.access import RegisterActor
from domain.kernel import Asker
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRing, KeyRole, ring_of
from domain.values import Role
from infra.checkpoint import verifier_key
from infra.envelope import unpack_signatures
from infra.key_files import FileSigner, read_key
from infra.keystore import take_root_offline
from tests.support.kernel import ADM, ANA, APP, ask, opened
from tests.support.keys import adding, lines, new_key, rotating
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
RULES = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "four_eyes", "outcome": "require_approval", "reason": "The log key takes two."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.facts.key_role == "log"
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
"""Everything is allowed, but whoever changes the log key needs an approver."""


ADA = replace(ADM, actor="usr-ada")
"""An administrator whom the read models know."""


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path / "home", RULES) as started:
        await started.know(ANA, APP, ADA)
        yield started


async def ring_in(aureus: Aureus) -> KeyRing:
    return ring_of(recorded.event for recorded in await aureus.services.ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))


async def add(aureus: Aureus, key: FileSigner, by: Asker) -> httpx.Response:
    return await aureus.post("/v1/keys", adding(aureus.services.ledger.name, key).model_dump(exclude_none=True), by)


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def test_a_server_with_the_root_key_lets_in_its_actors_keys_and_an_administrators_witnesses(aureus: Aureus) -> None:
    added = await add(aureus, new_key(), ANA)
    assert added.status_code == 201, added.text
    (event,) = added.json()["events"]
    (root,) = (await ring_in(aureus)).active("root")
    assert (event["data"]["authorised_by"], event["data"]["holder"]) == (root.key_id, "acme/usr-ana")
    assert (await add(aureus, new_key("witness", "witness.example.org/north"), ADA)).status_code == 201
    for key, by in ((new_key("witness", "witness.example.org/south"), APP), (new_key("actor", "acme/usr-ana"), ADA)):
        refused = await add(aureus, key, by)
        assert (refused.status_code, code_of(refused)) == (409, "key_of_another"), refused.text


async def test_everybody_reads_the_ledgers_keys_filtered_and_as_of_then(aureus: Aureus) -> None:
    key = new_key()
    position = (await add(aureus, key, ANA)).json()["position"]
    await aureus.services.wait_for(position)
    rows = (await aureus.get("/v1/keys", APP, sort="added_position")).json()["items"]
    assert [(row["role"], row["custody"], row["holder"], row["added_position"]) for row in rows] == [
        ("root", "server", None, 1),
        ("log", "server", None, 2),
        ("service", "server", None, 3),
        ("actor", "client", "acme/usr-ana", position - 1),
    ]
    for filters in ({"role": "actor"}, {"holder": "acme/usr-ana"}, {"custody": "client"}):
        assert [row["key_id"] for row in (await aureus.get("/v1/keys", APP, **filters)).json()["items"]] == [key.key_id]
    assert (await aureus.get("/v1/keys", APP, status="revoked")).json()["items"] == []
    assert len((await aureus.get("/v1/keys", APP, as_of=3)).json()["items"]) == 3
    shown = await aureus.get(f"/v1/keys/{key.key_id}", APP)
    assert (shown.json()["added_by"], shown.headers["etag"].partition("-")[0]) == ("usr-ana", '"4')
    assert (await aureus.get(f"/v1/keys/{'0' * 64}", APP)).status_code == 404


async def test_people_of_every_tenant_read_them_for_they_are_the_ledgers(aureus: Aureus) -> None:
    eve = Asker("usr-eve", "other", frozenset({Role.VIEWER}))
    registering = RegisterActor(actor_id=eve.actor, kind=eve.kind, granted_roles=tuple(eve.roles))
    await aureus.services.wait_for((await aureus.services.path.handle(ask(registering, replace(ADM, tenant="other")))).position)
    page = (await aureus.get("/v1/keys", eve, sort="added_position")).json()
    assert [row["role"] for row in page["items"]] == ["root", "log", "service"]


async def test_an_offline_root_has_to_be_asked_and_the_answer_says_for_what(database_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running(database_url, home, RULES) as started:
        await started.know(ANA, ADA)
    root = take_root_offline(home / "keys", tmp_path / "root.key")
    async with running(database_url, home, RULES) as aureus:
        name, key = aureus.services.ledger.name, new_key()
        details = (await add(aureus, key, ANA)).json()["error"]["details"]
        assert details["root_keys"] == [root.key_id]
        assert details["sign"].encode() == adding(name, key).authorisation_statement(name)
        assert "aureus keys authorise" in details["remedy"]
        given = adding(name, key, read_key(tmp_path / "root.key", "root")).model_dump(exclude_none=True)
        assert (await aureus.post("/v1/keys", given, ANA)).status_code == 201
        rotated = await aureus.post("/v1/keys/server/root/rotate", {}, ADA)
        assert (rotated.status_code, code_of(rotated)) == (409, "key_not_here")
        # Its keeper rotates it, and from then on the other one authorises.
        new_root = replace(new_key("root", None), custody="client")
        handing_on = rotating(name, root, new_root).model_dump()
        answer = await aureus.post(f"/v1/keys/{handing_on.pop('old_key_id')}/rotate", handing_on, ADA)
        assert answer.status_code == 200, answer.text
        for keeper, status in ((root, 409), (new_root, 201)):
            request = adding(name, new_key(holder="acme/usr-ada"), keeper).model_dump(exclude_none=True)
            assert (await aureus.post("/v1/keys", request, ADA)).status_code == status


async def test_what_is_still_to_come_cannot_be_disputed(aureus: Aureus) -> None:
    key = new_key()
    position = (await add(aureus, key, ANA)).json()["position"]
    for since in (position + 1, 0):
        early = await aureus.post(f"/v1/keys/{key.key_id}/revoke", {"reason": "stolen", "compromised_since": since}, ADA)
        assert (early.status_code, early.json()["error"]["details"]["field"]) == (422, "compromised_since"), early.text
    revoked = await aureus.post(f"/v1/keys/{key.key_id}/revoke", {"reason": "stolen", "compromised_since": position}, ADA)
    await aureus.services.wait_for(revoked.json()["position"])
    row = (await aureus.get(f"/v1/keys/{key.key_id}", ANA)).json()
    assert (row["status"], row["compromised_since"], row["reason"]) == ("revoked", position, "stolen")


@pytest.mark.parametrize("role", ["service", "root"])
async def test_the_servers_own_key_is_rotated_while_it_writes(aureus: Aureus, role: KeyRole) -> None:
    (old,) = (await ring_in(aureus)).active(role)
    answer = await aureus.post(f"/v1/keys/server/{role}/rotate", {}, ADA)
    assert answer.status_code == 200, answer.text
    (new,) = (await ring_in(aureus)).active(role)
    assert answer.json()["events"][0]["data"]["old_key_id"] == old.key_id != new.key_id
    after = await add(aureus, new_key(), ANA)
    assert after.status_code == 201, after.text
    stored = (await aureus.services.ledger.entries(after.json()["position"] - 1, 1))[0]
    if role == "service":
        assert unpack_signatures(stored.signatures)[0][0] == new.key_id
    else:
        assert after.json()["events"][0]["data"]["authorised_by"] == new.key_id
    assert read_key(aureus.services.keystore.folder / f"{role}.key", role).key_id == new.key_id
    revoked = await aureus.post(f"/v1/keys/{old.key_id}/revoke", {"reason": "copied", "compromised_since": 3}, ADA)
    assert revoked.status_code == (200 if role == "service" else 409), revoked.text
    in_force = await aureus.post(f"/v1/keys/{new.key_id}/revoke", {"reason": "copied"}, ADA)
    assert code_of(in_force) == ("key_in_use" if role == "service" else "root_not_revocable")


async def test_a_rotation_that_waits_for_an_approval_takes_the_same_key_when_it_comes(aureus: Aureus) -> None:
    name, old = aureus.services.ledger.name, aureus.services.keystore.log
    parked = await aureus.post("/v1/keys/server/log/rotate", {}, ADA)
    assert parked.status_code == 202, parked.text
    approval = parked.json()["approval_id"]
    assert (await aureus.post(f"/v1/approvals/{approval}/approve", {}, APP)).status_code == 200
    assert aureus.services.ledger.sealer.signers.log.key_id == old.key_id
    done = await aureus.post("/v1/keys/server/log/rotate", {}, ADA, **{"Aureus-Approval": approval})
    assert done.status_code == 200, done.text
    (new,) = (await ring_in(aureus)).active("log")
    told = (await aureus.http.get("/v1/ledger/keys")).json()
    assert told["log_verifier_key"] == verifier_key(name, base64.b64decode(new.public)) != verifier_key(name, old.public)
    note = (await aureus.http.get("/v1/ledger/checkpoint")).content
    assert opened(note, name, base64.b64decode(new.public)).size == done.json()["position"]


async def test_the_root_key_that_is_told_is_the_one_the_ledger_was_founded_with(aureus: Aureus) -> None:
    """Whoever verifies begins with that one, and learns of its successors from the ledger."""
    founding = (await aureus.http.get("/v1/ledger/keys")).json()["root_key_id"]
    assert (await aureus.post("/v1/keys/server/root/rotate", {}, ADA)).status_code == 200
    assert (await aureus.http.get("/v1/ledger/keys")).json()["root_key_id"] == founding
    assert (await ring_in(aureus)).active("root")[0].key_id != founding


async def test_who_is_no_administrator_rotates_nothing_of_the_servers(aureus: Aureus) -> None:
    for role, status in (("service", 403), ("vault", 422)):
        answer = await aureus.post(f"/v1/keys/server/{role}/rotate", {}, APP if role == "service" else ADA)
        assert answer.status_code == status, answer.text
    assert [key.status for key in (await ring_in(aureus)).keys.values()] == ["active"] * 3


async def test_a_server_that_was_started_again_signs_with_its_new_keys(database_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running(database_url, home, RULES) as aureus:
        await aureus.know(ANA, ADA)
        for role in ("service", "root"):
            assert (await aureus.post(f"/v1/keys/server/{role}/rotate", {}, ADA)).status_code == 200
    async with running(database_url, home, RULES) as again:
        ring = await ring_in(again)
        assert again.services.ledger.sealer.signers.service.key_id == ring.active("service")[0].key_id
        added = await add(again, new_key(), ANA)
        assert added.json()["events"][0]["data"]["authorised_by"] == ring.active("root")[0].key_id


async def test_an_administrator_at_the_command_line_rotates_shows_and_revokes(aureus: Aureus, tmp_path: Path) -> None:
    old = aureus.services.keystore.service.key_id
    async with lines(aureus, tmp_path / "cli", ADA) as line:
        assert "is the service key from here on" in await line("keys", "rotate-server", "service")
        rows = (await line.json("keys", "list", "--role", "service"))["items"]
        assert [(row["status"], row["replaces"]) for row in rows] == [("rotated", None), ("active", old)]
        assert "key_in_use" in await line("keys", "revoke", rows[1]["key_id"], "--because", "copied", exit_code=4)
        await line("keys", "revoke", old, "--because", "copied", "--compromised-since", "4")
        shown = await line("keys", "show", old[:12])
        assert "revoked" in shown
        assert "copied" in shown
        assert "No keys" in await line("keys", "show", "g", exit_code=5)
        assert "key_not_found" in await line("keys", "revoke", "", "--because", "copied", exit_code=5)
