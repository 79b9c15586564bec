"""A saga: what takes several steps when something has happened - each asked for like any command, and undone when a later one fails."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from commands.reactions import StartSaga
from domain.kernel import Command, Event, JsonObject, Recorded
from domain.reactions import Answer, Failure, SagaCompensating
from domain.reactions import Saga as Progress
from streams.dead_letters import cause_of
from streams.reactions import Reaction, ReadRows, Retries, modules

PATIENT: Final = Retries(attempts=8, first_seconds=0.2, longest_seconds=60.0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command that a step asks for: on whose behalf, if not the platform's, and with which approval."""

    command: Command
    on_behalf_of: str | None = None
    approval_id: str | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """What a step knows: the cause, everything else as it stood at the cause, and what the saga has come to so far.

    So a step that is asked twice wants the same twice, whatever happened meanwhile: nothing is done twice after a kill.
    """

    cause: Recorded[Any]
    reads: ReadRows
    progress: Progress
    command: Callable[[str, JsonObject], Command]
    """A command from its name and inputs; Refused when they make none."""

    def answers(self, step: str) -> tuple[Answer, ...]:
        return tuple(answer for done in self.progress.done if done.step == step for answer in done.answers)

    def failures(self, step: str) -> tuple[Failure, ...]:
        return tuple(failure for done in self.progress.done if done.step == step for failure in done.failures)

    @property
    def given_up(self) -> SagaCompensating | None:
        """Why it is being undone."""
        return self.progress.compensating


Asking = Callable[[Story], Awaitable[list[Wanted]]]


@dataclass(frozen=True, slots=True)
class Step:
    """Asks for commands. `undo` asks for what makes good a step that was begun: the one that failed, too, for some of it may be done.

    A refusal is final, unless its code is `worth_waiting` for, or `fine`: then nothing is left to do. With `each_alone`, what
    could not be done becomes a dead letter, and the saga goes on with the rest.
    """

    name: str
    ask: Asking
    undo: Asking | None = None
    fine: frozenset[str] = frozenset()
    worth_waiting: frozenset[str] = frozenset()
    each_alone: bool = False


@dataclass(frozen=True, slots=True)
class Saga:
    """Begins when one of the events `on` was recorded and `when` holds; its steps are done one after another, within its time.

    `until` says when its time is over, if that is not `timeout_seconds` after the event.
    """

    name: str
    on: tuple[type[Event], ...]
    when: Callable[[Recorded[Any], ReadRows], Awaitable[bool]]
    steps: tuple[Step, ...]
    timeout_seconds: float
    until: Callable[[Recorded[Any], ReadRows], Awaitable[datetime | None]] | None = None
    retries: Retries = PATIENT

    def beginning(self) -> Reaction:
        """The reaction that begins it."""

        async def begin(recorded: Recorded[Any], reads: ReadRows) -> list[Command]:
            then = reads.at(recorded.position)
            return [await self.start(recorded, then, recorded.at)] if await self.when(recorded, then) else []

        return Reaction(self.name, self.on, begin)

    async def start(self, recorded: Recorded[Any], reads: ReadRows, at: datetime, run: int = 1) -> StartSaga:
        """What begins its `run`-th run because of an event: the same run is always the same saga."""
        deadline_at = await self.until(recorded, reads) if self.until else None
        return StartSaga(
            saga_id=saga_id(self.name, recorded, run),
            saga=self.name,
            cause=cause_of(recorded),
            deadline_at=deadline_at or at + timedelta(seconds=self.timeout_seconds),
        )


def saga_id(name: str, recorded: Recorded[Any], run: int = 1) -> str:
    first = hashlib.sha256(f"{name}\n{recorded.id}".encode()).hexdigest()[:32]
    return first if run == 1 else f"{first}.{run}"


def next_run(saga_id: str) -> int:
    """The number of the run after this one."""
    return int(saga_id.partition(".")[2] or 1) + 1


def sagas(contexts: Iterable[str]) -> tuple[Saga, ...]:
    """Those of every context that has some (`streams.<context>.SAGAS`)."""
    return tuple(saga for module in modules(contexts) for saga in getattr(module, "SAGAS", ()))
