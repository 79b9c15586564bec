"""Groups over REST: who is in which, which is in which, and what they give."""

from typing import Final

from api.routing import ContextRouter
from commands.groups import AddMember, CreateGroup, MapRoles, NestGroup, RemoveGroup, RemoveMember, RenameGroup, UnnestGroup, group_stream
from domain.values import PEOPLE, Role
from projections.groups import groups, memberships

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR, Role.APPROVER})

router = ContextRouter(prefix="/v1", tags=["groups"])
router.command("/groups", CreateGroup, status=201)
router.command("/groups/{group_id}/rename", RenameGroup)
router.command("/groups/{group_id}/members", AddMember)
router.command("/groups/{group_id}/members/{actor_id}/remove", RemoveMember)
router.command("/groups/{group_id}/nested", NestGroup)
router.command("/groups/{group_id}/nested/{nested_id}/remove", UnnestGroup)
router.command("/groups/{group_id}/roles", MapRoles)
router.command("/groups/{group_id}/remove", RemoveGroup)
router.views("/groups", groups, row_id="group_id", roles=PEOPLE, stream=group_stream)
router.views("/memberships", memberships, row_id="actor_id", roles=OVERSEERS)
