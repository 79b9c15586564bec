"""The tree of tiles: its roots and proofs are those that RFC 6962 defines, and everything else is refused."""

import json
from base64 import b64decode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.verifier.tree import (
    EMPTY_ROOT,
    ProofError,
    ReadTile,
    TileTree,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
    parse_tile_path,
    subtree_root,
    tile_path,
    tiles_of,
)

VECTORS: Final = Path(__file__).parent / "data/merkle"
LEAVES: Final = [leaf_hash(index.to_bytes(4, "big")) for index in range(70_000)]


# -- RFC 6962, section 2.1, word for word


def _split(count: int) -> int:
    split = 1
    while split * 2 < count:
        split *= 2
    return split


def _mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node_hash(_mth(leaves[:k]), _mth(leaves[k:]))


def _path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    return [*_path(m, leaves[:k]), _mth(leaves[k:])] if m < k else [*_path(m - k, leaves[k:]), _mth(leaves[:k])]


def _subproof(m: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [_mth(leaves)]
    k = _split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], whole=whole), _mth(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], whole=False), _mth(leaves[:k])]


def _tiles(size: int) -> dict[tuple[int, int, int], bytes]:
    """Every tile as c2sp.org/tlog-tiles defines it: MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l])."""
    row, level, tiles = LEAVES[:size], 0, {}
    while row:
        for index in range(0, len(row), 256):
            hashes = row[index : index + 256]
            tiles[level, index // 256, len(hashes)] = b"".join(hashes)
        row = [_mth(row[start : start + 256]) for start in range(0, len(row) - 255, 256)]
        level += 1
    return tiles


def _reader(size: int) -> ReadTile:
    tiles = _tiles(size)
    return lambda level, index, width: tiles.pop((level, index, width))  # a second reading of a tile fails


# -- the published vectors of transparency-dev/merkle


def _vectors(kind: str) -> list[Any]:
    found = sorted((VECTORS / kind).rglob("*.json"))
    return [pytest.param(json.loads(path.read_text()), id=str(path.relative_to(VECTORS).with_suffix(""))) for path in found]


def _holds(check: Callable[[], None]) -> bool:
    try:
        check()
    except ProofError:
        return False
    return True


@pytest.mark.parametrize("vector", _vectors("inclusion"))
def test_the_published_inclusion_proofs(vector: dict[str, Any]) -> None:
    leaf, root = b64decode(vector["leafHash"]), b64decode(vector["root"])
    path = [b64decode(text) for text in vector["proof"] or ()]
    assert _holds(lambda: check_inclusion(vector["leafIdx"], vector["treeSize"], leaf, path, root)) is not vector["wantErr"]


@pytest.mark.parametrize("vector", _vectors("consistency"))
def test_the_published_consistency_proofs(vector: dict[str, Any]) -> None:
    roots = b64decode(vector["root1"]), b64decode(vector["root2"])
    path = [b64decode(text) for text in vector["proof"] or ()]
    assert _holds(lambda: check_consistency(vector["size1"], vector["size2"], path, *roots)) is not vector["wantErr"]


def test_all_published_vectors_are_here() -> None:
    counts = {kind: [vector.values[0]["wantErr"] for vector in _vectors(kind)] for kind in ("inclusion", "consistency")}
    assert {kind: (wrong.count(False), wrong.count(True)) for kind, wrong in counts.items()} == {
        "inclusion": (6, 92),
        "consistency": (6, 92),
    }


# -- proofs from tiles


@given(st.integers(1, 1_500), st.data())
def test_an_inclusion_proof_is_that_of_the_rfc(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves, tree = LEAVES[:size], TileTree(size, _reader(size))
    path = tree.inclusion(index)
    assert (path, tree.root(), tree.leaf(index)) == (_path(index, leaves), _mth(leaves), leaves[index])
    check_inclusion(index, size, leaves[index], path, tree.root())
    for wrong_index, wrong_size in ((index + 1, size), (index, size + 1)):
        # Other numbers may describe the same climb; the climb of another leaf never ends at this root.
        if wrong_index < wrong_size and _path_shape(wrong_index, wrong_size) != _path_shape(index, size):
            assert not _holds(lambda at=wrong_index, of=wrong_size: check_inclusion(at, of, leaves[index], path, tree.root()))  # type: ignore[misc]


def _path_shape(index: int, size: int) -> list[bool]:
    """On which side the sibling stands, from the leaf up."""
    if size == 1:
        return []
    k = _split(size)
    return [*_path_shape(index, k), True] if index < k else [*_path_shape(index - k, size - k), False]


@given(st.integers(1, 1_500), st.data())
def test_a_consistency_proof_is_that_of_the_rfc(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    leaves, tree = LEAVES[:size], TileTree(size, _reader(size))
    path = tree.consistency(old)
    assert path == _subproof(old, leaves)
    check_consistency(old, size, path, _mth(leaves[:old]), tree.root())


@given(st.integers(2, 600), st.data())
def test_one_flipped_bit_of_a_proof_is_found(size: int, data: st.DataObject) -> None:
    tree = TileTree(size, _reader(size))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    root, old_root = tree.root(), _mth(LEAVES[:old])
    inclusion, consistency = tree.inclusion(index), tree.consistency(old)
    flip = 1 << data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, len(inclusion) - 1))
    inclusion[at] = (int.from_bytes(inclusion[at], "big") ^ flip).to_bytes(32, "big")
    with pytest.raises(ProofError, match="hashes to"):
        check_inclusion(index, size, LEAVES[index], inclusion, root)
    at = data.draw(st.integers(0, len(consistency) - 1))
    consistency[at] = (int.from_bytes(consistency[at], "big") ^ flip).to_bytes(32, "big")
    with pytest.raises(ProofError, match="the path leads to"):
        check_consistency(old, size, consistency, old_root, root)


def test_a_tree_of_three_levels_of_tiles() -> None:
    size = 70_000  # the example of c2sp.org/tlog-tiles
    assert [(level, index, width) for level, index, width in tiles_of(size) if width < 256 or level == 1] == [
        (0, 273, 112),
        (1, 0, 256),
        (1, 1, 17),
        (2, 0, 1),
    ]
    assert set(tiles_of(size)) == set(_tiles(size))
    tree, root = TileTree(size, _reader(size)), _mth(LEAVES)
    assert tree.root() == root
    for index in (0, 255, 256, 65_535, 65_536, 69_999):
        check_inclusion(index, size, tree.leaf(index), tree.inclusion(index), root)
    for old in (1, 256, 65_535, 65_536, 65_537, 69_999):
        check_consistency(old, size, tree.consistency(old), _mth(LEAVES[:old]), root)


@given(st.integers(257, 1_500), st.data())
def test_a_changed_tile_is_found_by_whoever_compares_the_root(size: int, data: st.DataObject) -> None:
    tiles = _tiles(size)
    place = data.draw(st.sampled_from(sorted(tiles)))
    at = data.draw(st.integers(0, len(tiles[place]) - 1))
    tiles[place] = tiles[place][:at] + bytes([tiles[place][at] ^ 1]) + tiles[place][at + 1 :]
    tree, root = TileTree(size, lambda *place: tiles[place]), _mth(LEAVES[:size])

    def read_it_all() -> None:
        for index in range(size):
            tree.leaf(index)

    assert not _holds(read_it_all) or tree.root() != root


def test_what_a_tree_does_not_have_is_refused() -> None:
    tree = TileTree(5, _reader(5))
    with pytest.raises(ProofError, match="a tree of 5 has no leaf 5"):
        tree.leaf(5)
    with pytest.raises(ProofError, match="a tree of 5 has no leaf -1"):
        tree.inclusion(-1)
    with pytest.raises(ProofError, match="a tree of 5 did not grow from one of 6"):
        tree.consistency(6)
    with pytest.raises(ProofError, match="a tree has no size -1"):
        TileTree(-1, _reader(0))
    with pytest.raises(ProofError, match="tile 0 of level 1 has 0 bytes, in a tree of 300 it has 1 hashes"):
        TileTree(300, lambda *_: b"").root()
    assert (TileTree(0, _reader(0)).root(), TileTree(5, _reader(5)).consistency(0)) == (EMPTY_ROOT, [])


def test_a_proof_of_the_wrong_form_is_refused() -> None:
    leaves = LEAVES[:7]
    root, path = _mth(leaves), _path(2, leaves)
    for index, size, leaf, proof, why in (
        (7, 7, leaves[2], path, "a tree of 7 has no leaf 7"),
        (2, 7, leaves[2], path[:-1], "the path has 2 hashes, that of leaf 2 of 7 has 3"),
        (2, 7, leaves[2], [*path, root], "the path has 4 hashes, that of leaf 2 of 7 has 3"),
        (2, 7, leaves[2][:31], path, "a hash has 32 bytes, this one 31"),
    ):
        with pytest.raises(ProofError, match=why):
            check_inclusion(index, size, leaf, proof, root)
    path, old_root = _subproof(5, leaves), _mth(leaves[:5])
    for old, new, proof, why in (
        (0, 7, path, "a tree of 7 is not compared with one of 0"),
        (8, 7, path, "a tree of 7 is not compared with one of 8"),
        (5, 7, [], "the path has 0 hashes, that from 5 to 7 has 4"),
        (5, 7, path[:-1], "the path has 3 hashes, that from 5 to 7 has 4"),
        (5, 7, [*path, root], "the path has 5 hashes, that from 5 to 7 has 4"),
        (7, 7, path, "two trees of 7 are the same tree"),
    ):
        with pytest.raises(ProofError, match=why):
            check_consistency(old, new, proof, old_root, root)


# -- paths of tiles


@given(st.integers(0, 63), st.integers(0, 2**48), st.integers(1, 256), st.booleans())
def test_a_path_is_read_as_it_was_written(level: int, index: int, width: int, entries: bool) -> None:
    place = ("entries" if entries else level, index, width)
    assert parse_tile_path(tile_path(*place)) == place  # type: ignore[arg-type]


def test_the_path_of_the_specification() -> None:
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 273, 112) == "tile/entries/273.p/112"


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/x000/001",
        "tile/0/001/001",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001/",
        "/tile/0/001",
        "tile/entry/001",
        "tile/0/\u0660\u0660\u0661",
        "tile/0/001\n",
    ],
)
def test_no_other_text_is_a_path(path: str) -> None:
    with pytest.raises(ProofError, match=r"is not the path|is not how|there is no tile"):
        parse_tile_path(path)


@given(st.integers(1, 256))
def test_the_root_of_a_tile(width: int) -> None:
    assert subtree_root(LEAVES[:width]) == _mth(LEAVES[:width])


def test_no_hashes_and_too_many_have_no_root_in_a_tile() -> None:
    for count in (0, 257):
        with pytest.raises(ProofError, match=f"1 to 256 hashes, not {count}"):
            subtree_root(LEAVES[:count])
