"""The one command path: intent validated, policy checked, decided, appended, evidence sealed - for everybody alike.

    IDLE -> INTENT_VALIDATION -> POLICY_CHECK -> EXECUTION -> EVIDENCE_GEN -> COMPLETE | BLOCKED

Every outcome is an event, in the same commit as the facts it led to, and bound to the versions the decision saw: of
what it changes, of the policies it was judged by, and of the agents on whose behalf it was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from commands.approvals import APPROVALS, RequestApproval
from commands.deciding import Deciding, Decision, request_digest
from commands.outcome import Outcome
from commands.policy import PolicyPort
from commands.sight import AnyDecider, Ask, Onlooker, Sight
from commands.states import States, StreamKey
from domain.kernel import Asker, Command, JsonObject, Refused, SignatureCheck, command_digest, never_signed
from domain.ledger import AlreadyAnswered, Conflict, LedgerPort, Receipt

__all__ = ["Ask", "CommandPath", "KeyReused", "VersionMismatch"]

MAX_ATTEMPTS: Final = 6
MAX_ATTEMPTS_TO_RESTRAIN: Final = 100
"""Whoever stops something must not lose to the very storm that is to be stopped."""


class VersionMismatch(Exception):
    """If-Match named another version than the one the stream is at."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"{stream} is at version {actual}, If-Match says {expected}.")
        self.stream, self.expected, self.actual = stream, expected, actual


class KeyReused(Exception):
    """An idempotency key came back with another request."""


class CommandPath:
    """Takes every command of every context."""

    def __init__(
        self, ledger: LedgerPort, policy: PolicyPort, deciders: Iterable[AnyDecider], signed: SignatureCheck = never_signed
    ) -> None:
        """`signed` checks signatures; without it nothing that is signed is believed."""
        self._ledger = ledger
        self._states = States(ledger)
        self._onlooker = Onlooker(ledger, self._states, policy, deciders, signed)
        self.commands: Mapping[str, type[Command]] = self._onlooker.commands
        self.ended: Counter[tuple[str, str]] = Counter()
        """(command, how it ended) -> how often; `failed` when there was no outcome."""

    async def handle(self, ask: Ask) -> Outcome:
        """The outcome, durable when it is returned; a repeated idempotency key gets the first answer again.

        Raises VersionMismatch, KeyReused, Conflict after several attempts, EventTooLarge, ProfileError,
        LedgerUnavailable. A refusal is an outcome, not an exception.
        """
        ended = "failed"
        try:
            outcome = await self._carried_out(ask)
            ended = outcome.outcome
        finally:
            self.ended[ask.command.command_name, ended] += 1
        return outcome

    async def _carried_out(self, ask: Ask) -> Outcome:
        if isinstance(ask.command, RequestApproval) and ask.command.command is not None:
            ask = replace(ask, command=await self._as_of_now(ask.by.tenant, ask.command))
        if ask.signature is not None:
            # What was signed is carried out once: sent again, under whatever key, it gets the first answer.
            ask = replace(ask, idempotency_key=ask.signature.nonce)
        # Told to every attempt, not asked again by each: the ledger keeps the inputs, and the digest is over them.
        inputs = ask.command.intent()
        digest = command_digest(ask.command.command_name, inputs)
        if ask.idempotency_key is None:
            return await self._handled(ask, inputs, digest)
        # One at a time per key: decided side by side, each would build upon another that is going to be refused.
        async with self._states.alone([(ask.by.tenant, f"{ask.idempotency_key} as an idempotency key")]):
            answer = await self._remembered(ask, digest)
            return answer if answer is not None else await self._handled(ask, inputs, digest)

    async def rehearse(self, ask: Ask) -> Outcome:
        """What would become of a command if it were asked now: looked at and decided as ever, and nothing is written."""
        keys = self._keys(ask)
        async with self._states.alone(keys):
            self._states.forget(*keys)
            decision, _ = await self._decided(ask, ask.command.intent(), ask.command.digest(), rehearsed=True)
        return decision.outcome

    def stream_of(self, command: Command, by: Asker) -> StreamKey:
        """The stream that a command is about."""
        return self._onlooker.decider(command).key(command, by)

    async def _as_of_now(self, tenant: str, request: RequestApproval) -> RequestApproval:
        """An approval covers a change of what is there, as today's policies judge it; who requests one by hand means those."""
        known: dict[str, Any] = {}
        if request.policy_version is None:
            known["policy_version"] = await self.policy_version(tenant)
        if request.stream is not None and request.seen_version is None:
            known["seen_version"] = await self._onlooker.version(tenant, request.stream)
        return request.model_copy(update=known)

    async def policy_version(self, tenant: str) -> str:
        """The id of the policies that a tenant's commands are judged by now."""
        return (await self._onlooker.rulebook(tenant))[0].version

    async def _handled(self, ask: Ask, inputs: JsonObject, digest: str) -> Outcome:
        """Decides until the versions a decision saw still hold, a bounded number of times."""
        attempts = MAX_ATTEMPTS_TO_RESTRAIN if ask.command.restrains else MAX_ATTEMPTS
        unkept: Refused | None = None
        for attempt in range(attempts):
            try:
                return await self._attempt(ask, inputs, digest, unkept)
            except Refused as refusal:
                # The vault keeps nothing about who was erased: that no goes on record like any other.
                unkept = refusal
            except AlreadyAnswered:
                answer = await self._remembered(ask, digest)
                assert answer is not None
                return answer
            except Conflict:
                if attempt == attempts - 1:
                    raise
        raise AssertionError("unreachable")

    async def _remembered(self, ask: Ask, digest: str) -> Outcome | None:
        assert ask.idempotency_key is not None
        found = await self._ledger.remembered(ask.by.tenant, ask.idempotency_key)
        if found is None:
            return None
        if found[0] != request_digest(ask, digest):
            raise KeyReused(ask.idempotency_key)
        return Outcome.from_json(found[1])

    async def _attempt(self, ask: Ask, inputs: JsonObject, digest: str, unkept: Refused | None) -> Outcome:
        keys = self._keys(ask)
        async with self._states.alone(keys):
            decision, sight = await self._decided(ask, inputs, digest, unkept)
            # Taking the place in line before the next command decides lets that one build upon this.
            receipt = self._ledger.enqueue(decision.append)
            for moved, moved_key, before, events in decision.moves:
                self._states.move(moved, moved_key, before, events, decision.append.fate)
        return await self._settled(decision, receipt, [*keys, *sight.others])

    def _keys(self, ask: Ask) -> list[StreamKey]:
        """The stream a command is about, and that of the approval it names."""
        keys = [self._onlooker.decider(ask.command).key(ask.command, ask.by)]
        if ask.approval_id is not None:
            keys.append((ask.by.tenant, f"{APPROVALS.category}:{ask.approval_id}"))
        return keys

    async def _decided(
        self, ask: Ask, inputs: JsonObject, digest: str, unkept: Refused | None = None, *, rehearsed: bool = False
    ) -> tuple[Decision, Sight]:
        """The decision on what is there, and what was seen; whoever calls holds the command's streams. `unkept` is why the values
        of an earlier attempt could not be kept."""
        decider = self._onlooker.decider(ask.command)
        key, *approval_key = self._keys(ask)
        seen = await self._states.load(decider, key)
        if ask.if_match is not None and ask.if_match != seen.version:
            # What this process last knew may be behind what others wrote, or ahead of what is durable: the log decides.
            self._states.forget(key)
            seen = await self._states.load(decider, key)
            if ask.if_match != seen.version:
                raise VersionMismatch(key[1], ask.if_match, seen.version)
        approval = await self._states.load(APPROVALS, approval_key[0]) if approval_key else None
        named = approval.state if approval is not None else None
        sight = await self._onlooker.look(ask, decider, key, seen, approval=named, rehearsed=rehearsed)
        return await Deciding(ask, inputs, digest, sight, approval).decide(unkept), sight

    async def _settled(self, decision: Decision, receipt: Any, keys: list[StreamKey]) -> Outcome:
        try:
            settled: Receipt = await receipt
        except BaseException:
            self._states.forget(*keys, *(key for _, key, _, _ in decision.moves))
            raise
        return decision.outcome.place(settled.first_position, settled.last_position)
