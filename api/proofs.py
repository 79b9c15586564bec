"""The log as C2SP tiles, and proofs from it, over REST: hashes only, so they are anybody's; the entries are the auditors'."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final

from fastapi import Query, Request
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

from api.errors import ApiError
from api.reading import Present
from api.routing import PUBLIC, ContextRouter
from api.services import Services
from domain.values import Role
from infra.entries import entries
from infra.verifier.tree import TILE_WIDTH, ProofError, TileLevel, parse_tile_path, tile_path, tile_width

router = ContextRouter(tags=["proofs"])
VERIFIERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
BYTES: Final = "application/octet-stream"
_FOREVER: Final = "max-age=31536000, immutable"
_HASHES: Final = "The hashes that lead from one to the other, each 32 bytes in base64, the lowest first."
Position = Annotated[int, Query(ge=1, description="The event's position in the ledger, from 1.")]
Size = Annotated[int | None, Query(ge=1, description="The log of its first so many events; the whole log when left out.")]


class InclusionProof(BaseModel):
    """That an event's leaf is in the log of `size` events. `checkpoint` is what was signed at just this size, if anything was."""

    position: int
    index: int = Field(description="The leaf's place in the tree, from 0.")
    size: int
    leaf: str = Field(description="SHA-256 over a zero byte and the entry, in base64.")
    root: str
    hashes: list[str] = Field(description=_HASHES)
    checkpoint: str | None


class ConsistencyProof(BaseModel):
    """That the log of `to` events begins with all of the log of `from`."""

    from_: int = Field(alias="from")
    to: int
    old_root: str
    new_root: str
    hashes: list[str] = Field(description=_HASHES)


class Root(BaseModel):
    """The root of the tree over the first `size` events, in base64."""

    size: int
    root: str


@router.query("/v1/log/tile/entries/{place:path}", roles=VERIFIERS, response_class=Response, recorded=True)
async def entry_bundle(reader: Present, place: str) -> Response:
    """Up to 256 entries (C2SP tlog-tiles): each as two bytes of length, big-endian, and the entry."""
    services, (_, index, width) = reader.services, await _tile(reader.services, f"tile/entries/{place}")
    operator, after = services.settings.operations.operator_tenant, index * TILE_WIDTH
    found = await entries(services.reads, reader.asker.tenant, operator, after, after + width)
    own = [entry for entry in found if entry is not None]
    if len(own) < width:
        message = f"{width - len(own)} of the {width} entries are another tenant's, and a bundle leaves none out."
        remedy = "Ask for single entries at /v1/ledger/entries; the whole log is mirrored by the tenant that AUREUS_OPERATOR_TENANT names."
        raise ApiError(403, "outside_tenant", message, field="place", remedy=remedy)
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in own)
    return Response(bundle, media_type=BYTES, headers={"cache-control": f"private, {_FOREVER}"})


@router.query("/v1/log/tile/{level}/{place:path}", roles=PUBLIC, response_class=Response)
async def tile(request: Request, level: str, place: str) -> Response:
    """A tile of the log's tree (C2SP tlog-tiles): up to 256 hashes of 32 bytes."""
    services: Services = request.app.state.services
    _, index, width = await _tile(services, f"tile/{level}/{place}")
    hashes = await services.tiles.read(int(level), index, width)
    return Response(hashes, media_type=BYTES, headers={"cache-control": f"public, {_FOREVER}"})


@router.query("/v1/proofs/inclusion", roles=PUBLIC, response_model=InclusionProof)
async def inclusion(request: Request, position: Position, size: Size = None) -> Any:
    """That an event is in the log; as `text/plain` the proof is a C2SP tlog-proof, upon a signed checkpoint of `size` events or more."""
    services: Services = request.app.state.services
    if "text/plain" in request.headers.get("accept", ""):
        await _require_in_log(services, position=position, size=size)
        text = await services.proofs.tlog_proof(position, size or position, services.witnessing.required)
        if text is None:
            message = f"No checkpoint of {max(position, size or 0)} events or more was signed."
            raise ApiError(404, "checkpoint_not_found", message, field="size", remedy="Leave it out.")
        return PlainTextResponse(text)
    size = size or await _size(services)
    await _require_in_log(services, position=position, size=size)
    if position > size:
        raise _invalid(
            "position", f"The log of {size} events does not hold position {position}.", "Ask for a size of at least the position."
        )
    proof = await services.proofs.inclusion(position, size)
    note = await services.proofs.checkpoint(size)
    return InclusionProof(
        position=position,
        index=proof.index,
        size=size,
        leaf=_base64(proof.leaf),
        root=_base64(proof.root),
        hashes=[_base64(value) for value in proof.hashes],
        checkpoint=note.decode() if note else None,
    )


@router.query("/v1/proofs/consistency", roles=PUBLIC, response_model=ConsistencyProof)
async def consistency(
    request: Request,
    from_: Annotated[int, Query(alias="from", ge=1, description="The size of the earlier log.")],
    to: Annotated[int | None, Query(ge=1, description="The size of the later log; the whole log when left out.")] = None,
) -> Any:
    """That the log only grew from one size to another."""
    services: Services = request.app.state.services
    to = to or await _size(services)
    await _require_in_log(services, **{"from": from_, "to": to})
    if from_ > to:
        raise _invalid("from", f"A log of {to} events did not grow from one of {from_}.", "Send the smaller size as `from`.")
    proof = await services.proofs.consistency(from_, to)
    return {
        "from": from_,
        "to": to,
        "old_root": _base64(proof.old_root),
        "new_root": _base64(proof.new_root),
        "hashes": [_base64(value) for value in proof.hashes],
    }


@router.query("/v1/proofs/root", roles=PUBLIC, response_model=Root)
async def root(request: Request, size: Annotated[int, Query(ge=1, description="The log of its first so many events.")]) -> Root:
    """The root that the log had at any size, whether a checkpoint was signed then or not."""
    services: Services = request.app.state.services
    await _require_in_log(services, size=size)
    return Root(size=size, root=_base64(await services.proofs.root(size)))


async def _tile(services: Services, path: str) -> tuple[TileLevel, int, int]:
    """The place that a tile's path means, if the log's tree has such a tile."""
    try:
        level, index, width = parse_tile_path(path)
    except ProofError as error:
        remedy = "Write it as c2sp.org/tlog-tiles does: tile/0/x001/234, tile/1/000.p/17, tile/entries/000."
        raise ApiError(404, "tile_not_found", f"{error}.".capitalize(), field="tile", remedy=remedy) from error
    size, height = services.ledger.head.size, 0 if level == "entries" else level
    if tile_width(height, index, size) < width:
        size = await _size(services)
    widest = tile_width(height, index, size)
    if widest == 0:
        message = f"A log of {size} events has no {tile_path(level, index)}."
        raise ApiError(404, "tile_not_found", message, field="tile", size=size, remedy="Ask for tiles of a checkpoint you hold.")
    if widest < width:
        message = f"In a log of {size} events {tile_path(level, index)} is {widest} wide, not {width}."
        raise ApiError(404, "tile_not_found", message, field="tile", size=size, remedy=f"Ask for {tile_path(level, index, widest)}.")
    return level, index, width


async def _size(services: Services) -> int:
    """How many events there are now, those of other processes included."""
    return (await services.ledger.refresh()).size


async def _require_in_log(services: Services, **positions: int | None) -> None:
    """ApiError 422 when a parameter lies beyond the end of the log."""
    size = services.ledger.head.size
    if max(value or 0 for value in positions.values()) > size:
        size = await _size(services)
    for field, value in positions.items():
        if value is not None and value > size:
            raise _invalid(field, f"The log has {size} events, fewer than {value}.", f"Send {size} or less.", head=size)


def _invalid(field: str, message: str, remedy: str, **facts: int) -> ApiError:
    return ApiError(422, "invalid_parameter", message, field=field, remedy=remedy, **facts)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
