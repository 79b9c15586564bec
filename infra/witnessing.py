"""Having the ledger witnessed: its checkpoints go to witnesses for cosigning, and what they know is compared with what is here.

A witness that knows more of this ledger than we do, or something else, shows that the database was restored to an older state
or rewritten behind it. From then on nothing is written: whatever would be, could be proven to be a second history.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Final

from domain.ledger import LedgerUnavailable
from infra.ledger import Ledger
from infra.measures import Reading
from infra.proofs import Proofs
from infra.sealing import Head
from infra.settings import WitnessPlace
from infra.tasks import ended
from infra.verifier.notes import VerifierKey
from infra.witness_client import DoesNotFollow, NotCosigned, OtherSize, WitnessClient

ROUND_SECONDS: Final = 1.0
"""How often a growing log is submitted."""
FOLLOWER_SECONDS: Final = 10.0
"""The same for a process beside the one that leads: two that submit all the time would hardly ever submit the same checkpoint."""
STALL_SECONDS: Final = 10.0
"""How long a round waits for enough cosignatures on the one checkpoint it is about, before it turns to a later one."""
START_SECONDS: Final = 2.0
"""How long a start waits for the witnesses' word."""
POLL_SECONDS: Final = 2.0
"""How soon it is noticed that another process wrote."""
RETRY_SECONDS: Final = (0.5, 30.0)
"""The first pause after a failure, and the longest."""
_TRIES: Final = 4
_log = logging.getLogger("aureus.witnesses")


@dataclass(slots=True, eq=False)
class Member:
    """One witness: how far it has come, and what is the matter with it."""

    client: WitnessClient
    url: str
    own: bool
    """It is the server's own child, on the same machine: it proves nothing against the operator."""
    size: int = 0
    """The checkpoint it cosigned last, as far as is known."""
    root: bytes = b""
    at: datetime | None = None
    compared: bool = False
    """It has been asked since the start, and what it knows is how this ledger begins."""
    last_error: str | None = None
    contradiction: str | None = None
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> VerifierKey:
        return self.client.key


def witness_id(key: VerifierKey) -> str:
    """How a witness is named beside its cosignatures: name and key id, which no two keys share by accident."""
    return f"{key.name}+{key.key_id.hex()}"


class Witnessing:
    """Keeps a ledger's checkpoints cosigned. All witnesses of a round are given one checkpoint, so that it gathers enough."""

    def __init__(
        self,
        ledger: Ledger,
        proofs: Proofs,
        places: Sequence[WitnessPlace],
        required: int,
        *,
        every_seconds: float = ROUND_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger, self._proofs, self.required = ledger, proofs, required
        self._every_seconds, self._clock = every_seconds, clock
        self.members: list[Member] = []
        self._target: Head | None = None
        self._enough, self._grown = asyncio.Event(), asyncio.Event()
        self._started = asyncio.get_running_loop().time()
        ledger.on_commit.append(lambda _size: self._grown.set())
        self._tasks: list[asyncio.Task[None]] = []
        for place in places:
            self.add(place)

    def add(self, place: WitnessPlace, *, own: bool = False) -> None:
        """Takes a witness in, or learns where one that it has is now."""
        for member in self.members:
            if member.key == place.key:
                self._tasks.append(asyncio.create_task(member.client.close()))
                member.client, member.url = WitnessClient(place), place.url
                return
        if not self.members:
            self._tasks.append(asyncio.create_task(self._rounds(), name="witness-rounds"))
        member = Member(WitnessClient(place), place.url, own)
        self.members.append(member)
        self._tasks.append(asyncio.create_task(self._follow(member), name=f"witness-{place.key.name}"))

    async def asked(self) -> None:
        """Waits until every witness was asked once, but not longer than a start may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._started + START_SECONDS):
                for member in self.members:
                    await member.tried.wait()

    async def close(self) -> None:
        await ended(*self._tasks)
        for member in self.members:
            await member.client.close()

    async def witnessed(self) -> int:
        """Size of the latest checkpoint that enough witnesses cosigned; 0 when there is none."""
        return await self._ledger.store.latest_cosigned([witness_id(member.key) for member in self.members], self.required)

    def readings(self) -> Iterable[Reading]:
        """How far the witnesses are behind, for a scraper."""
        for member in self.members:
            lag_events = max(self._ledger.head.size - member.size, 0)
            since = (self._clock() - member.at).total_seconds() if member.at else inf
            yield "aureus_witness_lag_events", (member.key.name,), lag_events
            yield "aureus_witness_lag_seconds", (member.key.name,), since if lag_events else 0
            yield "aureus_witness_contradicts", (member.key.name,), int(member.contradiction is not None)

    # -- rounds

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._grown.clear()
            with suppress(LedgerUnavailable):
                head = await self._ledger.refresh()
                if self._target is None or (head.size, head.root) != (self._target.size, self._target.root):
                    self._aim_at(head)
                    await self._round()
                    await asyncio.sleep(max(0.0, began + self._every_seconds - loop.time()))
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._grown.wait()

    def _aim_at(self, head: Head) -> None:
        self._target = head
        self._enough.clear()
        for member in self.members:
            member.wake.set()

    async def _round(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STALL_SECONDS):
                await self._enough.wait()

    # -- one witness

    async def _follow(self, member: Member) -> None:
        """Has a witness cosign each round's checkpoint, for as long as it does not contradict."""
        pause, longest = RETRY_SECONDS
        while member.contradiction is None:
            member.wake.clear()
            head = self._target
            if head is None or (member.compared and (member.size, member.root) == (head.size, head.root)):
                await member.wake.wait()
                continue
            try:
                await self._submit(member, head)
                member.last_error, pause = None, RETRY_SECONDS[0]
            except Exception as error:  # noqa: BLE001 - ended, it would leave the ledger unwitnessed, and nobody would know
                self._failed(member, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all servers come at once
                pause = min(2 * pause, longest)

    async def _submit(self, member: Member, head: Head) -> None:
        """Has it cosign a checkpoint, from the size it turns out to know. Raises NotCosigned or LedgerUnavailable."""
        if not member.compared and member.size == 0:
            known = await self._ledger.store.cosigned_by(witness_id(member.key))
            member.size, member.at = (known.size, known.at) if known else (0, None)
        old = min(member.size, head.size)
        for _ in range(_TRIES):
            proof = (await self._proofs.consistency(old, head.size)).hashes if old else []
            try:
                cosignature = await member.client.add_checkpoint(old, proof, head.note, self._clock())
            except OtherSize as other:
                if other.size > head.size:
                    head = await self._ledger.refresh()  # another process may have written, and submitted, meanwhile
                    self._aim_at(head)
                    if other.size > head.size:
                        return self._behind(member, other.size, head.size)
                old = other.size
            except DoesNotFollow as error:
                return await self._forked(member, old, head, str(error))
            else:
                await self._ledger.store.cosign(head.size, witness_id(member.key), cosignature.line, cosignature.at)
                return self._cosigned(member, head, cosignature.at)
        raise NotCosigned("it said another size each time it was asked")

    def _failed(self, member: Member, error: Exception) -> None:
        if str(error) != member.last_error:
            expected = isinstance(error, NotCosigned | LedgerUnavailable)
            _log.warning("the witness %s does not cosign: %s", member.key.name, error, exc_info=None if expected else error)
        member.last_error = str(error)
        member.tried.set()

    def _cosigned(self, member: Member, head: Head, at: datetime) -> None:
        member.size, member.root, member.at, member.compared = head.size, head.root, at, True
        member.tried.set()
        assert self._target is not None
        if sum(one.size == self._target.size for one in self.members) >= self.required:
            self._enough.set()

    # -- contradictions

    def _behind(self, member: Member, theirs: int, ours: int) -> None:
        member.size = theirs
        message = (
            f"The witness {member.key.name} has cosigned {theirs} events of this ledger, and the database ends at {ours}: "
            "it was restored to an older state, or cut off."
        )
        self._contradicted(member, "ledger_behind_witness", message, f"Restore the database as it was at {theirs} events or later")

    async def _forked(self, member: Member, old: int, head: Head, why: str) -> None:
        if not old:
            raise NotCosigned(f"it refuses to begin: {why}")
        if await self._proofs.root(old) == await member.client.root_at(self._ledger.name, old):
            # It cosigned the very root that we have: a proof from there that holds is refused by a witness that is broken.
            raise NotCosigned(f"it refuses a checkpoint that follows from the one it shows: {why}")
        member.size = old
        message = (
            f"The witness {member.key.name} has cosigned {old} events of this ledger, and the {head.size} in the database do not begin "
            "with them: it was restored to an older state and written to, or rewritten."
        )
        self._contradicted(member, "ledger_forked", message, f"Restore the database that held the {old} events the witness saw")

    def _contradicted(self, member: Member, code: str, message: str, restore: str) -> None:
        remedy = (
            f"{restore}, and start again. If it is lost, take this witness out of AUREUS_WITNESSES: then the ledger goes on, and whoever "
            "holds a later checkpoint can prove that it was cut."
        )
        member.contradiction = message
        self._ledger.refuse(LedgerUnavailable(code, message, remedy))
        _log.critical("nothing is written any more: %s %s", message, remedy)
        member.tried.set()
