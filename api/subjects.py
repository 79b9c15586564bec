"""Subjects over REST: erase somebody and see the certificate, hold what a court may ask for, and say how long values are kept at all."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Path, Query
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from api.errors import ApiError
from api.reading import time_of
from api.routing import ContextRouter, Present, Reader, Reading
from api.services import Services, now
from commands.path import Ask
from commands.subjects import (
    ERASERS,
    HOLDERS,
    AttachArtifact,
    CancelErasure,
    DescribeSubject,
    DetachArtifact,
    EraseSubject,
    LiftRetentionRule,
    PlaceHold,
    ReleaseHold,
    ReopenSubject,
    SetRetentionRule,
)
from domain.exports import Purpose
from domain.kernel import JsonObject
from domain.keys import KEY_STREAM, SYSTEM_TENANT
from domain.values import Identifier, uuid7
from infra.envelope import entry_bytes
from infra.postgres_store import PostgresStore
from infra.retention import due, holds_it
from infra.traces import Traces
from infra.vault import Field
from projections.engine import read_row
from projections.subjects import CertificateRow, HoldRow, SubjectRow, certificates, holds, retention_rules, subjects

READERS: Final = ERASERS | HOLDERS
FOUNDING_KEYS: Final = 3
"""How many keys a ledger begins with: root, log, service."""
SubjectId = Annotated[Identifier, Path(description="The subject's opaque id.")]


class FieldCount(BaseModel):
    """How many values are kept for a purpose in events of a type, and in which of their fields."""

    purpose: str
    event_type: str
    names: list[str]
    fields: int
    first_position: int
    last_position: int


class PreviewArtifact(BaseModel):
    """An artifact that would go, or that stays for now: it holds data about others as well."""

    sha256: str
    purpose: str
    also_of: list[str]


class PreviewPack(BaseModel):
    """An export whose pack would be withdrawn."""

    export_id: str
    recipient: str
    sha256: str
    downloads: int


class Approval(BaseModel):
    """What would become of asking for it: allowed, blocked (why), or parked until so many of these roles agree."""

    outcome: str
    code: str | None
    message: str | None
    approver_roles: list[str]
    quorum: int | None


class ErasurePreview(BaseModel):
    """What an erasure would destroy, and what stands in its way; no value is shown."""

    subject_id: str
    purposes: list[str]
    fields: list[FieldCount]
    artifacts: list[PreviewArtifact]
    packs: list[PreviewPack]
    holds: list[HoldRow]
    approval: Approval


@read_row
class SubjectNow(SubjectRow):
    """A subject, how many values are kept of them, and the holds that prevent an erasure."""

    fields: int
    holds: list[str]


@read_row
class Certificate(CertificateRow):
    """A certificate, the signed entry that it stands in, and where to ask for the proof that the ledger holds it."""

    entry: dict[str, Any]
    proof: str


class Certificates(BaseModel):
    """The certificates of one subject, the latest last."""

    items: list[Certificate]


class DueErasureShown(BaseModel):
    """What a retention rule has erased from `due_at` on, unless a hold keeps it."""

    subject_id: str
    jurisdiction: str
    purpose: str
    fields: int
    last_position: int
    last_recorded_at: datetime
    keep: str
    due_at: datetime
    holds: list[str]


class DueErasures(BaseModel):
    """What would be erased, the longest due first."""

    at: datetime
    items: list[DueErasureShown]


router = ContextRouter(prefix="/v1", tags=["subjects"])
router.command("/subjects", DescribeSubject, status=201)
router.command("/subjects/{subject_id}/artifacts", AttachArtifact, status=201)
router.command("/subjects/{subject_id}/artifacts/{sha256}/detach", DetachArtifact)
router.command("/subjects/{subject_id}/erase", EraseSubject, status=201)
router.command("/subjects/{subject_id}/cancel-erasure", CancelErasure)
router.command("/subjects/{subject_id}/reopen", ReopenSubject)
router.command("/holds", PlaceHold, status=201)
router.command("/holds/{hold_id}/release", ReleaseHold)
router.command("/retention-rules", SetRetentionRule, status=201)
router.command("/retention-rules/lift", LiftRetentionRule)
router.views("/subjects", subjects, row_id=None, roles=READERS)
router.views("/holds", holds, row_id="hold_id", roles=READERS)
router.views("/retention-rules", retention_rules, row_id=None, roles=READERS)
router.views("/certificates", certificates, row_id=None, roles=READERS)


@router.query("/certificates/entries", roles=READERS, response_model=None, name="certificate_entries")
async def certificate_entries(reader: Present) -> StreamingResponse:
    """Every certificate as its signed ledger entry, a JSON object a line: `{"position": ..., "entry": ...}`, for a restore to follow.

    Between them, what came of the ledger's keys after its founding: without it nobody could verify what a newer key signed.
    """
    services = reader.services
    rows = await traces_of(services).rows(certificates, reader.asker.tenant, {})
    later_keys = await services.ledger.store.read_stream(SYSTEM_TENANT, KEY_STREAM, FOUNDING_KEYS)

    async def lines() -> AsyncIterator[bytes]:
        for position in sorted({*(row["position"] for row in rows), *(stored.position for stored in later_keys)}):
            line = {"position": position, "entry": await _entry(services, position)}
            yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.query("/subjects/{subject_id}", roles=READERS, name="get_subjects", response_model=SubjectNow)
async def subject(subject_id: SubjectId, reader: Reading) -> JsonObject:
    """How a subject stands: described or not, ordered to be erased, erased; how many values are kept, and what holds them."""
    row = await reader.get(subjects, subject_id)
    kept = await _fields(reader, subject_id)
    if row is None and not kept:
        raise _unknown(subject_id)
    known = row if row is not None else _never_described(subject_id)
    held = [hold["hold_id"] for hold in await _holds_on(reader, subject_id)]
    return {**known, "fields": len(kept), "holds": held}


@router.query("/subjects/{subject_id}/erasure-preview", roles=READERS, name="erasure_preview")
async def erasure_preview(
    subject_id: SubjectId,
    reader: Present,
    purpose: Annotated[list[Purpose] | None, Query(description="Only what is kept for it; repeat it for several.")] = None,
) -> ErasurePreview:
    """What an erasure would destroy: values by purpose and event type, artifacts, packs; what holds it up, who must approve."""
    services, tenant, purposes = reader.services, reader.asker.tenant, tuple(purpose or ())
    row = await reader.get(subjects, subject_id)
    kept = [field for field in await _fields(reader, subject_id) if not purposes or field.purpose in purposes]
    if row is None and not kept:
        raise _unknown(subject_id)
    traces = traces_of(services)
    attached = await traces.attached(tenant, row, purposes) if row is not None else []
    packs = await traces.packs(tenant, subject_id, purposes, {one.sha256 for one in attached if not one.also_of})
    rehearsed = await services.path.rehearse(
        Ask(EraseSubject(subject_id=subject_id, purposes=purposes, ground="other"), reader.asker, uuid7(), now())
    )
    approval = rehearsed.approval or {}
    return ErasurePreview(
        subject_id=subject_id,
        purposes=list(purposes),
        fields=_counted(kept),
        artifacts=[PreviewArtifact(**asdict(one)) for one in attached],
        packs=[PreviewPack(**{name: one[name] for name in PreviewPack.model_fields}) for one in packs],
        holds=[HoldRow(**hold) for hold in await _holds_on(reader, subject_id)],
        approval=Approval(
            outcome=rehearsed.outcome,
            code=rehearsed.code,
            message=rehearsed.message,
            approver_roles=approval.get("approver_roles", []),
            quorum=approval.get("quorum"),
        ),
    )


@router.query("/subjects/{subject_id}/certificates", roles=READERS, name="subject_certificates")
async def subject_certificates(subject_id: SubjectId, reader: Reading) -> Certificates:
    """The certificates of a subject's erasures, each with its signed entry and where its inclusion proof is."""
    found = sorted(await reader.find(certificates, {"subject_id": subject_id}), key=lambda row: int(row["position"]))
    if not found and await reader.get(subjects, subject_id) is None and not await _fields(reader, subject_id):
        raise _unknown(subject_id)
    return Certificates(
        items=[
            Certificate(
                **row,
                entry=await _entry(reader.services, row["position"]),
                proof=f"/v1/proofs/inclusion?position={row['position']}",
            )
            for row in found
        ]
    )


@router.query("/retention/due", roles=READERS, name="retention_due")
async def retention_due(
    reader: Present,
    at: Annotated[str | None, Query(description="As of this time or day, past or to come; now when left out.")] = None,
) -> DueErasures:
    """What the retention rules would have erased at a moment, as things stand now; under a hold it stays, and the hold is named."""
    moment = now() if at is None else _moment(at)
    found = await due(traces_of(reader.services), reader.asker.tenant, moment)
    return DueErasures(at=moment, items=[DueErasureShown(**asdict(one)) for one in found])


def traces_of(services: Services) -> Traces:
    """Looks for what is kept beside the vault."""
    return Traces(services.reads, _store(services).pool, services.shelf)


def _store(services: Services) -> PostgresStore:
    store = services.ledger.store
    assert isinstance(store, PostgresStore), "a server's ledger is in PostgreSQL"
    return store


async def _fields(reader: Reader, subject_id: str) -> list[Field]:
    """What is kept of a subject in events up to the moment asked for."""
    store = _store(reader.services)
    until = {} if reader.as_of is None else {"until": reader.as_of}
    return await store.vault.fields_of(store.pool, reader.asker.tenant, subject_id, **until)


def _counted(kept: list[Field]) -> list[FieldCount]:
    groups: dict[tuple[str, str], list[Field]] = {}
    for field in kept:
        groups.setdefault((field.purpose, field.event_type), []).append(field)
    return [
        FieldCount(
            purpose=purpose,
            event_type=event_type,
            names=sorted({field.name for field in found}),
            fields=len(found),
            first_position=found[0].position,
            last_position=found[-1].position,
        )
        for (purpose, event_type), found in sorted(groups.items())
    ]


async def _holds_on(reader: Reader, subject_id: str) -> list[JsonObject]:
    at = await reader.moment()
    return [row for row in await reader.find(holds, {"status": "placed"}) if holds_it(row, subject_id, at)]


async def _entry(services: Services, position: int) -> JsonObject:
    (stored,) = await services.ledger.entries(position - 1, 1)
    entry: JsonObject = orjson.loads(entry_bytes(stored.body, stored.signatures))
    return entry


def _never_described(subject_id: str) -> JsonObject:
    """The row of somebody of whom there are values, and nothing else was ever said."""
    row: JsonObject = dict.fromkeys(SubjectRow.__annotations__)
    nothing: JsonObject = {"artifacts": [], "artifact_purposes": {}, "ordered_purposes": [], "erased_purposes": [], "certificates": []}
    return {**row, **nothing, "subject_id": subject_id, "status": "open", "erased_whole": False, "changed_at": ""}


def _moment(text: str) -> datetime:
    moment = time_of("at", text)
    if moment is None:
        message = f"at {text!r} is not a time with its zone, nor a day."
        raise ApiError(422, "invalid_parameter", message, field="at", remedy="Write 2027-01-01 or 2027-01-01T00:00:00Z.")
    return moment


def _unknown(subject_id: str) -> ApiError:
    message = f"Nobody described a subject {subject_id}, and no value of them is kept."
    return ApiError(404, "subject_not_found", message, field="subject_id", remedy="Check the id; `aureus subjects list` shows some.")
