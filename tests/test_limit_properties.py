"""The properties that the analytics platform's specification names of limits and latency, each under its number; through a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel import Asker
from domain.values import Role, Tier
from infra.limit_settings import Front
from infra.limiting import Limiter
from infra.limiting_redis import PREFIX, RedisWindows
from tests.conftest import fresh_database
from tests.support.kernel import ADM, ANA
from tests.support.redis import RedisServer
from tests.support.running import Aureus, running

FEATURE = "ai-analytics-platform"
few = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
QUERIES = st.sampled_from(["/v1/could/usr-ana", "/v1/could-see/orders", "/v1/diff?from=1&to=2"])
ANYTHING = st.sampled_from(["/v1/budgets", "/v1/auth/me", "/v1/projections", "/v1/terms?q=orders", "/v1/terms/none"])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def aureus(
    postgres_url: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner
) -> Iterator[Aureus]:
    @asynccontextmanager
    async def opened(dsn: str, home: Path) -> AsyncIterator[Aureus]:
        async with running(dsn, home, front=Front(redis_url=redis_server.url)) as aureus:
            await aureus.know(ADM, ANA)
            yield aureus

    stack = AsyncExitStack()
    with fresh_database(postgres_url) as dsn:
        yield loop.run(stack.enter_async_context(opened(dsn, tmp_path_factory.mktemp("home"))))
        loop.run(stack.aclose())


async def get(aureus: Aureus, path: str) -> httpx.Response:
    return await aureus.http.get(path, headers={"authorization": f"Bearer {aureus.services.tokens.issue(ANA)}"})


def left(aureus: Aureus, loop: asyncio.Runner, limit: str) -> int:
    items = loop.run(aureus.get("/v1/limits", ANA)).json()["items"]
    return int(next(one["remaining"] for one in items if one["limit"] == limit))


def stranger(tier: Tier = Tier.STANDARD) -> Asker:
    return Asker(f"usr-{uuid4()}", "acme", frozenset({Role.ANALYST}), tier=tier)


# Feature: ai-analytics-platform, Property 39: Request counting
def test_every_request_is_counted_for_who_makes_it(aureus: Aureus, loop: asyncio.Runner) -> None:
    @few
    @given(ANYTHING)
    def holds(path: str) -> None:
        before = left(aureus, loop, "actor")
        loop.run(get(aureus, path))
        assert left(aureus, loop, "actor") in {before - 2, 5_999}, "it, and the look; unless a minute began in between"

    holds()


# Feature: ai-analytics-platform, Property 40: Rate limit enforcement
# Feature: ai-analytics-platform, Property 42: Tiered rate limits
@pytest.mark.parametrize(("tier", "allowed"), [(Tier.STANDARD, 100), (Tier.PREMIUM, 1_000)])
def test_so_many_queries_an_hour_and_not_one_more(redis_server: RedisServer, loop: asyncio.Runner, tier: Tier, allowed: int) -> None:
    async def story() -> list[bool]:
        limiter = Limiter(Front(), RedisWindows(redis_server.url, 3_600))
        asker = stranger(tier)
        try:
            ended = await asyncio.gather(*(limiter.take_query(asker) for _ in range(allowed + 64)), return_exceptions=True)
        finally:
            await limiter.close()
        return [not isinstance(one, BaseException) for one in ended]

    assert sum(loop.run(story())) == allowed


# Feature: ai-analytics-platform, Property 40: Rate limit enforcement
# Feature: ai-analytics-platform, Property 41: Retry-After header
def test_every_query_beyond_the_limit_is_refused_with_when_it_is_not(aureus: Aureus, loop: asyncio.Runner) -> None:
    limiter, policy = aureus.services.limiter, replace(aureus.services.limiter.policy, queries=2)
    object.__setattr__(aureus.services, "limiter", Limiter(policy, RedisWindows(policy.redis_url or "", 3_600)))
    try:
        for path in ("/v1/could/usr-ana", "/v1/diff?from=1&to=2"):
            assert loop.run(get(aureus, path)).status_code == 200

        @few
        @given(QUERIES)
        def holds(path: str) -> None:
            answer = loop.run(get(aureus, path))
            assert answer.status_code == 429
            assert 3_500 < int(answer.headers["retry-after"]) <= 3_600

        holds()
    finally:
        loop.run(aureus.services.limiter.close())
        object.__setattr__(aureus.services, "limiter", limiter)


# Feature: ai-analytics-platform, Property 43: Redis counter storage
def test_every_count_of_queries_lies_in_redis_and_ends_within_the_hour(
    aureus: Aureus, redis_server: RedisServer, loop: asyncio.Runner
) -> None:
    with redis_server.client() as client:
        client.flushall()

        @few
        @given(QUERIES)
        def holds(path: str) -> None:
            def counted() -> int:
                return sum(int(client.llen(key)) for key in found())

            def found() -> Any:
                return client.keys(f"{PREFIX}*")

            before = counted()
            loop.run(get(aureus, path))
            assert counted() == before + 1
            assert all(0 < client.ttl(key) <= 3_600 for key in found())

        holds()


# Feature: ai-analytics-platform, Property 44: API response latency
def test_answers_take_less_than_200_ms_at_the_95th_percentile(aureus: Aureus, loop: asyncio.Runner) -> None:
    took = []

    @settings(few, max_examples=40)
    @given(ANYTHING)
    def asked(path: str) -> None:
        began = time.perf_counter()
        loop.run(get(aureus, path))
        took.append(time.perf_counter() - began)

    asked()
    assert sorted(took)[len(took) * 95 // 100] < 0.2
