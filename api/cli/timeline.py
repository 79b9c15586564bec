"""`aureus timeline`: everything that happened about one thing, who did it, why, with which outcome, and what it changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, client_of, output_of
from api.cli.output import Output, Row, moment

app = typer.Typer()

STYLES = {"allowed": "green", "blocked": "red", "requires_approval": "yellow"}


@app.command()
def timeline(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="dataset, agent, actor, policy, approval, budget, pipeline and so on.")],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, such as orders.")],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only these events, such as catalog.tags_changed or catalog.*; can be repeated."),
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Only what this actor did.")] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME|DAY|POSITION", help="Only what happened after that.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME|DAY|POSITION", help="Only what happened up to that.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="From the latest back.")] = False,
    limit: Limit = 200,
) -> None:
    """Tell everything that happened about one thing, in order: done, refused or parked, by whom, why, and what it changed."""
    client, out = client_of(context), output_of(context)
    asked = {"type": types or None, "actor": actor, "from": start, "to": end, "latest_first": latest or None}
    found = client.rows(path("timeline", kind, entity_id), limit, **asked)
    if out.as_json:
        out.json(found)
        return
    if not found["items"]:
        out.note("Nothing of that kind happened about it.")
    for entry in found["items"]:
        _tell(out, entry)
    if found["next_cursor"]:
        out.note(f"There is more than these {len(found['items'])}: see it with --limit.")


def _tell(out: Output, entry: Row) -> None:
    from rich.text import Text

    outcome = entry["outcome"] or ""
    blocked = entry["type"].startswith("actions.")
    what = entry["action"] if blocked else entry["type"].partition(".")[2].replace("_", " ")
    out.console.print(
        Text.assemble(
            (f"{entry['position']:>7}  {moment(entry['at'])}  ", "dim"),
            (f"{outcome.replace('_', ' '):<17}", STYLES.get(outcome, "")),
            f"  {entry['actor']}  {what} ({entry['stream']})",
        )
    )
    for line in _details(entry):
        out.console.print(Text(f"         {line}", style="dim"))


def _details(entry: Row) -> Iterator[str]:
    if entry["change"]:
        yield entry["change"]
    if entry["code"]:
        yield f"{entry['code']}: {entry['message']}"
    if entry["reason"]:
        yield f"because: {entry['reason']}"
    if entry["approval_id"]:
        yield f"approval {entry['approval_id']}"
    if entry["evidence"]:
        yield f"under policies {entry['policy_version'][:12]}, evidence {entry['evidence']}"
