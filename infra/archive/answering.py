"""The process that answers a question: it holds one tenant's events, and reaches nothing else."""

from __future__ import annotations

import resource
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import duckdb

from domain.kernel import JsonObject
from infra.archive.apart import answer_one
from infra.archive.segment import ArchiveError, too_large

ANSWER_BYTES: Final = 16 * 1024 * 1024
_MEMORY_LIMIT: Final = "768MB"
_ADDRESS_SPACE: Final = 3 * 1024**3
"""DuckDB's own limit is a wish; this one the kernel keeps."""
_PROCESSOR_SECONDS: Final = 90
_FILE_BYTES: Final = 16 * 1024**3
_COPY: Final = """
    CREATE TABLE sealed AS SELECT position, "at" AT TIME ZONE 'UTC' AS recorded_at, stream, version, type, body, lower(hex(leaf)) AS leaf
    FROM read_parquet($files) WHERE tenant = $tenant AND position > $after AND position <= $until
"""
_VIEWS: Final = """
    CREATE VIEW events AS SELECT position, recorded_at, stream, version, type, (body->>'$.schema')::INTEGER AS schema,
        body->>'$.actor' AS actor, body->>'$.id' AS event_id, body->>'$.correlation' AS correlation, body->>'$.causation' AS causation,
        body->'$.data' AS data, body::JSON AS body, leaf
    FROM sealed
"""
_CLOSED: Final[dict[str, str | bool | int | float | list[str]]] = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": _MEMORY_LIMIT,
    "temp_directory": "",
    "threads": 2,
    "lock_configuration": True,
}


def _answer(job: JsonObject) -> JsonObject:
    require_one_select(job["sql"])
    _limit(resource.RLIMIT_AS, _ADDRESS_SPACE)
    _limit(resource.RLIMIT_CPU, _PROCESSOR_SECONDS)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    copy = fill(job)
    _limit(resource.RLIMIT_FSIZE, 0)
    return answer(copy, job["sql"], job["rows"])


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def require_one_select(sql: str) -> None:
    """A courtesy, for its words: what is not one SELECT could do nothing here either. Raises ArchiveError."""
    remedy = "Ask with one SELECT over `events`: position, recorded_at, stream, version, type, actor, data, body, leaf."
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise ArchiveError("query_refused", _told(error), remedy) from None
    if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise ArchiveError("query_not_a_select", "An archive is asked, not changed: this is not one SELECT.", remedy)


def fill(job: JsonObject) -> Path:
    """The tenant's events, and nothing of anybody else's, in a database of this process' own; the segments are gone then."""
    copy = Path(job["folder"]) / "events.duckdb"
    with duckdb.connect(str(copy), config={"memory_limit": _MEMORY_LIMIT, "autoload_known_extensions": False}) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(_COPY, {name: job[name] for name in ("files", "tenant", "after", "until")})
        database.execute(_VIEWS)
    for name in job["files"]:
        Path(name).unlink()
    return copy


def answer(copy: Path, sql: str, rows: int) -> JsonObject:
    """What a question comes to, in a database that is all there is. Raises ArchiveError."""
    try:
        with duckdb.connect(str(copy), read_only=True, config=_CLOSED) as database:
            return _rows(database.execute(sql), rows)
    except (duckdb.Error, MemoryError, RecursionError) as error:
        raise _refused(error) from None


def _rows(found: duckdb.DuckDBPyConnection, most: int) -> JsonObject:
    columns = [{"name": name, "type": str(kind)} for name, kind, *_ in found.description or ()]
    rows: list[list[Any]] = []
    size_bytes = 0
    while len(rows) <= most and size_bytes <= ANSWER_BYTES and (row := found.fetchone()) is not None:
        rows.append([_json(value) for value in row])
        size_bytes += sum(len(value) if isinstance(value, str) else 8 for value in rows[-1])
    truncated = len(rows) > most or size_bytes > ANSWER_BYTES
    return {"columns": columns, "rows": rows[: most if len(rows) > most else None], "truncated": truncated}


def _json(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) < 2**53 else str(value)
        case float():
            return value if value - value == 0 else str(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case datetime() | date():
            return value.isoformat()
        case dict():
            return {str(name): _json(item) for name, item in value.items()}
        case list() | tuple():
            return [_json(item) for item in value]
        case Decimal() | UUID() | timedelta() | _:
            return str(value)


def _refused(error: BaseException) -> ArchiveError:
    remedy = "`SELECT * FROM events LIMIT 1` shows what there is to ask; files, networks and settings are out of reach."
    if isinstance(error, MemoryError) or "Out of Memory" in str(error) or "could not allocate" in str(error).lower():
        return too_large()
    return ArchiveError("query_refused", _told(error), remedy)


def _told(error: BaseException) -> str:
    return str(error).partition("\n\n")[0].strip()[:500]


if __name__ == "__main__":
    answer_one(_answer)
