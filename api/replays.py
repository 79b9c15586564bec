"""Replays over REST: a stream told step by step with what each event changed, and the whole ledger folded up to a position for SQL."""

import asyncio
import hashlib
from typing import Annotated, Any, Final

import orjson
from fastapi import Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asking import ask_of, require_stored, told
from api.errors import ApiError
from api.reading import MOMENT, position_of
from api.routing import ContextRouter, Present, Reader, Reading
from api.services import now
from api.steps import Walk, walked
from commands.path import Ask
from commands.replays import OVERSEERS, DropReplay, HandOutLogin, RecordQuery, RequestReplay, RetireAuditQuery, SaveAuditQuery
from domain.contexts import CONTEXTS
from domain.kernel import JsonObject
from domain.replays import Context, QueryId, ReplayId, SavedQuery, Sql
from domain.saved_queries import BUILT_IN
from domain.values import uuid7
from infra.audit_queries import ROWS_MAX, SECONDS_MAX, Answer, NoEntry, Question, SqlRefused
from infra.scratch import NotThere
from infra.settings_error import SettingsError
from projections.engine import read_row
from projections.replays import AuditQueryRow, ReplayRow, audit_queries, query_runs, replays
from streams.reactions import asker
from streams.replays import progress_of

AT_ONCE: Final = 2
"""So many queries run side by side in one process."""
_running = asyncio.BoundedSemaphore(AT_ONCE)


class Progress(BaseModel):
    """How far a replay is that is being built."""

    phase: str
    done: int
    total: int


@read_row
class ReplayNow(ReplayRow):
    """A replay, and how far it is while it is built."""

    progress: Progress | None


class NewReplay(BaseModel):
    """What to call it, up to where the ledger is to be folded (now, when that is left out), and for which contexts (all of them)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"replay_id": "june", "until": "2026-06-30T23:59:59Z", "contexts": ["catalog", "budgets"]}]},
    )

    replay_id: ReplayId
    until: Annotated[str | int | None, Field(description=f"The end: {MOMENT}.")] = None
    contexts: Annotated[tuple[Context, ...] | None, Field(max_length=len(CONTEXTS))] = None


class ReplayLogin(BaseModel):
    """How to log in to PostgreSQL for this replay alone. `password` is shown this once."""

    replay_id: str
    role: str
    password: str
    database: str
    schema_prefix: str
    action_id: str
    position: int


class NewQuestion(BaseModel):
    """One statement that reads, with the values of `$1`, `$2`, ... - or a saved query by its id, with its parameters by name."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "who-approved-what", "parameters": {"since": "2026-04-01", "before": "2026-07-01"}}]},
    )

    sql: Sql | None = None
    query: QueryId | None = None
    parameters: dict[str, str | int | bool | None] | list[str | int | bool | None] = Field(default_factory=dict)
    limit: Annotated[int, Field(ge=1, le=ROWS_MAX)] = 500
    cursor: Annotated[str | None, Field(pattern=r"^\d{1,9}$")] = None


class Column(BaseModel):
    """A column of an answer: its name, and its type as PostgreSQL calls it."""

    name: str
    type: str


class QueryAnswer(BaseModel):
    """What a query came to; `next_cursor` is there when there are more rows than fit. `sql_sha256` is what the ledger keeps of the text."""

    replay_id: str
    until: int
    query_id: str | None
    sql_sha256: str
    columns: list[Column]
    rows: list[list[Any]]
    next_cursor: str | None
    seconds: float
    position: int


class Queries(BaseModel):
    """The queries that are kept: those that came with Aureus, and those saved here."""

    items: list[AuditQueryRow]


router = ContextRouter(prefix="/v1", tags=["replays"])


@router.query("/replay/{stream}", roles=OVERSEERS, limit="queries", name="replay_stream", recorded=True)
async def replay_stream(
    stream: Annotated[str, Path(description="A category, a colon and an id, such as dataset:customers.")],
    reader: Present,
    until: Annotated[str | None, Query(description=f"Only events up to there: {MOMENT}.")] = None,
    after: Annotated[str | None, Query(description=f"Only events after there: {MOMENT}.")] = None,
    explain: Annotated[bool, Query(description="With what each event changed, field by field and in words.")] = False,
    table: Annotated[
        str | None, Query(description="Also the rows that the stream's events make in this table, at the end of the page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="So many events per page.")] = 50,
    cursor: Annotated[str | None, Query(description="The next_cursor of the page before.")] = None,
) -> Walk:
    """A stream told event by event: who, when and why, the state after each as decisions are made on it, and what each changed."""
    return await walked(reader, stream, until=until, after=after, explain=explain, table=table, limit=limit, cursor=cursor)


# -- replays in the database


@router.query("/replays", roles=OVERSEERS, methods=("POST",), limit="queries", status_code=201, name="request_replay")
async def request_replay(wanted: NewReplay, reader: Present, request: Request) -> Response:
    """Have the ledger folded up to a position into tables of its own, to be asked in SQL; it is built behind this answer."""
    services = reader.services
    until = services.ledger.head.size if wanted.until is None else await position_of(services, "until", str(wanted.until))
    if until == 0:
        message = "Nothing had happened by then: there is nothing to fold."
        raise ApiError(422, "invalid_parameter", message, field="until", remedy="Name a later time.")
    try:
        await services.scratch.require_possible()
    except SettingsError as error:
        raise ApiError(503, "role_not_possible", str(error), remedy=error.remedy) from error
    command = RequestReplay(replay_id=wanted.replay_id, position=until, contexts=CONTEXTS if wanted.contexts is None else wanted.contexts)
    ask = ask_of(command, reader.asker, request.scope["headers"])
    await require_stored(services, ask)
    return told(await services.path.handle(ask), 201, request.scope["state"]["request_id"])


router.command("/replays/{replay_id}/drop", DropReplay)
router.views("/replays", replays, row_id=None, roles=OVERSEERS)
router.views("/query-runs", query_runs, row_id="run_id", roles=OVERSEERS)


@router.query("/replays/{replay_id}", roles=OVERSEERS, name="get_replays", response_model=ReplayNow)
async def replay(replay_id: Annotated[str, Path()], reader: Reading) -> JsonObject:
    """One of the replays by id, with its progress while it is built."""
    row = await _row(reader, replay_id)
    waiting = row["status"] == "requested" and reader.as_of is None
    return {**row, "progress": await progress_of(reader.services.reads, reader.asker.tenant, replay_id) if waiting else None}


@router.query("/replays/{replay_id}/login", roles=OVERSEERS, methods=("POST",), recorded=True)
async def hand_out_login(replay_id: Annotated[ReplayId, Path()], reader: Present, request: Request) -> ReplayLogin:
    """The replay's role and its password, shown this once, for psql or a notebook. Who took it is on record."""
    services = reader.services
    ask = ask_of(HandOutLogin(replay_id=replay_id), reader.asker, request.scope["headers"])
    outcome = await services.path.handle(ask)
    answer = told(outcome, 200, request.scope["state"]["request_id"])
    if answer.status_code != 200:
        message = "A policy wants an approval for this, and a password cannot wait for one."
        raise ApiError(409, "approval_not_possible", message, action_id=outcome.action_id, remedy="Send queries through Aureus instead.")
    try:
        login = await services.scratch.login(reader.asker.tenant, replay_id)
    except NotThere:
        raise _not_there(replay_id) from None
    return ReplayLogin(
        replay_id=replay_id,
        role=login.role,
        password=login.password,
        database=services.scratch.database,
        schema_prefix=login.schema_prefix,
        action_id=outcome.action_id,
        position=outcome.position,
    )


# -- queries


@router.query("/replays/{replay_id}/query", roles=OVERSEERS, methods=("POST",), limit="queries", response_model=QueryAnswer, recorded=True)
async def query(replay_id: Annotated[ReplayId, Path()], wanted: NewQuestion, reader: Present) -> Response:
    """Run one statement that reads, as the replay's own role; every run is on record, with the SHA-256 of its text."""
    row = await _row(reader, replay_id)
    if row["status"] != "built":
        message = f"The tables of replay {replay_id} are not there: it is {row['status']}."
        remedy = "Wait until it is built." if row["status"] == "requested" else "Request it again."
        raise ApiError(409, "replay_not_built", message, field="replay_id", status=row["status"], remedy=remedy)
    saved = await _saved(reader, wanted)
    question = Question(saved.sql, _values(saved, wanted), int(wanted.cursor or 0), wanted.limit)
    sql_sha256 = hashlib.sha256(saved.sql.encode()).hexdigest()
    run = RecordQuery(replay_id=replay_id, run_by=reader.asker.actor, query_id=wanted.query, sql_sha256=sql_sha256, rows=0)
    try:
        answer = await _asked(reader, row, question)
    except SqlRefused as refused:
        await _record(reader, run.model_copy(update={"sqlstate": refused.sqlstate}))
        raise _sql_error(row, refused) from refused
    position = await _record(reader, run.model_copy(update={"rows": len(answer.rows)}))
    return _told(row, wanted, sql_sha256, answer, position)


async def _asked(reader: Reader, row: JsonObject, question: Question) -> Answer:
    if _running.locked():
        message, remedy = f"{AT_ONCE} queries run already.", "Try again when one of them is done."
        raise ApiError(429, "too_many_queries", message, {"retry-after": "5"}, remedy=remedy)
    async with _running:
        try:
            return await reader.services.scratch.ask(reader.asker.tenant, row["replay_id"], row["contexts"], question)
        except NotThere:
            raise _not_there(row["replay_id"]) from None
        except NoEntry as error:
            message = f"The database does not let the role {row['role']} in: {error}"
            remedy = "Let pg_hba.conf admit roles named aureus_replay_*, with scram-sha-256."
            raise ApiError(503, "replay_not_reached", message, {"retry-after": "5"}, remedy=remedy) from error


async def _record(reader: Reader, command: RecordQuery) -> int:
    """By Aureus itself: it is the one who knows what was run. The position; ApiError when it cannot be put on record."""
    ask = Ask(command, asker(reader.asker.tenant), uuid7(), now(), reason=f"Run by {command.run_by}.")
    outcome = await reader.services.path.handle(ask)
    if outcome.outcome != "allowed":
        message = outcome.message or "Policies do not let Aureus put it on record."
        raise ApiError(409, outcome.code or "not_recorded", message, action_id=outcome.action_id, remedy="Nothing is shown off the record.")
    return outcome.position


def _told(row: JsonObject, wanted: NewQuestion, sql_sha256: str, answer: Answer, position: int) -> Response:
    body = {
        "replay_id": row["replay_id"],
        "until": row["until"],
        "query_id": wanted.query,
        "sql_sha256": sql_sha256,
        "columns": [{"name": name, "type": kind} for name, kind in answer.columns],
        "rows": answer.rows,
        "next_cursor": str(int(wanted.cursor or 0) + len(answer.rows)) if answer.more and answer.rows else None,
        "seconds": round(answer.seconds, 6),
        "position": position,
    }
    return Response(orjson.dumps(body, default=str), 200, media_type="application/json")


async def _saved(reader: Reader, wanted: NewQuestion) -> SavedQuery:
    """The query that is meant: one that is kept, or one that was sent."""
    if (wanted.sql is None) == (wanted.query is None):
        raise ApiError(
            422, "validation_failed", "Send either `sql` or the id of a saved `query`.", field="sql", remedy="Leave one of them out."
        )
    if wanted.sql is not None:
        if "\0" in wanted.sql:
            raise ApiError(422, "validation_failed", "sql holds a NUL character.", field="sql", remedy="Leave it out.")
        return SavedQuery(query_id="unsaved", title="Sent once", sql=wanted.sql)
    known = await _kept(reader)
    if wanted.query not in known:
        message = f"No query {wanted.query} is kept."
        raise ApiError(404, "query_not_found", message, field="query", remedy="GET /v1/audit-queries shows those there are.")
    return SavedQuery.model_validate({name: known[wanted.query][name] for name in SavedQuery.model_fields})


def _values(saved: SavedQuery, wanted: NewQuestion) -> tuple[str | None, ...]:
    """The values of `$1`, `$2`, ... in their order. ApiError when one is missing, or not asked for."""
    given = wanted.parameters
    if wanted.sql is not None:
        if isinstance(given, dict) and given:
            message = "Parameters of SQL that is sent are a list: the first is $1."
            raise ApiError(422, "validation_failed", message, field="parameters", remedy='Send ["first", "second"].')
        return tuple(_text(value) for value in given)
    if isinstance(given, list):
        names = [parameter.name for parameter in saved.parameters]
        message = f"Parameters of a saved query go by name: {', '.join(names) or 'it has none'}."
        raise ApiError(422, "validation_failed", message, field="parameters", remedy='Send {"name": "value"}.')
    unknown = sorted(set(given) - {parameter.name for parameter in saved.parameters})
    missing = [parameter for parameter in saved.parameters if parameter.name not in given and parameter.default is None]
    if unknown or missing:
        name, what = (unknown[0], "is none of its parameters") if unknown else (missing[0].name, "has to be said")
        remedy = "It takes " + ("; ".join(f"{one.name}: {one.description}" for one in saved.parameters) or "no parameters") + "."
        raise ApiError(422, "validation_failed", f"{saved.query_id}: {name} {what}.", field=f"parameters.{name}", remedy=remedy)
    return tuple(_text(given.get(parameter.name, parameter.default)) for parameter in saved.parameters)


def _text(value: str | int | bool | None) -> str | None:
    """PostgreSQL reads it as whatever type the place it stands at has."""
    if isinstance(value, str) and "\0" in value:
        raise ApiError(422, "validation_failed", "A parameter holds a NUL character.", field="parameters", remedy="Leave it out.")
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def _sql_error(row: JsonObject, refused: SqlRefused) -> ApiError:
    details: JsonObject = {"field": "sql", "sqlstate": refused.sqlstate}
    if refused.position is not None:
        details["character"] = refused.position
    remedy = refused.hint or "Mend the statement at the character that is named, or look at what there is: information_schema.columns."
    if refused.sqlstate == "42P01":
        remedy = f"This replay holds {', '.join(row['contexts'])} and the ledger's events; each table is also there as <table>_history."
    elif refused.sqlstate in {"25006", "42501"}:
        remedy = "A replay is read; nothing in it, beside it or behind it can be changed or looked at."
    elif refused.sqlstate == "57014":
        remedy = f"Every statement ends after {SECONDS_MAX:g} s: ask for less, or for a part of it."
    return ApiError(422, "sql_refused", refused.message, **details, remedy=remedy)


def _not_there(replay_id: str) -> ApiError:
    message = f"The tables of replay {replay_id} are not in this database: it was restored without them."
    return ApiError(409, "replay_not_here", message, field="replay_id", remedy="Drop it, and request it again.")


async def _row(reader: Reader, replay_id: str) -> JsonObject:
    row = await reader.get(replays, replay_id)
    if row is None:
        message = f"There is no replay {replay_id}."
        raise ApiError(404, "replay_not_found", message, field="replay_id", remedy="List them to see what is there.")
    return row


# -- the queries that are kept


async def _kept(reader: Reader) -> dict[str, JsonObject]:
    built_in = [{**one.model_dump(mode="json"), "saved_by": "svc-aureus", "saved_at": ""} for one in BUILT_IN]
    saved = await reader.find(audit_queries, {})
    return {row["query_id"]: row for row in [*built_in, *saved]}


@router.query("/audit-queries", roles=OVERSEERS, name="list_audit_queries")
async def saved_queries(reader: Reading) -> Queries:
    """The queries that are kept: those that came with Aureus, and those saved here."""
    return Queries(items=[AuditQueryRow(**row) for row in (await _kept(reader)).values()])


@router.query("/audit-queries/{query_id}", roles=OVERSEERS, name="get_audit_queries")
async def saved_query(query_id: Annotated[str, Path()], reader: Reading) -> AuditQueryRow:
    """One of the queries by id."""
    row = (await _kept(reader)).get(query_id)
    if row is None:
        message = f"No query {query_id!r} is kept."
        raise ApiError(404, "query_not_found", message, field="query_id", remedy="List them to see what is there.")
    return AuditQueryRow(**row)


router.command("/audit-queries", SaveAuditQuery, status=201)
router.command("/audit-queries/{query_id}/retire", RetireAuditQuery)
