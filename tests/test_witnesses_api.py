"""Witnesses over REST: what people are shown of them, and how a server says that it does not write any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from api.app import create_app
from api.services import open_services
from infra.keystore import FileKeystore
from infra.settings import Settings, TimestampPlace, WitnessPlace
from infra.verifier.notes import LOG, VerifierKey, cosigned_at, log_signed, parse_checkpoint, parse_note
from tests.support.kernel import ADM, written
from tests.support.running import Aureus
from tests.support.tsa import Tsa
from tests.support.typed import typed
from tests.support.witness import WitnessProcess, until

pytestmark = pytest.mark.anyio
ORIGIN = "ledger.example/shown"
ALLOW = 'package aureus\n\nverdict := {"outcome": "allow", "results": [{"policy": "all", "outcome": "allow"}]}\n'


@asynccontextmanager
async def serving(dsn: str, home: Path, **settings: Any) -> AsyncIterator[Aureus]:
    policies = written(home / "policies", ALLOW)
    chosen = Settings(home=home, database_url=dsn, tenant="acme", policies=policies, origin=ORIGIN, **{"demo": False, **settings})
    async with open_services(chosen) as services:
        app = create_app(services=services)
        app.state.services = services
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            yield Aureus(services, http)


async def caught_up(aureus: Aureus) -> dict[str, Any]:
    """What /v1/witnesses says once all that was written is witnessed."""

    async def witnessed() -> bool:
        return await aureus.services.witnessing.witnessed() == (await aureus.services.ledger.refresh()).size

    await until(witnessed)
    shown: dict[str, Any] = (await aureus.get("/v1/witnesses", ADM)).json()
    return shown


def witness_of(home: Path, where: Path) -> tuple[WitnessProcess, WitnessPlace]:
    log = VerifierKey(ORIGIN, LOG, FileKeystore.open(home / "keys").log.public)
    witness = WitnessProcess(where, [log.text()], "--name", "witness.example/w")
    return witness, WitnessPlace(witness.verifier, witness.url)


async def test_a_witnessed_ledger_shows_who_cosigned_what(database_url: str, tmp_path: Path) -> None:
    home, tsa = tmp_path / "home", Tsa(tmp_path / "tsa")
    witness, place = witness_of(home, tmp_path / "w")
    async with serving(database_url, home, witnesses=(place,), timestamps=TimestampPlace(tsa.url, tsa.roots, 3_600)) as aureus:
        await aureus.know(ADM)
        shown = await caught_up(aureus)
        assert (shown["comparison"], shown["fulfilled"], shown["lag_events"], shown["required"]) == ("done", True, 0, 1)
        (one,) = shown["witnesses"]
        assert (one["name"], one["stands"], one["standing"], one["size"]) == ("witness.example/w", "elsewhere", "agrees", shown["size"])
        note = (await aureus.http.get("/v1/log/checkpoint")).content
        assert (parse_checkpoint(parse_note(note).text).size, cosigned_at(parse_note(note), place.key) is not None) == (shown["size"], True)
        assert log_signed(parse_note(note), VerifierKey(ORIGIN, LOG, aureus.services.keystore.log.public))
        assert (await aureus.http.get("/v1/ledger/checkpoint")).content == note
        of_size = (await aureus.http.get("/v1/ledger/checkpoint", params={"size": shown["size"]})).content
        assert of_size == note

        async def stamped() -> bool:
            return bool((await aureus.get("/v1/witnesses", ADM)).json()["timestamps"][0]["size"])

        await until(stamped)
        (stamp,) = (await aureus.get("/v1/witnesses", ADM)).json()["timestamps"]
        token = await aureus.http.get(f"/v1/log/timestamps/{stamp['size']}")
        text = parse_note((await aureus.http.get("/v1/ledger/checkpoint", params={"size": stamp["size"]})).content).text
        assert (token.headers["content-type"], tsa.verified(token.content, text)) == ("application/timestamp-reply", True)
        missing = await aureus.http.get("/v1/log/timestamps/999999")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "timestamp_not_found")
    witness.stop()
    tsa.close()


async def test_without_a_witness_it_is_said(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM)
        shown = (await aureus.get("/v1/witnesses", ADM)).json()
        assert (shown["comparison"], shown["fulfilled"], shown["witnessed"], shown["witnesses"]) == ("none", False, 0, [])
        assert "No witness cosigns this ledger" in shown["summary"]
        assert parse_checkpoint(parse_note((await aureus.http.get("/v1/log/checkpoint")).content).text).size == shown["size"]


async def test_while_nobody_has_cosigned_there_is_no_witnessed_checkpoint(database_url: str, tmp_path: Path) -> None:
    witness, place = witness_of(tmp_path / "home", tmp_path / "w")
    witness.stop()
    async with serving(database_url, tmp_path / "home", witnesses=(place,)) as aureus:
        await aureus.know(ADM)
        answer = await aureus.http.get("/v1/log/checkpoint")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "checkpoint_not_found")
        shown = (await aureus.get("/v1/witnesses", ADM)).json()
        assert (shown["comparison"], shown["fulfilled"], shown["witnesses"][0]["standing"]) == ("outstanding", False, "not asked yet")
        assert "cannot be reached" in shown["witnesses"][0]["last_error"]
        assert (await aureus.http.get("/v1/ledger/checkpoint")).status_code == 200


async def test_a_server_on_a_restored_database_reads_and_does_not_write(database_url: str, postgres_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    witness, place = witness_of(home, tmp_path / "w")
    original, backup = (dsn.rpartition("/")[2].partition("?")[0] for dsn in (database_url, database_url.replace("/test_", "/backup_")))
    budget = {"budget_id": "b", "label": "B", "currency": "EUR", "limit_minor": 1}
    async with serving(database_url, home) as aureus:
        await aureus.know(ADM)
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as server:
        await server.execute(f'CREATE DATABASE "{backup}" TEMPLATE "{original}"'.encode())
        async with serving(database_url, home, witnesses=(place,)) as aureus:
            assert (await aureus.post("/v1/budgets", budget, ADM)).status_code == 201
            await caught_up(aureus)
        async with serving(database_url.replace("/test_", "/backup_"), home, witnesses=(place,)) as aureus:
            refused = await aureus.post("/v1/budgets", budget, ADM)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_behind_witness")
            assert "Restore the database as it was" in refused.json()["error"]["details"]["remedy"]
            ready = await aureus.http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "degraded")
            assert "witness.example/w has cosigned" in ready.json()["stopped"]["ledger"]
            assert (await aureus.get("/v1/budgets", ADM)).json()["items"] == []
            shown = (await aureus.get("/v1/witnesses", ADM)).json()
            assert (shown["comparison"], shown["fulfilled"], shown["witnesses"][0]["standing"]) == ("contradicted", False, "contradicts")
        await server.execute(f'DROP DATABASE "{backup}" WITH (FORCE)'.encode())
    witness.stop()


async def test_the_demo_brings_a_witness_and_says_what_it_is_worth(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "home", demo=True) as aureus:

        async def there() -> bool:
            return bool(aureus.services.witnessing.members)

        await aureus.know(ADM)
        await until(there)
        shown = await caught_up(aureus)
        assert shown["witnesses"][0]["stands"] == "within the operator's reach"
        assert "proves nothing against the operator" in shown["summary"]
        assert shown["fulfilled"]
        async with typed(aureus, tmp_path / "cli", ADM) as command:
            assert await command.json("witness", "status") == (await aureus.get("/v1/witnesses", ADM)).json()
            told = await command("witness", "status")
            assert all(word in told for word in (shown["witnesses"][0]["name"], "agrees", "within the operator's reach", shown["summary"]))
