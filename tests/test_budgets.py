"""Budgets: what is refused, what follows, and the law 0 <= available <= limit."""

import pytest

from commands.budgets import DECIDER, CommitFunds, OpenBudget, ReserveFunds
from domain.budgets import BudgetOpened, FundsCommitted, FundsReserved
from tests.given import ACTION_ID, given

OPENED = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
RESERVED_60 = FundsReserved(budget_id="lake", reservation_id="r1", amount_minor=60, path=("lake",))


def test_a_reservation_within_the_limit_is_promised_on_the_whole_path() -> None:
    expected = FundsReserved(budget_id="lake", reservation_id=str(ACTION_ID), amount_minor=40, path=("lake",))
    given(DECIDER, OPENED, RESERVED_60).when(ReserveFunds(budget_id="lake", amount_minor=40)).then(expected)


def test_over_reserving_is_refused_and_says_what_is_available() -> None:
    given(DECIDER, OPENED, RESERVED_60).when(ReserveFunds(budget_id="lake", amount_minor=41)).refused("budget_exceeded", available_minor=40)


def test_spending_less_returns_the_rest() -> None:
    expected = FundsCommitted(budget_id="lake", reservation_id="r1", spent_minor=50, returned_minor=10, path=("lake",))
    given(DECIDER, OPENED, RESERVED_60).when(CommitFunds(budget_id="lake", reservation_id="r1", spent_minor=50)).then(expected)


def test_a_budget_below_must_share_the_currency() -> None:
    command = OpenBudget(budget_id="lake.jobs", label="Jobs", currency="USD", limit_minor=10)
    given(DECIDER, OPENED).when(command).refused("currency_differs", field="currency")


@pytest.mark.parametrize(
    ("minor", "up_to"), [(1, 1), (99, 99), (101, 110), (100_000_000, 100_000_000), (100_000_001, 110_000_000), (999, 1_000)]
)
def test_policies_see_an_amount_rounded_up_to_two_digits(minor: int, up_to: int) -> None:
    assert DECIDER.facts(DECIDER.initial, ReserveFunds(budget_id="lake", amount_minor=minor))["amount_up_to"] == up_to


def test_what_promises_nothing_has_no_amount() -> None:
    assert DECIDER.facts(DECIDER.initial, CommitFunds(budget_id="lake", reservation_id="r1", spent_minor=50))["amount_up_to"] is None
