"""A backup's manifest: what lies in the file, byte for byte, of which ledger and of which moment, signed by that ledger's service key."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from domain.ledger import EventSigner
from infra.canonical import canonical
from infra.verifier.canonical import NotCanonical, canonical_object
from infra.verifier.events import Bad, holds, open_signed, signed_text
from infra.verifier.keys import KeyRing

NAME: Final = "manifest.json"
FORMAT: Final = "aureus-backup/v1"
PAYLOAD_TYPE: Final = b"application/vnd.aureus.backup.v1+json"


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PieceOf(_Said):
    """Some rows of a table: the member that holds them, and the SHA-256 (hex) of the member's bytes."""

    name: str
    rows: int
    sha256: str


class TableOf(_Said):
    """A table: the name and type of each column, and its rows."""

    table: str
    columns: list[list[str]]
    pieces: list[PieceOf]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


class FilesOf(_Said):
    """Files that lie under their SHA-256: how many, and the SHA-256 over their names, sorted, each with a line feed."""

    count: int
    bytes: int
    names_sha256: str


class Manifest(_Said):
    """What a backup says of itself; whether that is so, `infra.backup.verifying` finds out."""

    format: str
    backup_id: str
    ledger: str
    size: int
    root: str
    """Hex."""
    checkpoint: str
    """The signed note of that size."""
    cosigned: str | None
    """The latest checkpoint that somebody else cosigned, with what they signed; None when nobody did."""
    at: str
    software: str
    schema_stamp: str
    tables: list[TableOf]
    blobs: FilesOf | None
    """None: they lie in a bucket, which is backed up by itself."""
    packs: FilesOf
    damaged: list[str]
    """Files that were not what their names say when the backup was taken, and are not in it."""
    vault_keys: bool
    """Whether the keys that personal values are sealed under are in it, wrapped; else they lie in a database of their own."""
    keys_sha256: str | None
    """Of the member that holds the private keys, sealed under a passphrase; None when they are not in it."""

    def table(self, name: str) -> TableOf | None:
        return next((table for table in self.tables if table.table == name), None)


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest, and who says so."""

    manifest: Manifest
    payload: bytes
    key_id: str
    signature: bytes


def sealed(manifest: Manifest, signer: EventSigner) -> bytes:
    """The DSSE envelope around the manifest's canonical bytes."""
    payload = canonical(manifest.model_dump(mode="json"))
    signature = signer.sign(signed_text(PAYLOAD_TYPE, payload))
    signatures = [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}]
    return canonical({"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE.decode(), "signatures": signatures})


def opened(document: bytes) -> Signed:
    """The manifest in its envelope; raises Bad."""
    try:
        envelope = canonical_object(document)
        if envelope.get("payloadType") != PAYLOAD_TYPE.decode():
            raise Bad("manifest", "it is not a DSSE envelope of a backup's manifest")
        payload, signatures = open_signed(envelope)
        said: dict[str, Any] = canonical_object(payload)
        if said.get("format") != FORMAT:
            raise Bad("manifest", f"its format is {said.get('format')!r}, and this program knows {FORMAT}")
        manifest = Manifest.model_validate(said)
    except NotCanonical as error:
        raise Bad("manifest", str(error)) from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise Bad("manifest", f"its member {place} is not what it should be") from None
    key_id, signature = signatures[0]
    return Signed(manifest, payload, key_id, signature)


def require_signed(signed: Signed, ring: KeyRing) -> None:
    """By a service key in force where the backup ends; raises Bad."""
    size, key = signed.manifest.size, ring.keys.get(signed.key_id)
    if key is None or key.role != "service" or not key.signs_at(size + 1):
        raise Bad("manifest", f"{signed.key_id[:16]} signed it, which is not a service key of {signed.manifest.ledger} in force at {size}")
    if not holds(key.public, signed_text(PAYLOAD_TYPE, signed.payload), signed.signature):
        raise Bad("manifest", f"the signature of {signed.key_id[:16]} does not hold")
