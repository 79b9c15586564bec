"""A budget: a limit on money, the parts of it promised to others, and the tree in which no level is ever exceeded.

A budget's id is its path from the root (`eu-lake.ingest.nightly`), so an id alone says which tree it stands in.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, assert_never

from immutables import Map
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

from domain.kernel import Event, JsonObject
from domain.rollback import RolledBack, settings_json
from domain.values import Currency, Identifier, Label, Minor

BudgetId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200)]


def root_of(budget_id: str) -> str:
    return budget_id.partition(".")[0]


def parent_of(budget_id: str) -> str | None:
    return budget_id.rpartition(".")[0] or None


def path_of(budget_id: str) -> tuple[str, ...]:
    """The budget and all above it, root last."""
    parts = budget_id.split(".")
    return tuple(".".join(parts[:length]) for length in range(len(parts), 0, -1))


class BudgetSettings(BaseModel):
    """What of a budget is decided by people and is no money: this a rollback restores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Label
    thresholds_percent: tuple[int, ...] = ()
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    pause_agents_at_percent: int | None = None
    """Of the limit promised and spent: from there on the agents that reserve here are stopped, and whoever opened it is told."""


class BudgetOpened(Event, name="budgets.budget_opened"):
    """A budget exists from now on, at the top of a tree or under a parent of the same tree."""

    budget_id: BudgetId
    label: Label
    currency: Currency
    limit_minor: Minor
    thresholds_percent: tuple[int, ...] = ()
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None


class BudgetFunded(Event, name="budgets.budget_funded"):
    """The limit was raised by an amount."""

    budget_id: BudgetId
    amount_minor: Minor
    limit_minor: Minor


class FundsReserved(Event, name="budgets.funds_reserved"):
    """An amount was promised on a budget and on every budget above it: `path` runs from the budget to the root."""

    budget_id: BudgetId
    reservation_id: Identifier
    amount_minor: Minor
    path: tuple[BudgetId, ...]


class FundsCommitted(Event, name="budgets.funds_committed"):
    """A reservation was spent; what was not needed of it became available again."""

    budget_id: BudgetId
    reservation_id: Identifier
    spent_minor: Minor
    returned_minor: Minor
    path: tuple[BudgetId, ...]


class FundsReleased(Event, name="budgets.funds_released"):
    """A reservation was given back whole."""

    budget_id: BudgetId
    reservation_id: Identifier
    amount_minor: Minor
    path: tuple[BudgetId, ...]


class ThresholdReached(Event, name="budgets.threshold_reached"):
    """Money promised and spent passed a share of the limit for the first time since the limit was last raised."""

    budget_id: BudgetId
    threshold_percent: int
    used_minor: Minor
    limit_minor: Minor


class SettingsChanged(Event, name="budgets.settings_changed", schema=2):
    """The budget's settings read like this from now on."""

    budget_id: BudgetId
    settings: BudgetSettings

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Schema 1 knew no `pause_agents_at_percent`: no budget paused anybody."""
        return data


class SettingsRolledBack(RolledBack, Event, name="budgets.settings_rolled_back", schema=2):
    """The budget's settings are again those it had at an earlier version of its tree; its money is as it was."""

    budget_id: BudgetId
    snapshot: BudgetSettings

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Schema 1 knew no `pause_agents_at_percent`: no budget paused anybody."""
        return data


class BudgetClosed(Event, name="budgets.budget_closed"):
    """Nothing more can be promised on this budget."""

    budget_id: BudgetId


BudgetEvent = (
    BudgetOpened
    | BudgetFunded
    | FundsReserved
    | FundsCommitted
    | FundsReleased
    | ThresholdReached
    | SettingsChanged
    | SettingsRolledBack
    | BudgetClosed
)


@dataclass(frozen=True, slots=True)
class Budget:
    """One node of the tree; amounts are minor units."""

    budget_id: str
    currency: str
    limit_minor: int
    settings: BudgetSettings
    reserved_minor: int = 0
    spent_minor: int = 0
    reached_percent: frozenset[int] = frozenset()
    closed: bool = False

    @property
    def used_minor(self) -> int:
        return self.reserved_minor + self.spent_minor

    @property
    def available_minor(self) -> int:
        return self.limit_minor - self.used_minor


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money promised on a budget and not yet spent or given back."""

    budget_id: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class BudgetTree:
    """All budgets under one root, in one stream: a promise is checked against every level at one moment."""

    budgets: Map[str, Budget] = field(default_factory=Map)
    reservations: Map[str, Reservation] = field(default_factory=Map)
    """Persistent maps: a new state shares all but what changed with the old, however many reservations are open."""
    settings: Map[str, JsonObject] = field(default_factory=Map)
    """Of every budget, as JSON and kept ready, for whoever moves money has a snapshot of them taken."""


def evolve(tree: BudgetTree, event: BudgetEvent) -> BudgetTree:
    match event:
        case BudgetOpened():
            stated = set(BudgetSettings.model_fields) & set(BudgetOpened.model_fields)
            settings = BudgetSettings(**event.model_dump(include=stated))
            return _set(tree, Budget(event.budget_id, event.currency, event.limit_minor, settings))
        case BudgetFunded():
            budget = tree.budgets[event.budget_id]
            return _with(tree, replace(budget, limit_minor=event.limit_minor, reached_percent=frozenset()))
        case FundsReserved():
            tree = _with(tree, *(replace(b, reserved_minor=b.reserved_minor + event.amount_minor) for b in _at(tree, event.path)))
            held = Reservation(event.budget_id, event.amount_minor)
            return replace(tree, reservations=tree.reservations.set(event.reservation_id, held))
        case FundsCommitted():
            held_minor = event.spent_minor + event.returned_minor
            changed = (
                replace(b, reserved_minor=b.reserved_minor - held_minor, spent_minor=b.spent_minor + event.spent_minor)
                for b in _at(tree, event.path)
            )
            return _settle(_with(tree, *changed), event.reservation_id)
        case FundsReleased():
            changed = (replace(b, reserved_minor=b.reserved_minor - event.amount_minor) for b in _at(tree, event.path))
            return _settle(_with(tree, *changed), event.reservation_id)
        case ThresholdReached():
            budget = tree.budgets[event.budget_id]
            return _with(tree, replace(budget, reached_percent=budget.reached_percent | {event.threshold_percent}))
        case SettingsChanged():
            return _set(tree, replace(tree.budgets[event.budget_id], settings=event.settings))
        case SettingsRolledBack():
            return _set(tree, replace(tree.budgets[event.budget_id], settings=event.snapshot))
        case BudgetClosed():
            return _with(tree, replace(tree.budgets[event.budget_id], closed=True))
        case _:
            assert_never(event)


def _at(tree: BudgetTree, path: tuple[str, ...]) -> list[Budget]:
    return [tree.budgets[budget_id] for budget_id in path]


def _with(tree: BudgetTree, *changed: Budget) -> BudgetTree:
    return replace(tree, budgets=tree.budgets.update({budget.budget_id: budget for budget in changed}))


def _set(tree: BudgetTree, budget: Budget) -> BudgetTree:
    """The tree with a budget whose settings are new."""
    return replace(_with(tree, budget), settings=tree.settings.set(budget.budget_id, settings_json(budget.settings)))


def _settle(tree: BudgetTree, reservation_id: str) -> BudgetTree:
    return replace(tree, reservations=tree.reservations.delete(reservation_id))


def snapshot(tree: BudgetTree) -> JsonObject | None:
    """The settings of every budget of the tree by its id, as JSON."""
    return dict(tree.settings) or None
