"""What may be asked of a budget, and when the answer is yes."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, assert_never

from pydantic import AwareDatetime, Field

from domain.budgets import (
    Budget,
    BudgetClosed,
    BudgetEvent,
    BudgetFunded,
    BudgetId,
    BudgetOpened,
    BudgetSettings,
    BudgetTree,
    FundsCommitted,
    FundsReleased,
    FundsReserved,
    Reservation,
    SettingsChanged,
    SettingsRolledBack,
    ThresholdReached,
    evolve,
    parent_of,
    path_of,
    root_of,
    snapshot,
)
from domain.kernel import Asked, Command, Decider, require
from domain.rollback import RollBack, require_version, restorable, settings_digest
from domain.values import Currency, Identifier, Label, Minor, Money, Role

STEWARDS = frozenset({Role.ADMIN, Role.APPROVER})
SPENDERS = frozenset({Role.ANALYST, Role.ADMIN, Role.AGENT})
Percent = Annotated[int, Field(ge=1, le=100)]
PositiveMinor = Annotated[Minor, Field(gt=0)]


class OpenBudget(Command, name="budgets.open_budget", roles=STEWARDS):
    """Open a budget; `eu-lake.ingest` stands under `eu-lake`, which must be open already and of the same currency.

    Once `pause_agents_at_percent` of it are promised and spent, the agents that reserve on it or below it are stopped.
    """

    budget_id: BudgetId
    label: Label
    currency: Currency
    limit_minor: Minor
    thresholds_percent: Annotated[tuple[Percent, ...], Field(max_length=10)] = (80, 100)
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    pause_agents_at_percent: Percent | None = None


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


class ChangeSettings(Command, name="budgets.change_settings", roles=STEWARDS):
    """Change what a budget is called, when it warns, when it stops agents (0: never) and when it runs; the rest stays as it is."""

    budget_id: BudgetId
    label: Label | None = None
    thresholds_percent: Annotated[tuple[Percent, ...], Field(max_length=10)] | None = None
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    pause_agents_at_percent: Annotated[int, Field(ge=0, le=100)] | None = None


class RollBackSettings(RollBack, Command, name="budgets.roll_back_settings", roles=STEWARDS):
    """Give a budget the settings back that it had at an earlier version of its tree; money is never touched."""

    budget_id: BudgetId


class CloseBudget(Command, name="budgets.close_budget", roles=STEWARDS):
    """Close a budget that has no open reservation and no open budget below it."""

    budget_id: BudgetId


BudgetCommand = OpenBudget | FundBudget | ReserveFunds | CommitFunds | ReleaseFunds | ChangeSettings | RollBackSettings | CloseBudget


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
        case ChangeSettings():
            return _change(_usable(tree, command.budget_id), command)
        case RollBackSettings():
            return [_rolled_back(_usable(tree, command.budget_id), command, asked)]
        case CloseBudget():
            return [_closed(tree, _usable(tree, command.budget_id))]
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
    _require_period(command.starts_at, command.ends_at)
    opened = BudgetOpened(**command.model_dump(exclude={"pause_agents_at_percent"}))
    if command.pause_agents_at_percent is None:
        return [opened]
    # A setting that came later: what is signed of an opening stays as it always was.
    settings = BudgetSettings(**command.model_dump(include=set(BudgetSettings.model_fields)))
    return [opened, SettingsChanged(budget_id=command.budget_id, settings=settings)]


def _change(budget: Budget, command: ChangeSettings) -> list[BudgetEvent]:
    stated = command.model_dump(exclude={"budget_id"}, exclude_none=True)
    if command.pause_agents_at_percent == 0:
        stated["pause_agents_at_percent"] = None
    settings = budget.settings.model_copy(update=stated)
    _require_period(settings.starts_at, settings.ends_at)
    return [SettingsChanged(budget_id=budget.budget_id, settings=settings)] if settings != budget.settings else []


def _rolled_back(budget: Budget, command: RollBackSettings, asked: Asked) -> SettingsRolledBack:
    require_version(asked, command.to_version)
    past: Budget | None = asked.past.budgets.get(budget.budget_id)
    require(
        past is not None,
        "version_unknown",
        f"At version {command.to_version} of its tree there was no budget {budget.budget_id} yet.",
        field="to_version",
        remedy="Choose a version at or after its opening: `aureus history` shows them.",
    )
    assert past is not None
    settings = restorable(command, budget.settings, past.settings)
    return SettingsRolledBack(
        budget_id=budget.budget_id, to_version=command.to_version, snapshot=settings, snapshot_sha256=settings_digest(settings)
    )


def _closed(tree: BudgetTree, budget: Budget) -> BudgetClosed:
    require(
        budget.reserved_minor == 0,
        "budget_has_reservations",
        f"Budget {budget.budget_id} still holds reservations of {budget.reserved_minor}.",
        reserved_minor=budget.reserved_minor,
        remedy="Commit or release them first.",
    )
    below = sorted(b.budget_id for b in tree.budgets.values() if parent_of(b.budget_id) == budget.budget_id and not b.closed)
    require(not below, "budget_has_children", f"Budgets are open below {budget.budget_id}.", open=below, remedy="Close them first.")
    return BudgetClosed(budget_id=budget.budget_id)


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
        pausing = budget.settings.pause_agents_at_percent
        for percent in sorted({*budget.settings.thresholds_percent, *([pausing] if pausing else [])}):
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


def _require_period(starts_at: datetime | None, ends_at: datetime | None) -> None:
    empty = starts_at is not None and ends_at is not None and starts_at >= ends_at
    require(not empty, "period_is_empty", "The period ends before it starts.", field="ends_at", remedy="Let it end after it starts.")


def _require_in_period(budget: Budget, asked: Asked) -> None:
    starts_at, ends_at = budget.settings.starts_at, budget.settings.ends_at
    started = starts_at is None or starts_at <= asked.at
    ended = ends_at is not None and asked.at >= ends_at
    require(
        started and not ended,
        "outside_budget_period",
        f"Budget {budget.budget_id} is not in its period.",
        budget_id=budget.budget_id,
        starts_at=starts_at and starts_at.isoformat(),
        ends_at=ends_at and ends_at.isoformat(),
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
    return {"currency": currency, "is_root": parent_of(command.budget_id) is None, "amount_up_to": _amount_up_to(command)}


def _amount_up_to(command: BudgetCommand) -> int | None:
    """What is promised or granted, rounded up to two digits: verdicts can be remembered, and a limit of two digits still holds exactly."""
    match command:
        case OpenBudget():
            minor = command.limit_minor
        case FundBudget() | ReserveFunds():
            minor = command.amount_minor
        case _:
            return None
    step: int = 10 ** max(0, len(str(minor)) - 2)
    return -(-minor // step) * step


DECIDER: Decider[BudgetTree, BudgetCommand, BudgetEvent] = Decider(
    context="budgets",
    category="budget",
    initial=BudgetTree(),
    evolve=evolve,
    decide=decide,
    commands=(OpenBudget, FundBudget, ReserveFunds, CommitFunds, ReleaseFunds, ChangeSettings, RollBackSettings, CloseBudget),
    events=(
        BudgetOpened,
        BudgetFunded,
        FundsReserved,
        FundsCommitted,
        FundsReleased,
        ThresholdReached,
        SettingsChanged,
        SettingsRolledBack,
        BudgetClosed,
    ),
    entity=lambda command: root_of(command.budget_id),
    facts=_facts,
    snapshot=snapshot,
)
