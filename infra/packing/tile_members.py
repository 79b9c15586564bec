"""The tiles of a pack: those its entries stand under, all above them, and the right edge of the tree; each checked against the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Final

from infra.packing.manifest import root_of
from infra.packing.pack_file import PackFile
from infra.packing.plan import BuildFailed, Plan
from infra.packing.reading import Connection, Positions, copied
from infra.tiles import Tiles
from infra.verifier.tree import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, ProofError, TileTree, tile_path, tile_width

AT_ONCE: Final = 1_000
TOLD_TILES: Final = 100
Place = tuple[int, int, int]
"""(level, index, width)"""


def needed_tiles(plan: Plan, positions: Iterable[Positions]) -> list[bytearray]:
    """For each level a byte per tile: 1 if it belongs into the pack."""
    size, level = plan.checkpoint_size, 0
    lowest = bytearray(-(-size // TILE_WIDTH))
    for chunk in positions:
        for position in chunk:
            lowest[(position - 1) // TILE_WIDTH] = 1
    if plan.everything:
        lowest[:] = b"\1" * len(lowest)
    levels = [lowest]
    while size >> TILE_HEIGHT * (level + 1):
        below, level = levels[-1], level + 1
        above = bytearray(-(-(size >> TILE_HEIGHT * level) // TILE_WIDTH))
        for index, needed in enumerate(below):
            # The parent of the last tiles can be an edge that the level above does not have yet.
            if needed and index >> TILE_HEIGHT < len(above):
                above[index >> TILE_HEIGHT] = 1
        levels.append(above)
    for level, tiles in enumerate(levels):
        edge = size >> TILE_HEIGHT * (level + 1)
        if edge < len(tiles):
            tiles[edge] = 1
    return levels


def write_tiles(
    pack: PackFile, plan: Plan, connection: Connection, dsn: str, needed: list[bytearray], progress: Callable[[str, int, int], None]
) -> None:
    """Writes the tiles, from the leaves up. Raises BuildFailed when they do not come to the checkpoint's root."""
    total, done = sum(map(sum, needed)), 0
    edges = asyncio.run(_edges(dsn, plan.checkpoint_size))
    checking = _Checking()
    for level, marks in enumerate(needed):
        for place, hashes in _read(connection, level, marks, plan.checkpoint_size, edges):
            checking.add(place, hashes)
            pack.add(f"log/{tile_path(*place)}", hashes)
            done += 1
            if done % TOLD_TILES == 1 or done == total:
                progress("tiles", done, total)
    try:
        root = TileTree(plan.checkpoint_size, lambda *place: edges[place]).root()
    except ProofError as error:
        raise _damaged(str(error)) from error
    if root != root_of(plan):
        raise _damaged("they do not come to the root that was signed")


async def _edges(dsn: str, size: int) -> dict[Place, bytes]:
    """The tiles at the right edge, of which the root is made; from here on every full one is kept."""
    tiles, found = Tiles(dsn), {}
    await tiles.open()
    try:
        await tiles.ensure(size)
        level = 0
        while size >> TILE_HEIGHT * level:
            index = (size >> TILE_HEIGHT * level) // TILE_WIDTH
            if width := tile_width(level, index, size):
                found[level, index, width] = await tiles.read(level, index, width)
            level += 1
    finally:
        await tiles.close()
    return found


def _read(connection: Connection, level: int, marks: bytearray, size: int, edges: dict[Place, bytes]) -> Iterator[tuple[Place, bytes]]:
    """The marked tiles of a level, in order: the full ones as they are kept, then the one at the edge, if there is one."""
    full = [index for index, needed in enumerate(marks) if needed and (level, index, tile_width(level, index, size)) not in edges]
    expected = iter(full)
    for start in range(0, len(full), AT_ONCE):
        indices = ",".join(map(str, full[start : start + AT_ONCE]))
        query = f"SELECT index, hashes FROM ledger.tiles WHERE level = {level} AND index = ANY('{{{indices}}}') ORDER BY index"  # noqa: S608
        for index, hashes in copied(connection, query, ["int8", "bytea"]):
            if index != next(expected, None):
                break
            yield (level, index, TILE_WIDTH), hashes
    if (missing := next(expected, None)) is not None:
        raise _damaged(f"{tile_path(level, missing)} is not kept")
    yield from ((place, hashes) for place, hashes in edges.items() if place[0] == level and marks[place[1]])


class _Checking:
    """Compares each full tile's root with its hash in the tile above; between levels it holds 32 bytes for 256 events."""

    def __init__(self) -> None:
        self._roots: dict[int, bytes] = {}
        self._below: dict[int, bytes] = {}
        self._level = 0

    def add(self, place: Place, hashes: bytes) -> None:
        level, index, width = place
        if level != self._level:
            self._below, self._roots, self._level = self._roots, {}, level
        first = index << TILE_HEIGHT
        for number in range(width) if level else ():
            root = self._below.pop(first + number, None)
            if root is not None and root != hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]:
                raise _damaged(f"{tile_path(level - 1, first + number)} does not hash to what the tile above it says")
        if width == TILE_WIDTH:
            self._roots[index] = _root_of_full(hashes)


def _root_of_full(hashes: bytes) -> bytes:
    """`subtree_root` of 256 hashes, row by row: a pack of a large log has thousands of them."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest() for at in pairs])
    return hashes


def _damaged(found: str) -> BuildFailed:
    return BuildFailed("tiles_damaged", f"The log's tiles do not fit together: {found}. Run `aureus log fsck --repair`.")
