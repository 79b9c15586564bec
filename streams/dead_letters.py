"""Dead letters: what a reaction, a sweep or a saga could not do is put on record, whole, and nobody is held up by it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from commands.deciding import MAX_INPUT_BYTES
from commands.path import CommandPath
from commands.reactions import DEAD_LETTERS, RecordDeadLetter
from domain.kernel import Command, JsonObject, Recorded
from domain.reactions import Cause, Failure
from infra.ledger import Ledger
from streams.asking import ask_of, ask_patiently, digest_of
from streams.reactions import Retries, asker

RETRIES: Final = Retries()
_log = logging.getLogger("aureus.reactions")


@dataclass(frozen=True, slots=True)
class NotDone:
    """What was not done: by whom, because of what, and how often it was tried since when. `key` tells it from others of the same kind."""

    reaction: str
    key: str
    failure: Failure
    attempts: int
    since: datetime
    cause: Recorded[Any] | None = None
    command: Command | None = None
    on_behalf_of: str | None = None
    saga_id: str | None = None

    def letter(self) -> RecordDeadLetter:
        return RecordDeadLetter(
            letter_id=letter_id(self.reaction, self.key, self.command),
            reaction=self.reaction,
            cause=cause_of(self.cause) if self.cause else None,
            saga_id=self.saga_id,
            command=self.command.command_name if self.command else None,
            inputs=_kept(self.command) if self.command else None,
            on_behalf_of=self.on_behalf_of,
            code=self.failure.code,
            message=self.failure.message,
            attempts=self.attempts,
            first_tried_at=self.since,
        )


def letter_id(reaction: str, key: str, command: Command | None) -> str:
    """The same thing not done is the same letter, whoever finds it and however often."""
    parts = (reaction, key, digest_of(command) if command else "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def cause_of(recorded: Recorded[Any]) -> Cause:
    return Cause(position=recorded.position, event=recorded.event.event_name, stream=recorded.stream)


def _kept(command: Command) -> JsonObject | None:
    """Its inputs, if they may stand in the ledger whole; what may not is worked out again from the cause."""
    inputs = command.intent()
    personal = any(getattr(command, name) is not None for name in command.personal)
    return None if personal or len(str(inputs)) > MAX_INPUT_BYTES else inputs


class DeadLetters:
    """Puts them on record."""

    def __init__(self, ledger: Ledger, path: CommandPath) -> None:
        self._ledger, self._path = ledger, path

    async def record(self, tenant: str, not_done: NotDone, correlation: UUID | None = None) -> None:
        """Once per letter. One that cannot be recorded is told in the server's log, and its refusal holds it all: it leaves no other."""
        letter = not_done.letter()
        if await self._ledger.read_stream(tenant, f"{DEAD_LETTERS.category}:{letter.letter_id}"):
            return
        ask = ask_of(letter, asker(tenant), None, f"{letter.reaction} could not do it: {letter.code}."[:2_000], correlation)
        reply, _ = await ask_patiently(self._path, lambda _key: ask, "", (), RETRIES)
        if reply.ended == "done":
            _log.warning("%s left dead letter %s: %s (%s)", letter.reaction, letter.letter_id, letter.command, letter.code)
        else:
            _log.error("dead letter %s is not recorded (%s): %s", letter.letter_id, reply.code, letter.model_dump_json())
