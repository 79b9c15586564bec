"""`aureus witness`: running a witness for somebody's log, and what this server's own witnesses have cosigned."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.client import Json, path
from api.cli.options import client_of, output_of
from api.cli.output import Column, when
from api.cli.service import setup_checked

if TYPE_CHECKING:
    from infra.verifier.notes import CheckpointText

app = typer.Typer()
witness = typer.Typer(help="Witnesses: they cosign a log's checkpoints, if it only grew.", no_args_is_help=True)
app.add_typer(witness, name="witness")

Home = Annotated[Path, typer.Option("--home", metavar="DIR", file_okay=False, help="The witness's folder: its key and what it knows.")]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Such as witness.example.org/w1; chosen once, with the key.")]
COLUMNS = (
    Column("witness", "name"),
    Column("standing", "standing"),
    Column("cosigned", "size", right=True),
    when("at", "at"),
    Column("lag", lambda row: f"{row['lag_events']} events", right=True),
    Column("stands", "stands"),
    Column("last error", lambda row: row["last_error"] or ""),
)
LOG_COLUMNS = (Column("log", "origin"), Column("size", "size", right=True), Column("root hash", "root"), when("cosigned", "at"))


@witness.command()
def run(
    context: typer.Context,
    home: Home,
    log: Annotated[list[str], typer.Option("--log", metavar="VKEY", help="A key to trust for the log it is named after; repeatable.")],
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 is any free one.")] = (
        "127.0.0.1:8430"
    ),
    name: Name = None,
) -> None:
    """Run a witness until stopped: it cosigns what these logs send, and never takes anything back.

    Prints its verifier key and its URL on one line, as AUREUS_WITNESSES takes them. A log that changes its key is told
    with another --log, beside the one it had before.
    """
    from infra.witness_server import run_witness

    out = output_of(context)

    def announce(key: str, url: str) -> None:
        out.json({"key": key, "url": url}) if out.as_json else out.text(f"{key} {url}")

    with setup_checked():
        run_witness(home, _address(listen), log, name, announce=announce)


@witness.command()
def key(context: typer.Context, home: Home, name: Name = None) -> None:
    """Print a witness's verifier key; it is made when there is none yet."""
    from infra.witness import WitnessHome, verifier_of

    out = output_of(context)
    with setup_checked():
        text = verifier_of(WitnessHome(home).key(name)).text()
    out.json({"key": text}) if out.as_json else out.text(text)


@witness.command()
def state(context: typer.Context, home: Home) -> None:
    """Show what a witness cosigned last of each log, and what contradicted it."""
    from infra.witness import WitnessHome, opened, verifier_of

    out = output_of(context)
    with setup_checked():
        kept = WitnessHome(home)
        verifier = verifier_of(kept.key(make=False))
        logs = [_shape(*opened(note, verifier), note) for note in kept.all_latest()]
    evidence = [str(file) for file in kept.evidence()]
    if out.as_json:
        return out.json({"logs": logs, "evidence": evidence})
    out.table(logs, LOG_COLUMNS) if logs else out.text("It has cosigned nothing yet.")
    for file in evidence:
        out.note(f"Contradicts what it cosigned: {file}")
    return None


@witness.command()
def status(context: typer.Context) -> None:
    """Show how far the server's witnesses have come, and whether enough of them have."""
    out = output_of(context)
    found = client_of(context).one(path("witnesses"))
    if out.as_json:
        return out.json(found)
    if found["witnesses"]:
        out.table(found["witnesses"], COLUMNS)
    out.text(found["summary"])
    for stamp in found["timestamps"]:
        out.text(f"Timestamped by {stamp['authority']}: the checkpoint of {stamp['size']} events, at {stamp['at']}.")
    return None


def _shape(checkpoint: CheckpointText, at: int, note: bytes) -> Json:
    return {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": base64.b64encode(checkpoint.root).decode(),
        "at": datetime.fromtimestamp(at, UTC).isoformat(),
        "note": note.decode(),
    }


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise typer.BadParameter(f"{text!r} is not HOST:PORT.", param_hint="--listen")
    return host.removeprefix("[").removesuffix("]"), int(port)
