"""Evidence as people read it: the audit log of every action, the pack of each, what is sealed of them, and their artifacts."""

from dataclasses import dataclass
from typing import Final, assert_never

from domain.actions import ActionAllowed, ActionBlocked, ActionEvent, ActionParked
from domain.evidence import ArtifactRegistered, PackSealed
from domain.kernel import JsonObject, Recorded
from projections.engine import Projection, ReadTable, read_row


@read_row
class ActionRow:
    """One entry of the audit log: who did what, when, why, under which policies, and how it ended.

    The members up to `evidenceRef` are named as the audit entry of the platform's specification names them;
    `actor` is `{userId, role, roles, kind}`, and `actor_id` repeats its `userId` to filter by. `guard` is its way through
    the Guard, `{state, after_us}` each; `snapshot` says how what it changed stood before. `artifacts` are SHA-256 hashes.
    `signature` says which event of the ledger seals all this and the leaf hash under which it stands in the tree: whoever
    holds a signed checkpoint can check it.
    """

    id: str
    timestamp: str
    actor: JsonObject
    action: str
    intent: JsonObject
    policyResults: list[JsonObject]
    outcome: str
    evidenceRef: str
    actor_id: str
    reason: str | None
    stream: str
    seen_version: int
    outputs: list[JsonObject]
    code: str | None
    message: str | None
    facts: JsonObject | None
    approval_id: str | None
    policy_version: str
    action_digest: str
    correlation: str
    causation: str | None
    guard: list[JsonObject]
    snapshot: JsonObject | None
    artifacts: list[str]
    signature: JsonObject
    position: int


@read_row
class EvidencePackRow:
    """The sealed evidence of one action, named as the evidence pack of the platform's specification names it.

    It says what the audit entry says, in the words of another reader.
    """

    id: str
    timestamp: str
    eventType: str
    actor: str
    inputs: JsonObject
    outputs: list[JsonObject]
    policyChecks: list[JsonObject]
    artifacts: list[str]
    signature: JsonObject
    outcome: str
    reason: str | None
    roles: list[str]
    kind: str
    stream: str
    seen_version: int
    action_digest: str
    policy_version: str
    approval_id: str | None
    code: str | None
    message: str | None
    facts: JsonObject | None
    guard: list[JsonObject]
    snapshot: JsonObject | None


@read_row
class ArtifactRow:
    """Bytes that are kept under their hash, and what they are."""

    sha256: str
    name: str
    kind: str
    media_type: str
    size_bytes: int
    passed: int | None
    failed: int | None
    registered_by: str
    registered_at: str


@read_row
class SealedPackRow:
    """The evidence of an action, kept for ever as two documents under their hashes; `position` is the one they speak of."""

    action_id: str
    position: int
    json_sha256: str
    json_bytes: int
    markdown_sha256: str
    markdown_bytes: int
    sealed_by: str
    sealed_at: str


actions = ReadTable(
    "actions",
    ActionRow,
    filters=("actor_id", "action", "outcome", "stream", "approval_id", "artifacts"),
    sorts=("timestamp", "position"),
    search=("id", "action", "stream", "reason", "message"),
    immutable=True,
)
artifacts = ReadTable(
    "artifacts",
    ArtifactRow,
    filters=("kind", "media_type", "registered_by"),
    sorts=("registered_at", "name", "size_bytes"),
    search=("name", "sha256"),
    immutable=True,
)
packs = ReadTable(
    "packs",
    SealedPackRow,
    filters=("sealed_by",),
    sorts=("sealed_at", "position"),
    search=("action_id", "json_sha256", "markdown_sha256"),
    immutable=True,
)


@dataclass(slots=True)
class _Ending:
    """How the three outcomes differ."""

    outcome: str
    outputs: list[JsonObject]
    approval_id: str | None = None
    code: str | None = None
    message: str | None = None
    facts: JsonObject | None = None
    snapshot: JsonObject | None = None


def _ending(event: ActionEvent) -> _Ending:
    match event:
        case ActionAllowed():
            outputs = [{"type": output.type, "stream": output.stream, "version": output.version} for output in event.outputs]
            snapshot = event.snapshot
            before = {"stream": snapshot.stream, "version": snapshot.version, "sha256": snapshot.sha256} if snapshot else None
            return _Ending("allowed", outputs, approval_id=event.approval_id, snapshot=before)
        case ActionBlocked():
            return _Ending("blocked", [], code=event.code, message=event.message, facts=event.facts)
        case ActionParked():
            facts = {
                "approver_roles": [role.value for role in event.approver_roles],
                "quorum": event.quorum,
                "required_evidence": list(event.required_evidence),
            }
            return _Ending("requires_approval", [], approval_id=event.approval_id, facts=facts)
        case _:
            assert_never(event)


def _policy_results(event: ActionEvent) -> list[JsonObject]:
    return [{"policy": result.policy, "outcome": result.outcome, "reason": result.reason} for result in event.policy_results]


@actions.on(ActionAllowed, ActionBlocked, ActionParked)
def audited(_row: None, recorded: Recorded[ActionEvent], action_id: str) -> ActionRow:
    event, intent, ending = recorded.event, recorded.event.intent, _ending(recorded.event)
    roles = [role.value for role in intent.roles]
    return ActionRow(
        id=action_id,
        timestamp=recorded.at_text,
        actor={"userId": recorded.actor, "role": ", ".join(roles), "roles": roles, "kind": intent.kind.value},
        action=intent.command,
        intent=intent.inputs,
        policyResults=_policy_results(event),
        outcome=ending.outcome,
        evidenceRef=f"/v1/evidence/{action_id}",
        actor_id=recorded.actor,
        reason=intent.reason,
        stream=intent.stream,
        seen_version=intent.seen_version,
        outputs=ending.outputs,
        code=ending.code,
        message=ending.message,
        facts=ending.facts,
        approval_id=ending.approval_id,
        policy_version=event.policy_version,
        action_digest=intent.digest,
        correlation=recorded.correlation_text,
        causation=recorded.causation_text,
        guard=[{"state": state, "after_us": after_us} for state, after_us in event.guard],
        snapshot=ending.snapshot,
        artifacts=list(event.artifacts),
        signature={
            "event_id": recorded.id_text,
            "stream": recorded.stream,
            "version": recorded.version,
            "position": recorded.position,
            "leaf": recorded.leaf.hex(),
        },
        position=recorded.position,
    )


def pack_of(action: JsonObject) -> EvidencePackRow:
    """The evidence pack of an audit entry."""
    actor = action["actor"]
    return EvidencePackRow(
        id=action["id"],
        timestamp=action["timestamp"],
        eventType=action["action"],
        actor=actor["userId"],
        inputs=action["intent"],
        policyChecks=action["policyResults"],
        roles=actor["roles"],
        kind=actor["kind"],
        **{name: action[name] for name in _SHARED},
    )


_SHARED: Final = (
    *("outputs", "artifacts", "signature", "outcome", "reason", "stream", "seen_version", "action_digest", "policy_version"),
    *("approval_id", "code", "message", "facts", "guard", "snapshot"),
)
"""What the entry and the pack call by the same name."""


@artifacts.on(ArtifactRegistered)
def registered(_row: None, recorded: Recorded[ArtifactRegistered], sha256: str) -> ArtifactRow:
    event = recorded.event
    return ArtifactRow(
        sha256=sha256,
        name=event.name,
        kind=event.kind,
        media_type=event.media_type,
        size_bytes=event.size_bytes,
        passed=event.passed,
        failed=event.failed,
        registered_by=recorded.actor,
        registered_at=recorded.at_text,
    )


@packs.on(PackSealed)
def pack_sealed(_row: None, recorded: Recorded[PackSealed], action_id: str) -> SealedPackRow:
    event = recorded.event
    return SealedPackRow(
        action_id=action_id,
        position=event.position,
        json_sha256=event.json_sha256,
        json_bytes=event.json_bytes,
        markdown_sha256=event.markdown_sha256,
        markdown_bytes=event.markdown_bytes,
        sealed_by=recorded.actor,
        sealed_at=recorded.at_text,
    )


PROJECTION = Projection("evidence", (actions, artifacts, packs), ordering="stream")
