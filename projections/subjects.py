"""Subjects as people read them: how each stands, the certificates of erasure, the holds, and how long values are kept."""

from domain.kernel import Recorded, timestamp
from domain.subjects import (
    ArtifactAttached,
    ArtifactDetached,
    ErasureBegun,
    ErasureCancelled,
    ErasureOrdered,
    HoldPlaced,
    HoldReleased,
    RetentionRuleLifted,
    RetentionRuleSet,
    SubjectDescribed,
    SubjectErased,
    SubjectReopened,
)
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class SubjectRow:
    """A subject as far as erasing goes; `status` is open, ordered, erasing, partly_erased, erased or reopened."""

    subject_id: str
    kind: str | None
    jurisdiction: str | None
    status: str
    artifacts: list[str]
    artifact_purposes: dict[str, str]
    ordered_by: str | None
    ordered_at: str | None
    ordered_position: int | None
    ordered_purposes: list[str]
    ground: str | None
    erased_purposes: list[str]
    erased_whole: bool
    certificates: list[int]
    changed_at: str


@read_row
class CertificateRow:
    """A certificate of erasure: what was destroyed in events up to position `until`, ordered by whom, and where it stands."""

    certificate_id: str
    subject_id: str
    position: int
    certified_at: str
    ordered_position: int
    until: int
    ground: str
    everything: bool
    purposes: list[str]
    fields: int
    keys: int
    artifacts: list[str]
    kept_artifacts: list[str]
    export_ids: list[str]


@read_row
class HoldRow:
    """A hold: on whom, for what matter, by whom; and who released it."""

    hold_id: str
    subject_ids: list[str]
    everybody: bool
    matter: str
    reason: str
    until: str | None
    status: str
    placed_by: str
    placed_at: str
    released_by: str | None
    released_at: str | None
    released_because: str | None


@read_row
class RetentionRuleRow:
    """How long what is kept for a purpose stays under one law, counted from the last value recorded."""

    rule_id: str
    jurisdiction: str
    purpose: str
    keep: str
    set_by: str
    set_at: str


subjects = ReadTable(
    "subjects",
    SubjectRow,
    filters=("status", "kind", "jurisdiction", "artifacts"),
    sorts=("changed_at", "ordered_at"),
    search=("subject_id",),
)
certificates = ReadTable(
    "certificates",
    CertificateRow,
    filters=("subject_id", "ground", "artifacts", "export_ids"),
    sorts=("position", "certified_at"),
    immutable=True,
)
holds = ReadTable("holds", HoldRow, filters=("status", "everybody", "subject_ids"), sorts=("placed_at",), search=("hold_id", "matter"))
retention_rules = ReadTable("retention_rules", RetentionRuleRow, filters=("jurisdiction", "purpose"), sorts=("set_at",), ends=True)

SubjectChange = SubjectDescribed | ArtifactAttached | ArtifactDetached | ErasureOrdered | ErasureCancelled | ErasureBegun | SubjectErased


def _row(row: SubjectRow | None, recorded: Recorded[SubjectChange], subject_id: str) -> SubjectRow:
    """The subject's row, from the first time that anything is said of it."""
    if row is not None:
        return replace(row, changed_at=recorded.at_text)
    return SubjectRow(
        subject_id=subject_id,
        kind=None,
        jurisdiction=None,
        status="open",
        artifacts=[],
        artifact_purposes={},
        ordered_by=None,
        ordered_at=None,
        ordered_position=None,
        ordered_purposes=[],
        ground=None,
        erased_purposes=[],
        erased_whole=False,
        certificates=[],
        changed_at=recorded.at_text,
    )


def _rested(row: SubjectRow) -> str:
    """How a subject stands that no order is out for."""
    return "erased" if row.erased_whole else "partly_erased" if row.erased_purposes else "open"


@subjects.on(SubjectDescribed)
def described(row: SubjectRow | None, recorded: Recorded[SubjectDescribed], subject_id: str) -> SubjectRow:
    event = recorded.event
    return replace(_row(row, recorded, subject_id), kind=event.kind, jurisdiction=event.jurisdiction.value)


@subjects.on(ArtifactAttached)
def attached(row: SubjectRow | None, recorded: Recorded[ArtifactAttached], subject_id: str) -> SubjectRow:
    known, event = _row(row, recorded, subject_id), recorded.event
    return _with(known, {**known.artifact_purposes, event.sha256: event.purpose})


@subjects.on(ArtifactDetached)
def detached(row: SubjectRow, recorded: Recorded[ArtifactDetached], subject_id: str) -> SubjectRow:
    return _without(_row(row, recorded, subject_id), {recorded.event.sha256})


def _with(row: SubjectRow, purposes: dict[str, str]) -> SubjectRow:
    return replace(row, artifacts=sorted(purposes), artifact_purposes=purposes)


def _without(row: SubjectRow, gone: set[str]) -> SubjectRow:
    return _with(row, {sha256: purpose for sha256, purpose in row.artifact_purposes.items() if sha256 not in gone})


@subjects.on(ErasureOrdered)
def ordered(row: SubjectRow | None, recorded: Recorded[ErasureOrdered], subject_id: str) -> SubjectRow:
    event = recorded.event
    return replace(
        _row(row, recorded, subject_id),
        status="ordered",
        ordered_by=recorded.actor,
        ordered_at=recorded.at_text,
        ordered_position=recorded.position,
        ordered_purposes=list(event.purposes),
        ground=event.ground,
    )


@subjects.on(ErasureCancelled)
def cancelled(row: SubjectRow, recorded: Recorded[ErasureCancelled], subject_id: str) -> SubjectRow:
    return replace(_row(row, recorded, subject_id), status=_rested(row))


@subjects.on(ErasureBegun)
def begun(row: SubjectRow, recorded: Recorded[ErasureBegun], subject_id: str) -> SubjectRow:
    return replace(_row(row, recorded, subject_id), status="erasing")


@subjects.on(SubjectErased)
def erased(row: SubjectRow, recorded: Recorded[SubjectErased], subject_id: str) -> SubjectRow:
    event = recorded.event
    changed = replace(
        _without(_row(row, recorded, subject_id), {*event.artifacts, *event.kept_artifacts}),
        erased_purposes=sorted({*row.erased_purposes, *event.purposes}),
        erased_whole=row.erased_whole or event.everything,
        certificates=[*row.certificates, recorded.position],
    )
    return replace(changed, status=_rested(changed))


@subjects.on(SubjectReopened)
def reopened(row: SubjectRow, recorded: Recorded[SubjectReopened], _subject_id: str) -> SubjectRow:
    return replace(row, status="reopened", erased_purposes=[], erased_whole=False, changed_at=recorded.at_text)


def _certificate(recorded: Recorded[SubjectErased]) -> tuple[str, ...]:
    return (f"{recorded.event.subject_id}.{recorded.event.ordered_position}",)


@certificates.on(SubjectErased, keys=_certificate)
def certified(_row: None, recorded: Recorded[SubjectErased], certificate_id: str) -> CertificateRow:
    event = recorded.event
    return CertificateRow(
        certificate_id=certificate_id,
        subject_id=event.subject_id,
        position=recorded.position,
        certified_at=recorded.at_text,
        ordered_position=event.ordered_position,
        until=event.until,
        ground=event.ground,
        everything=event.everything,
        purposes=list(event.purposes),
        fields=event.fields,
        keys=event.keys,
        artifacts=list(event.artifacts),
        kept_artifacts=list(event.kept_artifacts),
        export_ids=list(event.export_ids),
    )


def _hold(recorded: Recorded[HoldPlaced | HoldReleased]) -> tuple[str, ...]:
    return (recorded.event.hold_id,)


@holds.on(HoldPlaced, keys=_hold)
def placed(_row: None, recorded: Recorded[HoldPlaced], hold_id: str) -> HoldRow:
    event = recorded.event
    return HoldRow(
        hold_id=hold_id,
        subject_ids=list(event.subject_ids),
        everybody=event.everybody,
        matter=event.matter,
        reason=event.reason,
        until=timestamp(event.until) if event.until else None,
        status="placed",
        placed_by=recorded.actor,
        placed_at=recorded.at_text,
        released_by=None,
        released_at=None,
        released_because=None,
    )


@holds.on(HoldReleased, keys=_hold)
def released(row: HoldRow, recorded: Recorded[HoldReleased], _hold_id: str) -> HoldRow:
    because = recorded.event.reason
    return replace(row, status="released", released_by=recorded.actor, released_at=recorded.at_text, released_because=because)


def _rule(recorded: Recorded[RetentionRuleSet | RetentionRuleLifted]) -> tuple[str, ...]:
    return (f"{recorded.event.jurisdiction.value}.{recorded.event.purpose}",)


@retention_rules.on(RetentionRuleSet, keys=_rule)
def rule_set(_row: RetentionRuleRow | None, recorded: Recorded[RetentionRuleSet], rule_id: str) -> RetentionRuleRow:
    event = recorded.event
    return RetentionRuleRow(rule_id, event.jurisdiction.value, event.purpose, event.keep, recorded.actor, recorded.at_text)


@retention_rules.on(RetentionRuleLifted, keys=_rule)
def rule_lifted(_row: RetentionRuleRow, _recorded: Recorded[RetentionRuleLifted], _rule_id: str) -> None:
    return None


PROJECTION = Projection("subjects", (subjects, certificates, holds, retention_rules), ordering="stream")
