"""Seeing personal values: masked by default, shown under somebody else's grant and on record first; and rotating what wraps their keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands.access import RegisterActor
from commands.vault import GRANTS, WRAPPING, GrantUnmasking, RecordRewrap, RotateKeyEncryptionKey
from domain.access import Actor, Registration
from domain.kernel import Asker
from domain.values import ActorKind, Role, uuid7
from domain.vault import KeyEncryptionKeyRotated, UnmaskingGranted
from infra.ledger import Ledger
from infra.postgres_store import PostgresStore
from tests.given import ADMIN, given
from tests.support.kernel import ADM, ANA, APP, BEN, ask
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
AUD = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
ZOE = "usr-zoe"
NAME = "Zoe Quillfeather"
REGO = """package aureus

import rego.v1

verdict := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""


def soon(hours: float = 1) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def grant(**fields: Any) -> dict[str, Any]:
    known = {"grant_id": f"grt-{uuid7().hex}", "actor_id": ANA.actor, "purposes": ["governance"], "until": soon(), "reason": "Ticket 17"}
    return {**known, **({} if "all_subjects" in fields else {"subject_id": ZOE}), **fields}


def disclosure(**fields: Any) -> dict[str, Any]:
    return {"disclosure_id": f"dsc-{uuid7().hex}", "purposes": ["governance"], "reason": "Ticket 17", **fields}


def refusal(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["details"].get("field")


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    """One Aureus for the tests that leave its keys alone, where Zoe is registered with her name."""
    async with running(shared_database_url, tmp_path_factory.mktemp("home"), REGO) as aureus:
        await aureus.know(ADM, ANA, BEN, APP, AUD)
        registered = await aureus.services.path.handle(ask(zoe(), ADM))
        await aureus.services.wait_for(registered.position)
        yield aureus


def zoe(actor_id: str = ZOE, name: str | None = NAME) -> RegisterActor:
    return RegisterActor(actor_id=actor_id, kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name=name)


async def granted(aureus: Aureus, by: Asker = APP, **fields: Any) -> str:
    body = grant(**fields)
    response = await aureus.post("/v1/unmasking-grants", body, by)
    assert response.status_code == 201, response.text
    return str(body["grant_id"])


async def test_values_on_record_are_masked_for_whoever_oversees_and_for_oneself(aureus: Aureus) -> None:
    herself = Asker(ZOE, "acme", frozenset({Role.VIEWER}))
    for by in (AUD, ADM, herself):
        response = await aureus.get(f"/v1/subjects/{ZOE}/values", by)
        (value,) = response.json()["items"]
        assert (value["name"], value["state"], value["masked"]) == ("display_name", "open", "Z** Q***********")
        assert "Quillfeather" not in response.text
    assert refusal(await aureus.get(f"/v1/subjects/{ZOE}/values", ANA))[:2] == (403, "role_missing")
    assert refusal(await aureus.get("/v1/subjects/nobody/values", AUD)) == (404, "subject_not_found", "subject_id")
    position = (await aureus.get(f"/v1/subjects/{ZOE}/values", AUD)).json()["items"][0]["position"]
    before = await aureus.get(f"/v1/subjects/{ZOE}/values", AUD, as_of=position - 1)
    assert refusal(before)[:2] == (404, "subject_not_found")
    assert (await aureus.get(f"/v1/subjects/{ZOE}/values", AUD, as_of=position)).status_code == 200


async def test_under_a_grant_values_are_shown_and_that_is_on_record_without_them(aureus: Aureus) -> None:
    grant_id = await granted(aureus)
    body = disclosure()
    response = await aureus.post(f"/v1/subjects/{ZOE}/disclose", body, ANA)
    assert response.status_code == 200, response.text
    (value,) = response.json()["values"]
    assert (value["name"], value["value"], value["state"]) == ("display_name", NAME, "open")
    (event,) = response.json()["events"]
    assert (event["type"], event["data"]["grant_id"], event["data"]["disclosed_to"]) == ("vault.values_disclosed", grant_id, ANA.actor)
    assert event["data"]["fields"] == [{"position": value["position"], "name": "display_name"}]
    assert "Quillfeather" not in str(response.json()["events"])
    await aureus.services.wait_for(response.json()["position"])
    row = (await aureus.get(f"/v1/disclosures/{body['disclosure_id']}", ANA)).json()
    assert (row["subject_id"], row["disclosed_to"], row["reason"]) == (ZOE, ANA.actor, "Ticket 17")
    assert refusal(await aureus.get(f"/v1/disclosures/{body['disclosure_id']}", BEN))[0] in {403, 404}
    again = await aureus.post(f"/v1/subjects/{ZOE}/disclose", body, ANA)
    assert refusal(again) == (409, "disclosure_exists", "disclosure_id")


async def test_a_repeated_request_is_not_answered_with_values_again(aureus: Aureus) -> None:
    grant_id = await granted(aureus)
    body = disclosure(grant_id=grant_id)
    first = await aureus.post(f"/v1/subjects/{ZOE}/disclose", body, ANA, Idempotency_Key="once")
    assert first.json()["values"][0]["value"] == NAME
    second = await aureus.post(f"/v1/subjects/{ZOE}/disclose", body, ANA, Idempotency_Key="once")
    assert refusal(second) == (409, "disclosed_already", "Idempotency-Key")
    assert "Quillfeather" not in second.text


async def test_without_a_grant_that_covers_it_nothing_is_shown(aureus: Aureus) -> None:
    async def refused(by: Asker, subject: str = ZOE, **fields: Any) -> tuple[int, str, str | None]:
        response = await aureus.post(f"/v1/subjects/{subject}/disclose", disclosure(**fields), by)
        assert "Quillfeather" not in response.text
        return refusal(response)

    assert await refused(BEN) == (409, "unmasking_not_granted", "grant_id")
    of_ana = await granted(aureus)
    assert await refused(BEN, grant_id=of_ana) == (409, "unmasking_not_granted", "grant_id")
    assert await refused(BEN, grant_id="grt-unknown") == (409, "unmasking_not_granted", "grant_id")
    other = await granted(aureus, actor_id=BEN.actor, subject_id="usr-other")
    assert await refused(BEN, grant_id=other) == (409, "grant_covers_less", "subject_id")
    fields = await granted(aureus, actor_id=BEN.actor, fields=["contact_name"])
    assert await refused(BEN, grant_id=fields) == (404, "values_not_found", "subject_id")
    await aureus.services.path.handle(ask(zoe("usr-plain", None), ADM))
    everybody = await granted(aureus, actor_id=BEN.actor, all_subjects=True)
    assert await refused(BEN, subject="usr-plain", grant_id=everybody) == (404, "values_not_found", "subject_id")
    assert await refused(BEN, subject="nobody", grant_id=everybody) == (404, "values_not_found", "subject_id")
    known = [{"position": 4, "name": "display_name"}]
    assert await refused(BEN, grant_id=everybody, fields=known) == (404, "field_not_found", "fields.0")
    assert await refused(BEN, grant_id=everybody, purposes=["marketing"]) == (409, "grant_covers_less", "purposes")
    agent = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=ANA.actor)
    assert (await refused(agent))[0] in {401, 403}
    response = await aureus.post(f"/v1/unmasking-grants/{everybody}/revoke", {"reason": "Done"}, APP)
    assert response.status_code == 200
    assert await refused(BEN, grant_id=everybody) == (409, "grant_revoked", "grant_id")
    short = await granted(aureus, actor_id=BEN.actor, until=soon(0.0005))
    await asyncio.sleep(2)
    assert await refused(BEN, grant_id=short) == (409, "grant_expired", "grant_id")


@pytest.mark.parametrize(
    ("fields", "by", "expected"),
    [
        ({"actor_id": APP.actor}, APP, (409, "grant_to_oneself", "actor_id")),
        ({"actor_id": "usr-nobody"}, APP, (404, "actor_not_found", "actor_id")),
        ({"until": "2026-01-01T00:00:00Z"}, APP, (409, "grant_expired", "until")),
        ({"purposes": ["astrology"]}, APP, (404, "purpose_not_found", "purposes")),
        ({"purposes": []}, APP, (422, "validation_failed", "purposes")),
        ({"fields": ["shoe_size"]}, APP, (404, "field_not_found", "fields")),
        ({"subject_id": ZOE, "all_subjects": True}, APP, (409, "grant_of_whom", "subject_id")),
        ({"all_subjects": False}, APP, (409, "grant_of_whom", "subject_id")),
        ({"reason": ""}, APP, (422, "validation_failed", "reason")),
        ({}, ANA, (403, "role_missing", None)),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(aureus: Aureus, fields: Any, by: Asker, expected: Any) -> None:
    assert refusal(await aureus.post("/v1/unmasking-grants", grant(**fields), by)) == expected


async def test_grants_are_taken_away_once(aureus: Aureus) -> None:
    grant_id = await granted(aureus)
    assert refusal(await aureus.post(f"/v1/unmasking-grants/{grant_id}/revoke", {"reason": "x"}, ANA))[0] == 403
    assert (await aureus.post(f"/v1/unmasking-grants/{grant_id}/revoke", {"reason": "x"}, ADM)).status_code == 200
    assert refusal(await aureus.post(f"/v1/unmasking-grants/{grant_id}/revoke", {"reason": "x"}, ADM))[1] == "grant_revoked"
    assert refusal(await aureus.post("/v1/unmasking-grants/grt-none/revoke", {"reason": "x"}, ADM))[:2] == (404, "grant_not_found")
    mine = (await aureus.get("/v1/unmasking-grants", ANA)).json()["items"]
    assert grant_id in {row["grant_id"] for row in mine}
    assert refusal(await aureus.get("/v1/unmasking-grants", BEN, actor_id=ANA.actor))[0] == 403
    assert {row["actor_id"] for row in (await aureus.get("/v1/unmasking-grants", AUD)).json()["items"]} > {BEN.actor}
    assert (await aureus.get("/v1/unmasking-grants", BEN)).json()["items"] == (
        await aureus.get("/v1/unmasking-grants", AUD, actor_id=BEN.actor)
    ).json()["items"]


async def test_what_was_swapped_in_the_vault_is_shown_to_nobody(aureus: Aureus) -> None:
    first = await aureus.services.path.handle(ask(zoe("usr-yves", "Yves One"), ADM))
    grant_id = await granted(aureus, subject_id="usr-yves")
    with psycopg.connect(aureus.services.dsn, autocommit=True) as owner:
        forged = "SELECT position FROM vault.disclosures WHERE subject = 'usr-yves'"
        assert owner.execute(forged).fetchall() == [(first.events[0]["position"],)]
        changed = "UPDATE vault.disclosures SET sealed = set_byte(sealed, 30, get_byte(sealed, 30) # 1) WHERE subject = 'usr-yves'"
        owner.execute(changed)
        try:
            response = await aureus.post("/v1/subjects/usr-yves/disclose", disclosure(grant_id=grant_id), ANA)
            (value,) = response.json()["values"]
            assert (value["state"], value["value"]) == ("damaged", None)
            accounts = (await aureus.get("/v1/vault/accounting", AUD)).json()
            (problem,) = accounts["problems"]
            assert (problem["subject"], problem["state"], accounts["whole"]) == ("usr-yves", "damaged", False)
            everything = await aureus.get("/v1/vault/accounting", AUD, **{"from": problem["position"]})
            assert everything.json()["whole"] is True
        finally:
            owner.execute(changed)
    assert (await aureus.get("/v1/vault/accounting", AUD)).json()["whole"] is True


async def test_accounting_names_what_it_cannot_account_for(aureus: Aureus) -> None:
    assert refusal(await aureus.get("/v1/vault/accounting", AUD, to=10**9)) == (422, "invalid_parameter", "to")
    assert refusal(await aureus.get("/v1/vault/accounting", AUD, **{"from": 5, "to": 3})) == (422, "invalid_parameter", "from")
    assert refusal(await aureus.get("/v1/vault/accounting", ANA))[0] == 403


async def test_nothing_is_recorded_about_somebody_erased_and_the_refusal_is_on_record(aureus: Aureus) -> None:
    services = aureus.services
    await services.path.handle(ask(zoe("usr-gone", "Gone Girl"), ADM))
    grant_id = await granted(aureus, subject_id="usr-gone")
    await services.vault.vault.erase(services.vault.pool, "acme", "usr-gone", None, 1)
    try:
        shown = await aureus.post("/v1/subjects/usr-gone/disclose", disclosure(grant_id=grant_id), ANA)
        assert refusal(shown) == (404, "values_not_found", "subject_id")
        await aureus.post("/v1/datasets", {"dataset_id": "d", "name": "D"}, ADM)
        await aureus.post("/v1/datasets/d/owners", {"owner_id": "usr-gone"}, ADM)
        response = await aureus.post("/v1/datasets/d/owners/usr-gone/contact", {"contact_name": "Gone Girl"}, ADM)
        assert refusal(response) == (409, "subject_erased", "contact_name"), response.text
        blocked = await services.ledger.read_stream("acme", f"action:{response.json()['error']['details']['action_id']}")
        assert blocked[0].event.event_name == "actions.action_blocked"
        assert "Gone" not in str(blocked[0].event)
    finally:
        with psycopg.connect(services.dsn, autocommit=True) as owner:
            owner.execute("DELETE FROM vault.erased")


# -- rotation


async def test_a_rotation_wraps_everything_again_while_commands_go_on(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, REGO) as aureus:
        await aureus.know(ADM, ANA)
        store = aureus.services.ledger.store
        assert isinstance(store, PostgresStore)
        positions = await registered(aureus, 30)
        secret = await aureus.services.webhooks.secret("acme", "siem")
        before = (await aureus.get("/v1/vault", ADM)).json()
        (only,) = before["keks"]
        assert (only["kek"], only["wraps"], only["here"], only["keys"]) == (before["wrapping"], True, True, 31)
        rotated = await aureus.post("/v1/vault/rotate-key", {}, ADM)
        assert rotated.status_code == 200, rotated.text
        kek = rotated.json()["events"][0]["data"]["kek"]
        assert (tmp_path / "keys" / f"vault-{kek}.key").stat().st_mode & 0o777 == 0o600
        positions += await registered(aureus, 10, "later")
        after = await eventually(aureus, lambda status: not status["rewrapping"])
        assert {row["kek"]: (row["keys"], row["wraps"]) for row in after["keks"]} == {before["wrapping"]: (0, False), kek: (41, True)}
        for number, position in enumerate(positions[:3]):
            assert await store.vault.open(store.pool, "acme", position) == {"display_name": f"Person {number}"}
        (row,) = (await aureus.get("/v1/vault/keys", ADM)).json()["items"]
        assert (row["status"], row["keys"], row["previous"], row["damaged"]) == ("rewrapped", 41, before["wrapping"], 0)
        assert refusal(await aureus.post("/v1/vault/rotate-key", {}, ANA))[:2] == (403, "role_missing")
        assert refusal(await aureus.post("/v1/vault/rotate-key", {"kek": "0" * 16}, ADM))[:2] == (422, "validation_failed")
        known = await aureus.post("/v1/vault/rotate-key", {"kek": before["wrapping"]}, ADM)
        assert refusal(known)[:2] == (409, "key_encryption_key_known")
        assert (await aureus.get("/v1/vault/accounting", ADM)).json()["whole"] is True
        assert await aureus.services.webhooks.secrets.counts() == {kek: 1}
    (tmp_path / "keys" / "vault.key").unlink()
    async with running(database_url, tmp_path, REGO) as aureus:
        assert await aureus.services.webhooks.secret("acme", "siem") == secret
        store = aureus.services.ledger.store
        assert isinstance(store, PostgresStore)
        assert await store.vault.open(store.pool, "acme", positions[-1]) == {"display_name": "Person 9"}


async def test_a_rotation_goes_on_where_it_was_after_a_crash(database_url: str, tmp_path: Path) -> None:
    """Without what runs in the background, the rotation is on record and nothing is wrapped yet: as if killed right after it."""
    async with running(database_url, tmp_path, REGO, reacting=False) as aureus:
        ledger, keys, pool = aureus.services.ledger, aureus.services.vault.vault.keys, aureus.services.vault.pool
        await aureus.services.path.handle(ask(zoe(), ADM))
        old = await keys.wrapping(pool)
        kek = keys.keks.prepare({old})
        outcome = await aureus.services.path.handle(ask(RotateKeyEncryptionKey(kek=kek, previous=old), ADM))
        assert outcome.outcome == "allowed"
        assert set(await keys.counts(pool)) == {old}
        assert isinstance(ledger, Ledger)
    async with running(database_url, tmp_path, REGO) as aureus:
        await aureus.know(AUD)
        status = await eventually(aureus, lambda status: not status["rewrapping"], AUD)
        assert status["wrapping"] == kek
        assert {row["kek"] for row in status["keks"] if row["keys"]} == {kek}


async def registered(aureus: Aureus, number: int, prefix: str = "person") -> list[int]:
    registers = (zoe(f"usr-{prefix}-{each}", f"Person {each}") for each in range(number))
    outcomes = await asyncio.gather(*(aureus.services.path.handle(ask(command, ADM)) for command in registers))
    return [outcome.events[0]["position"] for outcome in outcomes]


async def eventually(aureus: Aureus, holds: Any, by: Asker = ADM) -> dict[str, Any]:
    status: dict[str, Any] = {}
    for _ in range(300):
        status = (await aureus.get("/v1/vault", by)).json()
        if holds(status):
            break
        await asyncio.sleep(0.1)
    assert holds(status), status
    await aureus.services.wait_for(aureus.services.ledger.head.size)
    return status


def test_only_aureus_itself_says_that_it_wrapped_again() -> None:
    rotated = KeyEncryptionKeyRotated(kek="1" * 16, previous="0" * 16)
    record = RecordRewrap(kek="1" * 16, keys=1, webhook_secrets=0)
    given(WRAPPING, rotated).by(ADMIN).when(record).refused("only_aureus_itself")
    itself = Asker("svc-reactions", "system", frozenset({Role.ADMIN}), ActorKind.SERVICE)
    given(WRAPPING).by(itself).when(record).refused("nothing_to_rewrap", field="kek")


def test_a_grant_has_an_id_of_its_own() -> None:
    body: dict[str, Any] = {"grant_id": "g", "actor_id": "usr-ana", "purposes": ("governance",), "subject_id": ZOE, "reason": "x"}
    until = datetime(2026, 4, 1, tzinfo=UTC)
    known = {"actor:usr-ana": Registration(Actor("usr-ana", ActorKind.PERSON, frozenset({Role.ANALYST}), None))}
    history = UnmaskingGranted(**body, until=until)
    given(GRANTS, history).by(ADMIN).beside(**known).when(GrantUnmasking(**body, until=until)).refused("grant_exists", field="grant_id")
