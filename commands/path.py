"""The one command path: intent validated, policy checked, decided, appended, evidence sealed - for everybody alike.

    IDLE -> INTENT_VALIDATION -> POLICY_CHECK -> EXECUTION -> EVIDENCE_GEN -> COMPLETE | BLOCKED

Every outcome is an event, in the same commit as the facts it led to, and bound to the versions the decision saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from commands.approvals import LONGEST_LIFETIME, RequestApproval, UseApproval
from commands.outcome import Outcome, approval_json, results_json
from commands.policy import PolicyPort, Verdict
from commands.states import Seen, States, StreamKey
from domain.actions import ActionAllowed, ActionBlocked, ActionParked, Intent, Output, PolicyResult
from domain.kernel import Asked, Asker, Command, Decider, Event, JsonObject, Refused, command_digest
from domain.ledger import AlreadyAnswered, Append, Conflict, LedgerPort, Receipt, Remember, StreamWrite

MAX_ATTEMPTS: Final = 6
MAX_INPUT_BYTES: Final = 16_384
MAX_DESCRIPTION: Final = 4_000
_ONBOARDING: Final = frozenset({"catalog.register_dataset", "catalog.sync_dataset"})
AnyDecider = Decider[Any, Any, Any]


class VersionMismatch(Exception):
    """If-Match named another version than the one the stream is at."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"{stream} is at version {actual}, If-Match says {expected}.")
        self.stream, self.expected, self.actual = stream, expected, actual


class KeyReused(Exception):
    """An idempotency key came back with another request."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A command with its circumstances, as the edge hands it over."""

    command: Command
    by: Asker
    action_id: UUID
    at: datetime
    correlation: UUID | None = None
    if_match: int | None = None
    idempotency_key: str | None = None
    approval_id: str | None = None
    reason: str | None = None
    artifacts: tuple[str, ...] = ()

    @property
    def asked(self) -> Asked:
        return Asked(self.by, self.at, self.action_id)


@dataclass(frozen=True, slots=True)
class _Decision:
    """What will be written if the versions still hold, and how the states move then."""

    outcome: Outcome
    append: Append
    moves: tuple[tuple[AnyDecider, StreamKey, Seen, tuple[Event, ...]], ...]


class CommandPath:
    """Takes every command of every context. `deciders` are all there are; approvals are needed by name."""

    def __init__(self, ledger: LedgerPort, policy: PolicyPort, deciders: Iterable[AnyDecider]) -> None:
        self._ledger, self._policy = ledger, policy
        self._states = States(ledger)
        self._deciders: dict[type[Command], AnyDecider] = {command: decider for decider in deciders for command in decider.commands}
        self._approvals = self._deciders[RequestApproval]

    async def handle(self, ask: Ask) -> Outcome:
        """The outcome, durable when it is returned; a repeated idempotency key gets the first answer again.

        Raises VersionMismatch, KeyReused, Conflict after several attempts, EventTooLarge, ProfileError,
        LedgerUnavailable. A refusal is an outcome, not an exception.
        """
        ask = self._under_these_policies(ask)
        # Told to every attempt, not asked again by each: the ledger keeps the inputs, and the digest is over them.
        inputs = ask.command.intent()
        digest = command_digest(ask.command.command_name, inputs)
        if ask.idempotency_key is None:
            return await self._handled(ask, inputs, digest)
        # One at a time per key: decided side by side, each would build upon another that is going to be refused.
        async with self._states.alone([(ask.by.tenant, f"{ask.idempotency_key} as an idempotency key")]):
            answer = await self._remembered(ask, digest)
            return answer if answer is not None else await self._handled(ask, inputs, digest)

    async def _handled(self, ask: Ask, inputs: JsonObject, digest: str) -> Outcome:
        """Decides until the versions a decision saw still hold, a bounded number of times."""
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._attempt(ask, inputs, digest)
            except AlreadyAnswered:
                answer = await self._remembered(ask, digest)
                assert answer is not None
                return answer
            except Conflict:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _under_these_policies(self, ask: Ask) -> Ask:
        """An approval covers an action as today's policies judge it; who requests one by hand means those."""
        request = ask.command
        if isinstance(request, RequestApproval) and request.command is not None and request.policy_version is None:
            return replace(ask, command=request.model_copy(update={"policy_version": self.policy_version}))
        return ask

    async def _remembered(self, ask: Ask, digest: str) -> Outcome | None:
        assert ask.idempotency_key is not None
        found = await self._ledger.remembered(ask.by.tenant, ask.idempotency_key)
        if found is None:
            return None
        if found[0] != _request_digest(ask, digest):
            raise KeyReused(ask.idempotency_key)
        return Outcome.from_json(found[1])

    async def _attempt(self, ask: Ask, inputs: JsonObject, digest: str) -> Outcome:
        decider = self._deciders[type(ask.command)]
        key = (ask.by.tenant, decider.stream(ask.command))
        keys = [key] if ask.approval_id is None else [key, (ask.by.tenant, f"{self._approvals.category}:{ask.approval_id}")]
        async with self._states.alone(keys):
            seen = await self._states.load(decider, key)
            if ask.if_match is not None and ask.if_match != seen.version:
                # What this process last knew may be behind what others wrote, or ahead of what is durable: the log decides.
                self._states.forget(key)
                seen = await self._states.load(decider, key)
                if ask.if_match != seen.version:
                    raise VersionMismatch(key[1], ask.if_match, seen.version)
            decision = await _Deciding(self, ask, inputs, digest, decider, key, seen).decide()
            # Taking the place in line before the next command decides lets that one build upon this.
            receipt = self._ledger.enqueue(decision.append)
            for moved, moved_key, before, events in decision.moves:
                self._states.move(moved, moved_key, before, events, decision.append.fate)
        return await self._settled(decision, receipt, keys)

    async def _settled(self, decision: _Decision, receipt: Any, keys: list[StreamKey]) -> Outcome:
        try:
            settled: Receipt = await receipt
        except BaseException:
            self._states.forget(*keys, *(key for _, key, _, _ in decision.moves))
            raise
        return decision.outcome.place(settled.first_position, settled.last_position)

    # -- what deciding needs to know

    async def verdict(self, ask: Ask, decider: AnyDecider, seen: Seen) -> Verdict:
        question = {
            "action": ask.command.command_name,
            "actor": {"roles": sorted(ask.by.roles), "kind": ask.by.kind.value},
            "tenant": ask.by.tenant,
            "facts": decider.facts(seen.state, ask.command),
            "has_reason": bool(ask.reason),
        }
        return await self._policy.check(question)

    @property
    def policy_version(self) -> str:
        return self._policy.version

    async def approval(self, tenant: str, approval_id: str) -> tuple[AnyDecider, StreamKey, Seen]:
        key = (tenant, f"{self._approvals.category}:{approval_id}")
        return self._approvals, key, await self._states.load(self._approvals, key)


class _Deciding:
    """One attempt to decide one command on the versions it sees."""

    def __init__(
        self, path: CommandPath, ask: Ask, inputs: JsonObject, digest: str, decider: AnyDecider, key: StreamKey, seen: Seen
    ) -> None:
        self._path, self._ask, self._decider, self._key, self._seen = path, ask, decider, key, seen
        self._inputs, self._digest = inputs, digest
        self._action_id = str(ask.action_id)
        self._policy_version = path.policy_version
        self._results: tuple[PolicyResult, ...] = ()

    async def decide(self) -> _Decision:
        ask = self._ask
        if not ask.by.roles & ask.command.roles:
            needed = sorted(role.value for role in ask.command.roles)
            message = f"{ask.command.command_name} needs one of the roles {', '.join(needed)}."
            return self._blocked("role_missing", message, {"roles_needed": needed, "remedy": "Ask somebody who holds one."}, denied=True)
        verdict = await self._path.verdict(ask, self._decider, self._seen)
        self._results = verdict.results
        if verdict.outcome == "block":
            reasons = [f"{result.policy}: {result.reason}" for result in verdict.results if result.outcome == "block"]
            message = f"Policy refuses {ask.command.command_name}: {'; '.join(reasons)}."
            return self._blocked("policy_blocked", message, {"policy_version": self._policy_version}, denied=True)
        try:
            if verdict.outcome == "require_approval" and ask.approval_id is None:
                return await self._parked(verdict)
            return await self._allowed(verdict)
        except Refused as refusal:
            return self._blocked(refusal.code, refusal.message, refusal.facts)

    async def _allowed(self, verdict: Verdict) -> _Decision:
        ask = self._ask
        used, approval_move = await self._use_approval(verdict)
        events: tuple[Event, ...] = tuple(self._decider.decide(self._seen.state, ask.command, ask.asked))
        stream, version = self._key[1], self._seen.version
        outputs = tuple(Output(type=event.event_name, stream=stream, version=version + index + 1) for index, event in enumerate(events))
        allowed = ActionAllowed(
            intent=self._intent(),
            policy_version=self._policy_version,
            policy_results=self._results,
            outputs=outputs,
            artifacts=ask.artifacts,
            approval_id=ask.approval_id if used else None,
        )
        told = tuple({"type": event.event_name, "version": version + i + 1, "data": event.told()} for i, event in enumerate(events))
        outcome = Outcome(
            action_id=self._action_id,
            outcome="allowed",
            stream=stream,
            version=version + len(events),
            events=told,
            policy_results=results_json(self._results),
        )
        moves = [(self._decider, self._key, self._seen, events)] if events else []
        moves += [approval_move] if approval_move else []
        return self._decision(outcome, allowed, moves)

    async def _use_approval(self, verdict: Verdict) -> tuple[bool, tuple[AnyDecider, StreamKey, Seen, tuple[Event, ...]] | None]:
        """The approval's own event, when the action needs one; Refused when it does not cover exactly this action."""
        ask = self._ask
        if verdict.outcome != "require_approval" or ask.approval_id is None:
            return False, None
        approvals, key, seen = await self._path.approval(ask.by.tenant, ask.approval_id)
        use = UseApproval(
            approval_id=ask.approval_id,
            action_digest=self._digest,
            policy_version=self._policy_version,
            approver_roles=verdict.approver_roles,
            quorum=verdict.quorum,
        )
        return True, (approvals, key, seen, tuple(approvals.decide(seen.state, use, ask.asked)))

    async def _parked(self, verdict: Verdict) -> _Decision:
        ask = self._ask
        # What the context's own rules refuse needs nobody's approval: asked now, for nothing but that.
        self._decider.decide(self._seen.state, ask.command, ask.asked)
        approval_id = self._action_id
        approvals, key, _ = await self._path.approval(ask.by.tenant, approval_id)
        request = RequestApproval(
            approval_id=approval_id,
            type="dataset_onboard" if ask.command.command_name in _ONBOARDING else "action",
            description=_why(verdict),
            risk_level="high" if verdict.quorum > 1 else "medium",
            command=ask.command.command_name,
            inputs=self._inputs,
            stream=self._key[1],
            policy_version=self._policy_version,
            approver_roles=verdict.approver_roles,
            quorum=verdict.quorum,
            expires_at=ask.at + min(timedelta(seconds=verdict.approval_ttl_seconds), LONGEST_LIFETIME),
        )
        requested = tuple(approvals.decide(approvals.initial, request, ask.asked))
        parked = ActionParked(
            intent=self._intent(),
            policy_version=self._policy_version,
            policy_results=self._results,
            approval_id=approval_id,
            approver_roles=verdict.approver_roles,
            quorum=verdict.quorum,
            artifacts=ask.artifacts,
        )
        outcome = Outcome(
            action_id=self._action_id,
            outcome="requires_approval",
            stream=self._key[1],
            version=self._seen.version,
            policy_results=results_json(self._results),
            approval=approval_json(parked),
        )
        return self._decision(outcome, parked, [(approvals, key, Seen(0, approvals.initial), requested)])

    def _blocked(self, code: str, message: str, facts: JsonObject, *, denied: bool = False) -> _Decision:
        blocked = ActionBlocked(
            intent=self._intent(),
            policy_version=self._policy_version,
            policy_results=self._results,
            code=code,
            message=message,
            facts=facts,
            artifacts=self._ask.artifacts,
        )
        outcome = Outcome(
            action_id=self._action_id,
            outcome="blocked",
            stream=self._key[1],
            version=self._seen.version,
            policy_results=results_json(self._results),
            code=code,
            message=message,
            facts=facts,
            denied=denied,
        )
        return self._decision(outcome, blocked, [])

    def _intent(self) -> Intent:
        ask = self._ask
        inputs = self._inputs
        if len(str(inputs)) > MAX_INPUT_BYTES:
            # The facts hold it all; one copy of a large command is enough, and its digest binds it here.
            inputs = {"sha256_of_large_inputs": self._digest}
        return Intent(
            command=ask.command.command_name,
            digest=self._digest,
            stream=self._key[1],
            seen_version=self._seen.version,
            roles=tuple(sorted(ask.by.roles)),
            kind=ask.by.kind,
            inputs=inputs,
            reason=ask.reason,
        )

    def _decision(self, outcome: Outcome, action: Event, moves: list[Any]) -> _Decision:
        ask = self._ask
        written = [
            StreamWrite(key[1], seen.version, events, fresh=seen.version == 0 and key[1].endswith(self._action_id))
            for _, key, seen, events in moves
        ]
        action_write = StreamWrite(f"action:{self._action_id}", 0, (action,), fresh=True)
        relied_on = () if any(write.stream == self._key[1] for write in written) else ((self._key[1], self._seen.version),)
        span = 1 + sum(len(write.events) for write in written)
        remember = None
        if ask.idempotency_key is not None:
            digest = _request_digest(ask, self._digest)
            remember = Remember(ask.idempotency_key, digest, lambda first: outcome.place(first, first + span - 1).to_json())
        append = Append(
            tenant=ask.by.tenant,
            actor=ask.by.actor,
            writes=(*written, action_write),
            correlation=ask.correlation or ask.action_id,
            causation=ask.action_id,
            reads=relied_on,
            remember=remember,
            upon=tuple(seen.fate for seen in (self._seen, *(seen for _, _, seen, _ in moves)) if seen.fate is not None),
        )
        return _Decision(outcome, append, tuple(moves))


def _why(verdict: Verdict) -> str:
    reasons = "; ".join(result.reason for result in verdict.results if result.outcome == "require_approval")
    return reasons[:MAX_DESCRIPTION] or "A policy asks for it."


def _request_digest(ask: Ask, digest: str) -> bytes:
    """An idempotency key stands for one command of one actor."""
    return hashlib.sha256(f"{ask.by.actor}\n{digest}\n{ask.if_match}\n{ask.approval_id}".encode()).digest()
