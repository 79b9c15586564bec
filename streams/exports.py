"""The exporter: writes the packs that were asked for, one after another, and commits the index of each tenant from time to time.

One process at a time does it. Whatever ends it, it goes on where it was: a pack's plan and its finished members are on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from commands.exports import CommitIndex, FailExport, SealExport
from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from domain.kernel import Command, Event, JsonObject, Recorded
from domain.keys import SYSTEM_TENANT
from domain.ledger import EventSigner, LedgerUnavailable
from domain.values import uuid7
from infra.ledger import Ledger
from infra.packing.plan import BuildFailed, Plan
from infra.packing.planning import Planner, Witnesses
from infra.packing.process import APART_EVENTS, Job, ProcessEnded, run
from infra.packing.shelf import Shelf
from infra.read_queries import Reads
from infra.settings import Settings
from infra.tasks import ended
from infra.topic_index import IndexRoot
from infra.verifier.topics import RULES
from projections.exports import exports
from streams.leading import Connection, lead
from streams.packs_lock import packs_held
from streams.progress import Progress
from streams.reactions import asker
from streams.reactor import Rows

EXPORTS_LOCK: Final = 7_283_646
IDLE_SECONDS: Final = 0.2
WATCH_SECONDS: Final = 0.5
ATTEMPTS: Final = 3
"""How often a process that builds may die before its export is given up."""
_PROGRESS: Final = """
    INSERT INTO packing.progress (tenant, export_id, phase, done, total) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (tenant, export_id) DO UPDATE SET phase = excluded.phase, done = excluded.done, total = excluded.total, at = now()
"""
_log = logging.getLogger("aureus.exports")


@dataclass(frozen=True)
class Outside:
    """What packs are made of besides the ledger: what opens the vault, and where artifacts are kept; the settings say where both are."""

    settings: Settings

    def job(self, dsn: str, folder: Path, plan: Plan) -> Job:
        return Job(
            "build",
            dsn,
            folder=str(folder),
            keys_dir=str(self.settings.keys_dir),
            vault_keys_url=self.settings.vault_keys_url or "",
            blobs_dir=str(self.settings.blobs_dir),
            s3=asdict(self.settings.s3) if self.settings.s3 else None,
            apart=bool(plan.views) or plan.horizon >= APART_EVENTS,
        )


class Exporter:
    """Runs until cancelled."""

    def __init__(
        self,
        ledger: Ledger,
        dsn: str,
        path: CommandPath,
        reads: Reads,
        progress: Progress,
        shelf: Shelf,
        witnesses: Witnesses,
        outside: Outside,
    ) -> None:
        self._ledger, self._dsn, self._path, self._shelf, self._outside = ledger, dsn, path, shelf, outside
        self._reads, self._rows, self._progress = reads, Rows(reads), progress
        self._planner = Planner(ledger, dsn, witnesses, self._commit)
        self._deaths: dict[tuple[str, str], int] = {}
        self._refused: set[tuple[str, str]] = set()
        """Those whose end the policies would not put on record: building them again would change nothing."""

    async def run(self) -> None:
        """Waits to be the one, then writes packs."""
        await lead(self._dsn, EXPORTS_LOCK, "exports", self._lead)

    async def _lead(self, connection: Connection) -> None:
        every_seconds = self._outside.settings.index_minutes * 60
        due = asyncio.get_running_loop().time() + every_seconds
        while True:
            wanted = await self._requested()
            self._tidy(wanted)
            for tenant, export_id in wanted:
                await self._export(connection, tenant, export_id)
            if asyncio.get_running_loop().time() >= due:
                await self._commit_indexes()
                due = asyncio.get_running_loop().time() + every_seconds
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost
            await self._progress.rest(IDLE_SECONDS)

    async def _requested(self) -> list[tuple[str, str]]:
        """(tenant, export id) of those that wait, the longest first."""
        found = []
        for tenant in await self._rows.tenants(exports):
            rows = await self._rows.rows(exports, tenant, {"status": "requested"})
            found += [(row["requested_position"], tenant, row["export_id"]) for row in rows]
        waiting = [(tenant, export_id) for _, tenant, export_id in sorted(found)]
        return [one for one in waiting if one not in self._refused]

    def _tidy(self, wanted: Sequence[tuple[str, str]]) -> None:
        """Nobody waits any more for what lies half written."""
        kept = {self._shelf.working_folder(*one) for one in wanted}
        for folder in self._shelf.working():
            if folder not in kept:
                self._shelf.discard(folder)

    async def _export(self, connection: Connection, tenant: str, export_id: str) -> None:
        """Writes one pack, and says what became of it; gives up when it is cancelled meanwhile."""
        work = asyncio.create_task(self._pack(connection, tenant, export_id), name=f"export-{export_id}")
        try:
            while not work.done():
                await asyncio.wait([work], timeout=WATCH_SECONDS)
                row = await self._rows.row(exports, tenant, export_id)
                if not work.done() and (row is None or row["status"] == "cancelled"):
                    break
        finally:
            await ended(work)
        if work.cancelled():
            self._shelf.discard(self._shelf.working_folder(tenant, export_id))
            return
        try:
            work.result()
        except BuildFailed as failed:
            await self._fail(tenant, export_id, failed.code, failed.message)
        except (psycopg.OperationalError, LedgerUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, others wait for their packs behind it
            deaths = self._deaths[tenant, export_id] = self._deaths.get((tenant, export_id), 0) + 1
            _log.warning("export %s: %s", export_id, error, exc_info=not isinstance(error, ProcessEnded))
            if deaths >= ATTEMPTS:
                reason = f"{error} It was tried {ATTEMPTS} times; the server's log says more."
                await self._fail(tenant, export_id, "process_ended", reason)

    async def _pack(self, connection: Connection, tenant: str, export_id: str) -> None:
        async def told(phase: str, done: int, total: int) -> None:
            await connection.execute(_PROGRESS, (tenant, export_id, phase, done, total))

        row = await self._rows.row(exports, tenant, export_id)
        assert row is not None
        folder = self._shelf.working_folder(tenant, export_id)
        plan = Plan.load(folder)
        if plan is None:
            self._shelf.discard(folder)
            folder.mkdir(mode=0o700)
            await told("planning", 0, 1)
            plan = await self._planner.plan(tenant, row, told)
            await asyncio.to_thread(plan.save, folder)
        signer = self._ledger.sealer.signers.service
        if plan.service_key != signer.key_id:
            # A key that was rotated in since cannot vouch for the moment that was planned: it is planned anew.
            self._shelf.discard(folder)
            return
        try:
            packed = await run(self._outside.job(self._dsn, folder, plan), told)
        except (BuildFailed, OSError):
            if Plan.load(folder) is not None:
                raise
            return  # somebody was erased, and what was half written thrown away: it is planned anew
        async with packs_held(connection):
            if Plan.load(folder) is None or await self._planner.erasures(tenant) != plan.erasures:
                # Somebody was erased since it was planned: it may show them.
                self._shelf.destroy(folder)
                return
            await told("sealing", 0, 1)
            await self._seal(tenant, export_id, plan, packed, signer)

    async def _seal(self, tenant: str, export_id: str, plan: Plan, packed: JsonObject, signer: EventSigner) -> None:
        """Puts it on the shelf and on record."""
        folder = self._shelf.working_folder(tenant, export_id)
        sha256, size_bytes, manifest_sha256 = await asyncio.to_thread(self._shelf.finish, folder, signer)
        _log.info("export %s: %d bytes, built in %d MiB of memory", export_id, size_bytes, packed["peak_rss_bytes"] >> 20)
        seal = SealExport(
            export_id=export_id,
            sha256=sha256,
            size_bytes=size_bytes,
            manifest_sha256=manifest_sha256,
            after=plan.after,
            until=plan.until,
            checkpoint_size=plan.checkpoint_size,
            entries=packed["entries"],
            keys=packed["keys"],
            withheld_entries=packed["withheld_entries"],
            index_position=plan.index["position"] if plan.index else None,
        )
        outcome = await self._ask(tenant, seal, f"seal:{export_id}:{sha256}")
        if outcome.outcome != "allowed":
            self._shelf.remove(sha256)
        await self._settled(tenant, export_id, outcome)

    async def _fail(self, tenant: str, export_id: str, code: str, reason: str) -> None:
        _log.error("export %s failed: %s", export_id, reason)
        outcome = await self._ask(tenant, FailExport(export_id=export_id, code=code, reason=reason), f"fail:{export_id}:{code}")
        await self._settled(tenant, export_id, outcome)

    async def _settled(self, tenant: str, export_id: str, outcome: Outcome) -> None:
        """What came to its end must not be found as requested once more."""
        if outcome.outcome != "allowed":
            self._refused.add((tenant, export_id))
        await self._progress.beyond(outcome.position - 1)
        self._shelf.discard(self._shelf.working_folder(tenant, export_id))

    async def _commit_indexes(self) -> None:
        for tenant in await asyncio.to_thread(self._planner.index.tenants):
            if tenant == SYSTEM_TENANT:
                continue
            committed = await self._planner.committed(tenant)
            position = 0 if committed is None else committed.event.size
            if await asyncio.to_thread(self._planner.index.moved_on, tenant, position):
                try:
                    await self._planner.commit_index(tenant, _untold)
                except (BuildFailed, ProcessEnded) as error:
                    _log.warning("the index of %s is not committed: %s", tenant, error)

    async def _commit(self, tenant: str, root: IndexRoot, keys: Recorded[Event]) -> int:
        command = CommitIndex(
            tenant=tenant,
            size=root.size,
            topics=root.topics,
            root=root.root.hex(),
            rules=RULES,
            keys_version=keys.version,
            keys_leaf=keys.leaf.hex(),
        )
        outcome = await self._ask(tenant, command, f"index:{root.size}:{root.root.hex()[:16]}")
        if outcome.outcome != "allowed":
            raise BuildFailed("index_refused", f"The index cannot be committed: {outcome.message or outcome.outcome}")
        position: int = outcome.events[0]["position"]
        return position

    async def _ask(self, tenant: str, command: Command, key: str) -> Outcome:
        """Once per cause: after a kill the same is asked for again, and answered from memory."""
        ask = Ask(command, asker(tenant), uuid7(), datetime.now(UTC), idempotency_key=f"exports:{key}", reason="The exporter.")
        outcome = await self._path.handle(ask)
        if outcome.outcome != "allowed":
            _log.warning("%s was %s (%s)", command.command_name, outcome.outcome, outcome.code)
        return outcome


async def _untold(_phase: str, _done: int, _total: int) -> None:
    """Nobody waits for it."""


async def progress_of(reads: Reads, tenant: str, export_id: str) -> JsonObject | None:
    """How far an export is: its phase, how much of it is done, and of how much."""
    query = "SELECT phase, done, total FROM packing.progress WHERE tenant = %s AND export_id = %s"
    found: list[Any] = await reads.fetch(query, (tenant, export_id), tenant=tenant)
    return {"phase": found[0][0], "done": found[0][1], "total": found[0][2]} if found else None
