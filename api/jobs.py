"""Jobs over REST: what takes long, how far it is, what became of each command of it - and an end to it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path, Query
from pydantic import BaseModel

from api.errors import ApiError
from api.routing import ContextRouter, Own, Reading
from commands.jobs import CancelJob
from domain.values import EVERYBODY, Identifier, Role
from infra.blobs import BlobMissing, BlobsUnavailable, BlobTampered
from projections.jobs import jobs
from streams.jobs import job_of, results_of

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR})
OWN: Final = Own("asked_by", OVERSEERS)
PAGE_MAX: Final = 1_000


class JobResults(BaseModel):
    """What became of a job's commands, in their order, as `BulkResult` of POST /v1/bulk tells it; as far as it is on record."""

    job_id: str
    status: str
    items: list[dict[str, Any]]
    next_cursor: str | None


router = ContextRouter(prefix="/v1", tags=["jobs"])
router.command("/jobs/{job_id}/cancel", CancelJob)
router.views("/jobs", jobs, row_id="job_id", roles=EVERYBODY, own=OWN)


@router.query("/jobs/{job_id}/results", roles=EVERYBODY, name="job_results", narrowed=True)
async def results(
    job_id: Annotated[Identifier, Path()],
    reader: Reading,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX, description="Commands per page.")] = PAGE_MAX,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,6}$", description="The next_cursor of the page before.")] = None,
) -> JobResults:
    """What became of each command of a bulk job; with as_of, as far as it was then."""
    row = await reader.get(jobs, job_id)
    if row is None or not OWN.shows(reader.asker, row):
        message = f"There is no job {job_id!r}{' at that time' if reader.as_of is not None else ''}."
        raise ApiError(404, "job_not_found", message, field="job_id", remedy="List them to see what is there.")
    services, tenant = reader.services, reader.asker.tenant
    job = await job_of(services.ledger, tenant, job_id, reader.as_of)
    after = int(cursor or 0)
    try:
        items = await results_of(services.blobs, job, after, limit)
    except (BlobMissing, BlobTampered) as error:
        remedy = "Restore the blobs from a backup; the evidence of each command is in the ledger."
        raise ApiError(500, "results_lost", str(error), sha256=error.sha256, remedy=remedy) from error
    except BlobsUnavailable as error:
        raise ApiError(503, "artifact_store_unavailable", str(error), {"retry-after": "1"}, remedy=error.remedy) from error
    more = after + len(items) < job.done
    return JobResults(job_id=job_id, status=row["status"], items=items, next_cursor=str(after + len(items)) if more else None)
