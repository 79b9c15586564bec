"""The front door: every request gets its id; what was declared as a command or a view is answered at once.

FastAPI's own way to a route - its layers of middleware, then one pattern after another - takes longer than all the
rest of a command (measured: 240 of 620 us). Declared routes need none of it; everything else goes that way.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, body_response
from api.routing import Declared
from domain.values import uuid7_text

_Place = tuple[str, str, int]
"""Method, the path's second segment (`/v1/budgets/...`) and its number of slashes: few routes share one."""


class FrontDoor:
    """Hands requests to the declared routes, or to the `app` that knows the rest."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self._routes = _by_place(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = uuid7_text()
        scope.setdefault("state", {})["request_id"] = request_id
        if "\0" in scope["path"]:
            # No id holds a NUL character, and PostgreSQL cannot even be asked for one that does.
            nowhere = body_response(ApiError(404, "not_found", "No path holds a NUL character.", remedy="Leave it out."), request_id)
            await nowhere(scope, receive, send)
            return
        declared = self._declared(scope)
        if declared is not None:
            await declared(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_with_headers)

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
