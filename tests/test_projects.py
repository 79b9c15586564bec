"""Projects: what belongs together, whose it is, and what is refused."""

from commands.projects import DECIDER as PROJECTS
from commands.projects import ArchiveProject, AttachResource, CreateProject, DescribeProject, DetachResource
from domain.access import Actor, Registration
from domain.kernel import Asker
from domain.projects import ProjectArchived, ProjectCreated, ProjectDescribed, ResourceAttached, ResourceDetached
from domain.values import ActorKind, Role
from tests.given import ANALYST, APPROVER, given
from tests.test_grants import ORDERS

CREATED = ProjectCreated(project_id="p", label="P", owner="usr-ana")
ATTACHED = ResourceAttached(project_id="p", stream="dataset:crm.orders")


def test_a_project_has_an_owner_who_can_act() -> None:
    create = CreateProject(project_id="p", label="P", owner="usr-ana")
    ana = {"actor:usr-ana": Registration(Actor("usr-ana", ActorKind.PERSON, frozenset({Role.ANALYST})))}
    given(PROJECTS).beside(**ana).when(create).then(CREATED)
    given(PROJECTS).beside(**{"actor:usr-ana": Registration()}).when(create).refused("owner_cannot_act", field="owner")
    given(PROJECTS, CREATED).beside(**ana).when(create).refused("project_exists", field="project_id")


def test_what_is_there_is_attached_once_and_detached() -> None:
    attach = AttachResource(project_id="p", stream="dataset:crm.orders")
    there, missing = {"dataset:crm.orders": ORDERS}, {"dataset:crm.orders": None}
    given(PROJECTS, CREATED).by(APPROVER).beside(**there).when(attach).then(ATTACHED)
    given(PROJECTS, CREATED, ATTACHED).by(APPROVER).beside(**there).when(attach).then()
    given(PROJECTS, CREATED).by(APPROVER).beside(**missing).when(attach).refused("resource_not_found", field="stream")
    detach = DetachResource(project_id="p", stream="dataset:crm.orders")
    given(PROJECTS, CREATED, ATTACHED).by(ANALYST).when(detach).then(ResourceDetached(project_id="p", stream="dataset:crm.orders"))
    given(PROJECTS, CREATED).when(detach).then()


def test_a_project_is_its_owners_to_describe_and_to_archive() -> None:
    other = Asker("usr-ben", "acme", frozenset({Role.ANALYST}))
    given(PROJECTS, CREATED).by(other).when(ArchiveProject(project_id="p")).refused("project_of_another", owner="usr-ana")
    given(PROJECTS, CREATED).when(DescribeProject(project_id="p", label="Q")).then(
        ProjectDescribed(project_id="p", label="Q", owner="usr-ana")
    )
    given(PROJECTS, CREATED).when(DescribeProject(project_id="p", label="P")).then()
    archived = ProjectArchived(project_id="p", reason="Done")
    given(PROJECTS, CREATED).when(ArchiveProject(project_id="p", reason="Done")).then(archived)
    given(PROJECTS, CREATED, archived).when(DescribeProject(project_id="p", label="Q")).refused("project_archived")
    given(PROJECTS).when(ArchiveProject(project_id="p")).refused("project_not_found", field="project_id")
