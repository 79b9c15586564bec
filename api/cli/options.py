"""Arguments and options that several commands share, and how what people type becomes what the API takes."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from api.cli.client import Client
    from api.cli.output import Output
    from infra.key_files import FileSigner

_AMOUNT: Final = re.compile(r"^\d{1,13}(\.\d{1,2})?$")


def minor_units(text: str) -> int:
    """Major units as typed, in minor units: `25.50` -> 2550. Exact; refuses what it would have to round."""
    if not _AMOUNT.match(text):
        raise typer.BadParameter(
            f"{text!r} is not an amount: write it such as 1000 or 1000.50, with at most two decimals and no separators."
        )
    return int(Decimal(text).scaleb(2))


AmountArgument = Annotated[int, typer.Argument(metavar="AMOUNT", parser=minor_units, help="In major units, such as 25.00.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many to list at most.")]
Search = Annotated[str | None, typer.Option("--search", "-q", metavar="TEXT", help="Only those whose text contains this.")]
Sort = Annotated[str | None, typer.Option("--sort", metavar="FIELD", help="Order by this field; -FIELD for the highest first.")]
Comment = Annotated[str | None, typer.Option("--comment", "-m", help="What to tell the others.")]


def client_of(context: typer.Context) -> Client:
    client: Client = context.obj
    return client


def output_of(context: typer.Context) -> Output:
    return client_of(context).out


def pairs(values: list[str], option: str, separator: str = "=") -> list[tuple[str, str]]:
    """`name=value` as it was given several times."""
    split = [value.partition(separator) for value in values]
    for (name, found, _), value in zip(split, values, strict=True):
        if not (name and found):
            raise typer.BadParameter(f"{value!r} is not of the form NAME{separator}VALUE.", param_hint=option)
    return [(name, value) for name, _, value in split]


def signing_key(file: str) -> FileSigner:
    """An actor's own key; Failure when the file is not one, or is open to others."""
    from api.cli.failures import ExitCode, Failure
    from infra.key_files import KeystoreError, read_key

    try:
        return read_key(Path(file).expanduser(), "actor")
    except KeystoreError as error:
        raise Failure(ExitCode.USAGE, "signing_key", error.rule, field=file, remedy=error.remedy) from error


def line_from_stdin() -> str:
    """One line of standard input: what would be asked for, where nobody types."""
    import sys

    return sys.stdin.readline().rstrip("\r\n")


def content_of(file: Path) -> bytes:
    """A file's bytes; `-` is standard input."""
    import sys

    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}.") from error


def json_of(file: Path) -> Any:
    """The JSON value in a file."""
    import json

    try:
        return json.loads(content_of(file))
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}") from error
