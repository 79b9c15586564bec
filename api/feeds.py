"""Live updates over HTTP: the events of the ledger, and the rows that they change, as they come or from any position on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import FastAPI, Header, Query
from starlette.types import Scope

from api.asking import described
from api.errors import ApiError
from api.feeding import SUBPROTOCOL, Opened
from api.reading import position_of, require_role, require_usable
from api.routing import ContextRouter, View
from api.services import Services
from api.system import READERS
from api.viewing import query_parameters
from domain.kernel import EVENTS, Asker, Refused
from domain.values import EVERYBODY
from infra.read_queries import ListQuery
from infra.row_filters import row_filter
from projections.engine import ReadTable
from streams.changes import Wanted
from streams.feeds import FeedEnded
from streams.tail import Entry

FEEDS: Final = "/v1/feeds/"
CHANGES_BEHIND_MAX: Final = 50_000
_EVENT_PARAMETERS: Final = frozenset({"type", "stream", "actor", "after"})
_CHANGE_PARAMETERS: Final = frozenset({"table", "id", "after"})
_AFTER: Final = "Begin with what follows this position (or time); without it, with what happens from now on. `Last-Event-ID` overrides it."
_FORMS: Final = f"""
Answers Server-Sent Events (`text/event-stream`); on the same path speaks WebSocket, subprotocol `{SUBPROTOCOL}`. The first message,
`begin`, names the position it begins after; `beat` comes every 15 seconds with the position that all has been told up to; `end` says why
the server ends it. Each `id` is a position to go on after.
"""
router = ContextRouter(tags=["feeds"])


async def open_events(services: Services, scope: Scope, asker: Asker) -> Opened:
    require_role(asker, READERS)
    await services.fields.require_whole(asker)
    given = query_parameters(scope, _EVENT_PARAMETERS)
    return services.feeds.events(asker, await _after(services, scope, given), _wanted_events(asker.tenant, given))


def _wanted_events(tenant: str, given: dict[str, list[str]]) -> Callable[[Entry], bool]:
    types = named_types(given["type"]) if "type" in given else None
    streams = frozenset(given["stream"]) if "stream" in given else None
    actors = frozenset(given["actor"]) if "actor" in given else None

    def wanted(entry: Entry) -> bool:
        recorded = entry.recorded
        return (
            recorded.tenant == tenant
            and (types is None or recorded.event.event_name in types)
            and (streams is None or recorded.stream in streams)
            and (actors is None or recorded.actor in actors)
        )

    return wanted


def named_types(given: list[str]) -> frozenset[str]:
    """The names that types stand for; `budgets.*` stands for all of a context."""
    known = {event.event_name for event in EVENTS}
    found: set[str] = set()
    for text in given:
        named = {name for name in known if name.startswith(text[:-1])} if text.endswith(".*") else known & {text}
        if not named:
            remedy = "Use a name from docs/events.md, such as budgets.funds_reserved, or budgets.* for all of a context."
            raise ApiError(422, "invalid_parameter", f"There are no events {text!r}.", field="type", remedy=remedy)
        found |= named
    return frozenset(found)


async def open_changes(services: Services, scope: Scope, asker: Asker) -> Opened:
    chosen = [value for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name == "table"]
    views = _chosen(readable(scope["app"]), asker, chosen)
    filters = frozenset.intersection(*(frozenset(view.read.filters) for view in views)) if chosen else frozenset()
    given = query_parameters(scope, _CHANGE_PARAMETERS | filters)
    ids = frozenset(given["id"]) if "id" in given else None
    wanted: dict[str, Wanted] = {}
    for view in views:
        where = {name: given[name] for name in filters if name in given}
        where = view.own.narrowed(asker, where) if view.own else where
        matches = row_filter(view.read, where) if where else None
        require_usable(view.read, ListQuery(where), await services.fields.masked(asker, view.read.name))
        masked = partial(_masked, services, asker, view.read, where)
        wanted[view.read.name] = Wanted(view.read, view.read.tenant or asker.tenant, ids, matches, masked)
    after = await _after(services, scope, given)
    if after is not None:
        await _require_near(services, after)
    return services.feeds.changes(asker, after, wanted)


async def _masked(services: Services, asker: Asker, read: ReadTable[Any], where: dict[str, list[str]]) -> frozenset[str]:
    """What is masked now; the policies may have changed since the feed was opened."""
    masked = await services.fields.masked(asker, read.name)
    try:
        require_usable(read, ListQuery(where), masked)
    except Refused as refused:
        raise FeedEnded("access_changed", refused.message, "Connect again without that filter; go on after this position.") from None
    return masked


def readable(app: FastAPI) -> dict[str, View]:
    """The tables that have a list, and its rules: what no list shows, no feed tells."""
    views = (getattr(route, "view", None) for route in app.routes)
    return {view.read.name: view for view in views if view is not None}


def _chosen(views: dict[str, View], asker: Asker, tables: list[str]) -> list[View]:
    """The views of the tables that were named; without any, of all that the caller may read."""
    for table in tables:
        if table not in views:
            remedy = f"Use some of {', '.join(sorted(views))}."
            raise ApiError(422, "invalid_parameter", f"There is no table {table!r} to follow.", field="table", remedy=remedy)
        require_role(asker, views[table].roles)
    require_role(asker, EVERYBODY)
    return [views[table] for table in tables] or [view for view in views.values() if asker.roles & view.roles]


async def _after(services: Services, scope: Scope, given: dict[str, list[str]]) -> int | None:
    last = [value.decode("latin-1") for name, value in scope["headers"] if name == b"last-event-id"]
    field, texts = ("Last-Event-ID", last) if last else ("after", given.get("after"))
    return await position_of(services, field, texts[-1]) if texts else None


async def _require_near(services: Services, after: int) -> None:
    behind = (await services.ledger.refresh()).size - after
    if behind > CHANGES_BEHIND_MAX:
        position = await services.reads.position()
        message = f"{behind} events have happened since position {after}; changes are told for at most {CHANGES_BEHIND_MAX}."
        remedy = f"Read the lists again, then follow with after={position}."
        raise ApiError(410, "position_too_old", message, field="after", position=position, remedy=remedy)


def _parameters(**texts: str) -> list[inspect.Parameter]:
    several = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=list[str] | None, default=Query(default=None, description=text))
        for name, text in texts.items()
    ]
    after = Query(default=None, description=_AFTER)
    last = Header(default=None, alias="Last-Event-ID", description="As browsers send it when they connect again.")
    return [
        *several,
        inspect.Parameter("after", inspect.Parameter.KEYWORD_ONLY, annotation=str | None, default=after),
        inspect.Parameter("last_event_id", inspect.Parameter.KEYWORD_ONLY, annotation=str | None, default=last),
    ]


def _described(**texts: str) -> Callable[..., Any]:
    return described(_parameters(**texts))


router.feed(
    f"{FEEDS}events",
    _described(
        type="Only these: `budgets.funds_reserved`, or `budgets.*` for all of a context.",
        stream="Only those of these streams, such as `budget:eu-lake`.",
        actor="Only what these actors recorded.",
    ),
    open_events,
    roles=READERS,
    name="follow_events",
    summary="Follow the events of the ledger",
    description=f"Every event of the caller's tenant as it is signed, in order, once it is durable: messages `event`.\n{_FORMS}",
)
router.feed(
    f"{FEEDS}changes",
    _described(table="Only rows of these lists; without it, of all that the caller may read.", id="Only these rows."),
    open_changes,
    roles=EVERYBODY,
    name="follow_changes",
    summary="Follow the rows of lists",
    description="The rows that a batch of events touched, as they stand at its end: messages `changes`, "
    '`{"position", "changes": [{"position", "table", "id", "row"}]}`. `row` is null when it ended or left the filters. The filters '
    f"of the named lists narrow it as they narrow those; each caller is told what those would show.\n{_FORMS}",
)
