"""The front door chooses what the router would choose, and says who it is on every answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.dispatch import FrontDoor
from api.routing import Declared
from api.services import Services
from infra.measures import Requests

pytestmark = pytest.mark.anyio

VALUES = ("eu-lake.ingest", "a/b", "x\n", "", " ", "é", "{id}", "%2F", "schema-versions")
APP = create_app(services=cast(Services, None))
METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS")


class Hall:
    """Stands behind the door and says which route the router takes, if any."""

    def __init__(self, routes: list[BaseRoute]) -> None:
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("behind")(scope, receive, send)

    def chosen(self, scope: Scope) -> tuple[BaseRoute | None, Any]:
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return route, found["path_params"]
        return None, None


def scope_of(method: str, path: str) -> Scope:
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "root_path": ""}


def door_and_hall(routes: list[BaseRoute]) -> tuple[FrontDoor, Hall]:
    hall = Hall(routes)
    return FrontDoor(hall, routes, Requests()), hall


def require_same_choice(door: FrontDoor, hall: Hall, method: str, path: str) -> None:
    scope = scope_of(method, path)
    expected, parameters = hall.chosen(scope_of(method, path))
    chosen = door._choose(scope)
    if chosen is not None:
        assert chosen is expected, (method, path)
        assert scope["path_params"] == parameters
    elif "\n" not in path:
        assert expected is None, f"{method} {path} is not found at the door"


def paths() -> Iterator[str]:
    for path in sorted({route.path for route in APP.routes if isinstance(route, Route)}):
        for value in VALUES:
            yield value.join(re.split(r"{[^}]+}", path))
        filled = VALUES[0].join(re.split(r"{[^}]+}", path))
        yield from (f"{filled}/", f"/{filled}", filled.upper(), f"{filled}\n")


def test_every_route_is_chosen_as_the_router_chooses_it() -> None:
    door, hall = door_and_hall(APP.routes)
    for path in paths():
        for method in METHODS:
            require_same_choice(door, hall, method, path)


OURS = door_and_hall(APP.routes)
SEGMENTS = st.sampled_from(["", "v1", "budgets", "datasets", "{x}", "a", "reserve", "lineage", "terms", "\n", "é"])


@given(st.sampled_from(METHODS), st.lists(SEGMENTS, max_size=7))
def test_any_path_is_chosen_as_the_router_chooses_it(method: str, segments: list[str]) -> None:
    require_same_choice(*OURS, method, "/" + "/".join(segments))


async def _declared_answer(_services: Services, scope: Scope, _receive: Receive) -> Response:
    return PlainTextResponse(f"declared {scope['path_params']}")


async def _other(_request: Any) -> Response:
    return PlainTextResponse("other")


def declared(path: str) -> Route:
    route = Route(path, _other, methods=["GET"])
    route.app = Declared(_declared_answer)
    return route


def test_a_route_that_comes_first_stays_first() -> None:
    routes: list[BaseRoute] = [
        Route("/v1/{kind}/special", _other),
        Mount("/v1/mounted", Route("/x", _other)),
        Route("/v1/deep/{rest:path}", _other),
    ]
    routes += [declared("/v1/things/{thing_id}"), declared("/v1/mounted/{thing_id}"), declared("/v1/deep/{thing_id}")]
    door, hall = door_and_hall(routes)
    assert door._choose(scope_of("GET", "/v1/things/special")) is routes[0]
    assert door._choose(scope_of("GET", "/v1/deep/water")) is routes[2]
    assert door._choose(scope_of("GET", "/v1/things/one")) is routes[3]
    for path in ("/v1/things/special", "/v1/things/one", "/v1/mounted/x", "/v1/mounted/y", "/v1/deep/water"):
        require_same_choice(door, hall, "GET", path)


def test_an_application_below_a_prefix_leaves_it_to_the_router() -> None:
    door, _ = door_and_hall([declared("/v1/things")])
    assert door._choose({**scope_of("GET", "/v1/things"), "root_path": "/v1"}) is None


async def test_every_answer_says_which_request_it_belongs_to_and_what_it_is() -> None:
    app = FastAPI()
    app.state.services = None
    door, _ = door_and_hall([declared("/v1/things/{thing_id}")])

    async def with_app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await door(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_app), base_url="http://aureus") as client:
        for path in ("/v1/things/one", "/healthz"):
            answer = await client.get(path)
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        behind = await client.get("/elsewhere")
    assert UUID(behind.headers["x-request-id"]).version == 7
