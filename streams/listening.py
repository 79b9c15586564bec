"""Listening to Kafka without a group: every API process hears all that the relay sends, from now on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from infra.envelope import recorded
from infra.kafka_settings import KafkaPlace
from streams.following import Brought
from streams.records import BadRecord, frames_of
from streams.tail import Entry, entry

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

WAIT_MS: Final = 1_000
_log = logging.getLogger("aureus.feeds")


def brought_by_kafka(place: KafkaPlace | None, ledger: str) -> Brought | None:
    """What comes through a place; None when there is none."""
    return None if place is None else lambda: _listen(place, ledger)


async def _listen(place: KafkaPlace, ledger: str) -> AsyncIterator[Sequence[Entry]]:
    from aiokafka import AIOKafkaConsumer  # noqa: PLC0415 - who has no broker need not load it

    from infra.kafka import client_options, ensure_topic  # noqa: PLC0415

    await ensure_topic(place, place.topic)  # asked for a topic it does not have, the broker might make one of its own kind
    consumer = AIOKafkaConsumer(place.topic, **client_options(place), group_id=None, auto_offset_reset="latest")
    try:
        await consumer.start()
        while True:
            brought = await consumer.getmany(timeout_ms=WAIT_MS)
            yield [one for records in brought.values() for record in records for one in _entries(record, ledger)]
    finally:
        with suppress(asyncio.CancelledError):  # aiokafka's own, of a fetch that waits for a dead broker; ours is asked for again
            await consumer.stop()
        await consumer._client.close()  # noqa: SLF001 - which a stop that was cut short in that way leaves open


def _entries(record: ConsumerRecord[Any, Any], ledger: str) -> list[Entry]:
    try:
        frames = frames_of(record.partition, record.value, record.headers, ledger)
    except BadRecord as error:
        _log.warning("the feeds pass over it, for the ledger has what it should have said: %s", error)
        return []
    return [entry(recorded(position, body, leaf), body) for position, leaf, body in frames]
