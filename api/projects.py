"""Projects over REST: begin one, say what belongs to it, and end it."""

from api.routing import ContextRouter
from commands.projects import ArchiveProject, AttachResource, CreateProject, DescribeProject, DetachResource
from domain.values import EVERYBODY
from projections.projects import projects

router = ContextRouter(prefix="/v1", tags=["projects"])
router.command("/projects", CreateProject, status=201)
router.command("/projects/{project_id}/describe", DescribeProject)
router.command("/projects/{project_id}/attach", AttachResource)
router.command("/projects/{project_id}/detach", DetachResource)
router.command("/projects/{project_id}/archive", ArchiveProject)
router.views("/projects", projects, row_id="project_id", roles=EVERYBODY, stream="project:{}".format)
