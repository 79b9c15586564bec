"""What differs between two positions of the ledger: from the versions of the read rows, with the events that made them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
from psycopg import sql

from domain.differences import differences
from domain.kernel import JsonObject
from infra.binary_arrays import bigints, texts
from infra.read_queries import Reads
from infra.read_tables import schema_name
from projections.engine import ReadTable

EVENTS_TOLD: Final = 20
"""Of the events that changed a row, the latest so many are told; how many there were is always."""
_CHUNK_ROWS: Final = 4_000
_PAIRS: Final = """
    WITH b AS MATERIALIZED (
        SELECT id, to_position, doc FROM {table} WHERE tenant = {tenant} AND id > %(after)s AND from_position <= %(start)s
            AND to_position > %(start)s AND to_position <= %(end)s {ends} {narrowed} ORDER BY id LIMIT %(limit)s
    ), a AS MATERIALIZED (
        SELECT id, from_position, doc FROM {table} WHERE tenant = {tenant} AND id > %(after)s AND from_position > %(start)s
            AND from_position <= %(end)s AND to_position > %(end)s {narrowed} ORDER BY id LIMIT %(limit)s
    ), known AS (
        SELECT least((SELECT max(id) FROM b HAVING count(*) = %(limit)s), (SELECT max(id) FROM a HAVING count(*) = %(limit)s)) AS up_to
    )
    SELECT id, b.to_position, a.from_position, b.doc::text, a.doc::text, known.up_to
    FROM b FULL JOIN a USING (id), known WHERE id <= coalesce(known.up_to, id) ORDER BY id
"""
"""Versions that held at the start and not at the end, beside those of the same rows the other way round; up to the id that both
are known to."""
_COUNTS: Final = """
    SELECT {number}, count(*) FILTER (WHERE b.id IS NULL), count(*) FILTER (WHERE b.doc <> a.doc), count(*) FILTER (WHERE a.id IS NULL)
    FROM (SELECT id, doc FROM {table} WHERE tenant = {tenant} AND from_position <= %(start)s
            AND to_position > %(start)s AND to_position <= %(end)s {ends} {narrowed}) AS b
        FULL JOIN (SELECT id, doc FROM {table} WHERE tenant = {tenant} AND from_position > %(start)s
            AND from_position <= %(end)s AND to_position > %(end)s {narrowed}) AS a ON a.id = b.id
"""
_TURNS: Final = """
    SELECT wanted.id, turns.number, turns.latest FROM unnest(%(ids)b) AS wanted(id) CROSS JOIN LATERAL (
        SELECT count(*) AS number, (array_agg(position ORDER BY position DESC))[1:{told}] AS latest FROM (
            SELECT from_position AS position FROM {table} AS t
                WHERE t.tenant = {tenant} AND t.id = wanted.id AND from_position > %(start)s AND from_position <= %(end)s
            UNION SELECT to_position FROM {table} AS t
                WHERE t.tenant = {tenant} AND t.id = wanted.id AND to_position > %(start)s AND to_position <= %(end)s
        ) AS turned
    ) AS turns
"""
# What a body says of who, when and by which action is JSON as it stands: members come in sorted order, and the one before holds digests.
_EVENTS: Final = """
    SELECT event.position, concat('{"position":', event.position, ',"type":"', event.type, '",',
        replace(split_part(event.said, ',"correlation"', 1), '"causation"', '"action_id"'),
        ',"reason":', coalesce(action.doc->'reason', 'null'), '}')
    FROM (
        SELECT tenant, position, type, convert_from(substring(body FROM position('"actor":"'::bytea IN body) FOR 450), 'LATIN1') AS said
        FROM ledger.events WHERE position = ANY(%b)
    ) AS event LEFT JOIN read_evidence.actions AS action
        ON action.tenant = event.tenant AND action.id = split_part(event.said, '"', 12) COLLATE "C"
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A read table as far as a caller sees it: rows of a tenant and, if `own` is (column, actor), only those of that actor."""

    context: str
    read: ReadTable[Any]
    tenant: str
    own: tuple[str, str] | None = None


class Turned(NamedTuple):
    """A row that is not the same at both ends: its document at each, None where it was not there, and the positions that turned it."""

    id: str
    change: str
    before: str | None
    after: str | None
    number: int
    latest: Sequence[int]


class Diff:
    """The rows of some tables at one position beside those at another, in the order of the tables and their ids."""

    def __init__(self, reads: Reads, tables: Sequence[Shown], start: int, end: int, row_id: str | None = None) -> None:
        self.tables, self.start, self.end = tables, start, end
        self._reads, self._row_id = reads, row_id

    async def summary(self) -> list[JsonObject]:
        """How many rows of each table were added, changed and removed; tables in which nothing was are left out."""
        if not self.tables or self.start == self.end:
            return []
        rows: list[tuple[Any, ...]] = []
        for tenant in {shown.tenant for shown in self.tables}:
            arguments: JsonObject = {"start": self.start, "end": self.end}
            counts = []
            for number, shown in enumerate(self.tables):
                if shown.tenant == tenant:
                    counts.append(sql.SQL(_COUNTS).format(number=sql.Literal(number), **self._parts(shown, arguments, str(number))))
            rows += await self._reads.fetch(sql.SQL(" UNION ALL ").join(counts).as_string(), arguments, tenant=tenant)
        found = ((self.tables[number], counted) for number, *counted in sorted(rows) if any(counted))
        return [_counted(shown, *counted) for shown, counted in found]

    async def page(self, place: tuple[int, str], limit: int) -> tuple[list[bytes], tuple[int, str] | None]:
        """Up to `limit` items as JSON, from a place (table, after this id) on; and the place after them, None at the end."""
        number, after = place
        items: list[bytes] = []
        while number < len(self.tables):
            shown = self.tables[number]
            turned, following = await self._chunk(shown, after, limit - len(items))
            items += _items(shown, turned, await self._events(shown, turned))
            number, after = (number, following) if following is not None else (number + 1, "")
            if len(items) >= limit:
                return items, (number, after) if number < len(self.tables) else None
        return items, None

    async def lines(self) -> AsyncIterator[bytes]:
        """Every item as a line of JSON, many at a time, and at last one line with the summary: without it something is missing."""
        counts = []
        for shown in self.tables:
            counted: Counter[str] = Counter()
            async for turned, items in self._all(shown):
                counted.update(one.change for one in turned)
                yield b"\n".join(items) + b"\n"
            if counted:
                counts.append(_counted(shown, counted["added"], counted["changed"], counted["removed"]))
        yield orjson.dumps({"summary": counts, "from_position": self.start, "to_position": self.end}) + b"\n"

    async def _all(self, shown: Shown) -> AsyncIterator[tuple[list[Turned], list[bytes]]]:
        """While some rows are put together, the database already tells who changed the next ones, and finds those after them."""
        chunk = asyncio.ensure_future(self._chunk(shown, "", _CHUNK_ROWS))
        waiting: list[tuple[list[Turned], asyncio.Future[dict[int, orjson.Fragment]]]] = []
        try:
            following: str | None = ""
            while following is not None or waiting:
                if following is not None:
                    turned, following = await chunk
                    if following is not None:
                        chunk = asyncio.ensure_future(self._chunk(shown, following, _CHUNK_ROWS))
                    waiting.append((turned, asyncio.ensure_future(self._events(shown, turned))))
                if following is None or len(waiting) > 1:
                    ready, told = waiting.pop(0)
                    if ready:
                        yield ready, await asyncio.to_thread(_items, shown, ready, await told)
        finally:
            chunk.cancel()
            for _, told in waiting:
                told.cancel()

    async def _chunk(self, shown: Shown, after: str, limit: int) -> tuple[list[Turned], str | None]:
        """The next rows that differ, at most `limit`, and the id to go on after; None when there are no more."""
        if self.start == self.end:
            return [], None
        arguments: JsonObject = {"start": self.start, "end": self.end, "after": after, "limit": limit}
        query = sql.SQL(_PAIRS).format(**self._parts(shown, arguments))
        rows = await self._reads.fetch(query.as_string(), arguments, tenant=shown.tenant)
        following: str | None = rows[0][5] if rows else None
        if len(rows) > limit:
            following = rows[limit - 1][0]
        return await self._turned(shown, [row for row in rows[:limit] if row[3] != row[4]]), following

    async def _turned(self, shown: Shown, rows: Sequence[tuple[Any, ...]]) -> list[Turned]:
        """With the positions that turned them: where one version follows on the other it is one; of others, their history knows."""
        others = [] if shown.read.immutable else [row_id for row_id, until, since, *_ in rows if until != since]
        turns: dict[str, tuple[int, Sequence[int]]] = {}
        if others:
            arguments: JsonObject = {"start": self.start, "end": self.end, "ids": texts(others)}
            parts = self._parts(shown, arguments)
            query = sql.SQL(_TURNS).format(table=parts["table"], tenant=parts["tenant"], told=sql.Literal(EVENTS_TOLD))
            found = await self._reads.fetch(query.as_string(), arguments, tenant=shown.tenant)
            turns = {row_id: (number, latest) for row_id, number, latest in found}
        turned = []
        for row_id, _, since, before, after, _ in rows:
            change = "added" if before is None else "removed" if after is None else "changed"
            turned.append(Turned(row_id, change, before, after, *(turns.get(row_id) or (1, (since,)))))
        return turned

    async def _events(self, shown: Shown, turned: Sequence[Turned]) -> dict[int, orjson.Fragment]:
        """The events at the positions that turned rows, by position: who, when, by which action, and why."""
        positions = list({position for one in turned for position in one.latest})
        rows = await self._reads.fetch(_EVENTS, (bigints(positions),), tenant=shown.tenant)
        return {position: orjson.Fragment(told) for position, told in rows}

    def _parts(self, shown: Shown, arguments: JsonObject, mark: str = "") -> dict[str, sql.Composable]:
        """What queries name of a table and who may see what of it; values go into the arguments, under names ending in `mark`."""

        def given(name: str, value: Any) -> sql.Placeholder:
            arguments[f"{name}{mark}"] = value
            return sql.Placeholder(f"{name}{mark}")

        narrowed = []
        if shown.own is not None:
            column, actor = shown.own
            narrowed.append(sql.SQL("AND doc->>{} = {}").format(given("own", column), given("actor", actor)))
        if self._row_id is not None:
            narrowed.append(sql.SQL("AND id = {}").format(given("id", self._row_id)))
        return {
            "table": sql.Identifier(schema_name(shown.context), shown.read.name),
            "tenant": given("tenant", shown.tenant),
            "ends": sql.SQL("AND false" if shown.read.immutable else ""),  # nobody need look for what never changes
            "narrowed": sql.SQL(" ").join(narrowed),
        }


def _items(shown: Shown, turned: Iterable[Turned], events: Mapping[int, orjson.Fragment]) -> list[bytes]:
    """Each row that differs, as JSON."""
    items = []
    for one in turned:
        changes, row = [], None
        if one.before is not None and one.after is not None:
            found = differences(orjson.loads(one.before), orjson.loads(one.after))
            changes = [{"field": field, "before": before, "after": after} for field, before, after in found]
        else:
            row = orjson.Fragment(one.after or one.before or "")
        item = {
            "change": one.change,
            "context": shown.context,
            "kind": shown.read.name,
            "id": one.id,
            "changes": changes,
            "row": row,
            "events_count": one.number,
            "events": [events[position] for position in reversed(one.latest) if position in events],
        }
        items.append(orjson.dumps(item))
    return items


def _counted(shown: Shown, added: int, changed: int, removed: int) -> JsonObject:
    return {"context": shown.context, "kind": shown.read.name, "added": added, "changed": changed, "removed": removed}
