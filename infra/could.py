"""What would have become of a command then: decided on a ledger that ends at a past position, by the code that decides now.

Nothing is written. Who has a key of its own is taken to have signed; nobody gives a reason, brings evidence, or asks much in that minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from commands.policies import DECIDER as POLICIES
from commands.policy import ENGINE
from domain.actions import RequestSignature
from domain.catalog import DatasetRefreshed, UsageRecorded
from domain.kernel import AnyDecider, Asker, Command, Recorded, timestamp
from domain.keys import KEY_STREAM, SYSTEM_TENANT, holder_of, ring_of
from domain.ledger import Append, Receipt, StreamKey
from domain.policies import PolicySet
from domain.values import uuid7, uuid7_text
from infra.envelope import recorded
from infra.policy_panel import PASSING
from infra.policy_sets import STREAM, GovernedPolicies
from infra.read_queries import Reads

TIME_LIMIT_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 1.0
AT_ONCE: Final = 2
"""Questions that may be asked of the past at the same time: each has policy workers of its own."""
IN_FLIGHT: Final = 64
_SLICE_EVENTS: Final = 256
_SIGNATURE: Final = "A" * 86 + "=="
_MANY_AND_MUTE: Final = (UsageRecorded.event_name, DatasetRefreshed.event_name)
"""A dataset may have thousands of these, and no decision on reading it looks at them; freshness is read from the read models."""
_STREAMS: Final = """
    SELECT event.position, event.body, event.leaf
    FROM unnest(%(streams)s::text[]) AS wanted(stream)
    CROSS JOIN LATERAL (SELECT ledger.version_at(%(tenant)s, wanted.stream, %(position)s) AS version) AS last
    JOIN ledger.events AS event ON event.tenant = %(tenant)s AND event.stream = wanted.stream AND event.version <= last.version
    WHERE event.type <> ALL(%(mute)s) OR event.version = last.version
    ORDER BY event.stream, event.version
"""
_places = asyncio.Semaphore(AT_ONCE)


class PoliciesSilent(Exception):
    """The policies of that time did not answer, for want of time or of a worker; it says nothing about what they would have said."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Somebody's command, as it could have been asked then."""

    by: Asker
    command: Command
    approval_id: str | None = None


class PastLedger:
    """A ledger as the command path needs it, that ends at a position: what is decided on it is never written."""

    def __init__(self, reads: Reads, name: str, position: int) -> None:
        self._reads, self._name, self._position = reads, name, position
        self._streams: dict[StreamKey, list[Recorded[Any]]] = {}

    @property
    def name(self) -> str:
        return self._name

    def enqueue(self, append: Append) -> Awaitable[Receipt]:
        raise AssertionError(f"nothing is written into the past: {append.writes[0].stream}")

    async def remembered(self, _tenant: str, _key: str) -> None:
        return None

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        if (tenant, stream) not in self._streams:
            await self.load(tenant, [stream])
        return [event for event in self._streams[tenant, stream] if event.version > after_version]

    def assume_new(self, tenant: str, stream: str) -> None:
        """A stream of a name that was made up just now: nobody need look it up."""
        self._streams[tenant, stream] = []

    async def load(self, tenant: str, streams: Iterable[str]) -> None:
        """Reads many streams at once, up to the position; what their signed bodies say counts, not the rows' columns."""
        wanted = [stream for stream in dict.fromkeys(streams) if (tenant, stream) not in self._streams]
        if not wanted:
            return
        arguments = {"tenant": tenant, "streams": wanted, "position": self._position, "mute": list(_MANY_AND_MUTE)}
        rows = await self._reads.fetch(_STREAMS, arguments, tenant=tenant)
        self._streams.update({(tenant, stream): [] for stream in wanted})
        for index, (position, body, leaf) in enumerate(rows):
            if index % _SLICE_EVENTS == _SLICE_EVENTS - 1:
                await asyncio.sleep(0)
            event = recorded(position, bytes(body), bytes(leaf))
            self._streams[event.tenant, event.stream].append(event)


class PastPath:
    """The command path at a position and a moment, for one tenant."""

    def __init__(self, ledger: PastLedger, policy: GovernedPolicies, deciders: Iterable[AnyDecider], tenant: str, at: datetime) -> None:
        self.ledger = ledger
        self._policy, self._tenant, self._at = policy, tenant, at
        # No key can be used again now to sign what was never asked: that it is the right one is all there is to check.
        self._path = CommandPath(ledger, policy, deciders, lambda _public, _message, _signature: True)
        self._keys: dict[str, str] | None = None

    @property
    def commands(self) -> dict[str, type[Command]]:
        """Every command by its name."""
        return dict(self._path.commands)

    async def policies(self) -> tuple[str, PolicySet]:
        """The policies in force then, with the id that decisions record; while a tenant had none of its own, those shipped."""
        adopted = POLICIES.replay(event.event for event in await self.ledger.read_stream(self._tenant, STREAM))
        return await self._path.policy_version(self._tenant), adopted if adopted.adopted else self._policy.shipped

    async def judge(self, asked: Sequence[Asking]) -> list[Outcome]:
        """What would have become of each; raises PoliciesSilent when that cannot be told."""
        outcomes: list[Outcome] = []
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                for start in range(0, len(asked), IN_FLIGHT):
                    outcomes += await asyncio.gather(*(self._judged(one) for one in asked[start : start + IN_FLIGHT]))
                    await asyncio.sleep(0)
        except TimeoutError:
            raise PoliciesSilent(f"they took longer than {TIME_LIMIT_S:.0f} seconds") from None
        return outcomes

    async def _judged(self, one: Asking) -> Outcome:
        ask = Ask(one.command, one.by, uuid7(), self._at, approval_id=one.approval_id, signature=await self._signature(one.by.actor))
        outcome = await self._path.rehearse(ask)
        first = outcome.policy_results[0] if outcome.policy_results else {}
        if first.get("policy") == ENGINE and first["reason"] in PASSING:
            raise PoliciesSilent(f"the engine said {first['reason']!r}")
        return outcome

    async def _signature(self, actor: str) -> RequestSignature | None:
        """What stands for the signature of somebody who had a key of their own then."""
        if self._keys is None:
            ring = ring_of(event.event for event in await self.ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))
            self._keys = {holder: keys[-1].key_id for holder, keys in ring.by_actor.items()}
        key_id = self._keys.get(holder_of(self._tenant, actor))
        if key_id is None:
            return None
        return RequestSignature(key_id=key_id, nonce=uuid7_text(), at=timestamp(self._at), sig=_SIGNATURE)


@asynccontextmanager
async def open_past(
    reads: Reads, ledger: str, policy: GovernedPolicies, deciders: Iterable[AnyDecider], tenant: str, position: int, at: datetime
) -> AsyncIterator[PastPath]:
    """The command path of a tenant as it stood; with policy workers of its own, which end with it."""
    async with _places:
        aside = policy.aside(ANSWER_TIMEOUT_S)
        try:
            yield PastPath(PastLedger(reads, ledger, position), aside, deciders, tenant, at)
        finally:
            await aside.close()
