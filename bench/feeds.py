"""`websockets`: 100 clients of one server hear of every change that comes through Kafka.

The time runs from the moment at which the broker put an event into its log, by its own word, to the moment at which a client has
a message with the change: the server's consumer, the worker, the read models and the feed lie in between.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from bench.aureus import Server, found, serving
from bench.feed_clients import PATIENCE_SECONDS, READY
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from bench.servers import answers, ending
from infra.kafka_settings import KafkaPlace
from tests.support.kafka import Kafka

CLIENTS: Final = 100
COMMANDS_PER_SECOND: Final = 25
"""Each reserves money, which changes three rows - a budget, a reservation, an action: 75 changes a second for each of the clients."""
P99_MS_MAX: Final = 100.0
TREES: Final = 50


@contextmanager
def hear(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Commands at even intervals; everybody must hear of each of their changes, and once."""
    home = lab.subfolder("home")
    broker = Kafka(lab.subfolder("kafka"), settings=["log.message.timestamp.type=LogAppendTime"])
    settings = {"AUREUS_STREAMS": "kafka", "AUREUS_KAFKA_SERVERS": broker.servers}
    with lab.database("ours") as dsn:
        lab.run(found(home, dsn))
        try:
            broker.start()
            with serving(home, dsn, ready=_caught_up, settings=settings) as server:
                for tree in range(TREES):
                    server.post("/v1/budgets", {"budget_id": f"bench-{tree}", "label": "Bench", "currency": "EUR", "limit_minor": 10**12})
                yield lambda: _round(server, KafkaPlace(servers=(broker.servers,)), lab.round_seconds)
        finally:
            broker.stop()


def _caught_up(port: int) -> bool:
    """Whether the worker has come to the end of the ledger: before that nobody can log in."""
    if not answers(port, "/readyz"):
        return False
    standing = httpx.get(f"http://127.0.0.1:{port}/readyz").json()
    return bool(standing["read_position"] == standing["size"])


def _round(server: Server, place: KafkaPlace, seconds: float) -> Sample:
    command = [sys.executable, "-m", "bench.feed_clients", str(server.port), str(server.home), place.servers[0], place.topic]
    with ending(subprocess.Popen([*command, str(CLIENTS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as clients:
        assert clients.stdout is not None
        if clients.stdout.readline() != READY:
            raise CannotMeasure("the clients could not connect; they said why above")
        reserved = asyncio.run(_reserve(server, seconds))
        last = max(answer["position"] for answer in reserved)
        told, _ = clients.communicate(b"%d\n" % last, timeout=2 * PATIENCE_SECONDS)
    if clients.returncode:
        raise CannotMeasure("the clients did not hear of everything; they said why above")
    heard: dict[str, Any] = json.loads(told)
    expected = {f"{table} {answer['action_id']}" for answer in reserved for table in ("actions", "reservations")}
    missing = [one for one in expected if heard["counts"].get(one) != CLIENTS]
    uneven = [one for one, count in heard["counts"].items() if count % CLIENTS]
    if missing or uneven:
        raise CannotMeasure(
            f"not every client heard of {(missing or uneven)[0]} exactly once: {heard['counts'].get((missing or uneven)[0])}"
        )
    return {"p50_ms": heard["p50_ms"], "p99_ms": heard["p99_ms"]}


async def _reserve(server: Server, seconds: float) -> list[dict[str, Any]]:
    """Answers of commands asked at even intervals, whether those before are answered or not."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=server.bearer(), timeout=PATIENCE_SECONDS) as http:
        began, tasks = time.perf_counter(), []
        for number in range(int(seconds * COMMANDS_PER_SECOND)):
            await asyncio.sleep(max(0.0, began + number / COMMANDS_PER_SECOND - time.perf_counter()))
            tasks.append(asyncio.create_task(http.post(f"/v1/budgets/bench-{number % TREES}/reserve", json={"amount_minor": 1})))
        return [answer.raise_for_status().json() for answer in await asyncio.gather(*tasks)]


FIGURES: Final = (Figure("websockets", ours=hear, goals=(Goal(P99_MS_MAX, "p99_ms", "ms", 1.0, better="lower"),)),)
