"""A proof that travels alone: an event's place, the way from its leaf to the root, and the signed checkpoint with that root.

Format: c2sp.org/tlog-proof. Strict, as notes are: one proof, one way to write it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from infra.verifier.notes import CheckpointText, decode_base64, decode_decimal, parse_checkpoint, parse_note
from infra.verifier.tree import HASH_BYTES, ProofError, check_inclusion

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_HASHES: Final = 63


@dataclass(frozen=True, slots=True)
class TlogProof:
    """The leaf's index (from 0), the hashes from its sibling up, the note of the checkpoint, and extra bytes that nothing vouches for."""

    index: int
    hashes: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def text(self) -> bytes:
        """What `parse` reads."""
        extra = [] if self.extra is None else [f"extra {base64.b64encode(self.extra).decode()}"]
        lines = [HEADER, *extra, f"index {self.index}", *(base64.b64encode(value).decode() for value in self.hashes)]
        return "\n".join([*lines, "", ""]).encode() + self.note

    @classmethod
    def parse(cls, text: bytes) -> TlogProof:
        """Raises ProofError or BadNote; nothing is verified yet."""
        head, blank, note = text.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise ProofError(f"the proof is not ASCII at byte {error.start}") from error
        if not blank or lines.pop(0) != HEADER:
            raise ProofError(f"a proof begins with {HEADER}, and has an empty line before its checkpoint")
        extra = decode_base64(lines.pop(0)[6:], "the extra data") if lines and lines[0].startswith("extra ") else None
        if not lines or not lines[0].startswith("index "):
            raise ProofError("the proof says no index")
        index, hashes = decode_decimal(lines[0][6:], "the index"), tuple(decode_base64(line, "a hash of the proof") for line in lines[1:])
        if len(hashes) > MAX_HASHES or any(len(value) != HASH_BYTES for value in hashes):
            raise ProofError(f"a proof has up to {MAX_HASHES} hashes of {HASH_BYTES} bytes")
        return cls(index, hashes, note, extra)

    def checkpoint(self) -> CheckpointText:
        """What the note says; who signed it is another question. Raises BadNote."""
        return parse_checkpoint(parse_note(self.note).text)

    def check(self, leaf: bytes) -> CheckpointText:
        """The checkpoint in whose tree this leaf hash stands. Raises ProofError, or BadNote when it is no checkpoint."""
        checkpoint = self.checkpoint()
        check_inclusion(self.index, checkpoint.size, leaf, self.hashes, checkpoint.root)
        return checkpoint
