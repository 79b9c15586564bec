"""`aureus limits`: how much you may ask, and what is left of it."""

from __future__ import annotations

import typer

from api.cli.options import client_of, output_of
from api.cli.output import Column

app = typer.Typer()
COLUMNS = (
    Column("limit", "limit"),
    Column("allowed", "allowed"),
    Column("within", "within"),
    Column("left", "remaining"),
    Column("more in", "more_in"),
    Column("counts", "counts"),
)


@app.command()
def limits(context: typer.Context) -> None:
    """Show your limits: how many expensive reads an hour, how many requests a minute, and what of them is left."""
    client, out = client_of(context), output_of(context)
    found = client.one("/v1/limits")
    if out.as_json:
        out.json(found)
        return
    for one in found["items"]:
        one["within"] = f"{one['window_seconds']} s"
        one["more_in"] = f"{one['reset_seconds']} s" if one["reset_seconds"] else ""
    out.table(found["items"], COLUMNS)
    out.note(f"You are of the {found['tier']} tier. What is not listed is not limited.")
