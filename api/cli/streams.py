"""`aureus streams`: how events travel, and how far each that follows the ledger is."""

from __future__ import annotations

import typer

from api.cli.client import path
from api.cli.options import client_of, output_of
from api.cli.output import Column, Row, when

app = typer.Typer()
streams = typer.Typer(help="How events travel: the relay, the workers, what is behind and what waits for people.", no_args_is_help=True)
app.add_typer(streams, name="streams")

FOLLOWERS = (
    Column("follower", "name"),
    Column("order", "ordering"),
    Column("position", "position", right=True),
    Column("events behind", "lag_events", right=True),
    Column("led by", "led_by"),
    Column("partitions ahead", lambda row: ", ".join(f"{number} at {position}" for number, position in row["ahead"].items())),
    Column("stopped", "stopped"),
)
WORKERS = (
    Column("worker", lambda row: f"{row['host']}:{row['pid']}"),
    Column("read models", "projections"),
    Column("partitions", "partitions"),
    Column("position", "position", right=True),
    Column("trouble", "last_error"),
    when("seen", "seen_at"),
)


@streams.command()
def status(context: typer.Context) -> None:
    """Show how far the relay and every read model are, who leads them, the workers, and how many dead letters wait."""
    out = output_of(context)
    found = client_of(context).one(path("streams"))
    if out.as_json:
        return out.json(found)
    travel = "through Kafka" if found["mode"] == "kafka" else "in the process that serves"
    out.text(f"The ledger ends at position {found['size']}; events travel {travel}.")
    out.rows({"items": [*(_follower(relay) for relay in found["relays"]), *found["projections"], _reactions(found)]}, FOLLOWERS)
    if found["workers"]:
        everything = len(found["projections"])
        told = [{**row, "projections": "all" if len(row["projections"]) == everything else row["projections"]} for row in found["workers"]]
        out.rows({"items": told}, WORKERS)
    if waiting := found["reactions"]["dead_letters_waiting"]:
        out.text(f"{waiting} dead letters wait: aureus dead-letters list --status waiting")
    return None


def _follower(row: Row) -> Row:
    return {"ordering": "total", "ahead": {}, "stopped": None, **row}


def _reactions(found: Row) -> Row:
    return _follower({"name": "reactor", **found["reactions"]})
