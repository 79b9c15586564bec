"""A ledger put back from a backup, and made fit to serve: its files, its tables, what was erased since, and its read models."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from infra.backup.erasures import Erasure
from infra.backup.manifest import Manifest
from infra.backup.reading import Backup
from infra.backup.restoring import begin, finish, load
from infra.backup.sealed_keys import put_aside, put_in_place
from infra.backup.taking import BLOBS, PACKS, Report
from infra.backup.verifying import Verified
from infra.blobs import BlobStore
from infra.durable import sync_folder
from infra.key_encryption import KekMissing
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.packing.shelf import Shelf
from infra.pkcs11_keys import open_keystore
from infra.postgres_store import PostgresStore
from infra.read_models import create_read_models
from infra.settings import Settings, SettingsError
from infra.tasks import ended
from infra.tiles import Tiles
from projections.engine import Projection
from streams.progress import Progress
from streams.runner import Runner

STILL_SECONDS: Final = 120.0
"""Read models that do not move for so long do not come up by themselves."""
_POLL_SECONDS: Final = 0.5
_SEALED: Final = "SELECT body FROM ledger.events WHERE tenant = %s AND stream = %s AND type = 'exports.export_sealed'"


@dataclass(frozen=True)
class Restore:
    """A backup that was verified, and what else goes with it. `keys` are files for the home, None when it has its own."""

    backup: Backup
    verified: Verified
    sha256: str
    erasures: Sequence[Erasure]
    keys: dict[str, bytes] | None
    blobs: BlobStore

    @property
    def manifest(self) -> Manifest:
        return self.backup.manifest

    async def carry_out(self, dsn: str, settings: Settings, projections: Sequence[Projection], report: Report) -> None:
        """All of it, or a database from which nothing serves. Raises SettingsError and BadBackup."""
        if settings.vault_keys_url is not None and self.manifest.vault_keys:
            rule = "it names a database for the keys of personal values, and this backup holds them itself."
            raise SettingsError("AUREUS_VAULT_KEYS_URL", rule, "Unset it: they lay in the ledger's own database when the backup was taken.")
        if self.keys is None:
            self._require_keys(open_keystore(settings))
        else:
            put_aside(settings.home, self.keys)
        await begin(dsn, self.backup, self.sha256)
        if self.keys is not None:
            put_in_place(settings.home)
        await self._put_files(settings, report)
        await asyncio.to_thread(load, dsn, self.backup, report)
        keystore = open_keystore(settings)
        async with AsyncExitStack() as stack:
            ledger = await open_ledger(dsn, keystore, settings.origin, vault_keys_url=settings.vault_keys_url, restoring=True)
            stack.push_async_callback(ledger.close)
            await self._erase(ledger, Shelf(settings.exports_dir), report)
            await _keep_tiles(dsn, self.manifest.size)
            await raise_read_models(dsn, ledger, projections, stack, report)
        await asyncio.to_thread(finish, dsn, len(self.erasures))

    def _require_keys(self, keystore: FileKeystore) -> None:
        """That these are the keys of the ledger in the backup: those that sign it, and those that open its values."""
        said, folder = self.manifest, keystore.folder
        for role in ("log", "service"):
            active = [key.key_id for key in self.verified.ring.of_role(role) if key.signs_at(said.size + 1)]
            if not any(_holds(keystore, key_id) for key_id in active):
                raise SettingsError(
                    "AUREUS_HOME",
                    f"the keys in {folder} are those of another ledger, with the root key {keystore.root.key_id[:16]}: the backup is of "
                    f"{said.ledger}, with the root key {self.verified.result.root_key[:16]} and the {role} key {active[0][:16]}.",
                    "Put the `keys/` of that ledger there, or name another home.",
                )
        keks = keystore.key_encryption_keys()
        for kek in sorted({row["kek"].decode() for row in self.backup.rows("vault.keys")}):
            if kek and not keks.has(kek):
                missing = KekMissing(kek, folder)
                raise SettingsError("AUREUS_HOME", f"{missing}, and personal values in the backup are sealed under it.", missing.remedy)

    async def _put_files(self, settings: Settings, report: Report) -> None:
        """What is erased since is not even written."""
        gone = {sha256 for erasure in self.erasures for sha256 in erasure.artifacts}
        said = self.manifest
        for number, (sha256, pieces) in enumerate(self.backup.files(BLOBS), 1):
            if sha256 not in gone:
                await self.blobs.put(_each(pieces))
            report(BLOBS, number, said.blobs.count if said.blobs else None)
        settings.exports_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, (sha256, pieces) in enumerate(self.backup.files(PACKS), 1):
            await asyncio.to_thread(_write, settings.exports_dir / f"{sha256}.zip", pieces)
            report(PACKS, number, said.packs.count)

    async def _erase(self, ledger: Ledger, shelf: Shelf, report: Report) -> None:
        """Carries out again what was erased after the backup was taken: values and keys, artifacts, and packs that disclose them."""
        store = ledger.store
        assert isinstance(store, PostgresStore), "a ledger that was restored lies in PostgreSQL"
        for number, erasure in enumerate(self.erasures, 1):
            await store.vault.erase(store.pool, erasure.tenant, erasure.subject, erasure.purposes, erasure.ordered_position)
            for sha256 in erasure.artifacts:
                await self.blobs.delete(sha256)
            async with store.pool.connection() as connection:
                for export_id in erasure.packs:
                    found = await connection.execute(_SEALED, (erasure.tenant, f"export:{export_id}"))
                    for (body,) in await found.fetchall():
                        shelf.remove(orjson.loads(body)["data"]["sha256"])
            report("erasures", number, len(self.erasures))


def _holds(keystore: FileKeystore, key_id: str) -> bool:
    with suppress(LookupError):
        return keystore.find(key_id).key_id == key_id
    return False


async def raise_read_models(dsn: str, ledger: Ledger, projections: Sequence[Projection], stack: AsyncExitStack, report: Report) -> None:
    """Folds every event into the read models, before anybody reads them or reacts to what they say. Raises SettingsError."""
    await create_read_models(dsn, projections)
    progress, size = Progress(), ledger.head.size
    runner = Runner(ledger, dsn, projections, progress)
    running = asyncio.create_task(runner.run(), name="read-models")
    stack.push_async_callback(ended, running)
    before, since = -1, 0.0
    while not await progress.wait_for(size, _POLL_SECONDS):
        since = 0.0 if progress.position > before else since + _POLL_SECONDS
        before = progress.position
        report("read models", before, size)
        if since >= STILL_SECONDS:
            rule = f"the read models do not come further than position {before} of {size}."
            raise SettingsError("read models", rule, "Restore with the version of Aureus that wrote the backup.")
    report("read models", size, size)


async def _keep_tiles(dsn: str, size: int) -> None:
    tiles = Tiles(dsn)
    await tiles.open()
    try:
        await tiles.ensure(size)
    finally:
        await tiles.close()


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    """A file for its owner alone: all of it under its name, or nothing."""
    aside = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)
