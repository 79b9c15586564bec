"""What events change for those who read: the rows they touch, as they stood before and as they stand then."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson

from domain.kernel import JsonObject
from infra.read_queries import Reads
from infra.row_filters import Matches
from projections.engine import Projection, ProjectionError, ReadTable, RowKey, touched
from streams.following import Following, from_ledger, persistently
from streams.progress import Progress
from streams.tail import Entry, Tail

_log = logging.getLogger("aureus.feeds")
NOTHING: Final[frozenset[str]] = frozenset()


async def nothing() -> frozenset[str]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Change:
    """A row that was touched at a position: as it stands at the end of its batch, and as it stood before it (if somebody asked)."""

    position: int
    table: str
    tenant: str
    id: str
    row: JsonObject | None
    before: JsonObject | None

    def told(self, *, row: bool, masked: frozenset[str] = NOTHING) -> str:
        """As JSON; without its row when it is not, or no longer, among those asked for, and without what is masked in it."""
        shown = self.row if row else None
        if shown is not None and masked:
            shown = {**shown, **dict.fromkeys(masked & shown.keys())}
        return orjson.dumps({"position": self.position, "table": self.table, "id": self.id, "row": shown}).decode()


@dataclass(frozen=True, slots=True)
class Batch:
    """All that changed at positions in `(after, until]` in the tables somebody follows."""

    after: int
    until: int
    changes: tuple[tuple[Change, str], ...]
    """Each with its JSON, made once for everybody."""

    @property
    def position(self) -> int:
        return self.until

    @property
    def size_bytes(self) -> int:
        return sum(len(told) for _, told in self.changes) + 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody follows of a table: the rows of one tenant, of these ids (None: any), that pass the filters (None: there are none)."""

    read: ReadTable[Any]
    tenant: str
    ids: frozenset[str] | None = None
    matches: Matches | None = None
    masked: Callable[[], Awaitable[frozenset[str]]] = nothing
    """Tells the fields that they are not shown, as of now."""

    def told(self, change: Change, told: str, masked: frozenset[str]) -> str | None:
        """What they are told of a change. A row that leaves what was asked for is told as ended; one that never was in it, not at all."""
        if change.tenant != self.tenant or (self.ids is not None and change.id not in self.ids):
            return None
        if self.matches is None or (change.row is not None and self.matches(change.row)):
            return change.told(row=True, masked=masked) if masked else told
        return change.told(row=False) if change.before is not None and self.matches(change.before) else None


WantedTables = Mapping[str, Wanted]


class Changes:
    """The tail of the changes, made once for all who follow them: one query per table and batch."""

    def __init__(
        self, following: Following, progress: Progress, reads: Reads, projections: Sequence[Projection], tail: Tail[Batch]
    ) -> None:
        self._following, self._progress, self._reads, self._projections = following, progress, reads, projections
        self._read = {read.name: read for projection in projections for read in projection.tables}
        self._tables: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()
        self.tail = tail
        self.taken = tail.reached
        """Where the batch ends that is being made; whoever comes now hears of what is beyond it."""

    def follow(self, wanted: WantedTables) -> None:
        self._tables.update(list(wanted))
        self._filtered.update(name for name, one in wanted.items() if one.matches)

    def leave(self, wanted: WantedTables) -> None:
        self._tables -= Counter(list(wanted))
        self._filtered -= Counter([name for name, one in wanted.items() if one.matches])

    async def run(self) -> None:
        """Until cancelled."""
        events = self._following.tail
        while True:
            await events.beyond(self.taken)
            after = self.taken
            if after >= events.begins:
                entries = events.after(after)
            else:
                entries = await persistently(partial(from_ledger, self._following.ledger, after))
            self.taken = entries[-1].position
            tables, filtered = set(self._tables), set(self._filtered)
            batch = await persistently(partial(self.batch, entries, after, tables, filtered))
            self.tail.extend([batch] if batch.changes else [], batch.until)

    async def batch(self, entries: Sequence[Entry], after: int, tables: Iterable[str], filtered: Iterable[str]) -> Batch:
        """What some events change in some tables; in the filtered ones, also what it was before. Waits until the read models show it."""
        until = entries[-1].position
        rows = self._touched(entries, frozenset(tables))
        if rows:
            await self._progress.beyond(until - 1)
        groups: dict[tuple[str, str], list[str]] = {}
        for table, tenant, row_id in rows:
            groups.setdefault((table, tenant), []).append(row_id)
        now: dict[RowKey, JsonObject] = {}
        before: dict[RowKey, JsonObject] = {}
        for (table, tenant), ids in groups.items():
            read = self._read[table]
            now |= {(table, tenant, key): row for key, row in (await self._reads.many(read, tenant, ids, until)).items()}
            if table in filtered:
                before |= {(table, tenant, key): row for key, row in (await self._reads.many(read, tenant, ids, after)).items()}
        changes = [Change(position, *key, now.get(key), before.get(key)) for key, position in rows.items()]
        changes.sort(key=lambda change: change.position)
        return Batch(after, until, tuple((change, change.told(row=True)) for change in changes))

    def _touched(self, entries: Iterable[Entry], tables: frozenset[str]) -> dict[RowKey, int]:
        """The rows that events touch, each with the last position that does."""
        found: dict[RowKey, int] = {}
        for projection in self._projections:
            if tables.isdisjoint(read.name for read in projection.tables):
                continue
            for one in entries:
                try:
                    found.update((key, one.position) for key in touched(projection, (one.recorded,)) if key[0] in tables)
                except ProjectionError as error:  # then the projection stands still, and nothing of it changes
                    _log.warning("no changes are told of what cannot be projected: %s", error)
        return found
