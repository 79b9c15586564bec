"""Exports as people read them: what was asked for, for whom, what became of it and who fetched it; and the profiles of recipients."""

from typing import Any

from domain.exports import ExportCancelled, ExportFailed, ExportRequested, ExportSealed, PackDownloaded, PackWithdrawn, ProfileDefined
from domain.kernel import Recorded
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class ExportRow:
    """One export; once it is sealed, the hash and size of its pack, which is about positions after `after`, up to `until`."""

    export_id: str
    recipient: str
    recipient_kind: str
    everything: bool
    selection: dict[str, Any]
    profile: dict[str, Any]
    views: list[str]
    artifacts: bool
    status: str
    requested_by: str
    requested_at: str
    requested_position: int
    ended_at: str | None
    failure_code: str | None
    failure: str | None
    sha256: str | None
    size_bytes: int | None
    manifest_sha256: str | None
    after: int | None
    until: int | None
    checkpoint_size: int | None
    entries: int | None
    withheld_entries: int | None
    downloads: int
    downloaded_by: list[str]
    downloaded_at: str | None
    certificate_id: str | None
    """Of the erasure that its pack was withdrawn for."""


@read_row
class ExportProfileRow:
    """What a kind of recipient is shown."""

    name: str
    disclose: list[str]
    withhold_types: list[str]
    defined_by: str
    defined_at: str


exports = ReadTable(
    "exports",
    ExportRow,
    filters=("status", "requested_by", "recipient_kind", "certificate_id"),
    sorts=("requested_at", "ended_at", "size_bytes"),
    search=("export_id", "recipient"),
)
export_profiles = ReadTable("export_profiles", ExportProfileRow, sorts=("name",))


@exports.on(ExportRequested)
def requested(_row: None, recorded: Recorded[ExportRequested], export_id: str) -> ExportRow:
    event = recorded.event
    return ExportRow(
        export_id=export_id,
        recipient=event.recipient,
        recipient_kind=event.recipient_kind,
        everything=event.everything,
        selection=event.selection.model_dump(mode="json", exclude_none=True),
        profile=event.profile.model_dump(mode="json"),
        views=list(event.views),
        artifacts=event.artifacts,
        status="requested",
        requested_by=recorded.actor,
        requested_at=recorded.at_text,
        requested_position=recorded.position,
        ended_at=None,
        failure_code=None,
        failure=None,
        sha256=None,
        size_bytes=None,
        manifest_sha256=None,
        after=None,
        until=None,
        checkpoint_size=None,
        entries=None,
        withheld_entries=None,
        downloads=0,
        downloaded_by=[],
        downloaded_at=None,
        certificate_id=None,
    )


@exports.on(ExportSealed)
def sealed(row: ExportRow, recorded: Recorded[ExportSealed], _export_id: str) -> ExportRow:
    event = recorded.event
    return replace(
        row,
        status="sealed",
        ended_at=recorded.at_text,
        sha256=event.sha256,
        size_bytes=event.size_bytes,
        manifest_sha256=event.manifest_sha256,
        after=event.after,
        until=event.until,
        checkpoint_size=event.checkpoint_size,
        entries=event.entries,
        withheld_entries=event.withheld_entries,
    )


@exports.on(ExportFailed)
def failed(row: ExportRow, recorded: Recorded[ExportFailed], _export_id: str) -> ExportRow:
    event = recorded.event
    return replace(row, status="failed", ended_at=recorded.at_text, failure_code=event.code, failure=event.reason)


@exports.on(ExportCancelled)
def cancelled(row: ExportRow, recorded: Recorded[ExportCancelled], _export_id: str) -> ExportRow:
    return replace(row, status="cancelled", ended_at=recorded.at_text)


@exports.on(PackDownloaded)
def downloaded(row: ExportRow, recorded: Recorded[PackDownloaded], _export_id: str) -> ExportRow:
    by = sorted({*row.downloaded_by, recorded.event.downloaded_by})
    return replace(row, downloads=row.downloads + 1, downloaded_by=by, downloaded_at=recorded.at_text)


@exports.on(PackWithdrawn)
def withdrawn(row: ExportRow, recorded: Recorded[PackWithdrawn], _export_id: str) -> ExportRow:
    certificate_id = f"{recorded.event.subject_id}.{recorded.event.ordered_position}"
    return replace(row, status="withdrawn", ended_at=recorded.at_text, certificate_id=certificate_id)


@export_profiles.on(ProfileDefined)
def profile_defined(_row: ExportProfileRow | None, recorded: Recorded[ProfileDefined], name: str) -> ExportProfileRow:
    profile = recorded.event.profile
    return ExportProfileRow(name, list(profile.disclose), list(profile.withhold_types), recorded.actor, recorded.at_text)


PROJECTION = Projection("exports", (exports, export_profiles), version=2, ordering="stream")
