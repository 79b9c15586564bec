"""What follows for requests: what was approved is carried out, where that was wanted; and in time they escalate and expire."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from commands.approvals import EscalateRequest, ExpireRequest, VoidRequest
from commands.notifications import Notify
from domain.approvals import ApprovalGranted, CarryOutRequested
from domain.kernel import Recorded, Refused, timestamp
from domain.reactions import TIMED_OUT
from projections.approvals import approvals
from streams.reactions import Due, ReadRows, Retries, Sweep
from streams.sagas import Saga, Step, Story, Wanted
from streams.telling import TEXT_LENGTH, cut, notice_id, registered

EVERY_SECONDS: Final = 30.0
CARRY_OUT: Final = "carry_out"
SETTLED: Final = frozenset({"approval_settled", "approval_not_pending", "approval_escalated", "approval_expired", "approval_used"})
"""Somebody else was quicker, and nothing is left to do."""
DAY_SECONDS: Final = 86_400.0


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


async def is_to_be_carried_out(recorded: Recorded[Any], reads: ReadRows) -> bool:
    """As of the event that completes the two: it is approved, and the requester wants it carried out."""
    row = await _row(recorded, reads)
    return bool(row["carry_out"]) and row["status"] == "approved" and row["command"] is not None


async def until_it_expires(recorded: Recorded[Any], reads: ReadRows) -> datetime:
    return datetime.fromisoformat((await _row(recorded, reads))["expires_at"])


async def carry_out(story: Story) -> list[Wanted]:
    """The very command that was consented to, on the requester's behalf, in the roles they hold when it is asked."""
    row = await _row(story.cause, story.reads)
    command = story.command(row["command"], row["inputs"])
    if command.digest() != row["action_digest"]:
        raise Refused("carry_out_not_exact", f"What is kept of {row['command']} is not what was approved: send the command again.")
    return [Wanted(command, on_behalf_of=row["requester"], approval_id=row["approval_id"])]


async def take_back(story: Story) -> list[Wanted]:
    """What could not be carried out is not approved any more, and the requester is told why."""
    row, given_up = await _row(story.cause, story.reads), story.given_up
    assert given_up is not None, "undone is what was given up"
    reason = f"It could not be carried out ({given_up.code}): {given_up.message}"
    requester = row["requester"]
    notices = [
        Notify(
            notification_id=notice_id("carry_out_failed", recipient, row["approval_id"]),
            recipient=recipient,
            kind="carry_out_failed",
            subject=cut(f"{row['command']} was approved, but could not be carried out ({given_up.code})"),
            text=cut(f"{given_up.message} Approval {row['approval_id']} is void: ask for it again.", TEXT_LENGTH),
            about=story.cause.stream,
            action_id=row["evidence_action_id"],
        )
        for recipient in await registered([requester], story.cause.tenant, story.reads)
    ]
    # One that expired says so itself: there is nothing left to take back.
    voids = [] if given_up.code == TIMED_OUT else [VoidRequest(approval_id=row["approval_id"], reason=cut(reason, TEXT_LENGTH))]
    return [Wanted(command) for command in (*voids, *notices)]


async def _row(recorded: Recorded[ApprovalGranted | CarryOutRequested], reads: ReadRows) -> dict[str, Any]:
    row = await reads.row(approvals, recorded.tenant, recorded.event.approval_id)
    assert row is not None, "the read models have seen the request"
    return row


SWEEPS: Final = (Sweep("approvals_come_due", EVERY_SECONDS, come_due, SETTLED),)
SAGAS: Final = (
    Saga(
        "approved_action_is_carried_out",
        (ApprovalGranted, CarryOutRequested),
        is_to_be_carried_out,
        (Step(CARRY_OUT, carry_out, undo=take_back, fine=frozenset({"approval_used", "approval_settled"})),),
        timeout_seconds=DAY_SECONDS,
        until=until_it_expires,
        retries=Retries(attempts=20, first_seconds=0.2, longest_seconds=300),
    ),
)
