"""A trace through Kafka: from a request to one process to the read models that another moves, whose metrics tell how far it is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bench.servers import ending
from infra import tracing
from infra.tracing import span_of
from tests.support.kafka import Kafka
from tests.support.otlp import collecting
from tests.support.relaying import new_place
from tests.support.running import running
from tests.test_metrics import MAX, Sample, samples, value

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ROOT = Path(__file__).parent.parent
BUDGET = {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 1}


async def test_a_trace_goes_on_in_the_relay_and_in_the_worker(
    database_url: str, tmp_path: Path, kafka: Kafka, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    place, url = new_place(kafka.servers), f"http://127.0.0.1:{free_tcp_port}/metrics"
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing.start("aureus", "otlp")
        try:
            async with running(database_url, tmp_path / "home", reacting=False, kafka=place) as aureus:
                environment = {name: text for name, text in os.environ.items() if not name.startswith("AUREUS_")} | {
                    "AUREUS_HOME": str(tmp_path / "home"),
                    "DATABASE_URL": database_url,
                    "AUREUS_STREAMS": "kafka",
                    "AUREUS_KAFKA_SERVERS": kafka.servers,
                    "AUREUS_KAFKA_TOPIC": place.topic,
                    "AUREUS_WORKER_METRICS_PORT": str(free_tcp_port),
                }
                command = [sys.executable, "-m", "api.cli", "worker", "--all"]
                with ending(await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT, env=environment)):
                    await scraped(url)
                    await aureus.know(MAX)
                    answer = await aureus.post(
                        "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 1}, MAX
                    )
                    await aureus.services.wait_for(answer.json()["position"])
                    (event,) = await aureus.services.ledger.read(answer.json()["position"] - 1, 1)
                    spans = await asyncio.to_thread(collector.of_trace, event.correlation.hex, "append", "relay", "project")
                    worker = await scraped(url)
                    server = samples((await aureus.http.get("/metrics")).text)
        finally:
            tracing.stop()
    assert event.causation is not None
    assert spans["append"].id == f"{span_of(event.causation):016x}" == spans["relay"].parent == spans["project"].parent
    assert (spans["relay"].service, spans["project"].service) == ("aureus", "aureus-worker")
    assert spans["relay"].start_ns <= spans["project"].end_ns
    size = aureus.services.ledger.head.size
    assert value(worker, "aureus_worker_events_total") > 0
    assert value(worker, "aureus_worker_position") == size
    assert [value(worker, "aureus_consumer_lag_records", partition=str(one)) for one in range(4)] == [0] * 4
    assert value(server, "aureus_relay_position", relay="relay") == size
    assert value(server, "aureus_relay_lag_events", relay="relay") == 0
    assert value(server, "aureus_relay_leading", relay="relay") == 1
    assert value(server, "aureus_workers") == 1


async def scraped(url: str) -> dict[Sample, float]:
    """What a worker tells once it has partitions, and knows how much of them waits for it at Kafka."""
    async with httpx.AsyncClient() as http, asyncio.timeout(60):
        while True:
            with suppress(httpx.TransportError):
                found = samples((await http.get(url)).text)
                if any(name == "aureus_consumer_lag_records" for name, _ in found):
                    return found
            await asyncio.sleep(0.1)
