"""Telling people: each notification once, only to those who have an inbox here, and no more to those who leave theirs unread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from commands.notifications import Notify
from domain.values import Role
from projections.access import actors
from projections.notifications import notifications
from streams.reactions import ReadRows

UNREAD_MAX: Final = 100
"""Whoever leaves so many of one kind unread is told no more of it, until they read."""
SUBJECT_LENGTH: Final = 200
TEXT_LENGTH: Final = 4_000
TOLD_MAX: Final = 50
"""Of those who hold a role, so many are told."""


def notice_id(*parts: str) -> str:
    """The same notification gets the same id, and is sent once."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def cut(text: str, length: int = SUBJECT_LENGTH) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


async def registered(ids: Iterable[str], tenant: str, reads: ReadRows) -> list[str]:
    """Those who have an inbox here: an owner may be a team, or a name from elsewhere."""
    return [actor for actor in sorted(ids) if await reads.row(actors, tenant, actor) is not None]


async def people_of(roles: Iterable[Role], tenant: str, reads: ReadRows) -> list[str]:
    """Active people who hold one of these roles."""
    rows = await reads.rows(actors, tenant, {"roles": [*roles], "status": ["active"], "kind": ["person"]})
    return sorted(row["actor_id"] for row in rows)


async def news(notices: Iterable[Notify], tenant: str, reads: ReadRows) -> list[Notify]:
    """What was not told yet, to those who still read: an agent that asks in a loop is not to fill inboxes and the audit log."""
    return [notice for notice in notices if not await _known(notice, tenant, reads) and await _reads_on(notice, tenant, reads)]


async def _known(notice: Notify, tenant: str, reads: ReadRows) -> bool:
    return await reads.row(notifications, tenant, notice.notification_id) is not None


async def _reads_on(notice: Notify, tenant: str, reads: ReadRows) -> bool:
    unread = {"recipient": notice.recipient, "kind": notice.kind, "status": "unread"}
    return len(await reads.rows(notifications, tenant, unread)) < UNREAD_MAX
