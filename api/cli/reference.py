"""The reference of the command line, `docs/cli.md`, from the help texts themselves: `python -m api.cli.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

import typer
from typer.main import get_command

from api.cli.main import app

WIDTH: Final = 100
_OPENING: Final = """# `aureus`, command by command

Written by `python -m api.cli.reference > docs/cli.md` from the program's own help; a test compares the two.
"""


def render_reference() -> str:
    """Every command's help, in the order of `aureus --help`."""
    root = get_command(app)
    sections = (f"\n## `{name}`\n\n```text\n{text}\n```\n" for name, text in _help(root, "aureus", None))
    return _OPENING + "".join(sections)


def _help(command: Any, name: str, parent: typer.Context | None) -> Iterator[tuple[str, str]]:
    # The help must not depend on the terminal it is made on.
    context = typer.Context(command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    yield name, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    for below in getattr(command, "commands", {}).values():
        yield from _help(below, f"{name} {below.name}", context)


if __name__ == "__main__":
    sys.stdout.write(render_reference())
