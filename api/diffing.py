"""What changed between two moments, over REST: rows added, changed and removed, by whom, when, and by which events."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Final

import orjson
from fastapi import FastAPI, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from api.audit import EXAMINERS
from api.errors import ApiError
from api.feeds import readable
from api.reading import MOMENT, position_of, require_role, time_of
from api.routing import ContextRouter, Present, Reader
from api.services import Services
from domain.kernel import Asker
from domain.values import PEOPLE
from infra.diff import EVENTS_TOLD, Diff, Shown
from infra.read_queries import MAX_LIMIT

NDJSON: Final = "application/x-ndjson"
_FIRST: Final = (0, "")


class DiffEvent(BaseModel):
    """An event that changed a row, and why it was asked for, where that was said."""

    position: int
    type: str
    actor: str
    at: str
    action_id: str | None
    reason: str | None


class FieldChange(BaseModel):
    """One value of a row by its path, such as `columns.email.pii`; null where it was not, or is not any more."""

    field: str
    before: Any
    after: Any


class RowChange(BaseModel):
    """One row: `changes` say what differs of one that changed, `row` is the one that was added, or removed.

    `events` are the latest of those that made the difference, at most so many; `events_count` says how many there were.
    """

    change: str = Field(description="added, changed or removed")
    context: str
    kind: str
    id: str
    changes: list[FieldChange]
    row: dict[str, Any] | None
    events_count: int
    events: list[DiffEvent] = Field(max_length=EVENTS_TOLD)


class Counted(BaseModel):
    """How many rows of a list were added, changed and removed."""

    context: str
    kind: str
    added: int
    changed: int
    removed: int


class Difference(BaseModel):
    """What differs between the two positions; the summary counts all of it, whatever the page."""

    from_position: int
    to_position: int
    summary: list[Counted]
    items: list[RowChange]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which tables, and which row of them."""

    contexts: list[str]
    kinds: list[str]
    row_id: str | None


router = ContextRouter(tags=["audit"])


@router.query(
    "/v1/diff",
    roles=PEOPLE,
    limit="queries",
    recorded=True,
    response_model=Difference,
    responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "What differs; as JSON lines all of it at once."}},
)
async def diff(
    reader: Present,
    request: Request,
    start: Annotated[str, Query(alias="from", description=f"The earlier moment: {MOMENT}.")],
    end: Annotated[str | None, Query(alias="to", description="The later one; now, if left out.")] = None,
    context: Annotated[list[str] | None, Query(description="Only these contexts, such as `policies,catalog`; all if left out.")] = None,
    kind: Annotated[list[str] | None, Query(description="Only these lists of them, such as `datasets`.")] = None,
    row_id: Annotated[str | None, Query(alias="id", description="Only the rows of this id.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows per page.")] = 50,
    cursor: Annotated[str | None, Query(description="The next_cursor of the page before.")] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Compare two moments: the rows added, changed and removed, field by field, by whom, when, and by which events.

    Read from the rows' history; nothing is replayed. What no list shows a caller, no diff does. With `Accept: application/x-ndjson`
    all of it comes as JSON lines, one for each row, and at last one with the summary.
    """
    if row_id is not None and "\0" in row_id:
        message, remedy = "id holds a NUL character.", "Leave it out: no id here has one."
        raise ApiError(422, "invalid_parameter", message, field="id", rule="no NUL", remedy=remedy)
    tables = _tables(request.app, reader.services, reader.asker, Asked(_named(context), _named(kind), row_id))
    size = (await reader.services.ledger.refresh()).size
    place, ends = _opened(cursor, len(tables), size) if cursor is not None else (_FIRST, None)
    first, last = ends or await _ends(reader, start, end, size)
    await reader.services.wait_for(last)
    found = Diff(reader.services.reads, tables, first, last, row_id)
    if NDJSON in accept:
        return StreamingResponse(found.lines(), media_type=NDJSON, headers={"vary": "accept"})
    items, following = await found.page(place, limit)
    summary = orjson.dumps(await found.summary())
    next_cursor = orjson.dumps(_cursor(first, last, *following) if following is not None else None)
    body = b'{"from_position":%d,"to_position":%d,"summary":%b,"items":[%b],"next_cursor":%b}'
    content = body % (first, last, summary, b",".join(items), next_cursor)
    return Response(content, media_type="application/json", headers={"vary": "accept"})


def _named(values: list[str] | None) -> list[str]:
    """Names given several times, or with commas between."""
    return [name for value in values or () for name in value.split(",") if name]


def _tables(app: FastAPI, services: Services, asker: Asker, asked: Asked) -> list[Shown]:
    """The tables that were asked for, as far as the caller sees them."""
    known = [(projection.name, read) for projection in services.projections for read in projection.tables]
    _require("context", asked.contexts, {name for name, _ in known})
    among = [(name, read) for name, read in known if not asked.contexts or name in asked.contexts]
    _require("kind", asked.kinds, {read.name for _, read in among})
    views = readable(app)
    shown = []
    for name, read in among:
        view = views.get(read.name)
        roles = view.roles if view else EXAMINERS
        if asked.kinds and read.name not in asked.kinds:
            continue
        if asked.kinds:
            require_role(asker, roles)
        if asker.roles & roles:
            own = view.own if view else None
            mine = (own.column, asker.actor) if own and not asker.roles & own.overseers else None
            shown.append(Shown(name, read, read.tenant or asker.tenant, mine))
    return shown


def _require(field: str, names: list[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            remedy = f"Use some of {', '.join(sorted(known))}."
            raise ApiError(422, "invalid_parameter", f"There is no {field} {name!r} to compare.", field=field, rule="a name", remedy=remedy)


async def _ends(reader: Reader, start: str, end: str | None, size: int) -> tuple[int, int]:
    """The two positions; ApiError 422 when the later one comes first."""
    services = reader.services
    first = await position_of(services, "from", start)
    last = size if end is None else await position_of(services, "to", end)
    times = (time_of("from", start), time_of("to", end) if end is not None else None)
    if first > last or (times[0] is not None and times[1] is not None and times[0] > times[1]):
        message = f"from ({start}) lies after to ({end or 'now'})."
        remedy = f"Swap them: from={end}&to={start}."
        raise ApiError(422, "invalid_parameter", message, field="from", rule="from comes before to", remedy=remedy)
    return first, last


def _cursor(first: int, last: int, table: int, after: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([first, last, table, after])).decode()


def _opened(cursor: str, tables: int, size: int) -> tuple[tuple[int, str], tuple[int, int]]:
    """Where a page begins, and the positions that it compares. The cursor comes from outside: nothing in it is trusted."""
    first: Any
    try:
        first, last, table, after = orjson.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, binascii.Error):
        first = last = table = after = None
    numbers = type(first) is int and type(last) is int and type(table) is int
    if not (numbers and 0 <= first <= last <= size and 0 <= table < tables and type(after) is str and "\0" not in after):
        message, remedy = "The cursor does not belong to this diff.", "Send the next_cursor of the page before, and all else as it was."
        raise ApiError(422, "invalid_parameter", message, field="cursor", rule="a next_cursor", remedy=remedy)
    return (table, after), (first, last)
