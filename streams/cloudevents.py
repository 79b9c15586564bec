"""The log as others read it: each event as one CloudEvents record in structured JSON, for consumers that know nothing of us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from infra.partitions import partition_key
from infra.store import StoredEvent
from infra.views.cloudevents import teller
from infra.views.view import ViewEvent
from streams.positions import CLOUDEVENTS, CLOUDEVENTS_LOCK
from streams.records import Outgoing
from streams.relay import Rendering, deal

CONTENT_TYPE: Final = b"application/cloudevents+json"


def cloudevents(topic: str, ledger: str) -> Rendering:
    """A topic of its own, keyed by stream, with a place of its own: it can be turned on at any time and begins with the first event."""
    told = teller(ledger)

    def record(event: StoredEvent) -> Outgoing:
        (one,) = told(ViewEvent(event.position, orjson.loads(event.body), event.leaf))
        return Outgoing(partition_key(event.tenant, event.stream), orjson.dumps(one), [("content-type", CONTENT_TYPE)])

    def records(events: Sequence[StoredEvent], after: int, of: int) -> list[list[Outgoing]]:  # noqa: ARG001 - nobody fills gaps here
        return [[record(event) for event in dealt] for dealt in deal(events, of)]

    return Rendering(CLOUDEVENTS, CLOUDEVENTS_LOCK, topic, records)
