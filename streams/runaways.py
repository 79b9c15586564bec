"""A program that runs into its limits again and again has an owner, who is told; once an hour, however many processes notice."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from commands.notifications import Notify
from commands.path import Ask, CommandPath
from domain.kernel import Asker
from domain.ledger import LedgerUnavailable
from domain.values import uuid7
from streams.reactions import asker as platform

_log = logging.getLogger("aureus.limits")


async def tell_owner(path: CommandPath, asker: Asker, what: str, refusals: int) -> None:
    """Tells who owns the actor, or the actor itself where nobody does."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    told = Notify(
        notification_id=f"runaway-{asker.actor}-{hour:%Y%m%dT%H}",
        recipient=asker.owner or asker.actor,
        kind="requests_refused",
        subject=f"{asker.actor} runs into its limits",
        text=f"{asker.actor} was refused {refusals} times since {hour:%H:%M} UTC, lately for too many {what}. "
        "A program that does not wait when it is told to (429, Retry-After) gets nothing done: stop it, or mend it.",
        about=f"actor:{asker.actor}",
    )
    key = f"runaways:{told.notification_id}"
    try:
        await path.handle(Ask(told, platform(asker.tenant), uuid7(), datetime.now(UTC), idempotency_key=key, reason="Limits."))
    except LedgerUnavailable as error:
        _log.warning("that %s runs into its limits could not be told: %s", asker.actor, error)
