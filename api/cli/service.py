"""`aureus serve`, `worker`, `let-in` and `version`: running Aureus itself."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.failures import ExitCode, Failure
from api.cli.options import output_of
from api.cli.output import Output
from api.cli.profile import demo_logins

if TYPE_CHECKING:
    from infra.settings import Settings

app = typer.Typer()


@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65_535, help="AUREUS_PORT, or 8420, when not given.")] = None,
    no_projections: Annotated[bool, typer.Option("--no-projections", help="Leave the read models to `aureus worker`.")] = False,
    streams: Annotated[
        str | None, typer.Option("--streams", metavar="inprocess|kafka", help="How events travel; AUREUS_STREAMS, or inprocess, else.")
    ] = None,
) -> None:
    """Serve the API, and keep the read models up to date, until stopped."""
    with _loading():
        from api import server

    out = output_of(context)
    with setup_checked():
        settings = _settings(port, streams)
        server.serve(settings, run_projections=not no_projections, announce=lambda _services: _announce(settings, out))


@app.command("let-in")
def let_in(
    context: typer.Context,
    login: Annotated[str, typer.Argument(metavar="LOGIN", help="What the administrator logs in as.")],
) -> None:
    """On the server itself: make the first administrator, or let one in again who has lost password or second factor."""
    import asyncio

    with _loading():
        from api.services import open_services
        from infra import first_login

    async def made() -> first_login.FirstLogin:
        async with open_services(_settings(None, None)) as services:
            return await first_login.let_in(services, login)

    with setup_checked():
        found = asyncio.run(made())
    told = f"{found.actor} logs in as {found.login} with this password, once, to choose another; it is not shown again:\n{found.password}"
    output_of(context).done({"actor": found.actor, "login": found.login, "password": found.password}, told)


@app.command()
def worker(
    projection: Annotated[
        list[str] | None, typer.Option("--projection", metavar="NAME", help="Only this one; can be repeated. Needs AUREUS_STREAMS=kafka.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, as without --projection.")] = False,
    processes: Annotated[
        int, typer.Option("-n", min=1, max=64, metavar="N", help="So many processes that share the work. Needs AUREUS_STREAMS=kafka.")
    ] = 1,
) -> None:
    """Keep the read models up to date beside a server that does not, until stopped."""
    if everything and projection:
        raise Failure(ExitCode.USAGE, "usage", "--all and --projection exclude each other.", remedy="Leave one of them out.")
    with _loading():
        from api import server

    with setup_checked(), _known_events():
        code = server.work(_settings(None, None), projection or (), processes)
    if code:
        raise typer.Exit(code)


@app.command()
def version(context: typer.Context) -> None:
    """Print the version of this program."""
    from infra.version import aureus_version

    out, number = output_of(context), aureus_version()
    out.json({"version": number}) if out.as_json else out.text(f"aureus {number}")


@contextmanager
def _loading() -> Iterator[None]:
    """A server loads a thousand modules: looking for garbage among them takes a sixth of that time, and finds none."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _settings(port: int | None, streams: str | None) -> Settings:
    from dataclasses import replace

    from infra.settings import Settings

    settings = Settings.from_environment({**os.environ, "AUREUS_STREAMS": streams} if streams else os.environ)
    return replace(settings, port=port) if port else settings


@contextmanager
def setup_checked() -> Iterator[None]:
    """A setup that Aureus cannot start with is the person's to mend, not a crash."""
    from infra.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        raise Failure(ExitCode.USAGE, "settings_invalid", f"{error.field}: {error.rule}", field=error.field, remedy=error.remedy) from error


@contextmanager
def _known_events() -> Iterator[None]:
    """An event that this program is too old for ends it; to start it again would change nothing."""
    from domain.kernel import UnknownEvent

    try:
        yield
    except UnknownEvent as error:
        remedy = "Upgrade this worker to the version of those that write."
        raise Failure(ExitCode.OUTDATED, "unknown_event", f"The read models stop before an event: {error}", remedy=remedy) from error


def _announce(settings: Settings, out: Output) -> None:
    url = f"http://{settings.host}:{settings.port}"
    logins = [{"login": login.login, "roles": list(login.roles)} for login in demo_logins(settings.home).values()]
    if out.as_json:
        return out.json({"url": url, "home": str(settings.home), "demo_logins": logins})
    out.text(f"Aureus is at {url}, its API described at {url}/docs, its data in {settings.home}.")
    if logins:
        out.text(f"Demo logins, with their passwords in {settings.demo_logins_file}:")
        for login in logins:
            out.text(f"  {login['login']:<10} {', '.join(login['roles'])}")
        out.text(f"Become one with `aureus login --demo {logins[0]['login']}`, or for one command with --as.")
    elif settings.tokens.passwords:
        out.text("Without the demo's logins: `aureus let-in LOGIN`, here on the server, makes the first administrator.")
    return None
