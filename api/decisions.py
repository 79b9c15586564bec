"""Past decisions over REST: asked again under the policies of their time, or under others."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from api.errors import ApiError
from api.policies import FilesText
from api.policy_changes import EXAMINERS, Desk, candidate_of
from api.reading import position_of
from api.routing import ContextRouter, Present, Reader, Reading
from commands.policies import left_by
from domain.kernel import JsonObject
from domain.policies import Change
from infra.decision_replay import DECISIONS_MAX, Range


class Candidate(BaseModel):
    """Other policies: a change of those in force, or a folder's files in place of what they name. None of it is recorded."""

    model_config = ConfigDict(extra="forbid")

    change: Change = Change()
    files: FilesText | None = None
    start: Annotated[str | None, Field(alias="from", description="The first position, or a time.")] = None
    end: Annotated[str | None, Field(alias="to", description="The last position, or a time.")] = None


class Replay(BaseModel):
    """How past decisions come out when they are asked again.

    Under `recorded` every difference is an alarm: the same policies must answer the same. Under `candidate` the
    differences are what would flip. At most 1,000 of them are told; `different` counts all.
    """

    under: str
    from_position: int
    to_position: int
    examined: int
    asked_again: int
    distinct_questions: int
    unasked: int
    unanswered_then: int
    different: int
    flips: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    candidate_version: str | None = None


router = ContextRouter(tags=["decisions"])


@router.query("/v1/decisions/replay", roles=EXAMINERS, limit="queries", recorded=True, response_model=Replay)
async def replay(
    reader: Reading,
    request: Request,
    start: Annotated[str | None, Query(alias="from", description="The first position, or a time.")] = None,
    end: Annotated[str | None, Query(alias="to", description="The last position, or a time.")] = None,
) -> JsonObject:
    """Ask past decisions again under the policies of their time; any that comes out differently is an alarm."""
    desk = await _desk(reader, request)
    return await desk.examined("recorded", await _range(reader, start, end), reader.services.policy.shipped)


@router.query(
    "/v1/decisions/replay",
    roles=EXAMINERS,
    methods=("POST",),
    limit="queries",
    recorded=True,
    response_model=Replay,
    name="replay_under_candidate",
)
async def replay_under_candidate(candidate: Candidate, reader: Present, request: Request) -> JsonObject:
    """Ask past decisions again under other policies: which would flip, and why."""
    desk = await _desk(reader, request)
    if candidate.files is None:
        policies = left_by(desk.policies, candidate.change)
    elif candidate.change == Change():
        policies = candidate_of(desk, candidate.files)
    else:
        raise ApiError(422, "validation_failed", "Give a change or files, not both.", field="files", remedy="Leave one of them out.")
    return await desk.examined("candidate", await _range(reader, candidate.start, candidate.end), policies)


async def _range(reader: Reader, start: str | None, end: str | None) -> Range:
    """From one moment to another, both included; the latest decisions there are when neither is given."""
    tenant, size = reader.asker.tenant, reader.services.ledger.head.size if reader.as_of is None else reader.as_of
    if start is None and end is None:
        return Range(tenant, to=size, limit=DECISIONS_MAX, latest=True)
    first = await position_of(reader.services, "from", start) if start is not None else 1
    last = await position_of(reader.services, "to", end) if end is not None else size
    return Range(tenant, after=max(first - 1, 0), to=min(last, size))


async def _desk(reader: Reader, request: Request) -> Desk:
    return await Desk.open(reader.services, reader.asker, request.scope["headers"])
