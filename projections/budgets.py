"""Budgets as people read them: limit, reserved, spent and available, at every level, and the open reservations."""

from domain.budgets import (
    BudgetClosed,
    BudgetFunded,
    BudgetOpened,
    FundsCommitted,
    FundsReleased,
    FundsReserved,
    SettingsChanged,
    SettingsRolledBack,
    ThresholdReached,
    parent_of,
    root_of,
)
from domain.kernel import Recorded, timestamp
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class BudgetRow:
    """One budget; amounts in minor units of `currency`."""

    budget_id: str
    root_id: str
    parent_id: str | None
    label: str
    currency: str
    limit_minor: int
    reserved_minor: int
    spent_minor: int
    available_minor: int
    thresholds_percent: list[int]
    reached_percent: list[int]
    starts_at: str | None
    ends_at: str | None
    pause_agents_at_percent: int | None
    status: str
    opened_by: str
    opened_at: str
    changed_at: str


@read_row
class ReservationRow:
    """Money promised on a budget: reserved, then committed or released."""

    reservation_id: str
    budget_id: str
    root_id: str
    amount_minor: int
    spent_minor: int
    status: str
    reserved_by: str
    reserved_at: str
    settled_at: str | None


budgets = ReadTable(
    "budgets",
    BudgetRow,
    filters=("root_id", "parent_id", "currency", "status"),
    sorts=("budget_id", "available_minor", "limit_minor", "changed_at"),
    search=("budget_id", "label"),
    history="busy",
)
reservations = ReadTable(
    "reservations",
    ReservationRow,
    filters=("budget_id", "root_id", "status", "reserved_by"),
    sorts=("reserved_at", "amount_minor"),
)


def _own(
    recorded: Recorded[BudgetOpened | BudgetFunded | BudgetClosed | ThresholdReached | SettingsChanged | SettingsRolledBack],
) -> tuple[str, ...]:
    return (recorded.event.budget_id,)


def _path(recorded: Recorded[FundsReserved | FundsCommitted | FundsReleased]) -> tuple[str, ...]:
    return recorded.event.path


def _reservation(recorded: Recorded[FundsReserved | FundsCommitted | FundsReleased]) -> tuple[str, ...]:
    return (recorded.event.reservation_id,)


def _moved(row: BudgetRow, recorded: Recorded[FundsReserved | FundsCommitted | FundsReleased], reserved: int, spent: int = 0) -> BudgetRow:
    reserved_minor, spent_minor = row.reserved_minor + reserved, row.spent_minor + spent
    return replace(
        row,
        reserved_minor=reserved_minor,
        spent_minor=spent_minor,
        available_minor=row.limit_minor - reserved_minor - spent_minor,
        changed_at=recorded.at_text,
    )


@budgets.on(BudgetOpened, keys=_own)
def opened(_row: None, recorded: Recorded[BudgetOpened], budget_id: str) -> BudgetRow:
    event = recorded.event
    return BudgetRow(
        budget_id=budget_id,
        root_id=root_of(budget_id),
        parent_id=parent_of(budget_id),
        label=event.label,
        currency=event.currency,
        limit_minor=event.limit_minor,
        reserved_minor=0,
        spent_minor=0,
        available_minor=event.limit_minor,
        thresholds_percent=list(event.thresholds_percent),
        reached_percent=[],
        starts_at=timestamp(event.starts_at) if event.starts_at else None,
        ends_at=timestamp(event.ends_at) if event.ends_at else None,
        pause_agents_at_percent=None,
        status="open",
        opened_by=recorded.actor,
        opened_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@budgets.on(BudgetFunded, keys=_own)
def funded(row: BudgetRow, recorded: Recorded[BudgetFunded], _budget_id: str) -> BudgetRow:
    limit_minor = recorded.event.limit_minor
    available_minor = limit_minor - row.reserved_minor - row.spent_minor
    return replace(row, limit_minor=limit_minor, available_minor=available_minor, reached_percent=[], changed_at=recorded.at_text)


@budgets.on(FundsReserved, keys=_path)
def reserved(row: BudgetRow, recorded: Recorded[FundsReserved], _budget_id: str) -> BudgetRow:
    return _moved(row, recorded, recorded.event.amount_minor)


@budgets.on(FundsCommitted, keys=_path)
def committed(row: BudgetRow, recorded: Recorded[FundsCommitted], _budget_id: str) -> BudgetRow:
    event = recorded.event
    return _moved(row, recorded, -event.spent_minor - event.returned_minor, event.spent_minor)


@budgets.on(FundsReleased, keys=_path)
def released(row: BudgetRow, recorded: Recorded[FundsReleased], _budget_id: str) -> BudgetRow:
    return _moved(row, recorded, -recorded.event.amount_minor)


@budgets.on(ThresholdReached, keys=_own)
def threshold_reached(row: BudgetRow, recorded: Recorded[ThresholdReached], _budget_id: str) -> BudgetRow:
    return replace(row, reached_percent=[*row.reached_percent, recorded.event.threshold_percent], changed_at=recorded.at_text)


@budgets.on(SettingsChanged, SettingsRolledBack, keys=_own)
def set_anew(row: BudgetRow, recorded: Recorded[SettingsChanged | SettingsRolledBack], _budget_id: str) -> BudgetRow:
    event = recorded.event
    settings = event.settings if isinstance(event, SettingsChanged) else event.snapshot
    return replace(
        row,
        label=settings.label,
        thresholds_percent=list(settings.thresholds_percent),
        starts_at=timestamp(settings.starts_at) if settings.starts_at else None,
        ends_at=timestamp(settings.ends_at) if settings.ends_at else None,
        pause_agents_at_percent=settings.pause_agents_at_percent,
        changed_at=recorded.at_text,
    )


@budgets.on(BudgetClosed, keys=_own)
def closed(row: BudgetRow, recorded: Recorded[BudgetClosed], _budget_id: str) -> BudgetRow:
    return replace(row, status="closed", changed_at=recorded.at_text)


@reservations.on(FundsReserved, keys=_reservation)
def promised(_row: None, recorded: Recorded[FundsReserved], reservation_id: str) -> ReservationRow:
    event = recorded.event
    return ReservationRow(
        reservation_id=reservation_id,
        budget_id=event.budget_id,
        root_id=root_of(event.budget_id),
        amount_minor=event.amount_minor,
        spent_minor=0,
        status="reserved",
        reserved_by=recorded.actor,
        reserved_at=recorded.at_text,
        settled_at=None,
    )


@reservations.on(FundsCommitted, keys=_reservation)
def spent(row: ReservationRow, recorded: Recorded[FundsCommitted], _reservation_id: str) -> ReservationRow:
    return replace(row, spent_minor=recorded.event.spent_minor, status="committed", settled_at=recorded.at_text)


@reservations.on(FundsReleased, keys=_reservation)
def given_back(row: ReservationRow, recorded: Recorded[FundsReleased], _reservation_id: str) -> ReservationRow:
    return replace(row, status="released", settled_at=recorded.at_text)


PROJECTION = Projection("budgets", (budgets, reservations), version=2)
