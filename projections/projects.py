"""Projects as people read them: who answers for each, and what belongs to it."""

from domain.kernel import Recorded
from domain.projects import ProjectArchived, ProjectCreated, ProjectDescribed, ResourceAttached, ResourceDetached
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class ProjectRow:
    """One project; `resources` are the streams that belong to it, in order."""

    project_id: str
    label: str
    description: str | None
    owner: str
    resources: list[str]
    status: str
    created_by: str
    created_at: str
    changed_at: str


projects = ReadTable(
    "projects",
    ProjectRow,
    filters=("owner", "status", "resources"),
    sorts=("project_id", "label", "created_at", "changed_at"),
    search=("project_id", "label"),
)


@projects.on(ProjectCreated)
def created(_row: None, recorded: Recorded[ProjectCreated], project_id: str) -> ProjectRow:
    event = recorded.event
    return ProjectRow(
        project_id=project_id,
        label=event.label,
        description=event.description,
        owner=event.owner,
        resources=[],
        status="open",
        created_by=recorded.actor,
        created_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@projects.on(ProjectDescribed)
def described(row: ProjectRow, recorded: Recorded[ProjectDescribed], _project_id: str) -> ProjectRow:
    event = recorded.event
    return replace(row, label=event.label, owner=event.owner, description=event.description, changed_at=recorded.at_text)


@projects.on(ResourceAttached, ResourceDetached)
def moved(row: ProjectRow, recorded: Recorded[ResourceAttached | ResourceDetached], _project_id: str) -> ProjectRow:
    event = recorded.event
    others = [resource for resource in row.resources if resource != event.stream]
    resources = sorted([*others, event.stream]) if isinstance(event, ResourceAttached) else others
    return replace(row, resources=resources, changed_at=recorded.at_text)


@projects.on(ProjectArchived)
def archived(row: ProjectRow, recorded: Recorded[ProjectArchived], _project_id: str) -> ProjectRow:
    return replace(row, status="archived", changed_at=recorded.at_text)


PROJECTION = Projection("projects", (projects,), ordering="stream")
