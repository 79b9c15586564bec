"""What the caller may still ask: how the limits stand that their requests are counted against."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from api.routing import ContextRouter, Present
from domain.values import EVERYBODY, Tier

router = ContextRouter(prefix="/v1", tags=["access"])
_MEANINGS: Final = {
    "queries": "Expensive reads: diffs, replays and their SQL, what could happen, impact and conflicts of policies, packs.",
    "actor": "Requests of any kind.",
    "tenant": "Requests of any kind by everybody of the tenant.",
}


class LimitNow(BaseModel):
    """A limit, and what of it is left; `reset_seconds` until there is more, 0 when all of it is there."""

    limit: str
    counts: str
    allowed: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class Limits(BaseModel):
    """The caller's limits. What is not listed is not limited; addresses and keys have limits of their own besides."""

    tier: Tier
    items: list[LimitNow]


@router.query("/limits", roles=EVERYBODY, narrowed=True, name="limits")
async def limits(reader: Present) -> Limits:
    """How much you may ask, and what is left of it; looking counts as a request, and not as an expensive read."""
    standings = await reader.services.limiter.standings(reader.asker)
    items = [
        LimitNow(
            limit=one.limit,
            counts=_MEANINGS[one.limit],
            allowed=one.allowed,
            window_seconds=one.window_seconds,
            remaining=one.remaining,
            reset_seconds=one.reset_seconds,
        )
        for one in standings
    ]
    return Limits(tier=reader.asker.tier, items=items)
