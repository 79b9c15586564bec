"""When an API key was last used: noted beside the ledger and in the background, for a use changes nothing that is governed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from domain.ledger import LedgerUnavailable
from infra.access_store import AccessStore

NOTED_EVERY: Final = timedelta(minutes=1)
FLUSHED_EVERY_SECONDS: Final = 5.0
Used = tuple[str, str, str]
"""(tenant, kind, id)"""

_NOTE: Final = """
    INSERT INTO access_private.last_used AS known (tenant, kind, id, at)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[]) AS used(tenant, kind, id, at) ORDER BY tenant, kind, id
    ON CONFLICT (tenant, kind, id) DO UPDATE SET at = EXCLUDED.at WHERE known.at < EXCLUDED.at
"""
_LAST: Final = "SELECT at FROM access_private.last_used WHERE tenant = %s AND kind = %s AND id = %s"


class LastUsed:
    """Remembers uses and writes them down now and then. What a process had not yet written when it was killed is lost."""

    def __init__(self, store: AccessStore) -> None:
        self._store = store
        self._noted: dict[Used, datetime] = {}
        self._waiting: dict[Used, datetime] = {}

    def note(self, tenant: str, kind: str, id_: str) -> None:
        """Something was used just now; costs a look into a dictionary."""
        used, now = (tenant, kind, id_), datetime.now(UTC)
        before = self._noted.get(used)
        if before is None or now - before >= NOTED_EVERY:
            self._noted[used] = self._waiting[used] = now

    async def of(self, tenant: str, kind: str, id_: str) -> datetime | None:
        """When something was last used, as far as that was noted by whatever process."""
        found = await self._store.query(_LAST, (tenant, kind, id_))
        moments = [moment for moment in (self._waiting.get((tenant, kind, id_)), found[0][0] if found else None) if moment]
        return max(moments, default=None)

    async def flush(self) -> None:
        """Writes down what waits."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        try:
            await self._store.query(_NOTE, [*map(list, zip(*waiting, strict=True)), list(waiting.values())])
        except LedgerUnavailable:
            self._waiting = {**waiting, **self._waiting}
        self._noted = {used: at for used, at in self._noted.items() if datetime.now(UTC) - at < NOTED_EVERY}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(FLUSHED_EVERY_SECONDS)
            await self.flush()
