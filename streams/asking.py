"""Asking for what Aureus does by itself, through the one command path: what came of it, in one word, and whether to try again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal
from uuid import UUID

import psycopg

from commands.access import DECIDER as ACTORS
from commands.outcome import Outcome
from commands.path import Ask, CommandPath, KeyReused, VersionMismatch
from commands.policy import ENGINE
from commands.sight import AnyDecider
from domain.access import Registration
from domain.kernel import Asker, Command, Recorded, Refused, command_digest
from domain.ledger import Conflict, EventTooLarge, LedgerUnavailable
from domain.reactions import Answer, Failure
from domain.values import uuid7
from infra.canonical import ProfileError
from infra.ledger import Ledger
from infra.standing import Unauthenticated
from streams.reactions import ACTOR, ReadRows, Retries, asker

AWAY: Final = (LedgerUnavailable, psycopg.OperationalError)
"""The ledger itself is away: nothing can be done about anything until it is back, so everything waits, and nothing is given up."""
_NEVER: Final[Mapping[type[Exception], str]] = MappingProxyType(
    {KeyReused: "idempotency_key_reused", EventTooLarge: "event_too_large", ProfileError: "validation_failed"}
)
"""What stays as it is, however often it is asked; and its code."""
_log = logging.getLogger("aureus.reactions")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of asking once: done, parked until somebody approves, refused, or not possible at this moment."""

    ended: Literal["done", "parked", "refused", "not_now"]
    command: Command
    stream: str | None = None
    action_id: str | None = None
    """None when it came to no action: nothing was decided."""
    code: str | None = None
    message: str = ""
    version: int = 0
    """Of the stream, now."""

    def answer(self) -> Answer:
        assert self.stream is not None, "what was done changed something"
        assert self.action_id is not None, "what was done was an action"
        return Answer(command=self.command.command_name, stream=self.stream, action_id=self.action_id, code=self.code)

    def failure(self) -> Failure:
        return Failure(command=self.command.command_name, stream=self.stream, code=self.code or "failed", message=self.message[:4_000])


async def ask_once(path: CommandPath, ask: Ask, fine: Collection[str] = ()) -> Reply:
    """Asks, and judges the answer. Raises only what `AWAY` names."""
    command = ask.command
    try:
        outcome = await path.handle(ask)
    except AWAY:
        raise
    except (Conflict, VersionMismatch) as conflict:
        return Reply("not_now", command, conflict.stream, code="conflict", message=str(conflict))
    except tuple(_NEVER) as error:
        return Reply("refused", command, code=_NEVER[type(error)], message=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, others must not wait for it
        _log.warning("%s failed", command.command_name, exc_info=error)
        return Reply("not_now", command, code="failed", message=repr(error))
    return _judged(outcome, command, fine)


def _judged(outcome: Outcome, command: Command, fine: Collection[str]) -> Reply:
    stream, action_id = outcome.stream, outcome.action_id
    if outcome.outcome == "allowed":
        return Reply("done", command, stream, action_id, version=outcome.version)
    if outcome.outcome == "requires_approval":
        return Reply("parked", command, stream, action_id)
    code, message = outcome.code or "refused", outcome.message or ""
    if code in fine:
        return Reply("done", command, stream, action_id, code, message)
    # Refused for want of an answer, not by any policy: the engine may be back in a moment.
    unanswered = [result["policy"] for result in outcome.policy_results] == [ENGINE]
    return Reply("not_now" if unanswered else "refused", command, stream, action_id, code, message)


async def ask_patiently(
    path: CommandPath, asking: Callable[[str], Ask], key: str, fine: Collection[str], retries: Retries
) -> tuple[Reply, int]:
    """Asks until it is decided, a bounded number of times; with the number of attempts.

    An answer is remembered under its key, so what was answered with `not now` is asked again under another key, and only then:
    whoever was killed meanwhile comes by the same keys again, and nothing is carried out twice.
    """
    answered = 1
    for attempt in range(1, retries.attempts + 1):
        reply = await ask_once(path, asking(key if answered == 1 else f"{key}:{answered}"), fine)
        if reply.ended != "not_now" or attempt == retries.attempts:
            return reply, attempt
        answered += reply.action_id is not None
        await asyncio.sleep(retries.pause_seconds(attempt))
    raise AssertionError("unreachable")


def ask_of(command: Command, by: Asker, key: str | None, reason: str, correlation: UUID | None = None, **circumstances: Any) -> Ask:
    return Ask(command, by, uuid7(), datetime.now(UTC), correlation=correlation, idempotency_key=key, reason=reason, **circumstances)


def digest_of(command: Command) -> str:
    return command_digest(command.command_name, command.intent())


async def replayed(ledger: Ledger, decider: AnyDecider, tenant: str, stream: str) -> tuple[Any, list[Recorded[Any]]]:
    """The state of a stream as the ledger itself has it, and its history."""
    history: list[Recorded[Any]] = [*await ledger.read_stream(tenant, stream)]
    return decider.replay(recorded.event for recorded in history), history


async def asker_for(ledger: Ledger, rows: ReadRows, tenant: str, actor: str | None) -> Asker:
    """Aureus itself, or an actor as it may act at this moment; Refused when it cannot act."""
    if actor in (None, ACTOR):
        return asker(tenant)
    registration: Registration = (await replayed(ledger, ACTORS, tenant, f"{ACTORS.category}:{actor}"))[0]
    known = registration.actor
    if known is None or known.suspended:
        raise _cannot_act(actor, "is not registered" if known is None else "has left" if known.offboarded else "is suspended")
    try:
        return await rows.asker(tenant, known)
    except Unauthenticated as refused:
        raise _cannot_act(actor, f"cannot act ({refused.reason})") from refused


def _cannot_act(actor: str | None, why: str) -> Refused:
    return Refused("requester_cannot_act", f"{actor} {why}: nothing is done on their behalf.", remedy="Somebody else has to ask.")
