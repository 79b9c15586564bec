"""`aureus replay`, `replays` and `queries`: a stream step by step, the ledger folded for SQL, and the questions worth keeping."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Comment, Limit, Search, Sort, client_of, content_of, output_of, pairs
from api.cli.output import Column, Output, Row, moment, plain, when

app = typer.Typer()
replays = typer.Typer(help="Replays: the ledger folded up to a position, for an auditor's SQL.", no_args_is_help=True)
queries = typer.Typer(help="Queries on replays: those that came with Aureus, and those saved here.", no_args_is_help=True)
app.add_typer(replays, name="replays")
app.add_typer(queries, name="queries")

POLL_SECONDS: Final = 0.3
PAGE_STEPS: Final = 200
ReplayId = Annotated[str, typer.Argument(metavar="REPLAY", help="Its id, such as june.")]
QueryId = Annotated[str, typer.Argument(metavar="QUERY", help="Its id, such as who-approved-what.")]
Rows = Annotated[int, typer.Option("--limit", "-n", min=1, max=5_000, help="How many rows at most.")]
Sql = Annotated[str | None, typer.Option("--sql", metavar="TEXT", help="One statement that reads.")]
SqlFile = Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="The statement in a file; - reads standard input.")]
COLUMNS = (
    Column("replay", "replay_id"),
    Column("until", "until", right=True),
    Column("status", "status"),
    Column("contexts", "contexts"),
    Column("events", "events", right=True),
    Column("queries", "queries", right=True),
    Column("by", "requested_by"),
    when("at", "requested_at"),
)
PROPERTIES = ("status", "until", "contexts", "schema_prefix", "role", "events", "differing", "login_handed_to", "queries", "failure")
TABLE_COLUMNS = (
    Column("schema", lambda row: row["schema"]),
    Column("table", "table"),
    Column("rows", "rows", right=True),
    Column("digest", lambda row: row["digest"][:16]),
)
QUERY_COLUMNS = (
    Column("query", "query_id"),
    Column("asks", "title"),
    Column("parameters", lambda row: [one["name"] for one in row["parameters"]]),
    Column("by", "saved_by"),
)
RUN_COLUMNS = (
    when("at", "run_at"),
    Column("by", "run_by"),
    Column("replay", "replay_id"),
    Column("query", "query_id"),
    Column("sql", lambda row: row["sql_sha256"][:16]),
    Column("rows", "rows", right=True),
    Column("failed", "sqlstate"),
)


@app.command()
def replay(
    context: typer.Context,
    stream: Annotated[str | None, typer.Option("--stream", metavar="STREAM", help="Tell it step by step: dataset:customers.")] = None,
    into: Annotated[str | None, typer.Option("--into", metavar="REPLAY", help="Fold all of it into tables for SQL, under this id.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME|POSITION", help="Up to there; up to now when not given.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="TIME|POSITION", help="Only the steps after it.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each step changed.")] = False,
    table: Annotated[str | None, typer.Option("--table", metavar="TABLE", help="Also the rows it makes of it: catalog.datasets.")] = None,
    contexts: Annotated[str | None, typer.Option("--context", metavar="A,B", help="Fold only these; all of them when not given.")] = None,
    limit: Limit = 1_000,
) -> None:
    """Go through history again: one stream step by step (--stream), or all of it into tables to ask in SQL (--into)."""
    client, out = client_of(context), output_of(context)
    if (stream is None) == (into is None):
        raise typer.BadParameter("Say either --stream, to walk through one, or --into, to have the ledger folded for SQL.")
    if stream is not None:
        parameters = {"until": until, "after": after, "explain": explain or None, "table": table}
        return _walk(client, out, stream, parameters, limit)
    named = [name.strip() for name in contexts.split(",")] if contexts else None
    client.ask(path("replays"), {"replay_id": into, "until": until, "contexts": named})
    row = _wait(client, out, str(into))
    if out.as_json:
        return out.json(row)
    out.text(f"Replay {into} holds {row['events']} events up to position {row['until']}, folded into {len(row['tables'])} tables.")
    _tell_tables(out, row)
    out.text(f"Ask it:  aureus queries run changes-by-actor --replay {into}")
    out.text(f"         aureus queries run --replay {into} --file question.sql")
    return None


def _walk(client: Client, out: Output, stream: str, parameters: Json, limit: int) -> None:
    steps: list[Row] = []
    cursor: str | None = None
    while True:
        page = client.one(path("replay", stream), **parameters, limit=min(PAGE_STEPS, limit - len(steps)), cursor=cursor)
        steps += page["steps"]
        cursor = page["next_cursor"]
        if cursor is None or len(steps) >= limit:
            break
    if out.as_json:
        return out.json({**page, "steps": steps})
    for step in steps:
        _tell_step(out, step)
    if cursor is not None:
        out.note(f"There are more: --after {steps[-1]['position']} goes on.")
    if page["rows"] is not None:
        for row_id, row in page["rows"].items():
            out.text(f"row {row_id} of {parameters['table']}")
            for name, value in row.items():
                out.text(f"    {name:<22} {plain(value)}")
    return None


def _tell_step(out: Output, step: Row) -> None:
    """Who, when, why; then what it changed, or the state itself."""
    why = step["why"]
    out.text(f"{step['position']:>7}  {moment(step['at'])}  {step['type']}  by {step['actor']}")
    if why is not None:
        judged = ", ".join(f"{one['policy']}: {one['outcome']}" for one in why["policy_results"])
        parts = [why["action"], f"approval {why['approval_id']}" if why["approval_id"] else "", judged, why["reason"] or ""]
        out.text(f"         {'; '.join(part for part in parts if part)}")
    for sentence in step["explanation"] or ():
        out.text(f"         - {sentence}")
    if step["explanation"] is None and step["state"] is not None:
        out.text(f"         state {plain(step['state'])}")


def _wait(client: Client, out: Output, replay_id: str) -> Json:
    """Until it is built, or not."""
    with out.progress() as report:
        while True:
            row = client.one(path("replays", replay_id))
            if row["status"] != "requested":
                break
            if progress := row["progress"]:
                report(progress["phase"], progress["done"], progress["total"])
            time.sleep(POLL_SECONDS)
    if row["status"] != "built":
        code, why = row["failure_code"] or f"replay_{row['status']}", row["failure"] or f"it is {row['status']}"
        raise Failure(ExitCode.REFUSED, code, f"Replay {replay_id} was not built: {why}", remedy="Mend that, and ask for it again.")
    return row


def _tell_tables(out: Output, row: Row) -> None:
    out.table([{**table, "schema": f"{row['schema_prefix']}_{table['context']}"} for table in row["tables"]], TABLE_COLUMNS)
    if row["differing"]:
        out.note(f"The live rows of {plain(row['differing'])} are others as of this position: `aureus projections check` looks closer.")


# -- replays


@replays.command("list")
def list_replays(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="requested, built, failed or dropped.")] = None,
    search: Search = None,
    sort: Sort = "-requested_at",
    limit: Limit = 50,
) -> None:
    """List replays, the latest first."""
    page = client_of(context).rows(path("replays"), limit, status=status, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "Nothing was replayed: `aureus replay --into june` does.")


@replays.command("show")
def show_replay(context: typer.Context, replay_id: ReplayId) -> None:
    """Show a replay, and how many rows each of its tables has."""
    out = output_of(context)
    row = client_of(context).one(path("replays", replay_id))
    out.record({**row, "tables": None} if not out.as_json else row, f"Replay {replay_id}", PROPERTIES)
    if row["tables"] and not out.as_json:
        _tell_tables(out, row)


@replays.command()
def login(context: typer.Context, replay_id: ReplayId) -> None:
    """Show the replay's role and password, this once, for psql or a notebook."""
    out = output_of(context)
    given = client_of(context).ask(path("replays", replay_id, "login"), {})
    if out.as_json:
        return out.json(given)
    out.text(f"role      {given['role']}")
    out.text(f"password  {given['password']}")
    out.text(f"database  {given['database']}")
    out.note("It is not shown again. It may read the schemas of this replay, and nothing else.")
    return None


@replays.command()
def drop(context: typer.Context, replay_id: ReplayId, comment: Comment = None) -> None:
    """Throw a replay's tables and its role away."""
    result = client_of(context).ask(path("replays", replay_id, "drop"), {"comment": comment})
    output_of(context).done(result, f"Dropped replay {replay_id}.")


# -- queries


@queries.command("list")
def list_queries(context: typer.Context) -> None:
    """List the queries that are kept."""
    output_of(context).rows(client_of(context).one(path("audit-queries")), QUERY_COLUMNS)


@queries.command("show")
def show_query(context: typer.Context, query_id: QueryId) -> None:
    """Show a query: what it asks, its parameters and its SQL."""
    out = output_of(context)
    row = client_of(context).one(path("audit-queries", query_id))
    if out.as_json:
        return out.json(row)
    out.text(row["title"])
    for parameter in row["parameters"]:
        default = f" (else {parameter['default']})" if parameter["default"] is not None else ""
        out.text(f"  {parameter['name']}: {parameter['description']}{default}")
    out.text(row["sql"])
    return None


@queries.command()
def save(
    context: typer.Context,
    query_id: QueryId,
    title: Annotated[str, typer.Option("--title", help="What it asks, in a sentence.")],
    sql: Sql = None,
    file: SqlFile = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=WHAT", help="What $1 is, then what $2 is; repeatable, in their order."),
    ] = None,
) -> None:
    """Keep a query for everybody who may ask replays; saved again under the same id, it reads like this from now on."""
    described = [{"name": name, "description": what} for name, what in pairs(parameter or [], "--parameter")]
    body = {"query_id": query_id, "title": title, "sql": _sql(sql, file), "parameters": described}
    output_of(context).done(client_of(context).ask(path("audit-queries"), body), f"Saved query {query_id}.")


@queries.command()
def retire(context: typer.Context, query_id: QueryId) -> None:
    """Keep a query no longer."""
    result = client_of(context).ask(path("audit-queries", query_id, "retire"), {})
    output_of(context).done(result, f"Retired query {query_id}.")


@queries.command()
def run(
    context: typer.Context,
    replay_id: Annotated[str, typer.Option("--replay", metavar="REPLAY", help="The replay to ask, such as june.")],
    query_id: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="A saved one; or say --sql or --file.")] = None,
    sql: Sql = None,
    file: SqlFile = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Of a saved query; with --sql, 1=VALUE is what $1 stands for."),
    ] = None,
    limit: Rows = 500,
) -> None:
    """Run a saved query, or one statement that reads. It is on record who ran what."""
    given = dict(pairs(parameter or [], "--parameter"))
    if query_id is not None and (sql is not None or file is not None):
        raise typer.BadParameter("Name a saved query or send SQL, not both.", param_hint="QUERY")
    asked: Json = {"query": query_id, "parameters": given} if query_id else {"sql": _sql(sql, file), "parameters": _places(given)}
    out = output_of(context)
    answer: Any = client_of(context).call("POST", path("replays", replay_id, "query"), {}, {**asked, "limit": limit}).body
    if out.as_json:
        return out.json(answer)
    names = [column["name"] for column in answer["columns"]]
    out.table([{"cells": row} for row in answer["rows"]], tuple(Column(name, _cell(place)) for place, name in enumerate(names)))
    more = ", and there are more: raise --limit" if answer["next_cursor"] else ""
    count = f"{len(answer['rows'])} row{'' if len(answer['rows']) == 1 else 's'}"
    out.note(f"{count} in {answer['seconds']:.2f} s{more}. On record at position {answer['position']}.")
    return None


@queries.command()
def runs(
    context: typer.Context,
    replay_id: Annotated[str | None, typer.Option("--replay", metavar="REPLAY", help="Only those on this one.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="ACTOR", help="Only those that this actor ran.")] = None,
    limit: Limit = 50,
) -> None:
    """List the queries that were run, the latest first."""
    page = client_of(context).rows(path("query-runs"), limit, replay_id=replay_id, run_by=by, sort="-run_at")
    output_of(context).rows(page, RUN_COLUMNS, "No query was run.")


def _cell(place: int) -> Any:
    return lambda row: row["cells"][place]


def _sql(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise typer.BadParameter("Say the statement with --sql, or where it is with --file.", param_hint="--sql")
    return text if text is not None else content_of(file or Path("-")).decode("utf-8", "replace")


def _places(given: dict[str, str]) -> list[str]:
    """The values of $1, $2, ... in their order."""
    names = [str(place) for place in range(1, len(given) + 1)]
    if sorted(given) != sorted(names):
        raise typer.BadParameter("Parameters of SQL are numbered: -p 1=... is $1, -p 2=... is $2.", param_hint="--parameter")
    return [given[name] for name in names]
