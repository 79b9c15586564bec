"""A read model is a fold from events to rows; this module folds, and does no I/O.

The same fold serves four uses: live in process, in a stream worker, in a rebuild beside the live tables, and in
memory up to any position. Whoever runs it loads the rows a batch touches, folds, and writes the versions that result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar, dataclass_transform

from domain.kernel import EVENTS, Event, Recorded

OPEN: Final = 2**63 - 1
"""`to_position` of the version that holds now."""

R = TypeVar("R")
Fold = Callable[[Any, Recorded[Any], str], Any]
Keys = Callable[[Recorded[Any]], Iterable[str]]
RowKey = tuple[str, str, str]
"""(table, tenant, row id)"""


@dataclass_transform(frozen_default=True)
def read_row(row: type[R]) -> type[R]:
    """A dataclass of JSON values that the type checker keeps frozen: at run time that would be half of the work of a fold."""
    made = dataclass(slots=True)(row)
    _REPLACE[made] = _replacer(made)
    return made


_REPLACE: Final[dict[type, Callable[..., Any]]] = {}
_KEPT: Final = object()


def _replacer(row: type[Any]) -> Callable[..., Any]:
    """What `dataclasses.replace` does for this class, without looking its fields up each time: four times as quick."""
    names = [each.name for each in fields(row)]
    parameters = ", ".join(f"{name}=_KEPT" for name in names)
    values = ", ".join(f"_before.{name} if {name} is _KEPT else {name}" for name in names)
    made: dict[str, Any] = {"_KEPT": _KEPT, "_Row": row}
    exec(f"def replacer(_before, *, {parameters}): return _Row({values})", made)  # noqa: S102 - of the names of our own fields
    replacer: Callable[..., Any] = made["replacer"]
    return replacer


if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414 - told on to the projections
else:

    def replace(row: R, **changes: Any) -> R:
        """The row with some of its fields changed."""
        return _REPLACE[type(row)](row, **changes)


class ProjectionError(Exception):
    """A projection cannot go on: names the projection, the event and the reason. It stops there; it never skips."""


def _own_entity(recorded: Recorded[Any]) -> Iterable[str]:
    return (recorded.entity,)


@dataclass(frozen=True)
class ReadTable(Generic[R]):
    """Rows of one kind by id. `row` is a `read_row` of JSON values only (str, int, bool, None, list, dict),
    so a row read back from the database equals the row that was folded.

    `filters` are the columns a list can be narrowed by (also inside arrays), `sorts` those it can be ordered by,
    `search` those a `q=` looks into.
    """

    name: str
    row: type[R]
    filters: tuple[str, ...] = ()
    sorts: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    immutable: bool = False
    """A row is made by one event and never changes: a rebuild need not keep it at hand."""
    ends: bool = False
    """A row can end: a fold may return None for it. What ends is not found by walking the rows that are there now."""
    history: Literal["short", "long", "busy"] = "short"
    """How much past a row has: `short` when it changes a few times and then rests; `long` when it changes again and again for years;
    `busy` when there are few rows and almost every event changes one: their past is found without an index each change would pay for."""
    tenant: str | None = None
    """Whose rows everybody reads, when they are the ledger's own; else everybody reads those of their own tenant."""
    folds: dict[type[Event], list[tuple[Keys, Fold]]] = field(default_factory=dict)

    def on(self, *events: type[Event], keys: Keys = _own_entity) -> Callable[[Fold], Fold]:
        """Registers `fold(row_or_None, recorded, row_id) -> row_or_None` for the rows `keys(recorded)` names.

        Without `keys` it is the row of the stream's own entity. A fold is pure; returning None ends the row.
        """

        def register(fold: Fold) -> Fold:
            for event in events:
                self.folds.setdefault(event, []).append((keys, fold))
            return fold

        return register


@dataclass(frozen=True)
class Projection:
    """A context's read tables, moved forward together under one position. `version` rises when a fold changes."""

    name: str
    tables: tuple[ReadTable[Any], ...]
    version: int = 1
    ordering: Literal["stream", "total"] = "total"
    """`stream`: every row is made by the events of one stream, so workers may share the streams out among themselves.
    `total`: some row is made by several streams, and is right only if their events come in the order of the ledger."""

    @cached_property
    def folds(self) -> dict[type[Event], list[tuple[str, Keys, Fold]]]:
        """Event -> (table, keys, fold), in the order they were written."""
        found: dict[type[Event], list[tuple[str, Keys, Fold]]] = {}
        for table in self.tables:
            for event, folds in table.folds.items():
                found.setdefault(event, []).extend((table.name, keys, fold) for keys, fold in folds)
        return found

    def concerning(self, batch: Sequence[Recorded[Any]], kinds: AbstractSet[type[Event]]) -> Sequence[Recorded[Any]]:
        """The events of a batch that it folds; `kinds` are all kinds of events in there. Most batches concern few projections."""
        if self.folds.keys().isdisjoint(kinds):
            return ()
        return batch if self.folds.keys() >= kinds else [recorded for recorded in batch if type(recorded.event) in self.folds]


Open = dict[RowKey, tuple[int, Any]]
"""Rows as they stand: row key -> (position since which, row)."""


class RowVersion(NamedTuple):
    """A row as it stood from one position up to, not including, another (`OPEN` while it holds)."""

    table: str
    tenant: str
    id: str
    from_position: int
    to_position: int
    row: Any


def kinds_of(batch: Iterable[Recorded[Any]]) -> AbstractSet[type[Event]]:
    """The kinds of events in a batch."""
    return {type(recorded.event) for recorded in batch}


def touched(projection: Projection, batch: Iterable[Recorded[Any]]) -> set[RowKey]:
    """The rows that folding this batch needs to know."""
    found: set[RowKey] = set()
    for recorded in batch:
        for table, keys, _ in projection.folds.get(type(recorded.event), ()):
            try:
                found.update((table, recorded.tenant, key) for key in keys(recorded))
            except Exception as error:
                raise ProjectionError(
                    f"projection {projection.name} stopped at position {recorded.position} "
                    f"({recorded.event.event_name} on {recorded.stream} version {recorded.version}, keys of {table}): {error!r}"
                ) from error
    return found


class Folding:
    """Folds events in order over the rows that stand open, and keeps the versions that ended on the way.

    `rows` must hold every open row the events touch. Pure but for its own two collections.
    """

    def __init__(self, projection: Projection, rows: Open) -> None:
        self._projection = projection
        self._endable = {table.name for table in projection.tables if table.ends}
        self.rows = rows
        self.ended: list[RowVersion] = []

    def fold(self, batch: Iterable[Recorded[Any]]) -> None:
        """Raises ProjectionError naming the event when a fold fails; nothing of this object is to be used then."""
        folds = self._projection.folds
        for recorded in batch:
            for table, keys, fold in folds.get(type(recorded.event), ()):
                for row_id in keys(recorded):
                    self._fold(fold, recorded, (table, recorded.tenant, row_id))

    def _fold(self, fold: Fold, recorded: Recorded[Any], key: RowKey) -> None:
        before = self.rows.get(key)
        try:
            after = fold(before[1] if before else None, recorded, key[2])
        except Exception as error:
            raise ProjectionError(
                f"projection {self._projection.name} stopped at position {recorded.position} "
                f"({recorded.event.event_name} on {recorded.stream} version {recorded.version}, row {key[2]} of {key[0]}): {error!r}"
            ) from error
        position = recorded.position
        if before is not None:
            if after == before[1]:
                return
            if before[0] < position:
                self.ended.append(RowVersion(*key, before[0], position, before[1]))
        if after is not None:
            self.rows[key] = (position, after)
        elif before is not None:
            self._end(key)

    def _end(self, key: RowKey) -> None:
        if key[0] not in self._endable:
            raise ProjectionError(f"projection {self._projection.name} ended row {key[2]} of {key[0]}, whose rows are not said to end")
        del self.rows[key]


def replay(projection: Projection, history: Iterable[Recorded[Any]]) -> dict[RowKey, Any]:
    """The open rows after a history, in memory: what `as_of` must answer."""
    folding = Folding(projection, {})
    folding.fold(history)
    return {key: row for key, (_, row) in folding.rows.items()}


def unread_events(projections: Iterable[Projection]) -> list[str]:
    """Names of events that no projection reads: each needs a reader or a stated reason."""
    read = {event for projection in projections for event in projection.folds}
    return [event.event_name for event in EVENTS if event not in read]
