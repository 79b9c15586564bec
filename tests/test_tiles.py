"""Tiles in PostgreSQL: the bytes of c2sp.org/tlog-tiles, whoever fills them, and however many do so at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import psycopg
import pytest

from domain.ledger import LedgerUnavailable
from infra.merkle import Frontier
from infra.tiles import Tiles
from infra.verifier.tree import ProofError, check_inclusion, subtree_root, tiles_of
from tests.support.trees import plant

pytestmark = pytest.mark.anyio
SIZE: Final = 66_000
"""Two levels of full tiles: 257 of them at level 0, one at level 1."""


@pytest.fixture
async def tiles(database_url: str) -> AsyncIterator[Tiles]:
    opened = Tiles(database_url)
    await plant(database_url, 0)
    await opened.open()
    yield opened
    await opened.close()


async def kept(dsn: str) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = await (await connection.execute("SELECT level, index, hashes, root FROM ledger.tiles", binary=True)).fetchall()
    return {(level, index): (hashes, root) for level, index, hashes, root in rows}


def naive(leaves: list[bytes]) -> dict[tuple[int, int, int], bytes]:
    """Every tile as the specification defines it."""
    row, level, found = leaves, 0, {}
    while row:
        groups = [row[start : start + 256] for start in range(0, len(row), 256)]
        found.update({(level, index, len(group)): b"".join(group) for index, group in enumerate(groups)})
        row = [subtree_root(group) for group in groups if len(group) == 256]
        level += 1
    return found


async def test_every_tile_of_a_tree_of_three_levels(database_url: str, tiles: Tiles) -> None:
    """Filled by four at once that know nothing of each other, as four processes would; then each tile is the specified one."""
    leaves = await plant(database_url, SIZE)
    others = [Tiles(database_url) for _ in range(3)]
    for other in others:
        await other.open()
    await asyncio.gather(*(each.ensure(SIZE) for each in (tiles, *others)))
    expected = naive(leaves)
    assert set(tiles_of(SIZE)) == set(expected)
    for level, index, width in expected:
        assert await tiles.read(level, index, width) == expected[level, index, width]
    full = {(level, index): hashes for (level, index, width), hashes in expected.items() if width == 256}
    assert {place: hashes for place, (hashes, _) in (await kept(database_url)).items()} == full
    assert len(full) == 257 + 1
    for other in others:
        await other.close()


async def test_trees_of_any_size_from_tiles_that_nobody_filled(database_url: str, tiles: Tiles) -> None:
    leaves = await plant(database_url, 1_100)
    for size in (1, 2, 255, 256, 257, 511, 512, 513, 1_024, 1_099, 1_100):
        for index in {0, size // 2, size - 1}:
            tree = await tiles.tree(size, index)
            assert tree.root() == Frontier().extend(leaves[:size]).root()
            check_inclusion(index, size, leaves[index], tree.inclusion(index), tree.root())
    assert sorted(place for place in await kept(database_url)) == [(0, index) for index in range(4)]


async def test_a_tile_that_was_taken_away_is_there_again(database_url: str, tiles: Tiles) -> None:
    leaves = await plant(database_url, 800)
    await tiles.ensure(800)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("DELETE FROM ledger.tiles WHERE index = 1")
    assert (await tiles.tree(800, 0)).root() == Frontier().extend(leaves).root()
    assert (0, 1) in await kept(database_url)


async def test_a_changed_tile_is_refused_by_the_tree_it_is_read_for(database_url: str, tiles: Tiles) -> None:
    await plant(database_url, 800)
    await tiles.ensure(800)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("UPDATE ledger.tiles SET hashes = set_byte(hashes, 7, get_byte(hashes, 7) # 1) WHERE index = 2")
    with pytest.raises(ProofError, match="tile/0/002 does not hash to what the tile above it says"):
        (await tiles.tree(800, 600)).leaf(600)


async def test_tiles_are_not_made_of_leaves_that_are_gone(database_url: str, tiles: Tiles) -> None:
    await plant(database_url, 600)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        await owner.execute("DELETE FROM ledger.events WHERE position = 300")
    with pytest.raises(LedgerUnavailable, match="a full tile has 256 hashes, this one 255") as refused:
        await tiles.ensure(600)
    assert refused.value.code == "ledger_tampered"
    assert list(await kept(database_url)) == []


async def test_the_application_can_neither_change_nor_remove_a_tile(database_url: str, tiles: Tiles) -> None:
    await plant(database_url, 256)
    await tiles.ensure(256)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("SET ROLE aureus_app")
        for statement in ("UPDATE ledger.tiles SET root = root", "DELETE FROM ledger.tiles", "TRUNCATE ledger.tiles"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement.encode())


async def test_a_log_is_followed_as_it_grows(database_url: str, tiles: Tiles) -> None:
    await plant(database_url, 700)

    async def sizes() -> AsyncIterator[int]:
        for size in (100, 256, 700):
            yield size

    await tiles.follow(sizes())
    assert sorted(await kept(database_url)) == [(0, 0), (0, 1)]
