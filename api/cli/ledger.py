"""`aureus log`: the events as the ledger holds them, and its latest signed checkpoint."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from api.cli import fsck, proofs
from api.cli.client import Client, Json, path
from api.cli.options import client_of, output_of
from api.cli.output import Column, Output, when

app = typer.Typer()
log = typer.Typer(help="The ledger: every event, in order.", no_args_is_help=True)
app.add_typer(log, name="log")
log.add_typer(proofs.app)
log.add_typer(fsck.app)

POLL_SECONDS: Final = 0.5
PAGE_EVENTS: Final = 500
COLUMNS = (
    Column("position", "position", right=True),
    when("at", "at"),
    Column("event", "type"),
    Column("stream", lambda event: f"{event['stream']} v{event['version']}"),
    Column("actor", "actor"),
)


@log.command()
def tail(
    context: typer.Context,
    count: Annotated[int, typer.Option("-n", min=1, max=5_000, help="How many of the latest events.")] = 20,
    after: Annotated[int | None, typer.Option("--after", metavar="POSITION", min=0, help="Instead: all since this position.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events as they come, until interrupted.")] = False,
) -> None:
    """Show the latest events; with --json one event per line."""
    client, out = client_of(context), output_of(context)
    try:
        if after is None:
            latest = client.one(path("ledger", "events"), limit=count, tail=True)
            _print(out, latest["items"])
            position = latest["next_after"]
        else:
            position = _print_since(client, out, after)
        while follow:
            time.sleep(POLL_SECONDS)
            position = _print_since(client, out, position)
    except KeyboardInterrupt:
        return


@log.command()
def checkpoint(context: typer.Context) -> None:
    """Print the latest signed checkpoint, as a C2SP signed note; with --json what it says."""
    out = output_of(context)
    note = str(client_of(context).get(path("ledger", "checkpoint")).body)
    if not out.as_json:
        return out.text(note.rstrip("\n"))
    origin, size, root = note.split("\n")[:3]
    return out.json({"origin": origin, "size": int(size), "root": root, "note": note})


def _print_since(client: Client, out: Output, position: int) -> int:
    """Prints all events since a position, page by page, and says how far it came."""
    while True:
        page: Json = client.one(path("ledger", "events"), after=position, limit=PAGE_EVENTS)
        _print(out, page["items"])
        if page["next_after"] <= position:
            return position
        position = page["next_after"]


def _print(out: Output, events: list[dict[str, Any]]) -> None:
    if out.as_json:
        for event in events:
            out.json(event)
    elif events:
        out.table(events, COLUMNS)
