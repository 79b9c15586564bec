"""What may be asked of exports: that a pack be made, what its recipient is shown, and - by Aureus itself - what became of it."""

from __future__ import annotations

from typing import Annotated, Any, Final, assert_never

from pydantic import Field

from domain.access import ActorId
from domain.exports import (
    BUILDER,
    BUILT_IN,
    Count,
    EventType,
    Export,
    ExportCancelled,
    ExportEvent,
    ExportFailed,
    ExportId,
    ExportRequested,
    ExportSealed,
    Index,
    IndexCommitted,
    KnownProfile,
    PackDownloaded,
    PackWithdrawn,
    Position,
    Profile,
    ProfileDefined,
    ProfileName,
    Purpose,
    RecipientKind,
    Selection,
    Tenant,
    View,
    evolve,
    evolve_index,
    evolve_profile,
)
from domain.kernel import EVENTS, Asked, Command, Decider, JsonObject, require
from domain.values import Identifier, Label, Role, Sha256, Text

OVERSEERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
ITSELF: Final = frozenset({Role.ADMIN})
"""The role that Aureus' own reactions act in; who else holds it is refused by `_require_itself`."""
POLICY_SET: Final = "policyset:active"


class RequestExport(Command, name="exports.request_export", roles=OVERSEERS):
    """Have a pack made of everything, or of what a selection names, for a recipient; `profile` says what they are shown of it."""

    export_id: ExportId
    recipient: Label
    recipient_kind: RecipientKind = "regulator"
    everything: bool = False
    selection: Selection = Selection()
    profile: ProfileName = "regulator"
    views: Annotated[tuple[View, ...], Field(max_length=20)] = ()
    artifacts: bool = False

    def relies_on(self) -> tuple[str, ...]:
        chosen = self.selection
        named = [f"dataset:{name}" for name in chosen.datasets]
        named += [f"{category}:{name}" for name in chosen.agents for category in ("agent", "actor")]
        named += [f"actor:{name}" for name in chosen.actors]
        named += [POLICY_SET] if chosen.policies else []
        named += [] if _built_in(self.profile) else [f"exportprofile:{self.profile}"]
        return tuple(dict.fromkeys(named))


class CancelExport(Command, name="exports.cancel_export", roles=OVERSEERS):
    """Give up an export that is not sealed yet."""

    export_id: ExportId
    comment: Text | None = None


class SealExport(Command, name="exports.seal_export", roles=ITSELF):
    """Put on record what was written: the pack's SHA-256, its range and what it holds."""

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


class FailExport(Command, name="exports.fail_export", roles=ITSELF):
    """Put on record that a pack could not be written, and why."""

    export_id: ExportId
    code: Label
    reason: Text


class RecordDownload(Command, name="exports.record_download", roles=ITSELF):
    """Put on record that these bytes of a pack are handed to somebody."""

    export_id: ExportId
    sha256: Sha256
    downloaded_by: ActorId
    first_byte: Count
    last_byte: Count


class WithdrawPack(Command, name="exports.withdraw_pack", roles=ITSELF):
    """Put on record that a pack is destroyed here, for it shows what was ordered to be erased."""

    restrains = True
    export_id: ExportId
    sha256: Sha256
    subject_id: Identifier
    ordered_position: Position


class DefineProfile(Command, name="exports.define_profile", roles=OVERSEERS):
    """Say what a kind of recipient is shown: personal values kept for these purposes, and no events of these types."""

    profile: ProfileName
    disclose: Annotated[tuple[Purpose, ...], Field(max_length=20)] = ()
    withhold_types: Annotated[tuple[EventType, ...], Field(max_length=200)] = ()


class CommitIndex(Command, name="exports.commit_index", roles=ITSELF):
    """Commit the index of the tenant's topics at a size of the ledger."""

    tenant: Tenant
    size: Position
    topics: Count
    root: Sha256
    rules: Position
    keys_version: Position
    keys_leaf: Sha256


ExportCommand = RequestExport | CancelExport | SealExport | FailExport | RecordDownload | WithdrawPack


def decide(export: Export, command: ExportCommand, asked: Asked) -> list[ExportEvent]:
    match command:
        case RequestExport():
            return [_requested(export, command, asked)]
        case CancelExport():
            _require_open(export, command.export_id)
            return [ExportCancelled(**command.model_dump())]
        case SealExport():
            _require_itself(asked)
            _require_open(export, command.export_id)
            return [ExportSealed(**command.model_dump())]
        case FailExport():
            _require_itself(asked)
            _require_open(export, command.export_id)
            return [ExportFailed(**command.model_dump())]
        case RecordDownload():
            _require_itself(asked)
            return [_downloaded(export, command)]
        case WithdrawPack():
            _require_itself(asked)
            _require_pack(export, command.export_id)
            return [PackWithdrawn(**command.model_dump())]
        case _:
            assert_never(command)


def _requested(export: Export, command: RequestExport, asked: Asked) -> ExportRequested:
    require(
        export.status == "unknown",
        "export_exists",
        f"There is an export {command.export_id} already.",
        field="export_id",
        status=export.status,
        remedy="Choose another id, or look at the one that is there.",
    )
    _require_period(command.selection, asked)
    require(
        not (command.everything and (command.selection.named or command.selection.jurisdictions)),
        "everything_is_not_selected",
        "An export of everything names no datasets, agents, actors, policies or jurisdictions.",
        field="selection",
        remedy="Leave them out, or leave `everything` out.",
    )
    _require_known(command.selection, asked)
    fields = command.model_dump(exclude={"profile", "selection"})
    return ExportRequested(**fields, selection=command.selection, profile=_profile(command, asked))


def _require_period(selection: Selection, asked: Asked) -> None:
    starts_at, ends_at = selection.starts_at, selection.ends_at
    require(
        starts_at is None or ends_at is None or starts_at < ends_at,
        "period_is_empty",
        "The period ends before it starts.",
        field="selection.ends_at",
        remedy="Let it end after it starts.",
    )
    require(
        starts_at is None or starts_at <= asked.at,
        "period_not_begun",
        "The period lies in the future: nothing of it has happened yet.",
        field="selection.starts_at",
        now=asked.at.isoformat(),
        remedy="Let it start in the past.",
    )


def _require_known(selection: Selection, asked: Asked) -> None:
    """What nobody ever registered is mistyped more often than it is meant."""
    others = asked.others
    for dataset in selection.datasets:
        _require_found(others[f"dataset:{dataset}"] is not None, "dataset", dataset, "aureus datasets list")
    for agent in selection.agents:
        known = others[f"agent:{agent}"].registered or others[f"actor:{agent}"].actor is not None
        _require_found(known, "agent", agent, "aureus agents list")
    for actor in selection.actors:
        _require_found(others[f"actor:{actor}"].actor is not None, "actor", actor, "aureus actors list")
    for policy in selection.policies:
        _require_found(policy in others[POLICY_SET].versions, "policy", policy, "aureus policies list")


def _require_found(known: bool, kind: str, name: str, listing: str) -> None:
    plural = "policies" if kind == "policy" else f"{kind}s"
    require(
        known,
        f"{kind}_not_found",
        f"There is no {kind} {name}.",
        field=f"selection.{plural}",
        remedy=f"`{listing}` shows those there are.",
    )


def _profile(command: RequestExport, asked: Asked) -> Profile:
    known = _built_in(command.profile) or asked.others[f"exportprofile:{command.profile}"].profile
    require(
        known is not None,
        "profile_not_found",
        f"There is no profile {command.profile}.",
        field="profile",
        remedy="`aureus exports profiles` shows those there are; define it first.",
    )
    assert known is not None
    return known


def _built_in(name: str) -> Profile | None:
    return next((profile for profile in BUILT_IN if profile.name == name), None)


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == BUILDER,
        "only_aureus_itself",
        "Aureus itself says what it has written and handed out; nobody says it in its place.",
        remedy="Ask for an export: the rest follows.",
    )


def _require_open(export: Export, export_id: str) -> None:
    require(export.status != "unknown", "export_not_found", f"There is no export {export_id}.", field="export_id", remedy="List them.")
    require(
        export.status == "requested",
        f"export_{export.status}",
        f"Export {export_id} is {export.status} already.",
        field="export_id",
        remedy="Ask for another one.",
    )


def _require_pack(export: Export, export_id: str) -> None:
    require(
        export.status == "sealed",
        "export_not_sealed",
        f"The pack of export {export_id} is not there: the export is {export.status}.",
        field="export_id",
        remedy="Wait until it is sealed.",
    )


def _downloaded(export: Export, command: RecordDownload) -> PackDownloaded:
    _require_pack(export, command.export_id)
    require(
        command.sha256 == export.sha256 and command.first_byte <= command.last_byte < export.size_bytes,
        "pack_is_another",
        f"Export {command.export_id} was sealed with other bytes.",
        field="sha256",
        sealed=export.sha256,
        remedy="Restore the pack from a backup, or ask for the export again.",
    )
    return PackDownloaded(**command.model_dump())


def _facts(_export: Export, command: ExportCommand) -> JsonObject:
    """What kind of export it is; whose data it holds is not for policies to know."""
    if not isinstance(command, RequestExport):
        return {}
    known = _built_in(command.profile)
    return {
        "scope": "everything" if command.everything else "selection",
        "jurisdictions": sorted(command.selection.jurisdictions),
        "profile": command.profile,
        "may_disclose": known is None or bool(known.disclose),
        "recipient_kind": command.recipient_kind,
        "subjects": command.selection.named,
        "artifacts": command.artifacts,
    }


def decide_profile(known: KnownProfile, command: DefineProfile, _asked: Asked) -> list[ProfileDefined]:
    require(
        _built_in(command.profile) is None,
        "profile_is_built_in",
        f"{command.profile} came with Aureus, and means the same everywhere.",
        field="profile",
        remedy="Define one under another name.",
    )
    for event_type in command.withhold_types:
        require(
            EVENTS.find(event_type) is not None,
            "event_type_not_found",
            f"No event is called {event_type}.",
            field="withhold_types",
            remedy="docs/events.md lists them all.",
        )
        require(
            event_type.partition(".")[0] != "keys" and event_type != IndexCommitted.event_name,
            "proof_withheld",
            f"Without {event_type} nothing in a pack could be verified.",
            field="withhold_types",
            remedy="Leave it out: it holds nobody's data.",
        )
    profile = Profile(name=command.profile, disclose=command.disclose, withhold_types=command.withhold_types)
    return [ProfileDefined(profile=profile)] if profile != known.profile else []


def decide_index(index: Index, command: CommitIndex, asked: Asked) -> list[IndexCommitted]:
    _require_itself(asked)
    require(
        command.tenant == asked.by.tenant and command.size > index.size,
        "index_committed_already",
        f"The index is committed up to position {index.size} already.",
        field="size",
        committed=index.size,
        remedy="Commit it when something new has happened.",
    )
    return [IndexCommitted(**command.model_dump(exclude={"tenant"}))]


EXPORTS: Final[Decider[Export, ExportCommand, ExportEvent]] = Decider(
    context="exports",
    category="export",
    initial=Export(),
    evolve=evolve,
    decide=decide,
    commands=(RequestExport, CancelExport, SealExport, FailExport, RecordDownload, WithdrawPack),
    events=(ExportRequested, ExportSealed, ExportFailed, ExportCancelled, PackDownloaded, PackWithdrawn),
    entity=lambda command: command.export_id,
    facts=_facts,
)
PROFILES: Final[Decider[KnownProfile, DefineProfile, ProfileDefined]] = Decider(
    context="exports",
    category="exportprofile",
    initial=KnownProfile(),
    evolve=evolve_profile,
    decide=decide_profile,
    commands=(DefineProfile,),
    events=(ProfileDefined,),
    entity=lambda command: command.profile,
)
INDEX: Final[Decider[Index, CommitIndex, IndexCommitted]] = Decider(
    context="exports",
    category="index",
    initial=Index(),
    evolve=evolve_index,
    decide=decide_index,
    commands=(CommitIndex,),
    events=(IndexCommitted,),
    entity=lambda command: command.tenant,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (EXPORTS, PROFILES, INDEX)
