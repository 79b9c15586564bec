"""`import_bulk`: a large import - many events per command, each of them signed and chained - beside raw COPY."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bench import workload
from bench.append import ledger
from bench.lab import Lab
from bench.measure import Figure, Goal, Sample
from bench.peers.copy import copies
from domain.values import uuid7
from infra.ledger import Append, Ledger, StreamWrite

EVENTS: Final = 100_000
EVENTS_PER_COMMAND: Final = 500
IN_FLIGHT: Final = 8


Writes = Callable[[int, int], tuple[StreamWrite, ...]]
"""What is written next in a lane, as so many events."""


class Importer:
    """Appends events by the hundred, several commands in flight, each to streams of its own lane."""

    def __init__(self, ledger: Ledger, next_writes: Writes) -> None:
        self._ledger, self._next_writes = ledger, next_writes

    async def add(self, events: int) -> None:
        commands = [EVENTS_PER_COMMAND] * (events // EVENTS_PER_COMMAND)
        if rest := events % EVENTS_PER_COMMAND:
            commands.append(rest)
        await asyncio.gather(*(self._send(lane, commands[lane::IN_FLIGHT]) for lane in range(IN_FLIGHT)))

    async def _send(self, lane: int, commands: list[int]) -> None:
        for events in commands:
            await self._ledger.append(Append(workload.TENANT, workload.ACTOR, self._next_writes(lane, events), uuid7()))


def promises() -> Writes:
    """The event of the other figures, over and over."""
    versions = [0] * IN_FLIGHT

    def writes(lane: int, events: int) -> tuple[StreamWrite, ...]:
        version = versions[lane]
        versions[lane] += events
        made = tuple(workload.reserved(lane, version + offset) for offset in range(events))
        return (StreamWrite(workload.stream(lane), version, made),)

    return writes


def history() -> Writes:
    """Governed work of all kinds, as `workload.History` tells it."""
    lanes = [workload.History(lane) for lane in range(IN_FLIGHT)]
    return lambda lane, events: lanes[lane].take(events)


def fill(lab: Lab, dsn: str, events: int, writes: Writes) -> None:
    """A ledger in this database with so many events."""
    with ledger(lab, dsn) as opened:
        lab.run(Importer(opened, writes).add(events))


@contextmanager
def imports(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """From typed events to a signed checkpoint over all of them; the events are made within the measured time."""
    events = lab.scaled(EVENTS)
    with lab.database("ours") as dsn, ledger(lab, dsn) as opened:
        importer = Importer(opened, promises())

        def one_round() -> Sample:
            started = time.perf_counter()
            lab.run(importer.add(events))
            return {"rate": events / (time.perf_counter() - started)}

        yield one_round


FIGURES: Final = (
    Figure(
        "import_bulk",
        ours=imports,
        peers={"copy": copies(EVENTS, lambda lab, dsn, events: fill(lab, dsn, events, promises()))},
        goals=(Goal("copy", "rate", "events/s", 0.3),),
    ),
)
