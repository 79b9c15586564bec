"""What follows from stopping an agent: nothing it or its delegates hold or wait for stays behind."""

from __future__ import annotations

from typing import Final

from commands.approvals import VoidRequest
from commands.budgets import ReleaseFunds
from domain.agents import AgentStopped
from domain.kernel import Command, Recorded
from projections.agents import agents
from projections.approvals import approvals
from projections.budgets import reservations
from streams.reactions import Reaction, ReadRows

MAX_REASON: Final = 4_000


async def clear(recorded: Recorded[AgentStopped], reads: ReadRows) -> list[Command]:
    """Releases what they reserved and voids what they asked approval for, up to the stop: what came after it is another matter."""
    tenant, stopped_at = recorded.tenant, recorded.at_text
    ids = await _with_delegates(recorded.event.agent_id, tenant, reads)
    held = await reads.rows(reservations, tenant, {"reserved_by": ids, "status": "reserved"})
    waiting = await reads.rows(approvals, tenant, {"requester": ids, "status": ["pending", "approved"]})
    reason = f"Agent {recorded.event.agent_id} was stopped: {recorded.event.reason}"[:MAX_REASON]
    voided = [VoidRequest(approval_id=row["approval_id"], reason=reason) for row in waiting if row["requested_at"] <= stopped_at]
    released = [
        ReleaseFunds(budget_id=row["budget_id"], reservation_id=row["reservation_id"]) for row in held if row["reserved_at"] <= stopped_at
    ]
    return [*voided, *released]


async def _with_delegates(agent_id: str, tenant: str, reads: ReadRows) -> list[str]:
    """The agent and everybody who acts for it, directly or not."""
    found, latest = {agent_id}, [agent_id]
    while latest:
        rows = await reads.rows(agents, tenant, {"delegated_by": latest})
        latest = sorted({row["agent_id"] for row in rows} - found)
        found.update(latest)
    return sorted(found)


DONE_ALREADY: Final = frozenset({"approval_settled", "reservation_not_found"})
"""Withdrawn, used, spent or released by somebody else meanwhile: nothing is left behind, and that was wanted."""
REACTIONS: Final = (Reaction("stopped_agent_is_cleared", (AgentStopped,), clear, DONE_ALREADY),)
