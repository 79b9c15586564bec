"""A checkpoint: the log's own signed word on how many events there are and what their root hash is.

Formats: c2sp.org/signed-note, c2sp.org/tlog-checkpoint; how one is read stands in `infra.verifier.notes`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Protocol

from infra.verifier.notes import LOG, NoteSignature, VerifierKey, signature_line


class NoteSigner(Protocol):
    @property
    def public(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...


def verifier_key(name: str, public: bytes) -> str:
    """The log's key as verifiers configure it: `name+hex(key id)+base64(1 || public key)`."""
    return VerifierKey(name, LOG, public).text()


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
        text = self.text().encode()
        key_id = VerifierKey(self.origin, LOG, signer.public).key_id
        return text + b"\n" + signature_line(NoteSignature(self.origin, key_id, signer.sign(text)))
