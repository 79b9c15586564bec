"""The log's Merkle tree (RFC 6962) in tiles (c2sp.org/tlog-tiles): what proves that an event is in the log, and that the log only grew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal

EMPTY_ROOT: Final = sha256(b"").digest()
HASH_BYTES: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_LEVEL: Final = 63
_PATH: Final = re.compile(r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?")

TileLevel = int | Literal["entries"]
ReadTile = Callable[[int, int, int], bytes]
"""(level, index, width) -> the tile's hashes, 32 * width bytes."""


class ProofError(ValueError):
    """A proof that does not hold, or a place that no tree has; it says which."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


# -- checking proofs


def check_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Raises ProofError unless `path` proves that the leaf hash stands at `index` (from 0) of the tree of `size` leaves with this root."""
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size} has no leaf {index}")
    _require_hashes(leaf, *path, root)
    sides = list(_sides(index, size - 1))
    if len(path) != len(sides):
        raise ProofError(f"the path has {len(path)} hashes, that of leaf {index} of {size} has {len(sides)}")
    node = leaf
    for on_the_left, sibling in zip(sides, path, strict=True):
        node = node_hash(sibling, node) if on_the_left else node_hash(node, sibling)
    if node != root:
        raise ProofError(f"leaf {index} of {size} hashes to {node.hex()}, the root is {root.hex()}")


def check_consistency(old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Raises ProofError unless `path` proves that the tree of `new_size` begins with all of the tree of `old_size`, which is at least 1."""
    if not 1 <= old_size <= new_size:
        raise ProofError(f"a tree of {new_size} is not compared with one of {old_size}")
    if old_size == new_size:
        if path or old_root != new_root:
            raise ProofError(f"two trees of {old_size} are the same tree: an empty path, and one root")
        return
    _require_hashes(old_root, *path, new_root)
    # The climb begins at the last full subtree of the old tree. When that is the whole old tree, its root is not said again.
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    sides, climb = list(_sides(at, last)), path if at else (old_root, *path)
    if len(climb) != len(sides) + 1:
        raise ProofError(f"the path has {len(path)} hashes, that from {old_size} to {new_size} has {len(sides) + bool(at)}")
    old = new = climb[0]
    for on_the_left, sibling in zip(sides, climb[1:], strict=True):
        new = node_hash(sibling, new) if on_the_left else node_hash(new, sibling)
        old = node_hash(sibling, old) if on_the_left else old
    for size, found, root in ((old_size, old, old_root), (new_size, new, new_root)):
        if found != root:
            raise ProofError(f"the path leads to {found.hex()} at size {size}, the root is {root.hex()}")


def _sides(at: int, last: int) -> Iterator[bool]:
    """For each sibling on the way up from node `at` of a row that ends with node `last`: whether it stands on the left."""
    while last:
        on_the_left = at & 1 == 1 or at == last
        yield on_the_left
        while on_the_left and at and not at & 1:  # a last node without a sibling is its own parent
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1


def _require_hashes(*hashes: bytes) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise ProofError(f"a hash has {HASH_BYTES} bytes, this one {len(value)}")


# -- where tiles are


def tile_path(level: TileLevel, index: int, width: int = TILE_WIDTH) -> str:
    """`tile/0/x001/234`, `tile/1/000.p/17`, `tile/entries/000`. Raises ProofError for what is no tile."""
    if not (level == "entries" or 0 <= level <= MAX_LEVEL) or index < 0 or not 1 <= width <= TILE_WIDTH:
        raise ProofError(f"there is no tile of level {level}, index {index}, width {width}")
    digits = f"{index:d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *parents, last = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    place = "/".join([f"x{part}" for part in parents] + [last])
    return f"tile/{level}/{place}" + (f".p/{width}" if width < TILE_WIDTH else "")


def parse_tile_path(path: str) -> tuple[TileLevel, int, int]:
    """(level or "entries", index, width) of a tile's one path. Raises ProofError for any other text."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ProofError(f"{path!r} is not the path of a tile")
    level: TileLevel = "entries" if found["level"] == "entries" else int(found["level"])
    index, width = int(re.sub("[x/]", "", found["index"])), int(found["width"] or TILE_WIDTH)
    if tile_path(level, index, width) != path:
        raise ProofError(f"{path!r} is not how the path of a tile is written")
    return level, index, width


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes this tile has in a tree of that size: 256, fewer at the right edge, 0 beyond it."""
    return max(0, min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - (index << TILE_HEIGHT)))


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """(level, index, width) of every tile of a tree of that size, from the leaves up and from left to right."""
    level = 0
    while width := size >> TILE_HEIGHT * level:
        for index in range(-(-width // TILE_WIDTH)):
            yield level, index, tile_width(level, index, size)
        level += 1


# -- the tree of the tiles


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The Merkle tree hash over 1 to 256 hashes."""
    if not 1 <= len(hashes) <= TILE_WIDTH:
        raise ProofError(f"a tile has 1 to {TILE_WIDTH} hashes, not {len(hashes)}")
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return node_hash(subtree_root(hashes[:middle]), subtree_root(hashes[middle:]))


@lru_cache(maxsize=512)
def _rows(hashes: bytes) -> tuple[bytes, ...]:
    """A tile's nodes row by row: its hashes, their parents, and so on up; a node without its sibling has no parent here."""
    rows = [hashes]
    while len(rows[-1]) > HASH_BYTES:
        below = rows[-1]
        whole = len(below) // (2 * HASH_BYTES) * 2 * HASH_BYTES
        pairs = range(0, whole, 2 * HASH_BYTES)
        rows.append(b"".join([sha256(b"\x01" + below[start : start + 2 * HASH_BYTES]).digest() for start in pairs]))
    return tuple(rows)


class TileTree:
    """A tree of `size` leaves in tiles, each read once and, when it is full, compared with its hash in the tile above.

    The tiles at the right edge have nothing above them: `root()` is made of them. So whoever compares `root()` with a
    root that was signed knows that all that the tree returns, before or after, is of the signed tree.
    """

    def __init__(self, size: int, read: ReadTile) -> None:
        if size < 0:
            raise ProofError(f"a tree has no size {size}")
        self.size, self._read = size, read
        self._tiles: dict[tuple[int, int], bytes] = {}

    def root(self) -> bytes:
        """The tree's root, from its tiles."""
        return self._range(0, self.size) if self.size else EMPTY_ROOT

    def leaf(self, index: int) -> bytes:
        """The leaf hash at an index from 0."""
        self._require_leaf(index)
        return self._node(0, index)

    def inclusion(self, index: int) -> list[bytes]:
        """The hashes that lead from a leaf up to the root, the leaf's sibling first."""
        self._require_leaf(index)
        path, start, end = [], 0, self.size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old_size: int) -> list[bytes]:
        """The hashes that lead from the tree of the first `old_size` leaves to this one; none when there is nothing to lead from."""
        if not 0 <= old_size <= self.size:
            raise ProofError(f"a tree of {self.size} did not grow from one of {old_size}")
        path, start, end = [], 0, self.size
        while old_size not in (0, end):
            middle = start + _split(end - start)
            if old_size <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        if start:
            path.append(self._range(start, end))
        return path[::-1]

    def tile(self, level: int, index: int) -> bytes:
        """A tile's hashes."""
        known = self._tiles.get((level, index))
        if known is not None:
            return known
        width = tile_width(level, index, self.size)
        hashes = self._read(level, index, width)
        if not width or len(hashes) != width * HASH_BYTES:
            raise ProofError(f"tile {index} of level {level} has {len(hashes)} bytes, in a tree of {self.size} it has {width} hashes")
        if width == TILE_WIDTH and _rows(hashes)[-1] != self._hash(level + 1, index):
            raise ProofError(f"{tile_path(level, index)} does not hash to what the tile above it says")
        self._tiles[level, index] = hashes
        return hashes

    def _hash(self, level: int, index: int) -> bytes:
        start = index % TILE_WIDTH * HASH_BYTES
        return self.tile(level, index // TILE_WIDTH)[start : start + HASH_BYTES]

    def _node(self, height: int, index: int) -> bytes:
        """The root of the full subtree over the leaves [index << height, (index + 1) << height)."""
        level, row = divmod(height, TILE_HEIGHT)
        if row == 0:
            return self._hash(level, index)
        in_tile = TILE_WIDTH >> row
        start = index % in_tile * HASH_BYTES
        return _rows(self.tile(level, index // in_tile))[row][start : start + HASH_BYTES]

    def _range(self, start: int, end: int) -> bytes:
        """The Merkle tree hash of the leaves [start, end), where that is a node of some tree of this log."""
        count = end - start
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            return self._node(height, start >> height)
        middle = start + _split(count)
        return node_hash(self._range(start, middle), self._range(middle, end))

    def _require_leaf(self, index: int) -> None:
        if not 0 <= index < self.size:
            raise ProofError(f"a tree of {self.size} has no leaf {index}")


def _split(count: int) -> int:
    """Where RFC 6962 divides more than one leaf: the largest power of two below their number."""
    return 1 << ((count - 1).bit_length() - 1)
