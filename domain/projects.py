"""A project: work that somebody answers for, and the datasets, pipelines, agents and budgets that belong to it.

A grant on a project opens all that it holds, and nothing any more once the project is archived.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from domain.access import PersonId
from domain.grants import ResourceStream
from domain.kernel import Event
from domain.values import Identifier, Label, Text


class ProjectCreated(Event, name="projects.project_created"):
    """There is a project, and its owner answers for it."""

    project_id: Identifier
    label: Label
    owner: PersonId
    description: Text | None = None


class ProjectDescribed(Event, name="projects.project_described"):
    """The project is called, described and answered for like this from now on."""

    project_id: Identifier
    label: Label
    owner: PersonId
    description: Text | None = None


class ResourceAttached(Event, name="projects.resource_attached"):
    """A resource belongs to the project, beside whatever else it belongs to."""

    project_id: Identifier
    stream: ResourceStream


class ResourceDetached(Event, name="projects.resource_detached"):
    """A resource no longer belongs to the project."""

    project_id: Identifier
    stream: ResourceStream


class ProjectArchived(Event, name="projects.project_archived"):
    """The work is done: the project changes no more, and grants on it open nothing."""

    project_id: Identifier
    reason: Text | None = None


ProjectEvent = ProjectCreated | ProjectDescribed | ResourceAttached | ResourceDetached | ProjectArchived


@dataclass(frozen=True, slots=True)
class Project:
    """How a project stands; `owner` is None before it is created."""

    label: str = ""
    owner: str | None = None
    description: str | None = None
    resources: frozenset[str] = frozenset()
    archived: bool = False


def evolve(project: Project, event: ProjectEvent) -> Project:
    match event:
        case ProjectCreated() | ProjectDescribed():
            return replace(project, label=event.label, owner=event.owner, description=event.description)
        case ResourceAttached():
            return replace(project, resources=project.resources | {event.stream})
        case ResourceDetached():
            return replace(project, resources=project.resources - {event.stream})
        case ProjectArchived():
            return replace(project, archived=True)
        case _:
            assert_never(event)
