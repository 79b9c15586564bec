"""`aureus login`, `logout` and `whoami`: on whose behalf the commands are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import path, signing_key
from api.cli.options import client_of, output_of
from api.cli.profile import demo_login

app = typer.Typer()


@app.command()
def login(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[LOGIN]", help="Asked for when not given.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    demo: Annotated[str | None, typer.Option("--demo", metavar="ROLE|LOGIN", help="Log in as one of the demo, no password needed.")] = None,
    key: Annotated[
        Path | None, typer.Option("--signing-key", metavar="FILE", help="Your own key, which commands are signed with from then on.")
    ] = None,
) -> None:
    """Log in; commands act as you from then on, until the token runs out."""
    client, out = client_of(context), output_of(context)
    file = str(key.expanduser().absolute()) if key else None
    if file is not None:
        signing_key(file)
    if demo:
        found = demo_login(client.home, demo)
        token = client.log_in(found.login, found.password, demo=True)
    else:
        name = name or typer.prompt("Login", err=True)
        password = _password_from_stdin() if password_stdin else typer.prompt("Password", hide_input=True, err=True)
        token = client.log_in(name, password, demo=False)
    client.profile.act_as(token.login)
    if file is not None:
        client.profile.sign_with(file)
    result = {"login": token.login, "actor": token.actor, "roles": list(token.roles), "server": client.url}
    out.done(result, f"Logged in at {client.url} as {token.login} ({', '.join(token.roles)}).")


@app.command()
def logout(context: typer.Context) -> None:
    """Forget the tokens of this server."""
    client = client_of(context)
    client.profile.forget()
    client.out.done({"server": client.url}, f"Logged out at {client.url}.")


@app.command()
def whoami(context: typer.Context) -> None:
    """Show on whose behalf commands are."""
    me = client_of(context).one(path("auth", "me"))
    output_of(context).record(me, str(me.get("actor", "")))


def _password_from_stdin() -> str:
    import sys

    return sys.stdin.readline().rstrip("\r\n")
