"""The log as one tenant may read it: its own events and the ledger's, through the wall; of all others, that they are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from domain.keys import SYSTEM_TENANT
from infra.envelope import entry_bytes
from infra.read_queries import EVERY_TENANT, Reads

_BODIES: Final = "SELECT position, body FROM ledger.events WHERE tenant = %s AND position > %s AND position <= %s ORDER BY position"
_ENTRIES: Final = "SELECT position, body, signatures FROM ledger.events WHERE position > %s AND position <= %s"


async def own_events(reads: Reads, tenant: str, after: int, until: int) -> list[tuple[int, bytes]]:
    """The tenant's own events in `(after, until]`: position and signed body, in order."""
    return [(position, bytes(body)) for position, body in await reads.fetch(_BODIES, (tenant, after, until), tenant=tenant)]


async def entries(reads: Reads, tenant: str, operator: str | None, after: int, until: int) -> Sequence[bytes | None]:
    """Every entry of the tree in `(after, until]`, in order; None for another tenant's, unless the tenant is the operator's."""
    found: dict[int, bytes] = {}
    for shown in (EVERY_TENANT,) if tenant == operator else (tenant, SYSTEM_TENANT):
        for position, body, signatures in await reads.fetch(_ENTRIES, (after, until), tenant=shown):
            found[position] = entry_bytes(bytes(body), bytes(signatures))
    return [found.get(position) for position in range(after + 1, until + 1)]
