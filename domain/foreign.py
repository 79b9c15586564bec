"""Facts of applications that bring event classes of their own: kept, signed and proved as bytes that Aureus does not read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from domain.kernel import Event

OriginatorKind = Literal["uuid", "text"]


class EventStored(Event, name="eventsourcing.event_stored"):
    """An application built on the `eventsourcing` library stored an event.

    `topic` names the class that reads `state` (base64), and is that application's business.
    """

    originator_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    originator_kind: OriginatorKind
    originator_version: Annotated[int, Field(ge=0, strict=True)]
    topic: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    state: str
