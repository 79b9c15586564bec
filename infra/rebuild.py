"""Projections that prove themselves: built again from position 0 beside the live ones, compared, and swapped in."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from infra.archive.reading import Sealed
from infra.build import Build, TableBuild, build
from infra.envelope import recorded
from infra.read_models import close_gate, partitions_ahead, taken
from infra.read_rows import load_open, write_changes
from infra.read_tables import LIVE, SHADOW, create_table, index_statements, schema_name
from infra.row_security import raise_walls
from projections.engine import OPEN, Folding, Open, Projection, touched, unread_events

Connection = psycopg.AsyncConnection[TupleRow]
Progress = Callable[[str, int, int], Awaitable[None]]
"""progress(phase, done, total)"""
PROCESS_EVENTS_MIN: Final = 20_000
"""From so many events on it is worth starting processes, which leave the API's own core alone."""
CATCH_UP_EVENTS: Final = 5_000
_EVENTS: Final = "SELECT position, body, leaf FROM ledger.events WHERE position > %s AND position <= %s ORDER BY position"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found: the digest of each table as it stands live and as built again, at one position."""

    projection: str
    position: int
    live: dict[str, str]
    built: dict[str, str]
    swapped: bool

    @property
    def equal(self) -> bool:
        return self.live == self.built


async def rebuild(
    dsn: str, projection: Projection, *, swap: bool, accept_changes: bool, progress: Progress, sealed: Sequence[Sealed] = ()
) -> Rebuilt:
    """Builds `projection` anew up to the live position, compares digests, and swaps it in when asked to.

    A differing build is swapped in only with `accept_changes` (a fold was changed on purpose, or live rows were
    tampered with). Readers and the live projection go on meanwhile; the swap itself is one short transaction.
    """
    return (await rebuild_all(dsn, [projection], swap=swap, accept_changes=accept_changes, progress=progress, sealed=sealed))[0]


async def rebuild_all(
    dsn: str, projections: Sequence[Projection], *, swap: bool, accept_changes: bool, progress: Progress, sealed: Sequence[Sealed] = ()
) -> list[Rebuilt]:
    """`rebuild` of several projections, each core folding its share of them in one pass over their events.

    With `sealed`, segments of the archive from the first event on, those events are read from them.
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        schemas = [schema_name(projection.name, SHADOW) for projection in projections]
        for schema in schemas:
            await _execute(connection, f"DROP SCHEMA IF EXISTS {schema} CASCADE", f"CREATE SCHEMA {schema}")
        targets = await _live_positions(connection, projections)
        try:
            await _Building(dsn, progress, sealed=tuple(sealed)).run(await _shares(connection, projections, targets))
        except BaseException:
            await _execute(connection, *(f"DROP SCHEMA {schema} CASCADE" for schema in schemas))
            raise
        rebuilt = []
        for projection, schema, target in zip(projections, schemas, targets, strict=True):
            live, built = await _both_digests(dsn, projection, target, progress)
            swapped = swap and (live == built or accept_changes)
            if swapped:
                await _swap(connection, projection, schema, target)
            else:
                await _execute(connection, f"DROP SCHEMA {schema} CASCADE")
            rebuilt.append(Rebuilt(projection.name, target, live, built, swapped))
        await progress("done", max(targets, default=0), max(targets, default=0))
    return rebuilt


async def _execute(connection: Connection, *statements: str) -> None:
    for text in statements:
        await connection.execute(text)


async def _live_positions(connection: Connection, projections: Sequence[Projection]) -> list[int]:
    rows = await (await connection.execute("SELECT name, position FROM projections.positions")).fetchall()
    positions: dict[str, int] = dict(rows)
    return [positions.get(projection.name, 0) for projection in projections]


# -- building


async def fold_into(
    dsn: str, projections: Sequence[Projection], prefix: str, until: int, tenants: Sequence[str], progress: Progress
) -> None:
    """Folds some tenants' events up to a position into the tables of other schemas, which are there and empty."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        shares = await _shares(connection, projections, [until] * len(projections))
    await _Building(dsn, progress, prefix, tuple(tenants)).run(shares)


def _plan(projection: Projection, prefix: str) -> tuple[TableBuild, ...]:
    schema = schema_name(projection.name, prefix)
    return tuple(TableBuild(read.name, schema, create_table(schema, read), index_statements(schema, read)) for read in projection.tables)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one core builds, up to one position."""

    projections: tuple[Projection, ...]
    target: int


async def _shares(connection: Connection, projections: Sequence[Projection], targets: Sequence[int]) -> list[_Share]:
    """The projections dealt out to the cores, the largest first, by the room their live tables take."""
    query = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace(%s)"
    weighed = []
    for projection, target in zip(projections, targets, strict=True):
        row = await (await connection.execute(query, (schema_name(projection.name, LIVE),))).fetchone()
        weighed.append((int(row[0]) if row else 0, projection, target))
    cores: list[tuple[int, list[tuple[Projection, int]]]] = [(0, []) for _ in range(min(os.cpu_count() or 1, len(projections)))]
    for weight, projection, target in sorted(weighed, key=lambda item: -item[0]):
        least = min(range(len(cores)), key=lambda core: cores[core][0])
        cores[least] = (cores[least][0] + weight, [*cores[least][1], (projection, target)])
    return [
        _Share(tuple(projection for projection, its in dealt if its == target), target)
        for _, dealt in cores
        for target in sorted({target for _, target in dealt})
    ]


class _Building:
    """Shares being built side by side, and how far they are together."""

    def __init__(
        self,
        dsn: str,
        progress: Progress,
        prefix: str = SHADOW,
        tenants: tuple[str, ...] | None = None,
        sealed: tuple[Sealed, ...] = (),
    ) -> None:
        self._dsn, self._progress, self._prefix, self._tenants, self._sealed = dsn, progress, prefix, tenants, sealed
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    async def run(self, shares: Sequence[_Share]) -> None:
        self._total = {
            "folding": sum(share.target for share in shares),
            "indexing": sum(len(projection.tables) for share in shares for projection in share.projections),
        }
        tasks = []
        for share in shares:
            plans = tuple(_plan(projection, self._prefix) for projection in share.projections)
            passed_over = tuple(unread_events(share.projections))
            work = Build(self._dsn, share.projections, plans, share.target, passed_over, self._tenants, self._sealed)
            tasks.append(asyncio.create_task(self._apart(work) if share.target >= PROCESS_EVENTS_MIN else self._here(work)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell(self, phase: str, done: int) -> None:
        self._done[phase] = self._done.get(phase, 0) + done
        await self._progress(phase, self._done[phase], self._total[phase])

    async def _here(self, work: Build) -> None:
        """In a thread: for a small ledger, that is quicker than to start a process."""
        told: list[tuple[str, int]] = []
        await asyncio.to_thread(build, work, lambda phase, done: told.append((phase, done)))
        for phase, done in told:
            await self._tell(phase, done)

    async def _apart(self, work: Build) -> None:
        """In a process, which ends with its task."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "infra.build",
            cwd=Path(__file__).parent.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(pickle.dumps(work))
            process.stdin.close()
            while (frame := await _read_frame(process.stdout)) is not None:
                if isinstance(frame, Exception):
                    raise frame
                await self._tell(*frame)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _read_frame(stream: asyncio.StreamReader) -> Any:
    try:
        length = int.from_bytes(await stream.readexactly(4), "big")
        return pickle.loads(await stream.readexactly(length))  # noqa: S301 - from our own child
    except asyncio.IncompleteReadError:
        raise RuntimeError("a process that rebuilt projections ended before its work: start the rebuild again") from None


# -- comparing

_DIGEST: Final = """
    SELECT encode(sha256(coalesce(string_agg(digest, '' ORDER BY block), '')), 'hex') FROM (
        SELECT from_position / 1048576 AS block, sha256(string_agg(digest, '' ORDER BY from_position, tenant, id)) AS digest FROM (
            SELECT tenant COLLATE "C" AS tenant, id COLLATE "C" AS id, from_position, sha256(convert_to(concat_ws(E'\\t',
                tenant, id, from_position, CASE WHEN to_position > {position} THEN {open} ELSE to_position END, doc), 'UTF8')) AS digest
            FROM {table} WHERE from_position <= {position} AND ({tenants} IS NULL OR tenant = ANY({tenants}))
        ) AS versions GROUP BY 1
    ) AS blocks
"""


async def digests(
    connection: Connection, projection: Projection, schema: str, position: int, tenants: Sequence[str] | None = None
) -> dict[str, str]:
    """A digest over every version of every row (of some tenants) as of a position, per table; equal builds have equal digests.

    It is the SHA-256 over those of blocks of 2^20 positions, each over those of its versions: the server reads its
    rows once and sends 64 digits. A version that ended later counts as open, so a live table can be compared while it
    moves on.
    """
    found = {}
    whose = sql.SQL("{}::text[]").format(sql.Literal(None if tenants is None else list(tenants)))
    for read in projection.tables:
        table = sql.Identifier(schema, read.name)
        query = sql.SQL(_DIGEST).format(table=table, position=sql.Literal(position), open=sql.Literal(OPEN), tenants=whose)
        row = await (await connection.execute(query)).fetchone()
        assert row is not None
        found[read.name] = str(row[0])
    return found


async def _both_digests(dsn: str, projection: Projection, position: int, progress: Progress) -> tuple[dict[str, str], dict[str, str]]:
    """Of the live and of the built tables, at the same time."""
    done = 0

    async def one(prefix: str) -> dict[str, str]:
        nonlocal done
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("SET work_mem = '128MB'")
            found = await digests(connection, projection, schema_name(projection.name, prefix), position)
        done += 1
        await progress("comparing", done, 2)
        return found

    await progress("comparing", 0, 2)
    live, built = await asyncio.gather(one(LIVE), one(SHADOW))
    return live, built


# -- swapping


async def _swap(connection: Connection, projection: Projection, schema: str, built_until: int) -> None:
    """Catches the build up with the live tables while those are held still, then gives it their name."""
    live, name = schema_name(projection.name, LIVE), [projection.name]
    async with connection.transaction():
        # The gate that whoever moves the live projection passes for each batch: they wait while the last few events are caught up with.
        await close_gate(connection, name)
        row = await (await connection.execute("SELECT position FROM projections.positions WHERE name = ANY(%s)", (name,))).fetchone()
        until = int(row[0]) if row else 0
        of, ahead = await partitions_ahead(connection, projection.name)
        for after in range(built_until, max([until, *ahead.values()]), CATCH_UP_EVENTS):
            stored = await (await connection.execute(_EVENTS, (after, after + CATCH_UP_EVENTS), binary=True)).fetchall()
            batch = [event for each in stored if taken(event := recorded(*each), until, of, ahead)]
            rows: Open = await load_open(connection, projection, schema, touched(projection, batch))
            folding = Folding(projection, rows)
            folding.fold(batch)
            await write_changes(connection, schema, folding, {event.position for event in batch})
        await raise_walls(connection, ((schema, read.name) for read in projection.tables))
        await _execute(connection, f"DROP SCHEMA {live} CASCADE", f"ALTER SCHEMA {schema} RENAME TO {live}")
        await connection.execute(
            "UPDATE projections.positions SET version = %s, stopped = NULL, swaps = swaps + 1 WHERE name = %s",
            (projection.version, projection.name),
        )
