"""`aureus import`: datasets, schemas, lineage and contracts from the files other tools write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Client, Json, path
from api.cli.failures import ExitCode, Failure
from api.cli.options import client_of, content_of, output_of
from api.cli.output import Column

app = typer.Typer()
imports = typer.Typer(help="Datasets, schemas, lineage and contracts from the files other tools write.", no_args_is_help=True)
app.add_typer(imports, name="import")

UNDONE = ("requires_approval", "blocked", "failed")
SUMMARY_COLUMNS = (
    Column("source", "source"),
    Column("commands", "total", right=True),
    *(Column(outcome.replace("_", " "), outcome, right=True) for outcome in ("allowed", "unchanged", *UNDONE)),
)
UNDONE_COLUMNS = (
    Column("dataset", "dataset_id"),
    Column("command", "command"),
    Column("outcome", "outcome"),
    Column("why", lambda item: item["error"]["message"] if "error" in item else f"approval {item.get('approval_id')}"),
)


@imports.command()
def dbt(
    context: typer.Context,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="dbt's target/manifest.json.")],
    catalog: Annotated[
        Path | None, typer.Option("--catalog", metavar="CATALOG", help="dbt's target/catalog.json, for column types.")
    ] = None,
) -> None:
    """Import the models, seeds, snapshots and sources of a dbt project."""
    # The files' own bytes: reading them here would hide what the server is to refuse, such as duplicate keys.
    members = {"document": content_of(manifest), **({"catalog": content_of(catalog)} if catalog else {})}
    body = b"{" + b",".join(b'"%s":%s' % (name.encode(), content) for name, content in members.items()) + b"}"
    _import(context, "dbt", "application/json", {manifest.name: body})


@imports.command()
def odcs(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Open Data Contract Standard files, YAML or JSON.")],
) -> None:
    """Import data contracts."""

    _import(context, "odcs", "application/yaml", {file.name: content_of(file) for file in files})


def _import(context: typer.Context, kind: str, content_type: str, documents: dict[str, bytes]) -> None:
    """Imports one document after the other; one that is refused does not keep the others out."""
    client, out = client_of(context), output_of(context)
    results, undone, refused = [], [], []
    with out.progress() as report:
        for name, document in documents.items():
            try:
                result, left = _imported(client, kind, content_type, name, document, report)
            except Failure as failure:
                if failure.exit_code is not ExitCode.USAGE:
                    raise
                failure.message = f"{name}: {failure.message}"
                refused.append(failure)
                result, left = failure.body, []
            results.append({"source": name, **result})
            undone += left
    if out.as_json:
        out.json({"items": results, "undone": undone})
    else:
        if len(refused) < len(results):
            out.table([result for result in results if "error" not in result], SUMMARY_COLUMNS)
        if undone:
            out.table(undone, UNDONE_COLUMNS)
        for refusal in refused:
            out.failure(refusal)
    raise typer.Exit(_exit_code(undone, is_refused=bool(refused)))


def _imported(
    client: Client, kind: str, content_type: str, name: str, document: bytes, report: Callable[[str, int, int | None], None]
) -> tuple[Json, list[Json]]:
    """What an import came to, and what of it was not done."""
    result: Json = {}
    undone = []
    for line in client.lines(path("imports", kind), document, content_type):
        if "done" in line:
            result = line["done"]
        elif "outcome" in line:
            report(name, line["index"] + 1, None)
            undone += [line] if line["outcome"] in UNDONE else []
        else:
            report(name, 0, line["total"])
    client.remember(result)
    return result, undone


def _exit_code(undone: list[Json], *, is_refused: bool) -> ExitCode:
    if is_refused:
        return ExitCode.USAGE
    if any(line["outcome"] == "failed" for line in undone):
        return ExitCode.UNEXPECTED
    return ExitCode.WAITS_FOR_APPROVAL if undone else ExitCode.OK
