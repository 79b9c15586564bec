"""The front door: every request gets its id; what was declared as a command or a view is answered at once.

FastAPI's own way to a route - its layers of middleware, then one pattern after another - takes longer than all the
rest of a command (measured: 240 of 620 us). Declared routes need none of it; everything else goes that way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, body_response
from api.feeding import refuse_socket, talk_over_socket
from api.routing import Declared
from domain.values import uuid7_text
from infra import tracing
from infra.logs import ACCESS, Errand, begin_request
from infra.measures import Requests

_Place = tuple[str, str, int]
"""Method, the path's second segment (`/v1/budgets/...`) and its number of slashes: few routes share one."""


METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
OTHER_METHOD: Final = "(other)"
NO_ROUTE: Final = "(none)"


class FrontDoor:
    """Hands requests to the declared routes, or to the `app` that knows the rest; counts how they are answered."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], measured: Requests) -> None:
        self.app = app
        self._routes = _by_place(routes)
        self._feeds = {route.path: route.opening for route in routes if isinstance(route, Route) and hasattr(route, "opening")}
        self._measured = measured

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._talk(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        errand = begin_request(uuid7_text())
        scope.setdefault("state", {})["request_id"] = errand.request_id
        span = tracing.request(scope["headers"], errand)
        if span is None:
            await self._answer(scope, receive, send, errand)
        else:
            with span:
                await self._answer(scope, receive, send, errand)

    async def _talk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Feeds are had over WebSockets, nothing else is."""
        request_id = uuid7_text()
        begin_request(request_id)
        opening = self._feeds.get(scope["path"])
        if opening is None:
            nowhere = ApiError(404, "not_found", "No feed is here.", remedy=f"Use {' or '.join(self._feeds)}.")
            await refuse_socket(body_response(nowhere, request_id), send)
        else:
            await talk_over_socket(opening, scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, errand: Errand) -> None:
        request_id = scope["state"]["request_id"]
        if "\0" in scope["path"]:
            # No id holds a NUL character, and PostgreSQL cannot even be asked for one that does.
            nowhere = body_response(ApiError(404, "not_found", "No path holds a NUL character.", remedy="Leave it out."), request_id)
            self._answered(scope, errand, nowhere.status_code)
            await nowhere(scope, receive, send)
            return
        declared = self._declared(scope)
        if declared is not None:
            response = await declared.response(scope, receive)
            self._answered(scope, errand, response.status_code)
            await response(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
                self._answered(scope, errand, message["status"])
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _answered(self, scope: Scope, errand: Errand, status: int) -> None:
        """Told as the answer begins: how long it goes on is the reader's affair."""
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        route = scope.get("route")
        path = route.path if route is not None else NO_ROUTE
        seconds = perf_counter() - errand.began
        self._measured.add(method, path, status, seconds)
        tracing.answered(method, path, status)
        if ACCESS.isEnabledFor(logging.INFO):
            _log_access(errand, method, path, status, seconds)

    def _declared(self, scope: Scope) -> Declared | None:
        """The route that the router would choose, written into the scope; None when that is not a declared one."""
        path: str = scope["path"]
        if scope.get("root_path"):
            return None
        for route in self._routes.get((scope["method"], _second(path), path.count("/")), ()):
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope["route"] = route
                scope.update(found)
                return _declared_app(route)
        return None


def _by_place(routes: Sequence[BaseRoute]) -> dict[_Place, tuple[BaseRoute, ...]]:
    """For each place of a declared route, every route that may match there, in the router's order."""
    placed = [(route, _places(route)) for route in routes]
    declared = {place for route, places in placed if _declared_app(route) for place in places or ()}
    return {place: tuple(route for route, places in placed if places is None or place in places) for place in declared}


def _declared_app(route: BaseRoute) -> Declared | None:
    return route.app if isinstance(route, Route) and isinstance(route.app, Declared) else None


def _places(route: BaseRoute) -> frozenset[_Place] | None:
    """Where a route's requests are found; None when they may be anywhere (a mount, a path of any depth)."""
    if not isinstance(route, Route) or not route.methods or ":" in route.path or "{" in _second(route.path):
        return None
    return frozenset((method, _second(route.path), route.path.count("/")) for method in route.methods)


def _second(path: str) -> str:
    return path.split("/", 3)[2] if path.count("/") > 1 else ""


def _log_access(errand: Errand, method: str, route: str, status: int, seconds: float) -> None:
    ms = round(seconds * 1_000, 1)
    told = {"method": method, "route": route, "status": status, "ms": ms, "actor": errand.actor}
    ACCESS.info("%s %s %s in %s ms, asked by %s", method, route, status, ms, errand.actor or "nobody", extra=told)
