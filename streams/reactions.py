"""Reactions: what Aureus itself asks for when something has happened, or when a time has come - through the one command path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from random import SystemRandom
from typing import Any, Final, Protocol, Self

from domain.access import Actor
from domain.kernel import Asker, Command, Event, Recorded
from domain.reactions import REACTOR
from domain.values import ActorKind, Role
from infra.audit_trail import Trail
from projections.engine import ReadTable

ACTOR: Final = REACTOR
_dice: Final = SystemRandom()


class ReadRows(Protocol):
    """The read models as a reaction sees them: at least up to the event it reacts to."""

    async def tenants(self, table: ReadTable[Any]) -> list[str]:
        """Who has rows in a table."""
        ...

    async def rows(self, table: ReadTable[Any], tenant: str, where: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Every row that has these values in these filters."""
        ...

    async def rows_since(self, table: ReadTable[Any], tenant: str, where: dict[str, Any], moment: str, since: str) -> list[dict[str, Any]]:
        """Those of them whose column `moment`, by which the table can be sorted, is not before `since`; the latest first."""
        ...

    async def row(self, table: ReadTable[Any], tenant: str, row_id: str) -> dict[str, Any] | None: ...

    async def asker(self, tenant: str, known: Actor) -> Asker:
        """An actor as its groups and its grants make it; `known` is what the ledger says of it. Raises Unauthenticated."""
        ...

    def at(self, position: int) -> Self:
        """The same as they stood at a position: whoever looks again there, sees the same again."""
        ...

    async def trail(self, tenant: str, since: datetime, until: datetime) -> Trail:
        """What was done in that time, as the ledger has it."""
        ...


@dataclass(frozen=True, slots=True)
class Retries:
    """How often something is tried, and how long after each failure: twice as long as before, less up to a half by chance."""

    attempts: int = 5
    first_seconds: float = 0.1
    longest_seconds: float = 60.0

    def pause_seconds(self, attempt: int) -> float:
        """How long to wait after the attempt of this number."""
        pause: float = min(self.first_seconds * 2 ** (attempt - 1), self.longest_seconds)
        return pause * _dice.uniform(0.5, 1)


@dataclass(frozen=True, slots=True)
class Reaction:
    """Asks for commands when one of these events was recorded.

    A command is asked for once per event, however often `react` is: whoever was killed half-way asks again, and what
    was carried out is not carried out twice. A refusal with one of the codes in `fine` says that nothing is left to do;
    any other one, and a `react` that keeps failing, becomes a dead letter.
    """

    name: str
    on: tuple[type[Event], ...]
    react: Callable[[Recorded[Any], ReadRows], Awaitable[list[Command]]]
    fine: frozenset[str] = frozenset()


Due = tuple[str, str, Command]
"""(tenant, what makes it the same one when it is found again, command)"""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Looks for what has come due every so many seconds. What is refused becomes a dead letter, unless its code is `fine`."""

    name: str
    every_seconds: float
    find: Callable[[ReadRows, datetime], Awaitable[list[Due]]]
    fine: frozenset[str] = frozenset()


def asker(tenant: str) -> Asker:
    """On whose behalf reactions ask: a service of the platform, bound by the policies like everybody."""
    return Asker(ACTOR, tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)


def reactions(contexts: Iterable[str]) -> tuple[Reaction, ...]:
    """Those of every context that has some (`streams.<context>.REACTIONS`)."""
    return tuple(reaction for module in modules(contexts) for reaction in getattr(module, "REACTIONS", ()))


def sweeps(contexts: Iterable[str]) -> tuple[Sweep, ...]:
    """Those of every context that has some (`streams.<context>.SWEEPS`)."""
    return tuple(sweep for module in modules(contexts) for sweep in getattr(module, "SWEEPS", ()))


def modules(contexts: Iterable[str]) -> list[Any]:
    """`streams.<context>` of every context that has one."""
    names = [f"streams.{context}" for context in contexts]
    return [import_module(name) for name in names if find_spec(name) is not None]
