"""`aureus verify`: every signature, every chain link and the tree, checked on this side of the wire."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.client import Client, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, output_of
from api.cli.output import Output

if TYPE_CHECKING:
    from infra.verify import Verification, Verifier

app = typer.Typer()
PAGE_ENTRIES: Final = 1_000


@app.command()
def verify(
    context: typer.Context,
    root_key: Annotated[
        str | None,
        typer.Option("--root-key", metavar="KEY_ID", help="The root key's id, from whoever you trust; else the ledger's own word."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="One you kept: its events must be there.",
        ),
    ] = None,
) -> None:
    """Verify the whole ledger: the server's word is taken for nothing but the bytes it hands out."""
    from infra.verify import Verifier

    client, out = client_of(context), output_of(context)
    with out.progress() as report:
        result = _verified(client, Verifier(root_key, checkpoint.read_bytes() if checkpoint else None), report)
    if out.as_json:
        out.json({"ok": result.ok, **asdict(result)})
        if not result.ok:
            raise typer.Exit(ExitCode.NOT_VERIFIED)
        return
    if not result.ok:
        first = result.problems[0]
        message = f"{len(result.problems)} checks failed; the first at position {first.position}: {first.check}: {first.found}"
        remedy = "Keep this database as it is, and compare it with a backup and with checkpoints that others hold."
        facts = [f"{problem.position} {problem.check}: {problem.found}" for problem in result.problems]
        raise Failure(ExitCode.NOT_VERIFIED, "verification_failed", message, problems=facts, remedy=remedy)
    _tell(out, result)


def _verified(client: Client, verifier: Verifier, report: Callable[[str, int, int | None], None]) -> Verification:
    note = str(client.get(path("ledger", "checkpoint")).body)
    size = int(note.split("\n")[1])
    while (done := verifier.result.events) < size:
        page = client.one(path("ledger", "entries"), after=done, limit=min(PAGE_ENTRIES, size - done))
        if not page["entries"]:
            break
        verifier.add(base64.b64decode(entry) for entry in page["entries"])
        report("verifying", verifier.result.events, size)
    return verifier.finish(note.encode())


def _tell(out: Output, result: Verification) -> None:
    out.text(
        f"Verified {result.events} events of {result.ledger}: {result.signatures} signatures, "
        f"{result.streams} streams without a gap, every chain link, and the tree against the checkpoint of size {result.checkpoint_size}."
    )
    out.text(f"  root hash  {result.root}\n  root key   {result.root_key}")
    for warning in result.warnings:
        out.note(f"Note: {warning}")
