"""`aureus log proof`, `consistency` and `tiles`: what the server proves, checked on this side of the wire before it is shown."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.client import Client, Json, path
from api.cli.entries import entries_after
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, content_of, output_of

if TYPE_CHECKING:
    from infra.verifier.notes import CheckpointText

app = typer.Typer()


@app.command()
def proof(
    context: typer.Context,
    position: Annotated[int, typer.Argument(metavar="POSITION", min=1, help="The event's position in the ledger.")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Upon a checkpoint of at least so many events.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Write it here.")] = None,
) -> None:
    """Prove that an event is in the ledger: a C2SP tlog-proof, upon a checkpoint that was signed (and cosigned, if any was)."""
    from infra.verifier.tlog_proof import TlogProof
    from infra.verifier.tree import ProofError, leaf_hash

    client, out = client_of(context), output_of(context)
    text = client.call("GET", path("proofs", "inclusion"), {"position": position, "size": size}, headers={"Accept": "text/plain"}).content
    (entry,) = entries_after(client, position - 1, 1)
    with _proven():
        found = TlogProof.parse(text)
        if found.index != position - 1:
            raise ProofError(f"it is about leaf {found.index}, not {position - 1}")
        checkpoint = found.check(leaf_hash(entry))
        _require_signed(client, found.note)
    if output is not None:
        output.write_bytes(text)
        told = f"Position {position} is in the ledger of {checkpoint.size} events: {len(found.hashes)} hashes, in {output}."
        return out.done({"position": position, "size": checkpoint.size, "file": str(output)}, told)
    if out.as_json:
        return out.json({"position": position, "size": checkpoint.size, "proof": text.decode()})
    return out.text(text.decode().rstrip("\n"))


@app.command()
def consistency(
    context: typer.Context,
    old: Annotated[str, typer.Argument(metavar="FROM", help="The earlier size, or a file with a checkpoint that you kept.")],
    new: Annotated[
        int | None, typer.Argument(metavar="[TO]", min=1, help="The later size; that of the whole ledger when not given.")
    ] = None,
) -> None:
    """Prove that the ledger only grew: that all it held at one size is at the beginning of what it held at another."""
    from infra.verifier.tree import ProofError, check_consistency

    client, out = client_of(context), output_of(context)
    old_size, kept_root = _earlier(client, old)
    answer = client.one(path("proofs", "consistency"), **{"from": old_size, "to": new})
    sizes, roots = (old_size, answer["to"]), (answer["old_root"], answer["new_root"])
    signed = {size: _signed_root(client, size) for size in sizes}
    with _proven():
        decoded = [base64.b64decode(text) for text in (*answer["hashes"], *roots)]
        check_consistency(*sizes, decoded[:-2], decoded[-2], decoded[-1])
        for size, root in zip(sizes, roots, strict=True):
            if signed[size] not in (None, root):
                raise ProofError(f"the root at size {size} is not the one that the log signed")
        if kept_root not in (None, roots[0]):
            raise ProofError(f"its first {old_size} events are not those that your checkpoint signs")
    if out.as_json:
        return out.json({**answer, "signed": [size for size in sizes if signed[size]]})
    out.text(f"The ledger of {sizes[1]} events begins with all {old_size} of the earlier one: {len(answer['hashes'])} hashes prove it.")
    for size, root in zip(sizes, roots, strict=True):
        out.text(f"  root at {size:<12} {root}{'  signed by the log' if signed[size] else ''}")
    return None


def _earlier(client: Client, said: str) -> tuple[int, str | None]:
    """The size that was said, or size and root of the checkpoint in that file."""
    if said.isascii() and said.isdigit():
        return int(said), None
    with _proven("Look into the file: it is to be a checkpoint of this ledger, as `aureus log checkpoint` prints it."):
        checkpoint = _require_signed(client, content_of(Path(said)))
    return checkpoint.size, base64.b64encode(checkpoint.root).decode()


@app.command()
def tiles(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Where to; what is there already is not fetched again.")],
) -> None:
    """Mirror the ledger as a folder of C2SP tiles, each checked as it comes; `aureus verify DIR` checks all of it, signatures included."""
    from api.cli.mirror import Mirror

    client, out = client_of(context), output_of(context)
    note = client.get(path("log", "checkpoint")).content
    with _proven(f"If a file in {folder} is at fault, remove it and run this again."), out.progress() as report:
        checkpoint = _require_signed(client, note)
        fetched = Mirror(folder, lambda place: client.get(path("log", *place.split("/"))).content).follow(checkpoint, note, report)
    told = f"{folder} holds the ledger up to position {checkpoint.size}: {fetched} files were new."
    out.done({"size": checkpoint.size, "fetched": fetched, "folder": str(folder)}, told)


def _require_signed(client: Client, note: bytes) -> CheckpointText:
    """The checkpoint in a note, if the ledger's log key signed it; whose key that is, the server says."""
    from infra.verifier.notes import BadNote, VerifierKey, log_signed, parse_checkpoint, parse_note

    keys: Json = client.one(path("ledger", "keys"))
    parsed, key = parse_note(note), VerifierKey.parse(keys["log_verifier_key"])
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != key.name or not log_signed(parsed, key):
        raise BadNote(f"the checkpoint of {checkpoint.origin} is not signed by {key.text()}")
    return checkpoint


def _signed_root(client: Client, size: int) -> str | None:
    """The root in the checkpoint of exactly this size, if there is one."""
    try:
        note = client.get(path("ledger", "checkpoint"), size=size).content
    except Failure as failure:
        if failure.code == "checkpoint_not_found":
            return None
        raise
    with _proven():
        return base64.b64encode(_require_signed(client, note).root).decode()


@contextmanager
def _proven(remedy: str = "Keep the answer, and ask again: a server that proves nothing twice has something to explain.") -> Iterator[None]:
    from infra.verifier.notes import BadNote
    from infra.verifier.tree import ProofError

    try:
        yield
    except (ProofError, BadNote) as error:
        raise Failure(ExitCode.NOT_VERIFIED, "not_proven", f"This is not proven: {error}.", remedy=remedy) from error
