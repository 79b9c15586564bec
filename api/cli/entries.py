"""Entries of the log as the server hands them out: those of other tenants are withheld."""

from __future__ import annotations

import base64

from api.cli.client import Client, path
from api.cli.failures import ExitCode, Failure


def entries_after(client: Client, after: int, limit: int) -> tuple[bytes, ...]:
    """Up to `limit` entries from there on. Failure when one of them is another tenant's."""
    told: list[str | None] = client.one(path("ledger", "entries"), after=after, limit=limit)["entries"]
    opened = tuple(base64.b64decode(entry) for entry in told if entry is not None)
    if len(opened) < len(told):
        position = after + told.index(None) + 1
        message = f"Position {position} holds another tenant's event, and its bytes are withheld."
        remedy = "Verify a pack, or single events of your own (aureus log proof); the whole log verifies whoever operates the server."
        raise Failure(ExitCode.NOT_ALLOWED, "outside_tenant", message, position=position, remedy=remedy)
    return opened
