"""Routes by declaration: a command, a view, or a query, each with its authorisation rule and its place in the OpenAPI.

Commands and views are answered straight from the ASGI scope: a request costs the work it asks for, not the
machinery around it. FastAPI still describes every one of them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from pydantic import create_model
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.admission import Limit
from api.asking import Answer, CommandAnswer, Complete, Entrance, More, command_answer, command_endpoint
from api.dressing import Deprecated
from api.errors import ErrorBody, error_response
from api.feeding import EventStream, Opening, open_talk
from api.reading import Present, Reader, Reading, present_only, require_admitted
from api.services import Services
from api.viewing import Own, list_answer, list_endpoint, row_answer, row_endpoint
from domain.kernel import Command
from domain.values import Role
from projections.engine import ReadTable

__all__ = ["PUBLIC", "ContextRouter", "Own", "Present", "Reader", "Reading"]

PUBLIC: Final[frozenset[Role]] = frozenset()
"""The authorisation rule of the few routes that need no identity."""


@dataclass(frozen=True, slots=True)
class View:
    """A list as it was declared: of which table, and who sees what of it."""

    read: ReadTable[Any]
    roles: frozenset[Role]
    own: Own | None


class ContextRouter(APIRouter):
    """A context's routes."""

    def command(
        self,
        path: str,
        command: type[Command],
        *,
        status: int = 200,
        complete: Complete | None = None,
        more: More | None = None,
        model: type[CommandAnswer] = CommandAnswer,
    ) -> None:
        """POST a command; path parameters are fields of it, the body holds the others. `complete` adds what only the server knows;
        `more` is what the answer, which is a `model`, tells besides.
        """
        in_path = re.findall(r"{(\w+)", path)
        entrance = Entrance(command, status, complete, more)
        self._declare(
            path,
            "POST",
            command_endpoint(command, in_path),
            command_answer(entrance),
            command.roles,
            name=command.command_name,
            summary=_first_line(command),
            description=f"{inspect.getdoc(command)}\n\nAsked by: {', '.join(sorted(command.roles))}.",
            status_code=status,
            response_model=model,
            responses={202: {"model": CommandAnswer, "description": "Parked: it waits for an approval."}, **_ERRORS},
        )
        self.routes[-1].entrance = entrance  # type: ignore[attr-defined]

    def views(
        self,
        path: str,
        read: ReadTable[Any],
        *,
        row_id: str | None,
        roles: frozenset[Role],
        stream: Callable[[str], str] | None = None,
        own: Own | None = None,
    ) -> None:
        """GET a list and, by the path parameter `row_id`, one row. With `stream`, the row's ETag is its stream's version, for If-Match;
        with `own`, everybody sees their own rows.
        """
        label = read.name.replace("_", " ")
        page = create_model(f"{read.row.__name__}Page", items=(list[read.row], ...), next_cursor=(str | None, None), position=(int, ...))  # type: ignore[name-defined]
        summary = {"name": f"list_{read.name}", "summary": f"List {label}", "response_model": page, "responses": _ERRORS}
        self._declare(path, "GET", list_endpoint(read), list_answer(read, roles, own), roles, **summary)
        self.routes[-1].view = View(read, roles, own)  # type: ignore[attr-defined]
        if row_id is None:
            return
        described = {"name": f"get_{read.name}", "summary": f"One of the {label} by id", "response_model": read.row, "responses": _ERRORS}
        self._declare(f"{path}/{{{row_id}}}", "GET", row_endpoint(row_id), row_answer(read, row_id, roles, stream, own), roles, **described)

    def feed(self, path: str, endpoint: Callable[..., Any], opening: Opening, *, roles: frozenset[Role], **described: Any) -> None:
        """GET a live feed as Server-Sent Events; on the same path it is had as a WebSocket."""

        async def answer(services: Services, scope: Scope, _receive: Receive) -> Response:
            async with AsyncExitStack() as stack:
                talk = await open_talk(opening, services, scope, scope["headers"], stack)
                return EventStream(talk, stack.pop_all(), scope["state"]["request_id"])
            raise AssertionError("unreachable")

        stream = {"description": "The feed", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
        responses = {200: stream, 410: _error("Too long ago"), 429: _error("Too many feeds"), **_ERRORS}
        self._declare(path, "GET", endpoint, answer, roles, response_class=Response, responses=responses, **described)
        self.routes[-1].opening = opening  # type: ignore[attr-defined]

    def query(
        self,
        path: str,
        *,
        roles: frozenset[Role],
        methods: tuple[str, ...] = ("GET",),
        limit: Limit | None = None,
        secret: bool = False,
        deprecation: Deprecated | None = None,
        narrowed: bool = False,
        any_scope: bool = False,
        recorded: bool = False,
        **options: Any,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """An ordinary FastAPI endpoint with an authorisation rule; declare a `Reading` parameter to read, or a `Present` one.

        `limit="queries"` counts it as an expensive read; what is `secret` is never compressed; `deprecation` says that it will go.
        `narrowed`: nobody is shown more than they reach, for all that it shows is found through the reader or asked in their name; without
        that word, whoever reaches a part of the tenant only is refused. `any_scope`: whatever a credential is good for, it is for this.
        `recorded`: it shows what was recorded as it was; refused to whoever is not shown every field of every list.
        """

        def register(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            dependencies = [] if roles is PUBLIC or _reads(endpoint) else [Depends(_authorised)]
            dependencies += [] if _reads(endpoint) else [Depends(present_only)]
            options.setdefault("summary", _first_line(endpoint))
            options.setdefault("responses", _ERRORS)
            self.add_api_route(
                path, endpoint, methods=list(methods), dependencies=dependencies, deprecated=deprecation is not None or None, **options
            )
            route: Any = self.routes[-1]
            route.authorisation, route.limit, route.secret, route.deprecation = roles, limit, secret, deprecation
            route.narrowed, route.any_scope, route.recorded = narrowed, any_scope, recorded
            return endpoint

        return register

    def _declare(
        self, path: str, method: str, endpoint: Callable[..., Any], answer: Answer, roles: frozenset[Role], **options: Any
    ) -> None:
        self.add_api_route(path, endpoint, methods=[method], **options)
        route = self.routes[-1]
        assert isinstance(route, APIRoute)
        route.app = Declared(answer)
        route.authorisation = roles  # type: ignore[attr-defined]


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorBody, "description": description}


_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    code: _error(description)
    for code, description in {
        401: "No valid identity",
        403: "Refused by role or policy",
        404: "Not there",
        409: "Refused by a rule, or a conflict",
        422: "Not a valid request",
        429: "Too much within too short a time",
        503: "Not available now",
    }.items()
}


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or thing.__name__).splitlines()[0].rstrip(".")


def _reads(endpoint: Callable[..., Any]) -> bool:
    """Whether a parameter checks the caller already, and what moment they ask for."""
    return not {Reading, Present}.isdisjoint(get_type_hints(endpoint, include_extras=True).values())


async def _authorised(request: Request) -> None:
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    require_admitted(asker, request)


class Declared:
    """The ASGI application of a declared route."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self.response(scope, receive))(scope, receive, send)

    async def response(self, scope: Scope, receive: Receive) -> Response:
        """The answer, before it is sent."""
        try:
            response = await self._answer(scope["app"].state.services, scope, receive)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets the one error body
            response = error_response(error, scope["state"]["request_id"])
        return response
