"""Where finished packs lie: each under the SHA-256 of its bytes, which is looked at before the first of them is handed out."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from domain.ledger import EventSigner
from infra.blobs import CHUNK_BYTES, SHA256, BlobMissing, BlobTampered, on_disk
from infra.durable import sync_folder
from infra.packing.building import PAYLOAD
from infra.packing.manifest import NAME, sealed
from infra.packing.pack_file import PACK, PackFile

_REMEMBERED: Final = 1_000
_GONE: Final = ".gone"
_Seen = tuple[int, int, int, int]
"""What of a file changes with its bytes, whatever somebody sets its times to: inode, size, and both times."""


class Shelf:
    """A folder of packs, and of those that are being written, private to the account that runs Aureus."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: dict[str, _Seen] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def working_folder(self, tenant: str, export_id: str) -> Path:
        """Where an export's pack is written; an export's id is its tenant's own."""
        whose = hashlib.sha256(tenant.encode()).hexdigest()[:8]
        return self._folder / f"{export_id}.{whose}.partial"

    def working(self) -> list[Path]:
        return sorted(self._folder.glob("*.partial"))

    def discard(self, folder: Path) -> None:
        """Throws an unfinished pack away."""
        shutil.rmtree(folder, ignore_errors=True)

    def destroy(self, folder: Path) -> None:
        """Throws it away while somebody may still write to it: under its name there is nothing any more, so what they begin fails."""
        with suppress(FileNotFoundError):
            folder.rename(folder.with_name(f"{folder.name}{_GONE}"))
        for gone in self._folder.glob(f"*{_GONE}"):
            shutil.rmtree(gone)

    def finish(self, folder: Path, signer: EventSigner) -> tuple[str, int, str]:
        """Signs the manifest of what was just built, and puts the pack on the shelf: its SHA-256, its bytes, and the manifest's SHA-256.

        The folder stays until it is discarded: should this be the last that is heard of it, the same pack can be written again.
        """
        with PackFile(folder, as_left=True) as pack:
            content = sealed((folder / PAYLOAD).read_bytes(), signer)
            pack.add(NAME, content)
            pack.finish()
        with (folder / PACK).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        (folder / PACK).replace(self._path(sha256))
        sync_folder(self._folder)
        return sha256, size, hashlib.sha256(content).hexdigest()

    def has(self, sha256: str) -> bool:
        """Whether something lies on the shelf under this name, whatever it is by now."""
        return self._path(sha256).exists()

    def remove(self, sha256: str) -> None:
        """Takes a pack off the shelf."""
        self._path(sha256).unlink(missing_ok=True)

    async def open(self, sha256: str) -> IO[bytes]:
        """A pack that is what it was; read from what is returned, not opened again by name. Raises BlobMissing, BlobTampered."""
        return await on_disk(self._opened, sha256)

    def _opened(self, sha256: str) -> IO[bytes]:
        try:
            file = self._path(sha256).open("rb")
        except FileNotFoundError:
            raise BlobMissing(sha256) from None
        try:
            seen = _seen(file)
            if self._verified.get(sha256) != seen:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != sha256:
                    raise BlobTampered(sha256, found)
                if len(self._verified) >= _REMEMBERED:
                    self._verified.clear()
                self._verified[sha256] = seen
        except BaseException:
            file.close()
            raise
        return file

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise BlobMissing(sha256)
        return self._folder / f"{sha256}.zip"


def _seen(file: IO[bytes]) -> _Seen:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


async def part(file: IO[bytes], first: int, last: int) -> AsyncIterator[bytes]:
    """Bytes `first` to `last` of a file, piece by piece; closed when the reader has them all or goes away."""
    with file:
        await on_disk(file.seek, first)
        left = last - first + 1
        while left and (piece := await on_disk(file.read, min(CHUNK_BYTES, left))):
            left -= len(piece)
            yield piece
