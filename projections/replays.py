"""Replays as people read them: up to where each was folded, what came of it and how often it was asked; and the queries that are kept."""

from typing import Any

from domain.kernel import Recorded
from domain.replays import (
    AuditQueryRetired,
    AuditQuerySaved,
    LoginHandedOut,
    QueryRun,
    ReplayBuilt,
    ReplayDropped,
    ReplayFailed,
    ReplayRequested,
)
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class ReplayRow:
    """One replay; once it is built, the prefix of its schemas, its role, and of each table `{context, table, rows, digest}`.

    `differing` are tables whose live rows, as of the same position, are others than those that were folded.
    """

    replay_id: str
    until: int
    contexts: list[str]
    status: str
    requested_by: str
    requested_at: str
    requested_position: int
    ended_at: str | None
    failure_code: str | None
    failure: str | None
    schema_prefix: str | None
    role: str | None
    events: int | None
    tables: list[dict[str, Any]]
    differing: list[str]
    login_handed_to: str | None
    queries: int
    queried_at: str | None


@read_row
class QueryRunRow:
    """One query as it was run on a replay; of its text the SHA-256."""

    run_id: str
    replay_id: str
    query_id: str | None
    sql_sha256: str
    rows: int
    sqlstate: str | None
    run_by: str
    run_at: str
    position: int


@read_row
class AuditQueryRow:
    """A query that is kept."""

    query_id: str
    title: str
    sql: str
    parameters: list[dict[str, Any]]
    saved_by: str
    saved_at: str


replays = ReadTable(
    "replays",
    ReplayRow,
    filters=("status", "requested_by"),
    sorts=("requested_at", "until"),
    search=("replay_id",),
)
query_runs = ReadTable(
    "query_runs",
    QueryRunRow,
    filters=("replay_id", "query_id", "run_by", "sql_sha256"),
    sorts=("run_at", "rows"),
    immutable=True,
)
audit_queries = ReadTable(
    "audit_queries",
    AuditQueryRow,
    filters=("saved_by",),
    sorts=("query_id", "saved_at"),
    search=("query_id", "title"),
    ends=True,
)


def _run(recorded: Recorded[QueryRun]) -> tuple[str, ...]:
    return (recorded.id_text,)


@replays.on(ReplayRequested)
def requested(_row: ReplayRow | None, recorded: Recorded[ReplayRequested], replay_id: str) -> ReplayRow:
    event = recorded.event
    return ReplayRow(
        replay_id=replay_id,
        until=event.position,
        contexts=list(event.contexts),
        status="requested",
        requested_by=recorded.actor,
        requested_at=recorded.at_text,
        requested_position=recorded.position,
        ended_at=None,
        failure_code=None,
        failure=None,
        schema_prefix=None,
        role=None,
        events=None,
        tables=[],
        differing=[],
        login_handed_to=None,
        queries=0,
        queried_at=None,
    )


@replays.on(ReplayBuilt)
def built(row: ReplayRow, recorded: Recorded[ReplayBuilt], _replay_id: str) -> ReplayRow:
    event = recorded.event
    return replace(
        row,
        status="built",
        ended_at=recorded.at_text,
        schema_prefix=event.schema_prefix,
        role=event.role,
        events=event.events,
        tables=[table.model_dump(mode="json") for table in event.tables],
        differing=list(event.differing),
    )


@replays.on(ReplayFailed)
def failed(row: ReplayRow, recorded: Recorded[ReplayFailed], _replay_id: str) -> ReplayRow:
    event = recorded.event
    return replace(row, status="failed", ended_at=recorded.at_text, failure_code=event.code, failure=event.reason)


@replays.on(ReplayDropped)
def dropped(row: ReplayRow, recorded: Recorded[ReplayDropped], _replay_id: str) -> ReplayRow:
    return replace(row, status="dropped", ended_at=recorded.at_text)


@replays.on(LoginHandedOut)
def handed_out(row: ReplayRow, recorded: Recorded[LoginHandedOut], _replay_id: str) -> ReplayRow:
    return replace(row, login_handed_to=recorded.event.handed_to)


@replays.on(QueryRun)
def queried(row: ReplayRow, recorded: Recorded[QueryRun], _replay_id: str) -> ReplayRow:
    return replace(row, queries=row.queries + 1, queried_at=recorded.at_text)


@query_runs.on(QueryRun, keys=_run)
def run(_row: None, recorded: Recorded[QueryRun], run_id: str) -> QueryRunRow:
    event = recorded.event
    return QueryRunRow(
        run_id=run_id,
        replay_id=event.replay_id,
        query_id=event.query_id,
        sql_sha256=event.sql_sha256,
        rows=event.rows,
        sqlstate=event.sqlstate,
        run_by=event.run_by,
        run_at=recorded.at_text,
        position=recorded.position,
    )


@audit_queries.on(AuditQuerySaved)
def saved(_row: AuditQueryRow | None, recorded: Recorded[AuditQuerySaved], query_id: str) -> AuditQueryRow:
    query = recorded.event.query
    parameters = [parameter.model_dump(mode="json") for parameter in query.parameters]
    return AuditQueryRow(query_id, query.title, query.sql, parameters, recorded.actor, recorded.at_text)


@audit_queries.on(AuditQueryRetired)
def retired(_row: AuditQueryRow | None, _recorded: Recorded[AuditQueryRetired], _query_id: str) -> None:
    return None


PROJECTION = Projection("replays", (replays, query_runs, audit_queries), ordering="stream")
