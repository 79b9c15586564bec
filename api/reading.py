"""Reading with a moment in mind: every read answers for now, for a past position or time, or no earlier than one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, Query, Request

from api.errors import ApiError
from api.services import Services, now
from domain.access import READ
from domain.kernel import Asker, timestamp
from domain.values import EVERYBODY, Role
from infra.fields import MaskedRow, field_masked
from infra.reach import NoReach, Reach, outside_domains, reach_of
from infra.read_queries import Found, ListQuery, Page
from projections.engine import ReadTable

MOMENT: Final = "a ledger position, an RFC 3339 time with its zone (2026-03-03T14:00:00Z), or a day, which stands for its midnight in UTC"
AS_OF: Final = f"The state at a past moment: {MOMENT}."
AT_LEAST: Final = "Wait until the read models have reached this ledger position (a command's answer names one)."
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(Z|[+ -]\d\d:\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads for one caller: bound to their tenant, to the moment they asked for, and to what they reach by one of the `roles`."""

    services: Services
    asker: Asker
    as_of: int | None
    asked_for: datetime | None = None
    """The time that `as_of` was given as, if it was one."""
    roles: frozenset[Role] = EVERYBODY
    masked: set[str] = field(default_factory=set, compare=False)
    """The fields that were masked in what it has read so far."""

    @property
    def reach(self) -> Reach | None:
        """The part of the tenant that is read; None: all of it. What was granted reaches no further than its end, now."""
        return reach_for(self.asker, self.roles)

    async def moment(self) -> datetime:
        """When it is for the caller: the time they asked for, or when the position was recorded that they asked for, or now."""
        if self.as_of is None or self.asked_for is not None:
            return self.asked_for or now()
        last = await self.services.ledger.read(max(self.as_of, 1) - 1, 1)
        return last[0].at if last else now()

    async def found(self, table: ReadTable[Any], row_id: str, stream: str | None = None) -> Found | None:
        """A row by id as it is shown: fields that the policies mask for the caller are null, as everywhere here."""
        masked = await self._masked(table)
        found = await self.services.reads.get(table, self._tenant(table), row_id, self.as_of, stream, self.reach)
        return replace(found, document=without(found.document, masked)) if found and masked else found

    async def get(self, table: ReadTable[Any], row_id: str) -> dict[str, Any] | None:
        """A row by id, or None."""
        return (await self.many(table, [row_id])).get(row_id)

    async def many(self, table: ReadTable[Any], row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows by id; those that are not there are left out."""
        masked = await self._masked(table)
        rows = await self.services.reads.many(table, self._tenant(table), row_ids, self.as_of, self.reach)
        return {row_id: MaskedRow(row, table.name, masked) for row_id, row in rows.items()} if masked else rows

    async def find(self, table: ReadTable[Any], where: Mapping[str, Any], limit: int = 1_000) -> list[dict[str, Any]]:
        """Rows whose filter columns have the given values (a list: any of them), ordered by id."""
        page = await self.page(table, ListQuery(where, limit=limit))
        rows = [orjson.loads(document) for document in page.documents]
        masked = await self._masked(table)
        return [MaskedRow(row, table.name, masked) for row in rows] if masked else rows

    async def page(self, table: ReadTable[Any], asked: ListQuery) -> Page:
        """A page of a list; Refused when it is to go by a masked field: to filter, to sort, or to search in nothing else."""
        masked = await self._masked(table)
        if not masked:
            return await self.services.reads.page(table, self._tenant(table), asked, self.as_of, self.reach)
        require_usable(table, asked, masked)
        shown = replace(asked, unsearched=masked)
        page = await self.services.reads.page(table, self._tenant(table), shown, self.as_of, self.reach)
        return replace(page, documents=[without(document, masked) for document in page.documents])

    async def _masked(self, table: ReadTable[Any]) -> frozenset[str]:
        masked = await self.services.fields.masked(self.asker, table.name)
        self.masked.update(masked)
        return masked

    def _tenant(self, table: ReadTable[Any]) -> str:
        return table.tenant or self.asker.tenant


def without(document: str, masked: frozenset[str]) -> str:
    """A row's document with null in place of what is masked."""
    row: dict[str, Any] = orjson.loads(document)
    return orjson.dumps({**row, **dict.fromkeys(masked & row.keys())}).decode()


def require_usable(table: ReadTable[Any], asked: ListQuery, masked: frozenset[str]) -> None:
    """Refused when what is asked goes by a masked field: its answer would tell what the field holds."""
    for name in sorted(masked & asked.where.keys()):
        raise field_masked(table.name, name)
    if asked.sort is not None and (name := asked.sort.removeprefix("-")) in masked:
        raise field_masked(table.name, name, parameter="sort")
    if asked.search and table.search and masked.issuperset(table.search):
        raise field_masked(table.name, table.search[0], parameter="q")


def reach_for(asker: Asker, roles: frozenset[Role]) -> Reach | None:
    """What the caller reads by one of these roles; None: all of their tenant. ApiError 403 when they hold none, anywhere."""
    try:
        return reach_of(asker, roles, now())
    except NoReach:
        needed = sorted(role.value for role in roles)
        message = f"This needs one of the roles {', '.join(needed)}."
        raise ApiError(403, "role_missing", message, roles_needed=needed, remedy="Ask somebody who holds one.") from None


def require_role(asker: Asker, roles: frozenset[Role]) -> None:
    """ApiError 403 unless the caller holds one of the roles everywhere, and may read with what they show."""
    require_scope(asker, READ)
    require_everywhere(asker, roles)


def require_reading(asker: Asker, roles: frozenset[Role]) -> None:
    """`require_role` for what is narrowed to where the caller holds the role."""
    require_scope(asker, READ)
    reach_for(asker, roles)


def require_admitted(asker: Asker, request: Request) -> None:
    """ApiError 403 unless the caller holds a role of the route, and shows a credential that is good for it.

    To look at something takes the scope `read`. What is posted may be a command, whose own scope is looked at when it is decided:
    to come so far takes `read`, or all of the context.
    """
    route = request.scope["route"]
    if not route.any_scope:
        require_scope(asker, READ, *(route.tags if request.method == "POST" else ()))
    (reach_for if route.narrowed else require_everywhere)(asker, route.authorisation)


def require_scope(asker: Asker, *scopes: str) -> None:
    """ApiError 403 unless what the caller shows is good for one of these."""
    if not any(asker.in_scope(scope) for scope in scopes):
        rule = " or ".join(scopes)
        message, remedy = f"What was shown is not good for this: it takes the scope {rule}.", "Use a key with this scope, or log in."
        raise ApiError(403, "scope_missing", message, field="scopes", rule=rule, scopes=sorted(asker.scopes or ()), remedy=remedy)


def require_everywhere(asker: Asker, roles: frozenset[Role]) -> None:
    reach = reach_for(asker, roles)
    if reach is not None:
        raise outside_domains("This", reach)


async def open_reader(
    services: Services, asker: Asker, as_of: str | None, at_least: str | None, roles: frozenset[Role] = EVERYBODY
) -> Reader:
    """A reader for the moment asked for; waits for the read models where that is needed."""
    if at_least is not None:
        await services.wait_for(await _known_position(services, "at_least", at_least))
    if as_of is None:
        return Reader(services, asker, None, roles=roles)
    position = await position_of(services, "as_of", as_of)
    await services.wait_for(position)
    return Reader(services, asker, position, time_of("as_of", as_of), roles)


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
    require_admitted(asker, request)
    route = request.scope["route"]
    if route.recorded:
        await services.fields.require_whole(asker)
    reader = await open_reader(services, asker, as_of, at_least, route.authorisation)
    request.scope["state"]["masked"] = reader.masked
    return reader


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
