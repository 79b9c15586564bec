"""Approvals over REST: request consent to one exact action, decide on it, and see how it stands."""

from api.routing import ContextRouter
from commands.approvals import ApproveRequest, ExpireRequest, RejectRequest, RequestApproval, WithdrawRequest
from domain.values import EVERYBODY
from projections.approvals import approvals

router = ContextRouter(prefix="/v1/approvals", tags=["approvals"])
router.command("", RequestApproval, status=201)
router.command("/{approval_id}/approve", ApproveRequest)
router.command("/{approval_id}/reject", RejectRequest)
router.command("/{approval_id}/withdraw", WithdrawRequest)
router.command("/{approval_id}/expire", ExpireRequest)
router.views("", approvals, row_id="approval_id", roles=EVERYBODY, stream="approval:{}".format)
