"""Exports over REST: ask for a pack, see how far it is, fetch it whole or in parts; and what each kind of recipient is shown."""

import re
from typing import Annotated, Any, Final

from fastapi import Header, Path
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from api.errors import ApiError, refusal_status
from api.routing import ContextRouter, Present, Reader, Reading
from api.services import Services, now
from commands.exports import OVERSEERS, CancelExport, DefineProfile, RecordDownload, RequestExport
from commands.path import Ask
from domain.exports import BUILT_IN, ExportId
from domain.kernel import JsonObject
from domain.values import uuid7
from infra.blobs import BlobMissing, BlobsUnavailable, BlobTampered
from infra.packing.shelf import part
from projections.engine import read_row
from projections.exports import ExportProfileRow, ExportRow, export_profiles, exports
from projections.subjects import certificates
from streams.exports import progress_of
from streams.reactions import asker

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Progress(BaseModel):
    """How far a pack is that is being written."""

    phase: str
    done: int
    total: int


@read_row
class ExportNow(ExportRow):
    """An export, and how far it is while it is written."""

    progress: Progress | None


class Profiles(BaseModel):
    """What each kind of recipient is shown."""

    items: list[ExportProfileRow]


router = ContextRouter(prefix="/v1", tags=["exports"])
router.command("/exports", RequestExport, status=201)
router.command("/exports/{export_id}/cancel", CancelExport)
router.command("/export-profiles", DefineProfile, status=201)
router.views("/exports", exports, row_id=None, roles=OVERSEERS)


@router.query("/export-profiles", roles=OVERSEERS, name="list_export_profiles")
async def profiles(reader: Reading) -> Profiles:
    """What each kind of recipient is shown: the profiles that came with Aureus, and those defined here."""
    built_in = [ExportProfileRow(one.name, list(one.disclose), list(one.withhold_types), "svc-aureus", "") for one in BUILT_IN]
    defined = [ExportProfileRow(**row) for row in await reader.find(export_profiles, {})]
    return Profiles(items=[*built_in, *defined])


@router.query("/exports/{export_id}", roles=OVERSEERS, name="get_exports", response_model=ExportNow)
async def export(export_id: Annotated[ExportId, Path()], reader: Reading) -> JsonObject:
    """One of the exports by id, with its progress while the pack is written."""
    row = await _row(reader, export_id)
    waiting = row["status"] == "requested" and reader.as_of is None  # how far it was is kept nowhere
    return {**row, "progress": await progress_of(reader.services.reads, reader.asker.tenant, export_id) if waiting else None}


@router.query("/exports/{export_id}/pack", roles=OVERSEERS, limit="queries", recorded=True, response_model=None, name="export_pack")
async def pack(
    export_id: Annotated[ExportId, Path()],
    reader: Present,
    wanted: Annotated[str | None, Header(alias="Range", description="One range of bytes, to go on with a download.")] = None,
    if_range: Annotated[str | None, Header(description="The ETag that the range is of; of another pack, all bytes come.")] = None,
) -> Response:
    """The bytes of a pack, verified against its hash before the first of them is sent. Every download is put on record."""
    row = await _row(reader, export_id)
    if row["status"] == "withdrawn":
        raise await _withdrawn(reader, row)
    if row["status"] != "sealed":
        message = f"The pack of export {export_id} is not there: the export is {row['status']}."
        remedy = "Wait until it is sealed." if row["status"] == "requested" else "Ask for another one."
        raise ApiError(409, "export_not_sealed", message, field="export_id", remedy=remedy)
    sha256, size = row["sha256"], row["size_bytes"]
    asked = wanted if if_range in (None, f'"{sha256}"') else None
    first, last = _bytes_of(asked, size)
    file = await _opened(reader.services, sha256)
    try:
        await _record(
            reader, RecordDownload(export_id=export_id, sha256=sha256, downloaded_by=reader.asker.actor, first_byte=first, last_byte=last)
        )
    except BaseException:
        file.close()
        raise
    whole = (first, last) == (0, size - 1)
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(last - first + 1),
        "content-disposition": f'attachment; filename="{export_id}.zip"',
        "etag": f'"{sha256}"',
        "cache-control": "private, immutable",
        **({} if whole else {"content-range": f"bytes {first}-{last}/{size}"}),
    }
    return StreamingResponse(part(file, first, last), 200 if whole else 206, headers, "application/zip")


async def _withdrawn(reader: Reader, row: JsonObject) -> ApiError:
    """That the pack showed somebody who was erased since; the certificate comes when all of them is gone."""
    certificate = await reader.get(certificates, row["certificate_id"])
    message = f"The pack of export {row['export_id']} showed what was erased since, and is destroyed."
    position = certificate["position"] if certificate else None
    remedy = "Ask for the export again: what was erased is certified in it."
    return ApiError(410, "pack_withdrawn", message, field="export_id", certificate=position, remedy=remedy)


async def _record(reader: Reader, command: RecordDownload) -> None:
    """By Aureus itself: it is the one who knows what it hands out. ApiError when that cannot be put on record."""
    ask = Ask(command, asker(reader.asker.tenant), uuid7(), now(), reason=f"Fetched by {command.downloaded_by}.")
    outcome = await reader.services.path.handle(ask)
    if outcome.outcome != "allowed":
        code, message = outcome.code or outcome.outcome, outcome.message or "Policies do not let Aureus hand out packs."
        raise ApiError(refusal_status(code, denied=outcome.denied), code, message, action_id=outcome.action_id)


async def _row(reader: Reader, export_id: str) -> JsonObject:
    row = await reader.get(exports, export_id)
    if row is None:
        raise ApiError(
            404, "export_not_found", f"There is no export {export_id}.", field="export_id", remedy="List them to see what is there."
        )
    return row


def _bytes_of(wanted: str | None, size: int) -> tuple[int, int]:
    """First and last byte of a Range; all of them when there is none, or none that can be understood (RFC 9110). ApiError 416."""
    given = _RANGE.fullmatch(wanted.strip()) if wanted else None
    if given is None or given[1] == given[2] == "":
        return 0, size - 1
    if given[1] == "":
        first, last = max(0, size - int(given[2])), size - 1
    else:
        first, last = int(given[1]), min(int(given[2] or size - 1), size - 1)
    if first > last:
        message = f"The pack has {size} bytes; {wanted} is none of them."
        raise ApiError(416, "range_not_there", message, {"content-range": f"bytes */{size}"}, field="Range", remedy="Ask for bytes it has.")
    return first, last


async def _opened(services: Services, sha256: str) -> Any:
    try:
        return await services.shelf.open(sha256)
    except BlobMissing:
        message = f"The pack {sha256} is not on this machine's shelf."
        remedy = "Restore it from a backup of the folder exports/, or ask for the export again."
        raise ApiError(500, "pack_lost", message, sha256=sha256, remedy=remedy) from None
    except BlobTampered as error:
        message = f"The pack was changed where it is kept: {sha256} was sealed, and {error.found} lies there."
        raise ApiError(500, "pack_tampered", message, sha256=sha256, found=error.found, remedy="Restore it from a backup.") from None
    except BlobsUnavailable as error:
        raise ApiError(503, "pack_unavailable", str(error), {"retry-after": "1"}, remedy=error.remedy) from error
