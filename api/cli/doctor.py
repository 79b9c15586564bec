"""`aureus doctor`: whether this machine's Aureus is deployed as it should be."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer

from api.cli.failures import ExitCode
from api.cli.options import client_of, output_of
from api.cli.output import Column, Output
from api.cli.service import setup_checked

app = typer.Typer()
_COLUMNS = (Column("", "verdict"), Column("check", "check"), Column("found", "found"))


@app.command()
def doctor(
    context: typer.Context,
    remote: Annotated[bool, typer.Option("--remote", help="Ask the server (--url) to examine itself; takes an administrator.")] = False,
) -> None:
    """Check a deployment, on the machine that runs it: each check is ok, warn or fail, with what to do; exit code 4 if one failed."""
    out = output_of(context)
    if remote:
        told: dict[str, Any] = client_of(context).get("/v1/system/doctor").body
    else:
        with setup_checked():
            told = _examined()
    if out.as_json:
        out.json(told)
    else:
        _tell(out, told)
    if told["verdict"] == "fail":
        raise typer.Exit(ExitCode.REFUSED)


def _examined() -> dict[str, Any]:
    from infra.doctor.examining import examine
    from infra.doctor.findings import worst
    from infra.embedded import EmbeddedPostgres
    from infra.settings import Settings

    settings = Settings.from_environment()
    dsn = settings.database_url or EmbeddedPostgres(settings.postgres_dir).url()
    findings = asyncio.run(examine(settings, dsn))
    return {"verdict": worst(findings), "items": [asdict(finding) for finding in findings]}


def _tell(out: Output, told: dict[str, Any]) -> None:
    out.table(told["items"], _COLUMNS)
    for item in told["items"]:
        if item["remedy"]:
            out.text(f"{item['check']}: {item['remedy']}")
