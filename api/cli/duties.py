"""`aureus duties`: the rules that separate duties, and who breaks them."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
duties = typer.Typer(help="Which roles nobody may hold together, and which commands one hand may not both do.", no_args_is_help=True)
app.add_typer(duties, name="duties")

RuleId = Annotated[str, typer.Argument(metavar="RULE", help="Its id, such as four-eyes.")]
COLUMNS = (
    Column("rule", "rule_id"),
    Column("keeps apart", lambda row: row["roles_apart"] or row["commands_apart"]),
    Column("because", "reason"),
    Column("by", "defined_by"),
    when("at", "defined_at"),
)
VIOLATION_COLUMNS = (
    Column("actor", "actor_id"),
    Column("rule", "rule_id"),
    Column("holds", lambda row: [f"{one['role']} ({one['way']})" for one in row["held"]]),
    Column("because", "reason"),
)


@duties.command()
def define(
    context: typer.Context,
    rule_id: RuleId,
    reason: Annotated[str, typer.Option("--because", metavar="TEXT", help="Why; whoever is refused is told.")],
    role: Annotated[list[str] | None, typer.Option("--role", help="Nobody may hold two of these; repeatable.")] = None,
    command: Annotated[
        list[str] | None,
        typer.Option("--command", help="One hand may not do two of these to the same thing, such as pipelines.deploy_version; repeatable."),
    ] = None,
) -> None:
    """Keep roles apart, or commands; defined again, the rule reads like this from now on."""
    body = {"rule_id": rule_id, "reason": reason, "roles_apart": role or None, "commands_apart": command or None}
    output_of(context).done(client_of(context).ask(path("duties", "rules"), body), f"Rule {rule_id} holds.")


@duties.command()
def remove(context: typer.Context, rule_id: RuleId) -> None:
    """Let a rule hold no longer; somebody else has to agree."""
    output_of(context).done(client_of(context).ask(path("duties", "rules", rule_id, "remove"), {}), f"Rule {rule_id} holds no longer.")


@duties.command("list")
def list_(context: typer.Context, search: Search = None, sort: Sort = None, limit: Limit = 50) -> None:
    """List the rules in force."""
    page = client_of(context).rows(path("duties", "rules"), limit, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "No rule keeps anything apart.")


@duties.command()
def violations(context: typer.Context) -> None:
    """List who holds roles that are kept apart, and how they came to them."""
    page = client_of(context).one(path("duties", "violations"))
    output_of(context).rows(page, VIOLATION_COLUMNS, "Nobody holds roles that are kept apart.")
