"""`aureus verify`: every signature, every chain link and the tree, checked on this side of the wire; of the ledger, a pack, or tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.client import Client, path
from api.cli.entries import entries_after
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, output_of
from api.cli.output import Output

if TYPE_CHECKING:
    from infra.verifier.pack import Report
    from infra.verifier.result import Result
    from infra.verifier.sources import Held
    from infra.verifier.trust import Trust

app = typer.Typer()
PAGE_ENTRIES: Final = 1_000
ALONE_EVENTS: Final = 20_000
"""Up to so many, starting processes takes longer than it saves."""


@app.command()
def verify(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[PACK]", exists=True, help="A pack, or a folder of tiles; the server's whole ledger when not given."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", exists=True, dir_okay=False, help="Trust file: the root key and the witnesses you trust."),
    ] = None,
    root_key: Annotated[
        str | None,
        typer.Option("--root-key", metavar="KEY_ID", help="The root key's id, from whoever you trust; else the ledger's own word."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="One you kept: its events must be there. Can be repeated.",
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="The tree and the chains alone: no event's signature.")] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", min=1, max=256, help="How many at once; as many as there are processors.")
    ] = None,
) -> None:
    """Verify a pack, or the whole ledger: the server's word is taken for nothing but the bytes it hands out."""
    from infra.verifier.main import WrongCommand, read_kept, read_trust, verify_reporting

    client, out = client_of(context), output_of(context)
    try:
        trust, kept = read_trust(keys, root_key), read_kept(checkpoint or [])
        with out.progress() as report:
            if source is None:
                result = _whole_ledger(client, trust, kept, processes, report, full=not fast)
            else:
                result = verify_reporting(source, trust, kept, processes, report, full=not fast)
    except WrongCommand as error:
        raise Failure(ExitCode.USAGE, "invalid_parameter", f"{error}.") from error
    _tell(out, result)


def _whole_ledger(client: Client, trust: Trust, kept: list[bytes], processes: int | None, report: Report, *, full: bool) -> Result:
    from infra.verifier.ledger import Verifier
    from infra.verifier.main import available_cores
    from infra.verifier.notes import BadNote, parse_checkpoint, parse_note
    from infra.verifier.workers import Workers

    note = _checkpoint(client)
    try:
        size = parse_checkpoint(parse_note(note).text).size
    except BadNote:
        size = 0  # `finish` says what is wrong with it
    with Workers(processes or (available_cores() if size > ALONE_EVENTS else 1)) as workers:
        verifier = Verifier(trust, kept, workers, full=full)
        verifier.take(_pages(client, size, report))
        return verifier.finish(note)


def _checkpoint(client: Client) -> bytes:
    """The latest that enough witnesses cosigned; where there are none, the latest."""
    try:
        return client.get(path("log", "checkpoint")).content
    except Failure as failure:
        if failure.exit_code is ExitCode.UNREACHABLE:
            raise
        return client.get(path("ledger", "checkpoint")).content


def _pages(client: Client, size: int, report: Report) -> Iterator[Held]:
    from infra.verifier.ledger import FOUNDING_ENTRIES
    from infra.verifier.sources import Held

    done = 0
    while done < size:
        page = entries_after(client, done, min(PAGE_ENTRIES if done else FOUNDING_ENTRIES, size - done))
        if not page:
            break
        yield Held(done + 1, page)
        done += len(page)
        report("verifying", done, size)


def _tell(out: Output, result: Result) -> None:
    if out.as_json:
        out.json(result.as_json())
        if not result.ok:
            raise typer.Exit(ExitCode.NOT_VERIFIED)
        return
    if not result.ok:
        first = result.problems[0]
        message = f"{len(result.problems) + result.untold} checks failed; the first at {first}"
        kept = "Keep this database as it is" if result.what == "ledger" else "Keep the file as it is"
        remedy = f"{kept}, and compare it with a backup and with checkpoints that others hold."
        raise Failure(ExitCode.NOT_VERIFIED, "verification_failed", message, problems=[str(one) for one in result.problems], remedy=remedy)
    for sentence in result.sentences():
        (out.note if sentence.startswith("Note: ") else out.text)(sentence)
