"""`aureus trust`: what somebody needs who verifies by himself - the trust file, and the program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import Client, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, output_of

app = typer.Typer()
trust = typer.Typer(help="What those need who verify by themselves: a trust file, and the program.", no_args_is_help=True)
app.add_typer(trust, name="trust")

OutputFile = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Where it is written; `-` to the terminal.")
]


@trust.command()
def export(context: typer.Context, output: OutputFile = Path("trust.json")) -> None:
    """Write the trust file: the ledger's name, its root key's id, and the witnesses it names."""
    client, out = client_of(context), output_of(context)
    document = _document(client)
    _write(output, json.dumps(document, indent=2) + "\n")
    root_key = document["root_keys"][0]
    out.note(f"Root key of {document['ledger']}:\n\n    {root_key}\n")
    out.note(
        "The server says so, and whoever could deceive you would say something too. Compare this id with what you were given on "
        "another way - on paper, by telephone - before you believe anything that is verified with this file."
    )
    if not document["witnesses"]:
        out.note("It names no witness: nothing verified with it shows that the ledger's end was not cut off.")


@trust.command()
def verifier(output: OutputFile = Path("aureus_verify.py")) -> None:
    """Write the program that verifies packs: one file, for any machine with Python 3.11 and pynacl."""
    from infra.bundle_verifier import bundled

    _write(output, bundled())


def _document(client: Client) -> dict[str, Any]:
    from infra.verifier.notes import VerifierKey
    from infra.verifier.trust import Trust

    keys, watched = client.one(path("ledger", "keys")), client.one(path("witnesses"))
    witnesses = tuple(VerifierKey.parse(witness["key"]) for witness in watched["witnesses"])
    return Trust(keys["ledger"], (keys["root_key_id"],), witnesses, watched["required"]).document()


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(ExitCode.USAGE, "invalid_parameter", f"{file} cannot be written: {error.strerror}.") from error
