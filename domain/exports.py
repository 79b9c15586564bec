"""An export: what a bank hands to somebody outside, on record from the request to every download - and the index that proves it whole.

What it is to hold is fixed by the request; the pack itself is written by Aureus, which seals the export with the pack's hash.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from domain.access import ActorId
from domain.agents import AgentId
from domain.catalog import Jurisdiction
from domain.kernel import Event
from domain.policies import PolicyId
from domain.values import MAX_SAFE_INTEGER, Identifier, Label, Sha256, Text

BUILDER: Final = "svc-reactions"
"""Writes the packs and commits the index: Aureus itself, and nobody else."""
MAX_NAMED: Final = 100

Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
Position = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER, strict=True)]
ExportId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]
Purpose = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=60)]
EventType = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z_]+$", max_length=100)]
Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/=~-]*$", max_length=200)]
RecipientKind = Literal["regulator", "auditor", "internal", "other"]
View = Literal["parquet", "openlineage", "prov", "ocsf", "cloudevents", "html", "pdf"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Selection(_Value):
    """What an export is about. Of several datasets, agents, actors and policies: whatever is about any of them; none named: everything.

    With jurisdictions, only what stands under one of them, or may; and what happened from `starts_at` on and before `ends_at`.
    """

    datasets: Annotated[tuple[Identifier, ...], Field(max_length=MAX_NAMED)] = ()
    agents: Annotated[tuple[AgentId, ...], Field(max_length=MAX_NAMED)] = ()
    actors: Annotated[tuple[ActorId, ...], Field(max_length=MAX_NAMED)] = ()
    policies: Annotated[tuple[PolicyId, ...], Field(max_length=MAX_NAMED)] = ()
    jurisdictions: Annotated[tuple[Jurisdiction, ...], Field(max_length=MAX_NAMED)] = ()
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None

    @property
    def named(self) -> int:
        """How many things it names."""
        return len(self.datasets) + len(self.agents) + len(self.actors) + len(self.policies)


class Profile(_Value):
    """What a kind of recipient is shown: personal values kept for these purposes, and no events of these types."""

    name: ProfileName
    disclose: tuple[Purpose, ...] = ()
    withhold_types: tuple[EventType, ...] = ()


BUILT_IN: Final = (Profile(name="regulator"), Profile(name="internal-audit", disclose=("governance",)))
"""For somebody outside, nothing personal; for our own audit, what was kept for governance."""


class ExportRequested(Event, name="exports.export_requested"):
    """Somebody wants a pack made for a recipient; `profile` says what of it that recipient is shown."""

    export_id: ExportId
    recipient: Label
    recipient_kind: RecipientKind
    everything: bool
    selection: Selection
    profile: Profile
    views: tuple[View, ...] = ()
    artifacts: bool = False


class ExportSealed(Event, name="exports.export_sealed"):
    """The pack is written and kept under the SHA-256 of its bytes. It holds events of positions after `after`, up to `until`."""

    export_id: ExportId
    sha256: Sha256
    size_bytes: Count
    manifest_sha256: Sha256
    after: Count
    until: Count
    checkpoint_size: Position
    entries: Count
    keys: Count
    withheld_entries: Count
    index_position: Position | None = None


class ExportFailed(Event, name="exports.export_failed"):
    """The pack could not be written."""

    export_id: ExportId
    code: Label
    reason: Text


class ExportCancelled(Event, name="exports.export_cancelled"):
    """Nobody wants the pack any more; what was written of it is thrown away."""

    export_id: ExportId
    comment: Text | None = None


class PackDownloaded(Event, name="exports.pack_downloaded"):
    """Bytes of the pack were handed to somebody, from `first_byte` to `last_byte`."""

    export_id: ExportId
    sha256: Sha256
    downloaded_by: ActorId
    first_byte: Count
    last_byte: Count


class PackWithdrawn(Event, name="exports.pack_withdrawn"):
    """The pack shows what was erased: its bytes are destroyed here, and handed to nobody any more."""

    export_id: ExportId
    sha256: Sha256
    subject_id: Identifier
    ordered_position: Position


class ProfileDefined(Event, name="exports.profile_defined"):
    """What recipients of this kind are shown reads like this from now on."""

    profile: Profile


class IndexCommitted(Event, name="exports.index_committed"):
    """All topics of the tenant's events up to position `size`, as one root hash: no event of a topic can be left out of an export unseen.

    `rules` counts the versions of the rules that say what an event is about; `keys_version` and `keys_leaf` are where the
    stream of the ledger's keys stood.
    """

    size: Position
    topics: Count
    root: Sha256
    rules: Position
    keys_version: Position
    keys_leaf: Sha256


ExportEvent = ExportRequested | ExportSealed | ExportFailed | ExportCancelled | PackDownloaded | PackWithdrawn
Status = Literal["unknown", "requested", "sealed", "failed", "cancelled", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Export:
    """One export on its way from the request to the sealed pack."""

    status: Status = "unknown"
    sha256: str | None = None
    size_bytes: int = 0


def evolve(export: Export, event: ExportEvent) -> Export:
    match event:
        case ExportRequested():
            return Export("requested")
        case ExportSealed():
            return replace(export, status="sealed", sha256=event.sha256, size_bytes=event.size_bytes)
        case ExportFailed():
            return replace(export, status="failed")
        case ExportCancelled():
            return replace(export, status="cancelled")
        case PackDownloaded():
            return export
        case PackWithdrawn():
            return replace(export, status="withdrawn")
        case _:
            assert_never(event)


@dataclass(frozen=True, slots=True)
class KnownProfile:
    """A profile as it reads now; None before it was defined."""

    profile: Profile | None = None


def evolve_profile(_known: KnownProfile, event: ProfileDefined) -> KnownProfile:
    return KnownProfile(event.profile)


@dataclass(frozen=True, slots=True)
class Index:
    """How far a tenant's index was committed."""

    size: int = 0


def evolve_index(_index: Index, event: IndexCommitted) -> Index:
    return Index(event.size)
