"""What may be asked about the people whose values are kept: that they be erased, or held, and how long values stay at all."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from domain.catalog import Jurisdiction
from domain.exports import Count, ExportId, Position, Purpose
from domain.kernel import Command
from domain.subjects import DEFAULT_PURPOSE, MAX_NAMED, Ground, HoldId, Kind, Purposes
from domain.values import Duration, Identifier, Label, Role, Sha256, Text

STEWARDS: Final = frozenset({Role.ANALYST, Role.APPROVER, Role.ADMIN})
ERASERS: Final = frozenset({Role.APPROVER, Role.ADMIN})
HOLDERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
ADMINS: Final = frozenset({Role.ADMIN})
HOLDS: Final = "holds:active"
Because = Annotated[Text, Field(min_length=1)]


class DescribeSubject(Command, name="subjects.describe_subject", roles=STEWARDS):
    """Say what kind of person a subject is, and under whose law their values stand: retention rules go by it."""

    subject_id: Identifier
    kind: Kind
    jurisdiction: Jurisdiction


class AttachArtifact(Command, name="subjects.attach_artifact", roles=STEWARDS):
    """Say that a stored artifact holds data about a subject: it is destroyed when what is kept for that purpose is erased."""

    subject_id: Identifier
    sha256: Sha256
    purpose: Purpose = DEFAULT_PURPOSE

    def relies_on(self) -> tuple[str, ...]:
        return (f"artifact:{self.sha256}",)


class DetachArtifact(Command, name="subjects.detach_artifact", roles=ERASERS):
    """Say that a stored artifact holds nothing about a subject after all."""

    subject_id: Identifier
    sha256: Sha256


class EraseSubject(Command, name="subjects.erase_subject", roles=ERASERS):
    """Have everything that is kept of a subject destroyed, or what is kept for some purposes: values, keys, artifacts, packs.

    It is carried out at once, unless a hold prevents it; the certificate is then in the ledger. There is no way back.
    """

    subject_id: Identifier
    purposes: Purposes = ()
    ground: Ground
    note: Text | None = None

    def relies_on(self) -> tuple[str, ...]:
        return HOLDS, f"actor:{self.subject_id}"


class CancelErasure(Command, name="subjects.cancel_erasure", roles=ERASERS):
    """Take back an order that was not begun, as while a hold prevents it."""

    subject_id: Identifier
    reason: Because


class BeginErasure(Command, name="subjects.begin_erasure", roles=ADMINS):
    """Aureus itself: no hold is in force, so the order is carried out from here on."""

    subject_id: Identifier
    ordered_position: Position

    def relies_on(self) -> tuple[str, ...]:
        return (HOLDS,)


class CertifyErasure(Command, name="subjects.certify_erasure", roles=ADMINS):
    """Aureus itself: put on record what was destroyed, once all of it is."""

    restrains = True
    subject_id: Identifier
    ordered_position: Position
    until: Count
    purposes: Annotated[tuple[Purpose, ...], Field(max_length=1_000)]
    fields: Count
    keys: Count
    artifacts: tuple[Sha256, ...] = ()
    kept_artifacts: tuple[Sha256, ...] = ()
    export_ids: tuple[ExportId, ...] = ()


class ReopenSubject(Command, name="subjects.reopen_subject", roles=ADMINS):
    """Let values of an erased subject be recorded again, as when they come back as a customer."""

    subject_id: Identifier
    reason: Because


class PlaceHold(Command, name="subjects.place_hold", roles=HOLDERS):
    """Keep what there is about some subjects, or about everybody, from being erased: until a time, or until it is released."""

    restrains = True
    hold_id: HoldId
    subject_ids: Annotated[tuple[Identifier, ...], Field(max_length=MAX_NAMED)] = ()
    everybody: bool = False
    matter: Label
    reason: Because
    until: AwareDatetime | None = None

    def relies_on(self) -> tuple[str, ...]:
        return tuple(f"subject:{subject_id}" for subject_id in dict.fromkeys(self.subject_ids))


class ReleaseHold(Command, name="subjects.release_hold", roles=HOLDERS):
    """Let what was held be erased again."""

    hold_id: HoldId
    reason: Because


class SetRetentionRule(Command, name="subjects.set_retention_rule", roles=ADMINS):
    """Have values kept for a purpose, of subjects under one law, erased so long after the last of them was recorded."""

    jurisdiction: Jurisdiction
    purpose: Purpose
    keep: Duration


class LiftRetentionRule(Command, name="subjects.lift_retention_rule", roles=ADMINS):
    """Have values kept for a purpose stay until somebody has them erased."""

    jurisdiction: Jurisdiction
    purpose: Purpose


SubjectCommand = (
    DescribeSubject | AttachArtifact | DetachArtifact | EraseSubject | CancelErasure | BeginErasure | CertifyErasure | ReopenSubject
)
HoldCommand = PlaceHold | ReleaseHold
RetentionCommand = SetRetentionRule | LiftRetentionRule
