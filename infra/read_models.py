"""Read models kept in PostgreSQL: batches folded in memory, written in one transaction that also moves their position.

One transaction moves every projection, so reads that cross contexts see one moment; the position stands in the same
transaction, so each event takes effect exactly once, whoever runs this and however often it is killed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, LiteralString, Protocol

import psycopg
from psycopg.rows import TupleRow

from domain.kernel import Event, Recorded
from infra import tracing
from infra.measures import PROJECTED
from infra.partitions import partition_of
from infra.process import this_process
from infra.read_rows import Asked, Connection, answered, ask_open, write_changes
from infra.read_tables import LIVE, all_statements, schema_name
from infra.row_security import raise_walls
from projections.engine import Folding, Projection, ProjectionError, kinds_of, touched

READ_MODELS_LOCK: Final = 7_283_642

GATE_LOCK: Final = 7_283_648
CHANNEL: Final = "read_models"
"""Where `tell` says how far they are."""

_POSITIONS: Final = """
    CREATE SCHEMA IF NOT EXISTS projections;
    CREATE TABLE IF NOT EXISTS projections.positions (
        name     text   NOT NULL PRIMARY KEY,
        version  int    NOT NULL,
        position bigint NOT NULL DEFAULT 0,
        stopped  text
    );
    ALTER TABLE projections.positions ADD COLUMN IF NOT EXISTS swaps int NOT NULL DEFAULT 0; -- how often a rebuild took its place
    CREATE TABLE IF NOT EXISTS projections.ahead ( -- partitions that have come further than their projection as a whole
        name      text   NOT NULL,
        partition int    NOT NULL,
        of        int    NOT NULL,
        position  bigint NOT NULL,
        PRIMARY KEY (name, partition)
    );
    GRANT USAGE ON SCHEMA projections TO aureus_reader;
    GRANT SELECT ON projections.positions, projections.ahead TO aureus_reader;
"""
# The gate of a projection: open to many who move partitions of it, or to one who moves it whole, in the order they come.
_LEAD: Final = "SELECT name FROM unnest(%s::text[]) AS name WHERE pg_try_advisory_lock({lock}, hashtext(name))"
_ALONE: Final = "SELECT pg_advisory_xact_lock({gate}, hashtext(name)) FROM unnest(%s::text[]) AS name"
_TOGETHER: Final = "SELECT pg_advisory_xact_lock_shared({gate}, hashtext(name)) FROM unnest(%s::text[]) AS name"
_STANDINGS: Final = """
    SELECT name, version, position, stopped, swaps, EXISTS (SELECT FROM projections.ahead AS a WHERE a.name = p.name)
    FROM projections.positions AS p WHERE name = ANY(%s) ORDER BY name
"""
_MOVE: Final = "UPDATE projections.positions SET position = %s WHERE name = ANY(%s)"
_AHEAD: Final = "SELECT name, partition, of, position FROM projections.ahead WHERE name = ANY(%s)"
_OVERTAKEN: Final = "DELETE FROM projections.ahead WHERE name = ANY(%s) AND position <= %s"
_OWN_AHEAD: Final = """
    SELECT name, partition, of, position FROM projections.ahead WHERE name = ANY(%s) AND (of <> %s OR partition = ANY(%s))
    ORDER BY name, partition FOR UPDATE
"""
_GET_AHEAD: Final = """
    INSERT INTO projections.ahead (name, partition, of, position) SELECT * FROM unnest(%s::text[], %s::int[], %s::int[], %s::bigint[])
    ON CONFLICT (name, partition) DO UPDATE SET of = excluded.of, position = excluded.position
"""
_SETTLE: Final = """
    UPDATE projections.positions AS p SET position = least.position
    FROM (
        SELECT name, min(position) AS position FROM projections.ahead WHERE name = ANY(%s) GROUP BY name, of HAVING count(*) = of
    ) AS least
    WHERE p.name = least.name AND p.position < least.position
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a projection stands, and why it stopped if it did."""

    name: str
    version: int
    position: int
    stopped: str | None
    swaps: int
    """How often a rebuild has taken the place of its tables."""
    shared_out: bool
    """Whether partitions of it may be further than it is."""


async def create_read_models(dsn: str, projections: Sequence[Projection]) -> None:
    """Creates what is missing of tables, indexes and positions."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (READ_MODELS_LOCK,))
        await connection.execute(_POSITIONS)
        for text in all_statements(projections):
            await connection.execute(text)
        await raise_walls(
            connection, ((schema_name(projection.name), read.name) for projection in projections for read in projection.tables)
        )
        for projection in projections:
            place = "INSERT INTO projections.positions (name, version) VALUES (%s, %s) ON CONFLICT DO NOTHING"
            await connection.execute(place, (projection.name, projection.version))


class Stretch(Protocol):
    """All events of one partition (of so many) at positions in `(after, until]`, in order."""

    @property
    def partition(self) -> int: ...
    @property
    def of(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def until(self) -> int: ...
    @property
    def events(self) -> tuple[Recorded[Any], ...]: ...


class Gap(Exception):
    """Between where a partition has come to and what was delivered of it, something is missing."""

    def __init__(self, partition: int, of: int, position: int) -> None:
        super().__init__(f"partition {partition} of {of} lacks what follows position {position}")
        self.partition, self.of, self.position = partition, of, position


class Repartitioned(Exception):
    """Progress is kept for another number of partitions: the projection has to be levelled from the ledger first (`advance`)."""


class Overtaken(Exception):
    """Somebody came in between: what was folded stands on rows that are no longer those."""


Ahead = Mapping[int, int]
"""partition -> the position it has come to, beyond that of its projection"""
_LEVEL: Final[Ahead] = MappingProxyType({})


class ReadModelWriter:
    """Moves projections forward on one connection; whoever leads one moves it, unless its partitions are shared out."""

    def __init__(self, connection: Connection, projections: Sequence[Projection]) -> None:
        self._connection = connection
        self.projections = {projection.name: projection for projection in sorted(projections, key=lambda projection: projection.name)}
        self.led: frozenset[str] = frozenset()
        """Which projections this writer leads: others stand by for them."""
        self.stopped: dict[str, str] = {}
        """Which projections had stopped when it last looked, and why."""
        self._swaps: dict[str, int] = {}

    @classmethod
    async def connect(cls, dsn: str, projections: Sequence[Projection]) -> ReadModelWriter:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name=this_process())
        # What is lost of read models in a crash is folded again: their position is lost with them. No flush is needed.
        await connection.execute("SET synchronous_commit = off")
        # A batch touches few rows of any table, whatever the planner knows of it.
        for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin", "material"):
            await connection.execute(f"SET enable_{way} = off")
        return cls(connection, projections)

    async def lead(self) -> frozenset[str]:
        """Tries to become the one who moves each projection, and says which it leads now; the locks go with the connection."""
        wanted = [name for name in self.projections if name not in self.led]
        if wanted:
            rows = await (await self._connection.execute(_with_locks(_LEAD), (wanted,))).fetchall()
            self.led |= {row[0] for row in rows}
        return self.led

    async def lead_all(self) -> bool:
        """`lead` for whoever moves all or none: keeps nobody from what it got when it could not get everything."""
        if len(await self.lead()) == len(self.projections):
            return True
        await self._connection.execute("SELECT pg_advisory_unlock_all()")
        self.led = frozenset()
        return False

    async def standings(self) -> dict[str, Standing]:
        rows = await (await self._connection.execute(_STANDINGS, (list(self.projections),))).fetchall()
        standings = {row[0]: Standing(*row) for row in rows}
        self.stopped = {standing.name: standing.stopped for standing in standings.values() if standing.stopped}
        return standings

    async def advance(self, batch: Sequence[Recorded[Any]]) -> int:
        """Folds a batch of consecutive events into every projection it leads that has come to where it begins.

        Returns the position that all running ones have reached: one that a rebuild set running again may be behind
        this batch. A projection that fails is marked as stopped, with the reason, and the others go on. What partitions
        of one folded already, while they were shared out, is not folded again.
        """
        names = [name for name in self.projections if name in self.led]
        PROJECTED.add(len(batch))
        with tracing.batch("project", batch):
            standings = await self._unless_stopped(lambda: self._advance(names, batch))
        self._swaps = {standing.name: standing.swaps for standing in standings}
        return min((standing.position for standing in standings if not standing.stopped), default=batch[-1].position)

    async def advance_stretches(self, stretches: Sequence[Stretch], names: Iterable[str]) -> None:
        """Folds stretches of partitions, in order for each, into projections whose partitions are shared out (ordering `stream`).

        Raises Gap when one begins beyond where its partition has come to, Repartitioned when that is known of another
        number of partitions; nothing is folded then.
        """
        ordered = sorted(names)
        events = [recorded for stretch in stretches for recorded in stretch.events]
        PROJECTED.add(len(events))
        with tracing.batch("project", events):
            await self._unless_stopped(lambda: self._advance_stretches(ordered, stretches))

    async def settle(self, names: Iterable[str]) -> None:
        """Raises the position of projections whose partitions are shared out to the one that all partitions have come to."""
        await self._connection.execute(_SETTLE, (sorted(names),))

    async def tell(self, position: int) -> None:
        """Wakes those who wait for the read models in other processes."""
        await self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(position)))

    async def write(self, batch: Sequence[Recorded[Any]], foldings: Mapping[str, Folding]) -> int:
        """Writes what a batch made of the projections it leads, folded upon rows that were read before; returns where they stand.

        Raises Overtaken, and writes nothing, unless all of them still stand where the batch begins and as they stood at the last
        `write` or `advance`.
        """
        PROJECTED.add(len(batch))
        with tracing.batch("project", batch):
            await self._write(batch[0].position, batch[-1].position, foldings)
        return batch[-1].position

    async def _write(self, first: int, last: int, foldings: Mapping[str, Folding]) -> None:
        connection, names = self._connection, list(foldings)
        async with connection.pipeline(), connection.transaction():
            await connection.execute(_with_locks(_ALONE), (names,), prepare=True)
            found = await connection.execute(_STANDINGS, (names,), prepare=True)
            standings = [Standing(*row) for row in await found.fetchall()]
            as_before = {standing.name: standing.swaps for standing in standings} == self._swaps
            if not as_before or any(s.stopped or s.shared_out or s.position != first - 1 for s in standings):
                raise Overtaken
            for name, folding in foldings.items():
                await write_changes(connection, schema_name(name, LIVE), folding, range(first, last + 1))
            await connection.execute(_MOVE, (last, names), prepare=True)

    async def _unless_stopped(self, move: Callable[[], Awaitable[list[Standing]]]) -> list[Standing]:
        while True:
            try:
                standings = await move()
            except _Stopped as stopped:
                await self._connection.execute(
                    "UPDATE projections.positions SET stopped = %s WHERE name = %s", (str(stopped.__cause__), stopped.projection)
                )
                continue
            self.stopped = {standing.name: standing.stopped for standing in standings if standing.stopped}
            return standings

    async def _advance(self, names: list[str], batch: Sequence[Recorded[Any]]) -> list[Standing]:
        """One transaction in two round trips: the positions, locked, with every row the batch touches; then all writes."""
        first, last = batch[0].position, batch[-1].position
        connection = self._connection
        async with connection.pipeline(), connection.transaction():
            await connection.execute(_with_locks(_ALONE), (names,), prepare=True)
            found = await connection.execute(_STANDINGS, (names,), prepare=True)
            kinds = kinds_of(batch)
            asked = {name: await self._ask(self.projections[name], batch, kinds) for name in names}
            standings = [Standing(*row) for row in await found.fetchall()]
            ahead = await self._ahead(names) if any(standing.shared_out for standing in standings) else {}
            moving = [s for s in standings if s.stopped is None and first - 1 <= s.position < last]
            for standing in moving:
                new = _not_yet(batch[standing.position + 1 - first :], *ahead.get(standing.name, _NOWHERE_AHEAD))
                await self._fold(standing.name, asked[standing.name], new)
            moved = [standing.name for standing in moving]
            await connection.execute(_MOVE, (last, moved), prepare=True)
            if ahead:
                await connection.execute(_OVERTAKEN, (moved, last), prepare=True)
        return [replace(standing, position=last) if standing in moving else standing for standing in standings]

    async def _ahead(self, names: list[str]) -> dict[str, tuple[int, dict[int, int]]]:
        return _by_projection(await (await self._connection.execute(_AHEAD, (names,), prepare=True)).fetchall())

    async def _advance_stretches(self, names: list[str], stretches: Sequence[Stretch]) -> list[Standing]:
        """`_advance`, beside others who do the same with other partitions."""
        connection, of = self._connection, stretches[0].of
        partitions = sorted({stretch.partition for stretch in stretches})
        batch = sorted((recorded for stretch in stretches for recorded in stretch.events), key=lambda recorded: recorded.position)
        async with connection.pipeline(), connection.transaction():
            await connection.execute(_with_locks(_TOGETHER), (names,), prepare=True)
            found = await connection.execute(_STANDINGS, (names,), prepare=True)
            found_ahead = await connection.execute(_OWN_AHEAD, (names, of, partitions), prepare=True)
            kinds = kinds_of(batch)
            asked = {name: await self._ask(self.projections[name], batch, kinds) for name in names}
            standings = [Standing(*row) for row in await found.fetchall()]
            ahead = _by_projection(await found_ahead.fetchall())
            moved: list[tuple[str, int, int, int]] = []
            for standing in standings:
                if standing.stopped is not None:
                    continue
                known_of, known = ahead.get(standing.name, _NOWHERE_AHEAD)
                if known_of not in (0, of):
                    raise Repartitioned(f"{standing.name} was shared out among {known_of} partitions, and there are {of} now")
                came_to = {partition: max(standing.position, known.get(partition, 0)) for partition in partitions}
                reached = _linked(stretches, came_to)
                new = _not_yet([recorded for recorded in batch if recorded.position > standing.position], of, came_to)
                await self._fold(standing.name, asked[standing.name], new)
                moved += [(standing.name, partition, of, reached[partition]) for partition in partitions]
            if moved:
                await connection.execute(_GET_AHEAD, tuple(list(column) for column in zip(*moved, strict=True)), prepare=True)
        return standings

    async def _fold(self, name: str, asked: Asked | ProjectionError, new: Sequence[Recorded[Any]]) -> None:
        """Folds events into a projection's rows, and sends off what changed."""
        if isinstance(asked, ProjectionError):
            raise _Stopped(name) from asked
        new = self.projections[name].concerning(new, kinds_of(new))
        if not new:
            return
        folding = Folding(self.projections[name], await answered(asked))
        try:
            folding.fold(new)
        except ProjectionError as error:
            raise _Stopped(name) from error
        await write_changes(self._connection, schema_name(name, LIVE), folding, {recorded.position for recorded in new})

    async def _ask(
        self, projection: Projection, batch: Sequence[Recorded[Any]], kinds: AbstractSet[type[Event]]
    ) -> Asked | ProjectionError:
        """The rows the batch touches; an error matters only if the projection is to move, so it is told, not raised."""
        try:
            keys = touched(projection, projection.concerning(batch, kinds))
        except ProjectionError as error:
            return error
        return await ask_open(self._connection, projection, schema_name(projection.name, LIVE), keys)

    async def close(self) -> None:
        await self._connection.close()


_NOWHERE_AHEAD: Final = (0, _LEVEL)


def _with_locks(text: LiteralString) -> str:
    return text.format(lock=READ_MODELS_LOCK, gate=GATE_LOCK)


def _by_projection(rows: Iterable[TupleRow]) -> dict[str, tuple[int, dict[int, int]]]:
    """name -> (number of partitions, partition -> position)"""
    found: dict[str, tuple[int, dict[int, int]]] = {}
    for name, partition, of, position in rows:
        found.setdefault(name, (of, {}))[1][partition] = position
    return found


async def close_gate(connection: Connection, names: Sequence[str]) -> None:
    """From here to the end of the transaction nobody else moves these projections."""
    await connection.execute(_with_locks(_ALONE), (list(names),))


async def partitions_ahead(connection: Connection, name: str) -> tuple[int, Ahead]:
    """The number of partitions a projection is shared out among (0: it is not), and where those are that have come further than it."""
    rows = await (await connection.execute(_AHEAD, ([name],))).fetchall()
    return _by_projection(rows).get(name, _NOWHERE_AHEAD)


def taken(recorded: Recorded[Any], position: int, of: int, ahead: Ahead) -> bool:
    """Whether a projection that stands there has taken an event in, as a whole or in its partition."""
    if recorded.position <= position:
        return True
    return bool(ahead) and recorded.position <= ahead.get(partition_of(recorded.tenant, recorded.stream, of), 0)


def _not_yet(events: Sequence[Recorded[Any]], of: int, came_to: Ahead) -> Sequence[Recorded[Any]]:
    """The events that their partition has not come to yet."""
    if not came_to:
        return events
    return [e for e in events if e.position > came_to.get(partition_of(e.tenant, e.stream, of), 0)]


def _linked(stretches: Iterable[Stretch], came_to: Mapping[int, int]) -> dict[int, int]:
    """Where each partition comes to with these stretches; Gap when one does not begin where its partition stands."""
    reached = dict(came_to)
    for stretch in stretches:
        if stretch.after > reached[stretch.partition]:
            raise Gap(stretch.partition, stretch.of, reached[stretch.partition])
        reached[stretch.partition] = max(reached[stretch.partition], stretch.until)
    return reached


class _Stopped(Exception):
    def __init__(self, projection: str) -> None:
        self.projection = projection
