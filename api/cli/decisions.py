"""`aureus decisions`: past decisions asked again, under the policies of their time or under others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, output_of
from api.cli.policies import candidate_ref, files_in, tell_differences

app = typer.Typer()
decisions = typer.Typer(help="Past decisions, asked again.", no_args_is_help=True)
app.add_typer(decisions, name="decisions")


@decisions.callback()
def _decisions() -> None:
    """Past decisions, asked again."""


@decisions.command()
def replay(
    context: typer.Context,
    start: Annotated[
        str | None, typer.Option("--from", metavar="POSITION|TIME", help="The first; the latest 100,000 if not given.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="POSITION|TIME", help="The last; the end of the ledger if not given.")] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="POLICY[@VERSION]|DIR", help="Under this policy, or these, in place of their own versions."),
    ] = None,
) -> None:
    """Ask past decisions again. Under the policies of their time any difference is an alarm; under others it shows what flips."""
    client, out = client_of(context), output_of(context)
    if policy is None:
        result = client.one(path("decisions", "replay"), **{"from": start, "to": end})
    else:
        result = client.ask(path("decisions", "replay"), {**_candidate(client, policy), "from": start, "to": end})
    if out.as_json:
        out.json(result)
    else:
        tell_differences(out, result)
    if policy is None and result["different"]:
        if out.as_json:
            raise typer.Exit(ExitCode.NOT_VERIFIED)
        first = result["differences"][0]["action_id"]
        message = f"{result['different']} decisions do not come out as they were recorded, the first as action {first}."
        remedy = "Verify the ledger (`aureus verify`), and look at these actions."
        raise Failure(ExitCode.NOT_VERIFIED, "decisions_differ", message, remedy=remedy)


def _candidate(client: Client, policy: str) -> Json:
    if Path(policy).is_dir():
        return {"files": files_in(Path(policy))}
    return {"change": {"activate": [candidate_ref(client, policy)]}}
