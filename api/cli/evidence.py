"""`aureus evidence` and `aureus audit`: the sealed pack of every action, the artifacts it rests on, and the audit log."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Limit, Search, Sort, client_of, content_of, output_of
from api.cli.output import Column, Row, when

app = typer.Typer()
evidence = typer.Typer(help="The sealed pack of every action, and the artifacts it rests on.", no_args_is_help=True)
audit = typer.Typer(help="The audit log: who did what, when, why and with which outcome.", no_args_is_help=True)
app.add_typer(evidence, name="evidence")
app.add_typer(audit, name="audit")

ActionId = Annotated[str, typer.Argument(metavar="ACTION", help="The id a command answers with.")]
Outcome = Annotated[str | None, typer.Option("--outcome", help="allowed, blocked or requires_approval.")]
Stream = Annotated[str | None, typer.Option("--stream", help="Only those on this, such as budget:eu-lake.")]
Actor = Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Only those of this actor.")]
CommandName = Annotated[
    str | None, typer.Option("--command", metavar="NAME", help="Only those of this command, such as budgets.reserve_funds.")
]


def _checks(row: Row) -> str:
    return f"{row['passed']} passed, {row['failed']} failed" if row.get("passed") is not None else ""


ACTION_COLUMNS = (
    when("at", "timestamp"),
    Column("action", "id"),
    Column("command", "action"),
    Column("on", "stream"),
    Column("actor", "actor_id"),
    Column("outcome", "outcome"),
    Column("why", lambda row: row.get("code") or row.get("reason")),
)
ACTION_PROPERTIES = ("timestamp", "actor_id", "action", "stream", "intent", "outcome", "code", "message", "reason", "outputs")
PACK_COLUMNS = (
    when("at", "timestamp"),
    Column("action", "id"),
    Column("command", "eventType"),
    Column("on", "stream"),
    Column("actor", "actor"),
    Column("outcome", "outcome"),
    Column("artifacts", lambda row: len(row.get("artifacts") or ()), right=True),
)
ARTIFACT_COLUMNS = (
    Column("sha256", "sha256"),
    Column("name", "name"),
    Column("kind", "kind"),
    Column("bytes", "size_bytes", right=True),
    Column("checks", _checks),
    Column("by", "registered_by"),
    when("at", "registered_at"),
)


@evidence.command()
def show(
    context: typer.Context,
    action_id: ActionId,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, to keep or to send on.")] = False,
) -> None:
    """Show the sealed evidence of an action: inputs, outputs, policy results, artifacts and signature."""
    client, out = client_of(context), output_of(context)
    if out.as_json:
        return out.json(client.one(path("evidence", action_id)))
    report = str(client.get(path("evidence", action_id), format="markdown").body)
    return out.text(report.rstrip("\n")) if markdown else out.markdown(report)


@evidence.command("list")
def list_(
    context: typer.Context,
    actor: Actor = None,
    command: CommandName = None,
    outcome: Outcome = None,
    stream: Stream = None,
    artifact: Annotated[str | None, typer.Option("--artifact", metavar="SHA256", help="Only those that rest on this artifact.")] = None,
    search: Search = None,
    sort: Sort = "-timestamp",
    limit: Limit = 50,
) -> None:
    """List evidence packs, the latest first."""
    filters = {"actor": actor, "eventType": command, "outcome": outcome, "stream": stream, "artifacts": artifact, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("evidence"), limit, **filters), PACK_COLUMNS)


@evidence.command()
def attach(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The artifact; - is standard input.")],
    name: Annotated[str | None, typer.Option("--name", help="What to call it; the file's name when not given.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="What it is, such as file or test_result.")] = "file",
    media_type: Annotated[str | None, typer.Option("--media-type", help="Guessed from the name when not given.")] = None,
    passed: Annotated[int | None, typer.Option("--passed", min=0, help="Of a test_result: how many checks passed.")] = None,
    failed: Annotated[int | None, typer.Option("--failed", min=0, help="Of a test_result: how many checks failed.")] = None,
) -> None:
    """Keep a file under its SHA-256, for commands to name with --evidence."""
    client, out = client_of(context), output_of(context)
    called = name or (file.name if str(file) != "-" else "standard input")
    described = {"name": called, "kind": kind, "passed": passed, "failed": failed}
    result = client.send(path("artifacts"), content_of(file), media_type or _guessed(called), described)
    out.done(result, f"Kept {called} as {result['sha256']}")


@evidence.command()
def fetch(
    context: typer.Context,
    sha256: Annotated[str, typer.Argument(metavar="SHA256", help="The artifact's hash.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to put it; - is standard output.")],
) -> None:
    """Fetch an artifact, and check that it is what its hash says."""
    content = client_of(context).get(path("artifacts", sha256)).content
    if hashlib.sha256(content).hexdigest() != sha256.lower():
        message = "The bytes that came are not those of this hash."
        raise Failure(ExitCode.NOT_VERIFIED, "artifact_differs", message, remedy="Do not use them; ask the operator of the server.")
    if str(file) == "-":
        typer.get_binary_stream("stdout").write(content)
        return
    file.write_bytes(content)
    output_of(context).done({"sha256": sha256, "file": str(file)}, f"Wrote {len(content)} bytes to {file}.")


@evidence.command()
def artifacts(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option("--kind", help="Only those of this kind.")] = None,
    search: Search = None,
    sort: Sort = "-registered_at",
    limit: Limit = 50,
) -> None:
    """List artifacts, the latest first."""
    page = client_of(context).rows(path("artifacts"), limit, kind=kind, q=search, sort=sort)
    output_of(context).rows(page, ARTIFACT_COLUMNS, "No artifact is kept.")


@audit.command("list")
def list_actions(
    context: typer.Context,
    actor: Actor = None,
    command: CommandName = None,
    outcome: Outcome = None,
    stream: Stream = None,
    search: Search = None,
    sort: Sort = "-position",
    limit: Limit = 50,
) -> None:
    """List actions, refused ones too, the latest first."""
    filters = {"actor_id": actor, "action": command, "outcome": outcome, "stream": stream, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("actions"), limit, **filters), ACTION_COLUMNS)


@audit.command("show")
def show_action(context: typer.Context, action_id: ActionId) -> None:
    """Show the audit entry of an action."""
    output_of(context).record(client_of(context).one(path("actions", action_id)), f"Action {action_id}", ACTION_PROPERTIES)


def _guessed(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
