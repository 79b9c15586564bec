"""`aureus pipelines`: register a pipeline, deploy its versions, report what fails, and see what runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, content_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
pipelines = typer.Typer(help="What makes datasets from datasets, and which version of it runs.", no_args_is_help=True)
app.add_typer(pipelines, name="pipelines")

PipelineId = Annotated[str, typer.Argument(metavar="PIPELINE", help="Such as customers-daily.")]
Reason = Annotated[str, typer.Argument(metavar="WHY", help="What happened, in a sentence.")]
ChecksFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A JSON list, one item for each; their count and the file's digest go on record.")
]
COLUMNS = (
    Column("pipeline", "pipeline_id"),
    Column("label", "label"),
    Column("domain", "domain"),
    Column("environment", "environment"),
    Column("owner", "owner"),
    Column("version", "version", right=True),
    Column("status", "status"),
    when("deployed", "deployed_at"),
)
PROPERTIES = ("label", "status", "version", "environment", "domain", "owner", "models", "inputs", "outputs", "unit_tests", "dq_checks")
VERSION_COLUMNS = (
    Column("version", "version", right=True),
    Column("status", "status"),
    Column("models", lambda row: [model["name"] for model in row["models"]]),
    Column("unit tests", lambda row: row["unit_tests"]["count"], right=True),
    Column("dq checks", lambda row: row["dq_checks"]["count"], right=True),
    Column("by", "deployed_by"),
    when("deployed", "deployed_at"),
    Column("failure", "failure"),
)


@pipelines.command()
def register(
    context: typer.Context,
    pipeline_id: PipelineId,
    label: Annotated[str, typer.Option("--label", help="What people call it.")],
    domain: Annotated[str, typer.Option("--domain", help="The business domain it belongs to.")],
    environment: Annotated[str, typer.Option("--environment", help="dev, staging or production.")] = "production",
    owner: Annotated[str | None, typer.Option("--owner", metavar="ACTOR", help="Who answers for it; you, when not given.")] = None,
    pii: Annotated[str | None, typer.Option("--pii", help="How personal the data is that it handles: none, low or high.")] = None,
    jurisdiction: Annotated[str | None, typer.Option("--jurisdiction", help="Whose law: US, EU, UK, APAC or multi.")] = None,
) -> None:
    """Make a pipeline known; nothing of it runs yet."""
    body = {
        "pipeline_id": pipeline_id,
        "label": label,
        "domain": domain,
        "environment": environment,
        "owner": owner,
        "pii_level": pii,
        "jurisdiction": jurisdiction,
    }
    output_of(context).done(client_of(context).ask(path("pipelines"), body), f"Registered pipeline {pipeline_id}.")


@pipelines.command()
def deploy(
    context: typer.Context,
    pipeline_id: PipelineId,
    model: Annotated[list[str], typer.Option("--model", "-m", metavar="[NAME=]FILE", help="A model's SQL; repeatable.")],
    unit_tests: ChecksFile = None,
    dq_checks: ChecksFile = None,
    reads: Annotated[list[str] | None, typer.Option("--input", metavar="DATASET", help="A dataset it reads; repeatable.")] = None,
    makes: Annotated[list[str] | None, typer.Option("--output", metavar="DATASET", help="A dataset it makes; repeatable.")] = None,
) -> None:
    """Let a version run in place of the one before; in production it takes at least one unit test and two data quality checks."""
    body = {
        "models": [model_in(given) for given in model],
        "unit_tests": checks_in(unit_tests),
        "dq_checks": checks_in(dq_checks),
        "inputs": reads,
        "outputs": makes,
    }
    result = client_of(context).ask(path("pipelines", pipeline_id, "deploy"), body)
    output_of(context).done(result, f"Deployed version {result['version']} of {pipeline_id}.")


@pipelines.command()
def fail(context: typer.Context, pipeline_id: PipelineId, why: Reason) -> None:
    """Put on record that the version that runs does not do what it should."""
    result = client_of(context).ask(path("pipelines", pipeline_id, "failures"), {"reason": why})
    output_of(context).done(result, f"Recorded that {pipeline_id} fails.")


@pipelines.command()
def retire(context: typer.Context, pipeline_id: PipelineId, why: Reason) -> None:
    """End a pipeline; `aureus rollback pipeline` brings it back."""
    result = client_of(context).ask(path("pipelines", pipeline_id, "retire"), {"reason": why})
    output_of(context).done(result, f"Retired {pipeline_id}.")


@pipelines.command("list")
def list_(
    context: typer.Context,
    domain: Annotated[str | None, typer.Option("--domain", help="Only those of this business domain.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="Only those in dev, staging or production.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="registered, deployed, failed or retired.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="ACTOR", help="Only those this one answers for.")] = None,
    reads: Annotated[str | None, typer.Option("--input", metavar="DATASET", help="Only those that read this dataset.")] = None,
    makes: Annotated[str | None, typer.Option("--output", metavar="DATASET", help="Only those that make this dataset.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List pipelines with the version that runs."""
    narrowed = {"domain": domain, "environment": environment, "status": status, "owner": owner, "inputs": reads, "outputs": makes}
    page = client_of(context).rows(path("pipelines"), limit, **narrowed, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "No pipeline is registered.")


@pipelines.command()
def show(context: typer.Context, pipeline_id: PipelineId) -> None:
    """Show a pipeline and the version that runs."""
    output_of(context).record(client_of(context).one(path("pipelines", pipeline_id)), f"Pipeline {pipeline_id}", PROPERTIES)


@pipelines.command()
def versions(context: typer.Context, pipeline_id: PipelineId, limit: Limit = 50) -> None:
    """List the deployed versions of a pipeline, the latest first."""
    page = client_of(context).rows(path("pipeline-versions"), limit, pipeline_id=pipeline_id, sort="-version")
    output_of(context).rows(page, VERSION_COLUMNS, f"No version of {pipeline_id} was deployed.")


def model_in(given: str) -> dict[str, str]:
    """A model from `[NAME=]FILE`; without a name it is called after its file."""
    name, _, file = given.rpartition("=")
    return {"name": name or Path(file).stem, "sql": content_of(Path(file)).decode()}


def checks_in(file: Path | None) -> dict[str, Any] | None:
    """How many checks a file lists, and its digest: the one under which it can be attached as evidence."""
    if file is None:
        return None
    content = content_of(file)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise typer.BadParameter(f"{file} is not a JSON list of checks.")
    return {"count": len(found), "sha256": hashlib.sha256(content).hexdigest()}
