"""`aureus jobs` and `bulk`: many commands at once, and whatever takes long - how far it is, what became of it, and an end to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Comment, Limit, Sort, client_of, content_of, output_of
from api.cli.output import Column, Output, Row, when

app = typer.Typer()
jobs = typer.Typer(help="Whatever takes long: bulk jobs, exports, replays, erasures, backups.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")

POLL_SECONDS: Final = 0.3
PAGE_ITEMS: Final = 1_000
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `aureus jobs list` shows it.")]
COLUMNS = (
    Column("job", "job_id"),
    Column("kind", "kind"),
    Column("status", "status"),
    Column("done", "done", right=True),
    Column("of", "items", right=True),
    Column("refused", "refused", right=True),
    Column("by", "asked_by"),
    when("since", "started_at"),
)
RESULT_COLUMNS = (
    Column("item", "index", right=True),
    Column("status", "status", right=True),
    Column("became", lambda row: row["outcome"] or "not run"),
    Column("stream", lambda row: (row["answer"] or {}).get("stream")),
    Column("because", lambda row: (row["error"] or {}).get("message")),
)
PROPERTIES = ("kind", "status", "done", "items", "allowed", "parked", "refused", "code", "message", "resource")


@app.command()
def bulk(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help='One JSON object per line: {"command": ..., "fields": {...}}; - is stdin.')],
    stop: Annotated[bool, typer.Option("--stop", help="One after another, and no further than the first that is not carried out.")] = False,
    as_job: Annotated[bool, typer.Option("--job", help="Have it worked through in the background, and say the job's id.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With --job: until it has ended.")] = False,
) -> None:
    """Ask for many commands at once; each is decided on its own, and what became of each is told."""
    client, out = client_of(context), output_of(context)
    body = {"commands": _lines(file), "on_failure": "stop" if stop else "continue"}
    answer = client.bulk(path("bulk"), body, as_job=as_job)
    if answer.status == 207:
        _tell(out, answer.body, answer.body["items"])
        return None
    job_id = answer.body["job_id"]
    if not wait:
        return out.done(answer.body, f"Job {job_id} works through {len(body['commands'])} commands: aureus jobs show {job_id}")
    row = _wait(client, out, job_id)
    _tell(out, row, _results(client, job_id))
    return None


def _lines(file: Path) -> list[Any]:
    import json

    commands = []
    for number, line in enumerate(content_of(file).decode("utf-8", "replace").splitlines(), 1):
        if line.strip():
            try:
                commands.append(json.loads(line))
            except ValueError as error:
                raise typer.BadParameter(f"line {number} is not JSON: {error}", param_hint="FILE") from error
    return commands


def _tell(out: Output, told: Row, items: Sequence[Row]) -> None:
    """What became of each, and Exit 1 when one was not carried out."""
    if out.as_json:
        out.json({**told, "items": list(items)})
    else:
        out.table(items, RESULT_COLUMNS)
        out.note(f"{told['allowed']} carried out, {told['parked']} wait for an approval, {told['refused']} not carried out.")
    if told["refused"]:
        raise typer.Exit(ExitCode.REFUSED)


def _results(client: Client, job_id: str) -> list[Json]:
    items: list[Json] = client.rows(path("jobs", job_id, "results"), PAGE_ITEMS * 100)["items"]
    return items


def _wait(client: Client, out: Output, job_id: str) -> Json:
    with out.progress() as report:
        while True:
            row = client.one(path("jobs", job_id))
            if row["status"] not in {"running", "cancelling"}:
                return row
            if row["items"]:
                report("commands", row["done"], row["items"])
            time.sleep(POLL_SECONDS)


@jobs.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option("--kind", help="bulk, export, replay, erasure or backup.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="running, cancelling, completed, stopped, failed or cancelled.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="ACTOR", help="Those that this actor asked for; yours when not given.")] = None,
    sort: Sort = "-started_at",
    limit: Limit = 50,
) -> None:
    """List what takes long, the latest first."""
    page = client_of(context).rows(path("jobs"), limit, kind=kind, status=status, asked_by=by, sort=sort)
    output_of(context).rows(page, COLUMNS, "Nothing that takes long was asked for.")


@jobs.command()
def show(context: typer.Context, job_id: JobId) -> None:
    """Show how far a job is."""
    output_of(context).record(client_of(context).one(path("jobs", job_id)), f"Job {job_id}", PROPERTIES)


@jobs.command()
def results(context: typer.Context, job_id: JobId, limit: Limit = 1_000) -> None:
    """Tell what became of each command of a bulk job, so far."""
    page = client_of(context).rows(path("jobs", job_id, "results"), limit)
    output_of(context).rows(page, RESULT_COLUMNS, "Nothing of it is done yet.")


@jobs.command()
def wait(context: typer.Context, job_id: JobId) -> None:
    """Wait until a job has ended, and show what became of it."""
    client, out = client_of(context), output_of(context)
    row = _wait(client, out, job_id)
    out.record(row, f"Job {job_id}", PROPERTIES)
    if row["status"] != "completed":
        why = row["message"] or f"it is {row['status']}"
        raise Failure(ExitCode.REFUSED, row["code"] or f"job_{row['status']}", f"Job {job_id} was not completed: {why}")


@jobs.command()
def cancel(context: typer.Context, job_id: JobId, comment: Comment = None) -> None:
    """Have no more of a job done; what was done stays done."""
    result = client_of(context).ask(path("jobs", job_id, "cancel"), {"comment": comment})
    output_of(context).done(result, f"Nothing more of job {job_id} is begun.")
