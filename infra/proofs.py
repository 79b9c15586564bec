"""Proofs about one event, or about two moments of the log: what a person can check without reading all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from domain.ledger import LedgerUnavailable
from infra.store import Store
from infra.tiles import Tiles
from infra.verifier.notes import BadNote, parse_checkpoint, parse_note
from infra.verifier.tlog_proof import TlogProof
from infra.verifier.tree import HASH_BYTES, ProofError, TileTree

_SIGNED: Final = """
    SELECT coalesce(
        (SELECT size FROM ledger.cosignatures WHERE size >= %(size)s GROUP BY size HAVING count(*) >= %(cosigned)s ORDER BY size LIMIT 1),
        (SELECT min(size) FROM ledger.checkpoints WHERE size >= %(size)s))
"""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That the event at `position` (from 1) is in the log of `size` events: the hashes lead from its leaf to the root."""

    position: int
    size: int
    leaf: bytes
    root: bytes
    hashes: list[bytes]

    @property
    def index(self) -> int:
        """The leaf's place in the tree, from 0."""
        return self.position - 1


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the log of `new_size` events begins with all of the log of `old_size`: the hashes lead from one root to the other."""

    old_size: int
    new_size: int
    old_root: bytes
    new_root: bytes
    hashes: list[bytes]


class Proofs:
    """Proofs from the tiles, for any size the log ever had. A root that contradicts a signed checkpoint is never handed out."""

    def __init__(self, tiles: Tiles, store: Store) -> None:
        self._tiles, self._store = tiles, store

    async def inclusion(self, position: int, size: int) -> Inclusion:
        """For 1 <= position <= size <= the log's size."""
        with _whole():
            tree = await self._tiles.tree(size, position - 1)
            return Inclusion(position, size, tree.leaf(position - 1), await self._root(tree), tree.inclusion(position - 1))

    async def consistency(self, old_size: int, new_size: int) -> Consistency:
        """For 1 <= old_size <= new_size <= the log's size."""
        with _whole():
            tree = await self._tiles.tree(new_size, old_size - 1)
            # The old tree's last tiles are the left part of tiles that the new tree has at the same places.
            old = TileTree(old_size, lambda level, index, width: tree.tile(level, index)[: width * HASH_BYTES])
            roots = await self._root(old), await self._root(tree)
            return Consistency(old_size, new_size, *roots, tree.consistency(old_size))

    async def root(self, size: int) -> bytes:
        """The root of the first `size` events, at most the log's size."""
        with _whole():
            return await self._root(await self._tiles.tree(size))

    async def checkpoint(self, size: int) -> bytes | None:
        """The signed checkpoint of exactly `size` events, with the cosignatures there are."""
        note = await self._store.note(size)
        return None if note is None else b"".join([note, *await self._store.cosignatures(size)])

    async def signed_size(self, size: int, cosigned: int = 1) -> int | None:
        """The size of the first checkpoint over `size` events or more that bears so many cosignatures, or else of the first there is."""
        ((signed,),) = await self._tiles.fetch(_SIGNED, {"size": size, "cosigned": cosigned})
        return None if signed is None else int(signed)

    async def tlog_proof(self, position: int, size: int, cosigned: int = 1) -> bytes | None:
        """The proof as c2sp.org/tlog-proof; None when no checkpoint of at least `size` events was signed yet.

        It rests upon the first checkpoint of that size or more with so many cosignatures, or else upon the first there is.
        """
        signed = await self.signed_size(max(position, size), cosigned)
        note = await self.checkpoint(signed) if signed is not None else None
        if signed is None or note is None:
            return None
        proof = await self.inclusion(position, signed)
        return TlogProof(proof.index, tuple(proof.hashes), note).text()

    async def _root(self, tree: TileTree) -> bytes:
        """The tree's root, which is the one that was signed at this size, if any was."""
        root, note = tree.root(), await self._store.note(tree.size)
        try:
            if note is not None and parse_checkpoint(parse_note(note).text).root != root:
                raise ProofError(f"their root at size {tree.size} is not the one that was signed")
        except BadNote as error:
            raise ProofError(f"the checkpoint of size {tree.size} cannot be read: {error}") from error
        return root


@contextmanager
def _whole() -> Iterator[None]:
    """Tiles that do not fit together, or do not fit what was signed, prove nothing."""
    try:
        yield
    except ProofError as error:
        remedy = "Run `aureus log fsck`; with --repair it builds the tiles again."
        raise LedgerUnavailable("tiles_damaged", f"The log's tiles do not fit together: {error}.", remedy) from error
