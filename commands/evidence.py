"""What may be asked of evidence: to keep bytes under their hash, and to say what they are."""

from typing import Final

from domain.evidence import Artifact, ArtifactKind, ArtifactRegistered, Count, EvidenceEvent, MediaType, evolve
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.values import Label, Role, Sha256

PROVIDERS: Final = frozenset({Role.ANALYST, Role.APPROVER, Role.ADMIN, Role.AGENT})


class RegisterArtifact(Command, name="evidence.register_artifact", roles=PROVIDERS):
    """Say what the bytes with this hash are; a test result says how many checks passed and failed."""

    sha256: Sha256
    size_bytes: Count
    media_type: MediaType = "application/octet-stream"
    name: Label
    kind: ArtifactKind = "file"
    passed: Count | None = None
    failed: Count | None = None


def decide(artifact: Artifact, command: RegisterArtifact, _asked: Asked) -> list[EvidenceEvent]:
    counted = command.passed is not None and command.failed is not None
    uncounted = command.passed is None and command.failed is None
    require(
        counted if command.kind == "test_result" else uncounted,
        "test_counts_misplaced",
        "A test result says how many checks passed and how many failed; nothing else does.",
        field="passed" if command.passed is None else "failed",
        kind=command.kind,
        remedy="Give both `passed` and `failed` with kind test_result, and neither with another kind.",
    )
    registered = ArtifactRegistered(**command.model_dump())
    known = artifact.registered
    if known is None:
        return [registered]
    require(
        _meaning(known) == _meaning(registered),
        "artifact_known_differently",
        f"The bytes with this hash are registered as {known.kind}, {known.media_type}; evidence does not change its meaning.",
        field="kind" if known.kind != registered.kind else "media_type" if known.media_type != registered.media_type else "passed",
        registered=_meaning(known),
        remedy="Refer to the artifact as it is registered.",
    )
    return []


def _meaning(registered: ArtifactRegistered) -> JsonObject:
    """All but the name, which is only what somebody called the file."""
    return registered.model_dump(exclude={"name"}, exclude_none=True)


def _facts(_artifact: Artifact, command: RegisterArtifact) -> JsonObject:
    return {"kind": command.kind, "media_type": command.media_type}


DECIDER: Decider[Artifact, RegisterArtifact, EvidenceEvent] = Decider(
    context="evidence",
    category="artifact",
    initial=Artifact(),
    evolve=evolve,
    decide=decide,
    commands=(RegisterArtifact,),
    events=(ArtifactRegistered,),
    entity=lambda command: command.sha256,
    facts=_facts,
)
