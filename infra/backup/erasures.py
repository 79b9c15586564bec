"""Erasures that a backup does not know of: certificates of a later time, each signed by the same ledger, to be carried out again."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.backup.verifying import CERTIFICATE
from infra.verifier.canonical import canonical
from infra.verifier.events import EVENT_TYPE, Bad, Body, Signatures, holds, open_entry, read_body, signed_text
from infra.verifier.keys import KEY_EVENT, KeyRing


class BadErasures(ValueError):
    """A file that holds something else than certificates of this ledger; says at which line, and what."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What a certificate says was destroyed; `purposes` None: whatever it was kept for. `packs` are ids of exports."""

    position: int
    tenant: str
    subject: str
    ordered_position: int
    purposes: tuple[str, ...] | None
    artifacts: tuple[str, ...]
    packs: tuple[str, ...]


def read_erasures(file: Path, ledger: str, ring: KeyRing, size: int) -> list[Erasure]:
    """The erasures after position `size`; those before it are in the backup. `ring` are the ledger's keys up to there.

    Each line is `{"position": ..., "entry": ...}`, the entry of the ledger as it was signed; events of keys that came in meanwhile
    may stand between the certificates. Raises BadErasures.
    """
    found: list[Erasure] = []
    known = deepcopy(ring)
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise BadErasures(f"{file} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            position, body, member, signatures = _entry(line)
            if member["ledger"] != ledger:
                raise Bad("ledger", f"it is of the ledger {member['ledger']}, and the backup is of {ledger}")
            if position <= size:
                continue
            if member["type"].startswith(KEY_EVENT):
                known.learn(position, body, member, signatures)
                continue
            _require_certificate(position, body, member, signatures, known)
            found.append(_erasure(position, member))
        except Bad as bad:
            raise BadErasures(f"{file} line {number}: {bad.found}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise BadErasures(f"{file} line {number}: it is no entry of a ledger ({error!r})") from None
    return found


def _entry(line: bytes) -> tuple[int, bytes, Body, Signatures]:
    said: dict[str, Any] = json.loads(line)
    body, signatures = open_entry(canonical(said["entry"]))
    if type(said["position"]) is not int:
        raise ValueError("its position is not a number")
    return said["position"], body, read_body(body), signatures


def _require_certificate(position: int, body: bytes, member: Body, signatures: Signatures, ring: KeyRing) -> None:
    key_id, signature = signatures[0]
    key = ring.keys.get(key_id)
    if member["type"] != CERTIFICATE:
        raise Bad("certificate", f"it is {member['type']}, and no certificate of an erasure")
    if key is None or key_id != member["key"] or key.role != "service" or not key.signs_at(position):
        raise Bad("key", f"{key_id[:16]} signed it, which is not a service key of this ledger at position {position}")
    if not holds(key.public, signed_text(EVENT_TYPE, body), signature):
        raise Bad("signature", f"the signature of {key_id[:16]} does not hold")


def _erasure(position: int, member: Body) -> Erasure:
    data = member["data"]
    return Erasure(
        position=position,
        tenant=member["tenant"],
        subject=data["subject_id"],
        ordered_position=data["ordered_position"],
        purposes=None if data["everything"] else tuple(data["purposes"]),
        artifacts=tuple(data.get("artifacts", ())),
        packs=tuple(data.get("export_ids", ())),
    )
