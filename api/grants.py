"""Grants over REST: give a role on a part of the tenant for a time, extend it, revoke it, and see what was given."""

from api.routing import ContextRouter
from commands.grants import ExtendGrant, GrantRole, RevokeGrant
from domain.values import PEOPLE
from projections.grants import grants

router = ContextRouter(prefix="/v1", tags=["grants"])
router.command("/grants", GrantRole, status=201)
router.command("/grants/{grant_id}/extend", ExtendGrant)
router.command("/grants/{grant_id}/revoke", RevokeGrant)
router.views("/grants", grants, row_id="grant_id", roles=PEOPLE, stream="grant:{}".format)
