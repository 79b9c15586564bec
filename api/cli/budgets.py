"""`aureus budgets`: limits, the money promised against them, and what is left. Amounts are typed in major units."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import AmountArgument, Limit, Search, Sort, client_of, minor_units, output_of
from api.cli.output import Column, amount, major_units, when

app = typer.Typer()
budgets = typer.Typer(help="Limits on money, and what is promised against them.", no_args_is_help=True)
app.add_typer(budgets, name="budgets")

BudgetId = Annotated[str, typer.Argument(metavar="BUDGET", help="Its path from the root, such as eu-lake.ingest.")]
ReservationId = Annotated[str, typer.Argument(metavar="RESERVATION", help="The id that `reserve` answered with.")]
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
COLUMNS = (
    Column("budget", "budget_id"),
    Column("label", "label"),
    Column("currency", "currency"),
    amount("limit", "limit_minor"),
    amount("reserved", "reserved_minor"),
    amount("spent", "spent_minor"),
    amount("available", "available_minor"),
    Column("status", "status"),
)
PROPERTIES = ("label", "status", "currency", "limit_minor", "reserved_minor", "spent_minor", "available_minor", "pause_agents_at_percent")
RESERVATION_COLUMNS = (
    Column("reservation", "reservation_id"),
    Column("budget", "budget_id"),
    amount("amount", "amount_minor"),
    amount("spent", "spent_minor"),
    Column("status", "status"),
    Column("by", "reserved_by"),
    when("reserved", "reserved_at"),
)


@budgets.command("open")
def open_(
    context: typer.Context,
    budget_id: BudgetId,
    label: Annotated[str, typer.Option("--label", help="What people call it.")],
    limit: Annotated[int, typer.Option("--limit", metavar="AMOUNT", parser=minor_units, help="In major units, such as 1000.00.")],
    currency: Annotated[str, typer.Option("--currency", help="Three letters, such as EUR.")] = "EUR",
    threshold: Annotated[
        list[int] | None,
        typer.Option("--threshold", metavar="PERCENT", min=1, max=100, help="Put on record when reached; repeatable. [80, 100]"),
    ] = None,
    starts: Annotated[datetime | None, typer.Option("--starts", formats=DATES, help="First moment of its period, in UTC.")] = None,
    ends: Annotated[datetime | None, typer.Option("--ends", formats=DATES, help="First moment after its period, in UTC.")] = None,
    pause_agents_at: Annotated[
        int | None, typer.Option("--pause-agents-at", metavar="PERCENT", min=1, max=100, help="Used so far, the agents on it are stopped.")
    ] = None,
) -> None:
    """Open a budget; eu-lake.ingest stands under eu-lake, which must be open already and of the same currency."""
    body = {
        "budget_id": budget_id,
        "label": label,
        "currency": currency.upper(),
        "limit_minor": limit,
        "thresholds_percent": threshold,
        "starts_at": _utc(starts),
        "ends_at": _utc(ends),
        "pause_agents_at_percent": pause_agents_at,
    }
    result = client_of(context).ask(path("budgets"), body)
    output_of(context).done(result, f"Opened {budget_id} with {major_units(limit)} {currency.upper()}.")


@budgets.command()
def fund(context: typer.Context, budget_id: BudgetId, amount_minor: AmountArgument) -> None:
    """Raise a budget's limit."""
    result = client_of(context).ask(path("budgets", budget_id, "fund"), {"amount_minor": amount_minor})
    output_of(context).done(result, f"Funded {budget_id} with {major_units(amount_minor)}.")


@budgets.command()
def reserve(context: typer.Context, budget_id: BudgetId, amount_minor: AmountArgument) -> None:
    """Promise an amount on a budget and on every budget above it, or on none of them."""
    result = client_of(context).ask(path("budgets", budget_id, "reserve"), {"amount_minor": amount_minor})
    data = next(event["data"] for event in result["events"] if "reservation_id" in event["data"])
    output_of(context).done(result, f"Reserved {major_units(amount_minor)} on {budget_id}: reservation {data['reservation_id']}")


@budgets.command()
def commit(
    context: typer.Context,
    budget_id: BudgetId,
    reservation_id: ReservationId,
    spent: Annotated[
        int | None,
        typer.Option("--spent", metavar="AMOUNT", parser=minor_units, help="Less than was reserved; the rest becomes available."),
    ] = None,
) -> None:
    """Spend a reservation, whole or in part."""
    result = client_of(context).ask(path("budgets", budget_id, "commit"), {"reservation_id": reservation_id, "spent_minor": spent})
    output_of(context).done(result, f"Committed {major_units(spent) or 'all'} of reservation {reservation_id} on {budget_id}.")


@budgets.command()
def release(context: typer.Context, budget_id: BudgetId, reservation_id: ReservationId) -> None:
    """Give a reservation back whole."""
    result = client_of(context).ask(path("budgets", budget_id, "release"), {"reservation_id": reservation_id})
    output_of(context).done(result, f"Released reservation {reservation_id} on {budget_id}.")


@budgets.command()
def change(
    context: typer.Context,
    budget_id: BudgetId,
    label: Annotated[str | None, typer.Option("--label", help="What people call it.")] = None,
    threshold: Annotated[
        list[int] | None,
        typer.Option("--threshold", metavar="PERCENT", min=1, max=100, help="Put on record when reached; repeatable, all of them."),
    ] = None,
    starts: Annotated[datetime | None, typer.Option("--starts", formats=DATES, help="First moment of its period, in UTC.")] = None,
    ends: Annotated[datetime | None, typer.Option("--ends", formats=DATES, help="First moment after its period, in UTC.")] = None,
    pause_agents_at: Annotated[
        int | None,
        typer.Option("--pause-agents-at", metavar="PERCENT", min=0, max=100, help="Used so far, the agents on it are stopped; 0: never."),
    ] = None,
) -> None:
    """Change what a budget is called, when it warns, when it stops agents and when it runs; what is left out stays as it is."""
    body = {
        "label": label,
        "thresholds_percent": threshold or None,
        "starts_at": _utc(starts),
        "ends_at": _utc(ends),
        "pause_agents_at_percent": pause_agents_at,
    }
    result = client_of(context).ask(path("budgets", budget_id, "settings"), body)
    output_of(context).done(result, f"Changed the settings of {budget_id}.")


@budgets.command()
def close(context: typer.Context, budget_id: BudgetId) -> None:
    """Close a budget that has no open reservation and no open budget below it."""
    result = client_of(context).ask(path("budgets", budget_id, "close"), {})
    output_of(context).done(result, f"Closed {budget_id}.")


@budgets.command("list")
def list_(
    context: typer.Context,
    root: Annotated[str | None, typer.Option("--root", metavar="BUDGET", help="Only the tree under this root.")] = None,
    parent: Annotated[str | None, typer.Option("--parent", metavar="BUDGET", help="Only those directly under this one.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Only those in this currency.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="open or closed.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List budgets with what is reserved, spent and available."""
    filters = {"root_id": root, "parent_id": parent, "currency": currency, "status": status, "q": search, "sort": sort}
    output_of(context).rows(client_of(context).rows(path("budgets"), limit, **filters), COLUMNS, "No budget is open.")


@budgets.command()
def show(context: typer.Context, budget_id: BudgetId) -> None:
    """Show a budget and its open reservations."""
    client, out = client_of(context), output_of(context)
    budget = client.one(path("budgets", budget_id))
    out.record(budget, f"Budget {budget_id}", PROPERTIES)
    if out.as_json:
        return
    held = client.rows(path("reservations"), 50, budget_id=budget_id, status="reserved")
    if held["items"]:
        out.rows(held, RESERVATION_COLUMNS)


@budgets.command()
def reservations(
    context: typer.Context,
    budget_id: Annotated[str | None, typer.Argument(metavar="[BUDGET]", help="Only those on this budget.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="reserved, committed or released.")] = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List reservations."""
    page = client_of(context).rows(path("reservations"), limit, budget_id=budget_id, status=status, sort=sort)
    output_of(context).rows(page, RESERVATION_COLUMNS, "No money is reserved.")


def _utc(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
