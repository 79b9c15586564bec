"""A server that runs short of something says so: in its log, in its metrics, and to those who administer it."""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import UTC, datetime
from typing import Final

from commands.notifications import Notify
from commands.path import Ask, CommandPath
from domain.ledger import LedgerUnavailable
from domain.values import Role, uuid7
from infra.read_queries import Reads
from infra.resources import Alarms, Sampler, Shortage
from streams.reactions import asker
from streams.reactor import Rows
from streams.telling import TOLD_MAX, notice_id, people_of

_WHAT: Final = {
    "cpu": "the processor",
    "memory": "the memory",
    "disk": "the disk",
    "connections": "the database's connections",
    "pools": "a pool of connections",
}
_REMEDIES: Final = {
    "cpu": "Look at what runs beside it, or give it more cores.",
    "memory": "Look at what runs beside it, or give it more.",
    "disk": "Make room: once it is full, commands are refused.",
    "connections": "Raise max_connections, or run fewer processes.",
    "pools": "Requests wait for the database: look for slow queries, or run another process.",
}
_log = logging.getLogger("aureus.resources")


class Watchman:
    """Samples until cancelled. Administrators of one tenant - the one that operates the server - are told of each shortage once."""

    def __init__(self, sampler: Sampler, alarms: Alarms, path: CommandPath, reads: Reads, tenant: str, every_seconds: float) -> None:
        self._sampler, self.alarms, self._path, self._reads = sampler, alarms, path, reads
        self._tenant, self._every_seconds = tenant, every_seconds

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            await self.look()

    async def look(self) -> None:
        """One sample, and what follows from it."""
        raised, over = self.alarms.see(await self._sampler.sample(), datetime.now(UTC))
        for resource in over:
            _log.info("%s is no longer short", _WHAT[resource])
        for shortage in raised:
            _log.warning("%s is short: %.0f %% are in use", _WHAT[shortage.resource], shortage.percent)
            try:
                await self._tell(shortage)
            except LedgerUnavailable as error:
                _log.warning("that %s is short could not be told: %s", _WHAT[shortage.resource], error)

    async def _tell(self, shortage: Shortage) -> None:
        host = socket.gethostname()
        for recipient in (await people_of({Role.ADMIN}, self._tenant, Rows(self._reads)))[:TOLD_MAX]:
            told = Notify(
                notification_id=notice_id("resource_short", recipient, host, shortage.resource, shortage.since.isoformat()),
                recipient=recipient,
                kind="resource_short",
                subject=f"{host}: {shortage.percent:.0f} % of {_WHAT[shortage.resource]} are in use",
                text=f"Above {shortage.threshold} % since {shortage.since:%Y-%m-%d %H:%M} UTC. {_REMEDIES[shortage.resource]} "
                "Look: aureus doctor. When it is over, the log says so.",
            )
            by, key = asker(self._tenant), f"resources:{told.notification_id}"
            await self._path.handle(Ask(told, by, uuid7(), datetime.now(UTC), idempotency_key=key, reason="Resource alert."))
