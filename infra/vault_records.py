"""What became of every personal field on record: each digest in a signed event is a value that opens, one that was erased under a
certificate, or one that somebody took away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from domain.kernel import EVENTS, Event, Recorded
from domain.keys import SYSTEM_TENANT
from domain.subjects import SubjectErased
from domain.values import Personal
from domain.vault import WRAPPING_STREAM, Wrapping, wrapping_of
from infra.envelope import DECOYS, recorded_members
from infra.ledger import Ledger
from infra.postgres_store import PostgresStore
from infra.store import StoredEvent
from infra.vault import Row, is_decoy

State = Literal["open", "decoy", "erased", "missing", "cannot_tell", "damaged"]
CHUNK_EVENTS: Final = 2_000
_ACCOUNTED: Final = "SELECT position FROM vault.accounted"
_EVENTS: Final = """
    SELECT position, tenant, stream, version, type, body, signatures, leaf FROM ledger.events
    WHERE tenant = %s AND position = ANY(%s) ORDER BY position
"""
_ORPHANS: Final = """
    SELECT position, name, subject FROM vault.disclosures
    WHERE tenant = %s AND position > %s AND position <= %s AND position <> ALL(%s) ORDER BY position, name LIMIT 1000
"""


@dataclass(frozen=True, slots=True)
class FieldState:
    """What became of one digest of an event. `name` and `subject` are None where several fields could be meant."""

    position: int
    event_type: str
    at: str
    state: State
    name: str | None = None
    subject: str | None = None
    purpose: str | None = None
    mark: Personal | None = None
    value: Any = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Certificates:
    """Up to which position the values of a subject, kept for a purpose, were erased by the ledger's own word."""

    until: Mapping[tuple[str, str, str | None], int]

    def cover(self, tenant: str, subject: str, purpose: str, position: int) -> bool:
        return any(position <= self.until.get((tenant, subject, kept_for), 0) for kept_for in (purpose, None))


@dataclass(frozen=True, slots=True)
class Accounting:
    """How many digests of personal events after `after`, up to `until`, are in which state, and those that should not be."""

    after: int
    until: int
    accounted_from: int
    events: int
    counts: Mapping[State, int]
    problems: list[FieldState]
    problems_left_out: int


class VaultRecords:
    """Looks into the vault beside the ledger's signed events."""

    def __init__(self, ledger: Ledger) -> None:
        store = ledger.store
        assert isinstance(store, PostgresStore), "a ledger in memory keeps no values"
        self.vault, self.pool, self._store, self._ledger = store.vault, store.pool, store, ledger

    async def states(self, tenant: str, positions: Sequence[int]) -> list[FieldState]:
        """What became of the personal fields of these events, in their order."""
        stored = await self._at(tenant, positions)
        return await self._states(tenant, stored, await self._certificates(), await self._accounted_from())

    async def wrapping(self) -> Wrapping:
        """What the ledger says of the key-encryption keys that were rotated to."""
        return wrapping_of(recorded.event for recorded in await self._ledger.read_stream(SYSTEM_TENANT, WRAPPING_STREAM))

    async def mask_key(self, tenant: str) -> bytes:
        """The key that a tenant's masks are hashed under: random, kept in the vault like a subject's, and never erased."""
        return await self.vault.key_of(self.pool, (tenant, "_masks", "_masks"))

    async def accounting(self, tenant: str, after: int, until: int, most_problems: int) -> Accounting:
        """Accounts for every digest of a tenant's personal events after one position, up to another."""
        certificates, accounted_from = await self._certificates(), await self._accounted_from()
        counts: Counter[State] = Counter()
        problems: list[FieldState] = []
        events = 0
        async for stored, low, high in self._personal(tenant, after, until):
            events += len(stored)
            found = await self._states(tenant, stored, certificates, accounted_from)
            found += await self._orphans(tenant, low, high, [event.position for event in stored])
            counts.update(state.state for state in found)
            problems += [state for state in found if state.state in {"missing", "damaged"}]
        kept = problems[:most_problems]
        return Accounting(after, until, accounted_from, events, counts, kept, len(problems) - len(kept))

    async def _personal(self, tenant: str, after: int, until: int) -> AsyncIterator[tuple[list[StoredEvent], int, int]]:
        """A tenant's events that have personal fields, a piece of the ledger at a time: (events, after, up to)."""
        types = [event.event_name for event in EVENTS if event.personal]
        for low in range(after, until, CHUNK_EVENTS):
            high = min(low + CHUNK_EVENTS, until)
            yield [event for event in await self._store.read_types(types, low, high) if event.tenant == tenant], low, high

    async def _at(self, tenant: str, positions: Sequence[int]) -> list[StoredEvent]:
        async with self.pool.connection() as connection:
            rows = await (await connection.execute(_EVENTS, (tenant, list(positions)))).fetchall()
        return [StoredEvent(*row) for row in rows]

    async def _states(
        self, tenant: str, stored: Sequence[StoredEvent], certificates: Certificates, accounted_from: int
    ) -> list[FieldState]:
        if not stored:
            return []
        rows = await self.vault.disclosed(self.pool, tenant, [event.position for event in stored])
        by_position: dict[int, dict[str, Row]] = {}
        for (position, name), row in rows.items():
            by_position.setdefault(position, {})[name] = row
        states: list[FieldState] = []
        for event in stored:
            states += _of_event(event, by_position.get(event.position, {}), certificates, accounted=event.position > accounted_from)
        return states

    async def _orphans(self, tenant: str, after: int, until: int, positions: Sequence[int]) -> list[FieldState]:
        """Rows that belong to no personal event."""
        async with self.pool.connection() as connection:
            found = await (await connection.execute(_ORPHANS, (tenant, after, until, list(positions)))).fetchall()
        problem = "no event at this position has personal fields"
        return [FieldState(position, "", "", "damaged", name, subject, problem=problem) for position, name, subject in found]

    async def _certificates(self) -> Certificates:
        """As the ledger's own events have them: a row in a table proves nothing."""
        until: dict[tuple[str, str, str | None], int] = {}
        size = (await self._ledger.refresh()).size
        for recorded in await self._ledger.read_types([SubjectErased.event_name], 0, size):
            event = recorded.event
            assert isinstance(event, SubjectErased)
            for purpose in (None,) if event.everything else event.purposes:
                key = (recorded.tenant, event.subject_id, purpose)
                until[key] = max(until.get(key, 0), event.until)
        return Certificates(until)

    async def _accounted_from(self) -> int:
        async with self.pool.connection() as connection:
            row = await (await connection.execute(_ACCOUNTED)).fetchone()
        assert row is not None
        return int(row[0])


def _of_event(stored: StoredEvent, rows: Mapping[str, Row], certificates: Certificates, *, accounted: bool) -> list[FieldState]:
    """Every digest's state. Each row explains one digest: the right one, or, damaged, one of those that are left."""
    body = orjson.loads(stored.body)
    event = recorded_members(stored.position, body, stored.leaf)
    left = set(body["_sd"])
    states: list[FieldState] = []
    unexplained = 0
    for name, row in sorted(rows.items()):
        state = _of_row(event, name, row, left, certificates)
        unexplained += state.state not in {"open", "decoy"}
        states.append(state)
    return states + list(_of_the_rest(event, len(left) - unexplained, set(rows), certificates, accounted=accounted))


def _of_row(event: Recorded[Event], name: str, row: Row, left: set[str], certificates: Certificates) -> FieldState:
    """The state of a row; takes the digest that it explains out of those left."""
    mark = event.event.personal.get(name)
    about = _about(event, name, mark)
    if row.disclosure is None and row.problem is None:
        subject, purpose = row.owner[1], row.owner[2]
        covered = certificates.cover(event.tenant, subject, purpose, event.position)
        return FieldState(**about, state="erased") if covered else FieldState(**about, state="missing", problem="its key is gone")
    if row.disclosure is None:
        return FieldState(**about, state="damaged", problem=row.problem)
    expected = (DECOYS, DECOYS) if mark is None else (getattr(event.event, mark.subject), mark.purpose)
    if row.disclosure.name != name or row.owner[1:] != expected or row.disclosure.digest() not in left:
        return FieldState(**about, state="damaged", problem="it is not what was signed: its digest does not stand in the event")
    left.remove(row.disclosure.digest())
    if is_decoy(name):
        return FieldState(**about, state="decoy")
    return FieldState(**about, state="open", value=row.disclosure.value)


def _of_the_rest(
    event: Recorded[Event], digests: int, present: set[str], certificates: Certificates, *, accounted: bool
) -> Iterator[FieldState]:
    """The digests that no row explains: erased as far as certificates go, and whatever is left was taken away.

    Of events from before decoys were kept, it could be a decoy as well. A digest does not tell its field: where fewer are left
    than could be meant, none is named.
    """
    erased = [
        (name, mark)
        for name, mark in event.event.personal.items()
        if name not in present and certificates.cover(event.tenant, str(getattr(event.event, mark.subject)), mark.purpose, event.position)
    ]
    named = accounted and len(erased) <= digests
    for name, mark in erased[: max(0, digests)]:
        yield FieldState(**_about(event, name if named else None, mark), state="erased")
    for _ in range(digests - len(erased)):
        if accounted:
            yield FieldState(**_about(event, None, None), state="missing", problem="nothing is kept of it")
        else:
            yield FieldState(**_about(event, None, None), state="cannot_tell")


def _about(event: Recorded[Event], name: str | None, mark: Personal | None) -> dict[str, Any]:
    return {
        "position": event.position,
        "event_type": event.event.event_name,
        "at": event.at_text,
        "name": name,
        "subject": getattr(event.event, mark.subject) if mark else None,
        "purpose": mark.purpose if mark else None,
        "mark": mark,
    }
