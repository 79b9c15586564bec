"""`aureus projections`: how far the read models are, and building them again from the ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, output_of
from api.cli.output import Column

app = typer.Typer()
projections = typer.Typer(help="The read models: how far they are, and building them again.", no_args_is_help=True)
app.add_typer(projections, name="projections")

COLUMNS = (
    Column("projection", "name"),
    Column("version", "version", right=True),
    Column("position", "position", right=True),
    Column("events behind", "lag_events", right=True),
    Column("tables", "tables"),
    Column("stopped", "stopped"),
)


@projections.command()
def status(context: typer.Context) -> None:
    """Show how far each projection is, and which one stopped, where and why."""
    output_of(context).rows(client_of(context).one(path("projections")), COLUMNS)


@projections.command()
def rebuild(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="PROJECTION", help="Such as budgets.")],
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Swap it in although it differs: the fold was changed on purpose.")
    ] = False,
) -> None:
    """Build a projection's tables again from position 0 beside the live ones, compare the two, and swap them."""
    client = client_of(context)
    result = _rebuilt(client, name, swap=True, accept_changes=accept_changes)
    if not result["swapped"]:
        raise _differs(result, f"To let what was built replace it: aureus projections rebuild {name} --accept-changes")
    client.out.done({**result}, f"Rebuilt {_standing(result)}")


@projections.command()
def check(
    context: typer.Context, name: Annotated[str | None, typer.Argument(metavar="[PROJECTION]", help="All when not given.")] = None
) -> None:
    """Build read models again from position 0 beside the live ones and compare them, row for row; changes nothing."""
    compare(client_of(context), name)


def compare(client: Client, name: str | None, *, archive: bool = False) -> None:
    """Builds one read model again, or all, and says that each came to the live rows. Raises Failure when one did not."""
    names = [name] if name else [row["name"] for row in client.one(path("projections"))["items"]]
    for each in names:
        result = _rebuilt(client, each, swap=False, accept_changes=False, archive=archive)
        if not result["equal"]:
            raise _differs(result, f"To put it right: aureus projections rebuild {each} --accept-changes")
        client.out.done({**result}, f"Checked {_standing(result)}")


def _rebuilt(client: Client, name: str, *, swap: bool, accept_changes: bool, archive: bool = False) -> Json:
    parameters = {"swap": swap, "accept_changes": accept_changes, **({"archive": True} if archive else {})}
    return client.followed(path("projections", name, "rebuild"), b"", "application/json", name, **parameters)


def _differs(result: Json, remedy: str) -> Failure:
    live, built = result["live"], result["built"]
    tables = sorted(table for table in live.keys() | built.keys() if live.get(table) != built.get(table))
    message = f"The live tables of {result['projection']} are not what the ledger leads to."
    return Failure(ExitCode.NOT_VERIFIED, "projection_differs", message, **result, tables=tables, remedy=remedy)


def _standing(result: Json) -> str:
    equal = "equal to the live ones" if result["equal"] else "other than the live ones"
    tables = ", ".join(sorted(result["built"]))
    return f"{result['projection']} up to position {result['position']}: {tables}; {equal}."
