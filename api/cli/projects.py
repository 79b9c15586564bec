"""`aureus projects`: work that somebody answers for, and what belongs to it."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, Sort, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
projects = typer.Typer(help="Projects: who answers for them, and what belongs to them.", no_args_is_help=True)
app.add_typer(projects, name="projects")

ProjectId = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's id.")]
Resource = Annotated[str, typer.Argument(metavar="STREAM", help="Such as dataset:crm.orders, pipeline:p, agent:agt-bot or budget:lake.")]
Label = Annotated[str | None, typer.Option("--label", help="What people call it.")]
Description = Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is about.")]
COLUMNS = (
    Column("project", "project_id"),
    Column("label", "label"),
    Column("owner", "owner"),
    Column("resources", lambda row: len(row["resources"]), right=True),
    Column("status", "status"),
    when("changed", "changed_at"),
)
PROPERTIES = ("label", "description", "owner", "status", "resources", "created_by", "created_at")


@projects.command()
def create(
    context: typer.Context,
    project_id: ProjectId,
    label: Annotated[str, typer.Option("--label", help="What people call it.")],
    owner: Annotated[str, typer.Option("--owner", metavar="PERSON", help="Who answers for it.")],
    description: Description = None,
) -> None:
    """Begin a project."""
    body = {"project_id": project_id, "label": label, "owner": owner, "description": description}
    output_of(context).done(client_of(context).ask(path("projects"), body), f"Created {project_id}.")


@projects.command()
def describe(
    context: typer.Context,
    project_id: ProjectId,
    label: Label = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="PERSON", help="Who answers for it from now on.")] = None,
    description: Description = None,
) -> None:
    """Change what a project is called, what is said of it, or who answers for it."""
    body = {"label": label, "owner": owner, "description": description}
    output_of(context).done(client_of(context).ask(path("projects", project_id, "describe"), body), f"Described {project_id}.")


@projects.command()
def attach(context: typer.Context, project_id: ProjectId, resource: Resource) -> None:
    """Let a dataset, pipeline, agent or budget belong to a project."""
    result = client_of(context).ask(path("projects", project_id, "attach"), {"stream": resource})
    output_of(context).done(result, f"{resource} belongs to {project_id}.")


@projects.command()
def detach(context: typer.Context, project_id: ProjectId, resource: Resource) -> None:
    """Let it belong to the project no more."""
    result = client_of(context).ask(path("projects", project_id, "detach"), {"stream": resource})
    output_of(context).done(result, f"{resource} no longer belongs to {project_id}.")


@projects.command()
def archive(
    context: typer.Context,
    project_id: ProjectId,
    because: Annotated[str | None, typer.Option("--because", "-m", metavar="TEXT", help="Why; it goes on record.")] = None,
) -> None:
    """End a project; grants on it open nothing any more."""
    result = client_of(context).ask(path("projects", project_id, "archive"), {"reason": because})
    output_of(context).done(result, f"Archived {project_id}.")


@projects.command("list")
def list_(
    context: typer.Context,
    owner: Annotated[str | None, typer.Option("--owner", metavar="PERSON", help="Only those this person answers for.")] = None,
    resource: Annotated[str | None, typer.Option("--holding", metavar="STREAM", help="Only those it belongs to.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="open or archived.")] = None,
    search: Search = None,
    sort: Sort = None,
    limit: Limit = 50,
) -> None:
    """List projects."""
    page = client_of(context).rows(path("projects"), limit, owner=owner, resources=resource, status=status, q=search, sort=sort)
    output_of(context).rows(page, COLUMNS, "There is no project.")


@projects.command()
def show(context: typer.Context, project_id: ProjectId) -> None:
    """Show a project and what belongs to it."""
    output_of(context).record(client_of(context).one(path("projects", project_id)), f"Project {project_id}", PROPERTIES)
