"""The audit trail as it is examined: every action of a stretch of time, from the ledger's own bytes, up to a limit that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from domain.access import OWN_ACTORS
from domain.kernel import JsonObject
from infra.envelope import parse_timestamp
from infra.read_queries import NOBODYS, ListQuery, Reads
from projections.evidence import actions

ACTIONS_MAX: Final = 50_000
SENSITIVE_CONTEXTS: Final = frozenset({"access", "policies"})
SENSITIVE: Final = frozenset({"agents.resume_agent", "approvals.delegate_authority"})
_PAGE_ACTIONS: Final = 1_000
_OUTCOMES: Final = {
    "actions.action_allowed": "allowed",
    "actions.action_blocked": "blocked",
    "actions.action_parked": "requires_approval",
}
_PAGE: Final = """
    SELECT position, body FROM ledger.events
    WHERE tenant = %(tenant)s AND position > %(after)s AND position <= %(to)s AND type = ANY(%(types)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
_Use = tuple[str, str]
"""An actor, and a command it asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One action; `at` is in UTC, `role` its actor's kind and roles then, `high_pii` what datasets of PII level high it was about."""

    action_id: str
    at: datetime
    actor: str
    role: tuple[str, ...]
    command: str
    stream: str
    outcome: str
    high_pii: tuple[str, ...] = ()

    @property
    def use(self) -> _Use:
        return self.actor, self.command


@dataclass(frozen=True, slots=True)
class Trail:
    """Actions in the order they were recorded: all since `begins`, which is later than was asked for if the trail is not `whole`.

    `used_before` holds who had asked for which sensitive command before that.
    """

    entries: Sequence[Entry]
    begins: datetime
    whole: bool = True
    used_before: frozenset[_Use] = frozenset()


def is_sensitive(command: str) -> bool:
    """Whether it changes who may do what."""
    return command in SENSITIVE or command.partition(".")[0] in SENSITIVE_CONTEXTS


async def read_trail(
    reads: Reads, tenant: str, since: datetime, until: datetime, limit: int = ACTIONS_MAX, *, up_to: int | None = None
) -> Trail:
    """A tenant's actions after one moment up to another, or `up_to` a position before that; of more than `limit` the latest ones.

    What Aureus itself asks for is left out: it only follows from what others did.
    """
    (after, to), *_ = await reads.fetch("SELECT ledger.position_at(%s), ledger.position_at(%s)", (since, until), tenant=NOBODYS)
    to = to if up_to is None else min(to, up_to)
    found: list[tuple[int, Entry]] = []
    read, begins = 0, since
    while read < limit:
        wanted = min(_PAGE_ACTIONS, limit - read)
        asked = {"tenant": tenant, "after": after, "to": to, "types": list(_OUTCOMES), "limit": wanted}
        rows = await reads.fetch(_PAGE, asked, tenant=tenant)
        read += len(rows)
        found += [(position, entry) for position, body in rows if (entry := _entry(orjson.loads(body))).actor not in OWN_ACTORS]
        if len(rows) < wanted:
            return await _told(reads, tenant, found, since, whole=True)
        to, begins = rows[-1][0] - 1, parse_timestamp(orjson.loads(rows[-1][1])["at"])
    return await _told(reads, tenant, found, begins, whole=False)


async def _told(reads: Reads, tenant: str, found: list[tuple[int, Entry]], begins: datetime, *, whole: bool) -> Trail:
    """The trail in the order it was recorded. Whether a sensitive command was used before it, the read models know."""
    first: dict[_Use, int] = {}
    for position, entry in found:
        if is_sensitive(entry.command):
            first[entry.use] = position
    before = set()
    for (actor, command), position in sorted(first.items()):
        ever = ListQuery({"actor_id": actor, "action": command}, sort="position", limit=1)
        page = await reads.page(actions, tenant, ever)
        if page.documents and orjson.loads(page.documents[0])["position"] < position:
            before.add((actor, command))
    return Trail([entry for _, entry in reversed(found)], begins.astimezone(UTC), whole, frozenset(before))


def _entry(member: JsonObject) -> Entry:
    data = member["data"]
    intent = data["intent"]
    return Entry(
        action_id=member["stream"].partition(":")[2],
        at=parse_timestamp(member["at"]),
        actor=member["actor"],
        role=(intent["kind"], *intent["roles"]),
        command=intent["command"],
        stream=intent["stream"],
        outcome=_OUTCOMES[member["type"]],
        high_pii=_high_pii(intent, data.get("question")),
    )


def _high_pii(intent: JsonObject, question: JsonObject | None) -> tuple[str, ...]:
    """A tool call names its datasets, each with its level; any other action is about its own stream."""
    if question is None or question["facts"].get("pii_level") != "high":
        return ()
    told: Any = intent["inputs"].get("facts")
    if isinstance(told, list):
        return tuple(f"dataset:{dataset['dataset_id']}" for dataset in told if dataset.get("pii_level") == "high")
    return (intent["stream"],)
