"""The broker as the ledger uses it: how it is reached, and how its topics are made."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from infra.kafka_settings import KafkaPlace

REQUEST_SECONDS_MAX: Final = 5.0
RETENTION_DAYS: Final = 7
_LOOKS: Final = 100
_LOOK_SECONDS: Final = 0.05
MS: Final = 1_000

# While a broker is away it says so every 100 ms; we say it once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class KafkaUnavailable(Exception):
    """The broker does not answer, or not with what was asked for: says which servers and why."""


def client_options(place: KafkaPlace) -> dict[str, Any]:
    """How aiokafka reaches the place: its servers, TLS when there are roots, SCRAM when there is a user."""
    options: dict[str, Any] = {"bootstrap_servers": list(place.servers), "security_protocol": "PLAINTEXT"}
    if place.tls_roots is not None:
        options |= {"security_protocol": "SSL", "ssl_context": ssl.create_default_context(cafile=place.tls_roots)}
    if place.user is not None:
        options |= {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": place.user,
            "sasl_plain_password": place.password,
        }
    return options


async def ensure_topic(place: KafkaPlace, name: str) -> int:
    """Creates the topic when it is not there, and says how many partitions it has. Raises KafkaUnavailable."""
    admin = AIOKafkaAdminClient(**client_options(place), request_timeout_ms=int(REQUEST_SECONDS_MAX * MS))
    try:
        await admin.start()
        if (partitions := await _partitions(admin, name)) is not None:
            return partitions
        await _create(admin, place, name)
        for _ in range(_LOOKS):  # what the controller has made, each broker learns a moment later
            if (partitions := await _partitions(admin, name)) is not None:
                return partitions
            await asyncio.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"topic {name} does not come up")
    except (KafkaError, OSError, TimeoutError) as error:
        raise unavailable(place, error) from error
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient, name: str) -> int | None:
    if name not in await admin.list_topics():  # asked for by name, it might be made, as the broker makes topics
        return None
    (topic,) = await admin.describe_topics([name])
    return len(topic["partitions"]) or None


async def _create(admin: AIOKafkaAdminClient, place: KafkaPlace, name: str) -> None:
    kept = {"cleanup.policy": "delete", "retention.ms": str(RETENTION_DAYS * 86_400 * MS)}
    topic = NewTopic(name, place.partitions, 1, topic_configs=kept)
    topic.replication_factor = place.replication  # -1 is the broker's default, which aiokafka does not know of
    ((_, code, message),) = (await admin.create_topics([topic])).topic_errors
    if code and for_code(code) is not TopicAlreadyExistsError:
        raise for_code(code)(message)


def unavailable(place: KafkaPlace, error: BaseException) -> KafkaUnavailable:
    return KafkaUnavailable(f"Kafka at {', '.join(place.servers)}: {str(error) or type(error).__name__}")
