"""Exports as tests ask for them: from the request to the verified pack."""

from __future__ import annotations

import asyncio
import base64
import json
import zipfile
from pathlib import Path
from typing import Any, Final

from domain.kernel import Asker, JsonObject
from domain.values import Role
from infra.verifier.pack import verify_pack
from infra.verifier.result import Result
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers
from tests.support.running import Aureus

AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
BUILT_SECONDS: Final = 30


async def requested(aureus: Aureus, export_id: str, by: Asker = AUD, **request: Any) -> JsonObject:
    """The export's row, as soon as the read models have it."""
    body = {"export_id": export_id, "recipient": "BaFin", **request}
    answer = await aureus.post("/v1/exports", body, by)
    assert answer.status_code == 201, answer.text
    await aureus.services.wait_for(answer.json()["position"])
    return await row(aureus, export_id, by)


async def row(aureus: Aureus, export_id: str, by: Asker = AUD) -> JsonObject:
    answer = await aureus.get(f"/v1/exports/{export_id}", by)
    assert answer.status_code == 200, answer.text
    found: JsonObject = answer.json()
    return found


async def ended(aureus: Aureus, export_id: str, by: Asker = AUD) -> JsonObject:
    """The export's row once it is sealed, failed or cancelled."""
    async with asyncio.timeout(BUILT_SECONDS):
        while True:
            found = await row(aureus, export_id, by)
            if found["status"] != "requested":
                return found
            await asyncio.sleep(0.05)


async def exported(aureus: Aureus, folder: Path, export_id: str, by: Asker = AUD, **request: Any) -> Path:
    """The pack, fetched."""
    await requested(aureus, export_id, by, **request)
    found = await ended(aureus, export_id, by)
    assert found["status"] == "sealed", found
    answer = await aureus.get(f"/v1/exports/{export_id}/pack", by)
    assert answer.status_code == 200, answer.text
    path = folder / f"{export_id}.zip"
    path.write_bytes(answer.content)
    return path


def trust_in(aureus: Aureus) -> Trust:
    """What somebody outside was told of the ledger: its name, and its root key."""
    return Trust(ledger=aureus.services.ledger.name, root_keys=(aureus.services.keystore.root.key_id,))


def verified(path: Path, trust: Trust) -> Result:
    """What a verifier finds, that is given nothing but the file and what it trusts."""
    with Workers(1) as workers:
        return verify_pack(path, trust, [], workers, lambda _what, _done, _of: None)


def predicate(path: Path) -> JsonObject:
    """What a pack's manifest claims."""
    with zipfile.ZipFile(path) as pack:
        envelope = json.loads(pack.read("manifest.json"))
    found: JsonObject = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    return found


def bodies(path: Path) -> dict[int, JsonObject]:
    """The bodies of a pack's entries, by position."""
    found: dict[int, JsonObject] = {}
    with zipfile.ZipFile(path) as pack:
        for name in pack.namelist():
            if name.startswith("entries/"):
                for line in pack.read(name).splitlines():
                    position, _, entry = line.partition(b"\t")
                    found[int(position)] = json.loads(base64.b64decode(json.loads(entry)["payload"]))
    return found
