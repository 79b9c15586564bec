"""Erasures as tests ask for them: somebody with values everywhere, the order, its approval, and a search for what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import psycopg

from domain.kernel import Asker, JsonObject
from domain.values import Role
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus

LEGAL: Final = Asker("usr-leg", "acme", frozenset({Role.AUDITOR}))
EVA: Final = "usr-eva"
NAME: Final = "Eva Wertheimstein-Zaunkönig"
"""Nobody else is called so, whoever looks for her."""
EMAIL: Final = "eva.wertheimstein@example.org"
REGO: Final = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "erasing", "outcome": "require_approval", "reason": "What is erased never comes back."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.action == "subjects.erase_subject"
	input.facts.ground == "consent_withdrawn"
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
"""An erasure takes an approver when consent was withdrawn: on other grounds tests go ahead at once."""
DONE_SECONDS: Final = 20


async def done(aureus: Aureus, path: str, body: JsonObject, by: Asker = ADM, **headers: str) -> JsonObject:
    """A command that is carried out, once reads see it."""
    answer = await aureus.post(path, body, by, **headers)
    assert answer.status_code in {200, 201}, answer.text
    found: JsonObject = answer.json()
    await aureus.services.wait_for(found["position"])
    return found


async def refused(aureus: Aureus, path: str, body: JsonObject, by: Asker = ADM) -> tuple[int, str, JsonObject]:
    """(status, code, details) of a refusal."""
    answer = await aureus.post(path, body, by)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["details"]


async def eva(aureus: Aureus, datasets: int = 2) -> None:
    """Registered under her name, and contact of some datasets."""
    await done(aureus, "/v1/actors", {"actor_id": EVA, "kind": "person", "granted_roles": ["viewer"], "display_name": NAME})
    await done(aureus, "/v1/subjects", {"subject_id": EVA, "kind": "employee", "jurisdiction": "EU"})
    for number in range(datasets):
        dataset = {"dataset_id": f"d{number}", "name": "D", "domain": "sales", "pii_level": "low", "jurisdiction": "EU"}
        await done(aureus, "/v1/datasets", dataset, ANA)
        await done(aureus, f"/v1/datasets/d{number}/owners", {"owner_id": EVA, "role": "steward"}, ANA)
        contact = {"contact_name": NAME, "contact_email": EMAIL}
        await done(aureus, f"/v1/datasets/d{number}/owners/{EVA}/contact", contact, ANA)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Waits for it."""
    async with asyncio.timeout(DONE_SECONDS):
        while True:
            if await true():
                return
            await asyncio.sleep(0.05)


async def stored(aureus: Aureus, content: bytes, name: str = "letter.txt") -> str:
    """The hash of an artifact with these bytes."""
    token = aureus.services.tokens.issue(ANA)
    headers = {"authorization": f"Bearer {token}", "content-type": "text/plain"}
    answer = await aureus.http.post(f"/v1/artifacts?name={name}", content=content, headers=headers)
    assert answer.status_code == 201, answer.text
    await aureus.services.wait_for(answer.json()["position"])
    sha256: str = answer.json()["sha256"]
    return sha256


async def ordered(aureus: Aureus, subject: str = EVA, **fields: Any) -> int:
    """The position of the order, which needs nobody's approval."""
    answer = await done(aureus, f"/v1/subjects/{subject}/erase", {"ground": "objection", **fields})
    position: int = answer["events"][0]["position"]
    return position


async def certified(aureus: Aureus, subject: str = EVA, count: int = 1) -> JsonObject:
    """The latest of so many certificates."""
    async with asyncio.timeout(DONE_SECONDS):
        while True:
            answer = await aureus.get(f"/v1/subjects/{subject}/certificates", ADM)
            if answer.status_code == 200 and len(answer.json()["items"]) >= count:
                found: JsonObject = answer.json()["items"][-1]
                return found
            await asyncio.sleep(0.05)


async def erased(aureus: Aureus, subject: str = EVA, **fields: Any) -> JsonObject:
    """The certificate of an erasure that is asked for now."""
    before = await aureus.get(f"/v1/subjects/{subject}/certificates", ADM)
    count = len(before.json()["items"]) if before.status_code == 200 else 0
    await ordered(aureus, subject, **fields)
    return await certified(aureus, subject, count + 1)


def found_in_database(dsn: str, texts: list[bytes]) -> set[str]:
    """The tables in which one of these texts stands, in any column, as text or inside of bytes."""
    found = set()
    with psycopg.connect(dsn, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT (FORMAT binary)".encode()) as rows:
                content = b"".join(bytes(row) for row in rows)
            if any(text in content for text in texts):
                found.add(table)
    return found


def found_in_files(folder: Path, texts: list[bytes]) -> set[str]:
    """The files below a folder in which one of these texts stands."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and any(text in path.read_bytes() for text in texts)
    }
