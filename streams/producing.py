"""A producer that sends in order, or says that it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from infra.kafka import MS, REQUEST_SECONDS_MAX, client_options, unavailable
from infra.kafka_settings import KafkaPlace
from streams.records import Outgoing

ACKNOWLEDGED_SECONDS_MAX: Final = 10.0
"""For so long a producer tries by itself, and nothing is sent twice; then whoever waits hears of it."""
BATCH_BYTES: Final = 900_000
"""Before compression; a broker takes 1 MiB by default."""


class Producer(AIOKafkaProducer):  # type: ignore[misc]
    """Idempotent, acknowledged by all replicas, lz4: what is sent to a partition arrives there in that order."""

    def __init__(self, place: KafkaPlace) -> None:
        super().__init__(
            **client_options(place),
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=int(REQUEST_SECONDS_MAX * MS),
        )

    async def send_all(self, topic: str, partition: int, records: Iterable[Outgoing]) -> list[asyncio.Future[Any]]:
        """Hands records to a partition in order; the futures are its acknowledgements. Waits while two batches wait already."""
        acks = []
        batch = self.create_batch()
        for record in records:
            if _appended(batch, record) is None:  # full
                acks.append(await self._send(batch, topic, partition))
                batch = self.create_batch()
                _appended(batch, record)  # the first one always fits
        if batch.record_count():
            acks.append(await self._send(batch, topic, partition))
        return acks

    async def _send(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        batch.close()
        ack: asyncio.Future[Any] = await self.send_batch(batch, topic, partition=partition)
        ack.add_done_callback(_heard)
        return ack

    def partitions(self, topic: str) -> int:
        """As it was last told; 0 when there is no such topic any more."""
        return len(self.client.cluster.partitions_for_topic(topic) or ())

    async def abandon(self) -> None:
        """Ends at once; `stop` would wait for the acknowledgements of a broker that may never come back."""
        self._closed = True
        with suppress(KafkaError):
            await self._sender.close()
        await self.client.close()


def _appended(batch: Any, record: Outgoing) -> Any:
    return batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)


def _heard(ack: asyncio.Future[Any]) -> None:
    """So that asyncio does not report a failure to nobody: whoever waited has gone after an earlier one."""
    if not ack.cancelled():
        ack.exception()


async def acknowledged(acks: list[asyncio.Future[Any]]) -> None:
    """Waits until all have come. Raises KafkaError or TimeoutError."""
    try:
        async with asyncio.timeout(ACKNOWLEDGED_SECONDS_MAX):
            for ack in acks:
                await ack
    except TimeoutError as error:
        raise TimeoutError(f"no acknowledgement within {ACKNOWLEDGED_SECONDS_MAX:.0f} s") from error


@asynccontextmanager
async def producing(place: KafkaPlace) -> AsyncIterator[Producer]:
    """A producer for as long as all goes well. Raises KafkaUnavailable when the broker, or what was sent, is lost."""
    producer = Producer(place)
    try:
        async with asyncio.timeout(ACKNOWLEDGED_SECONDS_MAX):
            await producer.start()
        yield producer
    except (KafkaError, OSError, TimeoutError) as error:
        raise unavailable(place, error) from error
    finally:
        await producer.abandon()
