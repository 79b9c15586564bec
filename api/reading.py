"""Reading with a moment in mind: every read answers for now, for a past position or time, or no earlier than one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, Query, Request

from api.errors import ApiError
from api.services import Services, now
from domain.kernel import Asker, timestamp
from domain.values import Role
from infra.read_queries import Found, ListQuery, Page
from projections.engine import ReadTable

MOMENT: Final = "a ledger position, an RFC 3339 time with its zone (2026-03-03T14:00:00Z), or a day, which stands for its midnight in UTC"
AS_OF: Final = f"The state at a past moment: {MOMENT}."
AT_LEAST: Final = "Wait until the read models have reached this ledger position (a command's answer names one)."
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(Z|[+ -]\d\d:\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads for one caller: bound to their tenant and to the moment they asked for."""

    services: Services
    asker: Asker
    as_of: int | None
    asked_for: datetime | None = None
    """The time that `as_of` was given as, if it was one."""

    async def moment(self) -> datetime:
        """When it is for the caller: the time they asked for, or when the position was recorded that they asked for, or now."""
        if self.as_of is None or self.asked_for is not None:
            return self.asked_for or now()
        last = await self.services.ledger.read(max(self.as_of, 1) - 1, 1)
        return last[0].at if last else now()

    async def found(self, table: ReadTable[Any], row_id: str, stream: str | None = None) -> Found | None:
        return await self.services.reads.get(table, self._tenant(table), row_id, self.as_of, stream)

    async def get(self, table: ReadTable[Any], row_id: str) -> dict[str, Any] | None:
        """A row by id, or None."""
        found = await self.found(table, row_id)
        return orjson.loads(found.document) if found else None

    async def many(self, table: ReadTable[Any], row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows by id; those that are not there are left out."""
        return await self.services.reads.many(table, self._tenant(table), row_ids, self.as_of)

    async def find(self, table: ReadTable[Any], where: Mapping[str, Any], limit: int = 1_000) -> list[dict[str, Any]]:
        """Rows whose filter columns have the given values (a list: any of them), ordered by id."""
        page = await self.page(table, ListQuery(where, limit=limit))
        return [orjson.loads(document) for document in page.documents]

    async def page(self, table: ReadTable[Any], asked: ListQuery) -> Page:
        return await self.services.reads.page(table, self._tenant(table), asked, self.as_of)

    def _tenant(self, table: ReadTable[Any]) -> str:
        return table.tenant or self.asker.tenant


def require_role(asker: Asker, roles: frozenset[Role]) -> None:
    """ApiError 403 unless the caller holds one of the roles."""
    if not asker.roles & roles:
        needed = sorted(role.value for role in roles)
        message = f"This needs one of the roles {', '.join(needed)}."
        raise ApiError(403, "role_missing", message, roles_needed=needed, remedy="Ask somebody who holds one.")


async def open_reader(services: Services, asker: Asker, as_of: str | None, at_least: str | None) -> Reader:
    """A reader for the moment asked for; waits for the read models where that is needed."""
    if at_least is not None:
        await services.wait_for(await _known_position(services, "at_least", at_least))
    if as_of is None:
        return Reader(services, asker, None)
    position = await position_of(services, "as_of", as_of)
    await services.wait_for(position)
    return Reader(services, asker, position, time_of("as_of", as_of))


async def position_of(services: Services, field: str, text: str) -> int:
    """The ledger position that a parameter means: a position, or the last one at or before a time."""
    moment = time_of(field, text)
    if moment is None:
        return await _known_position(services, field, text)
    if moment > now():
        present = timestamp(now())
        message, remedy = f"{field} lies in the future.", "Leave it out to read the present."
        raise ApiError(422, "invalid_parameter", message, field=field, rule="not later than now", now=present, remedy=remedy)
    return await services.ledger.store.position_at(moment)


def time_of(field: str, text: str) -> datetime | None:
    """The time that a parameter means, None for a position; ApiError 422 for what is neither. A day is its midnight in UTC."""
    if text.isascii() and text.isdigit():
        return None
    found = _TIME.fullmatch(text.strip().upper())
    try:
        day, clock, zone = found.groups() if found else ("", None, None)
        # A plus sign in a query string arrives as a space unless it was escaped; nobody writes a space there on purpose.
        return datetime.fromisoformat(f"{day}T{clock or '00:00'}{(zone or 'Z').replace(' ', '+')}")
    except ValueError:
        message = f"{field} {text!r} is neither a position nor a time with its zone, nor a day."
        rule, remedy = f"{MOMENT}", "Write 4711, 2026-03-03T14:00:00Z, 2026-03-03T14:00:00+01:00 or 2026-03-03."
        raise ApiError(422, "invalid_parameter", message, field=field, rule=rule, remedy=remedy) from None


async def _known_position(services: Services, field: str, text: str) -> int:
    position = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
    if position < 0:
        message, remedy = f"{field} {text!r} is not a position.", "Send a whole number, 0 or more."
        raise ApiError(422, "invalid_parameter", message, field=field, rule="a whole number of at most 18 digits", remedy=remedy)
    if position > services.ledger.head.size and position > (size := (await services.ledger.refresh()).size):
        message, remedy = f"The ledger ends at position {size}, before {position}.", "Send a position that a command's answer named."
        raise ApiError(422, "invalid_parameter", message, field=field, rule="not beyond the ledger's end", head=size, remedy=remedy)
    return position


async def _reading(
    request: Request,
    as_of: Annotated[str | None, Query(description=AS_OF)] = None,
    at_least: Annotated[str | None, Query(description=AT_LEAST)] = None,
) -> Reader:
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    require_role(asker, request.scope["route"].authorisation)
    return await open_reader(services, asker, as_of, at_least)


async def present_only(request: Request) -> None:
    """Refuses `as_of` where there is no past to answer from, rather than answer something else than was asked."""
    if "as_of" in request.query_params:
        message = f"{request.method} {request.scope['route'].path_format} answers for the present alone."
        remedy = "Leave as_of out; the lists and the ledger's events have a past."
        raise ApiError(422, "invalid_parameter", message, field="as_of", rule="not taken here", remedy=remedy)


async def _present(
    request: Request, _refused: Annotated[None, Depends(present_only)], at_least: Annotated[str | None, Query(description=AT_LEAST)] = None
) -> Reader:
    return await _reading(request, None, at_least)


Reading = Annotated[Reader, Depends(_reading)]
"""A reader of whatever moment the caller asks for."""
Present = Annotated[Reader, Depends(_present)]
"""A reader of the present, for commands and for what keeps no past."""
