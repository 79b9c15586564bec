"""Budgets over REST: open, fund, reserve, commit, release, change, close; and see how every level of the tree stands."""

from api.routing import ContextRouter
from commands.budgets import ChangeSettings, CloseBudget, CommitFunds, FundBudget, OpenBudget, ReleaseFunds, ReserveFunds
from domain.budgets import root_of
from domain.values import EVERYBODY
from projections.budgets import budgets, reservations

router = ContextRouter(tags=["budgets"])
router.command("/v1/budgets", OpenBudget, status=201)
router.command("/v1/budgets/{budget_id}/fund", FundBudget)
router.command("/v1/budgets/{budget_id}/reserve", ReserveFunds, status=201)
router.command("/v1/budgets/{budget_id}/commit", CommitFunds)
router.command("/v1/budgets/{budget_id}/release", ReleaseFunds)
router.command("/v1/budgets/{budget_id}/settings", ChangeSettings)
router.command("/v1/budgets/{budget_id}/close", CloseBudget)
router.views("/v1/budgets", budgets, row_id="budget_id", roles=EVERYBODY, stream=lambda budget_id: f"budget:{root_of(budget_id)}")
router.views("/v1/reservations", reservations, row_id="reservation_id", roles=EVERYBODY)
