"""The tiles of the log's tree in PostgreSQL: full ones are kept, partial ones are put together from what lies below them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.ledger import LedgerUnavailable
from infra.schema import APPLICATION_ROLE
from infra.verifier.tree import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, ProofError, TileTree, subtree_root, tile_path, tile_width

Place = tuple[int, int, int]
"""(level, index, width) of a tile."""

TILES_AT_ONCE: Final = 16
"""Hashing them takes some 3 ms, for which nothing else happens in the process."""
RETRY_SECONDS: Final = 10.0
_READ: Final = """
    SELECT coalesce(
        (SELECT substr(kept.hashes, 1, wanted.width * 32) FROM ledger.tiles AS kept
         WHERE kept.level = wanted.level AND kept.index = wanted.index),
        CASE WHEN wanted.level = 0 THEN
            (SELECT string_agg(event.leaf, '' ORDER BY event.position) FROM ledger.events AS event
             WHERE event.position > wanted.index * 256 AND event.position <= wanted.index * 256 + wanted.width)
        ELSE
            (SELECT string_agg(below.root, '' ORDER BY below.index) FROM ledger.tiles AS below
             WHERE below.level = wanted.level - 1 AND below.index >= wanted.index * 256
               AND below.index < wanted.index * 256 + wanted.width)
        END,
        '')
    FROM unnest(%s::smallint[], %s::bigint[], %s::int[]) WITH ORDINALITY AS wanted(level, index, width, number)
    ORDER BY wanted.number
"""
_MISSING: Final = """
    SELECT wanted.index FROM generate_series(%s::bigint, %s::bigint - 1) AS wanted(index)
    WHERE NOT EXISTS (SELECT FROM ledger.tiles AS kept WHERE kept.level = %s AND kept.index = wanted.index) ORDER BY wanted.index
"""
_KEEP: Final = "INSERT INTO ledger.tiles SELECT %s, * FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[]) ON CONFLICT DO NOTHING"
_log = logging.getLogger("aureus.tiles")


async def _as_application(connection: AsyncConnection[TupleRow]) -> None:
    await connection.execute(f"SET ROLE {APPLICATION_ROLE}")


class Tiles:
    """The tiles of one ledger. Any number of processes may fill them at once: they all come to the same bytes."""

    def __init__(self, dsn: str) -> None:
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            dsn,
            open=False,
            min_size=1,
            max_size=8,
            timeout=10,
            kwargs={"autocommit": True, "prepare_threshold": 0},
            configure=_as_application,
        )
        self._filling = asyncio.Lock()
        self._filled = 0

    async def open(self) -> None:
        await self._pool.open(wait=True, timeout=10)

    async def close(self) -> None:
        await self._pool.close()

    async def read(self, level: int, index: int, width: int) -> bytes:
        """The hashes of a tile, 32 * width bytes. The caller knows that the log's tree has it."""
        return (await self._tiles([(level, index, width)]))[0]

    async def tree(self, size: int, *indices: int) -> TileTree:
        """The tree of the first `size` leaves, with the tiles in hand that lead from these leaves (from 0) to its root: one round trip."""
        places = sorted(_needed(size, indices))
        hashes = dict(zip(places, await self._tiles(places), strict=True))
        return TileTree(size, lambda *place: hashes[place])

    async def ensure(self, size: int) -> None:
        """Keeps every full tile of the tree of `size` leaves that is not kept yet."""
        if size // TILE_WIDTH <= self._filled:
            return
        async with self._filling:
            level = 0
            while full := size >> TILE_HEIGHT * (level + 1):
                missing = await self.fetch(_MISSING, (self._filled >> TILE_HEIGHT * level, full, level))
                for start in range(0, len(missing), TILES_AT_ONCE):
                    await self._keep(level, [index for (index,) in missing[start : start + TILES_AT_ONCE]])
                level += 1
            self._filled = max(self._filled, size // TILE_WIDTH)

    async def follow(self, sizes: AsyncIterator[int]) -> None:
        """Keeps the tiles of a log as it grows, for as long as it runs."""
        async for size in sizes:
            try:
                await self.ensure(size)
            except LedgerUnavailable as error:
                _log.warning("tiles are not kept at size %d: %s", size, error.message)
                await asyncio.sleep(RETRY_SECONDS)

    async def fetch(self, query: LiteralString, arguments: Any) -> list[TupleRow]:
        """The rows of a query about the log; tried once more on a fresh connection when the database went away meanwhile."""
        for last in (False, True):
            try:
                async with self._pool.connection() as connection:
                    cursor = await connection.execute(query, arguments, binary=True)
                    return await cursor.fetchall() if cursor.description else []
            except (OperationalError, PoolTimeout) as error:
                if last:
                    raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error
                await self._pool.check()
        raise AssertionError("unreachable")

    async def _tiles(self, places: Sequence[Place]) -> list[bytes]:
        hashes = await self._stored(places)
        if any(len(found) != width * HASH_BYTES for found, (_, _, width) in zip(hashes, places, strict=True)):
            # A tile above the leaves is put together from full tiles: not all of them were kept yet, or somebody took one away.
            self._filled = 0
            await self.ensure(max((index * TILE_WIDTH + width) << TILE_HEIGHT * level for level, index, width in places))
            hashes = await self._stored(places)
        return hashes

    async def _stored(self, places: Iterable[Place]) -> list[bytes]:
        levels, indices, widths = zip(*places, strict=True) if places else ((), (), ())
        return [found for (found,) in await self.fetch(_READ, (list(levels), list(indices), list(widths)))]

    async def _keep(self, level: int, indices: list[int]) -> None:
        hashes = await self._stored([(level, index, TILE_WIDTH) for index in indices])
        try:
            roots = [tile_root(found) for found in hashes]
        except ProofError as error:
            place = f"{tile_path(level, indices[0])} to {tile_path(level, indices[-1])}"
            raise LedgerUnavailable(
                "ledger_tampered", f"The hashes under {place} are not all there: {error}.", "Run `aureus log fsck`."
            ) from error
        await self.fetch(_KEEP, (level, indices, hashes, roots))


def tile_root(hashes: bytes) -> bytes:
    """The root of a full tile. Raises ProofError when it is not full."""
    if len(hashes) != TILE_WIDTH * HASH_BYTES:
        raise ProofError(f"a full tile has {TILE_WIDTH} hashes, this one {len(hashes) / HASH_BYTES:g}")
    return subtree_root([hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)])


def _needed(size: int, indices: Iterable[int]) -> set[Place]:
    """The tiles above these leaves, and those at the right edge, of which the root is made."""
    places, level = set(), 0
    while size >> TILE_HEIGHT * level:
        for leaf in (*indices, size):
            index = leaf >> TILE_HEIGHT * (level + 1)
            if width := tile_width(level, index, size):
                places.add((level, index, width))
        level += 1
    return places
