"""Everything that happened about one thing, from the ledger's own events: what is about it, the rules of topics say.

No index holds it: events that name the thing at all are found by the database, and then judged one by one. So nothing can be
missing from it that the index of topics counts, and a page costs no more than one look over so many events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from psycopg import sql

from domain.differences import Difference, differences
from domain.kernel import JsonObject
from infra.binary_arrays import bigints, texts
from infra.read_queries import Reads
from infra.read_tables import schema_name
from infra.verifier.topics import INHERITING, NOT_ASKED_FOR, topics_of
from projections.engine import Projection

SCANNED_MAX: Final = 200_000
"""A page looks over no more events than these: it may hold fewer entries than were asked for, and the next one goes on."""
ACTING: Final = frozenset({"actor", "agent"})
"""Kinds of things that also do something: what they did is about them."""
_ALLOWED: Final = "actions.action_allowed"
_UNTOLD: Final = frozenset({"changed_at", "position"})
"""Members of rows that change with every change."""
_NAMING: Final = """
    SELECT position, body FROM ledger.events
    WHERE tenant = %(tenant)s AND position > %(after)s AND position <= %(to)s
        AND (body LIKE %(whole)b OR body LIKE %(of_stream)b OR (version > 1 AND split_part(stream, ':', 1) = ANY(%(inheriting)s)))
        AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s)) AND (%(by)b::bytea IS NULL OR body LIKE %(by)b)
    ORDER BY position {direction} LIMIT %(limit)s
"""
_OF_STREAM: Final = """
    SELECT position, body FROM ledger.events
    WHERE tenant = %(tenant)s AND position > %(after)s AND position <= %(to)s AND stream = %(stream)s
        AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s)) AND (%(by)b::bytea IS NULL OR body LIKE %(by)b)
    ORDER BY position {direction} LIMIT %(limit)s
"""
_FIRST: Final = "SELECT stream, body FROM ledger.events WHERE tenant = %s AND stream = ANY(%s) AND version = 1"
_AT: Final = "SELECT position, body FROM ledger.events WHERE tenant = %s AND position = ANY(%b)"
_EVER: Final = "SELECT EXISTS (SELECT FROM ledger.events WHERE tenant = %s AND stream = %s AND version = 1 AND position <= %s)"
_NAMED: Final = """
    SELECT EXISTS (SELECT FROM ledger.events WHERE tenant = %s AND position <= %s AND (body LIKE %b OR body LIKE %b))
"""
_TURNED: Final = """
    SELECT wanted.position, wanted.id, CASE WHEN before.to_position = wanted.position THEN before.doc END, now.doc
    FROM unnest(%(positions)b, %(ids)b) AS wanted(position, id)
        LEFT JOIN {table} AS now ON now.tenant = %(tenant)s AND now.id = wanted.id AND now.from_position = wanted.position
        LEFT JOIN LATERAL (
            SELECT to_position, doc FROM {table} AS t WHERE t.tenant = %(tenant)s AND t.id = wanted.id AND t.from_position < wanted.position
            ORDER BY from_position DESC LIMIT 1
        ) AS before ON true
    WHERE now.id IS NOT NULL OR before.to_position = wanted.position
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a timeline is about, such as the dataset `orders`."""

    tenant: str
    kind: str
    id: str

    @property
    def stream(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def topics(self) -> frozenset[str]:
        """What an event must have one of to be about it; none of what is never asked for by its id."""
        if self.kind in NOT_ASKED_FOR:
            return frozenset()
        return frozenset({f"about:{self.stream}"} | ({f"actor:{self.id}"} if self.kind in ACTING else set()))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of the events: after one position up to another, of these types (any if None), by this actor; the latest first, or not."""

    after: int
    to: int
    limit: int
    types: Collection[str] | None = None
    actor: str | None = None
    latest_first: bool = False


@dataclass(frozen=True, slots=True)
class Happened:
    """An event: its position and its signed body."""

    position: int
    body: JsonObject


@dataclass(frozen=True, slots=True)
class Turn:
    """What an event made of a row: `new` if it was not there, `ended` if it is not any more, and what differs otherwise."""

    kind: str
    id: str
    new: bool
    ended: bool
    changes: Sequence[Difference]


class Timelines:
    """Timelines over one ledger."""

    def __init__(self, reads: Reads, projections: Sequence[Projection]) -> None:
        self._reads, self._projections = reads, projections

    async def known(self, subject: Subject, up_to: int, *, named: bool) -> bool:
        """Whether the subject had a stream of its own by then, or if `named` will do: whether any event held its id."""
        ((found,),) = await self._reads.fetch(_EVER, (subject.tenant, subject.stream, up_to), tenant=subject.tenant)
        if not found and named and subject.topics:
            ((found,),) = await self._reads.fetch(_NAMED, (subject.tenant, up_to, *_naming(subject)), tenant=subject.tenant)
        return bool(found)

    async def page(self, subject: Subject, wanted: Wanted) -> tuple[list[Happened], int | None]:
        """Events about the subject, and the position to go on after - or, if the latest come first, up to; None where there are no more.

        An action that was allowed is told by its facts, where one of them is about the subject; elsewhere by itself.
        """
        after, to, scanned = wanted.after, wanted.to, 0
        told: list[Happened] = []
        while after < to and len(told) < wanted.limit and scanned < SCANNED_MAX:
            low, high = (max(after, to - SCANNED_MAX), to) if wanted.latest_first else (after, min(to, after + SCANNED_MAX))
            rows = await self._rows(subject, wanted, low, high, limit := wanted.limit - len(told))
            found = await self._about(subject, [Happened(position, orjson.loads(body)) for position, body in rows])
            told += await self._once(subject, found, keep=wanted.types is not None)
            whole = len(rows) < limit
            if wanted.latest_first:
                to = low if whole else rows[-1][0] - 1
                scanned += high - to
            else:
                after = high if whole else rows[-1][0]
                scanned += after - low
        return told, None if after >= to else to if wanted.latest_first else after

    async def _rows(self, subject: Subject, wanted: Wanted, low: int, high: int, limit: int) -> list[tuple[int, bytes]]:
        query = _NAMING if subject.topics else _OF_STREAM
        whole, of_stream = _naming(subject)
        direction = sql.SQL("DESC" if wanted.latest_first else "ASC")
        arguments = {
            "tenant": subject.tenant,
            "after": low,
            "to": high,
            "whole": whole,
            "of_stream": of_stream,
            "stream": subject.stream,
            "inheriting": sorted(INHERITING),
            "types": sorted(wanted.types) if wanted.types is not None else None,
            "by": _like(b'"actor":%b,"at"' % orjson.dumps(wanted.actor)) if wanted.actor is not None else None,
            "limit": limit,
        }
        return await self._reads.fetch(sql.SQL(query).format(direction=direction).as_string(), arguments, tenant=subject.tenant)

    async def _about(self, subject: Subject, candidates: Sequence[Happened]) -> list[Happened]:
        """Those that are about the subject, by what they say or by what the first event of their stream said."""
        if not subject.topics:
            return list(candidates)
        inheriting = {one.body["stream"] for one in candidates if one.body["stream"].partition(":")[0] in INHERITING}
        handed_on = set()
        if inheriting:
            for stream, body in await self._reads.fetch(_FIRST, (subject.tenant, sorted(inheriting)), tenant=subject.tenant):
                if not topics_of(orjson.loads(body)).isdisjoint(subject.topics):
                    handed_on.add(stream)
        return [one for one in candidates if one.body["stream"] in handed_on or not topics_of(one.body).isdisjoint(subject.topics)]

    async def _once(self, subject: Subject, found: Sequence[Happened], *, keep: bool) -> list[Happened]:
        """Without the allowed actions whose facts, which stand right before them, are told."""
        facts = {one.position: one.body for one in found}
        missing = [position for one in found for position in _facts_of(one) if position not in facts]
        if keep or not subject.topics:
            return list(found)
        if missing:
            rows = await self._reads.fetch(_AT, (subject.tenant, bigints(missing)), tenant=subject.tenant)
            others = await self._about(subject, [Happened(position, orjson.loads(body)) for position, body in rows])
            facts |= {one.position: one.body for one in others}

        def is_told(one: Happened) -> bool:
            return any(position in facts and facts[position]["causation"] == one.body["causation"] for position in _facts_of(one))

        return [one for one in found if not is_told(one)]

    async def turns(self, subject: Subject, events: Iterable[Happened]) -> dict[int, list[Turn]]:
        """What the events made of the rows of the subject and of the things whose streams they stand in, by position."""
        turned: dict[int, list[Turn]] = {}
        by_context: dict[str, set[tuple[int, str]]] = {}
        for one in events:
            ids = {subject.id, one.body["stream"].partition(":")[2]}
            by_context.setdefault(one.body["type"].partition(".")[0], set()).update((one.position, row_id) for row_id in ids)
        for projection in self._projections:
            places = sorted(by_context.get(projection.name, ()))
            for read in projection.tables if places else ():
                positions, row_ids = [position for position, _ in places], [row_id for _, row_id in places]
                query = sql.SQL(_TURNED).format(table=sql.Identifier(schema_name(projection.name), read.name))
                tenant = read.tenant or subject.tenant
                arguments = {"tenant": tenant, "positions": bigints(positions), "ids": texts(row_ids)}
                for position, row_id, before, after in await self._reads.fetch(query.as_string(), arguments, tenant=tenant):
                    changes = [] if before is None or after is None else differences(before, after)
                    told = [change for change in changes if change.field not in _UNTOLD]
                    turned.setdefault(position, []).append(Turn(read.name, row_id, before is None, after is None, told))
        return turned


def _facts_of(action: Happened) -> Iterable[int]:
    """Where the facts of an action stand that was allowed."""
    if action.body["type"] != _ALLOWED:
        return ()
    return range(action.position - len(action.body["data"]["outputs"]), action.position)


def _naming(subject: Subject) -> tuple[bytes, bytes]:
    """Patterns of bodies that hold the subject's id as a whole text, or as the name of a stream."""
    named = orjson.dumps(subject.id)
    return _like(named), _like(b":" + named[1:])


def _like(text: bytes) -> bytes:
    """A pattern of whatever holds these bytes."""
    return b"%" + text.replace(b"\\", b"\\\\").replace(b"%", b"\\%").replace(b"_", b"\\_") + b"%"
