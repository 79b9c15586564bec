"""Planning a pack: which checkpoint it hangs on, where its period lies in the log, and the committed index that proves it whole."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol

from domain.exports import IndexCommitted
from domain.kernel import Event, JsonObject, Recorded, timestamp
from domain.keys import KEY_STREAM, SYSTEM_TENANT
from infra.ledger import Ledger
from infra.packing.erased import erased_in
from infra.packing.plan import BuildFailed, Plan
from infra.packing.process import APART_EVENTS, Job, Told, run
from infra.topic_index import Absent, IndexRoot, Standing, TopicIndex
from infra.verifier.topics import RULES, topics_of_selection

WITNESS_SECONDS: Final = 20.0
"""How long a pack waits for witnesses to cosign what it holds; without them it is written all the same, and verifying it says so."""
ERASURE_SECONDS: Final = 60.0
"""How long a pack waits for an erasure under way to be certified."""
ATTEMPTS: Final = 3
_POLL_SECONDS: Final = 0.2
_TICK: Final = timedelta(microseconds=1)


class Witnesses(Protocol):
    """Who cosigns the checkpoints: `infra.witnessing.Witnessing`."""

    @property
    def members(self) -> Sequence[object]: ...

    async def witnessed(self) -> int: ...


Commit = Callable[[str, IndexRoot, Recorded[Event]], Awaitable[int]]
"""commit(tenant, root, the keys' head then) -> position of the event that committed it. Raises BuildFailed."""


@dataclass(frozen=True, slots=True)
class Committed:
    """An index that the ledger holds: the event, and where it stands."""

    position: int
    event: IndexCommitted


class Planner:
    """Plans packs, and keeps the index of each tenant committed."""

    def __init__(self, ledger: Ledger, dsn: str, witnesses: Witnesses, commit: Commit) -> None:
        self._ledger, self._dsn, self._witnesses, self._commit = ledger, dsn, witnesses, commit
        self.index = TopicIndex(dsn)

    async def plan(self, tenant: str, row: JsonObject, told: Told) -> Plan:
        """The plan of a requested export, of which `row` is the row in the read models. Raises BuildFailed."""
        selection = _selection(row["selection"])
        alone = set(await asyncio.to_thread(self.index.tenants)) <= {tenant, SYSTEM_TENANT}
        everything = row["everything"] and alone
        after = await self._before(selection["from"]) if selection["from"] else 0
        end = await self._before(selection["to"]) if selection["to"] else None
        index, at_least = None, row["requested_position"]
        if not everything:
            # Whoever shares a ledger with others gets everything as a selection: positions of others prove nothing to them.
            index = await self._index(tenant, at_least if end is None else end, selection, told)
            at_least = index["position"]
        erasures, certified_at = await self._certified(tenant)
        size = await self._checkpoint(max(at_least, certified_at))
        horizon = size if index is None else index["size"]
        until = max(after, horizon if end is None else min(end, horizon))
        note = await self._ledger.store.note(size)
        assert note is not None, "every size that was committed has a checkpoint"
        stamps = await self._ledger.store.stamps(size)
        return Plan(
            export_id=row["export_id"],
            tenant=tenant,
            ledger=self._ledger.name,
            recipient=row["recipient"],
            created_at=timestamp(datetime.now(UTC)),
            software=_software(),
            scope="everything" if everything else "selection",
            selection=selection,
            profile={
                "name": row["profile"]["name"],
                "disclose": row["profile"]["disclose"],
                "withhold_types": row["profile"]["withhold_types"],
            },
            views=tuple(row["views"]),
            artifacts=row["artifacts"],
            after=after,
            until=until,
            checkpoint_size=size,
            checkpoint=b"".join([note, *await self._ledger.store.cosignatures(size)]).decode(),
            timestamps={stamp.authority: base64.b64encode(stamp.token).decode() for stamp in stamps},
            service_key=self._ledger.sealer.signers.service.key_id,
            erasures=erasures,
            index=index,
        )

    async def erasures(self, tenant: str) -> int:
        """How many erasures a tenant has seen, done or under way."""
        return len(await asyncio.to_thread(erased_in, self._dsn, tenant))

    async def _certified(self, tenant: str) -> tuple[int, int]:
        """(how many erasures, the last certificate's position), once all of them are certified. Raises BuildFailed."""
        deadline = asyncio.get_running_loop().time() + ERASURE_SECONDS
        while True:
            found = await asyncio.to_thread(erased_in, self._dsn, tenant)
            if all(one.certificate for one in found):
                return len(found), max((one.certificate or 0 for one in found), default=0)
            if asyncio.get_running_loop().time() >= deadline:
                raise BuildFailed("erasure_under_way", "Somebody is being erased: ask for it again once that is certified.")
            await asyncio.sleep(_POLL_SECONDS)

    async def commit_index(self, tenant: str, told: Told) -> Committed:
        """Commits the index of all that there is. Raises BuildFailed."""
        root = await self._brought_forward(tenant, (await self._ledger.refresh()).size, told)
        keys = await self._ledger.read_stream(SYSTEM_TENANT, KEY_STREAM)
        known = [recorded for recorded in keys if recorded.position <= root.size]
        await self._commit(tenant, root, known[-1])
        committed = await self.committed(tenant)
        assert committed is not None
        return committed

    async def committed(self, tenant: str) -> Committed | None:
        """The index that was committed last."""
        heads = await self._ledger.store.stream_heads([(tenant, f"index:{tenant}")])
        if not heads:
            return None
        ((last, _),) = heads.values()
        (recorded,) = await self._ledger.read_stream(tenant, f"index:{tenant}", last - 1)
        assert isinstance(recorded.event, IndexCommitted)
        return Committed(recorded.position, recorded.event)

    async def _brought_forward(self, tenant: str, size: int, told: Told) -> IndexRoot:
        committed = await self.committed(tenant)
        apart = size - (committed.event.size if committed else 0) >= APART_EVENTS
        result = await run(Job("index", self._dsn, tenant=tenant, size=size, apart=apart), told)
        return IndexRoot(result["size"], result["topics"], bytes.fromhex(result["root"]))

    async def _index(self, tenant: str, wanted: int, selection: JsonObject, told: Told) -> JsonObject:
        """A committed index that covers positions up to `wanted`, as a manifest tells of it."""
        base, within = topics_of_selection(selection)
        committed = await self.committed(tenant)
        for _ in range(ATTEMPTS):
            if committed is not None and committed.event.rules == RULES and committed.event.size >= wanted:
                root, standings = await asyncio.to_thread(self.index.standings, tenant, [*base, *within])
                if root.size == committed.event.size:
                    return _told(committed, root, standings)
            # The one there is ends too early, or the index went on after it: its paths cannot be told any more.
            committed = await self.commit_index(tenant, told)
        raise BuildFailed("index_moves", "Somebody else commits the index again and again: let one Aureus do it.")

    async def _checkpoint(self, at_least: int) -> int:
        """The size of a checkpoint that covers a position and all keys; one that enough witnesses cosigned, if there are witnesses."""
        keys = (await self._ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))[-1].position
        at_least = max(at_least, keys)
        deadline = asyncio.get_running_loop().time() + WITNESS_SECONDS
        while self._witnesses.members and asyncio.get_running_loop().time() < deadline:
            if (size := await self._witnesses.witnessed()) >= at_least:
                return size
            await asyncio.sleep(_POLL_SECONDS)
        return (await self._ledger.refresh()).size

    async def _before(self, moment: str) -> int:
        """The last position of before a moment."""
        return await self._ledger.store.position_at(datetime.fromisoformat(moment) - _TICK)


def _selection(chosen: JsonObject) -> JsonObject:
    """As a manifest says it: every member, and times as events have them."""

    def moment(name: str) -> str | None:
        return timestamp(datetime.fromisoformat(chosen[name])) if chosen.get(name) else None

    named = {name: chosen.get(name, []) for name in ("datasets", "agents", "actors", "policies", "jurisdictions")}
    return {**named, "from": moment("starts_at"), "to": moment("ends_at")}


def _told(committed: Committed, root: IndexRoot, standings: list[Standing | Absent]) -> JsonObject:
    event = committed.event
    if (root.topics, root.root.hex()) != (event.topics, event.root):
        raise BuildFailed("index_differs", "The index is not the one that was committed: run `aureus log fsck --repair`.")
    topics = [stands.to_json() for stands in standings]
    return {"position": committed.position, "size": event.size, "topics_count": event.topics, "topics": topics}


def _software() -> str:
    try:
        return f"aureus {version('aureus')}"
    except PackageNotFoundError:
        return "aureus"
