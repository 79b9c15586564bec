"""`aureus diff`: what changed between two moments, by whom and by which events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import Limit, client_of, output_of
from api.cli.output import Output, Row, moment, plain

app = typer.Typer()

MARKS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}
NDJSON = "application/x-ndjson"


@app.command()
def diff(
    context: typer.Context,
    start: Annotated[
        str, typer.Option("--from", metavar="TIME|DAY|POSITION", help="The earlier moment; a day stands for its midnight in UTC.")
    ],
    end: Annotated[str | None, typer.Option("--to", metavar="TIME|DAY|POSITION", help="The later one; now, if not given.")] = None,
    contexts: Annotated[
        str | None, typer.Option("--context", metavar="NAME[,NAME]", help="Only these contexts, such as policies,catalog.")
    ] = None,
    kinds: Annotated[str | None, typer.Option("--kind", metavar="LIST[,LIST]", help="Only these lists, such as datasets.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only what has this id.")] = None,
    limit: Limit = 50,
    lines: Annotated[bool, typer.Option("--lines", help="Instead: all that differs as JSON lines, the summary last.")] = False,
) -> None:
    """Compare two moments: what was added, changed and removed, value by value, by whom, when and by which events."""
    client, out = client_of(context), output_of(context)
    asked = {"from": start, "to": end, "context": contexts, "kind": kinds, "id": row_id}
    if lines:
        with client.streamed(path("diff"), {"Accept": NDJSON}, **asked) as answer:
            for line in answer.iter_lines():
                out.text(line)
        return
    found = client.rows(path("diff"), limit, **asked)
    if out.as_json:
        out.json(found)
        return
    counted = ", ".join(f"{row['kind']} {_counted(row)}" for row in found["summary"])
    out.text(f"From position {found['from_position']} to {found['to_position']}: {counted or 'nothing differs'}.")
    for row in found["items"]:
        _tell(out, row)
    if found["next_cursor"]:
        out.note(f"There are more than these {len(found['items'])}: see them with --limit, or all of them with --lines.")


def _counted(row: Row) -> str:
    return " ".join(f"{mark}{row[kind]}" for kind, (mark, _) in MARKS.items() if row[kind])


def _tell(out: Output, row: Row) -> None:
    """One row: how it changed, and the events that did it."""
    from rich.text import Text

    mark, style = MARKS[row["change"]]
    out.console.print(Text.assemble((f"\n{mark} ", style), f"{row['context']} {row['kind']} ", (row["id"], "bold")))
    for line in _values(row):
        out.console.print(Text(f"    {line}"))
    events = row["events"]
    if row["events_count"] > len(events):
        out.console.print(Text(f"    {row['events_count'] - len(events)} events before these", style="dim"))
    for event in events:
        because = f", because: {event['reason']}" if event["reason"] else ""
        told = f"    {moment(event['at'])}  {event['actor']}  {event['type']} at position {event['position']}{because}"
        out.console.print(Text(told, style="dim"))


def _values(row: Row) -> Iterator[str]:
    if row["change"] == "changed":
        for change in row["changes"]:
            yield f"{change['field']}: {_shown(change['before'])} -> {_shown(change['after'])}"


def _shown(value: Any) -> str:
    return plain(value) or "nothing"
