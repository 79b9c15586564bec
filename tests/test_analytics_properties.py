"""The properties that the analytics platform's specification names, each under its number: those that hold already."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from api.logging_in import open_session
from domain.kernel import Asker
from infra.token_settings import token_settings
from infra.tokens import TokenIssuer, TokenRefused
from tests.conftest import fresh_database
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus, running

FEATURE = "ai-analytics-platform"
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
ids = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
protected = st.sampled_from(["/v1/datasets", "/v1/budgets", "/v1/actions", "/v1/approvals", "/v1/auth/me", "/v1/projections"])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def aureus(postgres_url: str, tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner) -> Iterator[Aureus]:
    @asynccontextmanager
    async def opened(dsn: str, home: Path) -> AsyncIterator[Aureus]:
        async with running(dsn, home) as aureus:
            await aureus.know(ADM, ANA)
            yield aureus

    stack = AsyncExitStack()
    with fresh_database(postgres_url) as dsn:
        yield loop.run(stack.enter_async_context(opened(dsn, tmp_path_factory.mktemp("home"))))
        loop.run(stack.aclose())


@st.composite
def spoilt(draw: st.DrawFn, token: str) -> str:
    """A token that nobody was given: one character of it changed, a part cut off, parts of two in one, or no token at all."""
    at = draw(st.integers(0, len(token) - 1))
    changed = draw(st.sampled_from([one for one in "AZaz09-_." if one != token[at]]))
    made = [token[:at] + changed + token[at + 1 :], token[:at], ".".join(token.split(".")[:2]), draw(st.text("abc.=", max_size=40))]
    return draw(st.sampled_from(made))


# Feature: ai-analytics-platform, Property 35: JWT validation
def test_every_request_to_a_protected_endpoint_needs_a_token(aureus: Aureus, loop: asyncio.Runner) -> None:
    @few
    @given(protected)
    def holds(path: str) -> None:
        bare, known = loop.run(aureus.http.get(path)), loop.run(aureus.get(path, ADM))
        assert (bare.status_code, known.status_code) == (401, 200)

    holds()


# Feature: ai-analytics-platform, Property 36: Invalid token rejection
def test_an_invalid_token_is_refused_and_nothing_is_done(aureus: Aureus, loop: asyncio.Runner) -> None:
    token = aureus.services.tokens.issue(ADM)
    last = token.rpartition(".")[2]

    @few
    @given(spoilt(token), ids)
    def holds(bad: str, budget_id: str) -> None:
        if bad.split(".")[:2] == token.split(".")[:2] and _bits(bad.rpartition(".")[2]) == _bits(last):
            return  # the same signature, written in another way
        before = loop.run(aureus.services.ledger.refresh()).size
        body = {"budget_id": budget_id, "label": "L", "currency": "EUR", "limit_minor": 1}
        answer = loop.run(aureus.http.post("/v1/budgets", headers={"Authorization": f"Bearer {bad}"}, json=body))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
        assert loop.run(aureus.services.ledger.refresh()).size == before

    holds()


def _bits(signature: str) -> str:
    """Without the last character's two bits that say nothing."""
    return signature[:-1] if len(signature) == 86 else signature


# Feature: ai-analytics-platform, Property 37: Admin action logging
def test_whatever_an_administrator_does_is_in_the_audit_trail(aureus: Aureus, loop: asyncio.Runner) -> None:
    bodies = st.one_of(
        st.builds(
            lambda i, n: ("/v1/budgets", {"budget_id": i, "label": "L", "currency": "EUR", "limit_minor": n}), ids, st.integers(0, 9)
        ),
        st.builds(lambda i: ("/v1/terms", {"term_id": i, "name": "N", "definition": "D"}), ids),
        st.builds(lambda i, n: (f"/v1/budgets/{i}/fund", {"amount_minor": n}), ids, st.integers(1, 9)),
    )

    @few
    @given(bodies, st.text("abc ", min_size=1, max_size=20).map(str.strip).filter(bool))
    def holds(request: tuple[str, dict[str, Any]], reason: str) -> None:
        path, body = request
        answer = loop.run(aureus.post(path, body, ADM, idempotency_key=str(uuid4()), aureus_reason=reason))
        told = answer.json()
        action_id = told["action_id"] if answer.is_success else told["error"]["details"]["action_id"]
        position = loop.run(aureus.services.ledger.refresh()).size
        entry = loop.run(aureus.get(f"/v1/actions/{action_id}", ADM, at_least=position)).json()
        assert entry["actor_id"] == ADM.actor
        assert entry["timestamp"]
        assert entry["action"] == {"/v1/budgets": "budgets.open_budget", "/v1/terms": "catalog.define_term"}.get(
            path, "budgets.fund_budget"
        )
        assert entry["outcome"] == ("allowed" if answer.is_success else "blocked")
        assert entry["reason"] == reason
        assert set(body) - {"amount_minor"} <= set(entry["intent"]), entry["intent"]

    holds()


# Feature: ai-analytics-platform, Property 38: JWT token validity period
def test_where_a_day_is_configured_a_token_is_valid_for_exactly_a_day(aureus: Aureus, loop: asyncio.Runner) -> None:
    services, now = aureus.services, time.time()
    seconds = token_settings({"AUREUS_TOKEN_HOURS": "24"}.get).access_seconds

    def verifying(at: float) -> TokenIssuer:
        return TokenIssuer(services.keystore.token, services.ledger.name, lifetime_seconds=seconds, clock=lambda: at)

    @few
    @given(st.sampled_from([ADM, ANA]), st.floats(0, 172_800))
    def holds(who: Asker, elapsed: float) -> None:
        issuing = replace(services, tokens=verifying(int(now)))
        told = loop.run(open_session(issuing, who.tenant, who.actor, "password"))
        later = verifying(int(now) + elapsed)
        assert told.expires_in == 86_400
        if elapsed < 86_400:
            assert later.verify(told.access_token.encode()).asker.actor == who.actor
        else:
            with pytest.raises(TokenRefused, match="expired"):
                later.verify(told.access_token.encode())

    holds()


# Feature: ai-analytics-platform, Property 46: Prometheus metrics emission
def test_every_request_is_counted_and_timed_by_how_it_ended(aureus: Aureus, loop: asyncio.Runner) -> None:
    requests = st.lists(st.sampled_from([("/v1/datasets", 200), ("/v1/datasets/{dataset_id}", 404)]), min_size=1, max_size=5)

    def counted() -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(loop.run(aureus.http.get("/metrics")).text):
            for one in family.samples:
                if one.name == "aureus_http_requests_total":
                    found[one.labels["route"], one.labels["status"]] = one.value
                if one.name == "aureus_http_request_seconds_count":
                    found[one.labels["route"], "timed"] = one.value
        return found

    @few
    @given(requests)
    def holds(asked: list[tuple[str, int]]) -> None:
        before = counted()
        for route, status in asked:
            assert loop.run(aureus.get(route.replace("{dataset_id}", "nobody"), ADM)).status_code == status
        after = counted()
        for route, status in set(asked):
            assert after[route, str(status)] - before.get((route, str(status)), 0) == asked.count((route, status))
            assert after[route, "timed"] - before.get((route, "timed"), 0) == asked.count((route, status))

    holds()


def test_each_property_has_one_number_and_one_test() -> None:
    text = Path(__file__).read_text()
    tagged = re.findall(rf"^# Feature: {FEATURE}, Property (\d+): \S.*\n(?:@.*\n)*def test_", text, re.MULTILINE)
    assert len(set(tagged)) == len(tagged) == text.count(f"# Feature: {FEATURE}, Property")
