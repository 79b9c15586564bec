"""The properties that the analytics platform's specification names for operating it, each under its number."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from infra.logs import _json
from infra.operations_settings import ALERT_PERCENT, RESOURCES, Operations
from infra.resources import IN_A_ROW, RELIEF_PERCENT, Alarms, Sample, Sampler
from projections.engine import ReadTable
from projections.grants import grants
from streams.resources import Watchman
from tests.conftest import fresh_database
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus, running

FEATURE: Final = "ai-analytics-platform"
AT: Final = datetime(2026, 3, 3, tzinfo=UTC)
samples = st.lists(st.dictionaries(st.sampled_from(RESOURCES), st.floats(0, 100), min_size=1), max_size=40)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def aureus(postgres_url: str, tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner) -> Iterator[Aureus]:
    @asynccontextmanager
    async def opened(dsn: str, home: Path) -> AsyncIterator[Aureus]:
        async with running(dsn, home) as served:
            await served.know(ADM, ANA)
            yield served

    stack = AsyncExitStack()
    with fresh_database(postgres_url) as dsn:
        yield loop.run(stack.enter_async_context(opened(dsn, tmp_path_factory.mktemp("home"))))
        loop.run(stack.aclose())


class Lines(logging.Handler):
    """What is logged, as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_json(traced=False))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


# Feature: ai-analytics-platform, Property 47: Error logging with context
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.sampled_from(["/v1/datasets", "/v1/budgets", "/v1/actions"]), st.sampled_from([ValueError, KeyError, RuntimeError, OSError]))
def test_an_error_is_logged_with_its_time_actor_request_and_stack(
    aureus: Aureus, loop: asyncio.Runner, path: str, error: type[Exception]
) -> None:
    said, log = Lines(), logging.getLogger("aureus.api")

    page = aureus.services.reads.page

    async def broken(table: ReadTable[Any], *more: Any, **named: Any) -> Any:
        if table is grants:  # who asks is known
            return await page(table, *more, **named)
        raise error("made to fail")

    patch = pytest.MonkeyPatch()
    log.addHandler(said)
    try:
        patch.setattr(aureus.services.reads, "page", broken)
        patch.setattr(aureus.http._transport, "raise_app_exceptions", False)
        answer = loop.run(aureus.get(path, ANA))
    finally:
        patch.undo()
        log.removeHandler(said)
    assert (answer.status_code, "made to fail" in answer.text) == (500, False)
    (line,) = [line for line in said.lines if line["level"] == "error"]
    assert line["request_id"] == answer.json()["error"]["request_id"]
    assert line["actor"] == ANA.actor
    assert abs(datetime.fromisoformat(line["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert line["exception"].startswith("Traceback")
    assert error.__name__ in line["exception"]
    assert "in broken" in line["exception"]


# Feature: ai-analytics-platform, Property 48: Resource threshold alerting
@settings(max_examples=200, deadline=None, database=None)
@given(samples)
def test_who_is_above_the_threshold_for_long_enough_is_told_once_until_it_is_over(seen: list[Sample]) -> None:
    alarms = Alarms(dict(Operations().alert_percent))
    in_a_row: dict[str, int] = {}
    short: set[str] = set()
    for number, sample in enumerate(seen):
        raised, over = alarms.see(sample, AT + timedelta(seconds=number))
        for resource, percent in sample.items():
            in_a_row[resource] = in_a_row.get(resource, 0) + 1 if percent >= ALERT_PERCENT else 0
        expected = {resource for resource in sample if in_a_row[resource] >= IN_A_ROW} - short
        assert {one.resource for one in raised} == expected
        assert set(over) == {one for one in short if one in sample and sample[one] < ALERT_PERCENT - RELIEF_PERCENT}
        short = (short | expected) - set(over)
        assert set(alarms.short) == short
        told = {labels[0]: value for name, labels, value in alarms.readings() if name == "aureus_resource_short"}
        assert told == {resource: int(resource in short) for resource in sample}


@pytest.mark.parametrize(("path", "route", "status"), [("/v1/feeds/events", "/v1/feeds/events", "401"), ("/v1/none", "(none)", "404")])
def test_a_websocket_is_counted_like_a_request(aureus: Aureus, loop: asyncio.Runner, path: str, route: str, status: str) -> None:
    app = aureus.http._transport.app  # type: ignore[attr-defined]
    sent: list[dict[str, Any]] = []

    async def asked() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        about = {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "client": ("127.0.0.1", 4711)}
        await app({"type": "websocket", "scheme": "ws", "root_path": "", "subprotocols": [], "state": {}, **about}, receive, send)

    def counted() -> float:
        readings = app.state.requests.readings()
        found: dict[tuple[str, ...], float] = {labels: value for name, labels, value in readings if name.endswith("_total")}
        return found.get(("WEBSOCKET", route, status), 0)

    before = counted()
    loop.run(asked())
    assert sent[0]["status"] == int(status)
    assert counted() == before + 1


class Scripted:
    """Samples that were written down."""

    def __init__(self, *percents: float) -> None:
        self._percents = iter(percents)

    async def sample(self) -> Sample:
        return {"disk": next(self._percents)}


def test_administrators_are_told_once_of_each_shortage(aureus: Aureus, loop: asyncio.Runner) -> None:
    percents = (91, 92, 93, 99, 75, 99, 99, 69, 90, 90, 90)
    alarms = Alarms({"disk": 80})
    watchman = Watchman(Scripted(*percents), alarms, aureus.services.path, aureus.services.reads, "acme", 1)  # type: ignore[arg-type]

    async def watched() -> list[dict[str, Any]]:
        for _ in percents:
            await watchman.look()
        await aureus.services.wait_for((await aureus.services.ledger.refresh()).size)
        items: list[dict[str, Any]] = (await aureus.get("/v1/notifications", ADM)).json()["items"]
        assert not (await aureus.get("/v1/notifications", ANA)).json()["items"]
        return items

    told = [one for one in loop.run(watched()) if one["kind"] == "resource_short"]
    assert sorted(one["subject"].partition(": ")[2] for one in told) == ["90 % of the disk are in use", "93 % of the disk are in use"]


def test_a_sample_is_of_this_machine_and_of_its_database(aureus: Aureus, loop: asyncio.Runner, tmp_path: Path) -> None:
    reads = aureus.services.reads
    sample = loop.run(Sampler((tmp_path,), reads, (reads.busy,)).sample())
    assert set(sample) == set(RESOURCES)
    assert all(0 <= percent <= 100 for percent in sample.values())
    assert min(sample["memory"], sample["disk"], sample["connections"]) > 0


def test_a_server_tells_a_scraper_what_is_in_use(aureus: Aureus, loop: asyncio.Runner) -> None:
    async def scraped() -> str:
        (watchman,) = [task for task in asyncio.all_tasks() if task.get_name() == "resources"]
        await watchman.get_coro().cr_frame.f_locals["self"].look()  # type: ignore[union-attr]
        return (await aureus.services.metrics.text())[0].decode()

    families = {family.name: family for family in text_string_to_metric_families(loop.run(scraped()))}
    assert {sample.labels["resource"] for sample in families["aureus_resource_used_ratio"].samples} == set(RESOURCES)
    assert {sample.value for sample in families["aureus_resource_short"].samples} == {0}
