"""Checkpoints: what the log signed about itself, by which key, who else saw it, and the tree that must come to the same root."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from infra.verifier.keys import KeyRing
from infra.verifier.notes import (
    LOG,
    WITNESS,
    BadNote,
    CheckpointText,
    Note,
    VerifierKey,
    cosigned_at,
    log_signed,
    parse_checkpoint,
    parse_note,
)
from infra.verifier.result import NO_WITNESS, Cosigned, Result
from infra.verifier.tree import HASH_BYTES, TILE_WIDTH, TileTree
from infra.verifier.trust import Trust

TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES


class GrownTree:
    """The tree of leaves as they come in, kept in tiles: 32 bytes a leaf, and a little more."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def add(self, leaves: Sequence[bytes]) -> None:
        self._levels[0] += b"".join(leaves)
        level = 0
        while len(self._levels[level]) >= TILE_BYTES:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            full, above = len(self._levels[level]) // TILE_BYTES, self._levels[level + 1]
            for index in range(len(above) // HASH_BYTES, full):
                above += _tile_root(self.tile(level, index, TILE_WIDTH))
            level += 1

    def tile(self, level: int, index: int, width: int) -> bytes:
        """The hashes of a tile; fewer than asked for where the tree has no more."""
        start = index * TILE_BYTES
        return bytes(self._levels[level][start : start + width * HASH_BYTES]) if level < len(self._levels) else b""

    def root(self, size: int | None = None) -> bytes:
        """The root of the whole tree, or of its first `size` leaves."""
        return TileTree(self.size if size is None else size, self.tile).root()


def _tile_root(hashes: bytes) -> bytes:
    """The root of a full tile: every hash of a log passes here, eight rows of pairs."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 64)])
    return hashes


def read_checkpoint(note: bytes | None, ledger: str, ring: KeyRing, result: Result) -> tuple[Note, CheckpointText] | None:
    """The checkpoint, when the ledger's log key of that time signed it; what is wrong with it goes to the result."""
    if note is None:
        result.problem("checkpoint", "there is none")
        return None
    try:
        opened = parse_note(note)
        said = parse_checkpoint(opened.text)
        by = next((key for key in ring.of_role("log") if log_signed(opened, VerifierKey(ledger, LOG, key.public))), None)
    except BadNote as error:
        result.problem("checkpoint", str(error))
        return None
    if said.origin != ledger:
        result.problem("checkpoint", f"it is one of {said.origin!r}, and the ledger is {ledger!r}")
    elif by is None:
        result.problem("checkpoint", f"no log key of {ledger} that its key stream names signed the checkpoint of {said.size}")
    elif not by.signs_at(said.size):
        result.problem("checkpoint", f"log key {by.key_id[:16]} signed it, which may not sign a checkpoint of {said.size}")
    else:
        return opened, said
    return None


def check_cosignatures(opened: Note, said: CheckpointText, trust: Trust, ring: KeyRing, result: Result) -> None:
    """Who else saw the checkpoint, of the witnesses one trusts; else of those the ledger names."""
    named = tuple(VerifierKey(key.holder or "", WITNESS, key.public) for key in ring.of_role("witness") if key.signs_at(said.size))
    for witness in trust.witnesses or named:
        try:
            at = cosigned_at(opened, witness)
        except BadNote as error:
            result.problem("witness", str(error))
            continue
        if at is not None:
            result.cosigned.append(Cosigned.of(witness.name, at))
    if len(result.cosigned) < trust.required:
        result.problem("witness", f"{len(result.cosigned)} of the witnesses cosigned it, and {trust.required} are required")
    if not result.cosigned:
        unknown = sorted({signature.name for signature in opened.signatures} - {said.origin})
        others = f"It bears signatures of {', '.join(unknown)}, and nobody said that you trust them. " if unknown else ""
        result.warnings.append(others + NO_WITNESS)
    elif not trust.witnesses:
        result.warnings.append("The witnesses' keys were taken from the ledger itself: compare them with what the witnesses publish.")


def warn_of_root(trust: Trust, result: Result) -> None:
    """Where nobody said which root key is trusted, the ledger's own word was taken."""
    if not trust.root_keys and result.root_key:
        result.warnings.append(
            f"The root key {result.root_key} was taken from the ledger itself: compare it with one you were given elsewhere."
        )


def whose_word(said: CheckpointText, ring: KeyRing) -> str:
    """What has to be known of a checkpoint whose log key was in other hands by then; nothing of any other."""
    for key in ring.of_role("log"):
        if said.size in key.disputed() and key.signs_at(said.size):
            since = f"the log key was in other hands since position {key.compromised_since}"
            return f" ({since}: it is the log's word only if a witness cosigned it)"
    return ""


def encoded(root: bytes) -> str:
    return base64.b64encode(root).decode()
