"""The ledger's Merkle tree (RFC 6962): one root hash that commits to every event before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from infra.verifier.tree import EMPTY_ROOT, leaf_hash, node_hash

__all__ = ["EMPTY_ROOT", "Frontier", "leaf_hash", "node_hash"]


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of the tree: the roots of its full subtrees, largest first. Enough to append and to know the root."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """The frontier after more leaf hashes."""
        size, peaks = self.size, list(self.peaks)
        for leaf in leaves:
            node, ones = leaf, size
            while ones & 1:
                node = sha256(b"\x01" + peaks.pop() + node).digest()
                ones >>= 1
            peaks.append(node)
            size += 1
        return Frontier(size, tuple(peaks))

    def root(self) -> bytes:
        """The tree's root hash (32 bytes); that of nothing is SHA-256 of nothing."""
        if not self.peaks:
            return EMPTY_ROOT
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = node_hash(peak, node)
        return node

    def dump(self) -> bytes:
        return b"".join(self.peaks)

    @classmethod
    def load(cls, size: int, peaks: bytes) -> Frontier:
        if len(peaks) != 32 * size.bit_count():
            raise ValueError(f"a frontier of size {size} has {size.bit_count()} peaks, not {len(peaks) / 32:g}")
        return cls(size, tuple(peaks[start : start + 32] for start in range(0, len(peaks), 32)))
