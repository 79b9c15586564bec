"""Who asks, as of now: an actor with its own roles, those of its groups and its grants - or the reason why it may not act."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from domain.access import ROLES_OF_KIND
from domain.groups import LEVELS_MAX
from domain.kernel import Asker, Holding
from domain.values import ActorKind, Role, Tier
from projections.access import actors
from projections.engine import ReadTable
from projections.groups import groups, memberships
from projections.sessions import sessions

Row = Mapping[str, Any]
Rows = Callable[[ReadTable[Any], str, Sequence[str]], Awaitable[Mapping[str, Row]]]
"""`await rows(table, tenant, ids)`: the rows that are there, by id."""
Holdings = Callable[[str, str, Collection[str], datetime], Awaitable[tuple[Holding, ...]]]
"""`await holdings(tenant, actor_id, group_ids, at)`: what the actor holds by explicit grant, itself or through its groups."""
SESSION_OPEN: Final = "open"


class Unauthenticated(Exception):
    """401. Everybody is told the same; the reason, which would help to guess, goes to the log."""

    code: Final = "unauthenticated"
    message: Final = "The credentials are missing, wrong, or no longer valid."
    remedy: Final = "Send `Authorization: Bearer <token>` from POST /v1/auth/token, or `X-API-Key: <key>`."

    def __init__(self, reason: str) -> None:
        super().__init__(self.message)
        self.reason = reason


def present() -> datetime:
    return datetime.now(UTC)


async def no_holdings(_tenant: str, _actor_id: str, _group_ids: Collection[str], _at: datetime) -> tuple[Holding, ...]:
    """Nobody holds anything by explicit grant."""
    return ()


class Standing:
    """Looks actors up. What does not depend on each other is asked for at the same time: three rounds for an actor in groups."""

    def __init__(self, rows: Rows, holdings: Holdings = no_holdings, now: Callable[[], datetime] = present) -> None:
        self._rows, self._holdings, self._now = rows, holdings, now

    async def of(
        self,
        tenant: str,
        actor_id: str,
        *,
        scopes: frozenset[str] | None = None,
        session: str | None = None,
        known: Row | None = None,
    ) -> Asker:
        """The actor as it may act now; `scopes` and `session` are those of the credential that was shown. Raises Unauthenticated.

        `known` is the actor's own row, for whoever has it from the ledger and waits for no read model.
        """
        row, membership, opened = await asyncio.gather(
            self._one(actors, tenant, actor_id if known is None else None),
            self._one(memberships, tenant, actor_id),
            self._one(sessions, tenant, session),
        )
        row = known or row
        if row is None:
            raise Unauthenticated("actor_unknown")
        if row["status"] != "active":
            raise Unauthenticated(f"actor_{row['status']}")
        if session is not None and (opened is None or opened["status"] != SESSION_OPEN or opened["actor_id"] != actor_id):
            raise Unauthenticated("session_ended")
        if opened is not None and opened["scopes"] is not None:
            scopes = frozenset(opened["scopes"])
        owner, of_groups = await asyncio.gather(
            self._one(actors, tenant, row["owner"]), self._groups(tenant, membership["groups"] if membership else ())
        )
        if owner is not None and owner["status"] != "active":
            raise Unauthenticated(f"owner_{owner['status']}")
        holdings = await self._holdings(tenant, actor_id, of_groups.keys(), self._now())
        allowed = ROLES_OF_KIND[ActorKind(row["kind"])]
        return Asker(
            actor=actor_id,
            tenant=tenant,
            roles=allowed & {Role(role) for each in (row, *of_groups.values()) for role in each["roles"]},
            kind=ActorKind(row["kind"]),
            owner=row["owner"],
            domains=_domains([row, *of_groups.values()]),
            holdings=tuple(holding for holding in holdings if holding.role in allowed),
            scopes=scopes,
            tier=Tier(row["tier"]),
            session=session,
            groups=frozenset(of_groups),
        )

    async def _groups(self, tenant: str, direct: Collection[str]) -> dict[str, Row]:
        """The groups that an actor is in, itself or through other groups; what was removed gives nothing and leads nowhere."""
        found: dict[str, Row] = {}
        looked_at: set[str] = set()
        wanted = set(direct)
        for _ in range(LEVELS_MAX):
            if not wanted:
                break
            looked_at |= wanted
            there = {
                group_id: row for group_id, row in (await self._rows(groups, tenant, sorted(wanted))).items() if row["status"] == "active"
            }
            found |= there
            wanted = {outer for row in there.values() for outer in row["around"]} - looked_at
        return found

    async def _one(self, table: ReadTable[Any], tenant: str, row_id: str | None) -> Row | None:
        return None if row_id is None else (await self._rows(table, tenant, [row_id])).get(row_id)


def _domains(given: Sequence[Row]) -> frozenset[str] | None:
    """All that any of them names; None when none of them bounds the actor."""
    bounds = [each["domains"] for each in given if each["domains"] is not None]
    return frozenset(domain for domains in bounds for domain in domains) if bounds else None
