"""When the answer to an erasure is yes: it was ordered, nobody holds the subject, and what was destroyed is certified by who did it."""

from __future__ import annotations

from typing import assert_never

from commands.subjects.intents import (
    HOLDS,
    AttachArtifact,
    BeginErasure,
    CancelErasure,
    CertifyErasure,
    DescribeSubject,
    DetachArtifact,
    EraseSubject,
    ReopenSubject,
    SubjectCommand,
)
from domain.kernel import Asked, JsonObject, require
from domain.subjects import (
    ERASER,
    ArtifactAttached,
    ArtifactDetached,
    ErasureBegun,
    ErasureCancelled,
    ErasureOrdered,
    Holds,
    Order,
    Subject,
    SubjectDescribed,
    SubjectErased,
    SubjectEvent,
    SubjectReopened,
)


def decide(subject: Subject, command: SubjectCommand, asked: Asked) -> list[SubjectEvent]:
    match command:
        case DescribeSubject():
            described = SubjectDescribed(**command.model_dump())
            return [] if (subject.kind, subject.jurisdiction) == (command.kind, command.jurisdiction) else [described]
        case AttachArtifact():
            return _attached(subject, command, asked)
        case DetachArtifact():
            return [_detached(subject, command)]
        case EraseSubject():
            return [_ordered(subject, command, asked)]
        case CancelErasure():
            _require_not_begun(_order(subject, command.subject_id), command.subject_id)
            return [ErasureCancelled(**command.model_dump())]
        case BeginErasure():
            _require_itself(asked)
            _require_not_begun(_order(subject, command.subject_id), command.subject_id)
            _require_not_held(command.subject_id, asked)
            return [ErasureBegun(**command.model_dump())]
        case CertifyErasure():
            return [_certified(subject, command, asked)]
        case ReopenSubject():
            return [_reopened(subject, command)]
        case _:
            assert_never(command)


def _attached(subject: Subject, command: AttachArtifact, asked: Asked) -> list[SubjectEvent]:
    require(
        asked.others[f"artifact:{command.sha256}"].registered is not None,
        "artifact_not_found",
        f"No artifact {command.sha256} is stored.",
        field="sha256",
        remedy="Store it first: `aureus evidence attach FILE`.",
    )
    _require_recordable(subject, command)
    known = subject.artifacts.get(command.sha256) == command.purpose
    return [] if known else [ArtifactAttached(**command.model_dump())]


def _require_recordable(subject: Subject, command: AttachArtifact) -> None:
    begun = subject.order is not None and subject.order.begun and subject.order.covers(command.purpose)
    require(
        not begun and not subject.is_erased(command.purpose),
        "subject_erased",
        f"What is kept of {command.subject_id} for {command.purpose} {'is being' if begun else 'was'} erased: nothing is added to it.",
        field="subject_id",
        remedy=f"Reopen the subject: `aureus subjects reopen {command.subject_id}`.",
    )


def _detached(subject: Subject, command: DetachArtifact) -> ArtifactDetached:
    require(
        command.sha256 in subject.artifacts,
        "artifact_not_attached",
        f"Artifact {command.sha256} is not attached to {command.subject_id}.",
        field="sha256",
        remedy=f"`aureus subjects show {command.subject_id}` lists those that are.",
    )
    if subject.order is not None:
        # What was ordered to be destroyed is not slipped away from it.
        _require_not_begun(subject.order, command.subject_id)
    return ArtifactDetached(**command.model_dump())


def _ordered(subject: Subject, command: EraseSubject, asked: Asked) -> ErasureOrdered:
    subject_id = command.subject_id
    require(
        subject.known or asked.others[f"actor:{subject_id}"].actor is not None,
        "subject_not_found",
        f"Nobody described a subject {subject_id}, and no actor is called so.",
        field="subject_id",
        remedy=f"Check the id; if `aureus subjects erase {subject_id} --preview` finds values of them, describe them first.",
    )
    require(
        subject.order is None,
        "erasure_ordered_already",
        f"The erasure of {subject_id} is ordered already.",
        field="subject_id",
        remedy="Wait for its certificate, or cancel the order and give another.",
    )
    already = subject.erased_whole or (bool(command.purposes) and subject.erased.issuperset(command.purposes))
    require(
        not already,
        "subject_erased",
        f"{subject_id} was erased already, and nothing was recorded since.",
        field="subject_id",
        remedy=f"`aureus subjects certificates {subject_id}` shows the certificate.",
    )
    _require_not_held(subject_id, asked)
    return ErasureOrdered(**command.model_dump())


def _require_not_held(subject_id: str, asked: Asked) -> None:
    holds: Holds = asked.others[HOLDS]
    found = holds.on(subject_id, asked.at)
    matters = ", ".join(f"{hold_id} ({holds.placed[hold_id].matter})" for hold_id in found)
    require(
        not found,
        "subject_under_hold",
        f"Nothing of {subject_id} may be erased: held for {matters}.",
        field="subject_id",
        holds=found,
        remedy="Have the hold released by who answers for the matter: `aureus holds show` names who placed it.",
    )


def _order(subject: Subject, subject_id: str) -> Order:
    require(
        subject.order is not None,
        "erasure_not_ordered",
        f"No erasure of {subject_id} is under way.",
        field="subject_id",
        remedy=f"`aureus subjects show {subject_id}` tells how it stands.",
    )
    assert subject.order is not None
    return subject.order


def _require_not_begun(order: Order, subject_id: str) -> None:
    require(
        not order.begun,
        "erasure_begun",
        f"The erasure of {subject_id} has begun: part of what was kept is destroyed.",
        field="subject_id",
        remedy="Wait for its certificate.",
    )


def _require_itself(asked: Asked) -> None:
    require(
        asked.by.actor == ERASER,
        "only_aureus_itself",
        "Aureus itself says what it has destroyed; nobody says it in its place.",
        remedy="Order the erasure: the rest follows.",
    )


def _certified(subject: Subject, command: CertifyErasure, asked: Asked) -> SubjectErased:
    _require_itself(asked)
    order = _order(subject, command.subject_id)
    require(
        order.begun,
        "erasure_not_begun",
        f"The erasure of {command.subject_id} has not begun: nothing can be certified of it.",
        field="subject_id",
        remedy="Begin it first.",
    )
    purposes = tuple(sorted({*order.purposes, *command.purposes}))
    return SubjectErased(**command.model_dump(exclude={"purposes"}), purposes=purposes, everything=not order.purposes, ground=order.ground)


def _reopened(subject: Subject, command: ReopenSubject) -> SubjectReopened:
    require(
        (subject.erased_whole or bool(subject.erased)) and subject.order is None,
        "subject_not_erased",
        f"{command.subject_id} is not erased: there is nothing to reopen.",
        field="subject_id",
        remedy=f"`aureus subjects show {command.subject_id}` tells how it stands.",
    )
    return SubjectReopened(**command.model_dump())


def facts(subject: Subject, command: SubjectCommand) -> JsonObject:
    """On what ground, and of what kind of person; who they are is not for policies to know."""
    if not isinstance(command, EraseSubject):
        return {}
    return {
        "ground": command.ground,
        "everything": not command.purposes,
        "kind": subject.kind or "unknown",
        "jurisdiction": subject.jurisdiction.value if subject.jurisdiction else "unknown",
        "artifacts": bool(subject.artifacts),
    }
