"""How events travel, over REST: how far the relay and the read models are, who leads, which workers there are, what waits for people."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from api.reading import Present
from api.routing import ContextRouter
from domain.values import PEOPLE
from projections.reactions import dead_letters
from streams.positions import CLOUDEVENTS, CLOUDEVENTS_LOCK, RELAY, RELAY_LOCK
from streams.reactor import REACTIONS_LOCK
from streams.standing import Standing, standing

router = ContextRouter(tags=["streams"])
_LOCKS: Final = {RELAY: RELAY_LOCK, CLOUDEVENTS: CLOUDEVENTS_LOCK}


class RelayStanding(BaseModel):
    """What a topic has been told: up to which position, how many events it lacks, and which process leads."""

    name: str
    position: int
    lag_events: int
    led_by: str | None


class MovedProjection(BaseModel):
    """A read model: where it stands, and who moves it. `ahead` are the partitions that are further, when workers share it out."""

    name: str
    ordering: str
    position: int
    lag_events: int
    led_by: str | None
    ahead: dict[str, int]
    stopped: str | None


class WorkerStanding(BaseModel):
    """A worker that spoke within the last minute."""

    id: str
    host: str
    pid: int
    projections: list[str]
    partitions: list[int]
    position: int
    last_error: str | None
    seen_at: str


class ReactionsStanding(BaseModel):
    """How far the reactions are, which process leads them, and the dead letters of the caller's tenant that wait for somebody."""

    position: int
    lag_events: int
    led_by: str | None
    dead_letters_waiting: int


class StreamsAnswer(BaseModel):
    """`mode`: `inprocess` or `kafka`; `size`: where the ledger ends, which everything else is behind of."""

    mode: str
    size: int
    relays: list[RelayStanding]
    projections: list[MovedProjection]
    workers: list[WorkerStanding]
    reactions: ReactionsStanding


@router.query("/v1/streams", roles=PEOPLE, response_model=StreamsAnswer)
async def streams(reader: Present) -> StreamsAnswer:
    """Where everything that follows the ledger stands."""
    services = reader.services
    found = await standing(services.reads)
    size = (await services.ledger.refresh()).size
    waiting = await services.reads.count(dead_letters, reader.asker.tenant, {"status": "waiting"})
    ordering = {projection.name: projection.ordering for projection in services.projections}
    return StreamsAnswer(
        mode="kafka" if services.settings.kafka is not None else "inprocess",
        size=size,
        relays=[
            RelayStanding(name=name, position=found.places[name], lag_events=size - found.places[name], led_by=found.leaders.get(lock))
            for name, lock in _LOCKS.items()
            if name in found.places and services.settings.kafka is not None
        ],
        projections=[
            MovedProjection(
                name=moved.name,
                ordering=ordering.get(moved.name, "total"),
                position=moved.position,
                lag_events=size - moved.position,
                led_by=moved.led_by,
                ahead=moved.ahead,
                stopped=moved.stopped,
            )
            for moved in found.projections
        ],
        workers=[WorkerStanding(**{**vars(worker), "seen_at": worker.seen_at.isoformat()}) for worker in found.workers],
        reactions=_reactions(found, size, waiting),
    )


def _reactions(found: Standing, size: int, waiting: int) -> ReactionsStanding:
    position = min((place for name, place in found.places.items() if name not in _LOCKS), default=size)
    return ReactionsStanding(
        position=position, lag_events=size - position, led_by=found.leaders.get(REACTIONS_LOCK), dead_letters_waiting=waiting
    )
