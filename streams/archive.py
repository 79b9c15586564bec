"""The archivist: seals closed ranges of the ledger into segments, one after another, as they are asked for or have come due.

One process at a time does it. Whatever ends it, nothing is half sealed: files become a segment with the event that names them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from commands.archive import FailSealing, RecordSegment
from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from domain.archive import ARCHIVE_STREAM, Archive, SealingFailed, SealingRequested, SegmentSealed, closed, evolve
from domain.kernel import Command, JsonObject
from domain.keys import SYSTEM_TENANT
from domain.ledger import LedgerUnavailable
from domain.values import uuid7
from infra.archive import building
from infra.archive.apart import apart
from infra.archive.fetching import private_folder
from infra.archive.planning import plan
from infra.archive.segment import ArchiveError, Plan
from infra.blobs import CHUNK_BYTES, BlobStore, BlobsUnavailable
from infra.ledger import Ledger
from infra.proofs import Proofs
from infra.settings import Settings
from infra.tiles import Tiles
from streams.leading import Connection, lead
from streams.progress import Progress
from streams.reactions import asker

ARCHIVE_LOCK: Final = 7_283_672
IDLE_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 10.0
_log = logging.getLogger("aureus.archive")


class Archivist:
    """Runs until cancelled."""

    def __init__(
        self,
        ledger: Ledger,
        dsn: str,
        path: CommandPath,
        progress: Progress,
        tiles: Tiles,
        proofs: Proofs,
        blobs: BlobStore,
        settings: Settings,
    ) -> None:
        self._ledger, self._dsn, self._path, self._blobs, self._settings = ledger, dsn, path, blobs, settings
        self._tiles, self._proofs, self._progress = tiles, proofs, progress
        self._archive, self._version = Archive(), 0
        self._gave_up = False
        """After a failure nothing is sealed by the clock until somebody has asked: the same would only fail again."""

    async def run(self) -> None:
        """Waits to be the one, then seals."""
        await lead(self._dsn, ARCHIVE_LOCK, "archive", self._lead)

    async def _lead(self, connection: Connection) -> None:
        while True:
            await self._learn()
            until = await self._until()
            if until > self._archive.sealed:
                await self._seal(until)
            else:
                await self._progress.rest(IDLE_SECONDS)
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost

    async def _learn(self) -> None:
        for recorded in await self._ledger.read_stream(SYSTEM_TENANT, ARCHIVE_STREAM, self._version):
            event, self._version = recorded.event, recorded.version
            assert isinstance(event, SealingRequested | SegmentSealed | SealingFailed)
            self._archive = evolve(self._archive, event)
            self._gave_up = isinstance(event, SealingFailed) or (self._gave_up and not isinstance(event, SealingRequested))

    async def _until(self) -> int:
        """Up to where to seal now: what was asked for, or one more segment when it has come due."""
        every, sealed = self._settings.archive_events, self._archive.sealed
        if self._archive.wanted > sealed or not every or self._gave_up:
            return self._archive.wanted
        return sealed + every if closed((await self._ledger.refresh()).size) - sealed >= every else sealed

    async def _seal(self, until: int) -> None:
        first = self._archive.sealed + 1
        try:
            await self._tiles.ensure(until)
            made = await plan(self._ledger.name, self._tiles, self._proofs, first, until)
            recorded = await self._record(made, await self._written(made))
        except BlobsUnavailable as error:
            _log.warning("the segment from %d on waits for the blob store: %s", first, error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        except OSError as error:
            await self._fail(first, "disk_refused", f"The segment cannot be written: {error.strerror}. Make room for it, and ask again.")
            return
        except (ArchiveError, LedgerUnavailable) as error:
            if isinstance(error, LedgerUnavailable) and error.code != "tiles_damaged":
                raise
            await self._fail(first, error.code, f"{error.message} {error.remedy}")
            return
        if recorded.outcome != "allowed":
            await self._fail(first, recorded.code or recorded.outcome, recorded.message or "The policies did not let it be put on record.")
        else:
            _log.info("sealed positions %d to %d", made.first, made.last)

    async def _written(self, made: Plan) -> JsonObject:
        """Writes the files in a process of its own, and keeps them; returns their hashes."""
        with private_folder(self._settings.archive_dir) as folder:
            written = await apart(building.MODULE, building.job(self._dsn, made, folder))
            kept = [await self._blobs.put(_content(folder / name)) for name in (building.PARQUET, building.TILES, building.MANIFEST)]
        assert [kept[0].sha256, kept[1].sha256] == [written["parquet_sha256"], written["tiles_sha256"]]
        return {**written, "manifest_sha256": kept[2].sha256}

    async def _record(self, made: Plan, written: JsonObject) -> Outcome:
        command = RecordSegment(first=made.first, last=made.last, root=made.root, checkpoint_size=made.checkpoint_size, **written)
        return await self._ask(command, f"{made.first}:{written['manifest_sha256']}")

    async def _fail(self, first: int, code: str, reason: str) -> None:
        _log.error("the segment from %d on cannot be sealed: %s", first, reason)
        await self._ask(FailSealing(first=first, code=code, reason=reason), f"fail:{self._version}:{first}:{code}")
        self._gave_up = True
        await self._learn()
        if self._archive.wanted > self._archive.sealed:
            await asyncio.sleep(RETRY_SECONDS)  # not even that could be put on record

    async def _ask(self, command: Command, key: str) -> Outcome:
        """Once per cause: after a kill the same is asked for again, and answered from memory."""
        by = asker(self._settings.tenant)
        ask = Ask(command, by, uuid7(), datetime.now(UTC), idempotency_key=f"archive:{key}", reason="The archivist.")
        outcome = await self._path.handle(ask)
        if outcome.outcome != "allowed":
            _log.warning("%s was %s (%s)", command.command_name, outcome.outcome, outcome.code)
        return outcome


async def _content(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
