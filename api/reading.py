"""Reading with a moment in mind: every read answers for now, for a past position or time, or no earlier than one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import Depends, Query, Request

from api.errors import ApiError
from api.services import Services, now
from domain.kernel import Asker, timestamp
from domain.values import Role
from infra.read_queries import Found, ListQuery, Page
from projections.engine import ReadTable

AS_OF = "The state at a past moment: a ledger position, or an RFC 3339 time with its zone (2026-03-03T14:00:00Z)."
AT_LEAST = "Wait until the read models have reached this ledger position (a command's answer names one)."


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads for one caller: bound to their tenant and to the moment they asked for."""

    services: Services
    asker: Asker
    as_of: int | None

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
    return Reader(services, asker, position)


async def position_of(services: Services, field: str, text: str) -> int:
    """The ledger position that a parameter means: a position, or the last one at or before a time."""
    if text.isascii() and text.isdigit():
        return await _known_position(services, field, text)
    try:
        # A plus sign in a query string arrives as a space unless it was escaped; nobody writes a space there on purpose.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ApiError(
            422,
            "invalid_parameter",
            f"{field} {text!r} is neither a position nor a time with its zone.",
            field=field,
            rule="a whole number, or an RFC 3339 time",
            remedy="Write 4711, 2026-03-03T14:00:00Z or 2026-03-03T14:00:00+01:00.",
        )
    if moment > now():
        present = timestamp(now())
        raise ApiError(
            422, "invalid_parameter", f"{field} lies in the future.", field=field, now=present, remedy="Leave it out to read the present."
        )
    return await services.ledger.store.position_at(moment)


async def _known_position(services: Services, field: str, text: str) -> int:
    position = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
    if position < 0:
        raise ApiError(
            422, "invalid_parameter", f"{field} {text!r} is not a position.", field=field, remedy="Send a whole number, 0 or more."
        )
    if position > services.ledger.head.size and position > (size := (await services.ledger.refresh()).size):
        message = f"The ledger ends at position {size}, before {position}."
        raise ApiError(422, "invalid_parameter", message, field=field, head=size, remedy="Send a position that a command's answer named.")
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


Reading = Annotated[Reader, Depends(_reading)]
