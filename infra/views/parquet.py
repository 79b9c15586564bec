"""Events and read models as Parquet, for whoever counts, joins and charts.

Rows are spooled as JSON lines beside the target, and DuckDB turns them into Parquet on one thread, within bounded memory and in
their order: so the same rows give the same bytes, under one version of DuckDB (it writes its version into the file).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import orjson

from infra.views.view import About, ViewEvent, Writing

ROW_GROUP_ROWS: Final = 20_480
"""An event is 65,535 bytes at most, so a row group in the making stays below 1.4 GB; usual ones are a twentieth of that."""
_MEMORY_LIMIT: Final = "1GB"
_SPOOLED_ROWS: Final = 5_000
_CANONICAL: Final = orjson.OPT_SORT_KEYS
_EVENT_COLUMNS: Final = {
    "position": "BIGINT",
    "at": "TIMESTAMPTZ",
    "tenant": "VARCHAR",
    "stream": "VARCHAR",
    "version": "BIGINT",
    "type": "VARCHAR",
    "schema": "INTEGER",
    "actor": "VARCHAR",
    "event_id": "VARCHAR",
    "correlation": "VARCHAR",
    "causation": "VARCHAR",
    "key": "VARCHAR",
    "leaf": "VARCHAR",
    "data": "VARCHAR",
}


class Spool:
    """Rows on their way into one Parquet file; `columns` are DuckDB types by name."""

    def __init__(self, target: Path, columns: Mapping[str, str]) -> None:
        self._target = target
        self._columns = columns
        self._rows = target.with_name(f"{target.name}.rows")
        self._file: IO[bytes] = self._rows.open("wb")

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._file.write(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))

    def close(self) -> None:
        self._file.close()
        try:
            import duckdb  # noqa: PLC0415 - takes long to load, and most who know of renderings render none

            with duckdb.connect(config={"threads": 1, "memory_limit": _MEMORY_LIMIT, "autoload_known_extensions": False}) as database:
                database.execute("SET TimeZone = 'UTC'")
                database.execute(self._statement(), [str(self._rows)])
        finally:
            self._rows.unlink()

    def _statement(self) -> str:
        columns = ", ".join(f"{_named(name)}: {_quoted(kind)}" for name, kind in self._columns.items())
        options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS}"
        rows = f"read_json($1, format = 'newline_delimited', columns = {{{columns}}})"
        return f"COPY (SELECT * FROM {rows}) TO {_quoted(str(self._target))} ({options})"  # noqa: S608 - names and types are ours, the path is quoted


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _named(column: str) -> str:
    return f'"{column}"'


@dataclasses.dataclass(frozen=True, slots=True)
class EventsParquet:
    """Every exported event as a row; its data is canonical JSON text, just as it was signed."""

    name: str = "parquet"
    path: str = "views/events.parquet"

    def open(self, _about: About, target: Path) -> Writing:
        return _WritingEvents(Spool(target, _EVENT_COLUMNS))


class _WritingEvents:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def add(self, events: Sequence[ViewEvent]) -> None:
        self._spool.add(map(_row, events))

    def close(self) -> None:
        self._spool.close()


def _row(event: ViewEvent) -> dict[str, Any]:
    body = event.body
    return {
        "position": event.position,
        "at": body["at"],
        "tenant": body["tenant"],
        "stream": body["stream"],
        "version": body["version"],
        "type": body["type"],
        "schema": body["schema"],
        "actor": body["actor"],
        "event_id": body["id"],
        "correlation": body["correlation"],
        "causation": body["causation"],
        "key": body["key"],
        "leaf": event.leaf.hex(),
        "data": orjson.dumps(body["data"], option=_CANONICAL).decode(),
    }


def table_path(name: str) -> str:
    """Where a read table stands in a pack."""
    return f"views/tables/{name}.parquet"


def write_table(target: Path, row: type, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows of one read table, whose dataclass is `row`, as typed Parquet; returns how many. Objects become JSON text."""
    columns = {name: _column(hint) for name, hint in typing.get_type_hints(row).items()}
    as_text = [name for name, hint in typing.get_type_hints(row).items() if _is_json(hint)]
    spool = Spool(target, columns)
    count = 0
    batch: list[dict[str, Any]] = []
    for each in rows:
        told = {name: each.get(name) for name in columns}
        for name in as_text:
            told[name] = None if told[name] is None else orjson.dumps(told[name], option=_CANONICAL).decode()
        batch.append(told)
        count += 1
        if len(batch) == _SPOOLED_ROWS:
            spool.add(batch)
            batch.clear()
    spool.add(batch)
    spool.close()
    return count


_SIMPLE: Final[Mapping[Any, str]] = types.MappingProxyType(
    {str: "VARCHAR", int: "BIGINT", bool: "BOOLEAN", list[str]: "VARCHAR[]", list[int]: "BIGINT[]"}
)


def _stated(hint: Any) -> Any:
    """The type of a field that is there: `str` of `str | None`."""
    options = [option for option in typing.get_args(hint) if option is not types.NoneType]
    return options[0] if isinstance(hint, types.UnionType) and len(options) == 1 else hint


def _column(hint: Any) -> str:
    return _SIMPLE.get(_stated(hint), "VARCHAR")


def _is_json(hint: Any) -> bool:
    return _stated(hint) not in _SIMPLE
