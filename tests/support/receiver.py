"""A receiver of webhooks for a test: a real HTTP server that behaves as it is told, and the check that any receiver would make."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast


@dataclass(frozen=True)
class Received:
    """One request as a receiver got it."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


Behaviour = int | str
"""A status to answer with, or an address to redirect to; `hang`: no answer; `drip`: one that comes byte by byte; `endless`."""


class Receiver:
    """A real HTTP server that behaves as it is told, request by request; the last behaviour stays."""

    def __init__(self, behaviours: tuple[Behaviour, ...], tls: ssl.SSLContext | None) -> None:
        self._behaviours, self._tls = list(behaviours), tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.received: list[Received] = []
        self.at_once_max = 0
        self.url = ""

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        port = server.sockets[0].getsockname()[1]
        self.url = f"https://localhost:{port}/in" if self._tls else f"http://127.0.0.1:{port}/in"
        return server

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        self.at_once_max = max(self.at_once_max, len(self._tasks))
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._answer(reader, writer)
        self._tasks.discard(task)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        self.received.append(Received(headers, await reader.readexactly(int(headers["content-length"]))))
        match self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]:
            case int() as status:
                writer.write(f"HTTP/1.1 {status} As told\r\ncontent-length: 0\r\n\r\n".encode())
            case "hang":
                await reader.read()  # until the other side goes
            case "drip":
                for byte in b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 10_000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
            case str() as elsewhere:
                writer.write(f"HTTP/1.1 307 Elsewhere\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()


@asynccontextmanager
async def receiver(*behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    opened = Receiver(behaviours or (204,), tls)
    server = await opened.open()
    try:
        yield opened
    finally:
        server.close()
        await opened.close()


def verified(received: Received, secret: str) -> dict[str, Any]:
    """The body, after the signature was checked as the Standard Webhooks specification has a receiver do it."""
    version, _, given = received.headers["webhook-signature"].partition(",")
    assert version == "v1"
    signed = b".".join([received.id.encode(), received.headers["webhook-timestamp"].encode(), received.body])
    expected = hmac.new(base64.b64decode(secret.split("_", 1)[1]), signed, hashlib.sha256).digest()
    assert hmac.compare_digest(base64.b64decode(given, validate=True), expected)
    assert abs(int(received.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 300
    body: dict[str, Any] = json.loads(received.body)
    return body
