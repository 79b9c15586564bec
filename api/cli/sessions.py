"""`aureus sessions`, `aureus password` and `aureus totp`: where you are logged in, and how you prove who you are."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, client_of, line_from_stdin, output_of
from api.cli.output import Column, when

app = typer.Typer()
sessions = typer.Typer(help="Where you are logged in.", no_args_is_help=True)
password = typer.Typer(help="Passwords of local logins.", no_args_is_help=True)
totp = typer.Typer(help="Your second factor: codes of an authenticator app.", no_args_is_help=True)
app.add_typer(sessions, name="sessions")
app.add_typer(password, name="password")
app.add_typer(totp, name="totp")

COLUMNS = (
    Column("session", "session_id"),
    Column("actor", "actor_id"),
    Column("by", "method"),
    Column("status", "status"),
    when("opened", "opened_at"),
    when("refreshed", "refreshed_at"),
    Column("ended because", "end_reason"),
)
CREDENTIALS_COLUMNS = (
    Column("actor", "actor_id"),
    Column("password", "password"),
    Column("second factor", "second_factor"),
    Column("recovery codes", "recovery_codes", right=True),
    when("slowed", "slowed_at"),
)
Actor = Annotated[str, typer.Argument(metavar="ACTOR", help="Such as usr-ana.")]
FromStdin = Annotated[bool, typer.Option("--stdin", help="Read what is asked for from standard input, a line each.")]


@sessions.command("list")
def list_(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option("--of", metavar="ACTOR", help="Somebody else's, as an auditor or administrator.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="open or ended.")] = None,
    limit: Limit = 50,
) -> None:
    """List your sessions, the latest first."""
    page = client_of(context).rows(path("auth", "sessions"), limit, actor_id=actor, status=status, sort="-opened_at")
    output_of(context).rows(page, COLUMNS, "There are no such sessions.")


@sessions.command()
def end(
    context: typer.Context,
    session_id: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="Its id, as the list shows it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All but the one you ask from.")] = False,
    actor: Annotated[str | None, typer.Option("--of", metavar="ACTOR", help="With --all: somebody else's, as an administrator.")] = None,
) -> None:
    """End a session: its tokens are worth nothing within a second."""
    client = client_of(context)
    if everything == bool(session_id):
        raise typer.BadParameter("Name a session, or say --all.")
    if session_id is not None:
        client.out.done(client.ask(path("auth", "sessions", session_id, "end"), {}), f"Ended {session_id}.")
        return
    result = client.ask(path("auth", "sessions", "end"), {"actor_id": actor})
    count = len(result["sessions"])
    client.out.done(result, f"Ended {count} session{'' if count == 1 else 's'}.")


@password.command()
def change(context: typer.Context, from_stdin: FromStdin = False) -> None:
    """Change your own password; your other sessions end."""
    old = line_from_stdin() if from_stdin else typer.prompt("Old password", hide_input=True, err=True)
    new = line_from_stdin() if from_stdin else typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    result = client_of(context).ask(path("auth", "password"), {"old_password": old, "new_password": new})
    output_of(context).done(result, "Changed. Your other sessions are over.")


@password.command("set")
def set_(
    context: typer.Context,
    actor: Actor,
    login: Annotated[str | None, typer.Option("--login", help="What they log in as; the one they have when not given.")] = None,
) -> None:
    """Give somebody a login, or a new password; they choose their own at the next login."""
    result = client_of(context).ask(path("auth", "passwords"), {"actor_id": actor, "login": login})
    told = f"{actor} logs in as {result['login']} with this password, once; it is not shown again:\n{result['password']}"
    output_of(context).done(result, told)


@password.command("list")
def list_credentials(
    context: typer.Context,
    actor: Annotated[str | None, typer.Option("--of", metavar="ACTOR", help="Somebody else, as an auditor or administrator.")] = None,
    limit: Limit = 50,
) -> None:
    """Show by what you log in, or somebody else does."""
    page = client_of(context).rows(path("auth", "credentials"), limit, actor_id=actor)
    output_of(context).rows(page, CREDENTIALS_COLUMNS, "Nobody has credentials here.")


@totp.command()
def enrol(context: typer.Context) -> None:
    """Get a second factor; it counts once you have confirmed it."""
    result = client_of(context).ask(path("auth", "totp"), {})
    told = f"Give this to your authenticator, it is not shown again:\n{result['secret']}\n{result['provisioning_uri']}"
    output_of(context).done(result, f"{told}\nThen: aureus totp confirm CODE")


@totp.command()
def confirm(
    context: typer.Context, code: Annotated[str, typer.Argument(metavar="CODE", help="The six digits your authenticator shows.")]
) -> None:
    """Show a code of it: from now on each login takes one."""
    result = client_of(context).ask(path("auth", "totp", "confirm"), {"code": code})
    codes = "\n".join(result["recovery_codes"])
    output_of(context).done(result, f"Confirmed. These stand in for it, each once; they are not shown again:\n{codes}")


@totp.command()
def remove(
    context: typer.Context,
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="A code of it, or a recovery code.")] = None,
    actor: Annotated[str | None, typer.Option("--of", metavar="ACTOR", help="Somebody else's, as an administrator; takes no code.")] = None,
) -> None:
    """Give up your second factor, or reset that of somebody who lost theirs."""
    result = client_of(context).ask(path("auth", "totp", "remove"), {"code": code, "actor_id": actor})
    output_of(context).done(result, "Removed.")
