"""`aureus`: the command line's root, its global options, and the groups of commands under it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from api.cli.client import Client, Said
from api.cli.failures import MEANINGS, Failure
from api.cli.output import Output
from domain.contexts import CONTEXTS

PLATFORM: Final = (
    "audit",
    "timeline",
    "diff",
    "could",
    "why",
    "decisions",
    "doctor",
    "feeds",
    "imports",
    "limits",
    "ledger",
    "verify",
    "trust",
    "rollback",
    "projections",
    "streams",
    "logins",
    "service",
    "witness",
)
"""Command modules that belong to no context."""

_EPILOG: Final = (
    "The options of `aureus` itself, such as --json and --as-of, may stand anywhere on the line.\n\n\b\nExit codes:\n"
    + "\n".join(f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items())
)


class Root(TyperGroup):
    """The root command: takes its options from anywhere on the line, and turns a Failure into words and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = {name: bool(getattr(parameter, "is_flag", False)) for parameter in self.params for name in parameter.opts}
        rest: list[str] = super().parse_args(ctx, _own_options_first(args, flags))
        return rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            client: Client = ctx.obj
            client.out.failure(failure)
            raise typer.Exit(failure.exit_code) from failure


def _own_options_first(args: Sequence[str], flags: dict[str, bool]) -> list[str]:
    """The root's options moved to the front, with their values; all that follows a bare `--` stays as it is."""
    own: list[str] = []
    others: list[str] = []
    remaining = iter(args)
    for argument in remaining:
        name, equals, _ = argument.partition("=")
        if argument == "--":
            others += [argument, *remaining]
        elif name not in flags:
            others.append(argument)
        else:
            own.append(argument)
            if not flags[name] and not equals:
                own += [value for value in [next(remaining, None)] if value is not None]
    return own + others


app = typer.Typer(
    cls=Root,
    help="Aureus: governed actions on data, as signed events that prove themselves.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)


@app.callback()
def aureus(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON instead of tables and sentences.")] = False,
    acting_as: Annotated[
        str | None, typer.Option("--as", metavar="LOGIN|ROLE", help="Act as this login of the demo, by name or by role.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="The server; AUREUS_URL, or this machine's, when not given.")
    ] = None,
    as_of: Annotated[str | None, typer.Option("--as-of", metavar="TIME|POSITION", help="Read things as they stood then.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why it is done; it goes on record.")] = None,
    approval: Annotated[str | None, typer.Option("--approval", metavar="ID", help="The approval that allows it.")] = None,
    when_approved: Annotated[
        str | None,
        typer.Option(
            "--when-approved", metavar="carry-out", help="If it has to wait for an approval: have it carried out when that is granted."
        ),
    ] = None,
    if_match: Annotated[
        str | None, typer.Option("--if-match", metavar="VERSION", help="Only if nobody changed it since this version.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="A command repeated with the same key counts once; fresh when not given."),
    ] = None,
    evidence: Annotated[
        list[str] | None, typer.Option("--evidence", metavar="SHA256", help="An attached artifact this rests on; can be repeated.")
    ] = None,
) -> None:
    said = Said(as_json, acting_as, url, as_of, reason, approval, if_match, idempotency_key, tuple(evidence or ()), when_approved)
    client = Client(said, os.environ, Output(as_json=as_json))
    context.obj = client
    context.call_on_close(client.close)


for _name in (*CONTEXTS, *PLATFORM):
    app.add_typer(import_module(f"api.cli.{_name}").app)


def main() -> None:
    app(prog_name="aureus")
