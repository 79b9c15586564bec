"""`aureus login`, `logout` and `whoami`: on whose behalf the commands are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from api.cli.client import Client, path
from api.cli.device_login import log_in_by_device
from api.cli.failures import Failure
from api.cli.options import client_of, line_from_stdin, output_of, signing_key
from api.cli.profile import Token, demo_login

app = typer.Typer()


@app.command()
def login(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[LOGIN]", help="Asked for when not given.")] = None,
    code: Annotated[str | None, typer.Option("--code", help="Of your second factor; asked for when it is needed.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, and what else is wanted from its next lines.")
    ] = False,
    device: Annotated[bool, typer.Option("--device", help="Log in at your identity provider, in a browser anywhere.")] = False,
    demo: Annotated[str | None, typer.Option("--demo", metavar="ROLE|LOGIN", help="Log in as one of the demo, no password needed.")] = None,
    key: Annotated[
        Path | None, typer.Option("--signing-key", metavar="FILE", help="Your own key, which commands are signed with from then on.")
    ] = None,
) -> None:
    """Log in; commands act as you from then on, until you log out or have not asked for anything in a week."""
    client, out = client_of(context), output_of(context)
    file = str(key.expanduser().absolute()) if key else None
    if file is not None:
        signing_key(file)
    if demo:
        found = demo_login(client.home, demo)
        token = client.log_in(found.login, found.password, demo=True)
    elif device:
        token = log_in_by_device(client)
    else:
        name = name or typer.prompt("Login", err=True)
        password = line_from_stdin() if password_stdin else typer.prompt("Password", hide_input=True, err=True)
        token = _logged_in(client, name, password, {"code": code} if code else {}, from_stdin=password_stdin)
    client.profile.act_as(token.login)
    if file is not None:
        client.profile.sign_with(file)
    result = {"login": token.login, "actor": token.actor, "roles": list(token.roles), "server": client.url}
    out.done(result, f"Logged in at {client.url} as {token.login} ({', '.join(token.roles)}).")


@app.command()
def logout(context: typer.Context) -> None:
    """End your sessions at this server, and forget their tokens."""
    client = client_of(context)
    client.log_out()
    client.out.done({"server": client.url}, f"Logged out at {client.url}.")


@app.command()
def whoami(context: typer.Context) -> None:
    """Show on whose behalf commands are."""
    me = client_of(context).one(path("auth", "me"))
    output_of(context).record(me, str(me.get("actor", "")))


_ASKED_FOR: Final = {"second_factor_needed": ("code", "Code", False), "password_must_change": ("new_password", "New password", True)}
"""What the server may want besides: its field, and how a person is asked for it."""


def _logged_in(client: Client, name: str, password: str, more: dict[str, str], *, from_stdin: bool) -> Token:
    """Asks for what the server wants besides; where nobody is there to be asked, the next line of standard input says it."""
    while True:
        try:
            return client.log_in(name, password, demo=False, **more)
        except Failure as failure:
            field, prompt, twice = _ASKED_FOR.get(failure.code, ("", "", False))
            if not field or field in more:
                raise
            said = line_from_stdin() if from_stdin else typer.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
            if not said:
                raise
            more = {**more, field: said}
