"""A subject: a person whose values the vault keeps - until their erasure is ordered, done and certified, which a legal hold prevents.

A subject's id is opaque and stays in signed bytes for ever; what is personal about them is kept in the vault, in artifacts that
were attached to them, and in packs that disclose it.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Final, Literal, assert_never

from immutables import Map
from pydantic import AwareDatetime, Field, StringConstraints

from domain.catalog import Jurisdiction
from domain.exports import BUILDER, Count, ExportId, Position, Purpose
from domain.kernel import Event
from domain.values import Duration, Identifier, Label, Sha256, Text

ERASER: Final = BUILDER
"""Destroys, and certifies: Aureus itself, and nobody else."""
DEFAULT_PURPOSE: Final = "governance"
MAX_NAMED: Final = 100

HoldId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Kind = Literal["customer", "employee", "contact", "other"]
Ground = Literal["consent_withdrawn", "objection", "retention", "other"]
Purposes = Annotated[tuple[Purpose, ...], Field(max_length=20)]
"""What values were kept for; none named: for whatever."""


class SubjectDescribed(Event, name="subjects.subject_described"):
    """What kind of person the subject is, and under whose law their values stand."""

    subject_id: Identifier
    kind: Kind
    jurisdiction: Jurisdiction


class ArtifactAttached(Event, name="subjects.artifact_attached"):
    """The bytes with this hash hold data about the subject, kept for this purpose: they go when that is erased."""

    subject_id: Identifier
    sha256: Sha256
    purpose: Purpose


class ArtifactDetached(Event, name="subjects.artifact_detached"):
    """The bytes with this hash hold nothing about the subject after all."""

    subject_id: Identifier
    sha256: Sha256


class ErasureOrdered(Event, name="subjects.erasure_ordered"):
    """What is kept of the subject for these purposes (none named: all of it) is to be destroyed."""

    subject_id: Identifier
    purposes: Purposes = ()
    ground: Ground
    note: Text | None = None


class ErasureCancelled(Event, name="subjects.erasure_cancelled"):
    """The order is taken back: nothing was destroyed."""

    subject_id: Identifier
    reason: Text


class ErasureBegun(Event, name="subjects.erasure_begun"):
    """No hold was in force: from here on the order is carried out, and nothing stops it any more."""

    subject_id: Identifier
    ordered_position: Position


class SubjectErased(Event, name="subjects.subject_erased"):
    """The certificate: what was kept for these purposes in events up to position `until` is destroyed, values and keys.

    `artifacts` were destroyed with it; `kept_artifacts` hold data about somebody else too, and wait for them. `export_ids` are exports
    whose packs disclosed something of it, and were withdrawn.
    """

    subject_id: Identifier
    ordered_position: Position
    until: Count
    everything: bool
    purposes: tuple[Purpose, ...]
    ground: Ground
    fields: Count
    keys: Count
    artifacts: tuple[Sha256, ...] = ()
    kept_artifacts: tuple[Sha256, ...] = ()
    export_ids: tuple[ExportId, ...] = ()


class SubjectReopened(Event, name="subjects.subject_reopened"):
    """Values of the subject may be recorded again; what was erased stays erased."""

    subject_id: Identifier
    reason: Text


class HoldPlaced(Event, name="subjects.hold_placed"):
    """Nothing of these subjects (of anybody: `everybody`) may be erased, for a matter in law, until the hold is released or lapses."""

    hold_id: HoldId
    subject_ids: tuple[Identifier, ...] = ()
    everybody: bool
    matter: Label
    reason: Text
    until: AwareDatetime | None = None


class HoldReleased(Event, name="subjects.hold_released"):
    """The hold prevents nothing any more."""

    hold_id: HoldId
    reason: Text


class RetentionRuleSet(Event, name="subjects.retention_rule_set"):
    """What is kept for this purpose under this law is erased so long after the last value of it was recorded."""

    jurisdiction: Jurisdiction
    purpose: Purpose
    keep: Duration


class RetentionRuleLifted(Event, name="subjects.retention_rule_lifted"):
    """What is kept for this purpose under this law stays until somebody has it erased."""

    jurisdiction: Jurisdiction
    purpose: Purpose


SubjectEvent = (
    SubjectDescribed
    | ArtifactAttached
    | ArtifactDetached
    | ErasureOrdered
    | ErasureCancelled
    | ErasureBegun
    | SubjectErased
    | SubjectReopened
)


@dataclass(frozen=True, slots=True)
class Order:
    """An erasure that is ordered and not certified yet."""

    purposes: tuple[str, ...]
    ground: Ground
    begun: bool = False

    def covers(self, purpose: str) -> bool:
        return not self.purposes or purpose in self.purposes


@dataclass(frozen=True, slots=True)
class Subject:
    """One person as far as erasing goes; who was never described has no kind and no law."""

    kind: Kind | None = None
    jurisdiction: Jurisdiction | None = None
    artifacts: Map[str, str] = field(default_factory=Map)
    """Purpose by SHA-256."""
    order: Order | None = None
    erased: frozenset[str] = frozenset()
    """Purposes that nothing may be recorded for any more."""
    erased_whole: bool = False
    """Nothing may be recorded of them at all."""

    @property
    def known(self) -> bool:
        return self.kind is not None or bool(self.artifacts) or self.erased_whole or bool(self.erased)

    def is_erased(self, purpose: str) -> bool:
        return self.erased_whole or purpose in self.erased


def evolve(subject: Subject, event: SubjectEvent) -> Subject:
    match event:
        case SubjectDescribed():
            return replace(subject, kind=event.kind, jurisdiction=event.jurisdiction)
        case ArtifactAttached():
            return replace(subject, artifacts=subject.artifacts.set(event.sha256, event.purpose))
        case ArtifactDetached():
            return replace(subject, artifacts=subject.artifacts.delete(event.sha256))
        case ErasureOrdered():
            return replace(subject, order=Order(event.purposes, event.ground))
        case ErasureCancelled():
            return replace(subject, order=None)
        case ErasureBegun():
            assert subject.order is not None
            return replace(subject, order=replace(subject.order, begun=True))
        case SubjectErased():
            return _erased(subject, event)
        case SubjectReopened():
            return replace(subject, erased=frozenset(), erased_whole=False)
        case _:
            assert_never(event)


def _erased(subject: Subject, event: SubjectErased) -> Subject:
    gone = {*event.artifacts, *event.kept_artifacts}
    return replace(
        subject,
        order=None,
        erased=subject.erased.union(event.purposes),
        erased_whole=subject.erased_whole or event.everything,
        artifacts=Map({sha256: purpose for sha256, purpose in subject.artifacts.items() if sha256 not in gone}),
    )


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that was placed and not released."""

    subject_ids: frozenset[str] | None
    """None: everybody."""
    matter: str
    until: datetime | None

    def covers(self, subject_id: str, at: datetime) -> bool:
        return (self.subject_ids is None or subject_id in self.subject_ids) and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class Holds:
    """All holds of a tenant, in one stream: so that an erasure sees every one of them at one moment."""

    placed: Map[str, Hold] = field(default_factory=Map)
    used: frozenset[str] = frozenset()

    def on(self, subject_id: str, at: datetime) -> list[str]:
        """Ids of the holds that keep a subject from being erased at a moment."""
        return sorted(hold_id for hold_id, hold in self.placed.items() if hold.covers(subject_id, at))


HoldEvent = HoldPlaced | HoldReleased


def evolve_holds(holds: Holds, event: HoldEvent) -> Holds:
    match event:
        case HoldPlaced():
            hold = Hold(None if event.everybody else frozenset(event.subject_ids), event.matter, event.until)
            return Holds(holds.placed.set(event.hold_id, hold), holds.used | {event.hold_id})
        case HoldReleased():
            return replace(holds, placed=holds.placed.delete(event.hold_id))
        case _:
            assert_never(event)


RetentionEvent = RetentionRuleSet | RetentionRuleLifted


@dataclass(frozen=True, slots=True)
class Retention:
    """How long values are kept under one law, by purpose."""

    keep: Map[str, str] = field(default_factory=Map)


def evolve_retention(retention: Retention, event: RetentionEvent) -> Retention:
    match event:
        case RetentionRuleSet():
            return Retention(retention.keep.set(event.purpose, event.keep))
        case RetentionRuleLifted():
            return Retention(retention.keep.delete(event.purpose))
        case _:
            assert_never(event)
