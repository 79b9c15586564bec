"""The archive over REST: have the ledger sealed, see its segments, and ask them in SQL."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from api.errors import ApiError
from api.reading import Reading
from api.routing import ContextRouter
from api.services import Services
from commands.archive import SealSegments
from domain.archive import ARCHIVE_STREAM
from domain.kernel import Asker
from domain.values import Role
from infra.archive.fetching import overlapping, sealed_segments
from infra.archive.querying import ROWS_MAX, Question, ask
from infra.archive.segment import ArchiveError
from projections.archive import ArchiveRow, archives, segments

OVERSEERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
ASKED_AT_ONCE: Final = 2
"""Each question takes a process, and up to a gigabyte."""
_STATUS: Final = {"archive_unavailable": 503, "segment_tampered": 500}
_asking = asyncio.Semaphore(ASKED_AT_ONCE)


class ArchiveQuery(BaseModel):
    """One SELECT over `events`, the caller's own in the archive; of positions behind `after`, up to `until`."""

    model_config = ConfigDict(extra="forbid")

    sql: Annotated[str, Field(min_length=1, max_length=20_000)]
    after: Annotated[int, Field(ge=0, lt=2**53)] = 0
    until: Annotated[int | None, Field(ge=1, lt=2**53)] = None
    limit: Annotated[int, Field(ge=1, le=ROWS_MAX)] = 1_000


class AnsweredColumn(BaseModel):
    """A column of an answer, with its type in SQL."""

    name: str
    type: str


class ArchiveAnswer(BaseModel):
    """The rows of an answer, whether more were left off, and which positions it is about."""

    columns: list[AnsweredColumn]
    rows: list[list[Any]]
    truncated: bool
    first: int
    last: int


async def _until(services: Services, _asker: Asker, command: SealSegments) -> SealSegments:
    """Up to where the ledger ends, when nothing was said; what is still to come cannot be sealed."""
    size = (await services.ledger.refresh()).size
    if command.until is not None and command.until > size:
        message = f"The ledger ends at position {size}, before {command.until}."
        raise ApiError(422, "validation_failed", message, field="until", head=size, remedy="Leave it out to seal all there is.")
    return command.model_copy(update={"until": command.until or size})


router = ContextRouter(prefix="/v1", tags=["archive"])
router.command("/archive/seal", SealSegments, complete=_until)
router.views("/archive/segments", segments, row_id="segment_id", roles=OVERSEERS)


@router.query("/archive", roles=OVERSEERS, response_model=ArchiveRow, name="archive_status")
async def status(reader: Reading) -> ArchiveRow:
    """How far the ledger is sealed, how far it is wanted, and why that failed, if it did."""
    row = await reader.get(archives, ARCHIVE_STREAM.partition(":")[2])
    return ArchiveRow(**row) if row else ArchiveRow(0, 0, 0, 0, None, None, None, None)


@router.query("/archive/query", roles=OVERSEERS, methods=("POST",), limit="queries", response_model=ArchiveAnswer, name="archive_query")
async def query(asked: ArchiveQuery, reader: Reading) -> ArchiveAnswer:
    """Ask the archive in SQL (DuckDB): one SELECT over `events`, your own. It reaches nothing else, and ends after 30 seconds."""
    services = reader.services
    until = reader.as_of if asked.until is None else min(asked.until, reader.as_of or asked.until)
    chosen = overlapping(await sealed_segments(services.ledger), asked.after, until)
    if not chosen:
        raise ApiError(
            409,
            "nothing_archived",
            "No segment holds these positions.",
            field="after" if asked.after else "until",
            remedy="`aureus archive list` shows the segments; what is not sealed yet is asked with `aureus audit`.",
        )
    if _asking.locked():
        raise ApiError(
            429, "archive_busy", f"{ASKED_AT_ONCE} questions are being answered.", {"retry-after": "5"}, remedy="Ask again in a moment."
        )
    last = chosen[-1].last if until is None else min(until, chosen[-1].last)
    question = Question(asked.sql, reader.asker.tenant, asked.after, last, asked.limit)
    try:
        async with _asking:
            answer = await ask(services.blobs, chosen, question, services.settings.archive_dir)
    except ArchiveError as error:
        raise ApiError(_STATUS.get(error.code, 422), error.code, error.message, field="sql", remedy=error.remedy) from error
    return ArchiveAnswer(**answer, first=max(chosen[0].first, asked.after + 1), last=last)
