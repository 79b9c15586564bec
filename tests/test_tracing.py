"""Traces: one for what an action went through, from the request to the read models; none, and nothing loaded, unless one is wanted."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.protocol import WholeAnswers
from domain.kernel import Asker
from domain.values import Role, uuid7
from infra import tracing
from infra.logs import begin_request
from infra.otel import Share
from infra.settings import Settings
from infra.tracing import correlation_of, parse_traceparent, span_of
from tests.support.otlp import Collector, Span, collecting
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parent.parent
MAX = Asker("usr-max", "acme", frozenset({Role.ADMIN}))
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
Served = tuple[Aureus, httpx.AsyncClient]
GUARD = ("validate", "policy", "decide", "evidence", "append")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        tracing.start("aureus", "otlp")
        try:
            yield one
        finally:
            tracing.stop()


@pytest.fixture(scope="module")
async def traced(
    shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, collector: Collector, anyio_backend: object
) -> AsyncIterator[Served]:
    async with served(shared_database_url, tmp_path_factory.mktemp("home")) as one:
        yield one


@asynccontextmanager
async def served(dsn: str, home: Path) -> AsyncIterator[Served]:
    """An Aureus that answers over a socket."""
    async with running(dsn, home) as aureus:
        await aureus.know(MAX)
        config = uvicorn.Config(create_app(services=aureus.services), loop="none", http=WholeAnswers, log_config=None, ws="none")
        server = uvicorn.Server(config)
        token = aureus.services.tokens.issue(MAX)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server._serve([listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as http:
                    yield aureus, http
            finally:
                server.should_exit = True
                await serving


def within(child: Span, parent: Span) -> bool:
    return child.parent == parent.id and parent.start_ns <= child.start_ns <= child.end_ns <= parent.end_ns + 50_000_000


def traceparent(flags: str = "01") -> tuple[str, str]:
    """(a new trace, the header of a caller who is in it)"""
    trace = uuid4().hex
    return trace, f"00-{trace}-{CALLER}-{flags}"


async def opened(http: httpx.AsyncClient, currency: str = "EUR", **headers: str) -> dict[str, Any]:
    """The answer to opening a new budget."""
    body = {"budget_id": uuid4().hex, "label": "Lake", "currency": currency, "limit_minor": 1_000}
    answer = await http.post("/v1/budgets", json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    told: dict[str, Any] = answer.json()
    return told


async def test_a_command_is_one_trace_from_its_callers_span_to_the_read_models(traced: Served, collector: Collector) -> None:
    aureus, http = traced
    trace, header = traceparent()
    told = await opened(http, traceparent=header)
    spans = await asyncio.to_thread(collector.of_trace, trace, "POST /v1/budgets", "command budgets.open_budget", "project", *GUARD)
    request, command, append = (spans[name] for name in ("POST /v1/budgets", "command budgets.open_budget", "append"))
    assert request.parent == CALLER
    assert (request.attributes["http.route"], request.attributes["http.response.status_code"]) == ("/v1/budgets", 201)
    assert within(command, request)
    assert all(within(spans[name], command) for name in GUARD)
    assert sorted(GUARD, key=lambda name: spans[name].start_ns) == list(GUARD)
    assert append.id == f"{span_of(UUID(told['action_id'])):016x}"
    assert append.attributes["aureus.position"] == told["position"]
    assert spans["project"].parent == append.id
    assert spans["project"].end_ns >= append.end_ns
    (recorded,) = await aureus.services.ledger.read(told["position"] - 1, 1)
    assert recorded.correlation == UUID(trace)
    assert {span.service for span in spans.values()} == {"aureus"}


async def test_a_batch_names_the_traces_it_is_about(traced: Served, collector: Collector) -> None:
    trace, header = traceparent()
    await opened(traced[1], traceparent=header)
    (batch_trace,) = (await asyncio.to_thread(collector.of_trace, trace, "project"))["project"].links
    batch = (await asyncio.to_thread(collector.of_trace, batch_trace, "project"))["project"]
    assert trace in batch.links
    assert batch.parent == ""


async def test_a_correlation_is_the_trace_and_the_callers_is_linked(traced: Served, collector: Collector) -> None:
    correlation, (trace, header) = uuid4(), traceparent()
    await opened(traced[1], traceparent=header, X_Correlation_Id=str(correlation))
    spans = await asyncio.to_thread(collector.of_trace, correlation.hex, "POST /v1/budgets", "append", "project")
    assert spans["POST /v1/budgets"].links == (trace,)
    assert spans["POST /v1/budgets"].parent == ""


async def test_a_request_that_names_no_trace_is_the_first_of_its_own(traced: Served, collector: Collector) -> None:
    blocked = await opened(traced[1], "ZZZ")
    trace = UUID(blocked["error"]["request_id"]).hex
    spans = await asyncio.to_thread(collector.of_trace, trace, "POST /v1/budgets", "policy", "append")
    assert spans["POST /v1/budgets"].parent == ""
    assert spans["command budgets.open_budget"].attributes["aureus.outcome"] == "actions.action_blocked"
    assert "decide" not in spans


async def test_what_aureus_does_because_of_it_is_in_the_same_trace(traced: Served, collector: Collector) -> None:
    trace, header = traceparent()
    await opened(traced[1], "ZZZ", traceparent=header)
    spans = await asyncio.to_thread(collector.of_trace, trace, "append", "reaction blocked_action_notifies_owner")
    assert spans["reaction blocked_action_notifies_owner"].parent == spans["append"].id


async def test_a_caller_who_is_not_sampled_is_not_told_of(traced: Served, collector: Collector) -> None:
    (unsampled, header), (trace, sampled) = traceparent("00"), traceparent()
    await opened(traced[1], traceparent=header)
    await opened(traced[1], traceparent=sampled)
    await asyncio.to_thread(collector.of_trace, trace, "POST /v1/budgets")
    assert [span.name for span in collector.spans if span.trace == unsampled and span.name != "project"] == []


async def test_without_a_collector_the_correlation_is_the_callers_trace_all_the_same(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_spans", None)
    async with served(database_url, tmp_path) as (aureus, http):
        correlation, (trace, header) = uuid4(), traceparent()
        joined = await opened(http, traceparent=header)
        named = await opened(http, traceparent=header, X_Correlation_Id=str(correlation))
        plain = await opened(http, traceparent="no trace at all")
        told = {event.position: event.correlation for event in await aureus.services.ledger.read(0, 1_000)}
        assert told[joined["position"]] == UUID(trace)
        assert told[named["position"]] == correlation
        assert told[plain["position"]] == UUID(plain["action_id"])


async def test_a_collector_that_is_away_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_spans", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing.start("aureus", "otlp")
    began = perf_counter()
    span = tracing.request([], begin_request(str(uuid7())))
    assert span is not None
    with span:
        tracing.answered("GET", "/healthz", 200)
    assert perf_counter() - began < 0.5
    await asyncio.to_thread(tracing.stop)
    assert perf_counter() - began < 10


def test_nothing_of_the_sdk_is_loaded_unless_spans_are_wanted() -> None:
    script = (
        "import sys, api.server; from infra import tracing; tracing.start('aureus', None);"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'prometheus_client'))])"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_opentelemetrys_own_variables_say_where_spans_go(tmp_path: Path, environment: dict[str, str], wanted: str | None) -> None:
    assert Settings.from_environment({"AUREUS_HOME": str(tmp_path), **environment}).observing.traces == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"{TRACEPARENT}-more",
        f"00-{TRACE}-{CALLER}",
    ],
)
def test_what_is_no_traceparent_is_passed_over(text: str) -> None:
    assert parse_traceparent(text) is None
    assert correlation_of(text) is None


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    assert parse_traceparent(TRACEPARENT) == parse_traceparent(f"01-{TRACE}-{CALLER}-01-more")


def test_a_share_of_traces_is_that_share_of_uuids() -> None:
    """OpenTelemetry's own sampler would take none of them at a tenth, and all at eight tenths."""
    for share in (0.1, 0.5, 0.8):
        sampler = Share(share)
        taken = sum(sampler.should_sample(None, make().int, "").decision.is_sampled() for make in (uuid7, uuid4) for _ in range(2_000))  # type: ignore[no-untyped-call]
        assert abs(taken / 4_000 - share) < 0.05
