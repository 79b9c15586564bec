"""A checkpoint: the log's own signed word on how many events there are and what their root hash is.

Formats: c2sp.org/signed-note, c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

import nacl.bindings
import nacl.exceptions

ED25519: Final = b"\x01"
"""Signature type of a plain Ed25519 note signature."""


class BadCheckpoint(ValueError):
    """A note that is malformed, or whose signature does not hold."""


class NoteSigner(Protocol):
    @property
    def public(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...


def note_key_id(name: str, public: bytes) -> bytes:
    """The four bytes that point a verifier at a key: SHA-256(name || LF || type || public key)[:4]."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def verifier_key(name: str, public: bytes) -> str:
    """The key as verifiers configure it: `name+hex(key id)+base64(type || public key)`."""
    return f"{name}+{note_key_id(name, public).hex()}+{base64.b64encode(ED25519 + public).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Origin, number of events, root hash."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def signed(self, signer: NoteSigner) -> bytes:
        """The signed note, by the log's key under the origin's name."""
        text = self.text()
        signature = note_key_id(self.origin, signer.public) + signer.sign(text.encode())
        return f"{text}\n\u2014 {self.origin} {base64.b64encode(signature).decode()}\n".encode()


def open_checkpoint(note: bytes, origin: str, public: bytes) -> Checkpoint:
    """The checkpoint in a signed note, if `origin` signed it with `public`; raises BadCheckpoint."""
    try:
        text, _, signatures = note.decode().partition("\n\n")
        name, size, root = text.split("\n")[:3]
        checkpoint = Checkpoint(name, int(size), base64.b64decode(root, validate=True))
    except ValueError as error:
        raise BadCheckpoint(f"not a checkpoint: {error}") from error
    if checkpoint.origin != origin or str(checkpoint.size) != size or len(checkpoint.root) != 32:
        raise BadCheckpoint(f"a checkpoint of {name!r} with size {size!r} is not one of {origin!r}")
    key_id = note_key_id(origin, public)
    for line in signatures.splitlines():
        mark, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        if mark != "\u2014" or signer != origin:
            continue
        try:
            raw = base64.b64decode(encoded, validate=True)
            if raw[:4] != key_id:
                continue
            nacl.bindings.crypto_sign_open(raw[4:] + f"{text}\n".encode(), public)
        except (ValueError, nacl.exceptions.CryptoError) as error:
            raise BadCheckpoint(f"the signature of {origin} on the checkpoint of size {size} does not hold") from error
        return checkpoint
    raise BadCheckpoint(f"no signature of {origin} stands on the checkpoint of size {size}")
