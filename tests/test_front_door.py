"""What the server bears at its front door: floods, drips, what never ends; and what every answer wears."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import httpx
import orjson
import pytest
from starlette.responses import Response

from api import protocol
from api.app import create_app
from api.dressing import Deprecated
from api.routing import PUBLIC, ContextRouter, Reading
from domain.values import EVERYBODY
from infra.limit_settings import Front
from infra.limiting import Limiter
from tests.support.following import Served, served
from tests.support.kernel import ANA, BEN
from tests.support.running import Aureus

pytestmark = pytest.mark.anyio

PORTAL = "https://portal.example.org"
POLICY = replace(Front.open(), origins=frozenset({PORTAL}), request_seconds=0.3)


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Seconds where the server has minutes of patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "LOOK_SECONDS", 0.05)
        patch.setattr(protocol, "HEAD_SECONDS", 0.4)
        patch.setattr(protocol, "BODY_SECONDS", 0.4)
        patch.setattr(protocol, "LINGER_SECONDS", 0.3)
        yield


@pytest.fixture(scope="module")
async def server(
    shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object, quickly: None
) -> AsyncIterator[Served]:
    async with served(shared_database_url, tmp_path_factory.mktemp("home")) as one:
        await one.aureus.know(ANA, BEN)
        yield one


class Line:
    """A connection on which bytes are written as they come to mind."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, server: Served) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def say(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer after which the server hangs up."""
        async with asyncio.timeout(10):
            whole = await self._reader.read()
        self._writer.close()
        head, _, body = whole.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        return int(head.split(b" ")[1]), orjson.loads(body)["error"]


async def refused(server: Served, *parts: bytes) -> tuple[int, str]:
    line = await Line.to(server)
    line.say(*parts)
    status, error = await line.answer()
    assert error["message"]
    assert error["details"]["remedy"]
    assert error["request_id"]
    return status, error["code"]


# -- too much


async def test_a_flood_of_headers_is_refused(server: Served) -> None:
    headers = b"".join(b"x-%d: y\r\n" % number for number in range(200))
    assert await refused(server, b"GET /healthz HTTP/1.1\r\n", headers, b"\r\n") == (431, "too_many_headers")


@pytest.mark.parametrize("ending", [b"\r\n\r\n", b""])
async def test_a_header_of_any_length_is_not_taken(server: Served, ending: bytes) -> None:
    token = b"authorization: Bearer " + b"a" * 1_000_000
    assert await refused(server, b"GET /v1/budgets HTTP/1.1\r\n", token, ending) == (431, "head_too_large")


async def test_many_headers_that_are_large_together_are_not_taken(server: Served) -> None:
    headers = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 900) for number in range(60))
    assert await refused(server, b"GET /healthz HTTP/1.1\r\n", headers, b"\r\n") == (431, "head_too_large")


async def test_a_target_has_an_end(server: Served) -> None:
    assert await refused(server, b"GET /v1/terms?q=", b"a" * 20_000, b" HTTP/1.1\r\n\r\n") == (414, "target_too_long")


async def test_what_is_no_http_is_answered_all_the_same(server: Served) -> None:
    assert await refused(server, b"\x16\x03\x01 TLS here by mistake\r\n\r\n") == (400, "bad_request")


async def test_a_body_that_never_ends_is_cut_off_at_its_limit(server: Served) -> None:
    token = server.aureus.services.tokens.issue(ANA).encode()
    line = await Line.to(server)
    line.say(b"POST /v1/budgets HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ", token, b"\r\ntransfer-encoding: chunked\r\n\r\n")

    async def flood() -> None:
        while True:
            line.say(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
            await line._writer.drain()

    flooding = asyncio.create_task(flood())
    async with asyncio.timeout(10):
        head = await line._reader.readuntil(b"\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|pipe|lost"):
            await flooding
    line._writer.close()
    assert head.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_nobody_asked_for_is_not_listened_to(server: Served) -> None:
    line = await Line.to(server)
    line.say(b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await line._reader.read()).startswith(b"HTTP/1.1 200 ")
    line._writer.close()


# -- too slow


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-slow: "])
async def test_a_head_that_does_not_come_is_not_waited_for(server: Served, begun: bytes) -> None:
    assert await refused(server, begun) == (408, "too_slow")


async def test_a_body_that_drips_is_not_waited_for_and_nobody_works_on_it_any_more(server: Served) -> None:
    line = await Line.to(server)
    token = server.aureus.services.tokens.issue(ANA).encode()
    line.say(b"POST /v1/budgets HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ", token, b"\r\ncontent-length: 1000\r\n\r\n")

    async def drip() -> None:
        for _ in range(100):
            line.say(b"a")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    status, error = await line.answer()
    dripping.cancel()
    assert (status, error["code"]) == (408, "too_slow")
    assert server.server.server_state.tasks == set()


async def test_a_body_that_comes_slowly_and_steadily_is_taken(server: Served) -> None:
    body = orjson.dumps({"budget_id": "slow", "label": "x" * 60, "currency": "EUR", "limit_minor": 1}).ljust(10_000)
    token = server.aureus.services.tokens.issue(ANA)

    async def steadily() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1_000):
            await asyncio.sleep(0.1)
            yield body[at : at + 1_000]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
        headers = {"authorization": f"Bearer {token}", "content-length": str(len(body))}
        answer = await http.post("/v1/budgets", content=steadily(), headers=headers)
    assert answer.status_code != 408, answer.text


# -- routes of the test's own, behind the same door


router = ContextRouter(prefix="/v1")
LONG = {"text": "governance " * 500}
LEAVING = Deprecated(since=date(2026, 1, 1), sunset=date(2027, 1, 1), link="https://docs.example.org/leaving")


@router.query("/test/slow", roles=EVERYBODY)
async def slow(reader: Reading) -> None:
    """Takes for ever."""
    await asyncio.sleep(60)


@router.query("/test/slow", roles=EVERYBODY, methods=("POST",))
async def slow_command(reader: Reading) -> dict[str, str]:
    """Takes longer than a read may."""
    await asyncio.sleep(0.5)
    return {"done": "yes"}


@router.query("/test/long", roles=PUBLIC)
async def long_answer() -> dict[str, str]:
    """Is worth compressing."""
    return LONG


@router.query("/test/secret", roles=PUBLIC, secret=True)
async def secret_answer() -> dict[str, str]:
    """Must not be."""
    return LONG


@router.query("/test/leaving", roles=PUBLIC, deprecation=LEAVING)
async def leaving() -> dict[str, str]:
    """Will go."""
    return {}


@router.query("/test/own", roles=PUBLIC)
async def own_dress() -> Response:
    """Is dressed by its route."""
    return Response("a", headers={"cache-control": "max-age=60", "content-security-policy": "default-src 'self'"})


@pytest.fixture(scope="module")
async def http(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    object.__setattr__(server.aureus.services, "limiter", Limiter(POLICY))
    app = create_app(services=server.aureus.services)
    app.state.services = server.aureus.services
    app.router.routes.extend(router.routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as client:
        yield client


def identity(aureus: Aureus) -> dict[str, str]:
    return {"authorization": f"Bearer {aureus.services.tokens.issue(ANA)}"}


async def test_a_read_that_takes_too_long_is_given_up_and_a_command_is_not(server: Served, http: httpx.AsyncClient) -> None:
    given_up = await http.get("/v1/test/slow", headers=identity(server.aureus))
    assert (given_up.status_code, given_up.json()["error"]["code"], given_up.headers["retry-after"]) == (503, "too_slow", "5")
    assert (await http.post("/v1/test/slow", headers=identity(server.aureus))).json() == {"done": "yes"}


async def test_more_than_can_be_worked_on_is_told_to_come_again_and_health_is_answered(server: Served, http: httpx.AsyncClient) -> None:
    object.__setattr__(server.aureus.services, "limiter", Limiter(replace(POLICY, in_flight=1)))
    try:
        working = asyncio.create_task(http.post("/v1/test/slow", headers=identity(server.aureus)))
        await asyncio.sleep(0.1)
        turned_away = await http.get("/v1/budgets", headers=identity(server.aureus))
        assert (turned_away.status_code, turned_away.json()["error"]["code"], turned_away.headers["retry-after"]) == (
            503,
            "overloaded",
            "1",
        )
        assert (await http.get("/healthz")).status_code == 200
        assert (await working).status_code == 200
        assert (await http.get("/v1/budgets", headers=identity(server.aureus))).status_code == 200
    finally:
        object.__setattr__(server.aureus.services, "limiter", Limiter(POLICY))


# -- what answers wear


async def test_every_answer_tells_browsers_to_keep_out_of_mischief(server: Served, http: httpx.AsyncClient) -> None:
    answers = [
        await http.get("/v1/budgets", headers=identity(server.aureus)),
        await http.get("/v1/projections", headers=identity(server.aureus)),
        await http.get("/v1/budgets"),
        await http.get("/nowhere"),
        await http.post("/v1/auth/token", json={}),
    ]
    assert {answer.status_code for answer in answers} == {200, 401, 404, 422}
    for answer in answers:
        worn = answer.headers
        assert worn.get_list("x-content-type-options") == ["nosniff"]
        assert worn["cache-control"] == "no-store"
        assert worn["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in worn["content-security-policy"]
        assert worn["x-request-id"]
        assert "strict-transport-security" not in worn


async def test_a_route_may_dress_its_answers_itself(http: httpx.AsyncClient) -> None:
    worn = (await http.get("/v1/test/own")).headers
    assert worn.get_list("cache-control") == ["max-age=60"]
    assert worn.get_list("content-security-policy") == ["default-src 'self'"]


@pytest.mark.parametrize("page", ["/", "/docs"])
async def test_pages_load_from_here_alone_and_in_nobodys_frame(http: httpx.AsyncClient, page: str) -> None:
    policy = (await http.get(page)).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" in policy
    assert "unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


async def test_over_tls_browsers_are_told_to_stay_there(server: Served, http: httpx.AsyncClient) -> None:
    transport: Any = http._transport
    async with httpx.AsyncClient(transport=transport, base_url="https://aureus.test") as tls:
        assert (await tls.get("/healthz")).headers["strict-transport-security"].startswith("max-age=31536000")
    assert "strict-transport-security" not in (await http.get("/healthz", headers={"x-forwarded-proto": "https"})).headers


# -- other origins

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


async def test_a_page_of_a_listed_origin_may_ask(http: httpx.AsyncClient) -> None:
    asked = await http.options("/v1/budgets", headers={"origin": PORTAL, **PREFLIGHT})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, PORTAL)
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "Idempotency-Key" in asked.headers["access-control-allow-headers"]
    answer = await http.get("/v1/budgets", headers={"origin": PORTAL})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PORTAL), "it may read why it is refused"
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers.get_list("vary")


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", PORTAL + ".evil.org", PORTAL + ":8443", "null", "http://portal.example.org"]
)
async def test_a_page_of_any_other_origin_may_not(http: httpx.AsyncClient, origin: str) -> None:
    asked = await http.options("/v1/budgets", headers={"origin": origin, **PREFLIGHT})
    assert (asked.status_code, asked.json()["error"]["code"]) == (403, "origin_not_allowed")
    for answer in (asked, await http.get("/healthz", headers={"origin": origin})):
        assert not [name for name in answer.headers if name.startswith("access-control-allow")]


# -- compression


async def test_what_is_large_is_compressed_for_who_takes_it(server: Served, http: httpx.AsyncClient) -> None:
    for path in ("/v1/test/long", "/openapi.json"):
        async with http.stream("GET", path, headers={"accept-encoding": "br, gzip;q=0.5"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert int(answer.headers["content-length"]) == len(raw)
        assert "Accept-Encoding" in answer.headers.get_list("vary")
        plain = await http.get(path, headers={"accept-encoding": "identity"})
        assert gzip.decompress(raw) == plain.content
        assert len(raw) < len(plain.content) / 5


@pytest.mark.parametrize(
    ("path", "accepted"),
    [("/v1/test/long", "gzip;q=0"), ("/v1/test/long", "br"), ("/v1/test/secret", "gzip"), ("/v1/test/leaving", "gzip")],
)
async def test_what_is_small_or_secret_or_not_wanted_so_stays_as_it_is(http: httpx.AsyncClient, path: str, accepted: str) -> None:
    answer = await http.get(path, headers={"accept-encoding": accepted})
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers


async def test_answers_to_post_hold_secrets_and_are_never_compressed(http: httpx.AsyncClient) -> None:
    too_much = {f"field_{number}": "x" for number in range(200)}
    answer = await http.post("/v1/auth/token", json=too_much, headers={"accept-encoding": "gzip"})
    assert len(answer.content) > 2_000
    assert "content-encoding" not in answer.headers


# -- what will go


async def test_what_will_go_says_since_when_until_when_and_what_instead(http: httpx.AsyncClient) -> None:
    worn = (await http.get("/v1/test/leaving")).headers
    assert worn["deprecation"] == "@1767225600"
    assert worn["sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
    assert worn["link"] == '<https://docs.example.org/leaving>; rel="deprecation"'
    schema = (await http.get("/openapi.json")).json()["paths"]
    assert schema["/v1/test/leaving"]["get"]["deprecated"] is True
    assert "deprecated" not in schema["/v1/test/long"]["get"]
