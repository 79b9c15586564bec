"""`aureus evidence`: the sealed pack of every action, and the artifacts it rests on."""

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
app.add_typer(evidence, name="evidence")

ActionId = Annotated[str, typer.Argument(metavar="ACTION", help="The id a command answers with.")]


def _checks(row: Row) -> str:
    return f"{row['passed']} passed, {row['failed']} failed" if row.get("passed") is not None else ""


SEALED_COLUMNS = (
    Column("action", "action_id"),
    Column("position", "position", right=True),
    Column("json", "json_sha256"),
    Column("markdown", "markdown_sha256"),
    Column("by", "sealed_by"),
    when("at", "sealed_at"),
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
    """Show the evidence of an action, as it was sealed if it was: inputs, outputs, policy results, artifacts and signature."""
    client, out = client_of(context), output_of(context)
    if out.as_json:
        return out.json(client.one(path("evidence", action_id)))
    report = str(client.get(path("evidence", action_id), format="markdown").body)
    return out.text(report.rstrip("\n")) if markdown else out.markdown(report)


@evidence.command()
def seal(context: typer.Context, action_id: ActionId) -> None:
    """Keep the evidence of an action for ever, as it stood when the action ended, as JSON and as Markdown."""
    client, out = client_of(context), output_of(context)
    result = client.ask(path("evidence", action_id, "seal"), {})
    out.done(result, f"Sealed {action_id}: JSON {result['json_sha256']}, Markdown {result['markdown_sha256']}")


@evidence.command()
def sealed(context: typer.Context, search: Search = None, sort: Sort = "-sealed_at", limit: Limit = 50) -> None:
    """List what is sealed, the latest first."""
    page = client_of(context).rows(path("packs"), limit, q=search, sort=sort)
    output_of(context).rows(page, SEALED_COLUMNS, "Nothing is sealed.")


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


def _guessed(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
