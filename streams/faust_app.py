"""The Faust application around a worker: what arrives of the ledger's topic is handed to it, whoever's event loop this is.

Faust finds the broker, joins the group, shares out the partitions and brings the records, as raw bytes. What it believes
to be done is not believed: it acknowledges a record when the code that got it raises. So nothing is acknowledged through it;
Kafka is told of a record when the read models hold it, and forgets nothing that the ledger could not bring back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import SystemRandom
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

from infra.kafka import KafkaUnavailable, client_options, ensure_topic, unavailable
from infra.kafka_settings import KafkaPlace
from infra.ledger import Ledger
from infra.tasks import ended
from projections.engine import Projection
from streams.progress import Progress
from streams.roster import say
from streams.worker import BATCH_EVENTS, Arrived, Worker

SESSION_SECONDS: Final = 6.0
"""After so long without a heartbeat a worker's partitions go to others."""
HEARTBEAT_SECONDS: Final = 1.0
COMMIT_SECONDS: Final = 2.0
METADATA_SECONDS: Final = 30.0
LETTING_GO_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = (0.5, 5.0)
"""Between two tries to reach a broker: at first, and at most."""
_dice: Final = SystemRandom()
_log = logging.getLogger("aureus.worker")
for _name in ("faust", "mode"):  # what goes wrong there is told here, once
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class _App(faust.App):
    """Without a folder for tables, for there are none."""

    logger = logging.getLogger("faust.app")

    def _create_directories(self) -> None:
        return


@asynccontextmanager
async def following(
    place: KafkaPlace,
    ledger: Ledger,
    dsn: str,
    projections: Sequence[Projection],
    progress: Progress,
    *,
    group: str | None = None,
    batch_events: int = BATCH_EVENTS,
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker and the task that moves these projections while the block runs; in the group of those who move all, if no other is named.

    Folding holds the event loop up: beside requests give it small batches.

    The task ends by itself only when it raises, before an event that this version does not know. Then the group is left
    as well, so that a worker that knows it can go on.
    """
    worker = Worker(ledger, dsn, projections, progress, batch_events=batch_events)
    group = group or group_name(ledger.name)
    leaving = asyncio.Event()
    moving = asyncio.create_task(worker.run(), name="worker")

    def leave(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # the worker has said it already
        leaving.set()

    moving.add_done_callback(leave)
    bringing = asyncio.create_task(_bring(place, group, worker, leaving), name="faust")
    saying = asyncio.create_task(say(worker, dsn), name="worker-roster")
    try:
        yield worker, moving
    finally:
        leaving.set()
        await asyncio.wait([bringing])
        with suppress(Exception):  # whoever watches the task has heard of it
            await ended(moving)
        await ended(saying)


def group_name(ledger: str, names: Sequence[str] = ()) -> str:
    """The consumer group: workers of the same read models of one ledger, of these names or of all, share the partitions."""
    return f"aureus-{ledger.replace('/', '-')}-{'-'.join(sorted(names)) or 'all'}"


async def _bring(place: KafkaPlace, group: str, worker: Worker, leaving: asyncio.Event) -> None:
    """Runs Faust until told to leave, anew whenever it lost the broker."""
    pause, longest = PAUSE_SECONDS
    waits = False
    while not leaving.is_set():
        try:
            of = await ensure_topic(place, place.topic)
            if waits:
                _log.warning("Kafka is back")
            waits, pause = False, PAUSE_SECONDS[0]
            await _run(_application(place, group, worker, of), place, worker, leaving)
        except KafkaUnavailable as error:
            if not waits:
                _log.warning("the read models wait for Kafka: %s", error)
            worker.state.last_error = str(error)
            waits = True
        except Exception as error:  # noqa: BLE001 - said below, with its traceback; ended, it would leave reads standing still
            worker.state.last_error = repr(error)
            _log.exception("Faust cannot go on")
        if not leaving.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * _dice.uniform(0.5, 1)):
                    await leaving.wait()
            pause = min(2 * pause, longest)


async def _run(app: _App, place: KafkaPlace, worker: Worker, leaving: asyncio.Event) -> None:
    """One life of the application; raises KafkaUnavailable when it ended by itself."""
    try:
        try:
            await app.start()
        except (KafkaError, OSError) as error:
            raise unavailable(place, error) from error
        committing = asyncio.create_task(_commit_now_and_then(app, place.topic, worker), name="faust-commits")
        crashed, left = asyncio.create_task(app.wait_until_stopped()), asyncio.create_task(leaving.wait())
        try:
            await asyncio.wait([crashed, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(crashed, left, committing)
        if not leaving.is_set():
            raise unavailable(place, app.crash_reason or ConnectionError("lost"))
        await _let_go(worker)
        await _commit(app, place.topic, worker)
    finally:
        await _stopped(app)
        await _let_go(worker)


async def _stopped(app: _App) -> None:
    try:
        async with asyncio.timeout(SESSION_SECONDS):
            await app.stop()
    except Exception as error:  # noqa: BLE001 - it is over in any case
        _log.info("Faust ended with %r", error)


async def _let_go(worker: Worker) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LETTING_GO_SECONDS):
            await worker.let_go()


async def _commit_now_and_then(app: _App, topic: str, worker: Worker) -> None:
    while True:
        await asyncio.sleep(COMMIT_SECONDS)
        await _commit(app, topic, worker)
        worker.state.highwaters = {partition: app.consumer.highwater(TP(topic, partition)) or 0 for partition in worker.state.partitions}


async def _commit(app: _App, topic: str, worker: Worker) -> None:
    """Tells Kafka what the read models hold."""
    if offsets := {TP(topic, partition): offset for partition, offset in worker.committable().items()}:
        consumer: Any = app.consumer
        await consumer._commit(offsets)  # noqa: SLF001 - `commit` would tell it what was acknowledged, and nothing ever is


def _application(place: KafkaPlace, group: str, worker: Worker, of: int) -> _App:
    """One agent for all projections: each more would be brought every record again (docs/adr/0014-one-agent.md)."""
    app = _App(
        group,
        broker=[f"kafka://{server}" for server in place.servers],
        broker_credentials=_credentials(place),
        broker_session_timeout=SESSION_SECONDS,
        broker_heartbeat_interval=HEARTBEAT_SECONDS,
        broker_request_timeout=2 * SESSION_SECONDS,
        broker_rebalance_timeout=SESSION_SECONDS,
        consumer_metadata_max_age_ms=int(METADATA_SECONDS * 1_000),
        store="memory://",
        cache="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
    )
    app.boot_strategy.enable_kafka_producer = False
    topic = app.topic(place.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    @app.agent(topic, name="read-models")
    async def bring(stream: Any) -> None:
        async for event in stream.channel:  # `stream` itself would acknowledge each, and take a fifth longer for it
            message = event.message
            await worker.offer(Arrived(message.partition, message.offset, message.value, message.headers))

    @app.on_partitions_revoked.connect
    async def let_go(*_: Any, **_more: Any) -> None:
        await _let_go(worker)
        await _commit(app, place.topic, worker)

    @app.on_partitions_assigned.connect
    async def assign(*sent: Any, **_more: Any) -> None:
        _, assigned = sent
        own = frozenset(tp.partition for tp in assigned if tp.topic == place.topic)
        worker.assign(own, max(of, app.consumer.topic_partitions(place.topic) or 0))

    return app


def _credentials(place: KafkaPlace) -> Any:
    options = client_options(place)
    if place.user is not None:
        return faust.SASLCredentials(
            username=place.user, password=place.password, ssl_context=options["ssl_context"], mechanism=options["sasl_mechanism"]
        )
    return faust.SSLCredentials(options["ssl_context"]) if place.tls_roots is not None else None
