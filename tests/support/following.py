"""Feeds as their clients meet them: a running Aureus behind a socket, and what its Server-Sent Events and WebSockets tell."""

from __future__ import annotations

import asyncio
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from api.server import server_of
from commands.budgets import OpenBudget
from domain.kernel import Asker
from projections.access import actors
from tests.support.kernel import ADM, ask
from tests.support.running import Aureus, running

PATIENCE_SECONDS = 20
Message = tuple[str, Any]
"""(name, data)"""


@dataclass(frozen=True)
class Served:
    """An Aureus behind a socket."""

    aureus: Aureus
    port: int
    server: uvicorn.Server

    def identity(self, by: Asker) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.aureus.services.tokens.issue(by)}"}

    @asynccontextmanager
    async def sse(self, path: str, by: Asker = ADM, /, **headers: str) -> AsyncIterator[Stream]:
        """The feed as Server-Sent Events, past its `begin`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http,
            http.stream("GET", f"http://127.0.0.1:{self.port}/v1/feeds/{path}", headers={**self.identity(by), **named}) as answer,
        ):
            assert answer.status_code == 200, (await answer.aread()).decode()
            assert answer.headers["content-type"].startswith("text/event-stream")
            stream = Stream(answer)
            await stream.begun()
            yield stream

    @asynccontextmanager
    async def socket(self, path: str, by: Asker = ADM, **options: Any) -> AsyncIterator[Socket]:
        """The feed as a WebSocket, past its `begin`."""
        address = f"ws://127.0.0.1:{self.port}/v1/feeds/{path}"
        async with connect(address, additional_headers=self.identity(by), proxy=None, **options) as connection:
            opened = Socket(connection)
            await opened.begun()
            yield opened

    async def open_budgets(self, *names: str) -> int:
        """Opens them one after another, and says where the ledger ends then."""
        position = 0
        for name in names:
            command = OpenBudget(budget_id=name, label=name, currency="EUR", limit_minor=1)
            position = (await self.aureus.services.path.handle(ask(command, ADM))).position
        return position


class Listener(ABC):
    """Whoever follows a feed."""

    began = -1

    @abstractmethod
    async def next(self) -> Message: ...

    async def begun(self) -> None:
        name, data = await self.next()
        assert name == "begin"
        self.began = data["position"]

    async def told(self, name: str) -> Any:
        """The data of the next message of a name; beats are passed over."""
        while True:
            came, data = await self.next()
            if came == name:
                return data
            assert came == "beat", (came, data)

    async def events(self, until: int) -> list[dict[str, Any]]:
        """Those up to a position that is one of them."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["position"] < until:
            found.append(await self.told("event"))
        return found

    async def changes(self, until: int) -> list[dict[str, Any]]:
        """Those of batches up to the one that ends at or beyond a position."""
        found: list[dict[str, Any]] = []
        while True:
            batch = await self.told("changes")
            found += batch["changes"]
            if batch["position"] >= until:
                return found


class Stream(Listener):
    """Server-Sent Events, read as the standard says."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()
        self.last_id = ""

    async def next(self) -> Message:
        name, data = "message", ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in self._lines:
                field, _, value = line.partition(": ")
                if not line:
                    return name, json.loads(data)
                name = value if field == "event" else name
                data = value if field == "data" else data
                self.last_id = value if field == "id" else self.last_id
        raise EOFError


class Socket(Listener):
    """A WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def next(self) -> Message:
        async with asyncio.timeout(PATIENCE_SECONDS):
            ((name, data),) = json.loads(await self.connection.recv()).items()
        return name, data


@asynccontextmanager
async def served(dsn: str, home: Path, port: int = 0) -> AsyncIterator[Served]:
    """An Aureus that knows the administrator, behind a socket; it is shut down as `aureus serve` is."""
    async with running(dsn, home) as aureus:
        if not (await aureus.services.reads.many(actors, ADM.tenant, [ADM.actor])):
            await aureus.know(ADM)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # who takes nothing is noticed soon
            listener.listen()
            server = server_of(aureus.services)
            serving = asyncio.create_task(server._serve([listener]))
            while not server.started:
                assert not serving.done(), serving
                await asyncio.sleep(0.01)
            try:
                yield Served(aureus, listener.getsockname()[1], server)
            finally:
                server.should_exit = True
                await serving
