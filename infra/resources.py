"""How much of what a server lives on is in use - processor, memory, disk, connections - and from where on that is too much."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import psutil

from domain.ledger import LedgerUnavailable
from infra.measures import Reading
from infra.read_queries import NOBODYS, Reads

IN_A_ROW: Final = 3
"""So many samples must be above the threshold before anybody is told: a moment of work is no shortage."""
RELIEF_PERCENT: Final = 10
"""So far below the threshold it must fall before it is over: what goes up and down around it is told once."""
_CONNECTIONS: Final = "SELECT 100.0 * sum(numbackends) / current_setting('max_connections')::int FROM pg_stat_database"
Sample = Mapping[str, float]
"""resource -> percent of it in use"""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A resource that is scarce: by how much of it was in use when that was noticed."""

    resource: str
    percent: float
    threshold: int
    since: datetime


@dataclass(slots=True)
class Alarms:
    """Which resources are short, by samples as they come. A threshold of 100 is never reached."""

    thresholds: Mapping[str, int]
    short: dict[str, Shortage] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    _above: dict[str, int] = field(default_factory=dict)

    def see(self, sample: Sample, at: datetime) -> tuple[list[Shortage], list[str]]:
        """What has become short with this sample, and what is no longer; each is told once."""
        self.used = dict(sample)
        raised, over = [], []
        for resource, percent in sample.items():
            threshold = self.thresholds[resource]
            self._above[resource] = self._above.get(resource, 0) + 1 if percent >= threshold < 100 else 0
            if self._above[resource] >= IN_A_ROW and resource not in self.short:
                self.short[resource] = Shortage(resource, percent, threshold, at)
                raised.append(self.short[resource])
            elif resource in self.short and percent < threshold - RELIEF_PERCENT:
                del self.short[resource]
                over.append(resource)
        return raised, over

    def readings(self) -> Iterable[Reading]:
        for resource, percent in self.used.items():
            yield "aureus_resource_used_ratio", (resource,), percent / 100
            yield "aureus_resource_short", (resource,), int(resource in self.short)


class Sampler:
    """Looks at this machine, at the volumes of some folders, at the database's connections and at pools of them."""

    def __init__(self, folders: Sequence[Path], reads: Reads, pools: Sequence[Callable[[], float]]) -> None:
        self._folders, self._reads, self._pools = folders, reads, pools
        psutil.cpu_percent()  # what it answers next is since now

    async def sample(self) -> Sample:
        """The percent in use of each resource; without the database's when that does not answer."""
        found = await asyncio.to_thread(self._machine)
        found["pools"] = 100 * max((used() for used in self._pools), default=0.0)
        try:
            ((connections,),) = await self._reads.fetch(_CONNECTIONS, (), tenant=NOBODYS)
        except LedgerUnavailable:
            return found
        return found | {"connections": float(connections)}

    def _machine(self) -> dict[str, float]:
        volumes = [shutil.disk_usage(folder) for folder in self._folders if folder.exists()]
        fullest = max((1 - volume.free / volume.total for volume in volumes), default=0.0)
        return {"cpu": psutil.cpu_percent(), "memory": psutil.virtual_memory().percent, "disk": 100 * fullest}
