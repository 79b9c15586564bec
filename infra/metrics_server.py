"""Metrics of a process without an API: `GET /metrics` on this machine, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn

from infra.metrics import Metrics
from infra.settings_error import SettingsError

HOST: Final = "127.0.0.1"


@asynccontextmanager
async def metrics_served(metrics: Metrics, port: int | None) -> AsyncIterator[None]:
    """While the block runs; without a port, nothing. Raises SettingsError when the port cannot be had."""
    if port is None:
        yield
        return
    with _bound(port) as listener:
        server = _Server(uvicorn.Config(_App(metrics), log_config=None, access_log=False, lifespan="off", loop="none", ws="none"))
        serving = asyncio.create_task(server.serve([listener]), name="metrics")
        try:
            yield
        finally:
            server.should_exit = True
            await serving
            await metrics.close()


def _bound(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        rule = f"{HOST}:{port} cannot be listened on: {error.strerror}."
        raise SettingsError("AUREUS_WORKER_METRICS_PORT", rule, "Choose another, or unset it; each worker needs one of its own.") from error


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: the process it is in has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _App:
    """The ASGI application."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        status, body, content_type = 200, b"", "text/plain"
        if scope["path"] != "/metrics":
            status, body = 404, b"there is /metrics\n"
        elif scope["method"] != "GET":
            status, body = 405, b"GET it\n"
        else:
            accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
            body, content_type = await self._metrics.text(accept)
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
