"""What may be asked of evidence: to keep bytes under their hash, to say what they are, and to seal what is known of an action."""

from typing import Any, Final

from domain.evidence import Artifact, ArtifactKind, ArtifactRegistered, Count, MediaType, Pack, PackSealed, evolve, evolve_pack
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.values import EVERYBODY, Identifier, Label, Role, Sha256

PROVIDERS: Final = frozenset({Role.ANALYST, Role.APPROVER, Role.ADMIN, Role.AGENT})
SEALERS: Final = EVERYBODY - {Role.VIEWER}


class RegisterArtifact(Command, name="evidence.register_artifact", roles=PROVIDERS):
    """Say what the bytes with this hash are; a test result says how many checks passed and failed."""

    sha256: Sha256
    size_bytes: Count
    media_type: MediaType = "application/octet-stream"
    name: Label
    kind: ArtifactKind = "file"
    passed: Count | None = None
    failed: Count | None = None


class SealPack(Command, name="evidence.seal_pack", roles=SEALERS):
    """Keep the evidence of an action for ever as the two documents with these hashes, JSON and Markdown."""

    action_id: Identifier
    position: Count
    json_sha256: Sha256
    json_bytes: Count
    markdown_sha256: Sha256
    markdown_bytes: Count


def decide(artifact: Artifact, command: RegisterArtifact, _asked: Asked) -> list[ArtifactRegistered]:
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


def decide_pack(pack: Pack, command: SealPack, _asked: Asked) -> list[PackSealed]:
    sealed = PackSealed(**command.model_dump())
    if pack.sealed is None:
        return [sealed]
    require(
        pack.sealed == sealed,
        "pack_sealed_differently",
        f"The evidence of action {command.action_id} is sealed already, and reads differently today; what was sealed stands.",
        field="action_id",
        sealed=pack.sealed.model_dump(),
        remedy="Compare it with the sealed one: this Aureus writes packs in another way, or its read models were changed.",
    )
    return []


ARTIFACTS: Final[Decider[Artifact, RegisterArtifact, ArtifactRegistered]] = Decider(
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
PACKS: Final[Decider[Pack, SealPack, PackSealed]] = Decider(
    context="evidence",
    category="pack",
    initial=Pack(),
    evolve=evolve_pack,
    decide=decide_pack,
    commands=(SealPack,),
    events=(PackSealed,),
    entity=lambda command: command.action_id,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (ARTIFACTS, PACKS)
