"""The stored tiles of a ledger, compared with the tree that its events hash to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from infra.verifier.checkpoints import GrownTree
from infra.verifier.tree import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, tile_path

_STORED: Final = "SELECT index, hashes, root FROM ledger.tiles WHERE level = %s AND index >= %s AND index < %s ORDER BY index"
_LEVELS: Final = "SELECT level, max(index) FROM ledger.tiles GROUP BY level ORDER BY level"

Compared = tuple[int, int, str | None]
"""(level, index, what is wrong) of a tile."""


def compared(connection: psycopg.Connection[TupleRow], tree: GrownTree) -> Iterator[Compared]:
    """Every stored tile, and every one that should be stored and is not: tiles are kept one after another, so a gap was made."""
    for level, last in connection.execute(_LEVELS, binary=True).fetchall():
        full = tree.size >> TILE_HEIGHT * (level + 1)
        for start in range(0, last + 1, TILE_WIDTH):
            rows = connection.execute(_STORED, (level, start, start + TILE_WIDTH), binary=True).fetchall()
            stored = {index: (hashes, root) for index, hashes, root in rows}
            above = tree.tile(level + 1, start // TILE_WIDTH, TILE_WIDTH)
            for index in sorted(stored.keys() | range(start, min(start + TILE_WIDTH, full, last + 1))):
                at = index % TILE_WIDTH * HASH_BYTES
                right = tree.tile(level, index, TILE_WIDTH), above[at : at + HASH_BYTES]
                yield level, index, _wrong(tile_path(level, index), stored.get(index), right if index < full else None)


def _wrong(path: str, stored: tuple[bytes, bytes] | None, right: tuple[bytes, bytes] | None) -> str | None:
    if right is None:
        return f"{path} is of no tree that this ledger had"
    if stored is None:
        return f"{path} is missing"
    return None if stored == right else f"{path} is not what the events hash to"
