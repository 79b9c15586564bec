"""Decisions as sentences: `given(DECIDER, *events).when(command).then(*events)` or `.refused(code)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from domain.kernel import Asked, Asker, Command, Decider, Event, Refused
from domain.values import ActorKind, Role

ACTION_ID = UUID("01990000-0000-7000-8000-000000000001")
AT = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)
ANALYST = Asker("usr-ana", "acme", frozenset({Role.ANALYST}))
APPROVER = Asker("usr-app", "acme", frozenset({Role.APPROVER}))
ADMIN = Asker("usr-adm", "acme", frozenset({Role.ADMIN}))
AGENT = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")


@dataclass(frozen=True)
class Given:
    """A history, and the circumstances in which something will be asked."""

    decider: Decider[Any, Any, Any]
    history: Sequence[Event]
    asked: Asked = Asked(ANALYST, AT, ACTION_ID)

    def by(self, asker: Asker) -> Given:
        return replace(self, asked=replace(self.asked, by=asker))

    def at(self, moment: datetime) -> Given:
        return replace(self, asked=replace(self.asked, at=moment))

    def beside(self, **others: Any) -> Given:
        """With other streams in these states, for a command that relies on them: `.beside(**{"agent:agt-bot": Agent()})`."""
        return replace(self, asked=replace(self.asked, others=others))

    def when(self, command: Command) -> Then:
        state = self.decider.replay(self.history)
        try:
            return Then(self, tuple(self.decider.decide(state, command, self._asked(command))), None)
        except Refused as refusal:
            return Then(self, (), refusal)

    def _asked(self, command: Command) -> Asked:
        """With the version it is decided on, and the past state that the command names, as the command path gives them."""
        past, there = command.past_version(), len(self.history)
        state = self.decider.replay(self.history[:past]) if past is not None and 1 <= past <= there else None
        return replace(self.asked, past=state, version=there)


@dataclass(frozen=True)
class Then:
    """What a command led to."""

    given: Given
    events: tuple[Event, ...]
    refusal: Refused | None

    def then(self, *expected: Event) -> None:
        assert self.refusal is None, f"refused: {self.refusal.code}: {self.refusal}"
        assert self.events == expected
        self.given.decider.replay([*self.given.history, *self.events])

    def refused(self, code: str, **facts: Any) -> None:
        assert self.refusal is not None, f"expected the refusal {code}, got {self.events}"
        assert self.refusal.code == code
        assert {key: self.refusal.facts.get(key) for key in facts} == facts


def given(decider: Decider[Any, Any, Any], *history: Event) -> Given:
    return Given(decider, history)
