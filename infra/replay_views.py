"""What an auditor sees of a replay: views with a column for each field, so that SQL reads like the question.

`june_catalog.datasets` holds the rows as they stood at the replay's position, `june_catalog.datasets_history` every version of them,
and `june_ledger.events` the events themselves, as they were signed: of personal values they hold digests only.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Final

from psycopg import sql

from domain.replays import EVENTS_SCHEMA
from infra.read_tables import schema_name
from projections.engine import OPEN, Projection, ReadTable

EVENTS: Final = "events"
_RENAMED: Final = {"column": "column_name"}
"""Fields whose names are words of SQL, which would have to be quoted."""
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")

CREATE_EVENTS: Final = """
    CREATE TABLE {events} (
        position bigint PRIMARY KEY, at timestamptz NOT NULL, type text NOT NULL, stream text NOT NULL, version bigint NOT NULL,
        actor text NOT NULL, event_id uuid NOT NULL, correlation uuid, causation uuid, schema int NOT NULL, data jsonb NOT NULL
    )
"""
FILL_EVENTS: Final = """
    INSERT INTO {events}
    SELECT position, at, type, stream, version, body->>'actor', (body->>'id')::uuid, (body->>'correlation')::uuid,
        (body->>'causation')::uuid, (body->>'schema')::int, body->'data'
    FROM (
        SELECT position, at, type, stream, version, convert_from(body, 'UTF8')::jsonb AS body
        FROM ledger.events WHERE position <= {until} AND tenant = ANY({tenants})
    ) AS signed
"""
INDEX_EVENTS: Final = """
    CREATE INDEX ON {events} (stream, version);
    CREATE INDEX ON {events} (type, at);
    CREATE INDEX ON {events} (actor, at);
    ANALYZE {events}
"""
_VIEW: Final = "CREATE VIEW {view} AS SELECT {columns} FROM {table} AS held WHERE to_position = {open}"
_HISTORY: Final = """
    CREATE VIEW {view} AS
    SELECT {columns}, held.from_position, nullif(held.to_position, {open}) AS to_position,
        (SELECT at FROM {events} AS e WHERE e.position = held.from_position) AS from_at,
        (SELECT at FROM {events} AS e WHERE e.position = held.to_position) AS to_at
    FROM {table} AS held
"""


def base_prefix(schema_prefix: str) -> str:
    """What the names of the schemas begin with that hold a replay's tables, laid out like the live ones."""
    return f"replay_{schema_prefix}"


def schemas(schema_prefix: str, contexts: typing.Iterable[str]) -> tuple[list[str], list[str]]:
    """The schemas of a replay's tables, and those of its views."""
    parts = [*contexts, EVENTS_SCHEMA]
    return [schema_name(part, base_prefix(schema_prefix)) for part in parts], [schema_name(part, schema_prefix) for part in parts]


def events_table(schema_prefix: str) -> sql.Identifier:
    return sql.Identifier(schema_name(EVENTS_SCHEMA, base_prefix(schema_prefix)), EVENTS)


def view_statements(schema_prefix: str, projections: typing.Iterable[Projection]) -> Iterator[sql.Composed]:
    """SQL that makes the views over a replay's tables."""
    own = sql.Identifier(schema_name(EVENTS_SCHEMA, schema_prefix), EVENTS)
    yield sql.SQL("CREATE VIEW {} AS SELECT * FROM {}").format(own, events_table(schema_prefix))
    for projection in projections:
        schema = schema_name(projection.name, schema_prefix)
        for read in projection.tables:
            parts = {
                "columns": sql.SQL(", ").join(_columns(read)),
                "table": sql.Identifier(schema_name(projection.name, base_prefix(schema_prefix)), read.name),
                "open": sql.Literal(OPEN),
                "events": events_table(schema_prefix),
            }
            yield sql.SQL(_VIEW).format(view=sql.Identifier(schema, read.name), **parts)
            yield sql.SQL(_HISTORY).format(view=sql.Identifier(schema, f"{read.name}_history"), **parts)


def _columns(read: ReadTable[Any]) -> Iterator[sql.Composed]:
    for field, hint in typing.get_type_hints(read.row).items():
        name = _RENAMED.get(field, _CAPITAL.sub("_", field).lower())
        taken = {"from_position", "to_position", "from_at", "to_at"} & {name}
        assert not taken, f"{read.name}.{field} has the name of a column that every history has"
        text = sql.SQL(_EXPRESSIONS[_kind(field, hint)]).format(field=sql.Literal(field))
        yield sql.SQL("{} AS {}").format(text, sql.Identifier(name))


_EXPRESSIONS: Final = {
    "json": "nullif(held.doc->{field}, 'null')",
    "texts": "CASE jsonb_typeof(held.doc->{field}) WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(held.doc->{field})) END",
    "bigint": "(held.doc->>{field})::bigint",
    "boolean": "(held.doc->>{field})::boolean",
    "time": "(held.doc->>{field})::timestamptz",
    "text": "(held.doc->>{field})",
}


def _kind(field: str, hint: Any) -> str:
    """How a field is shown; moments are those whose name says so."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = [option for option in options if option is not type(None)]
    if kind == list[str]:
        return "texts"
    if typing.get_origin(kind) in (list, dict):
        return "json"
    if kind in (bool, int):
        return "boolean" if kind is bool else "bigint"
    return "time" if field.endswith("_at") or field in ("at", "timestamp") else "text"
