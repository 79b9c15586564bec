"""The index of topics: how many events each topic has and their hash chain, brought forward with the log, and the root that is committed.

It runs where it may take its time: in a thread, or in a process of its own. Memory holds one batch of events, whatever the ledger holds.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import orjson
import psycopg
from psycopg.rows import TupleRow

from domain.kernel import JsonObject
from infra.schema import APPLICATION_ROLE
from infra.verifier.topics import EMPTY_CHAIN, RULES, TopicFold, chain_step, index_entry, recalls, topics_of
from infra.verifier.tree import EMPTY_ROOT, leaf_hash, node_hash

BATCH_EVENTS: Final = 5_000
READ_TOPICS: Final = 5_000
INDEX_EVENT: Final = "exports.index_committed"
_OWN_EVENTS: Final = 2
"""To commit an index takes its event and that of the action."""
Connection = psycopg.Connection[TupleRow]
Progress = Callable[[int, int], None]
"""progress(positions done, of so many)"""

_TENANTS: Final = """
    WITH RECURSIVE found AS (
        (SELECT tenant FROM ledger.events ORDER BY tenant LIMIT 1)
        UNION ALL
        SELECT (SELECT tenant FROM ledger.events WHERE tenant > found.tenant ORDER BY tenant LIMIT 1)
        FROM found WHERE found.tenant IS NOT NULL
    )
    SELECT tenant FROM found WHERE tenant IS NOT NULL
"""
_EVENTS: Final = """
    SELECT position, body, leaf FROM ledger.events WHERE position > %s AND position <= %s AND tenant = %s ORDER BY position
"""
_KEEP_TOPICS: Final = """
    INSERT INTO topics.chains SELECT %s, * FROM unnest(%s::text[], %s::bigint[], %s::bytea[])
    ON CONFLICT (tenant, topic) DO UPDATE SET count = excluded.count, chain = excluded.chain
"""
_KEEP_MEMORY: Final = """
    INSERT INTO topics.memory SELECT %s, key, ARRAY(SELECT jsonb_array_elements_text(value)) FROM jsonb_each(%s::jsonb)
    ON CONFLICT (tenant, stream) DO UPDATE SET texts = excluded.texts
"""
_MARK: Final = """
    INSERT INTO topics.marks VALUES (%s, %s, %s) ON CONFLICT (tenant) DO UPDATE SET size = excluded.size, rules = excluded.rules
"""


@dataclass(frozen=True, slots=True)
class IndexRoot:
    """The index over a tenant's events up to position `size`: how many topics, and the root of their tree."""

    size: int
    topics: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """A topic in the index, with the way from it to the root."""

    topic: str
    count: int
    chain: bytes
    index: int
    path: tuple[bytes, ...]

    def to_json(self) -> JsonObject:
        path = [value.hex() for value in self.path]
        return {"topic": self.topic, "count": self.count, "chain": self.chain.hex(), "index": self.index, "path": path}


@dataclass(frozen=True, slots=True)
class Absent:
    """A topic that the index has not: it would stand between these two, which are neighbours."""

    topic: str
    before: Standing | None
    after: Standing | None

    def to_json(self) -> JsonObject:
        before, after = (near and near.to_json() for near in (self.before, self.after))
        return {"topic": self.topic, "absent": True, "before": before, "after": after}


@dataclass(frozen=True, slots=True)
class IndexProblem:
    """An index that is not what the ledger's events come to: committed at a position, or kept beside the ledger (None)."""

    tenant: str
    position: int | None
    found: str


class TopicIndex:
    """The index of every tenant of one ledger."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def bring_forward(self, tenant: str, size: int, progress: Progress = lambda _done, _total: None) -> IndexRoot:
        """Takes in the tenant's events up to position `size`; the index then, at `size` or where somebody brought it further."""
        with self._connected() as connection:
            while (mark := _batch(connection, tenant, size)) < size:
                progress(mark, size)
            progress(size, size)
            with connection.transaction():
                return _root(connection, tenant, _locked_mark(connection, tenant), [])[0]

    def standings(self, tenant: str, topics: Sequence[str]) -> tuple[IndexRoot, list[Standing | Absent]]:
        """Where these topics stand in the index as it is now, in the order they were asked for."""
        with self._connected() as connection, connection.transaction():
            mark = _locked_mark(connection, tenant)
            near = {topic: _neighbours(connection, tenant, topic) for topic in topics}
            wanted = {name for before, topic, after in near.values() for name in (before, topic, after) if name is not None}
            index, found = _root(connection, tenant, mark, sorted(wanted))
        known: list[Standing | Absent] = []
        for topic in topics:
            before, there, after = near[topic]
            if there is not None:
                known.append(found[topic])
            else:
                known.append(Absent(topic, found[before] if before else None, found[after] if after else None))
        return index, known

    def tenants(self) -> list[str]:
        """Who has events in the ledger."""
        with self._connected() as connection:
            return [tenant for (tenant,) in connection.execute(_TENANTS).fetchall()]

    def moved_on(self, tenant: str, position: int) -> bool:
        """Whether something of the tenant's happened after an index was committed at `position`, but for that commitment itself."""
        query = "SELECT count(*) FROM (SELECT FROM ledger.events WHERE tenant = %s AND position > %s LIMIT %s) AS later"
        with self._connected() as connection:
            row = connection.execute(query, (tenant, position, _OWN_EVENTS + 1)).fetchone()
        return row is not None and row[0] > _OWN_EVENTS

    async def rebuild(self) -> None:
        """`make_anew`, beside the event loop."""
        await asyncio.to_thread(self.make_anew)

    async def check(self, progress: Progress = lambda _done, _total: None) -> list[IndexProblem]:
        """`problems`, beside the event loop."""
        return await asyncio.to_thread(self.problems, progress)

    def make_anew(self) -> None:
        """Throws the index of every tenant away and makes it again, as far as it had been brought."""
        with self._connected() as connection:
            marks = connection.execute("SELECT tenant, size FROM topics.marks").fetchall()
            for tenant, _ in marks:
                with connection.transaction():
                    _forget(connection, tenant)
        for tenant, size in marks:
            self.bring_forward(tenant, size)

    def problems(self, progress: Progress = lambda _done, _total: None) -> list[IndexProblem]:
        """Makes every committed index of the ledger again from its events alone, and compares; what differs, the kept ones included."""
        problems: list[IndexProblem] = []
        with self._connected() as connection:
            tenants = self.tenants()
            for number, tenant in enumerate(tenants):
                problems += _check_tenant(connection, tenant)
                progress(number + 1, len(tenants))
        return problems

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"SET ROLE {APPLICATION_ROLE}")
            yield connection


def _locked_mark(connection: Connection, tenant: str) -> int:
    """How far the index was brought; nobody else brings it further while the transaction lasts."""
    row = connection.execute("SELECT size FROM topics.marks WHERE tenant = %s FOR UPDATE", (tenant,)).fetchone()
    return int(row[0]) if row else 0


def _forget(connection: Connection, tenant: str) -> None:
    connection.execute("DELETE FROM topics.chains WHERE tenant = %s", (tenant,))
    connection.execute("DELETE FROM topics.memory WHERE tenant = %s", (tenant,))
    connection.execute("DELETE FROM topics.marks WHERE tenant = %s", (tenant,))


def _batch(connection: Connection, tenant: str, size: int) -> int:
    """Takes in the next events, in one transaction; how far it came."""
    with connection.transaction():
        connection.execute("INSERT INTO topics.marks VALUES (%s, 0, %s) ON CONFLICT DO NOTHING", (tenant, RULES))
        row = connection.execute("SELECT size, rules FROM topics.marks WHERE tenant = %s FOR UPDATE", (tenant,)).fetchone()
        assert row is not None
        mark, rules = int(row[0]), row[1]
        if rules != RULES:
            # Under other rules the same events have other topics: nothing of what is there is worth anything.
            _forget(connection, tenant)
            mark = 0
        until = min(mark + BATCH_EVENTS, size)
        if until > mark:
            _take_in(connection, tenant, mark, until)
            connection.execute(_MARK, (tenant, until, RULES))
        return max(mark, until)


def _take_in(connection: Connection, tenant: str, after: int, until: int) -> None:
    events = [(position, orjson.loads(body), leaf) for position, body, leaf in _events(connection, tenant, after, until)]
    own = [topics_of(body) for _, body, _ in events]
    memory = _remembered(connection, tenant, (recalls(body["stream"], topics) for (_, body, _), topics in zip(events, own, strict=True)))
    before = dict(memory)
    fold = TopicFold(memory)
    topics = [fold.topics(body, found) for (_, body, _), found in zip(events, own, strict=True)]
    chains = _chains(connection, tenant, set().union(*topics))
    for (position, _, leaf), found in zip(events, topics, strict=True):
        for topic in found:
            count, chain = chains.get(topic, (0, EMPTY_CHAIN))
            chains[topic] = (count + 1, chain_step(chain, position, leaf))
    if chains:
        counts, links = zip(*chains.values(), strict=True)
        connection.execute(_KEEP_TOPICS, (tenant, list(chains), list(counts), list(links)), binary=True)
    if changed := {key: texts for key, texts in memory.items() if before.get(key) != texts}:
        connection.execute(_KEEP_MEMORY, (tenant, orjson.dumps(changed).decode()))


def _events(connection: Connection, tenant: str, after: int, until: int) -> list[TupleRow]:
    return connection.execute(_EVENTS, (after, until, tenant), binary=True).fetchall()


def _chains(connection: Connection, tenant: str, topics: set[str]) -> dict[str, tuple[int, bytes]]:
    query = "SELECT topic, count, chain FROM topics.chains WHERE tenant = %s AND topic = ANY(%s)"
    rows = connection.execute(query, (tenant, list(topics)), binary=True).fetchall()
    return {topic: (count, chain) for topic, count, chain in rows}


def _remembered(connection: Connection, tenant: str, asked: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """What the fold will ask its memory for: by the events themselves, and then by what those inherit."""
    first = {key for keys in asked for key in keys}
    memory = _load_memory(connection, tenant, first)
    inherited = {key for texts in memory.values() for key in recalls("", texts)} - first
    return {**memory, **_load_memory(connection, tenant, inherited)}


def _load_memory(connection: Connection, tenant: str, keys: set[str]) -> dict[str, tuple[str, ...]]:
    if not keys:
        return {}
    query = "SELECT stream, texts FROM topics.memory WHERE tenant = %s AND stream = ANY(%s)"
    return {stream: tuple(texts) for stream, texts in connection.execute(query, (tenant, list(keys))).fetchall()}


def _neighbours(connection: Connection, tenant: str, topic: str) -> tuple[str | None, str | None, str | None]:
    """The topic if it is there, and if it is not, those between which it would stand."""
    there = connection.execute("SELECT 1 FROM topics.chains WHERE tenant = %s AND topic = %s", (tenant, topic)).fetchone()
    if there is not None:
        return None, topic, None
    before = connection.execute("SELECT max(topic) FROM topics.chains WHERE tenant = %s AND topic < %s", (tenant, topic)).fetchone()
    after = connection.execute("SELECT min(topic) FROM topics.chains WHERE tenant = %s AND topic > %s", (tenant, topic)).fetchone()
    return before[0] if before else None, None, after[0] if after else None


def _root(connection: Connection, tenant: str, size: int, wanted: Sequence[str]) -> tuple[IndexRoot, dict[str, Standing]]:
    """The index's root, and where some of its topics stand; all topics are read, none is kept."""
    query = "SELECT topic, count, chain FROM topics.chains WHERE tenant = %s ORDER BY topic"
    named, rows = set(wanted), {}
    places: list[int] = []
    number = 0
    tree = IndexTree()
    with connection.cursor("topics") as cursor:
        cursor.itersize = READ_TOPICS
        for topic, count, chain in cursor.execute(query, (tenant,)):
            if topic in named:
                rows[topic] = (count, chain, number)
                tree.want(number)
                places.append(number)
            tree.add(leaf_hash(index_entry(topic, count, chain)))
            number += 1
    index = IndexRoot(size, number, tree.root())
    return index, {topic: Standing(topic, *row, tuple(tree.paths[row[2]])) for topic, row in rows.items()}


class IndexTree:
    """A Merkle tree (RFC 6962) fed leaf by leaf: its root, and the paths from the leaves that were wanted before they were added."""

    def __init__(self) -> None:
        self.paths: dict[int, list[bytes]] = {}
        self._wanted: list[int] = []
        self._peaks: list[tuple[int, int, bytes]] = []
        """(first leaf, number of leaves, root) of the full subtrees, largest first."""
        self._size = 0

    def want(self, index: int) -> None:
        """Remembers the path from a leaf that is still to come; in ascending order."""
        self._wanted.append(index)
        self.paths[index] = []

    def add(self, leaf: bytes) -> None:
        node = (self._size, 1, leaf)
        while self._peaks and self._peaks[-1][1] == node[1]:
            node = self._joined(self._peaks.pop(), node)
        self._peaks.append(node)
        self._size += 1

    def root(self) -> bytes:
        """The root over all leaves; afterwards the paths are whole, and nothing more can be added."""
        if not self._peaks:
            return EMPTY_ROOT
        node = self._peaks.pop()
        while self._peaks:
            node = self._joined(self._peaks.pop(), node)
        return node[2]

    def _joined(self, left: tuple[int, int, bytes], right: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
        start, end = left[0], right[0] + right[1]
        for wanted in self._wanted[bisect_left(self._wanted, start) : bisect_left(self._wanted, end)]:
            self.paths[wanted].append(right[2] if wanted < right[0] else left[2])
        return (start, left[1] + right[1], node_hash(left[2], right[2]))


def _check_tenant(connection: Connection, tenant: str) -> Iterator[IndexProblem]:
    """Every committed index in order, and at last the one that is kept, wherever it stands."""
    chains: dict[str, tuple[int, bytes]] = {}
    fold, reached = TopicFold(), 0
    for index, position in _claimed(connection, tenant):
        if index.rules != RULES:
            yield IndexProblem(tenant, position, f"it was made under rules {index.rules}, and these are rules {RULES}")
            continue
        while reached < index.size:
            until = min(reached + BATCH_EVENTS, index.size)
            for row in _events(connection, tenant, reached, until):
                _count(chains, fold, *row)
            reached = until
        root = _root_of(chains)
        if reached == index.size and (index.topics, index.root) != (len(chains), root):
            come_to = f"the events come to {root.hex()} over {len(chains)}"
            yield IndexProblem(tenant, position, f"it says {index.root.hex()} over {index.topics} topics, and {come_to}")


@dataclass(frozen=True, slots=True)
class _Claim:
    size: int
    topics: int
    root: bytes
    rules: int


def _claimed(connection: Connection, tenant: str) -> Iterator[tuple[_Claim, int | None]]:
    """What is said to be an index, by the ledger with the position where, and by the tables beside it without one."""
    query = "SELECT position, body FROM ledger.events WHERE tenant = %s AND stream = %s AND type = %s ORDER BY version"
    for position, body in connection.execute(query, (tenant, f"index:{tenant}", INDEX_EVENT)).fetchall():
        data: JsonObject = orjson.loads(body)["data"]
        yield _Claim(data["size"], data["topics"], bytes.fromhex(data["root"]), data["rules"]), position
    with connection.transaction():
        row = connection.execute("SELECT size, rules FROM topics.marks WHERE tenant = %s FOR UPDATE", (tenant,)).fetchone()
        if row is None:
            return
        kept = _root(connection, tenant, row[0], [])[0]
    yield _Claim(kept.size, kept.topics, kept.root, row[1]), None


def _count(chains: dict[str, tuple[int, bytes]], fold: TopicFold, position: int, body: bytes, leaf: bytes) -> None:
    for topic in fold.topics(orjson.loads(body)):
        count, chain = chains.get(topic, (0, EMPTY_CHAIN))
        chains[topic] = (count + 1, chain_step(chain, position, leaf))


def _root_of(chains: dict[str, tuple[int, bytes]]) -> bytes:
    tree = IndexTree()
    for topic in sorted(chains):
        tree.add(leaf_hash(index_entry(topic, *chains[topic])))
    return tree.root()
