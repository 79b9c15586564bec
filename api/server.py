"""Serving: one process that answers requests and, unless told otherwise, moves the read models."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
import uvloop

from api.app import create_app
from api.protocol import WholeAnswers
from api.services import Services, open_services
from infra.adoption import ensure_policies
from infra.demo import ensure_demo
from infra.settings import Settings, SettingsError

BACKLOG: Final = 2_048
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


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: it ends the process by the signal before what was opened could be closed."""

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
    _log_to_stderr(settings)
    listener = _bound(settings)
    with listener:
        uvicorn_run(_serve(settings, listener, run_projections, announce))


def uvicorn_run(main: object) -> None:
    """Runs on uvloop."""
    uvloop.run(main)  # type: ignore[arg-type]


async def _serve(settings: Settings, listener: socket.socket, run_projections: bool, announce: Callable[[Services], None]) -> None:
    async with open_services(settings, run_projections=run_projections) as services:
        await ensure_policies(services)
        if settings.demo:
            await ensure_demo(services)
        app = create_app(services=services)
        config = uvicorn.Config(
            app,
            loop="none",
            http=WholeAnswers,
            ws="none",
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            lifespan="on",
            server_header=False,
            proxy_headers=False,  # nobody here asks for the caller's address, so no header may pretend to tell it
        )
        server = _Server(config)
        listener.listen(BACKLOG)
        _spare_the_collector()
        # From here on connections are taken; the server answers them as soon as it turns to them.
        announce(services)
        await server.serve(sockets=[listener])


def _spare_the_collector() -> None:
    """Garbage is collected less often, and never sought in what stays for ever.

    A command makes hundreds of objects and no cycles; by default it is interrupted by a search for them, and by one
    through everything that was imported every few hundred commands (5% of its time, and its p99).
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def work(settings: Settings) -> None:
    """Only moves the read models: a worker beside API processes that do not."""
    _log_to_stderr(settings)
    uvicorn_run(_work(settings))


async def _work(settings: Settings) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with open_services(settings):
        _log.info("the read models follow the ledger")
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()


def _log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    if settings.log_level == "info":  # there is no log of what is asked of us, so none of what we ask of others
        logging.getLogger("httpx").setLevel(logging.WARNING)
