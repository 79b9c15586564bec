"""Evidence: the files and test results that an action rests on, and its sealed packs, known for ever by the hash of their bytes.

The actions themselves, each the sealed evidence of what it did, are in `domain.actions`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from domain.kernel import Event
from domain.values import MAX_SAFE_INTEGER, Identifier, Label, Sha256

ArtifactKind = Literal["file", "test_result", "data_contract", "sql", "lineage", "snapshot", "impact_analysis", "rollback_plan", "report"]
MediaType = Annotated[str, Field(pattern=r"^[a-z0-9.+-]+/[A-Za-z0-9.+-]+$", max_length=100)]
Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]


class ArtifactRegistered(Event, name="evidence.artifact_registered"):
    """Bytes with this hash are kept; for a test result, how many checks passed and failed."""

    sha256: Sha256
    size_bytes: Count
    media_type: MediaType
    name: Label
    kind: ArtifactKind
    passed: Count | None = None
    failed: Count | None = None


class PackSealed(Event, name="evidence.pack_sealed"):
    """The evidence of an action, as it stood at the action's own position, is kept as two documents with these hashes."""

    action_id: Identifier
    position: Count
    json_sha256: Sha256
    json_bytes: Count
    markdown_sha256: Sha256
    markdown_bytes: Count


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is known of the bytes with one hash; None before they were registered."""

    registered: ArtifactRegistered | None = None


@dataclass(frozen=True, slots=True)
class Pack:
    """The sealed pack of one action; None before it was sealed."""

    sealed: PackSealed | None = None


def evolve(_artifact: Artifact, event: ArtifactRegistered) -> Artifact:
    return Artifact(event)


def evolve_pack(_pack: Pack, event: PackSealed) -> Pack:
    return Pack(event)
