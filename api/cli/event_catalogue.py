"""`aureus events catalogue`: what can happen here, as the code itself says it."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.failures import ExitCode, Failure
from api.cli.options import output_of

app = typer.Typer()


@app.command()
def catalogue(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Only say whether docs/events.md is what the code says.")] = False,
) -> None:
    """Print the reference of all events, as docs/events.md holds it; with --json their JSON schemas."""
    from api import reference

    out = output_of(context)
    text = reference.render_events()
    if not check:
        return out.json({"items": reference.catalogue()}) if out.as_json else out.text(text.rstrip("\n"))
    written = reference.DOCS / "events.md"
    if not written.exists() or written.read_text(encoding="utf-8") != text:
        message = "docs/events.md is not what the code says."
        raise Failure(ExitCode.NOT_VERIFIED, "catalogue_stale", message, remedy="Write it again: make docs")
    return out.json({"ok": True}) if out.as_json else out.text(f"docs/events.md is what the code says: {len(reference.shipped())} events.")
