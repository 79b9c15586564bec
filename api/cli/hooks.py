"""`aureus hooks`: where other systems report what they did, and what their reports become."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import Limit, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
hooks = typer.Typer(help="Where other systems report what they did, and what their reports become.", no_args_is_help=True)
app.add_typer(hooks, name="hooks")

HookId = Annotated[str, typer.Argument(metavar="HOOK", help="What it is called, such as dbt.")]
Secret = Annotated[str | None, typer.Option("--secret", help="The secret, when the other system chose it; one is made if not given.")]
COLUMNS = (
    Column("hook", "hook_id"),
    Column("label", "label"),
    Column("becomes", "command"),
    Column("as", "acts_as"),
    Column("signed as", "scheme"),
    Column("status", "status"),
    when("added", "added_at"),
)
DELIVERIES = (
    Column("report", "delivery_id"),
    Column("state", "state"),
    when("received", "received_at"),
    Column("action", "action_id"),
    Column("problem", "problem"),
)


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs = [one.partition("=") for one in given or ()]
    for name, sign, _ in pairs:
        if not (name and sign):
            raise typer.BadParameter(f"Write {option} NAME=VALUE.")
    return {name: value for name, _, value in pairs}


@hooks.command()
def add(
    context: typer.Context,
    hook_id: HookId,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="What a report becomes, such as catalog.record_refresh.")],
    acts_as: Annotated[str, typer.Option("--service", metavar="SERVICE", help="The service that asks for it, such as svc-dbt.")],
    label: Annotated[str | None, typer.Option("--label", help="What it is, in a line; the command if not given.")] = None,
    field: Annotated[list[str] | None, typer.Option("--field", metavar="NAME=POINTER", help="Where a field stands: id=/data/id.")] = None,
    constant: Annotated[
        list[str] | None, typer.Option("--constant", metavar="NAME=VALUE", help="A field that is the same in each.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="POINTER=VALUE", help="Reports that say something else become nothing.")
    ] = None,
    scheme: Annotated[str, typer.Option("--scheme", help="How reports are signed: standard or github.")] = "standard",
    secret: Secret = None,
) -> None:
    """Have another system's signed reports become a command; the secret is shown this once."""
    wanted: dict[str, Any] = {
        "hook_id": hook_id,
        "label": label or command,
        "acts_as": acts_as,
        "scheme": scheme,
        "command": command,
        "fields": _pairs(field, "--field"),
        "constants": _pairs(constant, "--constant"),
        "only_when": _pairs(only, "--only"),
        "secret": secret,
    }
    result = client_of(context).ask(path("hooks"), wanted)
    told = f"Added {hook_id}. Have reports sent to {result['address']}, signed with this secret, which is not shown again:"
    output_of(context).done(result, f"{told}\n{result['secret']}")


@hooks.command()
def rotate(
    context: typer.Context,
    hook_id: HookId,
    overlap: Annotated[str, typer.Option("--overlap", metavar="DURATION", help="How long the secret before stays good.")] = "P1D",
    secret: Secret = None,
) -> None:
    """Have reports signed with another secret; it is shown this once."""
    result = client_of(context).ask(path("hooks", hook_id, "secret"), {"overlap": overlap, "secret": secret})
    told = f"Rotated. The secret before is good for {overlap} more. The new one, which is not shown again:"
    output_of(context).done(result, f"{told}\n{result['secret']}")


@hooks.command()
def remove(context: typer.Context, hook_id: HookId) -> None:
    """Take nothing there any more."""
    output_of(context).done(client_of(context).ask(path("hooks", hook_id, "remove"), {}), f"Removed {hook_id}.")


@hooks.command("list")
def list_(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="active or removed.")] = None,
    limit: Limit = 50,
) -> None:
    """List the hooks there are."""
    output_of(context).rows(client_of(context).rows(path("hooks"), limit, status=status), COLUMNS, "Nobody reports anything.")


@hooks.command()
def deliveries(
    context: typer.Context,
    hook_id: HookId,
    state: Annotated[str | None, typer.Option("--state", help="received, done, parked, ignored or failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many to list at most.")] = 50,
) -> None:
    """List what became of what was reported, the latest first."""
    page = client_of(context).one(path("hooks", hook_id, "deliveries"), state=state, limit=limit)
    output_of(context).rows(page, DELIVERIES, "Nothing was reported.")


@hooks.command()
def replay(
    context: typer.Context,
    hook_id: HookId,
    delivery_ids: Annotated[list[str] | None, typer.Argument(metavar="[REPORT]...", help="Their ids, as the list shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that failed, at most 500.")] = False,
) -> None:
    """Try reports again that failed, once what was in their way is mended."""
    client = client_of(context)
    if everything == bool(delivery_ids):
        raise typer.BadParameter("Name the reports, or say --all.")
    if everything:
        failed = client.one(path("hooks", hook_id, "deliveries"), state="failed", limit=500)["items"]
        delivery_ids = [row["delivery_id"] for row in reversed(failed)]
    results = [client.ask(path("hooks", hook_id, "deliveries", each, "replay"), {}) for each in delivery_ids or ()]
    left = [f"{result['delivery_id']}: {result['problem']}" for result in results if result["state"] == "failed"]
    told = f"{len(results) - len(left)} of {len(results)} became what the hook says."
    client.out.done({"items": results}, "\n".join([told, *left]))
