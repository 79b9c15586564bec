"""The story of an export: what a regulator asks for is in the pack, proven whole, and nothing of anybody else is."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import psycopg
import pytest

from commands.access import RegisterActor
from commands.exports import CommitIndex, SealExport
from commands.path import Ask
from domain.kernel import Asker, JsonObject
from domain.values import ActorKind, Role, uuid7
from infra.packing import planning, process
from infra.packing.process import ProcessEnded
from infra.packing.shelf import Shelf
from streams import exports as exporter
from streams.reactions import asker
from tests.support.kernel import ADM, ANA
from tests.support.minio import Minio
from tests.support.packs import AUD, bodies, ended, exported, predicate, requested, row, trust_in, verified
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
THEM: Final = Asker("usr-them", "rival", frozenset({Role.ADMIN, Role.ANALYST, Role.AUDITOR}))
JURISDICTIONS: Final = {"customers": "EU", "orders": "US", "ledgers": "multi"}

REGO: Final = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "handing_over", "outcome": "require_approval", "reason": "Personal data would be handed over."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.facts.may_disclose
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path, REGO) as opened:
        await opened.know(AUD, ANA, ADM, BOT)
        yield opened


async def rival(aureus: Aureus) -> None:
    """Somebody else comes to share the ledger."""
    first = RegisterActor(actor_id=THEM.actor, kind=THEM.kind, granted_roles=tuple(THEM.roles))
    outcome = await aureus.services.path.handle(Ask(first, replace(ADM, tenant=THEM.tenant), uuid7(), datetime.now(UTC)))
    await aureus.services.wait_for(outcome.position)


async def done(aureus: Aureus, path: str, body: JsonObject, by: Asker = ANA) -> JsonObject:
    answer = await aureus.post(path, body, by)
    assert answer.status_code in {200, 201}, answer.text
    found: JsonObject = answer.json()
    return found


async def happened(aureus: Aureus, by: Asker = ANA) -> int:
    """Three datasets of three laws, an agent that uses one of them, some money; the last position."""
    for dataset, law in JURISDICTIONS.items():
        profile = {"dataset_id": dataset, "name": dataset, "domain": "sales", "pii_level": "low", "jurisdiction": law}
        await done(aureus, "/v1/datasets", profile, by)
        await done(aureus, f"/v1/datasets/{dataset}/tags", {"tags": ["gold"]}, by)
    opened = {"budget_id": "lake", "label": "L", "currency": "EUR", "limit_minor": 1_000}
    last: int = (await done(aureus, "/v1/budgets", opened, ADM if by is ANA else by))["position"]
    if by.tenant == "acme":
        for dataset in ("customers", "orders"):
            last = (await done(aureus, f"/v1/datasets/{dataset}/usage", {"used_by": "agt-bot", "query_count": 1}, BOT))["position"]
    await aureus.services.wait_for(last)
    return last


def complete(path: Path, aureus: Aureus) -> JsonObject:
    """The pack verifies, nothing is missing; what its manifest claims."""
    result = verified(path, trust_in(aureus))
    assert (result.problems, result.ok, result.complete) == ([], True, True)
    return predicate(path)


def streams(path: Path) -> set[str]:
    """What the entries are about: their own streams, or of actions what they were asked of."""
    found = bodies(path).values()
    return {body["data"]["intent"]["stream"] if body["stream"].startswith("action:") else body["stream"] for body in found}


# -- what is in it


async def test_a_regulator_gets_all_about_a_dataset_and_an_agent_under_one_law(aureus: Aureus, tmp_path: Path) -> None:
    await happened(aureus)
    asked = {"datasets": ["customers"], "agents": ["agt-bot"], "jurisdictions": ["EU"]}
    path = await exported(aureus, tmp_path, "quarter", selection=asked, views=["ocsf", "parquet", "html", "pdf"])
    claimed = complete(path, aureus)
    found = bodies(path).values()
    assert claimed["counts"]["other_jurisdiction"] > 0, "what the agent did to orders is American"
    assert {"dataset:customers", "actor:agt-bot", "export:quarter"} <= streams(path)
    assert not {"dataset:orders", "dataset:ledgers", "budget:lake"} & streams(path)
    assert {body["tenant"] for body in found} == {"acme"}
    with zipfile.ZipFile(path) as pack:
        assert [name for name in pack.namelist() if name.startswith("views/")] == [
            "views/events.parquet",
            "views/ocsf.jsonl",
            "views/report.html",
            "views/report.pdf",
        ]
        assert pack.namelist()[0] == "README.txt"
        assert pack.namelist()[-1] == "manifest.json"
        assert "python aureus_verify.py" in pack.read("README.txt").decode()
    await what_may_stand_under_a_law_is_part_of_it(aureus, tmp_path)
    await nothing_there_is_an_empty_pack_that_proves_it(aureus, tmp_path)


async def what_may_stand_under_a_law_is_part_of_it(aureus: Aureus, tmp_path: Path) -> None:
    path = await exported(aureus, tmp_path, "eu", selection={"jurisdictions": ["EU"]})
    complete(path, aureus)
    assert {"dataset:customers", "dataset:ledgers", "budget:lake"} <= streams(path)
    assert "dataset:orders" not in {body["stream"] for body in bodies(path).values()}


async def test_a_period_ends_where_the_events_beside_it_say(aureus: Aureus, tmp_path: Path) -> None:
    await done(aureus, "/v1/datasets", {"dataset_id": "d", "name": "d", "domain": "x", "pii_level": "none", "jurisdiction": "EU"})
    moments: list[datetime] = []
    last: JsonObject = {}
    for tag in ("one", "two", "three", "four"):
        moments.append(datetime.now(UTC))
        last = await done(aureus, "/v1/datasets/d/tags", {"tags": [tag]})
        await asyncio.sleep(0.002)
    await aureus.services.wait_for(last["position"])
    for everything in (False, True):
        period = {"starts_at": moments[1].isoformat(), "ends_at": moments[3].isoformat()}
        selection = period if everything else {"datasets": ["d"], **period}
        path = await exported(aureus, tmp_path, f"period-{everything}", everything=everything, selection=selection)
        claimed = complete(path, aureus)
        within = [
            body["data"]["tags"]
            for position, body in bodies(path).items()
            if claimed["range"]["after"] < position <= claimed["range"]["until"] and body["type"] == "catalog.tags_changed"
        ]
        assert within == [["two"], ["three"]]
        assert None not in claimed["fences"].values()
        assert set(claimed["fences"].values()) <= set(bodies(path)), "the events beside it are shown"


async def test_everything_is_everything_until_somebody_else_is_there(aureus: Aureus, tmp_path: Path) -> None:
    path = await exported(aureus, tmp_path, "alone", by=AUD, everything=True)
    claimed = complete(path, aureus)
    assert (claimed["scope"], claimed["index"]) == ("everything", None)
    await happened(aureus)
    await rival(aureus)
    await happened(aureus, THEM)
    ours = await exported(aureus, tmp_path, "ours", everything=True, views=["parquet"])
    theirs = await exported(aureus, tmp_path, "theirs", by=THEM, everything=True)
    for path, tenant in ((ours, "acme"), (theirs, "rival")):
        claimed = complete(path, aureus)
        assert [stands["topic"] for stands in claimed["index"]["topics"]] == ["all"]
        assert {body["tenant"] for body in bodies(path).values()} == {tenant}
    found = tables(ours, tmp_path)
    assert sorted(row["dataset_id"] for row in found["datasets"]) == ["customers", "ledgers", "orders"]
    assert "usr-them" not in {row["actor_id"] for row in found["actors"]}
    assert tables(theirs, tmp_path) == {}


def tables(path: Path, folder: Path) -> dict[str, list[JsonObject]]:
    """The rows of the read models in a pack."""
    found = {}
    with zipfile.ZipFile(path) as pack, duckdb.connect() as database:
        for name in pack.namelist():
            if name.startswith("views/tables/"):
                aside = folder / "table.parquet"
                aside.write_bytes(pack.read(name))
                rows = database.execute("SELECT * FROM read_parquet(?)", [str(aside)])
                columns = [column[0] for column in rows.description or ()]
                found[Path(name).stem] = [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]
    return found


async def nothing_there_is_an_empty_pack_that_proves_it(aureus: Aureus, tmp_path: Path) -> None:
    past = {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-04-01T00:00:00Z"}
    path = await exported(aureus, tmp_path, "empty", selection={"datasets": ["customers"], "jurisdictions": ["APAC"], **past})
    claimed = complete(path, aureus)
    assert claimed["counts"]["entries"] == 0
    assert [stands["topic"] for stands in claimed["index"]["topics"] if "absent" in stands] == ["jurisdiction:APAC"]


async def test_keys_that_were_rotated_sign_what_is_planned_after_it(
    aureus: Aureus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await done(aureus, "/v1/keys/server/service/rotate", {}, ADM)
    last = await done(aureus, "/v1/keys/server/log/rotate", {}, ADM)
    await aureus.services.wait_for(last["position"])
    complete(await exported(aureus, tmp_path, "after", everything=True), aureus)
    real = process.run

    async def rotated_meanwhile(job: Any, told: Any) -> JsonObject:
        monkeypatch.undo()
        result = await real(job, told)
        await done(aureus, "/v1/keys/server/service/rotate", {}, ADM)
        return result

    monkeypatch.setattr(exporter, "run", rotated_meanwhile)
    complete(await exported(aureus, tmp_path, "meanwhile", everything=True), aureus)


# -- what is shown of it


async def test_a_profile_says_what_is_shown_and_what_is_held_back(aureus: Aureus, tmp_path: Path) -> None:
    named = RegisterActor(actor_id="usr-eve", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name="Eve Adams")
    outcome = await aureus.services.path.handle(Ask(named, ADM, uuid7(), datetime.now(UTC)))
    await aureus.services.wait_for(outcome.position)
    await done(aureus, "/v1/export-profiles", {"profile": "onsite", "withhold_types": ["access.actor_registered"]}, AUD)

    regulator = await exported(aureus, tmp_path, "regulator", selection={"actors": ["usr-adm"]})
    complete(regulator, aureus)
    (field,) = disclosed(regulator)
    assert (field["name"], field["state"], field["position"]) == ("display_name", "withheld", outcome.events[0]["position"])
    assert b"Eve Adams" not in regulator.read_bytes()

    request = {"export_id": "inside", "recipient": "Audit", "profile": "internal-audit", "selection": {"actors": ["usr-adm"]}}
    parked = await aureus.post("/v1/exports", request, AUD)
    assert (parked.status_code, parked.json()["approver_roles"]) == (202, ["approver"])
    approver = Asker("usr-app", "acme", frozenset({Role.APPROVER}))
    await aureus.know(approver)
    await done(aureus, f"/v1/approvals/{parked.json()['approval_id']}/approve", {}, approver)
    answer = await aureus.post("/v1/exports", request, AUD, Aureus_Approval=parked.json()["approval_id"])
    assert answer.status_code == 201, answer.text
    await aureus.services.wait_for(answer.json()["position"])
    assert (await ended(aureus, "inside"))["status"] == "sealed"
    inside = tmp_path / "inside.zip"
    inside.write_bytes((await aureus.get("/v1/exports/inside/pack", AUD)).content)
    complete(inside, aureus)
    assert verified(inside, trust_in(aureus)).fields["open"] == 1
    assert {field["state"] for field in disclosed(inside)} == {"open"}

    with psycopg.connect(aureus.services.dsn, autocommit=True) as connection:
        connection.execute("UPDATE vault.disclosures SET sealed = set_byte(sealed, 29, get_byte(sealed, 29) # 1)")
    await requested(aureus, "damaged", selection={"actors": ["usr-adm"]})
    failed = await ended(aureus, "damaged")
    assert (failed["status"], failed["failure_code"]) == ("failed", "vault_damaged")

    held = await exported_with_approval(aureus, tmp_path, approver, "held", profile="onsite", selection={"actors": ["usr-adm"]})
    claimed = complete(held, aureus)
    assert outcome.events[0]["position"] in claimed["withheld"]
    assert outcome.events[0]["position"] not in bodies(held)


async def exported_with_approval(aureus: Aureus, folder: Path, approver: Asker, export_id: str, **request: Any) -> Path:
    body = {"export_id": export_id, "recipient": "BaFin", **request}
    parked = (await aureus.post("/v1/exports", body, AUD)).json()
    await done(aureus, f"/v1/approvals/{parked['approval_id']}/approve", {}, approver)
    answer = await aureus.post("/v1/exports", body, AUD, Aureus_Approval=parked["approval_id"])
    await aureus.services.wait_for(answer.json()["position"])
    assert (await ended(aureus, export_id))["status"] == "sealed"
    path = folder / f"{export_id}.zip"
    path.write_bytes((await aureus.get(f"/v1/exports/{export_id}/pack", AUD)).content)
    return path


def disclosed(path: Path) -> list[JsonObject]:
    """What is said of values; decoys are nobody's."""
    with zipfile.ZipFile(path) as pack:
        lines = [json.loads(line) for line in pack.read("disclosures.jsonl").splitlines()]
    return [line for line in lines if not line["name"].startswith("_decoy")]


async def test_the_evidence_that_actions_rest_on_is_packed_if_asked_for(aureus: Aureus, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {aureus.services.tokens.issue(ANA)}", "Content-Type": "text/plain"}
    stored = await aureus.http.post("/v1/artifacts", params={"name": "note.txt"}, content=b"It was checked.", headers=headers)
    sha256 = stored.json()["sha256"]
    profile = {"dataset_id": "d", "name": "d", "domain": "x", "pii_level": "none", "jurisdiction": "EU"}
    registered = await aureus.post("/v1/datasets", profile, ANA, Aureus_Evidence=sha256)
    await aureus.services.wait_for(registered.json()["position"])
    without = await exported(aureus, tmp_path, "without", selection={"datasets": ["d"]})
    with_it = await exported(aureus, tmp_path, "with", selection={"datasets": ["d"]}, artifacts=True)
    for path, there in ((without, []), (with_it, [f"artifacts/{sha256}"])):
        complete(path, aureus)
        with zipfile.ZipFile(path) as pack:
            assert [name for name in pack.namelist() if name.startswith("artifacts/")] == there
    (aureus.services.settings.blobs_dir / sha256[:2] / sha256).write_bytes(b"Something else.")
    await requested(aureus, "lost", selection={"datasets": ["d"]}, artifacts=True)
    failed = await ended(aureus, "lost")
    assert (failed["status"], failed["failure_code"]) == ("failed", "artifact_lost")
    assert sha256 in failed["failure"]
    refused = await aureus.get("/v1/exports/lost/pack", AUD)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "export_not_sealed")


async def test_evidence_in_a_bucket_is_packed_as_well(
    database_url: str, tmp_path: Path, minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(minio.certificate))
    async with running(database_url, tmp_path, REGO, s3=minio.bucket()) as aureus:
        await aureus.know(ANA, AUD)
        headers = {"Authorization": f"Bearer {aureus.services.tokens.issue(ANA)}", "Content-Type": "text/plain"}
        stored = await aureus.http.post("/v1/artifacts", params={"name": "note.txt"}, content=b"It was checked.", headers=headers)
        profile = {"dataset_id": "d", "name": "d", "domain": "x", "pii_level": "none", "jurisdiction": "EU"}
        registered = await aureus.post("/v1/datasets", profile, ANA, Aureus_Evidence=stored.json()["sha256"])
        await aureus.services.wait_for(registered.json()["position"])
        path = await exported(aureus, tmp_path, "e", everything=True, artifacts=True)
        complete(path, aureus)
    with zipfile.ZipFile(path) as pack:
        assert pack.read(f"artifacts/{stored.json()['sha256']}") == b"It was checked."


# -- who may, and what is refused


async def only_auditors_and_administrators_ask_and_read(aureus: Aureus) -> None:
    await rival(aureus)
    assert (await aureus.post("/v1/exports", {"export_id": "x", "recipient": "x", "everything": True}, ANA)).status_code == 403
    for path in ("/v1/exports", "/v1/exports/e", "/v1/exports/e/pack", "/v1/export-profiles"):
        assert (await aureus.get(path, ANA)).status_code == 403
        assert (await aureus.get(path, AUD)).status_code == 200
    assert (await aureus.get("/v1/exports/e", THEM)).status_code == 404
    assert (await aureus.get("/v1/exports/e/pack", THEM)).status_code == 404
    names = [profile["name"] for profile in (await aureus.get("/v1/export-profiles", AUD)).json()["items"]]
    assert names == ["regulator", "internal-audit"]


REFUSED: Final[tuple[tuple[JsonObject, int, str], ...]] = (
    ({"datasets": ["nowhere"]}, 404, "dataset_not_found"),
    ({"agents": ["agt-none"]}, 404, "agent_not_found"),
    ({"policies": ["unheard_of"]}, 404, "policy_not_found"),
    ({"starts_at": "2020-04-01T00:00:00Z", "ends_at": "2020-01-01T00:00:00Z"}, 409, "period_is_empty"),
    ({"starts_at": (datetime.now(UTC) + timedelta(days=9)).isoformat()}, 409, "period_not_begun"),
)


async def test_what_cannot_be_exported_is_refused_with_what_would_help(aureus: Aureus) -> None:
    for selection, status, code in REFUSED:
        answer = await aureus.post("/v1/exports", {"export_id": "e", "recipient": "BaFin", "selection": selection}, AUD)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        details = answer.json()["error"]["details"]
        assert details["remedy"]
        assert details["field"].startswith("selection.")
    body = {"export_id": "e", "recipient": "BaFin", "selection": {"jurisdictions": ["MARS"]}}
    answer = await aureus.post("/v1/exports", body, AUD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_failed")
    await nobody_else_seals_or_commits(aureus)


async def nobody_else_seals_or_commits(aureus: Aureus) -> None:
    forged: dict[str, Any] = {"size": 5, "topics": 1, "root": "0" * 64, "rules": 1, "keys_version": 3, "keys_leaf": "0" * 64}
    for command, code in (
        (CommitIndex(tenant="acme", **forged), "only_aureus_itself"),
        (
            SealExport(
                export_id="e",
                sha256="0" * 64,
                size_bytes=1,
                manifest_sha256="0" * 64,
                after=0,
                until=1,
                checkpoint_size=1,
                entries=1,
                keys=1,
                withheld_entries=0,
            ),
            "only_aureus_itself",
        ),
    ):
        outcome = await aureus.services.path.handle(Ask(command, ADM, uuid7(), datetime.now(UTC)))
        assert (outcome.outcome, outcome.code) == ("blocked", code)
    assert asker("acme").actor == "svc-reactions"


# -- fetching it


async def test_a_download_is_gone_on_with_and_every_one_is_on_record(aureus: Aureus, tmp_path: Path) -> None:
    path = await exported(aureus, tmp_path, "e", everything=True)
    content = path.read_bytes()
    identity = {"Authorization": f"Bearer {aureus.services.tokens.issue(AUD)}"}

    async def fetched(**headers: str) -> Any:
        return await aureus.http.get(
            "/v1/exports/e/pack", headers={**identity, **{name.replace("_", "-"): said for name, said in headers.items()}}
        )

    whole = await fetched()
    etag = whole.headers["etag"]
    assert (whole.status_code, whole.content) == (200, content)
    rest = await fetched(Range="bytes=1000-", If_Range=etag)
    assert (rest.status_code, rest.content) == (206, content[1000:])
    assert rest.headers["content-range"] == f"bytes 1000-{len(content) - 1}/{len(content)}"
    assert (await fetched(Range="bytes=10-19")).content == content[10:20]
    assert (await fetched(Range="bytes=-7")).content == content[-7:]
    assert (await fetched(Range="bytes=1000-", If_Range='"of another pack"')).content == content
    assert (await fetched(Range="lines=1-2")).content == content
    beyond = await fetched(Range=f"bytes={len(content)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    await aureus.services.wait_for((await aureus.services.ledger.refresh()).size)
    found = await row(aureus, "e")
    assert (found["downloads"], found["downloaded_by"]) == (7, ["usr-aud"])
    events = [stored for stored in await aureus.services.ledger.entries(0, 10_000) if stored.type == "exports.pack_downloaded"]
    assert [json.loads(event.body)["data"]["first_byte"] for event in events] == [0, 0, 1000, 10, len(content) - 7, 0, 0]
    await only_auditors_and_administrators_ask_and_read(aureus)
    await a_pack_that_was_changed_or_lost_is_not_handed_out(aureus)


async def a_pack_that_was_changed_or_lost_is_not_handed_out(aureus: Aureus) -> None:
    found = await row(aureus, "e")
    kept = aureus.services.settings.exports_dir / f"{found['sha256']}.zip"
    content = bytearray(kept.read_bytes())
    content[500] ^= 1
    kept.write_bytes(content)
    answer = await aureus.get("/v1/exports/e/pack", AUD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "pack_tampered")
    kept.unlink()
    answer = await aureus.get("/v1/exports/e/pack", AUD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "pack_lost")
    assert answer.json()["error"]["details"]["remedy"]


# -- what goes wrong on the way


async def until(true: Callable[[], bool]) -> None:
    while True:
        if true():
            return
        await asyncio.sleep(0.05)


async def test_it_is_cancelled_while_it_is_written(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    held = asyncio.Event()

    async def never(_job: Any, told: Any) -> JsonObject:
        await told("entries", 50_000, 1_000_000)
        held.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr(exporter, "run", never)
    await requested(aureus, "e", everything=True)
    await held.wait()
    assert (await row(aureus, "e"))["progress"] == {"phase": "entries", "done": 50_000, "total": 1_000_000}
    folder = Shelf(aureus.services.settings.exports_dir).working_folder("acme", "e")
    assert folder.is_dir()
    position = (await done(aureus, "/v1/exports/e/cancel", {"comment": "The wrong quarter"}, AUD))["position"]
    await aureus.services.wait_for(position)
    found = await row(aureus, "e")
    assert (found["status"], found["progress"]) == ("cancelled", None)
    async with asyncio.timeout(10):
        await until(lambda: not folder.exists())
    assert (await aureus.post("/v1/exports/e/cancel", {}, AUD)).status_code == 409
    monkeypatch.undo()
    await a_process_that_dies_is_started_again_a_few_times(aureus, monkeypatch)


async def a_process_that_dies_is_started_again_a_few_times(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = 0
    real = process.run

    async def dying(job: Any, told: Any) -> JsonObject:
        nonlocal deaths
        deaths += 1
        if deaths in {1, 2} or deaths > 3:
            raise ProcessEnded("The process that worked on it ended with -9.")
        return await real(job, told)

    monkeypatch.setattr(exporter, "run", dying)
    await requested(aureus, "first", everything=True)
    assert (await ended(aureus, "first"))["status"] == "sealed"
    await requested(aureus, "second", everything=True)
    failed = await ended(aureus, "second")
    assert (failed["status"], failed["failure_code"]) == ("failed", "process_ended")


async def test_an_index_that_was_changed_beside_the_ledger_seals_nothing(aureus: Aureus, tmp_path: Path) -> None:
    await happened(aureus)
    await exported(aureus, tmp_path, "before", selection={"datasets": ["customers"]})
    with psycopg.connect(aureus.services.dsn, autocommit=True) as connection:
        connection.execute("UPDATE topics.chains SET count = count - 1 WHERE topic = 'about:dataset:customers'")
    await requested(aureus, "after", selection={"datasets": ["customers"]})
    failed = await ended(aureus, "after")
    assert (failed["status"], failed["failure_code"]) == ("failed", "index_differs")
    assert "aureus log fsck" in failed["failure"]


async def test_the_index_is_committed_from_time_to_time_when_something_is_new(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "APART_EVENTS", 0)  # in a process of its own, as a large one is
    async with running(database_url, tmp_path, REGO, index_minutes=0.002) as aureus:
        await aureus.know(ANA, AUD)

        def commitments(stored: list[Any]) -> list[int]:
            return [json.loads(event.body)["data"]["size"] for event in stored if event.type == "exports.index_committed"]

        async with asyncio.timeout(20):
            while True:
                sizes = commitments(await aureus.services.ledger.entries(0, 10_000))
                if sizes:
                    break
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert commitments(await aureus.services.ledger.entries(0, 10_000)) == sizes, "nothing is new"
