"""Every answer, of whatever route and with whatever status, tells a browser to do no mischief with it, and a cache to forget it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

import httpx
import pytest
from starlette.routing import Route

from api.app import create_app
from domain.kernel import Asker
from domain.values import Role
from infra.limit_settings import Front
from tests.support.kernel import ADM
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
EVE: Final = Asker("usr-eve", "acme", frozenset(Role) - {Role.AGENT})
ENDLESS: Final = ("/v1/feeds/events", "/v1/feeds/changes")
ANYBODYS: Final = ("/v1/log/tile/", "/v1/log/checkpoint", "/v1/ledger/checkpoint", "/console/", "/docs", "/v1/verifier", "/")
"""What is the same for everybody may be kept: hashes, signed notes, files of the console."""


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    front = replace(Front.open(), trusted_proxies=(ip_network("127.0.0.1/32"),))
    async with running(shared_database_url, tmp_path_factory.mktemp("home"), front=front) as served:
        await served.know(ADM, EVE)
        yield served


def paths() -> list[str]:
    """Every path that can be got, with names of things that are not there."""
    found = {route.path for route in create_app().routes if isinstance(route, Route) and "GET" in (route.methods or ())}
    filled = ["/".join("nothing" if "{" in part else part for part in path.split("/")) for path in sorted(found)]
    return [path for path in filled if path not in ENDLESS]


def worn(answer: httpx.Response) -> None:
    headers, path = answer.headers, answer.request.url.path
    assert headers["x-content-type-options"] == "nosniff", path
    assert "frame-ancestors 'none'" in headers["content-security-policy"], path
    assert "unsafe" not in headers["content-security-policy"].partition("style-src")[0], path
    assert headers["referrer-policy"] == "no-referrer", path
    kept = headers["cache-control"]
    assert kept == "no-store" or path == "/" or path.startswith(ANYBODYS[:-1]) or kept.startswith(("private", "no-cache")), (path, kept)
    assert headers["x-request-id"], path


async def test_every_answer_wears_them(aureus: Aureus) -> None:
    statuses = set()
    for path in paths():
        for by in (EVE, None):
            answer = await (aureus.get(path, by) if by else aureus.http.get(path))
            assert answer.status_code < 500, (path, answer.text)
            statuses.add(answer.status_code)
            worn(answer)
    for method, path in (("POST", "/v1/budgets"), ("DELETE", "/v1/budgets"), ("OPTIONS", "/v1/budgets"), ("GET", "/v1/%00"), ("PUT", "/x")):
        answer = await aureus.http.request(method, path)
        statuses.add(answer.status_code)
        worn(answer)
    assert {200, 401, 404, 405} <= statuses


async def test_an_answer_with_data_is_kept_nowhere(aureus: Aureus) -> None:
    for path in ("/v1/budgets", "/v1/actors", "/v1/actors/usr-eve", "/v1/auth/me", "/v1/ledger/events", "/v1/system/doctor"):
        answer = await aureus.get(path, EVE)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] in {"no-store", "private, no-cache"}, (path, answer.headers["cache-control"])


@pytest.mark.parametrize(
    ("client", "said", "worn_then"), [("127.0.0.1", "https", True), ("127.0.0.1", "http", False), ("192.0.2.7", "https", False)]
)
async def test_behind_tls_a_browser_is_told_to_stay_there(aureus: Aureus, client: str, said: str, worn_then: bool) -> None:
    transport = httpx.ASGITransport(aureus.http._transport.app, client=(client, 4711))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://aureus.test") as http:
        answer = await http.get("/healthz", headers={"x-forwarded-proto": said})
    assert ("strict-transport-security" in answer.headers) == worn_then
