"""Where bytes too large for the ledger are kept: under their SHA-256, so that nobody can swap them unseen."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Final, ParamSpec, Protocol, TypeVar

from infra.durable import sync_folder

CHUNK_BYTES: Final = 256 * 1024
MAX_BLOB_BYTES: Final = 64 * 1024 * 1024
_LEFTOVER_SECONDS: Final = 3600
SHA256: Final = re.compile(r"[0-9a-f]{64}")
P = ParamSpec("P")
T = TypeVar("T")


class BlobTooLarge(Exception):
    """More bytes came than the store takes as one blob; nothing of them was kept."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"A blob holds at most {limit_bytes} bytes; split it, or store it elsewhere and register its hash.")
        self.limit_bytes = limit_bytes


class BlobMissing(Exception):
    """No bytes are kept under this hash."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"No blob {sha256} is kept here; restore it from a backup of the blob store.")
        self.sha256 = sha256


class BlobTampered(Exception):
    """The bytes kept under this hash are not the bytes that were put there."""

    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(f"Blob {sha256} was changed where it is kept: found {found}. Put the original again to mend it.")
        self.sha256 = sha256
        self.found = found


class BlobsUnavailable(Exception):
    """The store cannot answer now: why, and what would help. Nothing was kept."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are kept: their hash and how many they are."""

    sha256: str
    size_bytes: int


class BlobStore(Protocol):
    """Keeps bytes under their hash. Every question to it may raise BlobsUnavailable."""

    async def put(self, chunks: AsyncIterable[bytes]) -> Blob:
        """Keeps the bytes durably before it returns, or keeps none of them. Bytes that are kept already, or were
        changed where they are kept, are thereby whole again. Raises BlobTooLarge."""

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes, every one of them verified before the first is given out. Raises BlobMissing, BlobTampered."""

    async def as_kept(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes as they lie, verified by nobody: for whoever looks for what was changed in them. Raises BlobMissing."""

    async def has(self, sha256: str) -> bool:
        """Whether exactly these bytes are known to be kept."""

    async def delete(self, sha256: str) -> None:
        """Destroys what is kept under this hash, durably before it returns; nothing, when nothing is."""


class LocalBlobs:
    """Blobs in a folder of this machine: `<root>/<first two digits>/<sha256>`, private to the account that runs Aureus.

    A blob is written aside, synced and then renamed, so a crash leaves a whole blob or none; what it leaves aside is
    never read, and is swept away when it is an hour old.
    """

    def __init__(self, root: Path, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._root = root
        self._aside = root / "incoming"
        self._max_bytes = max_bytes
        for folder in (root, self._aside):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        self._sweep()

    async def put(self, chunks: AsyncIterable[bytes]) -> Blob:
        descriptor, name = await on_disk(tempfile.mkstemp, dir=self._aside)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                blob = await spool(chunks, file, self._max_bytes)
                await on_disk(self._keep, file, Path(name), blob.sha256)
        except BaseException:
            _discard(Path(name))
            raise
        return blob

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        return given_out(await on_disk(self._open_verified, sha256))

    async def as_kept(self, sha256: str) -> AsyncIterator[bytes]:
        return given_out(await on_disk(self._open, sha256))

    async def has(self, sha256: str) -> bool:
        try:
            (await on_disk(self._open_verified, sha256)).close()
        except (BlobMissing, BlobTampered):
            return False
        return True

    async def delete(self, sha256: str) -> None:
        await on_disk(self._destroy, sha256)

    def _destroy(self, sha256: str) -> None:
        with suppress(BlobMissing, FileNotFoundError):
            path = self._path(sha256)
            path.unlink()
            sync_folder(path.parent)

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise BlobMissing(sha256)
        return self._root / sha256[:2] / sha256

    def _keep(self, file: IO[bytes], aside: Path, sha256: str) -> None:
        """Gives the finished file its name. It replaces one that is there: equal bytes, or tampered ones that it mends."""
        os.fsync(file.fileno())
        final = self._path(sha256)
        final.parent.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._root)
        aside.replace(final)
        sync_folder(final.parent)

    def _open(self, sha256: str) -> BufferedReader:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise BlobMissing(sha256) from None

    def _open_verified(self, sha256: str) -> IO[bytes]:
        """The file, read through once: it is given out from the descriptor that was verified, not opened again by name."""
        file = self._open(sha256)
        try:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise BlobTampered(sha256, found)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _sweep(self) -> None:
        oldest = time.time() - _LEFTOVER_SECONDS
        for leftover in self._aside.iterdir():
            with suppress(FileNotFoundError):
                if leftover.stat().st_mtime < oldest:
                    leftover.unlink()


async def spool(chunks: AsyncIterable[bytes], file: IO[bytes], max_bytes: int) -> Blob:
    """Writes bytes to an unbuffered file as they come, hashing them on the way. Raises BlobTooLarge, BlobsUnavailable.

    Unbuffered, because what a full disk refused would else be tried once more, and fail, where the file is closed.
    """
    digest, size_bytes, waiting = hashlib.sha256(), 0, bytearray()

    def write(piece: bytes) -> None:
        digest.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[file.write(rest) :]

    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > max_bytes:
            raise BlobTooLarge(max_bytes)
        waiting += chunk
        if len(waiting) >= CHUNK_BYTES:
            await on_disk(write, bytes(waiting))
            waiting.clear()
    await on_disk(write, bytes(waiting))
    return Blob(digest.hexdigest(), size_bytes)


async def pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """A file from its beginning, piece by piece."""
    await on_disk(file.seek, 0)
    while piece := await on_disk(file.read, CHUNK_BYTES):
        yield piece


async def given_out(file: IO[bytes]) -> AsyncIterator[bytes]:
    """A file from its beginning, piece by piece; closed when the reader has it all or goes away."""
    with file:
        async for piece in pieces(file):
            yield piece


async def on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Does it beside the event loop; raises BlobsUnavailable when the disk refuses."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        message = f"The artifact store cannot use its disk: {error.strerror}."
        raise BlobsUnavailable(message, "Make room on it, or mend its folder, and send it again.") from error


def _discard(aside: Path) -> None:
    aside.unlink(missing_ok=True)
