"""`aureus terms`: the glossary, and which columns mean what it says."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column

terms = typer.Typer(help="The glossary, and which columns mean what it says.", no_args_is_help=True)

TermId = Annotated[str, typer.Argument(metavar="TERM", help="Such as customer-lifetime-value.")]
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="The dataset that has the column.")]
ColumnName = Annotated[str, typer.Argument(metavar="COLUMN", help="The column's name.")]
Synonyms = Annotated[list[str] | None, typer.Option("--synonym", help="Another word for it; repeatable.")]
COLUMNS = (
    Column("term", "term_id"),
    Column("name", "name"),
    Column("definition", "definition"),
    Column("synonyms", "synonyms"),
)


@terms.command()
def define(
    context: typer.Context,
    term_id: TermId,
    name: Annotated[str, typer.Option("--name", help="The term itself.")],
    definition: Annotated[str, typer.Option("--definition", help="What it means.")],
    synonym: Synonyms = None,
) -> None:
    """Give a business term its meaning."""
    body = {"term_id": term_id, "name": name, "definition": definition, "synonyms": synonym or None}
    output_of(context).done(client_of(context).ask(path("terms"), body), f"Defined {term_id}.")


@terms.command()
def revise(
    context: typer.Context,
    term_id: TermId,
    name: Annotated[str | None, typer.Option("--name", help="The term itself.")] = None,
    definition: Annotated[str | None, typer.Option("--definition", help="What it means.")] = None,
    synonym: Synonyms = None,
) -> None:
    """Reword a business term; what is left out stays as it is."""
    body = {"name": name, "definition": definition, "synonyms": synonym or None}
    output_of(context).done(client_of(context).ask(path("terms", term_id, "revise"), body), f"Revised {term_id}.")


@terms.command()
def link(context: typer.Context, term_id: TermId, dataset_id: DatasetId, column: ColumnName) -> None:
    """Say that a dataset's column means what a term says."""
    result = client_of(context).ask(path("datasets", dataset_id, "terms"), {"column": column, "term_id": term_id})
    output_of(context).done(result, f"Linked {dataset_id}.{column} to {term_id}.")


@terms.command()
def unlink(context: typer.Context, term_id: TermId, dataset_id: DatasetId, column: ColumnName) -> None:
    """Take back that a dataset's column means what a term says."""
    body = {"column": column, "term_id": term_id}
    result = client_of(context).ask(path("datasets", dataset_id, "terms", "unlink"), body)
    output_of(context).done(result, f"Unlinked {dataset_id}.{column} from {term_id}.")


@terms.command("list")
def list_(context: typer.Context, search: Search = None, sort: Sort = None, limit: Limit = 50) -> None:
    """List the glossary."""
    page = client_of(context).rows(path("terms"), limit, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "The glossary is empty.")


@terms.command()
def show(context: typer.Context, term_id: TermId) -> None:
    """Show a term and the columns it is linked to."""
    client, out = client_of(context), output_of(context)
    found = {**client.one(path("terms", term_id)), "columns": client.one(path("terms", term_id, "columns"))["items"]}
    if out.as_json:
        return out.json(found)
    columns = [f"{link['dataset_id']}.{link['column']}" for link in found["columns"]]
    return out.record({**found, "columns": columns}, f"Term {term_id}", ("name", "definition", "synonyms", "columns"))
