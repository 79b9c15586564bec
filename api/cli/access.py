"""`aureus actors` and `aureus api-keys`: who may act, in which roles and how far, and the keys of programs."""

from __future__ import annotations

import hashlib
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
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, not its secret.")]
Days = Annotated[int | None, typer.Option("--days", min=1, max=365, help="How long it is good for. [90]")]
ACTOR_COLUMNS = (
    Column("actor", "actor_id"),
    Column("kind", "kind"),
    Column("roles", "roles"),
    Column("owner", "owner"),
    Column("domains", "domains"),
    Column("tier", "tier"),
    Column("status", "status"),
    when("registered", "registered_at"),
)
KEY_COLUMNS = (
    Column("key", "key_id"),
    Column("actor", "actor_id"),
    Column("label", "label"),
    Column("good for", "scopes"),
    Column("status", "status"),
    when("issued", "issued_at"),
    when("expires", "expires_at"),
)
ACTOR_SHOWN = ("kind", "roles", "status", "owner", "domains", "tier")
IDENTITY_COLUMNS = (
    Column("identity", "subject_sha256"),
    Column("actor", "actor_id"),
    Column("issuer", "issuer"),
    when("linked", "linked_at"),
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


@actors.command()
def offboard(
    context: typer.Context,
    actor_id: ActorId,
    administrator: Annotated[
        str | None, typer.Option("--administrator", metavar="ACTOR", help="An administrator who remains; needed when a service asks.")
    ] = None,
) -> None:
    """End for good all that an actor may do: tokens, keys, unused approvals, and the agents and services it answers for."""
    result = client_of(context).ask(path("actors", actor_id, "offboard"), {"administrator": administrator})
    output_of(context).done(result, f"{actor_id} has left for good.")


@actors.command()
def own(
    context: typer.Context,
    actor_id: ActorId,
    owner: Annotated[str, typer.Option("--owner", metavar="ACTOR", help="The person who answers for it from now on.")],
) -> None:
    """Have another person answer for an agent or a service."""
    output_of(context).done(client_of(context).ask(path("actors", actor_id, "owner"), {"owner": owner}), f"{owner} answers for {actor_id}.")


@actors.command()
def tier(context: typer.Context, actor_id: ActorId, tier: Annotated[str, typer.Argument(help="standard or premium.")]) -> None:
    """Let an actor ask as much within an hour as a tier allows; nobody changes their own."""
    output_of(context).done(client_of(context).ask(path("actors", actor_id, "tier"), {"tier": tier}), f"{actor_id} is {tier}.")


@actors.command()
def bound(
    context: typer.Context,
    actor_id: ActorId,
    domain: Annotated[list[str] | None, typer.Option("--domain", help="A data domain; repeatable, none: all of them.")] = None,
) -> None:
    """Let an actor's roles reach these data domains only; nobody bounds themselves."""
    result = client_of(context).ask(path("actors", actor_id, "domains"), {"domains": domain or None})
    output_of(context).done(result, f"{actor_id} reaches {', '.join(domain or ['all domains'])}.")


@actors.command()
def link(
    context: typer.Context,
    actor_id: ActorId,
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="The identity provider, as it calls itself.")],
    subject: Annotated[
        str, typer.Option("--subject", metavar="SUB", help="What it knows the actor by; only a digest leaves this machine.")
    ],
) -> None:
    """Let whoever an identity provider knows by this subject be an actor here."""
    digest = hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()
    body = {"subject_sha256": digest, "issuer": issuer, "actor_id": actor_id}
    output_of(context).done(client_of(context).ask(path("identities"), body), f"{digest} is {actor_id}.")


@actors.command()
def unlink(
    context: typer.Context, identity: Annotated[str, typer.Argument(metavar="IDENTITY", help="The digest, as `identities` lists it.")]
) -> None:
    """End that somebody an identity provider knows is an actor here."""
    output_of(context).done(client_of(context).ask(path("identities", identity, "unlink"), {}), f"{identity} is nobody here.")


@actors.command("identities")
def identities_(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Only this actor's.")] = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List whom identity providers know actors as, by the digest of what they know them by."""
    page = client_of(context).rows(path("identities"), limit, actor_id=actor, sort=sort)
    output_of(context).rows(page, IDENTITY_COLUMNS, "No identity is linked.")


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
    output_of(context).record(client_of(context).one(path("actors", actor_id)), f"Actor {actor_id}", ACTOR_SHOWN)


@keys.command()
def issue(
    context: typer.Context,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What the key is for.")],
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Whose key; yours when not given.")] = None,
    days: Days = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What it is good for: read, a context such as catalog, or a command; repeatable, none: everything."),
    ] = None,
) -> None:
    """Issue a key; it is shown this once and cannot be shown again."""
    client = client_of(context)
    actor_id = actor or client.one(path("auth", "me"))["actor"]
    # The server makes the secret and cannot give the same one twice: a repetition would issue a second key.
    wanted = {"actor_id": actor_id, "label": label, "expires_at": _end(days), "scopes": scope or None}
    result = client.ask(path("api-keys"), wanted, repeatable=False)
    client.out.done(result, f"Issued {result['key_id']} for {actor_id}. Keep it now, it is not shown again:\n{result['api_key']}")


@keys.command()
def rotate(
    context: typer.Context,
    key_id: KeyId,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="Whose key; yours when not given.")] = None,
    overlap_hours: Annotated[
        int | None, typer.Option("--overlap-hours", min=0, max=168, help="How long the old one goes on beside the new one. [24]")
    ] = None,
    days: Days = None,
) -> None:
    """Issue a key for the same uses beside one, which ends after the overlap; the new one is shown this once."""
    client = client_of(context)
    actor_id = actor or client.one(path("auth", "me"))["actor"]
    wanted = {"actor_id": actor_id, "overlap_hours": overlap_hours, "expires_at": _end(days)}
    result = client.ask(path("api-keys", key_id, "rotate"), wanted, repeatable=False)
    ends = f"{key_id} ends at {result['old_ends_at']}"
    client.out.done(result, f"Issued {result['key_id']} for {actor_id}; {ends}. Keep it now, it is not shown again:\n{result['api_key']}")


def _end(days: int | None) -> str | None:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None


@keys.command()
def revoke(
    context: typer.Context,
    key_id: KeyId,
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


@keys.command()
def used(context: typer.Context, key_id: KeyId) -> None:
    """Show when a key was last used, to the minute."""
    use = client_of(context).one(path("api-keys", key_id, "use"))
    output_of(context).record(use, f"Key {key_id}", ("last_used_at",))
