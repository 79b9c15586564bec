"""The worker: works jobs through, slice by slice and in turns, in the name of whoever asked for them.

One process at a time does it. Whatever ends it, the next goes on behind the last results on record: what was asked for after those is asked
for again under the same idempotency keys, and answered from memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson
import psycopg

from commands.jobs import DECIDER, FinishJob, ReportProgress
from commands.path import Ask, CommandPath
from domain.jobs import Ending, Job, JobStarted
from domain.kernel import Command, JsonObject
from domain.ledger import LedgerPort, LedgerUnavailable
from domain.values import uuid7
from infra.blobs import BlobMissing, BlobStore, BlobsUnavailable, BlobTampered
from infra.ledger import Ledger
from infra.read_queries import Reads
from projections.jobs import jobs
from streams.leading import Connection, lead
from streams.progress import Progress
from streams.reactions import asker
from streams.reactor import Rows

JOBS_LOCK: Final = 7_283_676
IDLE_SECONDS: Final = 0.1
SLICE: Final = 32
"""So many commands of one job are asked for before the next job has its turn, and before this one's asker is looked at again."""
REPORT_ITEMS: Final = 256
REPORT_SECONDS: Final = 2.0
"""What became of commands goes on record when there are so many of them, or so long after the last time."""
_log = logging.getLogger("aureus.jobs")


class AskerGone(Exception):
    """Whoever asked for the job does not act any more."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class NotNow(Exception):
    """Something that commands need does not answer; nothing was decided about those that were asked for."""


class Carrier(Protocol):
    """Asks for commands as the API does."""

    async def carry_out(self, tenant: str, job_id: str, started: JobStarted, items: Sequence[JsonObject], first: int) -> list[JsonObject]:
        """What became of each of these, the first of which is number `first` of the job, in order; fewer when the job stops at a failure.

        Raises AskerGone or NotNow.
        """


@dataclass(slots=True)
class Working:
    """What is known of a job that is being worked through: its commands, and what became of those not on record yet."""

    items: list[JsonObject]
    reported_at: float
    results: list[JsonObject] = field(default_factory=list)


class Worker:
    """Runs until cancelled."""

    def __init__(
        self, ledger: Ledger, dsn: str, path: CommandPath, reads: Reads, progress: Progress, blobs: BlobStore, carrier: Carrier
    ) -> None:
        self._ledger, self._dsn, self._path, self._blobs, self._carrier = ledger, dsn, path, blobs, carrier
        self._rows, self._progress = Rows(reads), progress
        self._working: dict[tuple[str, str], Working] = {}

    async def run(self) -> None:
        """Waits to be the one, then works."""
        await lead(self._dsn, JOBS_LOCK, "jobs", self._lead)

    async def _lead(self, connection: Connection) -> None:
        self._working.clear()  # somebody else may have gone on with them meanwhile
        while True:
            found = await self._open()
            for tenant, job_id in found:
                try:
                    await self._advance(tenant, job_id)
                except (psycopg.OperationalError, LedgerUnavailable):
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it was, others wait for their turn behind it
                    _log.warning("job %s waits: %s", job_id, error, exc_info=not isinstance(error, NotNow | BlobsUnavailable))
                    found = []  # no hurry, then
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost
            if not found:
                await self._progress.rest(IDLE_SECONDS)

    async def _open(self) -> list[tuple[str, str]]:
        """(tenant, job id) of what is not known to have ended, the oldest first."""
        found = []
        for tenant in await self._rows.tenants(jobs):
            rows = await self._rows.rows(jobs, tenant, {"kind": "bulk", "status": ["running", "cancelling"]})
            found += [(row["started_at"], tenant, row["job_id"]) for row in rows]
        return [(tenant, job_id) for _, tenant, job_id in sorted(found)]

    async def _advance(self, tenant: str, job_id: str) -> None:
        """One slice of a job; how far it is on record is asked of the ledger, for the read models may be behind."""
        job = await job_of(self._ledger, tenant, job_id)
        if not job.is_open:
            await asyncio.sleep(IDLE_SECONDS / 10)
            return
        assert job.started is not None
        if (ending := _ended(job)) is not None:
            await self._report_and_end(tenant, job_id, job, ending)
            return
        try:
            working = self._working.get((tenant, job_id)) or await self._taken_up(tenant, job_id, job.started)
        except (BlobMissing, BlobTampered, ValueError) as error:
            await self._report_and_end(tenant, job_id, job, "failed", "commands_lost", str(error))
            return
        try:
            await self._slice(tenant, job_id, job, working)
        except AskerGone as gone:
            await self._report_and_end(tenant, job_id, job, "failed", gone.code, gone.message)

    async def _taken_up(self, tenant: str, job_id: str, started: JobStarted) -> Working:
        content = b"".join([piece async for piece in await self._blobs.read(started.input_sha256)])
        working = Working(orjson.loads(content)["commands"], asyncio.get_running_loop().time())
        self._working[tenant, job_id] = working
        return working

    async def _slice(self, tenant: str, job_id: str, job: Job, working: Working) -> None:
        """Asks for the next few, and puts on record what became of them when it is time to."""
        assert job.started is not None
        first = job.done + len(working.results)
        results = await self._carrier.carry_out(tenant, job_id, job.started, working.items[first : first + SLICE], first)
        working.results += results
        last = first + len(results) == len(working.items) or (job.started.on_failure == "stop" and results[-1]["error"] is not None)
        due = asyncio.get_running_loop().time() >= working.reported_at + REPORT_SECONDS
        if last or due or len(working.results) >= REPORT_ITEMS:
            await self._report(tenant, job_id, job, working)

    async def _report(self, tenant: str, job_id: str, job: Job, working: Working) -> None:
        outcomes = [result["outcome"] for result in working.results]
        allowed, parked = outcomes.count("allowed"), outcomes.count("requires_approval")
        lines = b"\n".join(orjson.dumps(result) for result in working.results)
        blob = await self._blobs.put(_once(lines))
        report = ReportProgress(
            job_id=job_id,
            after=job.done,
            done=job.done + len(outcomes),
            allowed=job.allowed + allowed,
            parked=job.parked + parked,
            refused=job.refused + len(outcomes) - allowed - parked,
            results_sha256=blob.sha256,
        )
        await self._ask(tenant, report)
        working.results, working.reported_at = [], asyncio.get_running_loop().time()

    async def _report_and_end(
        self, tenant: str, job_id: str, job: Job, ending: Ending, code: str | None = None, message: str | None = None
    ) -> None:
        """What was asked may hold personal values: it is destroyed before nothing more is done of it."""
        assert job.started is not None
        working = self._working.pop((tenant, job_id), None)
        if working is not None and working.results:
            await self._report(tenant, job_id, job, working)
        await self._blobs.delete(job.started.input_sha256)
        await self._ask(tenant, FinishJob(job_id=job_id, ending=ending, code=code, message=message))

    async def _ask(self, tenant: str, command: Command) -> None:
        """Said twice it is refused, for what it goes by is not there any more: no key need be remembered."""
        ask = Ask(command, asker(tenant), uuid7(), datetime.now(UTC), reason="The worker.")
        outcome = await self._path.handle(ask)
        if outcome.outcome != "allowed":
            self._working.clear()  # what is on record is not what was thought: all is looked at again
            raise NotNow(f"{command.command_name} was {outcome.outcome} ({outcome.code})")


def _ended(job: Job) -> Ending | None:
    """How a job has ended by what is on record of it, if it has."""
    assert job.started is not None
    if job.status == "cancelling":
        return "cancelled"
    if job.started.on_failure == "stop" and job.refused:
        return "stopped"
    return "completed" if job.done == job.started.items else None


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def job_of(ledger: LedgerPort, tenant: str, job_id: str, until: int | None = None) -> Job:
    """A job as it is on record, or was at a position."""
    history = await ledger.read_stream(tenant, f"{DECIDER.category}:{job_id}")
    return DECIDER.replay(recorded.event for recorded in history if until is None or recorded.position <= until)


async def results_of(blobs: BlobStore, job: Job, after: int, limit: int) -> list[dict[str, Any]]:
    """What became of a job's commands from number `after` on, as far as it is on record."""
    found: list[dict[str, Any]] = []
    for sha256 in job.results:
        if len(found) >= limit:
            break
        content = b"".join([piece async for piece in await blobs.read(sha256)])
        found += [result for result in map(orjson.loads, content.splitlines()) if result["index"] >= after]
    return found[:limit]
