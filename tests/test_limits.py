"""Who asks without measure is told to wait, exactly when it is due, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admission import address_of
from domain.kernel import Asker
from domain.values import ActorKind, Role, Tier
from infra.circuit import away, readings
from infra.limit_settings import Front, front
from infra.limiting import Guards, Limiter, LimitReached, Windows
from infra.limiting_redis import RedisWindows
from infra.settings_error import SettingsError
from tests.support.kernel import ADM, ANA, BEN
from tests.support.redis import RedisServer
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio

PREMIUM = replace(ANA, actor="usr-pam", tier=Tier.PREMIUM)
QUERY = "/v1/could/usr-ana"


class Clock:
    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


# -- the counts


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 5))
def test_no_window_holds_more_than_was_allowed_whenever_it_is_looked_at(pauses: list[float], allowed: int) -> None:
    clock = Clock()
    windows = Windows(60, clock)
    granted = []
    for pause in pauses:
        clock.seconds += pause
        if windows.take("ana", allowed):
            granted.append(clock.seconds)
        else:
            _, frees = windows.state("ana", allowed)
            assert clock.seconds <= frees <= clock.seconds + 60
    for first in granted:
        assert sum(first <= one <= first + 60 for one in granted) <= allowed


@given(st.integers(1, 20), st.floats(0.001, 59.9))
def test_who_waits_as_long_as_it_is_told_to_is_let_in_and_a_second_earlier_is_not(allowed: int, between: float) -> None:
    async def story() -> None:
        clock = Clock()
        limiter = Limiter(Front(queries=allowed, query_window_seconds=60), now=clock)
        for _ in range(allowed):
            await limiter.take_query(ANA)
        clock.seconds += between
        with pytest.raises(LimitReached) as reached:
            await limiter.take_query(ANA)
        wait = reached.value.standing.reset_seconds
        clock.seconds += wait - 1
        with pytest.raises(LimitReached):
            await limiter.take_query(ANA)
        clock.seconds += 1
        assert (await limiter.take_query(ANA)) is not None

    asyncio.run(story())


async def test_an_actor_of_the_premium_tier_may_ask_more() -> None:
    limiter = Limiter(Front(queries=2, queries_premium=5))
    for asker, allowed in ((ANA, 2), (PREMIUM, 5)):
        standings = [await limiter.take_query(asker) for _ in range(allowed)]
        remaining = [standing.remaining for standing in standings if standing is not None]
        assert remaining == list(reversed(range(allowed)))
        with pytest.raises(LimitReached):
            await limiter.take_query(asker)


async def test_looking_counts_nothing() -> None:
    limiter = Limiter(Front(queries=3))
    before = await limiter.standings(ANA)
    assert before == await limiter.standings(ANA)
    assert [(one.limit, one.remaining, one.reset_seconds) for one in before] == [("queries", 3, 0), ("actor", 6_000, 0)]


def test_guards_are_forgotten_together_when_the_minute_ends() -> None:
    clock = Clock(59.5 + 60 * 100)
    guards = Guards(Front(actor=2), clock)
    guards.count("actor", "a")
    guards.count("actor", "a")
    guards.count("actor", "b")
    with pytest.raises(LimitReached) as reached:
        guards.count("actor", "a")
    assert reached.value.standing.reset_seconds == 1
    clock.seconds += 1
    guards.count("actor", "a")
    assert guards._counts == {("actor", "a"): 1}


async def test_windows_of_who_asks_no_more_take_no_memory() -> None:
    clock = Clock()
    windows = Windows(60, clock)
    for number in range(100):
        windows.take(f"usr-{number}", 5)
    clock.seconds += 61
    windows.take("usr-ana", 5)
    assert list(windows._granted) == ["usr-ana"]


# -- through a Redis


@pytest.fixture
def shared(redis_server: RedisServer) -> RedisServer:
    """Emptied."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server


def limiter_on(server: RedisServer, **policy: Any) -> Limiter:
    front = Front(redis_url=server.url, **policy)
    return Limiter(front, RedisWindows(server.url, front.query_window_seconds))


async def granted(limiter: Limiter, times: int, asker: Asker = ANA) -> int:
    """How many of so many at once were let in."""

    async def one() -> bool:
        try:
            await limiter.take_query(asker)
        except LimitReached:
            return False
        return True

    return sum(await asyncio.gather(*(one() for _ in range(times))))


async def test_two_limiters_on_one_redis_hold_one_limit_exactly(shared: RedisServer) -> None:
    limiters = [limiter_on(shared, queries=50) for _ in range(2)]
    try:
        assert sum(await asyncio.gather(*(granted(limiter, 64) for limiter in limiters))) == 50
        assert await granted(limiters[0], 1, BEN) == 1
        for limiter in limiters:
            assert limiter.circuit.state == "closed"
            assert (await limiter.standings(ANA))[0].remaining == 0
    finally:
        for limiter in limiters:
            await limiter.close()


async def test_what_redis_keeps_names_nobody_and_ends_within_the_hour(shared: RedisServer) -> None:
    limiter = limiter_on(shared)
    try:
        await granted(limiter, 3)
    finally:
        await limiter.close()
    with shared.client() as client:
        keys = [key.decode() for key in client.keys("*")]
        assert len(keys) == 1
        assert "ana" not in keys[0]
        assert 3_500 < client.ttl(keys[0]) <= 3_600


async def test_without_its_redis_a_process_goes_on_from_what_it_granted_itself_and_comes_back(
    shared: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    limiter = limiter_on(shared, queries=8)
    limiter.circuit._now = clock
    try:
        assert await granted(limiter, 3) == 3
        shared.stop()
        assert await granted(limiter, 10) == 5, "three of the eight were granted before"
        assert "redis" in away()
        assert ("aureus_circuit_open", ("redis",), 1) in readings()
        assert "redis fails" in caplog.text
        shared.start()
        clock.seconds += 10
        assert await granted(limiter, 10, BEN) == 8
        assert limiter.circuit.state == "closed"
        assert "redis answers again" in caplog.text
    finally:
        await limiter.close()
        shared.stop()
        shared.start()


# -- at the front door


KEEN = Front(queries=3, queries_premium=6, query_window_seconds=2, actor=40, attempts=10, runaway=4)


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as one:
        await one.know(ADM, ANA, BEN)
        yield one


def set_limits(aureus: Aureus, policy: Front) -> Limiter:
    """Counts of its own for each test."""
    limiter = Limiter(policy)
    object.__setattr__(aureus.services, "limiter", limiter)
    return limiter


async def statuses(aureus: Aureus, path: str, by: Asker, times: int, **parameters: Any) -> list[int]:
    return [(await aureus.get(path, by, **parameters)).status_code for _ in range(times)]


async def test_the_read_too_many_is_refused_with_when_to_come_again_and_others_do_not_notice(aureus: Aureus) -> None:
    set_limits(aureus, KEEN)
    for left in (2, 1, 0):
        answer = await aureus.get(QUERY, ANA)
        assert (answer.status_code, answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == (200, "3", str(left))
    refused = await aureus.get(QUERY, ANA)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert error["code"] == "too_many_requests"
    assert error["details"]["limit"] == "queries"
    assert error["request_id"] == refused.headers["x-request-id"]
    assert refused.headers["ratelimit-remaining"] == "0"
    assert (await aureus.get("/v1/could/usr-ben", BEN)).status_code == 200
    assert (await aureus.get("/v1/budgets", ANA)).status_code == 200, "only expensive reads are out"
    await asyncio.sleep(int(refused.headers["retry-after"]))
    assert (await aureus.get(QUERY, ANA)).status_code == 200


async def test_listing_and_searching_do_not_count(aureus: Aureus) -> None:
    set_limits(aureus, KEEN)
    assert await statuses(aureus, "/v1/terms", ANA, 5) == [200] * 5
    assert await statuses(aureus, "/v1/terms", ANA, 5, q="customer") == [200] * 5
    assert "ratelimit-limit" not in (await aureus.get("/v1/terms", ANA)).headers


async def test_every_request_of_an_actor_counts_whatever_it_is(aureus: Aureus) -> None:
    limiter = set_limits(aureus, KEEN)
    asked = await statuses(aureus, "/v1/budgets", ANA, 20) + await statuses(aureus, "/v1/projections", ANA, 19)
    assert set(asked) == {200}
    body = {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 1}
    assert (await aureus.post("/v1/budgets", body, ANA)).status_code != 429
    assert (await aureus.post("/v1/budgets", body, ANA)).status_code == 429
    assert (await aureus.get("/v1/budgets", BEN)).status_code == 200
    assert ("aureus_limit_refusals_total", ("actor",), 1) in list(limiter.readings())


async def test_logins_and_wrong_credentials_count_for_where_they_come_from(aureus: Aureus) -> None:
    set_limits(aureus, KEEN)
    wrong = {"login": "ana", "password": "not it"}
    tried = [(await aureus.http.post("/v1/auth/token", json=wrong)).status_code for _ in range(6)]
    tried += [(await aureus.http.get("/v1/budgets", headers={"x-api-key": "aur_acme_nokey"})).status_code for _ in range(4)]
    assert set(tried) == {401}
    assert (await aureus.http.post("/v1/auth/token", json=wrong)).status_code == 429
    assert (await aureus.http.get("/v1/budgets")).status_code == 429
    assert (await aureus.get("/v1/budgets", ANA)).status_code == 200, "who shows a valid identity does not suffer for the others"
    assert (await aureus.http.get("/healthz")).status_code == 200


async def test_a_key_is_limited_whoever_holds_it(aureus: Aureus) -> None:
    set_limits(aureus, replace(KEEN, key=2, actor=None))
    issued = (await aureus.post("/v1/api-keys", {"actor_id": ANA.actor, "label": "nightly job"}, ANA)).json()
    await aureus.services.wait_for(aureus.services.ledger.head.size)
    answers = [await aureus.http.get("/v1/budgets", headers={"x-api-key": issued["api_key"]}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["error"]["details"]["limit"] == "key"
    assert issued["api_key"] not in answers[-1].text


async def test_the_caller_sees_how_its_limits_stand(aureus: Aureus) -> None:
    set_limits(aureus, replace(KEEN, tenant=1_000))
    await statuses(aureus, QUERY, ANA, 2)
    told = (await aureus.get("/v1/limits", ANA)).json()
    assert told["tier"] == "standard"
    assert [(one["limit"], one["allowed"], one["remaining"]) for one in told["items"]] == [
        ("queries", 3, 1),
        ("actor", 40, 37),
        ("tenant", 1_000, 997),
    ]
    set_limits(aureus, Front.open())
    assert (await aureus.get("/v1/limits", ANA)).json()["items"] == []


async def test_the_owner_of_a_runaway_is_told_once(aureus: Aureus) -> None:
    agent = Asker("agt-loop", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=BEN.actor)
    await aureus.know(agent)
    set_limits(aureus, replace(KEEN, actor=1))
    assert (await statuses(aureus, "/v1/budgets", agent, 12)).count(429) == 11
    set_limits(aureus, Front.open())
    inbox: list[Any] = []
    for _ in range(100):
        await asyncio.sleep(0.05)
        inbox = (await aureus.get("/v1/notifications", BEN)).json()["items"]
        if inbox:
            break
    assert [(one["kind"], one["about"]) for one in inbox] == [("requests_refused", "actor:agt-loop")]


async def test_with_its_redis_away_aureus_is_ready_and_says_what_it_does_without(aureus: Aureus) -> None:
    policy = Front(queries=4, redis_url="redis://127.0.0.1:1/0")
    limiter = Limiter(policy, RedisWindows("redis://127.0.0.1:1/0", policy.query_window_seconds))
    object.__setattr__(aureus.services, "limiter", limiter)
    assert await statuses(aureus, QUERY, ANA, 6) == [200] * 4 + [429] * 2
    ready = await aureus.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["away"]["redis"] == limiter.circuit.meanwhile
    await limiter.close()


# -- where a request comes from

PROXY = Front(trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8"))).trusted_proxies


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "", "203.0.113.9"),
    ],
)
def test_only_the_word_of_a_trusted_proxy_is_taken(client: str, forwarded: str, address: str) -> None:
    scope = {"client": (client, 1)}
    assert address_of(scope, {b"x-forwarded-for": forwarded.encode()}, PROXY) == address
    if "." in client and ":" not in client:
        assert address_of(scope, {b"x-forwarded-for": forwarded.encode()}, ()) == client


# -- settings


def test_the_operator_sets_what_is_let_in() -> None:
    assert front(lambda _name: None) == Front()
    said = {
        "AUREUS_LIMIT_QUERIES": "7",
        "AUREUS_LIMIT_ACTOR": "off",
        "AUREUS_REDIS_URL": "rediss://:hidden@redis.example.org:6380/2",
        "AUREUS_TRUSTED_PROXIES": "10.0.0.7, 192.168.0.0/16",
        "AUREUS_CORS_ORIGINS": "https://portal.example.org, http://localhost:3000",
    }
    found = front(said.get)
    assert (found.queries, found.actor, found.queries_premium) == (7, None, 1_000)
    assert found.origins == {"https://portal.example.org", "http://localhost:3000"}
    assert [str(network) for network in found.trusted_proxies] == ["10.0.0.7/32", "192.168.0.0/16"]
    assert "hidden" not in repr(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUREUS_LIMIT_QUERIES", "0"),
        ("AUREUS_LIMIT_QUERIES", "100/hour"),
        ("AUREUS_LIMIT_ADDRESS", "-1"),
        ("AUREUS_LIMIT_IN_FLIGHT", "off"),
        ("AUREUS_REQUEST_SECONDS", "0"),
        ("AUREUS_REDIS_URL", "http://:hidden@redis.example.org"),
        ("AUREUS_REDIS_URL", "redis://"),
        ("AUREUS_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("AUREUS_TRUSTED_PROXIES", "everybody"),
        ("AUREUS_CORS_ORIGINS", "*"),
        ("AUREUS_CORS_ORIGINS", "https://portal.example.org/"),
        ("AUREUS_CORS_ORIGINS", "portal.example.org"),
    ],
)
def test_what_cannot_be_a_limit_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        front({name: value}.get)
    assert refused.value.field == name
    assert refused.value.remedy
    assert "hidden" not in str(refused.value)
