"""The eraser: carries out the erasures that were ordered, one after another, and certifies each when nothing of it is left.

One process at a time does it. Killed at any point it does it all again from the order on: what is destroyed already stays so, and
is counted once. It also orders what the retention rules have erased, and lets those who were reopened be recorded again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from commands.exports import WithdrawPack
from commands.path import Ask, CommandPath
from commands.subjects import HOLD_REGISTER, HOLDS, SUBJECTS, BeginErasure, CertifyErasure, EraseSubject
from domain.kernel import Command, JsonObject
from domain.subjects import ErasureOrdered, Order, Subject
from infra.blobs import BlobStore
from infra.ledger import Ledger
from infra.packing.plan import Plan
from infra.packing.shelf import Shelf
from infra.postgres_store import PostgresStore
from infra.read_queries import Reads
from infra.retention import DueErasure, due
from infra.scim_users import ScimUsers
from infra.traces import Traces
from infra.vault import Erased
from projections.exports import exports
from projections.subjects import retention_rules, subjects
from streams.asking import Reply, ask_of, ask_patiently, replayed
from streams.leading import Connection, lead
from streams.packs_lock import packs_held
from streams.progress import Progress
from streams.reactions import Retries, asker

ERASER_LOCK: Final = 7_283_670
IDLE_SECONDS: Final = 0.2
RETENTION_SECONDS: Final = 60.0
STUCK_SECONDS: Final = 5.0
LONGEST_STUCK_SECONDS: Final = 3_600.0
"""After a failure that is this erasure's own, as when the store of its artifacts is away: others go on. Twice as long each time."""
_PATIENCE: Final = Retries(attempts=3)
_log = logging.getLogger("aureus.erasures")


class NotOnRecord(Exception):
    """A step is to be put on record, and the command path would not have it."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """An erasure that is under way: whose, where it was ordered, and how the subject stands."""

    tenant: str
    subject_id: str
    position: int
    subject: Subject
    order: Order

    @property
    def id(self) -> str:
        """Of its certificate to come."""
        return f"{self.subject_id}.{self.position}"


class Eraser:
    """Runs until cancelled."""

    def __init__(
        self,
        ledger: Ledger,
        dsn: str,
        path: CommandPath,
        reads: Reads,
        progress: Progress,
        shelf: Shelf,
        blobs: BlobStore,
        scim: ScimUsers,
    ) -> None:
        assert isinstance(ledger.store, PostgresStore), "what is erased lies in PostgreSQL"
        self._ledger, self._dsn, self._path, self._reads, self._shelf, self._blobs = ledger, dsn, path, reads, shelf, blobs
        self._scim = scim
        self._store, self._progress = ledger.store, progress
        self._traces = Traces(reads, self._store.pool, shelf)
        self._stuck: dict[tuple[str, str], tuple[float, float]] = {}
        """Until when those are left alone that could not go on, and for how many seconds that was."""
        self._refusals: Counter[str] = Counter()
        self._reopened: set[tuple[str, str, str]] = set()

    async def run(self) -> None:
        """Waits to be the one, then erases."""
        await lead(self._dsn, ERASER_LOCK, "erasures", self._lead)

    async def _lead(self, connection: Connection) -> None:
        look_at = 0.0
        while True:
            for tenant in await self._reads.tenants(subjects):
                for row in await self._traces.rows(subjects, tenant, {"status": ["ordered", "erasing", "reopened"]}):
                    await self._see_to(connection, tenant, row)
            if asyncio.get_running_loop().time() >= look_at:
                await self._order_what_is_due()
                look_at = asyncio.get_running_loop().time() + RETENTION_SECONDS
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost
            await self._progress.rest(IDLE_SECONDS)

    async def _see_to(self, connection: Connection, tenant: str, row: JsonObject) -> None:
        key, now = (tenant, row["subject_id"]), asyncio.get_running_loop().time()
        until, pause = self._stuck.get(key, (0.0, STUCK_SECONDS / 2))
        if row["status"] == "reopened":
            await self._reopen(tenant, row)
        elif until <= now:
            try:
                await self._erase(connection, tenant, row["subject_id"])
                self._stuck.pop(key, None)
            except Exception as error:
                _log.warning("the erasure of %s cannot go on: %s", row["subject_id"], error, exc_info=not isinstance(error, NotOnRecord))
                pause = min(2 * pause, LONGEST_STUCK_SECONDS)
                self._stuck[key] = (now + pause, pause)
                if connection.closed:
                    raise

    async def _reopen(self, tenant: str, row: JsonObject) -> None:
        key = (tenant, row["subject_id"], row["changed_at"])
        if key not in self._reopened:
            await self._store.vault.reopen(self._store.pool, tenant, row["subject_id"])
            self._reopened.add(key)

    async def _erase(self, connection: Connection, tenant: str, subject_id: str) -> None:
        """Carries an order out as far as that goes now. The ledger itself says how it stands, for the read models may be behind."""
        subject, history = await replayed(self._ledger, SUBJECTS, tenant, f"{SUBJECTS.category}:{subject_id}")
        if subject.order is None:
            return
        position = max(recorded.position for recorded in history if isinstance(recorded.event, ErasureOrdered))
        ordered = Ordered(tenant, subject_id, position, subject, subject.order)
        if subject.order.begun or await self._begin(ordered):
            await self._carry_out(connection, ordered)

    async def _begin(self, ordered: Ordered) -> bool:
        """Whether no hold prevents it; on record, so that from here on none does: a hold is either before this, or comes too late."""
        holds, history = await replayed(self._ledger, HOLD_REGISTER, ordered.tenant, HOLDS)
        if holds.on(ordered.subject_id, datetime.now(UTC)):
            return False
        begin = BeginErasure(subject_id=ordered.subject_id, ordered_position=ordered.position)
        reply = await self._ask(ordered.tenant, begin, f"begin:{ordered.id}:{len(history)}")
        if reply.ended != "done" and reply.code != "subject_under_hold":
            raise NotOnRecord(f"{begin.command_name} was {reply.ended} ({reply.code}): {reply.message}")
        return reply.ended == "done"

    async def _carry_out(self, connection: Connection, ordered: Ordered) -> None:
        purposes = ordered.order.purposes
        await self._read_models_caught_up()
        async with packs_held(connection):
            erased = await self._store.vault.erase(self._store.pool, ordered.tenant, ordered.subject_id, purposes or None, ordered.position)
            await self._scim.erase(ordered.tenant, ordered.subject_id, purposes)
            await asyncio.to_thread(self._destroy_unfinished_packs, ordered.tenant)
            gone, kept = await self._destroy_artifacts(ordered)
            packs = await self._withdraw_packs(ordered, gone)
        await self._certify(ordered, erased, gone, kept, packs)

    async def _destroy_artifacts(self, ordered: Ordered) -> tuple[list[str], list[str]]:
        """(destroyed, kept): bytes that hold data about somebody else as well wait for the last of them."""
        gone, kept = [], []
        row = {"subject_id": ordered.subject_id, "artifact_purposes": dict(ordered.subject.artifacts)}
        for artifact in await self._traces.attached(ordered.tenant, row, ordered.order.purposes):
            if artifact.also_of:
                kept.append(artifact.sha256)
            else:
                await self._blobs.delete(artifact.sha256)
                gone.append(artifact.sha256)
        return gone, kept

    def _destroy_unfinished_packs(self, tenant: str) -> None:
        """What is half written may show the subject already; it is planned again from the start, and shows them no more."""
        for folder in self._shelf.working():
            plan = Plan.load(folder)
            if plan is not None and plan.tenant == tenant and (plan.profile["disclose"] or plan.artifacts):
                self._shelf.destroy(folder)

    async def _withdraw_packs(self, ordered: Ordered, artifacts: Sequence[str]) -> list[str]:
        """The exports whose packs showed something of it. On record first: killed before the file is gone, it is found again."""
        for row in await self._traces.packs(ordered.tenant, ordered.subject_id, ordered.order.purposes, set(artifacts)):
            command = WithdrawPack(
                export_id=row["export_id"], sha256=row["sha256"], subject_id=ordered.subject_id, ordered_position=ordered.position
            )
            await self._require(ordered.tenant, command, f"withdraw:{ordered.id}:{row['export_id']}")
        await self._read_models_caught_up()
        withdrawn = await self._traces.rows(exports, ordered.tenant, {"certificate_id": ordered.id})
        for row in withdrawn:
            await asyncio.to_thread(self._shelf.remove, row["sha256"])
        return sorted(row["export_id"] for row in withdrawn)

    async def _certify(self, ordered: Ordered, erased: Erased, gone: Sequence[str], kept: Sequence[str], packs: Sequence[str]) -> None:
        command = CertifyErasure(
            subject_id=ordered.subject_id,
            ordered_position=ordered.position,
            until=erased.until,
            purposes=erased.purposes,
            fields=erased.fields,
            keys=erased.keys,
            artifacts=tuple(gone),
            kept_artifacts=tuple(kept),
            export_ids=tuple(packs),
        )
        await self._require(ordered.tenant, command, f"certify:{ordered.id}")
        await self._read_models_caught_up()
        _log.info(
            "%s is erased: %d fields, %d keys, %d artifacts, %d packs",
            ordered.subject_id,
            erased.fields,
            erased.keys,
            len(gone),
            len(packs),
        )

    async def _order_what_is_due(self) -> None:
        """Once a month at most for the same values: somebody may have said no to it."""
        now = datetime.now(UTC)
        for tenant in await self._reads.tenants(retention_rules):
            found: dict[str, list[DueErasure]] = {}
            for one in await due(self._traces, tenant, now):
                if not one.holds:
                    found.setdefault(one.subject_id, []).append(one)
            for subject_id, dues in found.items():
                command = EraseSubject(subject_id=subject_id, purposes=tuple(sorted(one.purpose for one in dues)), ground="retention")
                last = max(one.last_position for one in dues)
                await self._ask(tenant, command, f"retention:{subject_id}:{','.join(command.purposes)}:{last}:{now:%Y-%m}")

    async def _require(self, tenant: str, command: Command, key: str) -> None:
        reply = await self._ask(tenant, command, key)
        if reply.ended != "done":
            raise NotOnRecord(f"{command.command_name} was {reply.ended} ({reply.code}): {reply.message}")

    async def _ask(self, tenant: str, command: Command, key: str) -> Reply:
        """Once per cause: after a kill the same is asked for again, and answered from memory. What was refused is asked anew."""
        again = self._refusals[key]

        def asking(attempt_key: str) -> Ask:
            return ask_of(command, asker(tenant), attempt_key, "The eraser.", carry_out=isinstance(command, EraseSubject))

        reply, _ = await ask_patiently(self._path, asking, f"erasures:{key}:{again}", frozenset(), _PATIENCE)
        if reply.ended == "refused":
            self._refusals[key] += not isinstance(command, EraseSubject)
        if reply.ended not in ("done", "parked"):
            _log.warning("%s was %s (%s)", command.command_name, reply.ended, reply.code)
        return reply

    async def _read_models_caught_up(self) -> None:
        """What they say of artifacts and packs must not be behind what was recorded before now."""
        await self._progress.beyond((await self._ledger.refresh()).size - 1)
