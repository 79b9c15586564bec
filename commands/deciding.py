"""One attempt to decide one command on what it sees: allowed, blocked or parked, with the events that say so."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from commands.approvals import APPROVALS, LONGEST_LIFETIME, RequestApproval, UseApproval
from commands.carrying_out import require_possible
from commands.outcome import Outcome, approval_json, results_json
from commands.policy import Verdict
from commands.sight import AnyDecider, Ask, Sight
from commands.states import Seen, StreamKey
from domain.actions import (
    ActionAllowed,
    ActionBlocked,
    ActionParked,
    GuardState,
    GuardStep,
    Intent,
    Output,
    PolicyResult,
    RequestSignature,
    Snapshot,
)
from domain.approvals import ApprovalType
from domain.kernel import Event, JsonObject, Refused, json_digest, require
from domain.keys import holder_of, request_message
from domain.ledger import Append, Remember, StreamWrite

MAX_INPUT_BYTES: Final = 16_384
MAX_DESCRIPTION: Final = 4_000
SIGNATURE_AGE_MAX: Final = timedelta(minutes=5)
_APPROVAL_TYPES: Final[Mapping[str, ApprovalType]] = {
    "catalog.register_dataset": "dataset_onboard",
    "catalog.sync_dataset": "dataset_onboard",
    "pipelines.deploy_version": "pipeline_deploy",
    "policies.activate_policies": "policy_change",
    "policies.retire_policy": "policy_change",
    "policies.roll_back_policies": "policy_change",
    "agents.request_action": "pii_access",
}
"""What the platform's people call an approval of these; any other is of type `action`."""
Move = tuple[AnyDecider, StreamKey, Seen, tuple[Event, ...]]
"""Events for a stream, and the state they were decided on."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What will be written if the versions still hold, and how the states move then."""

    outcome: Outcome
    append: Append
    moves: tuple[Move, ...]


class Deciding:
    """Decides an ask on a sight. `approval` is the one it names, `inputs` and `digest` say what exactly is asked."""

    def __init__(self, ask: Ask, inputs: JsonObject, digest: str, sight: Sight, approval: Seen | None) -> None:
        self._ask, self._inputs, self._digest, self._sight = ask, inputs, digest, sight
        self._approval = approval
        self._action_id = str(ask.action_id)
        self._results: tuple[PolicyResult, ...] = ()
        self._question: JsonObject | None = None
        self._signed: RequestSignature | None = None
        self._guard: list[GuardStep] = [("IDLE", 0)]
        self._enter("INTENT_VALIDATION")

    def _enter(self, state: GuardState) -> None:
        self._guard.append((state, self._ask.elapsed_us()))

    async def decide(self, unkept: Refused | None = None) -> Decision:
        """`unkept` blocks what would be allowed: why the personal values of an earlier attempt could not be kept."""
        ask, sight = self._ask, self._sight
        name = ask.command.command_name
        if sight.barred is not None:
            return self._blocked(sight.barred.code, sight.barred.message, sight.barred.facts, denied=True)
        if sight.stopped is not None:
            message = f"{sight.stopped} was stopped: neither it nor whoever it delegated to acts until it is resumed."
            remedy = "Ask an administrator to resume it."
            return self._blocked("agent_stopped", message, {"agent": sight.stopped, "remedy": remedy}, denied=True)
        unsigned = self._unsigned()
        if unsigned is not None:
            return self._blocked(unsigned.code, unsigned.message, unsigned.facts, denied=True)
        if not ask.by.in_scope(name):
            message = f"The credential that was shown is not for {name}."
            facts = {"field": "scopes", "rule": name, "scopes": sorted(ask.by.scopes or ())}
            remedy = "Use a key with this scope, or log in."
            return self._blocked("scope_missing", message, {**facts, "remedy": remedy}, denied=True)
        if sight.beyond is not None:
            return self._blocked(sight.beyond.code, sight.beyond.message, sight.beyond.facts, denied=True)
        if sight.apart is not None and not ask.command.restrains:
            return self._blocked(sight.apart.code, sight.apart.message, sight.apart.facts, denied=True)
        self._enter("POLICY_CHECK")
        self._question = sight.question(ask)
        verdict = await sight.rulebook.check(self._question)
        self._results = verdict.results
        if verdict.outcome == "block" and not (ask.command.restrains and verdict.unanswered):
            reasons = [f"{result.policy}: {result.reason.removesuffix('.')}" for result in verdict.results if result.outcome == "block"]
            message = f"Policy refuses {name}: {'; '.join(reasons)}."
            facts = {"policy_version": sight.rulebook.version, "remedy": "Read what these policies say, or ask whoever owns them."}
            return self._blocked("policy_blocked", message, facts, denied=True)
        try:
            parks = verdict.outcome == "require_approval" and ask.approval_id is None
            require_possible(ask, sight, signs=self._signed is not None, parks=parks)
            if parks:
                return self._parked(verdict)
            if unkept is not None:
                raise unkept
            return self._allowed(verdict)
        except Refused as refusal:
            return self._blocked(refusal.code, refusal.message, refusal.facts)

    def _unsigned(self) -> Refused | None:
        """Why the actor's signature does not hold, or that it is missing: who has a key of its own signs whatever it asks."""
        ask, sight, signature = self._ask, self._sight, self._ask.signature
        keys = {key.key_id: key for key in sight.ring.by_actor.get(holder_of(ask.by.tenant, ask.by.actor), ())}
        if signature is None:
            message = f"{ask.by.actor} has a key of its own, so it signs what it asks."
            remedy = "Sign the request with that key (Aureus-Signature), or have the key revoked."
            return Refused("signature_missing", message, field="Aureus-Signature", remedy=remedy) if keys else None
        by, asked = ask.by, sight.asked
        said = (asked.ledger, by.tenant, by.actor, ask.command.command_name, self._digest, signature.nonce, signature.at)
        key = keys.get(signature.key_id)
        if key is None or not asked.signed(b64decode(key.public), request_message(*said), b64decode(signature.sig)):
            message = f"The signature is not that of a key of {by.actor}, in force, over exactly this command."
            remedy = "Sign the digest of the command as it is sent, for this ledger, tenant and actor."
            facts = {"key_id": signature.key_id, "digest": self._digest, "remedy": remedy}
            return Refused("signature_invalid", message, field="Aureus-Signature", **facts)
        if abs(ask.at - datetime.fromisoformat(signature.at)) > SIGNATURE_AGE_MAX:
            message = f"The signature is of {signature.at}; it is taken for {SIGNATURE_AGE_MAX.seconds // 60} minutes."
            return Refused("signature_stale", message, field="Aureus-Signature", remedy="Set the clock, and sign the request again.")
        self._signed = signature
        return None

    def _allowed(self, verdict: Verdict) -> Decision:
        ask, sight = self._ask, self._sight
        used = self._used_approval(verdict)
        self._enter("EXECUTION")
        events: tuple[Event, ...] = tuple(sight.decider.decide(sight.seen.state, ask.command, sight.asked))
        self._enter("EVIDENCE_GEN")
        self._require_evidence(verdict)
        stream, version = sight.key[1], sight.seen.version
        outputs = tuple(Output(type=event.event_name, stream=stream, version=version + index + 1) for index, event in enumerate(events))
        snapshot = self._snapshot() if events else None
        self._enter("COMPLETE")
        allowed = ActionAllowed(
            **self._ended(),
            outputs=outputs,
            artifacts=sight.evidence.artifacts,
            approval_id=ask.approval_id if used else None,
            snapshot=snapshot,
        )
        told = tuple({"type": event.event_name, "version": version + i + 1, "data": event.told()} for i, event in enumerate(events))
        outcome = self._outcome("allowed", version=version + len(events), events=told)
        moves: list[Move] = [(sight.decider, sight.key, sight.seen, events)] if events else []
        return self._decision(outcome, allowed, [*moves, *used])

    def _snapshot(self) -> Snapshot | None:
        seen = self._sight.seen
        settings = self._sight.decider.snapshot(seen.state) if seen.version else None
        return None if settings is None else Snapshot(stream=self._sight.key[1], version=seen.version, sha256=json_digest(settings))

    def _require_evidence(self, verdict: Verdict) -> None:
        missing = sorted(set(verdict.required_evidence) - set(self._sight.evidence.kinds))
        require(
            not missing,
            "evidence_incomplete",
            f"{self._ask.command.command_name} completes only with evidence of the kinds {', '.join(sorted(verdict.required_evidence))}; "
            f"missing: {', '.join(missing)}.",
            field="Aureus-Evidence",
            required=sorted(verdict.required_evidence),
            missing=missing,
            failed_tests=self._sight.evidence.failed_tests,
            remedy="Store each as an artifact (a test result must have no failures) and name their hashes in Aureus-Evidence.",
        )

    def _used_approval(self, verdict: Verdict) -> list[Move]:
        """The approval's own event, when the action needs one; Refused when it does not cover exactly this action."""
        ask = self._ask
        if verdict.outcome != "require_approval" or ask.approval_id is None:
            return []
        assert self._approval is not None
        use = UseApproval(
            approval_id=ask.approval_id,
            action_digest=self._digest,
            seen_version=self._sight.seen.version,
            policy_version=self._sight.rulebook.version,
            approver_roles=verdict.approver_roles,
            quorum=verdict.quorum,
            left=tuple(sorted(self._sight.left)),
        )
        events = tuple(APPROVALS.decide(self._approval.state, use, self._sight.asked))
        return [(APPROVALS, (ask.by.tenant, APPROVALS.stream(use)), self._approval, events)]

    def _parked(self, verdict: Verdict) -> Decision:
        ask, sight = self._ask, self._sight
        # What the context's own rules refuse needs nobody's approval: asked now, for nothing but that.
        sight.decider.decide(sight.seen.state, ask.command, sight.asked)
        request = RequestApproval(
            approval_id=self._action_id,
            type=_APPROVAL_TYPES.get(ask.command.command_name, "action"),
            description=_why(verdict),
            risk_level="high" if verdict.quorum > 1 else "medium",
            command=ask.command.command_name,
            inputs=self._inputs,
            stream=sight.key[1],
            seen_version=sight.seen.version,
            policy_version=sight.rulebook.version,
            approver_roles=verdict.approver_roles,
            quorum=verdict.quorum,
            expires_at=ask.at + min(timedelta(seconds=verdict.approval_ttl_seconds), LONGEST_LIFETIME),
            carry_out=ask.carry_out or None,
        )
        requested = tuple(APPROVALS.decide(APPROVALS.initial, request, sight.asked))
        parked = ActionParked(
            **self._ended(),
            approval_id=self._action_id,
            approver_roles=verdict.approver_roles,
            quorum=verdict.quorum,
            artifacts=sight.evidence.artifacts,
            required_evidence=verdict.required_evidence,
        )
        outcome = self._outcome("requires_approval", approval=approval_json(parked, carry_out=ask.carry_out))
        key = (ask.by.tenant, APPROVALS.stream(request))
        return self._decision(outcome, parked, [(APPROVALS, key, Seen(0, APPROVALS.initial), requested)])

    def _blocked(self, code: str, message: str, facts: JsonObject, *, denied: bool = False) -> Decision:
        self._enter("BLOCKED")
        blocked = ActionBlocked(**self._ended(), code=code, message=message, facts=facts, artifacts=self._sight.evidence.artifacts)
        return self._decision(self._outcome("blocked", code=code, message=message, facts=facts, denied=denied), blocked, [])

    def _ended(self) -> dict[str, Any]:
        """What the event of every ending holds."""
        return {
            "intent": self._intent(),
            "policy_version": self._sight.rulebook.version,
            "policy_results": self._results,
            "guard": tuple(self._guard),
            "question": self._question,
            "signature": self._signed,
        }

    def _outcome(self, outcome: Any, **more: Any) -> Outcome:
        sight = self._sight
        version = more.pop("version", sight.seen.version)
        return Outcome(self._action_id, outcome, sight.key[1], version, policy_results=results_json(self._results), **more)

    def _intent(self) -> Intent:
        ask, sight = self._ask, self._sight
        inputs = self._inputs
        if len(str(inputs)) > MAX_INPUT_BYTES:
            # The facts hold it all; one copy of a large command is enough, and its digest binds it here.
            inputs = {"sha256_of_large_inputs": self._digest}
        return Intent(
            command=ask.command.command_name,
            digest=self._digest,
            stream=sight.key[1],
            seen_version=sight.seen.version,
            roles=tuple(sorted(sight.asked.by.roles)),
            kind=ask.by.kind,
            inputs=inputs,
            reason=ask.reason,
        )

    def _decision(self, outcome: Outcome, action: Event, moves: list[Move]) -> Decision:
        ask, sight = self._ask, self._sight
        written = [
            StreamWrite(
                key[1],
                seen.version,
                events,
                fresh=seen.version == 0 and key[1].endswith(self._action_id),
                tenant=None if key[0] == ask.by.tenant else key[0],
            )
            for _, key, seen, events in moves
        ]
        keys = {key for _, key, _, _ in moves}
        reads = [(key, seen.version) for key, seen in sight.others.items() if key not in keys]
        if sight.key not in keys:
            reads.append((sight.key, sight.seen.version))
        span = 1 + sum(len(write.events) for write in written)
        remember = None
        if ask.idempotency_key is not None:
            digest = request_digest(ask, self._digest)
            remember = Remember(ask.idempotency_key, digest, lambda first: outcome.place(first, first + span - 1).to_json())
        relied_on = (sight.seen, *sight.others.values(), *(seen for _, _, seen, _ in moves))
        append = Append(
            tenant=ask.by.tenant,
            actor=ask.by.actor,
            writes=(*written, StreamWrite(f"action:{self._action_id}", 0, (action,), fresh=True)),
            correlation=ask.correlation or ask.action_id,
            causation=ask.action_id,
            reads=tuple(reads),
            remember=remember,
            upon=tuple(seen.fate for seen in relied_on if seen.fate is not None),
        )
        return Decision(outcome, append, tuple(moves))


def request_digest(ask: Ask, digest: str) -> bytes:
    """An idempotency key stands for one command of one actor."""
    wanted = f"{ask.by.actor}\n{digest}\n{ask.if_match}\n{ask.approval_id}"
    return hashlib.sha256((f"{wanted}\ncarry out" if ask.carry_out else wanted).encode()).digest()


def _why(verdict: Verdict) -> str:
    reasons = "; ".join(result.reason for result in verdict.results if result.outcome == "require_approval")
    return reasons[:MAX_DESCRIPTION] or "A policy asks for it."
