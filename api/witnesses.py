"""Witnesses and timestamps over REST: the checkpoint that enough others have cosigned, and how far behind they are."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import Path, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from api.errors import ApiError
from api.reading import Present
from api.routing import PUBLIC, ContextRouter
from api.services import Services, now
from domain.kernel import timestamp
from domain.values import PEOPLE
from infra.witnessing import Member

router = ContextRouter(tags=["witnesses"])
LATE_SECONDS: Final = 60.0
"""A checkpoint whose oldest event waits longer than this for its cosignatures is late."""
NO_WITNESS: Final = (
    "No witness cosigns this ledger: whoever owns the database could cut off its end, and whoever also holds the log key could show "
    "two parties two ledgers, and neither would notice. Set AUREUS_WITNESSES."
)
OWN_ONLY: Final = (
    "Its only witness stands on the same machine, within the operator's reach: it notices a database that was restored behind it, and "
    "proves nothing against the operator."
)
Standing = Literal["agrees", "not asked yet", "contradicts"]


class WitnessStanding(BaseModel):
    """How far one witness has come. `lag_seconds` is how long the oldest event it has not cosigned has been waiting."""

    name: str
    key: str
    url: str
    stands: Literal["elsewhere", "within the operator's reach"]
    standing: Standing
    size: int
    at: str | None
    lag_events: int
    lag_seconds: float
    last_error: str | None
    contradiction: str | None


class TimestampStanding(BaseModel):
    """The latest checkpoint that a timestamp authority stamped."""

    authority: str
    size: int
    at: str
    last_error: str | None


class Witnesses(BaseModel):
    """Who watches this ledger. `witnessed` is the size of the latest checkpoint that `required` of them cosigned."""

    size: int
    required: int
    witnessed: int
    lag_events: int
    lag_seconds: float
    fulfilled: bool
    comparison: Literal["done", "outstanding", "contradicted", "none"]
    summary: str
    witnesses: list[WitnessStanding]
    timestamps: list[TimestampStanding]


@router.query("/v1/log/checkpoint", roles=PUBLIC, response_class=PlainTextResponse)
async def witnessed_checkpoint(request: Request) -> PlainTextResponse:
    """The latest checkpoint with enough cosignatures (C2SP tlog-checkpoint, tlog-cosignature); without witnesses the latest there is."""
    services: Services = request.app.state.services
    size = await services.witnessing.witnessed() if services.witnessing.members else (await services.ledger.refresh()).size
    note = await services.proofs.checkpoint(size)
    if note is None:
        required = services.witnessing.required
        message = f"No checkpoint has {required} cosignature{'s' if required > 1 else ''} yet."
        raise ApiError(
            404, "checkpoint_not_found", message, remedy="See /v1/witnesses; /v1/ledger/checkpoint has the latest, witnessed or not."
        )
    return PlainTextResponse(note.decode(), headers={"cache-control": "no-store"})


@router.query("/v1/witnesses", roles=PEOPLE, response_model=Witnesses)
async def witnesses(reader: Present) -> Witnesses:
    """Who watches this ledger, how far behind they are, and whether enough of them have cosigned it."""
    services = reader.services
    witnessing = services.witnessing
    size = (await services.ledger.refresh()).size
    witnessed = await witnessing.witnessed() if witnessing.members else 0
    late = await _waiting_seconds(services, witnessed)
    return Witnesses(
        size=size,
        required=witnessing.required if witnessing.members else 0,
        witnessed=witnessed,
        lag_events=max(0, size - witnessed),
        lag_seconds=late,
        fulfilled=witnessed > 0 and late <= LATE_SECONDS and services.ledger.refusal is None,
        comparison=_comparison(witnessing.members),
        summary=_summary(services, witnessed),
        witnesses=[await _standing(services, member, size) for member in witnessing.members],
        timestamps=await _timestamps(services),
    )


@router.query("/v1/log/timestamps/{size}", roles=PUBLIC, response_class=Response)
async def token(request: Request, size: Annotated[int, Path(ge=1)]) -> Response:
    """The timestamp authority's answer (RFC 3161, DER) over the note text of the checkpoint of `size` events."""
    stamps = await request.app.state.services.ledger.store.stamps(size)
    if not stamps:
        message = f"The checkpoint of {size} events was not timestamped."
        raise ApiError(404, "timestamp_not_found", message, field="size", remedy="/v1/witnesses tells the latest that was.")
    return Response(stamps[0].token, media_type="application/timestamp-reply")


async def _standing(services: Services, member: Member, size: int) -> WitnessStanding:
    standing: Standing = "agrees" if member.compared else "not asked yet"
    return WitnessStanding(
        name=member.key.name,
        key=member.key.text(),
        url=member.url,
        stands="within the operator's reach" if member.own else "elsewhere",
        standing="contradicts" if member.contradiction else standing,
        size=member.size,
        at=_text(member.at),
        lag_events=max(0, size - member.size),
        lag_seconds=await _waiting_seconds(services, member.size),
        last_error=member.last_error,
        contradiction=member.contradiction,
    )


async def _waiting_seconds(services: Services, size: int) -> float:
    """How long the first event after `size` has been there; 0 when there is none."""
    waiting = await services.ledger.read(size, 1)
    return max(0.0, (now() - waiting[0].at).total_seconds()) if waiting else 0.0


def _comparison(members: list[Member]) -> Literal["done", "outstanding", "contradicted", "none"]:
    if any(member.contradiction for member in members):
        return "contradicted"
    if not members:
        return "none"
    return "done" if all(member.compared for member in members) else "outstanding"


def _summary(services: Services, witnessed: int) -> str:
    members, required = services.witnessing.members, services.witnessing.required
    if services.ledger.refusal is not None:
        return f"Nothing is written any more. {services.ledger.refusal}"
    if not members:
        return NO_WITNESS
    latest = f"that of {witnessed} events" if witnessed else "none yet"
    enough = f"{required} of {len(members)} have to cosign a checkpoint; the latest that so many cosigned is {latest}."
    return f"{enough} {OWN_ONLY}" if all(member.own for member in members) else enough


async def _timestamps(services: Services) -> list[TimestampStanding]:
    if services.timestamping is None:
        return []
    authority = services.timestamping.authority.name
    stamp = await services.ledger.store.latest_stamp(authority)
    at = _text(stamp.at) if stamp else ""
    return [
        TimestampStanding(authority=authority, size=stamp.size if stamp else 0, at=at or "", last_error=services.timestamping.last_error)
    ]


def _text(moment: datetime | None) -> str | None:
    return timestamp(moment) if moment else None
