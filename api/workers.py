"""`aureus worker` with Kafka: processes that move the read models, and the one that looks after them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import Final

from api.cli.failures import ExitCode
from api.services import projections
from domain.kernel import UnknownEvent
from infra.embedded import EmbeddedPostgres
from infra.metrics import Metrics
from infra.metrics_server import metrics_served
from infra.opening import open_ledger
from infra.pkcs11_keys import open_keystore
from infra.read_models import create_read_models
from infra.settings import Settings, SettingsError
from projections.engine import Projection
from streams.progress import Progress

HOPELESS: Final = (ExitCode.USAGE, ExitCode.OUTDATED)
"""Exit codes after which another start would end the same way: the setup is wrong, or the program too old."""
RESTART_SECONDS: Final = (0.5, 10.0)
"""Before a worker that died is started again: at first, and at most."""
LASTING_SECONDS: Final = 60.0
"""A worker that ran for so long did not die of its start."""
_log = logging.getLogger("aureus.worker")


def chosen(names: Sequence[str]) -> tuple[Projection, ...]:
    """The projections of these names, or all. Raises SettingsError."""
    known = {projection.name: projection for projection in projections()}
    for name in names:
        if name not in known:
            raise SettingsError("--projection", f"there is no projection {name[:60]!r}.", f"Name one of {', '.join(sorted(known))}.")
    return tuple(known[name] for name in names) if names else tuple(known.values())


def require_kafka(settings: Settings, names: Sequence[str], processes: int) -> None:
    """Without Kafka one worker moves everything: there is nothing to share out. Raises SettingsError."""
    if settings.kafka is None and (names or processes > 1):
        rule = "without Kafka one worker moves all read models; they cannot be shared out."
        raise SettingsError("AUREUS_STREAMS", rule, "Set AUREUS_STREAMS=kafka, or leave out --projection and -n.")


async def follow(settings: Settings, names: Sequence[str]) -> None:
    """One worker, until SIGINT or SIGTERM. Raises SettingsError, and UnknownEvent where this version knows no further."""
    from streams.faust_app import following, group_name  # noqa: PLC0415 - Faust takes long to load, and few commands need it

    assert settings.kafka is not None
    stop = stopping()
    every = projections()
    followed = chosen(names)
    dsn = reachable(settings)
    ledger = await open_ledger(dsn, open_keystore(settings), settings.origin, vault_keys_url=settings.vault_keys_url)
    try:
        await create_read_models(dsn, every)
        spare_the_collector()
        _log.info("%s follow the ledger through %s", ", ".join(projection.name for projection in followed), settings.kafka.topic)
        metrics = Metrics(dsn, (projection.name for projection in every))
        async with (
            following(settings.kafka, ledger, dsn, followed, Progress(), group=group_name(ledger.name, names)) as (worker, moving),
            metrics_served(metrics, settings.observing.worker_metrics_port),
        ):
            metrics.add(ledger.readings, worker.readings)
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([moving, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        if moving.done() and not moving.cancelled() and isinstance(error := moving.exception(), UnknownEvent):
            raise error
    finally:
        await ledger.close()


def reachable(settings: Settings) -> str:
    """The database of the ledger, which whoever serves has started. Raises SettingsError."""
    dsn = settings.database_url or EmbeddedPostgres(settings.postgres_dir).url()
    if dsn is None:
        raise SettingsError("AUREUS_HOME", f"no server runs on {settings.home}.", "Start `aureus serve` first, or set DATABASE_URL.")
    return dsn


def spare_the_collector() -> None:
    """Garbage is collected less often, and never sought in what stays for ever.

    A command makes hundreds of objects and no cycles; by default it is interrupted by a search for them, and by one
    through everything that was imported every few hundred commands (5% of its time, and its p99).
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def stopping() -> asyncio.Event:
    """Set by SIGINT and SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def supervise(names: Sequence[str], processes: int, metrics_port: int | None = None) -> int:
    """Runs so many workers until SIGINT or SIGTERM, and starts again what dies; the exit code of one for which that is no use.

    Each serves its metrics on a port of its own: `metrics_port`, and those that follow.
    """
    stop = stopping()
    arguments = [part for name in names for part in ("--projection", name)]
    children = []
    for number in range(processes):
        environment = os.environ | ({"AUREUS_WORKER_METRICS_PORT": str(metrics_port + number)} if metrics_port else {})
        children.append(asyncio.create_task(_keep(arguments, stop, environment), name=f"worker-{number}"))
    ended_with = await asyncio.gather(*children)
    return max(ended_with)


async def _keep(arguments: Sequence[str], stop: asyncio.Event, environment: Mapping[str, str]) -> int:
    pause, longest = RESTART_SECONDS
    clock = asyncio.get_running_loop().time
    while not stop.is_set():
        began = clock()
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "api.cli", "worker", *arguments, env=environment)
        code = await _until_ended(child, stop)
        if stop.is_set():
            return 0
        if code in HOPELESS:
            stop.set()
            return code
        pause = RESTART_SECONDS[0] if clock() - began > LASTING_SECONDS else min(2 * pause, longest)
        _log.warning("worker %d ended with %d; another is started in %.1f s", child.pid, code, pause)
        await _elapsed(stop, pause)
    return 0


async def _until_ended(child: Process, stop: asyncio.Event) -> int:
    """Its exit code; told to stop, it is asked to, and finishes the batch in hand."""
    ended, stopped = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        child.terminate()
    return await ended


async def _elapsed(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
