"""Serving: one process that answers requests and, unless told otherwise, moves the read models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import uvicorn
import uvloop

from api.app import create_app
from api.protocol import WholeAnswers, watch
from api.services import Services, open_services
from api.workers import chosen, follow, require_kafka, spare_the_collector, stopping, supervise
from infra.adoption import ensure_policies
from infra.demo import ensure_demo
from infra.metrics_server import metrics_served
from infra.observing import observed
from infra.settings import Settings, SettingsError
from infra.tasks import ended
from streams.backups import record_restore
from streams.feeds import Feeds

BACKLOG: Final = 2_048
WEBSOCKET_MESSAGE_BYTES_MAX: Final = 4_096
"""Of what a client sends, which is nothing: feeds only tell."""
WEBSOCKET_PING_SECONDS: Final = 15.0
_log = logging.getLogger("aureus")


def _bound(settings: Settings) -> socket.socket:
    """The listening socket, taken before anything else is started: a port in use is said at once."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            "AUREUS_PORT",
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}.",
            "Stop what is using it, or choose another: AUREUS_PORT=8421 make run",
        ) from error
    return listener


def websocket_protocol(**given: Any) -> asyncio.Protocol:
    """uvicorn's WebSockets, loaded when the first is opened."""
    from api.sockets import Sockets  # noqa: PLC0415

    return Sockets(**given)


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: it ends the process by the signal before what was opened could be closed.

    Feeds never end by themselves, so they are ended when the server is to stop.
    """

    def __init__(self, config: uvicorn.Config, feeds: Feeds) -> None:
        super().__init__(config)
        self._feeds = feeds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(watch(self.server_state), name="connections")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await ended(self._watching)
        await self._feeds.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def serve(settings: Settings, *, run_projections: bool = True, announce: Callable[[Services], None] = lambda _services: None) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what was taken on and stops the embedded database.

    Raises SettingsError before anything is started when it cannot.
    """
    with observed(settings, "aureus"), _bound(settings) as listener:
        uvicorn_run(_serve(settings, listener, run_projections, announce))


def uvicorn_run(main: object) -> None:
    """Runs on uvloop."""
    uvloop.run(main)  # type: ignore[arg-type]


async def _serve(settings: Settings, listener: socket.socket, run_projections: bool, announce: Callable[[Services], None]) -> None:
    async with open_services(settings, run_projections=run_projections) as services:
        await ensure_policies(services)
        await record_restore(services.ledger, services.path, settings.tenant)
        if settings.demo:
            await ensure_demo(services)
        server = server_of(services)
        listener.listen(BACKLOG)
        spare_the_collector()
        # From here on connections are taken; the server answers them as soon as it turns to them.
        announce(services)
        await server.serve(sockets=[listener])


def server_of(services: Services) -> uvicorn.Server:
    """What answers requests with these services, not started yet."""
    config = uvicorn.Config(
        create_app(services=services),
        loop="none",
        http=WholeAnswers,
        ws=websocket_protocol,  # type: ignore[arg-type]  # it is only called
        ws_max_size=WEBSOCKET_MESSAGE_BYTES_MAX,
        ws_ping_interval=WEBSOCKET_PING_SECONDS,
        ws_per_message_deflate=False,  # each message goes to many, and would be compressed for each of them
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        lifespan="on",
        server_header=False,
        proxy_headers=False,  # whose word on the caller's address is taken is api/admission.py's affair
    )
    return _Server(config, services.feeds)


def work(settings: Settings, names: Sequence[str] = (), processes: int = 1) -> int:
    """Only moves the read models, those of these names or all: a worker beside API processes that do not.

    Returns the exit code: not 0 when it ended by itself. Raises SettingsError, and UnknownEvent where this version knows no further.
    """
    require_kafka(settings, names, processes)
    chosen(names)
    with observed(settings, "aureus-worker"):
        if settings.kafka is None:
            uvicorn_run(_work(settings))
        elif processes == 1:
            uvicorn_run(follow(settings, names))
        else:
            return asyncio.run(supervise(names, processes, settings.observing.worker_metrics_port))
    return 0


async def _work(settings: Settings) -> None:
    stop = stopping()
    async with open_services(settings) as services, metrics_served(services.metrics, settings.observing.worker_metrics_port):
        _log.info("the read models follow the ledger")
        await stop.wait()
