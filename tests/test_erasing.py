"""The story of an erasure: ordered, approved, done - and then nothing of her is left anywhere, while all that was proven still is."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from commands.access import RegisterActor
from commands.subjects import BeginErasure
from domain.kernel import Asker, JsonObject
from domain.values import ActorKind, Role
from infra.blobs import BlobMissing
from infra.packing import process
from infra.postgres_store import PostgresStore
from streams import erasing
from streams import exports as exporting
from streams.reactions import asker
from streams.records import single
from tests.support.erasing import (
    EMAIL,
    EVA,
    LEGAL,
    NAME,
    REGO,
    certified,
    done,
    erased,
    eva,
    found_in_database,
    found_in_files,
    ordered,
    refused,
    stored,
    until,
)
from tests.support.kernel import ADM, ANA, APP, EVERYTHING, ask, verification
from tests.support.packs import AUD, ended, exported, requested, row, trust_in, verified
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
STRANGER = Asker("usr-str", "acme", frozenset({Role.ANALYST}))
OUTSIDE = Asker("usr-out", "rival", frozenset({Role.ADMIN, Role.AUDITOR}))


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path, REGO) as opened:
        await opened.know(ADM, ANA, APP, AUD, LEGAL, STRANGER)
        await eva(opened)
        yield opened


# -- the story


async def test_she_demands_it_somebody_approves_and_nothing_of_her_is_left(
    aureus: Aureus, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    letter = await stored(aureus, f"Dear {NAME}, we write to {EMAIL}.".encode())
    await done(aureus, f"/v1/subjects/{EVA}/artifacts", {"sha256": letter})
    outside = tmp_path.parent / f"{tmp_path.name}-outside"  # what was handed out lies on other machines
    outside.mkdir()
    before = await exported(aureus, outside, "before", selection={"datasets": ["d0"]}, profile="internal-audit")
    assert verified(before, trust_in(aureus)).fields["open"] == 2
    masked = await exported(aureus, outside, "masked", selection={"datasets": ["d0"]})
    needles = [NAME.encode(), EMAIL.encode(), json.dumps(NAME).encode(), *(part.encode() for part in ("Wertheimstein", "Zaunk"))]
    assert found_in_files(tmp_path, needles), "the letter and the pack show her"
    assert found_in_database(database_url, needles) == set(), "it never knew her by name"

    preview = (await aureus.get(f"/v1/subjects/{EVA}/erasure-preview", ADM)).json()
    assert [(one["purpose"], one["event_type"], one["fields"]) for one in preview["fields"]] == [
        ("governance", "access.actor_registered", 1),
        ("governance", "catalog.owner_contact_recorded", 4),
    ]
    assert [one["sha256"] for one in preview["artifacts"]] == [letter]
    assert [one["export_id"] for one in preview["packs"]] == ["before"]
    assert NAME not in json.dumps(preview)

    erase = {"ground": "consent_withdrawn"}
    parked = await aureus.post(f"/v1/subjects/{EVA}/erase", erase, ADM, Aureus_When_Approved="carry-out")
    assert parked.status_code == 202, parked.text
    await aureus.services.wait_for(parked.json()["position"])
    await done(aureus, f"/v1/approvals/{parked.json()['approval_id']}/approve", {}, APP)
    certificate = await certified(aureus)

    assert (certificate["fields"], certificate["everything"], certificate["ground"]) == (5, True, "consent_withdrawn")
    assert (certificate["artifacts"], certificate["export_ids"]) == ([letter], ["before"])
    assert certificate["ordered_position"] < certificate["until"] + 1 <= certificate["position"]
    assert found_in_database(database_url, needles) == set()
    assert found_in_files(tmp_path, needles) == set()
    assert not any(needle.decode() in caplog.text for needle in needles)
    records = [single(stored, 0, 1, "l").value for stored in await aureus.services.ledger.entries(0, EVERYTHING)]
    assert not any(needle in record for needle in needles for record in records), "as they go to Kafka"
    assert (await aureus.get("/v1/actors", ADM, q="Wertheimstein")).json()["items"] == []
    await what_was_destroyed_is_gone_and_names_its_certificate(aureus, letter, certificate)
    await everything_that_was_proven_still_is(aureus, outside, [before, masked], certificate)
    await what_a_restore_erased_again_keeps_no_pack_waiting(aureus, outside)
    await whoever_is_unknown_or_was_erased_is_not_erased(aureus)
    await whoever_is_reopened_is_recorded_again_and_erased_again(aureus, certificate)


async def what_was_destroyed_is_gone_and_names_its_certificate(aureus: Aureus, letter: str, certificate: JsonObject) -> None:
    pack = await aureus.get("/v1/exports/before/pack", AUD)
    error = pack.json()["error"]
    assert (pack.status_code, error["code"], error["details"]["certificate"]) == (410, "pack_withdrawn", certificate["position"])
    artifact = await aureus.get(f"/v1/artifacts/{letter}", ANA)
    error = artifact.json()["error"]
    assert (artifact.status_code, error["code"], error["details"]["certificate"]) == (410, "artifact_erased", certificate["position"])
    with pytest.raises(BlobMissing):
        await aureus.services.blobs.read(letter)
    subject = (await aureus.get(f"/v1/subjects/{EVA}", ADM)).json()
    assert (subject["status"], subject["fields"], subject["certificates"]) == ("erased", 0, [certificate["position"]])
    assert (await aureus.get("/v1/exports/masked/pack", AUD)).status_code == 200, "it never showed her"


async def everything_that_was_proven_still_is(aureus: Aureus, folder: Path, packs: list[Path], certificate: JsonObject) -> None:
    assert (await verification(aureus.services.ledger)).problems == []
    for path in packs:
        assert verified(path, trust_in(aureus)).ok
    after = verified(await exported(aureus, folder, "after", selection={"datasets": ["d0"]}), trust_in(aureus))
    assert (after.ok, after.fields["open"], after.fields["withheld"], after.fields["missing"]) == (True, 0, 0, 0)
    assert after.fields["erased"] == 2
    proof = await aureus.http.get(certificate["proof"])
    assert proof.json()["position"] == certificate["position"]
    body = json.loads(b64decode(certificate["entry"]["payload"]))
    assert (body["type"], body["data"]["subject_id"]) == ("subjects.subject_erased", EVA)
    entries = await aureus.get("/v1/certificates/entries", ADM)
    assert [json.loads(line)["entry"] for line in entries.text.splitlines()] == [certificate["entry"]]


async def what_a_restore_erased_again_keeps_no_pack_waiting(aureus: Aureus, folder: Path) -> None:
    """Tombstones of a ledger that went on after the backup: nothing in this one is their order, or will ever certify them."""
    store = aureus.services.ledger.store
    assert isinstance(store, PostgresStore)
    await store.vault.erase(store.pool, "acme", "cus-gone", None, 1_000_000)
    pack = await exported(aureus, folder, "restored", selection={"datasets": ["d1"]})
    assert verified(pack, trust_in(aureus)).ok


async def whoever_is_unknown_or_was_erased_is_not_erased(aureus: Aureus) -> None:
    for path in ("", "/erasure-preview", "/certificates"):
        answer = await aureus.get(f"/v1/subjects/cus-nobody{path}", ADM)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "subject_not_found")
    assert (await refused(aureus, "/v1/subjects/cus-nobody/erase", {"ground": "objection"}))[:2] == (404, "subject_not_found")
    assert (await refused(aureus, f"/v1/subjects/{EVA}/erase", {"ground": "objection"}, STRANGER))[:2] == (403, "role_missing")
    assert (await refused(aureus, f"/v1/subjects/{EVA}/erase", {"ground": "whim"}))[0] == 422
    assert (await refused(aureus, f"/v1/subjects/{EVA}/erase", {"ground": "objection"}))[:2] == (409, "subject_erased")
    contact = {"contact_name": NAME, "correct": True}
    answer = await aureus.post(f"/v1/datasets/d0/owners/{EVA}/contact", contact, ANA)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "subject_erased")
    assert answer.json()["error"]["details"]["field"] == "contact_name"
    again = await stored(aureus, b"About her again")
    assert (await refused(aureus, f"/v1/subjects/{EVA}/artifacts", {"sha256": again}))[1] == "subject_erased"


async def whoever_is_reopened_is_recorded_again_and_erased_again(aureus: Aureus, first: JsonObject) -> None:
    await done(aureus, f"/v1/subjects/{EVA}/reopen", {"reason": "She is back"})

    async def recorded() -> bool:
        return (await aureus.post(f"/v1/datasets/d0/owners/{EVA}/contact", {"contact_name": NAME, "correct": True}, ANA)).status_code == 200

    await until(recorded)
    second = await erased(aureus)
    assert (second["fields"], second["ordered_position"] > first["position"]) == (1, True)


# -- holds


async def test_a_hold_blocks_the_next_erasure_until_it_is_released(aureus: Aureus) -> None:
    hold = {"hold_id": "m-1", "subject_ids": [EVA], "matter": "3 Cg 17/26k", "reason": "A claim was served"}
    await done(aureus, "/v1/holds", hold, LEGAL)
    status, code, details = await refused(aureus, f"/v1/subjects/{EVA}/erase", {"ground": "objection"})
    assert (status, code, details["holds"]) == (409, "subject_under_hold", ["m-1"])
    preview = (await aureus.get(f"/v1/subjects/{EVA}/erasure-preview", ADM)).json()
    assert ([one["hold_id"] for one in preview["holds"]], preview["approval"]["code"]) == (["m-1"], "subject_under_hold")
    assert (await aureus.get(f"/v1/subjects/{EVA}", ADM)).json()["holds"] == ["m-1"]

    assert (await refused(aureus, "/v1/holds/m-1/release", {"reason": "x"}, STRANGER))[:2] == (403, "role_missing")
    assert (await refused(aureus, "/v1/holds/m-1/release", {"reason": "x"}, ANA))[:2] == (403, "role_missing")
    outcome = await aureus.services.path.handle(
        ask(RegisterActor(actor_id=OUTSIDE.actor, kind=ActorKind.PERSON, granted_roles=tuple(OUTSIDE.roles)), OUTSIDE)
    )
    await aureus.services.wait_for(outcome.position)
    assert (await refused(aureus, "/v1/holds/m-1/release", {"reason": "x"}, OUTSIDE))[:2] == (404, "hold_not_found")

    await done(aureus, "/v1/holds/m-1/release", {"reason": "Settled"}, LEGAL)
    await only_what_is_kept_for_a_purpose_goes(aureus)
    await an_artifact_about_two_stays_until_the_last_of_them_is_erased(aureus)


async def only_what_is_kept_for_a_purpose_goes(aureus: Aureus) -> None:
    certificate = await erased(aureus, purposes=["marketing"])
    assert (certificate["fields"], certificate["purposes"], certificate["everything"]) == (0, ["marketing"], False)
    subject = (await aureus.get(f"/v1/subjects/{EVA}", ADM)).json()
    assert (subject["status"], subject["fields"]) == ("partly_erased", 5)


async def an_artifact_about_two_stays_until_the_last_of_them_is_erased(aureus: Aureus) -> None:
    both = await stored(aureus, b"Eva and Max")
    await done(aureus, "/v1/subjects", {"subject_id": "cus-max", "kind": "customer", "jurisdiction": "EU"})
    for subject in (EVA, "cus-max"):
        await done(aureus, f"/v1/subjects/{subject}/artifacts", {"sha256": both})
    preview = (await aureus.get(f"/v1/subjects/{EVA}/erasure-preview", ADM)).json()
    assert preview["artifacts"][0]["also_of"] == ["cus-max"]
    first = await erased(aureus)
    assert first["fields"] == 5
    assert (first["artifacts"], first["kept_artifacts"]) == ([], [both])
    assert (await aureus.get(f"/v1/artifacts/{both}", ANA)).content == b"Eva and Max"
    second = await erased(aureus, "cus-max")
    assert (second["artifacts"], second["kept_artifacts"]) == ([both], [])
    assert (await aureus.get(f"/v1/artifacts/{both}", ANA)).status_code == 410


async def test_a_hold_between_the_order_and_the_destruction_stops_it_and_one_after_comes_too_late(
    aureus: Aureus, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = aureus.services.vault.vault
    begin, destroy = asyncio.Event(), asyncio.Event()
    real_begin, real_erase = erasing.Eraser._begin, vault.erase

    async def begun(*arguments: Any) -> bool:
        await begin.wait()
        return await real_begin(*arguments)

    async def destroyed(*arguments: Any) -> Any:
        await destroy.wait()
        return await real_erase(*arguments)

    monkeypatch.setattr(erasing.Eraser, "_begin", begun)
    monkeypatch.setattr(vault, "erase", destroyed)
    position = await ordered(aureus)
    everybody = {"hold_id": "m-1", "everybody": True, "matter": "3 Cg 17/26k", "reason": "A claim was served"}
    await done(aureus, "/v1/holds", everybody, LEGAL)
    begin.set()
    itself = await aureus.services.path.handle(ask(BeginErasure(subject_id=EVA, ordered_position=position), asker("acme")))
    assert (itself.code, itself.facts["holds"]) == ("subject_under_hold", ["m-1"])
    assert (await refused(aureus, f"/v1/subjects/{EVA}/erase", {"ground": "objection"}))[1] == "erasure_ordered_already"
    await asyncio.sleep(0.5)
    assert await stands(aureus, "ordered"), "the hold came before it was begun"

    await done(aureus, "/v1/holds/m-1/release", {"reason": "Settled"}, LEGAL)
    await until(partial(stands, aureus, "erasing"))
    late = {"hold_id": "m-2", "subject_ids": [EVA], "matter": "3 Cg 17/26k", "reason": "A claim was served"}
    assert (await refused(aureus, "/v1/holds", late, LEGAL))[:2] == (409, "nothing_left_to_hold")
    assert (await refused(aureus, f"/v1/subjects/{EVA}/cancel-erasure", {"reason": "x"}))[1] == "erasure_begun"
    destroy.set()
    assert (await certified(aureus))["fields"] == 5


async def stands(aureus: Aureus, status: str) -> bool:
    found: bool = (await aureus.get(f"/v1/subjects/{EVA}", ADM)).json()["status"] == status
    return found


# -- others at the same time


async def test_commands_race_with_the_erasure_and_none_leaves_anything_readable(aureus: Aureus, database_url: str) -> None:
    async def renames(writer: int) -> int:
        """Her name again and again until that is refused; how often it was not."""
        for number in count():
            contact = {"contact_name": f"{NAME} {writer}.{number}", "correct": True}
            answer = await aureus.post(f"/v1/datasets/d{writer % 2}/owners/{EVA}/contact", contact, ANA)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert (answer.status_code, error["code"], error["details"]["field"]) == (409, "subject_erased", "contact_name")
                return number
        raise AssertionError("unreachable")

    racing = [asyncio.create_task(renames(writer)) for writer in range(10)]
    await asyncio.sleep(0.05)
    certificate = await erased(aureus)
    written = await asyncio.gather(*racing)
    assert min(written) >= 1
    assert certificate["fields"] == 5 + sum(written)
    assert (await aureus.get(f"/v1/subjects/{EVA}", ADM)).json()["fields"] == 0
    assert found_in_database(database_url, [NAME.encode()]) == set()
    assert (await verification(aureus.services.ledger)).problems == []


async def test_a_pack_that_is_written_meanwhile_is_planned_anew_and_shows_nothing(
    aureus: Aureus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    real = process.run

    async def built(job: process.Job, told: process.Told) -> JsonObject:
        result = await real(job, told)
        shown.append(len(found_in_files(Path(job.folder), [b'"state":"open"'])))
        if len(shown) == 1:
            await erased(aureus)
            assert aureus.services.shelf.working() == [], "what showed her is thrown away before it is certified"
        return result

    monkeypatch.setattr(exporting, "run", built)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    pack = await exported(aureus, outside, "meanwhile", selection={"datasets": ["d0"]}, profile="internal-audit")
    result = verified(pack, trust_in(aureus))
    assert (result.problems, result.fields["open"], result.fields["erased"]) == ([], 0, 2)
    assert len(shown) == 2


# -- killed


@dataclass
class Killed:
    """What ends the eraser before or after one of its steps, once."""

    monkeypatch: pytest.MonkeyPatch
    spent: bool = False

    async def was_spent(self) -> bool:
        return self.spent

    def at(self, owner: Any, name: str, *, after: bool) -> None:
        real = getattr(owner, name)

        def end() -> None:
            self.spent = True
            raise ConnectionResetError("killed")

        async def coroutine(*arguments: Any) -> Any:
            if not (self.spent or after):
                end()
            result = await real(*arguments)
            if not self.spent:
                end()
            return result

        def function(*arguments: Any) -> Any:
            if not (self.spent or after):
                end()
            result = real(*arguments)
            if not self.spent:
                end()
            return result

        self.monkeypatch.setattr(owner, name, coroutine if asyncio.iscoroutinefunction(real) else function)


async def test_killed_at_any_step_it_goes_on_and_certifies_once(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "STUCK_SECONDS", 0.0)
    services, eraser = aureus.services, erasing.Eraser
    vault = services.vault.vault
    steps: list[tuple[Any, str, bool]] = [
        (eraser, "_begin", True),
        (vault, "erase", False),
        (vault.keys, "destroy", False),
        (vault, "erase", True),
        (services.blobs, "delete", False),
        (services.blobs, "delete", True),
        (eraser, "_withdraw_packs", False),
        (services.shelf, "remove", False),
        (services.shelf, "remove", True),
        (eraser, "_certify", False),
        (eraser, "_certify", True),
    ]
    inside: dict[str, Any] = {"profile": "internal-audit", "everything": True}
    for number, (owner, name, after) in enumerate(steps):
        subject = f"usr-s{number}"
        actor = {"actor_id": subject, "kind": "person", "granted_roles": ["viewer"], "display_name": f"{NAME} {number}"}
        await done(aureus, "/v1/actors", actor)
        letter = await stored(aureus, f"About {number}".encode())
        await done(aureus, f"/v1/subjects/{subject}/artifacts", {"sha256": letter})
        packs = [f"e{number}"] if name in ("remove", "_withdraw_packs") else []
        for export_id in packs:
            await requested(aureus, export_id, **inside)
            assert (await ended(aureus, export_id))["status"] == "sealed"
        with monkeypatch.context() as killing:
            killed = Killed(killing)
            killed.at(owner, name, after=after)
            certificate = await erased(aureus, subject)
            await until(killed.was_spent)
        assert (certificate["fields"], certificate["keys"], certificate["artifacts"], certificate["export_ids"]) == (1, 1, [letter], packs)
        for export_id in packs:
            assert not services.shelf.has((await row(aureus, export_id))["sha256"])
    certificates = (await aureus.get("/v1/certificates", ADM)).json()["items"]
    assert len(certificates) == len(steps), "each once"
    assert (await verification(services.ledger)).problems == []
