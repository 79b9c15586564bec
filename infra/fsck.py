"""Checking a ledger's database from scratch: what was signed, and everything else that is kept beside it to find or to prove it.

One process verifies the signed bytes, this one the books: rows, leaves, checkpoints, the head, tiles, triggers. Nothing is
believed that can be computed from the bytes; only tiles and the kept index of topics are ever repaired, for all the rest is
signed or says who signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from typing import Any, Final, LiteralString

import orjson
import psycopg
from psycopg.rows import TupleRow

from infra.envelope import parse_timestamp, unpack_signatures
from infra.fsck_rows import Rows, signed_roots
from infra.fsck_tiles import compared
from infra.merkle import Frontier
from infra.settings import SettingsError
from infra.tiles import Tiles
from infra.topic_index import TopicIndex
from infra.verifier.checkpoints import GrownTree
from infra.verifier.events import Bad
from infra.verifier.keys import KEY_EVENT, KeyRing
from infra.verifier.ledger import FOUNDING_ENTRIES, Verifier
from infra.verifier.sources import CHUNK_ENTRIES
from infra.verifier.tree import HASH_BYTES, TILE_WIDTH
from infra.verifier.workers import Workers

PROCESSES: Final = 2
MAX_PROBLEMS: Final = 100
Report = Callable[[str, int, int | None], None]
Connection = psycopg.Connection[TupleRow]

_KEPT: Final = ("tile", "topics")
"""Checks of what is kept and can be made again from the events, unless it was committed at a position."""
_COLUMNS: Final = ("tenant", "stream", "version", "type", "at")
_EVENTS: Final = """
    SELECT position, tenant, stream, version, type, at, body, signatures FROM ledger.events
    WHERE position > %s AND position <= %s ORDER BY position
"""
_LEAVES: Final = "SELECT string_agg(leaf, '' ORDER BY position) FROM ledger.events WHERE position > %s AND position <= %s"
_STRAYS: Final[tuple[tuple[str, LiteralString, str], ...]] = (
    ("position", "SELECT position FROM ledger.events WHERE position > %(size)s", "an event stands beyond the head"),
    ("checkpoint", "SELECT size FROM ledger.checkpoints WHERE size > %(size)s OR size < 1", "a checkpoint of a size the log never had"),
    (
        "cosignature",
        "SELECT size FROM ledger.cosignatures WHERE size NOT IN (SELECT size FROM ledger.checkpoints)",
        "a cosignature on a checkpoint that is not there",
    ),
    (
        "timestamp",
        "SELECT size FROM ledger.timestamps WHERE size NOT IN (SELECT size FROM ledger.checkpoints)",
        "a timestamp of a checkpoint that is not there",
    ),
)
_DERIVED: Final = ("tiles",)
"""Tables of the schema `ledger` that may be written again; every other is append-only, and the head is never deleted."""
_UNGUARDED: Final = """
    SELECT held.relname, needed.name
    FROM pg_class AS held CROSS JOIN LATERAL unnest(
        CASE WHEN held.relname = 'head' THEN ARRAY['one_head'] ELSE ARRAY['append_only', 'no_truncate'] END) AS needed(name)
    WHERE held.relnamespace = 'ledger'::regnamespace AND held.relkind = 'r' AND held.relname <> ALL(%s)
      AND NOT EXISTS (SELECT FROM pg_trigger AS armed JOIN pg_proc AS act ON act.oid = armed.tgfoid
                      WHERE armed.tgrelid = held.oid AND armed.tgname = needed.name AND armed.tgenabled = 'A'
                        AND act.proname = 'refuse' AND act.pronamespace = 'ledger'::regnamespace)
    ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold: at which position or size (None: nowhere in particular), which check, and what was found."""

    position: int | None
    check: str
    found: str


@dataclass(slots=True)
class Checked:
    """What was checked, what does not hold, and which tiles were built again."""

    ledger: str
    events: int
    root_key: str = ""
    signatures: int = 0
    checkpoints: int = 0
    cosignatures: int = 0
    tiles: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)
    """The first hundred."""
    repaired: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, position: int | None, check: str, found: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(position, check, found))


def fsck(dsn: str, *, repair: bool = False, report: Report = lambda _phase, _done, _total: None) -> Checked:
    """Checks the ledger in this database up to where it ends now; appending may go on meanwhile.

    Opens it as the database's owner. Raises SettingsError when there is no ledger, or no database.
    """
    try:
        with psycopg.connect(dsn) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            books = _Books(dsn, connection, report)
            books.check_events()
            books.check_tree()
            books.check_rest()
        if books.result.ok:  # what the events are about is of interest once they are known to be the events
            books.check_topics()
    except psycopg.errors.UndefinedTable as error:
        raise SettingsError(
            "DATABASE_URL", f"it holds no ledger of this version: {error}", "Name the ledger's database, or start Aureus on it once."
        ) from error
    except psycopg.OperationalError as error:
        raise SettingsError(
            "DATABASE_URL", f"the database cannot be reached: {error}", "Check the address, the password and the server."
        ) from error
    result = books.result
    result.problems.sort(key=lambda problem: (problem.position is None, problem.position or 0))
    if repair and result.problems and all(problem.check in _KEPT and problem.position is None for problem in result.problems):
        _rebuild(dsn, books.wrong_tiles, result.events)
        TopicIndex(dsn).make_anew()
        result.repaired, result.problems, result.problem_count = result.problems, [], 0
    return result


class _Books:
    """A ledger's database in one snapshot. The signed bytes are verified by others; here all that stands beside them is compared."""

    def __init__(self, dsn: str, connection: Connection, report: Report) -> None:
        self._dsn, self._connection, self._report = dsn, connection, report
        query = "SELECT origin, size, root, frontier, note, at FROM ledger.head"
        origin, size, self._root, self._peaks, self._note, self._at = connection.execute(query).fetchone() or ("", 0, b"", b"", b"", None)
        self.result = Checked(origin, size)
        self.wrong_tiles: list[tuple[int, int]] = []
        self._processes = PROCESSES if size > CHUNK_ENTRIES else 1  # starting one takes longer than a small ledger
        self._keys, self._tree = KeyRing(), GrownTree()
        self._last_at: datetime | None = None
        self._next = 1
        self._whole = True

    def check_events(self) -> None:
        """Signatures, chains and canonical form in other processes, the rows' columns meanwhile here."""
        with Workers(self._processes) as workers:
            verifier = Verifier(workers=workers)
            verifier.take(self._stretches())
            verified = verifier.finish(None)
        self._tree = verifier.tree
        self._require_none_missing(self.result.events + 1)
        self.result.signatures, self.result.root_key = verified.signatures, verified.root_key
        for problem in verified.problems:
            if problem.check != "checkpoint":  # none was handed over: they are all checked below
                self.result.add(problem.position, problem.check, problem.found)

    def check_tree(self) -> None:
        """Leaves, checkpoints, head and tiles, against the tree that the entries hash to."""
        if self._whole:
            self._check_leaves()
        frontier = self._check_checkpoints()
        self._check_head(frontier)
        if self._whole:
            for level, index, wrong in compared(self._connection, self._tree):
                self.result.tiles += wrong is None
                if wrong is not None:
                    self.result.add(None, "tile", wrong)
                    self.wrong_tiles.append((level, index))

    def check_rest(self) -> None:
        """Whatever has no business in the ledger, and the triggers that keep it append-only."""
        for check, query, found in _STRAYS:
            for (position,) in self._fetch(query, {"size": self.result.events}):
                self.result.add(position, check, found)
        self.result.cosignatures = self._fetch("SELECT count(*) FROM ledger.cosignatures", ())[0][0]
        for table, trigger in self._fetch(_UNGUARDED, (list(_DERIVED),)):
            self.result.add(None, "trigger", f"{trigger} of ledger.{table} does not stand guard: it is missing, changed or disabled")

    def check_topics(self) -> None:
        """The indexes of topics: those that were committed, and the one of each tenant that is kept to commit the next."""
        index = TopicIndex(self._dsn)
        for problem in index.problems(lambda done, total: self._report("topics", done, total)):
            self.result.add(problem.position, "topics", f"the index of {problem.tenant}: {problem.found}")

    def _stretches(self) -> Iterator[Rows]:
        """Hands each stretch out before looking at its rows, so that both is done at the same time."""
        size = self.result.events
        for after in (0, *range(FOUNDING_ENTRIES, size, CHUNK_ENTRIES)):
            until = min(after + (CHUNK_ENTRIES if after else FOUNDING_ENTRIES), size)
            yield Rows(self._dsn, after, until)
            for position, *columns, body, signatures in self._fetch(_EVENTS, (after, until)):
                self._require_none_missing(position)
                self._check_row(position, columns, body, signatures)
            self._report("signatures and rows", until, size)

    def _require_none_missing(self, position: int) -> None:
        expected, self._next = self._next, position + 1
        if position == expected:
            return
        places = f"positions {expected} to {position - 1}" if position > expected + 1 else f"position {expected}"
        self.result.add(expected, "position", f"{places} of {self.result.events} cannot be found: the tree is not checked from there on")
        self._whole = False

    def _check_row(self, position: int, columns: list[Any], body: bytes, signatures: bytes) -> None:
        self._last_at = columns[-1]
        try:
            member = orjson.loads(body)
            signed = [*(member[name] for name in _COLUMNS[:-1]), parse_timestamp(member["at"])]
        except (ValueError, KeyError, TypeError) as error:
            self.result.add(position, "row", f"its body cannot be read: {error!r}")
            return
        if columns != signed:
            for name, column, said in zip(_COLUMNS, columns, signed, strict=True):
                if column != said:
                    self.result.add(position, "row", f"its {name} is {column} in the row and {said} in the signed body")
        if str(member["type"]).startswith(KEY_EVENT):
            with suppress(Bad, ValueError):  # whoever verifies the signed bytes says why
                self._keys.learn(position, body, member, unpack_signatures(signatures))

    def _check_leaves(self) -> None:
        for after in range(0, self.result.events, TILE_WIDTH):
            stored = self._fetch(_LEAVES, (after, min(after + TILE_WIDTH, self.result.events)))[0][0]
            right = self._tree.tile(0, after // TILE_WIDTH, TILE_WIDTH)
            if stored != right[: len(stored)]:
                for at in range(0, len(stored), HASH_BYTES):
                    if stored[at : at + HASH_BYTES] != right[at : at + HASH_BYTES]:
                        self.result.add(after + at // HASH_BYTES + 1, "leaf", "the leaf in its row is not the hash of its entry")

    def _check_checkpoints(self) -> Frontier:
        """Each is signed by the log key of its time, in other processes; here the tree grows to each one's root."""
        size, tree, frontier = self.result.events, self._tree, Frontier()
        starts = range(0, size, CHUNK_ENTRIES)
        ends = [min(start + CHUNK_ENTRIES, size) for start in starts]
        ask = partial(signed_roots, self._dsn, self.result.ledger, list(self._keys.of_role("log")))
        with ProcessPoolExecutor(self._processes, get_context("spawn")) as pool:
            answers = pool.map(ask, starts, ends) if self._processes > 1 else map(ask, starts, ends)
            for end, signed in zip(ends, answers, strict=True):
                for checkpoint in signed:
                    self.result.checkpoints += 1
                    if checkpoint.wrong is not None:
                        self.result.add(checkpoint.size, "checkpoint", checkpoint.wrong)
                    elif self._whole:
                        frontier = grown(frontier, tree, checkpoint.size)
                        if frontier.root() != checkpoint.root:
                            found = f"the events hash to {frontier.root().hex()}, the checkpoint signs {checkpoint.root.hex()}"
                            self.result.add(checkpoint.size, "tree", found)
                self._report("checkpoints", end, size)
        return grown(frontier, tree, size) if self._whole else frontier

    def _check_head(self, frontier: Frontier) -> None:
        size = self.result.events
        signed = self._fetch("SELECT note FROM ledger.checkpoints WHERE size = %s", (size,))
        if size and not signed:
            self.result.add(size, "checkpoint", "there is none for the head")
        for name, right in (
            ("note", not signed or self._note == signed[0][0]),
            ("root", not self._whole or self._root == frontier.root()),
            ("frontier", not self._whole or self._peaks == frontier.dump()),
            ("at", self._last_at is None or self._at == self._last_at),
        ):
            if not right:
                self.result.add(size, "head", f"its {name} is not that of the last event's commit")

    def _fetch(self, query: LiteralString, arguments: Any) -> list[TupleRow]:
        return self._connection.execute(query, arguments, binary=True).fetchall()


def grown(frontier: Frontier, tree: GrownTree, size: int) -> Frontier:
    """The frontier of the first `size` leaves."""
    while frontier.size < size:
        index, at = divmod(frontier.size, TILE_WIDTH)
        leaves = tree.tile(0, index, min(TILE_WIDTH, size - index * TILE_WIDTH))[at * HASH_BYTES :]
        frontier = frontier.extend(leaves[start : start + HASH_BYTES] for start in range(0, len(leaves), HASH_BYTES))
    return frontier


def _rebuild(dsn: str, wrong: list[tuple[int, int]], size: int) -> None:
    """Removes the wrong tiles, and builds whatever is missing from the leaves, each of which is the hash of its entry."""
    with psycopg.connect(dsn) as connection:
        connection.cursor().executemany("DELETE FROM ledger.tiles WHERE level = %s AND index = %s", wrong)

    async def build() -> None:
        tiles = Tiles(dsn)
        await tiles.open()
        try:
            await tiles.ensure(size)
        finally:
            await tiles.close()

    asyncio.run(build())
