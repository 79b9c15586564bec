"""What follows for sessions: whoever owns one whose refresh token was shown twice is told so, and a leaver's are ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from commands.notifications import Notify
from commands.sessions import LogOut
from domain.access import ActorOffboarded
from domain.kernel import Command, Recorded
from domain.sessions import RefreshTokenReused
from projections.access import actors
from projections.sessions import sessions
from streams.reactions import Reaction, ReadRows
from streams.telling import cut, news, notice_id, registered

KIND: Final = "refresh_token_reused"


async def tell_owner(recorded: Recorded[RefreshTokenReused], reads: ReadRows) -> list[Command]:
    """Tells the actor, and whoever answers for it."""
    event, tenant = recorded.event, recorded.tenant
    row = await reads.row(actors, tenant, event.actor_id)
    told = {event.actor_id, row["owner"] if row and row["owner"] else event.actor_id}
    notices = [
        Notify(
            notification_id=notice_id(KIND, recipient, event.session_id),
            recipient=recipient,
            kind=KIND,
            subject=cut(f"A session of {event.actor_id} was ended: its refresh token was shown twice"),
            text="Somebody may have a copy of it. Change the password, and look at the sessions: aureus sessions list",
            about=recorded.stream,
        )
        for recipient in await registered(told, tenant, reads)
    ]
    return [*await news(notices, tenant, reads)]


async def end_sessions(recorded: Recorded[ActorOffboarded], reads: ReadRows) -> list[Command]:
    """Puts on record that a leaver's sessions are over; their tokens are worth nothing already."""
    open_ones = await reads.rows(sessions, recorded.tenant, {"actor_id": [recorded.event.actor_id], "status": ["open"]})
    return [LogOut(session_id=row["session_id"], reason="ended") for row in open_ones]


REACTIONS: Final[Sequence[Reaction]] = (
    Reaction("reused_refresh_token_notifies_owner", (RefreshTokenReused,), tell_owner),
    Reaction("offboarded_actor_ends_sessions", (ActorOffboarded,), end_sessions),
)
