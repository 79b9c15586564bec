"""What may be asked of a budget, and when the answer is yes."""

from collections.abc import Iterator
from typing import Annotated, Any, assert_never

from pydantic import AwareDatetime, Field

from domain.budgets import (
    Budget,
    BudgetClosed,
    BudgetEvent,
    BudgetFunded,
    BudgetId,
    BudgetOpened,
    BudgetTree,
    FundsCommitted,
    FundsReleased,
    FundsReserved,
    Reservation,
    ThresholdReached,
    evolve,
    parent_of,
    path_of,
    root_of,
)
from domain.kernel import Asked, Command, Decider, require
from domain.values import Currency, Identifier, Label, Minor, Money, Role

STEWARDS = frozenset({Role.ADMIN, Role.APPROVER})
SPENDERS = frozenset({Role.ANALYST, Role.ADMIN, Role.AGENT})
Percent = Annotated[int, Field(ge=1, le=100)]
PositiveMinor = Annotated[Minor, Field(gt=0)]


class OpenBudget(Command, name="budgets.open_budget", roles=STEWARDS):
    """Open a budget; `eu-lake.ingest` stands under `eu-lake`, which must be open already and of the same currency."""

    budget_id: BudgetId
    label: Label
    currency: Currency
    limit_minor: Minor
    thresholds_percent: Annotated[tuple[Percent, ...], Field(max_length=10)] = (80, 100)
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None


class FundBudget(Command, name="budgets.fund_budget", roles=STEWARDS):
    """Raise a budget's limit."""

    budget_id: BudgetId
    amount_minor: PositiveMinor


class ReserveFunds(Command, name="budgets.reserve_funds", roles=SPENDERS):
    """Promise an amount on a budget and on every budget above it, or on none of them."""

    budget_id: BudgetId
    amount_minor: PositiveMinor


class CommitFunds(Command, name="budgets.commit_funds", roles=SPENDERS):
    """Spend a reservation, whole or in part; the rest becomes available again."""

    budget_id: BudgetId
    reservation_id: Identifier
    spent_minor: Minor | None = None


class ReleaseFunds(Command, name="budgets.release_funds", roles=SPENDERS):
    """Give a reservation back whole."""

    budget_id: BudgetId
    reservation_id: Identifier


class CloseBudget(Command, name="budgets.close_budget", roles=STEWARDS):
    """Close a budget that has no open reservation and no open budget below it."""

    budget_id: BudgetId


BudgetCommand = OpenBudget | FundBudget | ReserveFunds | CommitFunds | ReleaseFunds | CloseBudget


def decide(tree: BudgetTree, command: BudgetCommand, asked: Asked) -> list[BudgetEvent]:
    match command:
        case OpenBudget():
            return _open(tree, command)
        case FundBudget():
            budget = _usable(tree, command.budget_id)
            limit_minor = budget.limit_minor + command.amount_minor
            return [BudgetFunded(budget_id=budget.budget_id, amount_minor=command.amount_minor, limit_minor=limit_minor)]
        case ReserveFunds():
            return _reserve(tree, command, asked)
        case CommitFunds():
            held = _held(tree, command.budget_id, command.reservation_id)
            spent_minor = held.amount_minor if command.spent_minor is None else command.spent_minor
            require(
                spent_minor <= held.amount_minor,
                "spent_more_than_reserved",
                f"The reservation holds {held.amount_minor}, so {spent_minor} cannot be spent from it.",
                field="spent_minor",
                reserved_minor=held.amount_minor,
                remedy="Reserve the difference first, or spend at most what is reserved.",
            )
            committed = FundsCommitted(
                budget_id=held.budget_id,
                reservation_id=command.reservation_id,
                spent_minor=spent_minor,
                returned_minor=held.amount_minor - spent_minor,
                path=path_of(held.budget_id),
            )
            return [committed]
        case ReleaseFunds():
            held = _held(tree, command.budget_id, command.reservation_id)
            released = FundsReleased(
                budget_id=held.budget_id,
                reservation_id=command.reservation_id,
                amount_minor=held.amount_minor,
                path=path_of(held.budget_id),
            )
            return [released]
        case CloseBudget():
            budget = _usable(tree, command.budget_id)
            require(
                budget.reserved_minor == 0,
                "budget_has_reservations",
                f"Budget {budget.budget_id} still holds reservations of {budget.reserved_minor}.",
                reserved_minor=budget.reserved_minor,
                remedy="Commit or release them first.",
            )
            below = sorted(b.budget_id for b in tree.budgets.values() if parent_of(b.budget_id) == budget.budget_id and not b.closed)
            require(not below, "budget_has_children", f"Budgets are open below {budget.budget_id}.", open=below, remedy="Close them first.")
            return [BudgetClosed(budget_id=budget.budget_id)]
        case _:
            assert_never(command)


def _open(tree: BudgetTree, command: OpenBudget) -> list[BudgetEvent]:
    require(
        command.budget_id not in tree.budgets,
        "budget_exists",
        f"Budget {command.budget_id} is open already.",
        field="budget_id",
        remedy="Choose another id, or fund the one that is there.",
    )
    if (parent_id := parent_of(command.budget_id)) is not None:
        parent = _usable(tree, parent_id)
        require(
            parent.currency == command.currency,
            "currency_differs",
            f"Budget {parent_id} is in {parent.currency}; a budget below it cannot be in {command.currency}.",
            field="currency",
            remedy=f"Open it in {parent.currency}, or under a tree of its own.",
        )
    if command.starts_at and command.ends_at:
        require(command.starts_at < command.ends_at, "period_is_empty", "The period ends before it starts.", field="ends_at")
    return [BudgetOpened(**command.model_dump())]


def _reserve(tree: BudgetTree, command: ReserveFunds, asked: Asked) -> list[BudgetEvent]:
    path = [_usable(tree, budget_id) for budget_id in path_of(command.budget_id)]
    for budget in path:
        _require_in_period(budget, asked)
        require(
            command.amount_minor <= budget.available_minor,
            "budget_exceeded",
            f"Budget {budget.budget_id} has {_money(budget.available_minor, budget)} available, "
            f"{_money(command.amount_minor, budget)} were asked for.",
            field="amount_minor",
            budget_id=budget.budget_id,
            available_minor=budget.available_minor,
            requested_minor=command.amount_minor,
            currency=budget.currency,
            remedy="Ask for at most what is available, release a reservation, or have the budget funded.",
        )
    reserved = FundsReserved(
        budget_id=command.budget_id,
        reservation_id=str(asked.action_id),
        amount_minor=command.amount_minor,
        path=path_of(command.budget_id),
    )
    return [reserved, *_thresholds(path, command.amount_minor)]


def _money(minor: int, budget: Budget) -> Money:
    return Money(minor=minor, currency=budget.currency)


def _thresholds(path: list[Budget], amount_minor: int) -> Iterator[ThresholdReached]:
    for budget in path:
        used_minor = budget.used_minor + amount_minor
        for percent in sorted(budget.thresholds_percent):
            if percent not in budget.reached_percent and used_minor * 100 >= percent * budget.limit_minor:
                yield ThresholdReached(
                    budget_id=budget.budget_id, threshold_percent=percent, used_minor=used_minor, limit_minor=budget.limit_minor
                )


def _usable(tree: BudgetTree, budget_id: str) -> Budget:
    budget = tree.budgets.get(budget_id)
    require(budget is not None, "budget_not_found", f"No budget {budget_id} is open.", field="budget_id", remedy="Open it first.")
    assert budget is not None
    require(not budget.closed, "budget_closed", f"Budget {budget_id} is closed.", field="budget_id", remedy="Use an open budget.")
    return budget


def _require_in_period(budget: Budget, asked: Asked) -> None:
    started = budget.starts_at is None or budget.starts_at <= asked.at
    ended = budget.ends_at is not None and asked.at >= budget.ends_at
    require(
        started and not ended,
        "outside_budget_period",
        f"Budget {budget.budget_id} is not in its period.",
        budget_id=budget.budget_id,
        starts_at=budget.starts_at and budget.starts_at.isoformat(),
        ends_at=budget.ends_at and budget.ends_at.isoformat(),
        remedy="Use a budget of the current period.",
    )


def _held(tree: BudgetTree, budget_id: str, reservation_id: str) -> Reservation:
    held = tree.reservations.get(reservation_id)
    require(
        held is not None and held.budget_id == budget_id,
        "reservation_not_found",
        f"Budget {budget_id} holds no open reservation {reservation_id}.",
        field="reservation_id",
        remedy="It may have been committed or released already: look at the budget's reservations.",
    )
    assert held is not None
    return held


def _facts(tree: BudgetTree, command: BudgetCommand) -> dict[str, Any]:
    budget = tree.budgets.get(command.budget_id)
    currency = command.currency if isinstance(command, OpenBudget) else budget.currency if budget else None
    return {"currency": currency, "is_root": parent_of(command.budget_id) is None}


DECIDER: Decider[BudgetTree, BudgetCommand, BudgetEvent] = Decider(
    context="budgets",
    category="budget",
    initial=BudgetTree(),
    evolve=evolve,
    decide=decide,
    commands=(OpenBudget, FundBudget, ReserveFunds, CommitFunds, ReleaseFunds, CloseBudget),
    events=(BudgetOpened, BudgetFunded, FundsReserved, FundsCommitted, FundsReleased, ThresholdReached, BudgetClosed),
    entity=lambda command: root_of(command.budget_id),
    facts=_facts,
)
