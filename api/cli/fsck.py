"""`aureus log fsck`: the operator's own check of the database, from the signed bytes up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.failures import ExitCode, Failure
from api.cli.options import output_of
from api.cli.service import setup_checked

if TYPE_CHECKING:
    from infra.fsck import Problem

app = typer.Typer()


@app.command()
def fsck(
    context: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Build wrong tiles again; nothing that is signed is ever touched.")] = False,
) -> None:
    """Check the database itself, on the machine that holds it, from the signed bytes up to the last tile and trigger."""
    from infra.fsck import fsck as check

    out = output_of(context)
    with setup_checked(), database() as dsn, out.progress() as report:
        checked = check(dsn, repair=repair, report=report)
    if out.as_json:
        out.json({"ok": checked.ok, **asdict(checked)})
        if not checked.ok:
            raise typer.Exit(ExitCode.NOT_VERIFIED)
        return
    if not checked.ok:
        shown = [f"  {_place(problem)}: {problem.check}: {problem.found}" for problem in checked.problems]
        if checked.problem_count > len(shown):
            shown.append(f"  and {checked.problem_count - len(shown)} more")
        message = "\n".join([f"{checked.problem_count} checks of the ledger {checked.ledger} failed:", *shown])
        remedy = "Keep this database as it is, and compare it with a backup and with checkpoints that others hold."
        if all(problem.check in ("tile", "topics") and problem.position is None for problem in checked.problems):
            remedy = "Tiles and the kept index of topics are derived: `aureus log fsck --repair` makes them again."
        raise Failure(ExitCode.NOT_VERIFIED, "fsck_failed", message, remedy=remedy)
    out.text(
        f"Checked {checked.events} events of {checked.ledger}: {checked.signatures} signatures, {checked.checkpoints} checkpoints, "
        f"{checked.cosignatures} cosignatures, {checked.tiles} tiles, and every row, leaf and trigger."
    )
    for problem in checked.repaired:
        out.text(f"  built again: {problem.found}")
    out.text(f"  root key   {checked.root_key}")


def _place(problem: Problem) -> str:
    return "as a whole" if problem.position is None else f"position {problem.position}"


@contextmanager
def database() -> Iterator[str]:
    """The database of this machine's Aureus: the one that runs, or else its embedded PostgreSQL for as long as the check takes."""
    from infra.embedded import EmbeddedPostgres, embedded_postgres
    from infra.settings import Settings, SettingsError

    settings = Settings.from_environment()
    if settings.database_url is None and not settings.postgres_dir.exists():
        raise SettingsError("AUREUS_HOME", f"no ledger lies in {settings.home}.", "Name the home of the one to check, or set DATABASE_URL.")
    running = settings.database_url or EmbeddedPostgres(settings.postgres_dir).url()
    if running is not None:
        yield running
        return
    with embedded_postgres(settings.postgres_dir) as dsn:
        yield dsn
