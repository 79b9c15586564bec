"""`aureus actors` and `aureus api-keys`: who may act, in which roles, and the keys of programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
actors = typer.Typer(help="Who may act, and in which roles.", no_args_is_help=True)
keys = typer.Typer(help="Keys with which programs act.", no_args_is_help=True)
app.add_typer(actors, name="actors")
app.add_typer(keys, name="api-keys")

ActorId = Annotated[str, typer.Argument(metavar="ACTOR", help="Such as usr-7f3k2m, agt-bot or svc-loader.")]
Roles = Annotated[list[str], typer.Option("--role", help="viewer, analyst, approver, admin, auditor or agent; repeatable.")]
ACTOR_COLUMNS = (
    Column("actor", "actor_id"),
    Column("kind", "kind"),
    Column("roles", "roles"),
    Column("owner", "owner"),
    Column("status", "status"),
    when("registered", "registered_at"),
)
KEY_COLUMNS = (
    Column("key", "key_id"),
    Column("actor", "actor_id"),
    Column("label", "label"),
    Column("status", "status"),
    when("issued", "issued_at"),
    when("expires", "expires_at"),
)


@actors.command()
def register(
    context: typer.Context,
    actor_id: ActorId,
    role: Roles,
    kind: Annotated[str, typer.Option("--kind", help="person, agent or service.")] = "person",
    owner: Annotated[str | None, typer.Option("--owner", metavar="ACTOR", help="The person who answers for an agent or a service.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Personal data; it stays erasable.")] = None,
) -> None:
    """Register a person (usr-...), an agent (agt-...) or a service (svc-...); the last two need an owner."""
    body = {"actor_id": actor_id, "kind": kind, "granted_roles": role, "owner": owner, "display_name": name}
    output_of(context).done(client_of(context).ask(path("actors"), body), f"Registered {actor_id} as {', '.join(role)}.")


@actors.command()
def roles(context: typer.Context, actor_id: ActorId, role: Roles) -> None:
    """Replace the roles an actor holds; nobody changes their own."""
    result = client_of(context).ask(path("actors", actor_id, "roles"), {"granted_roles": role})
    output_of(context).done(result, f"{actor_id} is {', '.join(role)}.")


@actors.command()
def suspend(context: typer.Context, actor_id: ActorId) -> None:
    """Keep an actor from acting, whatever tokens and keys it still has."""
    output_of(context).done(client_of(context).ask(path("actors", actor_id, "suspend"), {}), f"Suspended {actor_id}.")


@actors.command()
def reinstate(context: typer.Context, actor_id: ActorId) -> None:
    """Let a suspended actor act again."""
    output_of(context).done(client_of(context).ask(path("actors", actor_id, "reinstate"), {}), f"Reinstated {actor_id}.")


@actors.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option("--kind", help="person, agent or service.")] = None,
    role: Annotated[str | None, typer.Option("--role", help="Only those who hold this role.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="ACTOR", help="Only those this person answers for.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List who may act."""
    page = client_of(context).rows(path("actors"), limit, kind=kind, roles=role, owner=owner, q=search, sort=sort)
    output_of(context).rows(page, ACTOR_COLUMNS)


@actors.command()
def show(context: typer.Context, actor_id: ActorId) -> None:
    """Show an actor."""
    output_of(context).record(client_of(context).one(path("actors", actor_id)), f"Actor {actor_id}", ("kind", "roles", "status", "owner"))


@keys.command()
def issue(
    context: typer.Context,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What the key is for.")],
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Whose key; yours when not given.")] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, max=365, help="How long it is good for. [90]")] = None,
) -> None:
    """Issue a key; it is shown this once and cannot be shown again."""
    client = client_of(context)
    actor_id = actor or client.one(path("auth", "me"))["actor"]
    expires_at = (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None
    # The server makes the secret and cannot give the same one twice: a repetition would issue a second key.
    wanted = {"actor_id": actor_id, "label": label, "expires_at": expires_at}
    result = client.ask(path("api-keys"), wanted, repeatable=False)
    client.out.done(result, f"Issued {result['key_id']} for {actor_id}. Keep it now, it is not shown again:\n{result['api_key']}")


@keys.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, not its secret.")],
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Whose key; yours when not given.")] = None,
) -> None:
    """Make a key worthless at once."""
    client = client_of(context)
    actor_id = actor or client.one(path("auth", "me"))["actor"]
    client.out.done(client.ask(path("api-keys", key_id, "revoke"), {"actor_id": actor_id}), f"Revoked {key_id}.")


@keys.command("list")
def list_keys(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Only this actor's.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="active or revoked.")] = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List keys; their secrets are not kept anywhere."""
    page = client_of(context).rows(path("api-keys"), limit, actor_id=actor, status=status, sort=sort)
    output_of(context).rows(page, KEY_COLUMNS, "No key is issued.")
