"""The two ways events reach the read models from a process that serves: straight from the ledger, or through Kafka and back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from infra.kafka_settings import KafkaPlace
from infra.ledger import Ledger
from infra.tasks import ended
from projections.engine import Projection
from streams.progress import Progress
from streams.runner import Runner

if TYPE_CHECKING:
    from streams.relay import Relay
    from streams.worker import Worker

BESIDE_REQUESTS_EVENTS: Final = 128
"""At once, for a worker that shares its process with requests: folding holds them up."""


def follow_ledger(ledger: Ledger, dsn: str, projections: Sequence[Projection], progress: Progress, stack: AsyncExitStack) -> None:
    """Moves all read models in this process for as long as the stack stands, unless another process does."""
    runner = Runner(ledger, dsn, projections, progress)
    stack.push_async_callback(ended, asyncio.create_task(runner.run(), name="projections"))


def relay_ledger(place: KafkaPlace, ledger: Ledger, dsn: str, stack: AsyncExitStack) -> list[Relay]:
    """Tells the ledger on to Kafka, whenever no other process does."""
    from streams.relay import Relay  # noqa: PLC0415 - without Kafka nobody waits for its client to load

    relays = [Relay(ledger, dsn, place)]
    if place.cloudevents_topic is not None:
        from streams.cloudevents import cloudevents  # noqa: PLC0415 - nor for what renders events for others

        relays.append(Relay(ledger, dsn, place, rendering=cloudevents(place.cloudevents_topic, ledger.name)))
    for relay in relays:
        stack.push_async_callback(ended, asyncio.create_task(relay.run(), name="relay"))
    return relays


async def follow_kafka(
    place: KafkaPlace, ledger: Ledger, dsn: str, projections: Sequence[Projection], progress: Progress, stack: AsyncExitStack
) -> Worker:
    """Moves all read models by what Kafka brings, sharing the work with the workers elsewhere."""
    from streams.faust_app import following  # noqa: PLC0415 - Faust takes long to load

    entered = following(place, ledger, dsn, projections, progress, batch_events=BESIDE_REQUESTS_EVENTS)
    worker, _ = await stack.enter_async_context(entered)  # it says itself why it stops; a server answers on with what it has
    return worker
