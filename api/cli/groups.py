"""`aureus groups`: who is in which group, which group is in which, and what they give."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
groups = typer.Typer(help="Actors who are trusted alike, and groups within groups.", no_args_is_help=True)
app.add_typer(groups, name="groups")

GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="Such as grp-risk.")]
ActorId = Annotated[str, typer.Argument(metavar="ACTOR", help="Such as usr-7f3k2m, agt-bot or svc-loader.")]
NestedId = Annotated[str, typer.Argument(metavar="NESTED", help="The group that is in it.")]
ExternalName = Annotated[str | None, typer.Option("--external-name", metavar="NAME", help="What an identity provider calls it.")]
GROUP_COLUMNS = (
    Column("group", "group_id"),
    Column("label", "label"),
    Column("gives", "roles"),
    Column("domains", "domains"),
    Column("members", "members"),
    Column("inside", "inside"),
    Column("status", "status"),
)
MEMBER_COLUMNS = (Column("actor", "actor_id"), Column("groups", "groups"), when("since", "changed_at"))


@groups.command()
def create(
    context: typer.Context,
    group_id: GroupId,
    label: Annotated[str, typer.Option("--label", help="What people call it.")],
    external_name: ExternalName = None,
) -> None:
    """Create a group, with nobody in it and nothing to give."""
    body = {"group_id": group_id, "label": label, "external_name": external_name}
    output_of(context).done(client_of(context).ask(path("groups"), body), f"Created {group_id}.")


@groups.command()
def rename(
    context: typer.Context,
    group_id: GroupId,
    label: Annotated[str, typer.Option("--label", help="What people call it from now on.")],
    external_name: ExternalName = None,
) -> None:
    """Call a group otherwise, here and by the identity provider."""
    body = {"label": label, "external_name": external_name}
    output_of(context).done(client_of(context).ask(path("groups", group_id, "rename"), body), f"{group_id} is {label}.")


@groups.command()
def add(context: typer.Context, group_id: GroupId, actor_id: ActorId) -> None:
    """Put an actor into a group; nobody adds themselves."""
    result = client_of(context).ask(path("groups", group_id, "members"), {"actor_id": actor_id})
    output_of(context).done(result, f"{actor_id} is in {group_id}.")


@groups.command()
def remove(context: typer.Context, group_id: GroupId, actor_id: ActorId) -> None:
    """Take an actor out of a group."""
    result = client_of(context).ask(path("groups", group_id, "members", actor_id, "remove"), {})
    output_of(context).done(result, f"{actor_id} is not in {group_id}.")


@groups.command()
def nest(context: typer.Context, group_id: GroupId, nested_id: NestedId) -> None:
    """Put a group into another: whoever is in the nested one is in the other as well."""
    result = client_of(context).ask(path("groups", group_id, "nested"), {"nested_id": nested_id})
    output_of(context).done(result, f"{nested_id} is in {group_id}.")


@groups.command()
def unnest(context: typer.Context, group_id: GroupId, nested_id: NestedId) -> None:
    """Take a group out of another."""
    result = client_of(context).ask(path("groups", group_id, "nested", nested_id, "remove"), {})
    output_of(context).done(result, f"{nested_id} is not in {group_id}.")


@groups.command("map")
def map_(
    context: typer.Context,
    group_id: GroupId,
    role: Annotated[list[str] | None, typer.Option("--role", help="A role that it gives; repeatable, none: it gives none.")] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", help="A data domain that it bounds to; repeatable, none: to none.")
    ] = None,
) -> None:
    """Have a group give its members these roles, and bound them to these data domains; nobody does that to their own."""
    result = client_of(context).ask(path("groups", group_id, "roles"), {"mapped_roles": role or [], "domains": domain or None})
    output_of(context).done(result, f"{group_id} gives {', '.join(role or ['no role'])}.")


@groups.command()
def end(context: typer.Context, group_id: GroupId) -> None:
    """End a group for good: it gives nobody anything any more."""
    output_of(context).done(client_of(context).ask(path("groups", group_id, "remove"), {}), f"Ended {group_id}.")


@groups.command("list")
def list_(
    context: typer.Context,
    role: Annotated[str | None, typer.Option("--role", help="Only those that give this role.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="active or removed.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List groups, and what they give."""
    page = client_of(context).rows(path("groups"), limit, roles=role, status=status, q=search, sort=sort)
    output_of(context).rows(page, GROUP_COLUMNS, "There is no group.")


@groups.command()
def show(context: typer.Context, group_id: GroupId) -> None:
    """Show a group."""
    row = client_of(context).one(path("groups", group_id))
    output_of(context).record(row, f"Group {group_id}", ("label", "roles", "domains", "members", "inside", "around", "status"))


@groups.command()
def members(context: typer.Context, group_id: GroupId, sort: Sort = None, limit: Limit = 50) -> None:
    """List who was put into a group; who is in it through a group within it stands there."""
    page = client_of(context).rows(path("memberships"), limit, groups=group_id, sort=sort)
    output_of(context).rows(page, MEMBER_COLUMNS, "Nobody was put into it.")
