"""The replayer: builds the replays that were asked for, one after another, and takes away what nobody needs any more.

One process at a time does it. Whatever ends it, the next begins the build again: half a replay is known by its place, and dropped first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import psycopg

from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from commands.replays import FailReplay, FinishReplay
from domain.kernel import Command, JsonObject
from domain.ledger import LedgerUnavailable
from domain.values import uuid7
from infra.read_queries import Reads
from infra.scratch import SchemaTaken, Scratch, Wanted
from infra.settings_error import SettingsError
from infra.tasks import ended
from projections.engine import Projection, ProjectionError
from projections.replays import replays
from streams.leading import Connection, lead
from streams.progress import Progress
from streams.reactions import asker
from streams.reactor import Rows

REPLAYS_LOCK: Final = 7_283_671
IDLE_SECONDS: Final = 0.25
ATTEMPTS: Final = 3
_log = logging.getLogger("aureus.replays")


class Replayer:
    """Runs until cancelled."""

    def __init__(
        self, dsn: str, path: CommandPath, reads: Reads, progress: Progress, scratch: Scratch, projections: tuple[Projection, ...]
    ) -> None:
        self._dsn, self._path, self._reads, self._scratch = dsn, path, reads, scratch
        self._rows, self._projections, self._progress = Rows(reads), projections, progress
        self._failures: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Waits to be the one, then builds and drops."""
        await lead(self._dsn, REPLAYS_LOCK, "replays", self._lead)

    async def _lead(self, connection: Connection) -> None:
        seen = -1
        while True:
            # Nothing is new but where something was recorded; of the rest this looks once, when it begins to lead.
            position = await self._reads.position()
            if position != seen:
                await self._round()
                seen = position
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost
            await self._progress.rest(IDLE_SECONDS)

    async def _round(self) -> None:
        await self._scratch.reseal()
        known = await self._known()
        for (tenant, replay_id), requested in (await self._scratch.places()).items():
            row = known.get((tenant, replay_id))
            if row is None or row["requested_position"] != requested or row["status"] not in {"requested", "built"}:
                await self._scratch.drop(tenant, replay_id)
        waiting = [(row["requested_position"], tenant, row) for (tenant, _), row in known.items() if row["status"] == "requested"]
        for _, tenant, row in sorted(waiting, key=lambda one: one[0]):
            await self._build(tenant, row)

    async def _known(self) -> Mapping[tuple[str, str], JsonObject]:
        found = {}
        for tenant in await self._rows.tenants(replays):
            for row in await self._rows.rows(replays, tenant):
                found[tenant, str(row["replay_id"])] = row
        return found

    async def _build(self, tenant: str, row: JsonObject) -> None:
        """Builds one and says what became of it; gives up when it is dropped meanwhile."""
        replay_id, until = row["replay_id"], row["until"]
        chosen = tuple(projection for projection in self._projections if projection.name in row["contexts"])
        wanted = Wanted(tenant, replay_id, row["requested_position"], until, chosen)
        work = asyncio.create_task(self._finish(wanted), name=f"replay-{replay_id}")
        try:
            while not work.done():
                await asyncio.wait([work], timeout=IDLE_SECONDS)
                now = await self._rows.row(replays, tenant, replay_id)
                if not work.done() and (now is None or now["status"] == "dropped"):
                    break
        finally:
            await ended(work)
        if work.cancelled():
            await self._scratch.drop(tenant, replay_id)
            return
        try:
            work.result()
        except SettingsError as error:
            await self._fail(wanted, "role_not_possible", str(error))
        except SchemaTaken as error:
            await self._fail(wanted, "schema_taken", str(error))
        except ProjectionError as error:
            await self._fail(wanted, "projection_stopped", str(error))
        except (psycopg.OperationalError, LedgerUnavailable):
            raise
        except Exception as error:
            _log.exception("replay %s", replay_id)
            failures = self._failures[wanted.key] = self._failures.get(wanted.key, 0) + 1
            if failures < ATTEMPTS:
                raise
            await self._fail(wanted, "build_failed", f"{error} It was tried {ATTEMPTS} times; the server's log says more.")

    async def _finish(self, wanted: Wanted) -> None:
        await self._progress.beyond(wanted.until - 1)
        built = await self._scratch.build(wanted)
        finish = FinishReplay(
            replay_id=wanted.replay_id,
            position=wanted.until,
            schema_prefix=built.schema_prefix,
            role=built.role,
            events=built.events,
            tables=built.tables,
            differing=built.differing,
        )
        await self._ask(wanted, finish, "finish")

    async def _fail(self, wanted: Wanted, code: str, reason: str) -> None:
        _log.error("replay %s failed: %s", wanted.replay_id, reason)
        await self._scratch.drop(*wanted.key)
        await self._ask(wanted, FailReplay(replay_id=wanted.replay_id, code=code, reason=reason[:4_000]), f"fail:{code}")

    async def _ask(self, wanted: Wanted, command: Command, key: str) -> Outcome:
        """Once per request: after a kill the same is asked for again, and answered from memory."""
        key = f"replays:{key}:{wanted.requested}:{wanted.replay_id}"
        ask = Ask(command, asker(wanted.tenant), uuid7(), datetime.now(UTC), idempotency_key=key, reason="The replayer.")
        outcome = await self._path.handle(ask)
        if outcome.outcome != "allowed":
            _log.warning("%s was %s (%s)", command.command_name, outcome.outcome, outcome.code)
        await self._progress.beyond(outcome.position - 1)
        return outcome


async def progress_of(reads: Reads, tenant: str, replay_id: str) -> JsonObject | None:
    """How far a build is: its phase, how much of it is done, and of how much."""
    query = "SELECT phase, done, total FROM replays_private.places WHERE tenant = %s AND replay_id = %s"
    found = await reads.fetch(query, (tenant, replay_id), tenant=tenant)
    return {"phase": found[0][0], "done": found[0][1], "total": found[0][2]} if found else None
