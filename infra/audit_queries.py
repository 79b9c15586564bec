"""One statement of an auditor's SQL: run as the replay's own role, read-only, with an end to its time, its rows and its bytes."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
import psutil
import psycopg
from psycopg import AsyncRawCursor, errors, sql
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader

from infra.auditor_roles import LIMITS

Connection = psycopg.AsyncConnection[TupleRow]
SECONDS_MAX: Final = 30.0
ROWS_MAX: Final = 5_000
BYTES_MAX: Final = 8 * 1024 * 1024
"""Of one answer, as JSON text."""
BACKEND_BYTES_MAX: Final = 512 * 1024 * 1024
"""What the server's process may take for a query, where we may say so: PostgreSQL itself knows no such limit."""
_PREFIX: Final = "DECLARE asked NO SCROLL CURSOR WITHOUT HOLD FOR\n"
_OWN_KINDS: Final = frozenset({"bool", "int2", "int4", "int8", "float4", "float8", "oid"})
_JSON: Final = frozenset({"json", "jsonb"})
_MOMENTS: Final = frozenset({"timestamp", "timestamptz"})


@dataclass(frozen=True, slots=True)
class Question:
    """SQL with the values of `$1`, `$2`, ...; the answer leaves out the first `offset` rows and holds `limit` at most."""

    sql: str
    values: tuple[str | None, ...] = ()
    offset: int = 0
    limit: int = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """Names and types of the columns, the rows as JSON values, and whether there are more."""

    columns: tuple[tuple[str, str], ...]
    rows: list[list[Any]]
    more: bool
    seconds: float


class SqlRefused(Exception):
    """PostgreSQL did not answer: its code, its sentence, what it adds, and at which character of the statement (from 1)."""

    def __init__(self, sqlstate: str, message: str, hint: str | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.sqlstate, self.message, self.hint, self.position = sqlstate, message, hint, position


class NoEntry(Exception):
    """The role cannot log in."""


async def run(dsn: str, search_path: Sequence[str], question: Question, *, own_server: bool = False) -> Answer:
    """What a question comes to. `own_server` says that the server runs on this machine, as our own child."""
    began = time.perf_counter()
    try:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise NoEntry(str(error)) from error
    try:
        if own_server:
            _bound_memory(connection.info.backend_pid)
        _plain_values(connection)
        async with asyncio.timeout(SECONDS_MAX + 5):
            columns, rows, more = await _asked(connection, search_path, question)
    except TimeoutError:
        raise SqlRefused("57014", f"It took longer than {SECONDS_MAX:g} s.", "Ask for less, or for a part of it.") from None
    except psycopg.Error as error:
        raise _refused(error) from error
    finally:
        # Whatever the statement began ends with its session.
        await connection.close()
    return Answer(columns, rows, more, time.perf_counter() - began)


async def _asked(
    connection: Connection, search_path: Sequence[str], question: Question
) -> tuple[tuple[tuple[str, str], ...], list[list[Any]], bool]:
    await connection.execute("BEGIN READ ONLY")
    limits = {**LIMITS, "statement_timeout": f"{SECONDS_MAX:g}s", "timezone": "UTC", "datestyle": "ISO"}
    for setting, value in limits.items():
        if setting != "default_transaction_read_only":
            await connection.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(setting), sql.Literal(value)))
    path = sql.SQL(", ").join(map(sql.Identifier, search_path))
    await connection.execute(sql.SQL("SET LOCAL search_path = {}").format(path))
    # A cursor is made of one statement that reads. Sent by the extended protocol, there is no second one behind it.
    cursor = AsyncRawCursor(connection)
    await cursor.execute((_PREFIX + question.sql).encode(), list(question.values), binary=True)
    if question.offset:
        await cursor.execute(sql.SQL("MOVE FORWARD {} FROM asked").format(question.offset))
    rows: list[list[Any]] = []
    taken, more = 0, False
    columns: tuple[tuple[str, str], ...] = ()
    fetch = sql.SQL("FETCH FORWARD {} FROM asked").format(question.limit + 1)
    # One row at a time reaches us, so that a few wide ones cannot fill our memory.
    async with aclosing(cast(AsyncGenerator[TupleRow, None], cursor.stream(fetch))) as stream:
        async for row in stream:
            taken += len(orjson.dumps(row, default=str))
            more = len(rows) == question.limit or taken > BYTES_MAX
            if more:
                break
            rows.append(list(row))
            columns = _columns(cursor)
    if more and not rows:
        raise SqlRefused("54000", f"A row is larger than {BYTES_MAX >> 20} MiB.", "Ask for fewer columns, or for a part of the value.")
    if not rows:
        await cursor.execute("FETCH FORWARD 1 FROM asked")
        columns = _columns(cursor)
    return columns, rows, more


def _columns(cursor: AsyncRawCursor[TupleRow]) -> tuple[tuple[str, str], ...]:
    return tuple((column.name, column.type_display) for column in cursor.description or ())


def _plain_values(connection: Connection) -> None:
    """Numbers, truth and JSON as such; everything else as the text that PostgreSQL shows."""
    for known in connection.adapters.types:
        if known.name in _JSON:
            connection.adapters.register_loader(known.oid, _Json)
        elif known.name in _MOMENTS:
            connection.adapters.register_loader(known.oid, _Moment)
        elif known.name not in _OWN_KINDS:
            connection.adapters.register_loader(known.oid, TextLoader)


class _Json(TextLoader):
    """JSON, to be told as JSON: not read here, however deep it is."""

    def load(self, data: Any) -> Any:
        return orjson.Fragment(bytes(data))


class _Moment(TextLoader):
    """A time as everywhere else in Aureus: RFC 3339, in UTC."""

    def load(self, data: Any) -> Any:
        return bytes(data).decode().replace(" ", "T", 1).replace("+00", "Z")


def _bound_memory(pid: int) -> None:
    """PostgreSQL answers with an error when the system gives it no more; the server and its other sessions go on."""
    with suppress(PermissionError, ProcessLookupError, psutil.NoSuchProcess):
        if "postgres" in psutil.Process(pid).name():
            resource.prlimit(pid, resource.RLIMIT_DATA, (BACKEND_BYTES_MAX, BACKEND_BYTES_MAX))


def _refused(error: psycopg.Error) -> SqlRefused:
    diagnosis = error.diag
    place = int(diagnosis.statement_position) - len(_PREFIX) if diagnosis.statement_position else None
    hint = diagnosis.message_hint
    if isinstance(error, errors.QueryCanceled):
        return SqlRefused("57014", f"It took longer than {SECONDS_MAX:g} s.", "Ask for less, or for a part of it.")
    if isinstance(error, errors.SyntaxError) and place is not None and place <= 1:
        hint = "One statement that reads: SELECT, WITH, VALUES or TABLE."
    return SqlRefused(error.sqlstate or "XX000", diagnosis.message_primary or str(error), hint, place if place and place > 0 else None)
