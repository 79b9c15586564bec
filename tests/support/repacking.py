"""Real packs, from a running Aureus - and what whoever holds the service key can make of one."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.access import RegisterActor
from commands.keys import RevokeKey
from domain.kernel import Asker
from domain.ledger import EventSigner
from domain.values import ActorKind, Role
from infra.canonical import canonical
from infra.checkpoint import verifier_key
from infra.packing.canonical_zip import ZipWriter
from infra.packing.manifest import NAME, sealed
from infra.verifier.trust import Trust
from tests.support.kernel import ADM, ask
from tests.support.keys import adding, new_key
from tests.support.packs import AUD, exported, trust_in
from tests.support.running import running


@dataclass(frozen=True)
class Packs:
    """As small a pack as there is, one of an actor's doings after a key came and went, one of everything; and whom to believe."""

    small: Path
    some: Path
    all: Path
    trust: Trust
    log_key: str
    service: EventSigner
    log: EventSigner


async def packed(dsn: str, folder: Path) -> Packs:
    """Packs of one small ledger, asked for and fetched over the API."""
    async with running(dsn, folder / "home") as aureus:
        await aureus.know(ADM, AUD)
        path, eve = aureus.services.path, Asker("usr-eve", "acme", frozenset({Role.ADMIN}))
        await path.handle(ask(RegisterActor(actor_id="usr-eve", kind=ActorKind.PERSON, granted_roles=(Role.ADMIN,)), ADM))
        named = RegisterActor(actor_id="usr-new", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name="Zdenka Novak")
        await path.handle(ask(named, eve))
        eves: dict[str, Any] = {"selection": {"actors": ["usr-eve"]}, "profile": "internal-audit"}
        small = await exported(aureus, folder, "small", **eves)
        ledger, keystore = aureus.services.ledger, aureus.services.keystore
        lost = new_key("witness", "witness.example")
        await path.handle(ask(adding(ledger.name, lost, keystore.root), ADM))
        await path.handle(ask(RevokeKey(key_id=lost.key_id, reason="It was lost."), ADM))
        some = await exported(aureus, folder, "some", **eves)
        everything = await exported(aureus, folder, "all", everything=True)
        log_key = verifier_key(ledger.name, keystore.log.public)
        return Packs(small, some, everything, trust_in(aureus), log_key, keystore.service, keystore.log)


Change = Callable[[dict[str, bytes], dict[str, Any]], None]
"""change(members, predicate): what is put into the pack, and what its manifest claims."""


def repacked(pack: Path, to: Path, signer: EventSigner, change: Change) -> Path:
    """A pack as the exporter would have written it, had it wanted to deceive: whatever is changed, the manifest lists it, and is signed."""
    with zipfile.ZipFile(pack) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    statement = json.loads(base64.b64decode(json.loads(members.pop(NAME))["payload"]))
    change(members, statement["predicate"])
    with to.open("wb") as file:
        writer = ZipWriter(file)
        for name, content in members.items():
            writer.add(name, content)
        statement["subject"] = [{"digest": {"sha256": member.sha256}, "name": member.name} for member in writer.members]
        writer.add(NAME, sealed(canonical(statement), signer))
        writer.finish()
    return to
