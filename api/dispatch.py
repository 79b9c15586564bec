"""The front door: every request gets its id; what was declared as a command or a view is answered at once.

FastAPI's own way to a route - its layers of middleware, then one pattern after another - takes longer than all the
rest of a command (measured: 240 of 620 us). Declared routes need none of it; everything else goes that way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.admission import Admission, Shown, told
from api.dressing import RawHeaders, Wardrobe, compressed, is_whole, may_compress
from api.errors import ApiError, body_response, error_response
from api.feeding import identity_headers, refuse_socket, talk_over_socket
from api.routing import Declared
from api.services import Services
from domain.values import uuid7_text
from infra import tracing
from infra.limit_settings import Front
from infra.limiting import Standing
from infra.logs import ACCESS, Errand, begin_request
from infra.measures import Requests

_Place = tuple[str, str, int]
"""Method, the path's second segment (`/v1/budgets/...`) and its number of slashes: few routes share one."""


METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
OTHER_METHOD: Final = "(other)"
WEBSOCKET: Final = "WEBSOCKET"
"""In the place of a method: a browser asks for one with GET, as it does for the same feed as Server-Sent Events."""
NO_ROUTE: Final = "(none)"
_LOOKED_AT: Final = frozenset(
    (
        b"accept-encoding",
        b"access-control-request-method",
        b"origin",
        b"x-api-key",
        b"x-forwarded-for",
        b"x-forwarded-proto",
    )
)


class FrontDoor:
    """Hands requests to the declared routes, or to the `app` that knows the rest; whom it lets in, and how answers leave, is its affair.

    `services` are asked for with each request: before they are open, everybody is let in, and finds nothing.
    """

    def __init__(
        self, app: ASGIApp, routes: Sequence[BaseRoute], measured: Requests, services: Callable[[], Services | None] = lambda: None
    ) -> None:
        self.app = app
        self._routes, self._anywhere = _by_place(routes)
        self._feeds = {route.path: route for route in routes if isinstance(route, Route) and hasattr(route, "opening")}
        self._measured = measured
        self._services = services
        self._admission = Admission()
        self._wardrobe = Wardrobe(Front.open())
        self._policy: Front | None = None
        self._working: set[str] = set()

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
        errand = begin_request(request_id)
        route = self._feeds.get(scope["path"])
        send = self._counting(send, errand, NO_ROUTE if route is None else route.path)
        if route is None:
            nowhere = ApiError(404, "not_found", "No feed is here.", remedy=f"Use {' or '.join(self._feeds)}.")
            await refuse_socket(body_response(nowhere, request_id), send)
            return
        try:
            if (services := self._services()) is not None:
                await self._admission.admit(services, scope, route, identity_headers(scope), _shown(scope))
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets the one error body
            await refuse_socket(error_response(error, request_id), send)
        else:
            await talk_over_socket(route.opening, scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, errand: Errand) -> None:
        leaving = _Leaving(scope["state"]["request_id"], _shown(scope))
        try:
            response = await self._at_the_door(scope, receive, leaving)
            if response is None:
                await self._behind(scope, receive, send, errand, leaving)
            else:
                await self._leave(response, scope, receive, send, errand, leaving)
        finally:
            self._working.discard(leaving.request_id)

    async def _at_the_door(self, scope: Scope, receive: Receive, leaving: _Leaving) -> Response | None:
        """The answer of a declared route, or why nobody is asked for one; None when FastAPI is to answer."""
        try:
            if "\0" in scope["path"]:
                # No id holds a NUL character, and PostgreSQL cannot even be asked for one that does.
                raise ApiError(404, "not_found", "No path holds a NUL character.", remedy="Leave it out.")
            leaving.route = self._choose(scope)
            response = await self._let_in(scope, leaving)
            declared = _declared_app(leaving.route)
            if response is None and declared is not None:
                async with asyncio.timeout(self._seconds(leaving.route)):
                    response = await declared.response(scope, receive)
        except TimeoutError:
            return error_response(_too_slow(), leaving.request_id)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets the one error body
            return error_response(error, leaving.request_id)
        return response

    async def _leave(self, response: Response, scope: Scope, receive: Receive, send: Send, errand: Errand, leaving: _Leaving) -> None:
        self._begin(scope, errand, leaving, response.status_code, response.raw_headers)
        if type(response) is Response and may_compress(scope, leaving.shown, leaving.route, response.status_code):
            response.body = await compressed(response.raw_headers, bytes(response.body))
        await response(scope, receive, send)

    def _begin(self, scope: Scope, errand: Errand, leaving: _Leaving, status: int, headers: RawHeaders) -> None:
        """An answer begins: it is noted, and dressed."""
        self._working.discard(leaving.request_id)
        self._answered(scope, errand, status)
        leaving.sign(headers)
        self._wardrobe.dress(headers, scope, leaving.shown, leaving.route)

    async def _let_in(self, scope: Scope, leaving: _Leaving) -> Response | None:
        """What is answered at the door, or None."""
        services = self._services()
        if services is None:
            return None
        policy, route = services.limiter.policy, leaving.route
        if policy is not self._policy:
            self._policy, self._wardrobe = policy, Wardrobe(policy)
        if (preflight := self._wardrobe.preflight(scope, leaving.shown)) is not None:
            return preflight
        if len(self._working) >= policy.in_flight and getattr(route, "limit", None) != "none":
            message = f"{policy.in_flight} requests are being worked on already."
            raise ApiError(503, "overloaded", message, {"retry-after": "1"}, remedy="Try again in a moment.")
        self._working.add(leaving.request_id)
        leaving.allowance = await self._admission.admit(services, scope, route, scope["headers"], leaving.shown)
        return None

    async def _behind(self, scope: Scope, receive: Receive, send: Send, errand: Errand, leaving: _Leaving) -> None:
        """Answered by FastAPI. A body that is there as a whole is compressed as all others are; one that is streamed goes as it comes."""
        held: Message | None = None
        deadline = asyncio.timeout(self._seconds(leaving.route))

        async def sent(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                deadline.reschedule(None)  # how long the rest takes is its reader's affair
                headers = list(message["headers"])
                self._begin(scope, errand, leaving, message["status"], headers)
                message = {**message, "headers": headers}
                if may_compress(scope, leaving.shown, leaving.route, message["status"]) and is_whole(headers):
                    held = message
                    return
            elif held is not None:
                start, held = held, None
                if not message.get("more_body"):
                    message = {**message, "body": await compressed(start["headers"], message.get("body", b""))}
                await send(start)
            await send(message)

        async def received() -> Message:
            message = await receive()
            if deadline.when() is not None:  # it runs again from here: a slow sender is no slow read
                deadline.reschedule(asyncio.get_running_loop().time() + (self._seconds(leaving.route) or 0))
            return message

        try:
            async with deadline:
                await self.app(scope, received, sent)
        except TimeoutError:
            if not deadline.expired():
                raise
            await self._leave(error_response(_too_slow(), leaving.request_id), scope, receive, send, errand, leaving)

    def _seconds(self, route: BaseRoute | None) -> float | None:
        """How long a read may take. A command is never given up half-way: whoever waits for it would not know what became of it."""
        if self._policy is None or route is None or hasattr(route, "opening"):
            return None
        reads = "GET" in (getattr(route, "methods", None) or ()) or getattr(route, "limit", None) == "queries"
        return self._policy.request_seconds if reads else None

    def _counting(self, send: Send, errand: Errand, path: str) -> Send:
        """A WebSocket is told of like a request: when it is accepted (101), or refused."""

        async def counted(message: Message) -> None:
            if message["type"] == "websocket.accept":
                self._told(errand, WEBSOCKET, path, 101)
            elif message["type"] == "websocket.http.response.start":
                self._told(errand, WEBSOCKET, path, message["status"])
            await send(message)

        return counted

    def _answered(self, scope: Scope, errand: Errand, status: int) -> None:
        """Told as the answer begins: how long it goes on is the reader's affair."""
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        route = scope.get("route")
        self._told(errand, method, route.path if route is not None else NO_ROUTE, status)

    def _told(self, errand: Errand, method: str, path: str, status: int) -> None:
        seconds = perf_counter() - errand.began
        self._measured.add(method, path, status, seconds)
        tracing.answered(method, path, status)
        if ACCESS.isEnabledFor(logging.INFO):
            _log_access(errand, method, path, status, seconds)

    def _choose(self, scope: Scope) -> BaseRoute | None:
        """The route that the router would choose, written into the scope; None when there is none, or only the router can tell."""
        path: str = scope["path"]
        if scope.get("root_path"):
            return None
        for route in self._routes.get((scope["method"], _second(path), path.count("/")), self._anywhere):
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope["route"] = route
                scope.update(found)
                return route
        return None


@dataclass(slots=True)
class _Leaving:
    """What is known of a request when its answer leaves: its headers, its route, and how its allowance stands."""

    request_id: str
    shown: Shown
    route: BaseRoute | None = None
    allowance: Standing | None = None

    def sign(self, headers: RawHeaders) -> None:
        if all(name != b"x-request-id" for name, _ in headers):
            headers.append((b"x-request-id", self.request_id.encode()))
        if self.allowance is not None:
            headers += told(self.allowance)


def _shown(scope: Scope) -> Shown:
    return {name: value for name, value in scope["headers"] if name in _LOOKED_AT}


def _too_slow() -> ApiError:
    message = "This took too long, and was given up; nothing was changed."
    return ApiError(
        503, "too_slow", message, {"retry-after": "5"}, remedy="Ask for less at once: a shorter span, a smaller page, a filter."
    )


def _by_place(routes: Sequence[BaseRoute]) -> tuple[dict[_Place, tuple[BaseRoute, ...]], tuple[BaseRoute, ...]]:
    """For each place, every route that may match there, in the router's order; and those that may match anywhere."""
    placed = [(route, _places(route)) for route in routes]
    known = {place for _, places in placed for place in places or ()}
    by_place = {place: tuple(route for route, places in placed if places is None or place in places) for place in known}
    return by_place, tuple(route for route, places in placed if places is None)


def _declared_app(route: BaseRoute | None) -> Declared | None:
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
