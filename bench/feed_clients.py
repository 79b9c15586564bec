"""The clients of `websockets`, in a process of their own: `python -m bench.feed_clients PORT HOME SERVERS TOPIC CLIENTS`.

Says when all are connected, hears until the position that it is told, and tells how long each change took to reach each client.
While it listens it only keeps what comes, with the time; what was in it is looked at afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop
from aiokafka import AIOKafkaConsumer
from websockets.asyncio.client import ClientConnection, connect

from bench.lab import CannotMeasure
from streams.records import frames_of

PATIENCE_SECONDS: Final = 30.0
READY: Final = b"ready\n"
_TABLES: Final = "table=budgets&table=reservations&table=actions"
Receipt = tuple[float, str]
"""(Unix time, message)"""


class _Client:
    """One WebSocket, and what it brought."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.receipts: list[Receipt] = []
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._connection:
            self.receipts.append((time.time(), str(message)))

    @property
    def position(self) -> int:
        """How far it was told."""
        (told,) = json.loads(self.receipts[-1][1]).values()
        return int(told["position"])


async def _tokens(port: int, home: Path) -> list[str]:
    """Of every login of the demo: an actor may not have as many feeds as are opened here."""
    logins = json.loads((home / "demo-logins.json").read_text())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        asked = [{"login": login["login"], "password": login["password"]} for login in logins]
        return [(await http.post("/v1/auth/token", json=one)).raise_for_status().json()["access_token"] for one in asked]


async def _appended(servers: str, topic: str, first: int, last: int) -> dict[int, float]:
    """When the broker put each event into its log, by position (Unix time, in whole milliseconds)."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    moments: dict[int, float] = {}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(position not in moments for position in range(first, last + 1)):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        for position, _, _ in frames_of(
                            record.partition, record.value, record.headers, dict(record.headers)["ledger"].decode()
                        ):
                            moments.setdefault(position, record.timestamp / 1_000)
    finally:
        await consumer.stop()
    return moments


async def _main(port: int, home: Path, servers: str, topic: str, clients: int) -> dict[str, Any]:
    tokens = await _tokens(port, home)
    async with AsyncExitStack() as stack:
        opened = []
        for number in range(clients):
            identity = {"Authorization": f"Bearer {tokens[number % len(tokens)]}"}
            address = f"ws://127.0.0.1:{port}/v1/feeds/changes?{_TABLES}"
            opened.append(_Client(await stack.enter_async_context(connect(address, additional_headers=identity, proxy=None))))
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        last = int(await asyncio.to_thread(sys.stdin.readline))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(client.position < last for client in opened):  # noqa: ASYNC110 - they only listen
                await asyncio.sleep(0.05)
    return await _report(opened, servers, topic)


async def _report(clients: list[_Client], servers: str, topic: str) -> dict[str, Any]:
    heard: list[tuple[float, int, str]] = []
    for client in clients:
        if client.listening.done() and (error := client.listening.exception()) is not None:
            raise CannotMeasure(f"a client lost its connection: {error}")
        for at, message in client.receipts:
            changes = json.loads(message).get("changes", {}).get("changes", ())
            heard += [(at, change["position"], f"{change['table']} {change['id']}") for change in changes]
    positions = [position for _, position, _ in heard]
    moments = await _appended(servers, topic, min(positions), max(positions))
    waits = sorted(at - moments[position] for at, position, _ in heard)
    return {
        "p50_ms": 1_000 * waits[len(waits) // 2],
        "p99_ms": 1_000 * waits[len(waits) * 99 // 100],
        "counts": Counter(what for _, _, what in heard),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.feed_clients", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("home", type=Path)
    parser.add_argument("servers")
    parser.add_argument("topic")
    parser.add_argument("clients", type=int)
    print(json.dumps(uvloop.run(_main(**vars(parser.parse_args())))))
