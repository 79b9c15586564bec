"""The ledger and the read models themselves over REST: checkpoint, events, exact bytes to verify, standing, rebuild, health."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import orjson
from fastapi import Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from api.errors import ApiError
from api.reading import Present, Reader, Reading
from api.routing import PUBLIC, ContextRouter
from api.services import Services
from domain.kernel import JsonObject
from domain.keys import KeyAdded
from domain.values import PEOPLE, Role
from infra import circuit
from infra.archive.fetching import fetched, sealed_segments
from infra.archive.segment import ArchiveError
from infra.checkpoint import verifier_key
from infra.entries import entries as entries_of
from infra.entries import own_events
from infra.read_queries import NOBODYS
from infra.rebuild import Rebuilt, rebuild
from projections.engine import Projection, ProjectionError

router = ContextRouter(tags=["ledger"])
READERS: Final = PEOPLE
VERIFIERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
OPERATORS: Final = frozenset({Role.ADMIN})
_STANDINGS: Final = "SELECT name, version, position, stopped FROM projections.positions ORDER BY name"
_STOPPED: Final = "SELECT name, stopped FROM projections.positions WHERE stopped IS NOT NULL"
After = Annotated[int, Query(ge=0, description="Only events after this position.")]
Limit = Annotated[int, Query(ge=1, le=5_000, description="At most this many.")]


class LedgerEvents(BaseModel):
    """Events of the caller's tenant in order of position; `next_after` continues, `size` is where the ledger ends."""

    items: list[dict[str, Any]]
    next_after: int
    size: int


class ProjectionStanding(BaseModel):
    """Where a projection stands, how many events it lacks, and why it stopped if it did."""

    name: str
    version: int
    position: int
    lag_events: int
    stopped: str | None
    tables: list[str]


class Standings(BaseModel):
    """All projections."""

    items: list[ProjectionStanding]
    size: int


@router.query("/healthz", roles=PUBLIC, tags=["health"], limit="none")
async def healthy() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.query("/readyz", roles=PUBLIC, tags=["health"], limit="none")
async def ready(request: Request) -> Response:
    """Whether commands and reads would be answered now: the database, the policies, the read models.

    `away` names what does not answer and is done without.
    """
    services = request.app.state.services
    head = await services.ledger.refresh()
    stopped: dict[str, str] = dict(await services.reads.fetch(_STOPPED, (), tenant=NOBODYS))
    reached = await services.reads.position()
    if reached > head.size:
        # The ledger cannot shrink: somebody cut its end off, or restored it without its read models.
        stopped = {**stopped, "ledger": f"it ends at {head.size}, before the read models' position {reached}: verify it"}
    if services.ledger.refusal is not None:
        stopped = {**stopped, "ledger": services.ledger.refusal.message}
    body = {
        "status": "degraded" if stopped else "ready",
        "size": head.size,
        "read_position": reached,
        "stopped": stopped,
        "away": circuit.away(),
    }
    return JSONResponse(body, 503 if stopped else 200)


@router.query("/v1/ledger/checkpoint", roles=PUBLIC, response_class=PlainTextResponse)
async def checkpoint(request: Request, size: Annotated[int | None, Query(ge=1)] = None) -> PlainTextResponse:
    """The latest signed checkpoint (C2SP tlog-checkpoint), or the one of exactly `size` events, with the cosignatures there are."""
    services = request.app.state.services
    note = await services.proofs.checkpoint(size or (await services.ledger.refresh()).size)
    if note is None:
        raise ApiError(
            404, "checkpoint_not_found", f"No checkpoint was signed at size {size}.", field="size", remedy="Leave it out for the latest."
        )
    return PlainTextResponse(note.decode())


@router.query("/v1/ledger/keys", roles=PUBLIC)
async def keys(request: Request) -> JsonObject:
    """The ledger's name and the keys to verify it with: the root key it was founded with, and the one that signs checkpoints now.

    Take the root key from elsewhere if you do not trust this server.
    """
    ledger = request.app.state.services.ledger
    (founding,) = await ledger.read(0, 1)
    assert isinstance(founding.event, KeyAdded)
    return {
        "ledger": ledger.name,
        "root_key_id": founding.event.key_id,
        "log_verifier_key": verifier_key(ledger.name, ledger.sealer.signers.log.public),
    }


@router.query("/v1/ledger/events", roles=READERS, response_model=LedgerEvents, recorded=True)
async def events(reader: Reading, after: After = 0, limit: Limit = 100, tail: Annotated[bool, Query()] = False) -> LedgerEvents:
    """The event log as it is signed; `tail=true` answers the last `limit` events."""
    size = await _end(reader)
    start = max(after, size - limit) if tail else after
    until = max(min(start + limit, size), start)
    found = await own_events(reader.services.reads, reader.asker.tenant, start, until)
    return LedgerEvents(items=[{"position": at, **orjson.loads(body)} for at, body in found], next_after=until, size=size)


@router.query("/v1/ledger/entries", roles=VERIFIERS, recorded=True)
async def entries(reader: Reading, after: After = 0, limit: Limit = 1_000) -> JsonObject:
    """The tree's entries, byte for byte in base64: what a verifier needs, and all it should believe.

    In place of another tenant's stands null: that it is there, the proofs say, which are anybody's.
    """
    services, until = reader.services, min(after + limit, await _end(reader))
    found = await entries_of(services.reads, reader.asker.tenant, services.settings.operations.operator_tenant, after, until)
    return {"after": after, "entries": [None if entry is None else base64.b64encode(entry).decode() for entry in found]}


async def _end(reader: Reader) -> int:
    """Where the ledger ends, or ended."""
    return (await reader.services.ledger.refresh()).size if reader.as_of is None else reader.as_of


@router.query("/v1/projections", roles=READERS, response_model=Standings, tags=["projections"])
async def standings(reader: Present) -> Standings:
    """Where each projection stands."""
    services = reader.services
    size = (await services.ledger.refresh()).size
    rows = await services.reads.fetch(_STANDINGS, (), tenant=NOBODYS)
    tables = {projection.name: [read.name for read in projection.tables] for projection in services.projections}
    items = [
        ProjectionStanding(
            name=name, version=version, position=position, lag_events=size - position, stopped=stopped, tables=tables.get(name, [])
        )
        for name, version, position, stopped in rows
    ]
    return Standings(items=items, size=size)


@router.query("/v1/projections/{name}/rebuild", roles=OPERATORS, methods=("POST",), tags=["projections"])
async def rebuild_projection(
    reader: Present,
    name: str,
    swap: Annotated[bool, Query()] = True,
    accept_changes: Annotated[bool, Query()] = False,
    archive: Annotated[bool, Query(description="Read from the segments of the archive what they hold.")] = False,
) -> StreamingResponse:
    """Build a projection again beside the live one, compare digests, and swap it in.

    Answers JSON lines: {"phase", "done", "total"} as it goes, then {"done": {...}}. Without `swap` it only compares.
    A build that differs is swapped in only with `accept_changes`.
    """
    found = next((projection for projection in reader.services.projections if projection.name == name), None)
    if found is None:
        known = ", ".join(projection.name for projection in reader.services.projections)
        raise ApiError(404, "projection_not_found", f"There is no projection {name!r}.", field="name", remedy=f"Use one of {known}.")
    lines = _rebuilding(reader.services, found, swap=swap, accept_changes=accept_changes, archive=archive)
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _rebuilding(
    services: Services, projection: Projection, *, swap: bool, accept_changes: bool, archive: bool
) -> AsyncIterator[bytes]:
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def progress(phase: str, done: int, total: int) -> None:
        await lines.put(orjson.dumps({"phase": phase, "done": done, "total": total}) + b"\n")

    async def work() -> None:
        try:
            segments = await sealed_segments(services.ledger) if archive else []
            async with fetched(services.blobs, segments, services.settings.archive_dir) as sealed:
                choice = {"swap": swap, "accept_changes": accept_changes}
                built: Rebuilt = await rebuild(services.dsn, projection, progress=progress, sealed=sealed, **choice)
            await lines.put(orjson.dumps({"done": {**_shape(built), "equal": built.equal}}) + b"\n")
        except ArchiveError as error:
            await lines.put(orjson.dumps({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}) + b"\n")
        except ProjectionError as error:
            await lines.put(orjson.dumps({"error": {"code": "projection_failed", "message": str(error)}}) + b"\n")
        finally:
            await lines.put(None)

    task = asyncio.create_task(work())
    try:
        while (line := await lines.get()) is not None:
            yield line
    finally:
        await task


def _shape(built: Rebuilt) -> JsonObject:
    return {"projection": built.projection, "position": built.position, "live": built.live, "built": built.built, "swapped": built.swapped}
