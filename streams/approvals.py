"""What time does to requests: one that waits too long is escalated, and one whose time has passed is put on record as expired."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from commands.approvals import EscalateRequest, ExpireRequest
from domain.kernel import timestamp
from projections.approvals import approvals
from streams.reactions import Due, ReadRows, Sweep

EVERY_SECONDS: Final = 30.0


async def come_due(reads: ReadRows, now: datetime) -> list[Due]:
    """Each open request at most once: what has expired is not escalated any more."""
    moment = timestamp(now)
    due: list[Due] = []
    for tenant in await reads.tenants(approvals):
        for row in await reads.rows(approvals, tenant, {"status": ["pending", "approved"]}):
            approval_id = row["approval_id"]
            if row["expires_at"] <= moment:
                due.append((tenant, approval_id, ExpireRequest(approval_id=approval_id)))
            elif row["status"] == "pending" and not row["escalated_to"] and row["escalates_at"] and row["escalates_at"] <= moment:
                due.append((tenant, approval_id, EscalateRequest(approval_id=approval_id)))
    return due


SWEEPS: Final = (Sweep("approvals_come_due", EVERY_SECONDS, come_due),)
