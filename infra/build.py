"""Folding a ledger from its first event into tables beside the live ones: one pass for many projections, one core's work.

Runs in a thread for a small ledger and in a process of its own for a large one: then `python -m infra.build` takes a
pickled `Build` on stdin and answers with frames on stdout, each a pickled `Told` or, at the end, None or an exception.
"""

from __future__ import annotations

import gc
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from domain.kernel import Recorded
from infra.archive.reading import Sealed
from infra.archive.reading import events as sealed_events
from infra.envelope import recorded_members
from projections.engine import OPEN, Folding, Projection, RowVersion

CHUNK_EVENTS: Final = 512
"""Few enough that what a chunk leads to stays in the processor's caches, many enough that a round trip costs nothing."""
TOLD_EVENTS: Final = 10_000
"""Telling how far it is wakes another process: after every chunk that was a fifteenth of the work."""
_BUFFER_BYTES: Final = 96 * 1024
"""Below the size from which the allocator asks the kernel for fresh pages each time."""
_COPY: Final = "COPY {table} (tenant, id, from_position, to_position, doc) FROM STDIN (FREEZE)"
_EVENTS: Final = """
    SELECT array_agg(position ORDER BY position), string_agg(body, ',' ORDER BY position), string_agg(leaf, '' ORDER BY position)
    FROM ledger.events WHERE position > %s AND position <= %s AND type <> ALL(%s) AND (%s::text[] IS NULL OR tenant = ANY(%s::text[]))
"""
_LEAF_BYTES: Final = 32
# These tables can be built again at any time: nothing waits for their flush, and a sort may use memory for a while.
_SETTINGS: Final = "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'"

Tell = Callable[[str, int], None]
"""tell(phase, events or indexes done since it last told)"""


@dataclass(frozen=True, slots=True)
class TableBuild:
    """The SQL that makes one table, and its indexes once it is full."""

    table: str
    schema: str
    create: tuple[str, ...]
    index: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """Some projections to fold from position 0 up to `target`."""

    dsn: str
    projections: tuple[Projection, ...]
    tables: tuple[tuple[TableBuild, ...], ...]
    """Of each projection."""
    target: int
    passed_over: tuple[str, ...]
    """Types of events that are known and that none of the projections reads. An unknown one is met, and ends the build."""
    tenants: tuple[str, ...] | None = None
    """Whose events are folded; None: everybody's."""
    sealed: tuple[Sealed, ...] = ()
    """Segments of the archive to read from the first event on, of every tenant; what they do not hold is read from the ledger."""


def events(
    connection: psycopg.Connection[TupleRow], after: int, until: int, passed_over: Sequence[str], tenants: Sequence[str] | None = None
) -> list[Recorded[Any]]:
    """The typed events of a range of positions, but for some types, read the fastest way there is: as one value."""
    whose = None if tenants is None else list(tenants)
    cursor = connection.execute(_EVENTS, (after, until, list(passed_over), whose, whose), prepare=True, binary=True)
    row = cursor.fetchone()
    if row is None or row[0] is None:
        return []
    positions, bodies, leaves = row
    members = orjson.loads(b"[%b]" % bodies)
    return [
        recorded_members(position, member, leaves[at : at + _LEAF_BYTES])
        for position, member, at in zip(positions, members, range(0, len(leaves), _LEAF_BYTES), strict=True)
    ]


class _Filling:
    """One table on its way: everything in one transaction of a connection of its own, from CREATE to the last index.

    Rows then need no later freezing and, at wal_level minimal, no write-ahead log.
    """

    def __init__(self, stack: ExitStack, dsn: str, plan: TableBuild) -> None:
        self._plan = plan
        self._connection = stack.enter_context(psycopg.connect(dsn))
        self._connection.execute(_SETTINGS.encode())
        for statement in plan.create:
            self._connection.execute(statement.encode())
        self._lines = bytearray()
        self._copying = ExitStack()
        stack.push(self._copying)
        table = sql.Identifier(plan.schema, plan.table)
        self._copy = self._copying.enter_context(self._connection.cursor().copy(sql.SQL(_COPY).format(table=table)))

    def add(self, tenant: str, row_id: str, since: int, until: int, row: Any) -> None:
        document = orjson.dumps(row)
        if b"\\" in document:
            document = document.replace(b"\\", b"\\\\")
        self._lines += b"%b\t%b\t%d\t%d\t%b\n" % (tenant.encode(), _escaped(row_id).encode(), since, until, document)
        if len(self._lines) > _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._copy.write(self._lines)
        self._lines.clear()

    def finish(self) -> None:
        self._flush()
        self._copying.close()
        for statement in self._plan.index:
            self._connection.execute(statement.encode())
        self._connection.commit()


_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(text: str) -> str:
    return text if text.isprintable() and "\\" not in text else text.translate(_ESCAPES)


class _Shadow:
    """One projection on its way: what stands open is in memory, every version that has ended is on its way to its table."""

    def __init__(self, stack: ExitStack, dsn: str, projection: Projection, plans: Sequence[TableBuild]) -> None:
        self.tables = {plan.table: _Filling(stack, dsn, plan) for plan in plans}
        self._immutable = {read.name for read in projection.tables if read.immutable}
        self._folding = Folding(projection, {})

    def fold(self, batch: Sequence[Recorded[Any]]) -> None:
        folding = self._folding
        folding.fold(batch)
        self._write(folding.ended)
        folding.ended.clear()
        if self._immutable:
            settled = [item for item in folding.rows.items() if item[0][0] in self._immutable]
            for key, (since, row) in settled:
                self.tables[key[0]].add(key[1], key[2], since, OPEN, row)
                del folding.rows[key]

    def _write(self, versions: Sequence[RowVersion]) -> None:
        for version in versions:
            self.tables[version.table].add(version.tenant, version.id, version.from_position, version.to_position, version.row)

    def end(self) -> None:
        for (table, tenant, row_id), (since, row) in self._folding.rows.items():
            self.tables[table].add(tenant, row_id, since, OPEN, row)


def _batches(work: Build, reading: psycopg.Connection[TupleRow]) -> Iterator[tuple[int, list[Recorded[Any]]]]:
    """(up to which position, the events since the last batch), from the segments as far as they go."""
    reached = 0
    for reached, batch in sealed_events(work.sealed, work.target, work.passed_over):
        yield reached, batch
    for after in range(reached, work.target, CHUNK_EVENTS):
        until = min(after + CHUNK_EVENTS, work.target)
        yield until, events(reading, after, until, work.passed_over, work.tenants)


def build(work: Build, tell: Tell) -> None:
    """Folds, writes, indexes and commits; raises ProjectionError or UnknownEvent, and then leaves nothing behind."""
    with ExitStack() as stack:
        reading = stack.enter_context(psycopg.connect(work.dsn, autocommit=True))
        shadows = [_Shadow(stack, work.dsn, projection, plans) for projection, plans in zip(work.projections, work.tables, strict=True)]
        told = 0
        for until, batch in _batches(work, reading):
            for shadow in shadows:
                shadow.fold(batch)
            if until - told >= TOLD_EVENTS or until == work.target:
                tell("folding", until - told)
                told = until
        for shadow in shadows:
            shadow.end()
        fillings = [filling for shadow in shadows for filling in shadow.tables.values()]
        with ThreadPoolExecutor(max_workers=len(fillings), thread_name_prefix="indexing") as pool:
            for _ in pool.map(_Filling.finish, fillings):
                tell("indexing", 1)


def write_frame(stream: BinaryIO, frame: Any) -> None:
    data = pickle.dumps(frame)
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    gc.disable()  # rows and events form no cycles: looking for some among a million of them would be most of the work
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        build(pickle.load(sys.stdin.buffer), lambda phase, done: write_frame(answers, (phase, done)))  # noqa: S301 - from our own parent
        write_frame(answers, None)
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent must hear of it
        write_frame(answers, error)


if __name__ == "__main__":
    _main()
