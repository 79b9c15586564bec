"""`aureus backup` and `restore`, beneath the command line: all that they do, in order, on the machine that holds the ledger."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg

from api.services import Services, open_blobs, open_services, projections
from domain.values import uuid7
from infra.backup.erasures import Erasure, read_erasures
from infra.backup.reading import Backup
from infra.backup.sealed_keys import opened_keys, sealed_keys
from infra.backup.taking import Report, Sources, Taken, files_in, require_ledger, take
from infra.backup.verifying import Verified, verify
from infra.blobs import BlobMissing, BlobsUnavailable
from infra.settings import Settings, SettingsError
from infra.verifier.checkpoints import read_checkpoint
from infra.verifier.notes import BadNote, parse_checkpoint, parse_note
from infra.verifier.result import Result
from infra.verifier.trust import Trust
from streams.backups import record_begun, record_taken
from streams.restoring import Restore

_NAMED: Final = """
    SELECT DISTINCT said.value FROM ledger.events AS e
    CROSS JOIN LATERAL jsonb_each_text(convert_from(e.body, 'UTF8')::jsonb->'data') AS said
    WHERE e.type = ANY(%s) AND said.key IN ('sha256', 'json_sha256', 'markdown_sha256', 'parquet_sha256', 'tiles_sha256')
    ORDER BY 1
"""
_NAMING: Final = ["evidence.artifact_registered", "evidence.pack_sealed", "archive.segment_sealed"]
"""Events that name what lies in the store of artifacts."""


@dataclass(frozen=True)
class BackedUp:
    """A backup that was taken; `unrecorded` says why the ledger does not know of it, if so."""

    taken: Taken
    unrecorded: str | None


async def back_up(settings: Settings, dsn: str, file: Path, passphrase: str | None, *, with_blobs: bool, report: Report) -> BackedUp:
    """Takes a backup of the ledger in a database, which may be in use. Raises SettingsError.

    With a passphrase the private keys are in it; `with_blobs` fetches artifacts that lie in a bucket.
    """
    await asyncio.to_thread(require_ledger, dsn)
    # A process of Aureus like any other, so the witnesses are asked before it writes; it moves no read models and reacts to nothing.
    async with open_services(replace(settings, database_url=dsn, kafka=None), run_projections=False) as services:
        backup_id = f"backup-{uuid7().hex[-12:]}"
        unrecorded = await record_begun(services.path, settings.tenant, backup_id)
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=file.parent) as aside:

            def sources() -> Sources:
                fetched = settings.s3 is not None and with_blobs
                blobs = asyncio.run_coroutine_threadsafe(_fetch(services, Path(aside)), loop).result() if fetched else None
                return Sources(
                    backup_id=backup_id,
                    signer=services.ledger.sealer.signers.service,
                    packs=files_in(settings.exports_dir, "*.zip"),
                    blobs=blobs if settings.s3 is not None else files_in(settings.blobs_dir, "[0-9a-f][0-9a-f]/*"),
                    sealed_keys=None if passphrase is None else sealed_keys(settings.home, services.ledger.name, passphrase),
                )

            taken = await asyncio.to_thread(take, dsn, file, sources, report)
        return BackedUp(taken, await record_taken(services.path, settings.tenant, taken) if unrecorded is None else unrecorded)


async def _fetch(services: Services, folder: Path) -> dict[str, Path]:
    """Every artifact that the ledger names, brought here from the bucket as it lies there; those that were erased are nowhere."""
    async with await psycopg.AsyncConnection.connect(services.dsn, autocommit=True) as connection:
        names = [name for (name,) in await (await connection.execute(_NAMED, (_NAMING,))).fetchall()]
    found = {}
    for name in names:
        try:
            with (folder / name).open("wb") as file:
                async for piece in await services.blobs.as_kept(name):
                    file.write(piece)
        except BlobMissing:
            continue
        except BlobsUnavailable as error:
            raise SettingsError("AUREUS_BLOBS", f"{error}", error.remedy) from error
        found[name] = folder / name
    return found


@dataclass(frozen=True)
class Examined:
    """A backup that was read from beginning to end; `lost` are the events that a later checkpoint shows to be missing from it."""

    backup: Backup
    verified: Verified
    lost: int

    @property
    def result(self) -> Result:
        return self.verified.result


def examine(file: Path, trust: Trust, kept: Sequence[bytes], report: Report) -> Examined:
    """Verifies a backup without any database. Raises BadBackup for a file that is not whole; what else is wrong is in the result."""
    backup = Backup(file, report)
    later = [note for note in kept if _size(note) > backup.manifest.size]
    verified = verify(backup, trust, [note for note in kept if note not in later], report)
    for note in later:
        read_checkpoint(note, backup.manifest.ledger, verified.ring, verified.result)
    return Examined(backup, verified, max((_size(note) for note in later), default=backup.manifest.size) - backup.manifest.size)


def _size(note: bytes) -> int:
    try:
        return parse_checkpoint(parse_note(note).text).size
    except BadNote:
        return 0  # whoever verifies it says what is wrong


def erasures_in(files: Sequence[Path], examined: Examined) -> list[Erasure]:
    """Those that the backup is older than, from a file per tenant. Raises BadErasures."""
    said, ring = examined.backup.manifest, examined.verified.ring
    return [erasure for file in files for erasure in read_erasures(file, said.ledger, ring, said.size)]


def keys_for(settings: Settings, examined: Examined, passphrase: str | None) -> dict[str, bytes] | None:
    """The keys that come out of the backup; None when the home has its own. Raises SettingsError, WrongPassphrase."""
    if settings.keys_dir.exists() and any(settings.keys_dir.iterdir()):
        return None
    sealed, said = examined.backup.sealed_keys(), examined.backup.manifest
    if sealed is None or passphrase is None:
        why = "holds none" if sealed is None else "gives them to nobody without its passphrase"
        remedy = f"Put the `keys/` of {said.ledger} there, whose root key is {examined.result.root_key[:16]}."
        raise SettingsError("AUREUS_HOME", f"no keys lie in {settings.keys_dir}, and the backup {why}.", remedy)
    return opened_keys(sealed, said.ledger, passphrase)


async def restore(
    settings: Settings, dsn: str, examined: Examined, erasures: Sequence[Erasure], keys: dict[str, bytes] | None, report: Report
) -> None:
    """Puts a verified ledger into an empty database. Raises SettingsError, and BadBackup for what this version cannot take."""
    said = examined.backup.manifest
    if settings.origin not in (None, said.ledger):
        rule = f"it names the ledger {settings.origin}, and the backup is of {said.ledger}."
        raise SettingsError("AUREUS_ORIGIN", rule, "Unset it, or name a backup of that ledger.")
    with examined.backup.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    async with AsyncExitStack() as stack:
        blobs = await open_blobs(settings, stack)
        work = Restore(examined.backup, examined.verified, sha256, erasures, keys, blobs)
        await work.carry_out(dsn, settings, projections(), report)
