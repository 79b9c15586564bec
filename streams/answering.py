"""What a reaction wants is asked for: again while that may help, and what cannot be done becomes a dead letter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from commands.path import CommandPath
from domain.kernel import Command, Recorded
from domain.reactions import Failure
from streams.asking import AWAY, ask_of, ask_patiently, digest_of
from streams.dead_letters import DeadLetters, NotDone
from streams.reactions import Due, Reaction, ReadRows, Retries, Sweep, asker

RETRIES: Final = Retries()
ONCE: Final = Retries(attempts=1)
_log = logging.getLogger("aureus.reactions")


class Answering:
    """Asks for what reactions and sweeps want. `done` is told of every command that was carried out."""

    def __init__(self, path: CommandPath, rows: ReadRows, letters: DeadLetters, done: Callable[[str, Command], None]) -> None:
        self._path, self._rows, self._letters, self._done = path, rows, letters, done
        self._failing: set[str] = set()
        """What lately failed for good, a reaction or what it asks for: tried once until it succeeds, so that others need not wait."""

    async def answer(self, reaction: Reaction, recorded: Recorded[Any]) -> None:
        """Does what a reaction wants because of an event, or leaves a dead letter. Raises only when the ledger is away."""
        since = datetime.now(UTC)
        wanted, failure, attempts = await self._react(reaction, recorded)
        if failure is not None:
            not_done = NotDone(reaction.name, str(recorded.id), failure, attempts, since, recorded)
            await self._letters.record(recorded.tenant, not_done, recorded.correlation)
        await self.ask_all(reaction, recorded, wanted)

    async def ask_all(self, reaction: Reaction, recorded: Recorded[Any], wanted: Iterable[Command]) -> None:
        """Each once per event: after a kill the same is asked for again, and answered from memory."""
        for command in wanted:
            await self._ask(reaction, recorded.tenant, str(recorded.id), command, recorded)

    async def find(self, sweep: Sweep) -> list[Due]:
        """What has come due; nothing when the sweep fails, for it looks again."""
        try:
            return await sweep.find(self._rows, datetime.now(UTC))
        except AWAY:
            raise
        except Exception:  # noqa: BLE001 - said with its traceback; the others go on
            _log.exception("sweep %s failed; it looks again in %s seconds", sweep.name, sweep.every_seconds)
            return []

    async def settle(self, sweep: Sweep, due: Due) -> None:
        tenant, key, command = due
        await self._ask(sweep, tenant, key, command, None)

    async def _react(self, reaction: Reaction, recorded: Recorded[Any]) -> tuple[list[Command], Failure | None, int]:
        retries = ONCE if reaction.name in self._failing else RETRIES
        for attempt in range(1, retries.attempts + 1):
            try:
                wanted = await reaction.react(recorded, self._rows)
            except AWAY:
                raise
            except Exception as error:  # noqa: BLE001 - said with its traceback, and left as a dead letter
                _log.exception("reaction %s failed at position %d, attempt %d", reaction.name, recorded.position, attempt)
                if attempt == retries.attempts:
                    self._failing.add(reaction.name)
                    return [], Failure(code="reaction_failed", message=repr(error)[:4_000]), attempt
                await asyncio.sleep(retries.pause_seconds(attempt))
            else:
                self._failing.discard(reaction.name)
                return wanted, None, attempt
        raise AssertionError("unreachable")

    async def _ask(self, wants: Reaction | Sweep, tenant: str, cause: str, command: Command, recorded: Recorded[Any] | None) -> None:
        since = datetime.now(UTC)
        correlation = recorded.correlation if recorded else None
        reason = f"Reaction {wants.name} to position {recorded.position}." if recorded else f"Sweep {wants.name}."

        def asking(key: str) -> Any:
            # Parked, it is carried out when somebody approves: nobody would send it a second time.
            return ask_of(command, asker(tenant), key, reason, correlation, carry_out=True)

        key = f"{wants.name}:{cause}:{digest_of(command)[:32]}"
        asks = f"{wants.name} asks"
        reply, attempts = await ask_patiently(self._path, asking, key, wants.fine, ONCE if asks in self._failing else RETRIES)
        if reply.ended == "not_now":
            self._failing.add(asks)
        else:
            self._failing.discard(asks)
        if reply.ended in ("not_now", "refused"):
            not_done = NotDone(wants.name, cause, reply.failure(), attempts, since, recorded, command)
            await self._letters.record(tenant, not_done, correlation)
        elif reply.ended == "done":
            self._done(tenant, command)
        else:
            _log.info("%s: %s waits for approval %s", wants.name, command.command_name, reply.action_id)
