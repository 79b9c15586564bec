"""`aureus datasets`: what data there is, what it means, who answers for it and what it is made from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import lineage, terms
from api.cli.client import path
from api.cli.failures import ExitCode, Failure
from api.cli.options import Limit, Search, Sort, client_of, json_of, output_of, pairs
from api.cli.output import Column, Row, moment, plain, when

app = typer.Typer()
datasets = typer.Typer(help="What data there is, what it means and who answers for it.", no_args_is_help=True)
app.add_typer(datasets, name="datasets")
app.add_typer(terms.terms, name="terms")
app.add_typer(lineage.app)

DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="Such as model.jaffle_shop.customers.")]
Domain = Annotated[str | None, typer.Option("--domain", help="The business domain it belongs to.")]
Pii = Annotated[str | None, typer.Option("--pii", help="How much personal data: none, low or high.")]
Jurisdiction = Annotated[str | None, typer.Option("--jurisdiction", help="Whose law: US, EU, UK, APAC or multi.")]
Environment = Annotated[str | None, typer.Option("--environment", help="dev, staging or production.")]
ColumnSpecs = Annotated[
    list[str] | None,
    typer.Option("--column", "-c", metavar="NAME[:TYPE[:PII]]", help="One column, such as email:varchar:high; repeatable."),
]
ColumnsFile = Annotated[Path | None, typer.Option("--columns", metavar="FILE", help="All columns, as a JSON list of objects.")]

COLUMNS = (
    Column("dataset", "dataset_id"),
    Column("domain", "domain"),
    Column("pii", "pii_level"),
    Column("jurisdiction", "jurisdiction"),
    Column("environment", "environment"),
    Column("columns", lambda row: len(row.get("columns") or ()), right=True),
    Column("owners", lambda row: ", ".join(_owners(row))),
    when("refreshed", "last_refresh_at"),
    Column("status", "status"),
)
PROPERTIES = ("name", "description", "status", "domain", "pii_level", "jurisdiction", "environment", "owners", "tags", "freshness_sla")
SCHEMA_COLUMNS = (
    Column("column", "name"),
    Column("type", "type"),
    Column("pii", "pii"),
    Column("key", lambda row: "key" if row.get("primary_key") else ""),
    Column("nullable", "nullable"),
    Column("description", "description"),
)
USAGE_COLUMNS = (
    Column("actor", "used_by"),
    Column("times", "query_count", right=True),
    when("first", "first_used_at"),
    when("last", "last_used_at"),
)
HISTORY_COLUMNS = (
    Column("position", "position", right=True),
    when("at", "timestamp"),
    Column("actor", "actor_id"),
    Column("what happened", lambda row: [output["type"].partition(".")[2].replace("_", " ") for output in row["outputs"]]),
    Column("why", "reason"),
    Column("evidence", "id"),
)


@datasets.command("list")
def list_(
    context: typer.Context,
    domain: Domain = None,
    pii: Pii = None,
    jurisdiction: Jurisdiction = None,
    environment: Environment = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only those with this tag.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="ACTOR", help="Only those this one answers for.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List datasets."""
    filters = {
        "domain": domain,
        "pii_level": pii,
        "jurisdiction": jurisdiction,
        "environment": environment,
        "tags": tag,
        "owner_ids": owner,
        "q": search,
        "sort": sort,
    }
    page = client_of(context).rows(path("datasets"), limit, **filters)
    output_of(context).rows(page, COLUMNS, "No dataset is registered. Try `aureus import dbt`.")


@datasets.command()
def show(context: typer.Context, dataset_id: DatasetId) -> None:
    """Show a dataset and its columns."""
    out = output_of(context)
    dataset = client_of(context).one(path("datasets", dataset_id))
    if out.as_json:
        return out.json(dataset)
    columns = dataset.pop("columns", None) or []
    out.record({**dataset, "owners": _owners(dataset)}, f"Dataset {dataset_id}", PROPERTIES)
    if columns:
        out.table(columns, SCHEMA_COLUMNS)
    return None


@datasets.command()
def register(
    context: typer.Context,
    dataset_id: DatasetId,
    name: Annotated[str, typer.Option("--name", help="What people call it.")],
    description: Annotated[str | None, typer.Option("--description", help="What it holds.")] = None,
    domain: Domain = None,
    pii: Pii = None,
    jurisdiction: Jurisdiction = None,
    environment: Environment = None,
    column: ColumnSpecs = None,
    columns: ColumnsFile = None,
    owner: Annotated[list[str] | None, typer.Option("--owner", metavar="ACTOR[=ROLE]", help="Who answers for it; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")] = None,
    upstream: Annotated[list[str] | None, typer.Option("--upstream", metavar="DATASET", help="What it is made from; repeatable.")] = None,
    sla: Annotated[str | None, typer.Option("--sla", metavar="DURATION", help="Longest time without a refresh, such as PT24H.")] = None,
    contract: Annotated[
        Path | None, typer.Option("--contract", metavar="FILE", help="The terms it is offered under, as a JSON file.")
    ] = None,
) -> None:
    """Put a dataset into the catalog, whole or with as much as is known of it."""
    body = {
        "dataset_id": dataset_id,
        "name": name,
        "description": description,
        **_profile(domain, pii, jurisdiction, environment),
        "columns": _columns(column, columns),
        "owners": [_owner(value) for value in owner or []] or None,
        "tags": tag or None,
        "upstreams": [{"dataset_id": each} for each in upstream or []] or None,
        "freshness_sla": sla,
        "contract": json_of(contract) if contract else None,
    }
    result = client_of(context).ask(path("datasets"), body)
    output_of(context).done(result, f"Registered {dataset_id}.")


@datasets.command()
def sync(
    context: typer.Context,
    dataset_id: DatasetId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The dataset as it should stand, as a JSON object; - is standard input.")],
) -> None:
    """Bring a dataset to the state a file describes; only what differs is changed."""
    result = client_of(context).ask(path("datasets", dataset_id, "sync"), _object(file))
    output_of(context).done(result, f"Synchronised {dataset_id}: {_events(result)}.")


@datasets.command()
def describe(
    context: typer.Context,
    dataset_id: DatasetId,
    name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it holds.")] = None,
) -> None:
    """Change a dataset's name or description."""
    result = client_of(context).ask(path("datasets", dataset_id, "describe"), {"name": name, "description": description})
    output_of(context).done(result, f"Described {dataset_id}.")


@datasets.command()
def classify(
    context: typer.Context,
    dataset_id: DatasetId,
    domain: Domain = None,
    pii: Pii = None,
    jurisdiction: Jurisdiction = None,
    environment: Environment = None,
) -> None:
    """Change what policies judge a dataset by; a PII level below that of a column is refused."""
    result = client_of(context).ask(path("datasets", dataset_id, "describe"), _profile(domain, pii, jurisdiction, environment))
    output_of(context).done(result, f"Classified {dataset_id}.")


@datasets.command()
def schema(context: typer.Context, dataset_id: DatasetId, column: ColumnSpecs = None, columns: ColumnsFile = None) -> None:
    """Show a dataset's columns, or give it new ones: all of them, as the next version of its schema."""
    client, out = client_of(context), output_of(context)
    new = _columns(column, columns)
    if new is None:
        found = client.one(path("datasets", dataset_id)).get("columns") or []
        return out.rows({"items": found}, SCHEMA_COLUMNS, f"No column of {dataset_id} is known.")
    result = client.ask(path("datasets", dataset_id, "schema"), {"columns": new})
    return out.done(result, f"Changed the schema of {dataset_id}: {len(new)} columns.")


@datasets.command()
def own(
    context: typer.Context,
    dataset_id: DatasetId,
    owner_id: Annotated[str, typer.Argument(metavar="ACTOR", help="Who is to answer for it, by opaque id.")],
    role: Annotated[str, typer.Option("--role", help="In which role.")] = "owner",
    contact_name: Annotated[str | None, typer.Option("--contact-name", help="Personal data; it stays erasable.")] = None,
    contact_email: Annotated[str | None, typer.Option("--contact-email", help="Personal data; it stays erasable.")] = None,
    correct: Annotated[bool, typer.Option("--correct", help="Replace a contact that is recorded already.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Relieve this owner instead.")] = False,
) -> None:
    """Make somebody answer for a dataset, record how to reach them, or relieve them."""
    client, out = client_of(context), output_of(context)
    if remove:
        result = client.ask(path("datasets", dataset_id, "owners", owner_id, "remove"), {})
        return out.done(result, f"{owner_id} no longer answers for {dataset_id}.")
    if contact_name or contact_email:
        contact = {"contact_name": contact_name, "contact_email": contact_email, "correct": correct or None}
        result = client.ask(path("datasets", dataset_id, "owners", owner_id, "contact"), contact)
        return out.done(result, f"Recorded how to reach {owner_id}.")
    result = client.ask(path("datasets", dataset_id, "owners"), {"owner_id": owner_id, "role": role})
    return out.done(result, f"{owner_id} answers for {dataset_id} as {role}.")


@datasets.command()
def derive(
    context: typer.Context,
    dataset_id: DatasetId,
    upstream: Annotated[str, typer.Argument(metavar="UPSTREAM", help="The dataset it is made from.")],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", "-c", metavar="COLUMN=UPSTREAM_COLUMN", help="A column and what it is made from; repeatable."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take it back instead.")] = False,
) -> None:
    """Record that a dataset is made from another, column by column where that is known."""
    client, out = client_of(context), output_of(context)
    if remove:
        result = client.ask(path("datasets", dataset_id, "lineage", upstream, "remove"), {})
        return out.done(result, f"{dataset_id} is not made from {upstream}.")
    made_from = [{"column": name, "upstream_column": source} for name, source in pairs(column or [], "--column")]
    result = client.ask(path("datasets", dataset_id, "lineage"), {"upstream": {"dataset_id": upstream, "columns": made_from}})
    return out.done(result, f"{dataset_id} is made from {upstream}.")


@datasets.command()
def tag(
    context: typer.Context,
    dataset_id: DatasetId,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="All tags it is to carry; none to take them away.")] = None,
) -> None:
    """Give a dataset its tags, all of them."""
    result = client_of(context).ask(path("datasets", dataset_id, "tags"), {"tags": tags or []})
    output_of(context).done(result, f"Tagged {dataset_id}: {', '.join(tags or []) or 'no tags'}.")


@datasets.command()
def sla(
    context: typer.Context,
    dataset_id: DatasetId,
    duration: Annotated[str | None, typer.Argument(metavar="[DURATION]", help="The longest without a refresh, such as PT24H.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Promise nothing any more.")] = False,
) -> None:
    """Show whether a dataset is as fresh as was promised, or promise something."""
    client, out = client_of(context), output_of(context)
    if not (duration or end):
        found = client.one(path("datasets", dataset_id, "freshness"))
        state = {True: "fresh", False: "overdue", None: "under no promise"}[found["fresh"]]
        return out.record(found, f"Dataset {dataset_id} is {state}")
    result = client.ask(path("datasets", dataset_id, "freshness"), {"freshness_sla": None if end else duration})
    return out.done(result, f"Nothing is promised of {dataset_id}." if end else f"{dataset_id} is to be refreshed within {duration}.")


@datasets.command()
def refresh(
    context: typer.Context,
    dataset_id: DatasetId,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="When, in RFC 3339; now when not given.")] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=0, help="How many rows it holds since.")] = None,
) -> None:
    """Record that a dataset was brought up to date."""
    moment_of = at or datetime.now(UTC).isoformat()
    result = client_of(context).ask(path("datasets", dataset_id, "refreshes"), {"refreshed_at": moment_of, "row_count": rows})
    output_of(context).done(result, f"{dataset_id} was refreshed at {moment(moment_of)}.")


@datasets.command()
def use(
    context: typer.Context,
    dataset_id: DatasetId,
    by: Annotated[str | None, typer.Option("--by", metavar="ACTOR", help="Who read it; you when not given.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many times.")] = 1,
) -> None:
    """Record that somebody read a dataset."""
    client = client_of(context)
    used_by = by or client.one(path("auth", "me"))["actor"]
    result = client.ask(path("datasets", dataset_id, "usage"), {"used_by": used_by, "query_count": count})
    client.out.done(result, f"Recorded {count} use(s) of {dataset_id} by {used_by}.")


@datasets.command()
def contract(
    context: typer.Context,
    dataset_id: DatasetId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The contract, as a JSON object; - is standard input.")],
) -> None:
    """Record the terms a dataset is offered under."""
    result = client_of(context).ask(path("datasets", dataset_id, "contract"), {"contract": _object(file)})
    output_of(context).done(result, f"Recorded the contract of {dataset_id}.")


@datasets.command()
def deprecate(
    context: typer.Context,
    dataset_id: DatasetId,
    replaced_by: Annotated[str | None, typer.Option("--replaced-by", metavar="DATASET", help="What to build on instead.")] = None,
) -> None:
    """Tell people to stop building on a dataset, and why (--reason)."""
    client = client_of(context)
    if not client.said.reason:
        raise typer.BadParameter("say why people should stop building on it.", param_hint="--reason")
    result = client.ask(path("datasets", dataset_id, "deprecate"), {"reason": client.said.reason, "replaced_by": replaced_by})
    client.out.done(result, f"Deprecated {dataset_id}.")


@datasets.command()
def reinstate(context: typer.Context, dataset_id: DatasetId) -> None:
    """Take a deprecation back."""
    result = client_of(context).ask(path("datasets", dataset_id, "reinstate"), {})
    output_of(context).done(result, f"Reinstated {dataset_id}.")


@datasets.command()
def usage(context: typer.Context, dataset_id: DatasetId) -> None:
    """Show who reads a dataset, and how often."""
    output_of(context).rows(
        client_of(context).one(path("datasets", dataset_id, "usage")), USAGE_COLUMNS, f"Nobody is known to read {dataset_id}."
    )


@datasets.command()
def history(context: typer.Context, dataset_id: DatasetId, limit: Limit = 100) -> None:
    """Show how a dataset came to be what it is, action by action."""
    page = client_of(context).rows(path("actions"), limit, stream=f"dataset:{dataset_id}", outcome="allowed", sort="position")
    output_of(context).rows(page, HISTORY_COLUMNS, f"Nothing was ever done to {dataset_id}.")


def _profile(domain: str | None, pii: str | None, jurisdiction: str | None, environment: str | None) -> dict[str, str | None]:
    return {"domain": domain, "pii_level": pii, "jurisdiction": jurisdiction, "environment": environment}


def _columns(specs: list[str] | None, file: Path | None) -> list[dict[str, Any]] | None:
    """Columns from a file or from `name:type:pii`; None when nothing was said."""
    if file:
        found = json_of(file)
        if not isinstance(found, list):
            raise typer.BadParameter(f"{file} holds no JSON list.", param_hint="--columns")
        return found
    if not specs:
        return None
    # The PII level stands last: a type such as struct<a:int> may hold colons of its own.
    columns = []
    for spec in specs:
        name, _, rest = spec.partition(":")
        kind, _, pii = rest.rpartition(":") if rest.endswith((":none", ":low", ":high")) else (rest, "", "")
        columns.append({key: value for key, value in (("name", name), ("type", kind), ("pii", pii)) if value})
    return columns


def _owner(value: str) -> dict[str, str]:
    owner_id, _, role = value.partition("=")
    return {"owner_id": owner_id, "role": role} if role else {"owner_id": owner_id}


def _owners(row: Row) -> list[str]:
    owners = row.get("owners") or []
    return [plain(each.get("owner_id")) if isinstance(each, dict) else str(each) for each in owners]


def _object(file: Path) -> dict[str, Any]:
    found = json_of(file)
    if not isinstance(found, dict):
        raise Failure(
            ExitCode.USAGE, "not_an_object", f"{file} holds no JSON object.", remedy="Give the fields and their values as one object."
        )
    return found


def _events(result: Row) -> str:
    return ", ".join(event["type"].partition(".")[2].replace("_", " ") for event in result.get("events", [])) or "nothing to change"
