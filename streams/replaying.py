"""A dead letter is replayed: what it holds is asked for again, as it would have been, and the letter says what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from commands.path import CommandPath
from commands.reactions import DEAD_LETTERS, SettleReplay, StartSaga
from domain.kernel import Command, Recorded, Refused
from domain.reactions import DeadLetterRecorded, DeadLetterReplayRequested, Failure
from infra.ledger import Ledger
from streams.answering import Answering
from streams.asking import AWAY, ask_of, ask_patiently, asker_for, replayed
from streams.dead_letters import RETRIES, letter_id
from streams.process_manager import ProcessManager
from streams.reactions import Reaction, ReadRows
from streams.sagas import Saga, Wanted, next_run

REPLAYS: Final = "dead_letter_is_replayed"


class Replays:
    """Replays the dead letters of these reactions and sagas."""

    def __init__(
        self,
        ledger: Ledger,
        path: CommandPath,
        answering: Answering,
        manager: ProcessManager,
        reactions: Iterable[Reaction],
        sagas: Iterable[Saga],
    ) -> None:
        self._ledger, self._path, self._answering, self._manager = ledger, path, answering, manager
        self._reactions = {reaction.name: reaction for reaction in reactions}
        self._sagas = {saga.name: saga for saga in sagas}
        self.reaction = Reaction(REPLAYS, (DeadLetterReplayRequested,), self._replay)

    async def _replay(self, recorded: Recorded[DeadLetterReplayRequested], reads: ReadRows) -> list[Command]:
        tenant, wanted = recorded.tenant, recorded.event
        letter = (await replayed(self._ledger, DEAD_LETTERS, tenant, recorded.stream))[0]
        if letter.recorded is None or (letter.status, letter.replays) != ("replaying", wanted.replay):
            return []
        done: tuple[str, ...] = ()
        failure = None
        try:
            done = await self._again(letter.recorded, wanted.replay, tenant, recorded.correlation, reads)
        except AWAY:
            raise
        except Refused as refused:
            failure = Failure(code=refused.code, message=str(refused)[:4_000])
        except Exception as error:  # noqa: BLE001 - whatever it is, the letter says so, and waits again
            failure = Failure(code="replay_failed", message=repr(error)[:4_000])
        return [SettleReplay(letter_id=wanted.letter_id, replay=wanted.replay, action_ids=done, failure=failure)]

    async def _again(self, letter: DeadLetterRecorded, replay: int, tenant: str, correlation: UUID, reads: ReadRows) -> tuple[str, ...]:
        """The actions that did it; raises when it is not done."""
        cause = await self._cause(letter)
        reaction = self._reactions.get(letter.reaction)
        if letter.command is None and letter.saga_id is None and reaction is not None and cause is not None:
            wanted = await reaction.react(cause, reads)
            await self._answering.ask_all(reaction, cause, wanted)  # what is refused of it is a dead letter of its own
            return ()
        return (await self._ask(letter, await self._wanted(letter, tenant, cause, reads), replay, tenant, correlation, reads),)

    async def _ask(self, letter: DeadLetterRecorded, wanted: Wanted, replay: int, tenant: str, correlation: UUID, reads: ReadRows) -> str:
        by = await asker_for(self._ledger, reads, tenant, wanted.on_behalf_of)
        reason = f"Replay {replay} of dead letter {letter.letter_id}, of {letter.reaction}."
        reaction = self._reactions.get(letter.reaction)

        def asking(key: str) -> Any:
            return ask_of(wanted.command, by, key, reason, correlation, carry_out=wanted.on_behalf_of is None)

        fine = reaction.fine if reaction else frozenset[str]()
        reply, _ = await ask_patiently(self._path, asking, f"replay:{letter.letter_id}:{replay}", fine, RETRIES)
        if reply.ended not in ("done", "parked") or reply.action_id is None:
            raise Refused(reply.code or "failed", reply.message)
        if isinstance(wanted.command, StartSaga):
            self._manager.take(tenant, wanted.command.saga_id)
        return reply.action_id

    async def _wanted(self, letter: DeadLetterRecorded, tenant: str, cause: Recorded[Any] | None, reads: ReadRows) -> Wanted:
        """What the letter holds; or, where it could not hold it all, what its cause leads to once more."""
        if letter.command is not None and letter.inputs is not None:
            known = self._path.commands.get(letter.command)
            if known is None:
                raise Refused("command_unknown", f"This version of Aureus knows no command {letter.command}.")
            return Wanted(known.model_validate(letter.inputs), letter.on_behalf_of)
        saga, reaction = self._sagas.get(letter.reaction), self._reactions.get(letter.reaction)
        if letter.saga_id is not None and letter.command is None and saga is not None and cause is not None:
            return Wanted(await saga.start(cause, reads.at(cause.position), datetime.now(UTC), next_run(letter.saga_id)))
        candidates: list[tuple[str, Wanted]] = []
        if letter.saga_id is not None:
            candidates = await self._manager.wanted(tenant, letter.saga_id)
        elif reaction is not None and cause is not None:
            candidates = [(str(cause.id), Wanted(command)) for command in await reaction.react(cause, reads)]
        for key, wanted in candidates:
            if letter_id(letter.reaction, key, wanted.command) == letter.letter_id:
                return wanted
        raise Refused("not_wanted_any_more", f"{letter.reaction} does not ask for this {letter.command} any more.")

    async def _cause(self, letter: DeadLetterRecorded) -> Recorded[Any] | None:
        if letter.cause is None:
            return None
        (cause,) = await self._ledger.read(letter.cause.position - 1, 1)
        return cause
