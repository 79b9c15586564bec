"""`aureus grants`: roles on a part of the tenant - a domain, a project, one stream - for a time."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Sort, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
grants = typer.Typer(help="Roles on a domain, a project or one stream, until a time.", no_args_is_help=True)
app.add_typer(grants, name="grants")

GrantId = Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id.")]
Until = Annotated[datetime, typer.Option("--until", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="When it ends, in UTC.")]
Because = Annotated[str | None, typer.Option("--because", "-m", metavar="TEXT", help="Why; it goes on record.")]
COLUMNS = (
    Column("grant", "grant_id"),
    Column("role", "role"),
    Column("on", "about"),
    Column("to", "grantee"),
    when("until", "until"),
    Column("status", "status"),
    Column("by", "granted_by"),
)


@grants.command()
def give(
    context: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Such as analyst.")],
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="domain:NAME, project:ID, or a stream such as dataset:crm.orders.")],
    grantee: Annotated[str, typer.Argument(metavar="GRANTEE", help="An actor such as usr-ben, or a group such as grp-risk.")],
    until: Until,
    because: Because = None,
    grant_id: Annotated[str | None, typer.Option("--id", metavar="GRANT", help="The grant's id; the same with an approval.")] = None,
) -> None:
    """Give an actor or a group a role within a scope, until a time."""
    body = {
        "grant_id": grant_id or f"grt-{uuid.uuid4().hex[:12]}",
        "role": role,
        "about": scope,
        "group_id" if grantee.startswith("grp-") else "actor_id": grantee,
        "until": _utc(until),
        "reason": because,
    }
    result = client_of(context).ask(path("grants"), body)
    output_of(context).done(result, f"Granted {role} on {scope} to {grantee} until {_utc(until)}: grant {body['grant_id']}")


@grants.command()
def extend(context: typer.Context, grant_id: GrantId, until: Until) -> None:
    """Let a grant end later."""
    result = client_of(context).ask(path("grants", grant_id, "extend"), {"until": _utc(until)})
    output_of(context).done(result, f"Grant {grant_id} lasts until {_utc(until)}.")


@grants.command()
def revoke(context: typer.Context, grant_id: GrantId, because: Because = None) -> None:
    """End a grant now."""
    result = client_of(context).ask(path("grants", grant_id, "revoke"), {"reason": because})
    output_of(context).done(result, f"Revoked grant {grant_id}.")


@grants.command("list")
def list_(
    context: typer.Context,
    grantee: Annotated[str | None, typer.Option("--to", metavar="GRANTEE", help="Only those of actor:usr-... or group:grp-....")] = None,
    scope: Annotated[str | None, typer.Option("--on", metavar="SCOPE", help="Only those on this scope.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="granted or revoked.")] = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List grants."""
    page = client_of(context).rows(path("grants"), limit, grantee=grantee, about=scope, status=status, sort=sort)
    output_of(context).rows(page, COLUMNS, "Nothing is granted.")


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
