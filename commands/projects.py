"""What may be asked of projects: who answers for one, and what belongs to it."""

from typing import Annotated, Any, Final, assert_never

from pydantic import Field

from domain.access import PersonId, Registration
from domain.agents import Agent
from domain.budgets import BudgetTree
from domain.grants import ResourceStream
from domain.kernel import Asked, Command, Decider, require
from domain.projects import (
    Project,
    ProjectArchived,
    ProjectCreated,
    ProjectDescribed,
    ProjectEvent,
    ResourceAttached,
    ResourceDetached,
    evolve,
)
from domain.values import Identifier, Label, Role, Text

STEWARDS: Final = frozenset({Role.ADMIN, Role.APPROVER})
STARTERS: Final = STEWARDS | {Role.ANALYST}
RESOURCES_MAX: Final = 500


class CreateProject(Command, name="projects.create_project", roles=STARTERS):
    """Begin a project; a person answers for it."""

    project_id: Identifier
    label: Label
    owner: PersonId
    description: Text | None = None

    def relies_on(self) -> tuple[str, ...]:
        return (f"actor:{self.owner}",)


class DescribeProject(Command, name="projects.describe_project", roles=STARTERS):
    """Change what a project is called, what is said of it, or who answers for it: asked by its owner or an administrator."""

    project_id: Identifier
    label: Label | None = None
    owner: PersonId | None = None
    description: Text | None = None

    def relies_on(self) -> tuple[str, ...]:
        return () if self.owner is None else (f"actor:{self.owner}",)


class AttachResource(Command, name="projects.attach_resource", roles=STEWARDS):
    """Let a dataset, pipeline, agent or budget belong to a project. Whoever holds a grant on the project holds it there too, so it takes
    an administrator or an approver of that very thing."""

    project_id: Identifier
    stream: ResourceStream

    def relies_on(self) -> tuple[str, ...]:
        return (self.stream,)


class DetachResource(Command, name="projects.detach_resource", roles=STARTERS):
    """Let it belong to the project no more: asked by the owner, an approver or an administrator."""

    project_id: Identifier
    stream: ResourceStream


class ArchiveProject(Command, name="projects.archive_project", roles=STARTERS):
    """End a project; grants on it open nothing any more. Asked by its owner or an administrator."""

    project_id: Identifier
    reason: Annotated[Text, Field(min_length=1)] | None = None


ProjectCommand = CreateProject | DescribeProject | AttachResource | DetachResource | ArchiveProject


def decide(project: Project, command: ProjectCommand, asked: Asked) -> list[ProjectEvent]:
    match command:
        case CreateProject():
            return _create(project, command, asked)
        case DescribeProject():
            return _describe(_live(project, command), command, asked)
        case AttachResource():
            return _attach(_live(project, command), command, asked)
        case DetachResource():
            _require_answers(_live(project, command), command, asked, STEWARDS)
            gone = ResourceDetached(project_id=command.project_id, stream=command.stream)
            return [gone] if command.stream in project.resources else []
        case ArchiveProject():
            _require_answers(_live(project, command), command, asked, frozenset({Role.ADMIN}))
            return [ProjectArchived(project_id=command.project_id, reason=command.reason)]
        case _:
            assert_never(command)


def _create(project: Project, command: CreateProject, asked: Asked) -> list[ProjectEvent]:
    require(
        project.owner is None,
        "project_exists",
        f"There is a project {command.project_id} already.",
        field="project_id",
        remedy="Choose another id.",
    )
    _require_owner(command.owner, asked)
    created = ProjectCreated(
        project_id=command.project_id, label=command.label, owner=command.owner, description=command.description or None
    )
    return [created]


def _describe(project: Project, command: DescribeProject, asked: Asked) -> list[ProjectEvent]:
    _require_answers(project, command, asked, frozenset({Role.ADMIN}))
    if command.owner is not None:
        _require_owner(command.owner, asked)
    label, owner = command.label or project.label, command.owner or project.owner or ""
    description = project.description if command.description is None else command.description or None
    if (label, owner, description) == (project.label, project.owner, project.description):
        return []
    return [ProjectDescribed(project_id=command.project_id, label=label, owner=owner, description=description)]


def _attach(project: Project, command: AttachResource, asked: Asked) -> list[ProjectEvent]:
    require(
        _is_there(asked.others[command.stream]),
        "resource_not_found",
        f"There is no {command.stream}.",
        field="stream",
        remedy="Name the stream of a dataset, a pipeline, an agent or a budget (by its root) that is there.",
    )
    require(
        len(project.resources) < RESOURCES_MAX or command.stream in project.resources,
        "too_many_resources",
        f"Project {command.project_id} holds {RESOURCES_MAX} resources.",
        field="stream",
        limit=RESOURCES_MAX,
        remedy="Detach what is not needed, or grant on a domain.",
    )
    attached = ResourceAttached(project_id=command.project_id, stream=command.stream)
    return [] if command.stream in project.resources else [attached]


def _is_there(state: Any) -> bool:
    match state:
        case Agent():
            return state.registered
        case BudgetTree():
            return bool(state.budgets)
        case _:
            return state is not None


def _require_owner(owner: str, asked: Asked) -> None:
    registration: Registration = asked.others[f"actor:{owner}"]
    require(
        registration.actor is not None and not registration.actor.suspended,
        "owner_cannot_act",
        f"{owner} is not registered here, or suspended.",
        field="owner",
        remedy="Name a person who can log in.",
    )


def _require_answers(project: Project, command: ProjectCommand, asked: Asked, others: frozenset[Role]) -> None:
    require(
        asked.by.actor == project.owner or not asked.by.roles.isdisjoint(others),
        "project_of_another",
        f"Project {command.project_id} is {project.owner}'s.",
        field="project_id",
        owner=project.owner,
        remedy="Ask its owner, or an administrator.",
    )


def _live(project: Project, command: ProjectCommand) -> Project:
    require(
        project.owner is not None,
        "project_not_found",
        f"There is no project {command.project_id}.",
        field="project_id",
        remedy="Create it first.",
    )
    require(
        not project.archived,
        "project_archived",
        f"Project {command.project_id} is archived.",
        field="project_id",
        remedy="Begin another one.",
    )
    return project


DECIDER: Final[Decider[Project, ProjectCommand, ProjectEvent]] = Decider(
    context="projects",
    category="project",
    initial=Project(),
    evolve=evolve,
    decide=decide,
    commands=(CreateProject, DescribeProject, AttachResource, DetachResource, ArchiveProject),
    events=(ProjectCreated, ProjectDescribed, ResourceAttached, ResourceDetached, ProjectArchived),
    entity=lambda command: command.project_id,
)
