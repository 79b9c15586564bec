"""Blobs: kept whole or not at all, private, found by their hash alone, and never given out changed."""

import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.blobs import CHUNK_BYTES, Blob, BlobMissing, BlobTampered, BlobTooLarge, LocalBlobs

pytestmark = pytest.mark.anyio

HELLO = b"hello"
HELLO_SHA256 = hashlib.sha256(HELLO).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(blobs: LocalBlobs, sha256: str) -> bytes:
    return b"".join([chunk async for chunk in await blobs.read(sha256)])


def files_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def kept_file(root: Path, sha256: str) -> Path:
    return root / "blobs" / sha256[:2] / sha256


@pytest.mark.parametrize("content", [b"", HELLO, os.urandom(3 * CHUNK_BYTES + 1)])
async def test_what_is_put_is_read_back(blobs: LocalBlobs, content: bytes) -> None:
    blob = await blobs.put(pieces(content[:7], content[7:]))
    assert blob == Blob(hashlib.sha256(content).hexdigest(), len(content))
    assert await whole(blobs, blob.sha256) == content


async def test_a_large_blob_is_given_out_in_pieces(blobs: LocalBlobs) -> None:
    blob = await blobs.put(pieces(os.urandom(CHUNK_BYTES + 1)))
    assert [len(chunk) async for chunk in await blobs.read(blob.sha256)] == [CHUNK_BYTES, 1]


async def test_a_blob_outlives_its_store_object(blobs: LocalBlobs, tmp_path: Path) -> None:
    await blobs.put(pieces(HELLO))
    assert await whole(LocalBlobs(tmp_path / "blobs"), HELLO_SHA256) == HELLO


async def test_the_same_bytes_are_kept_once(blobs: LocalBlobs, tmp_path: Path) -> None:
    assert await blobs.put(pieces(HELLO)) == await blobs.put(pieces(b"he", b"llo"))
    assert files_under(tmp_path) == [kept_file(tmp_path, HELLO_SHA256)]


async def test_folders_and_files_are_private(blobs: LocalBlobs, tmp_path: Path) -> None:
    (tmp_path / "blobs").chmod(0o755)
    reopened = LocalBlobs(tmp_path / "blobs")
    await reopened.put(pieces(HELLO))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "blobs").rglob("*") if path.is_dir()}
    assert modes | {stat.S_IMODE((tmp_path / "blobs").stat().st_mode)} == {0o700}
    assert stat.S_IMODE(kept_file(tmp_path, HELLO_SHA256).stat().st_mode) == 0o600


async def test_too_many_bytes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    small = LocalBlobs(tmp_path / "blobs", max_bytes=4)
    with pytest.raises(BlobTooLarge) as refusal:
        await small.put(pieces(b"he", b"llo"))
    assert refusal.value.limit_bytes == 4
    assert files_under(tmp_path) == []
    assert (await small.put(pieces(b"hell"))).size_bytes == 4


async def test_a_sender_who_breaks_off_leaves_nothing(blobs: LocalBlobs, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield os.urandom(CHUNK_BYTES)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(broken())
    assert files_under(tmp_path) == []


async def test_a_disk_that_cannot_sync_keeps_nothing(blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await blobs.put(pieces(HELLO))
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("sha256", ["00" * 32, "", "../../etc/passwd", HELLO_SHA256.upper(), HELLO_SHA256[:-1], f"{HELLO_SHA256}\n"])
async def test_only_a_whole_hash_finds_a_blob(blobs: LocalBlobs, sha256: str) -> None:
    await blobs.put(pieces(HELLO))
    with pytest.raises(BlobMissing) as refusal:
        await blobs.read(sha256)
    assert refusal.value.sha256 == sha256


async def test_tampering_is_detected_before_a_byte_is_given_out_and_the_original_mends_it(blobs: LocalBlobs, tmp_path: Path) -> None:
    await blobs.put(pieces(HELLO))
    kept_file(tmp_path, HELLO_SHA256).write_bytes(b"jello")
    with pytest.raises(BlobTampered) as refusal:
        await blobs.read(HELLO_SHA256)
    assert (refusal.value.sha256, refusal.value.found) == (HELLO_SHA256, hashlib.sha256(b"jello").hexdigest())
    await blobs.put(pieces(HELLO))
    assert await whole(blobs, HELLO_SHA256) == HELLO


async def test_a_truncated_blob_is_detected(blobs: LocalBlobs, tmp_path: Path) -> None:
    blob = await blobs.put(pieces(os.urandom(2 * CHUNK_BYTES)))
    os.truncate(kept_file(tmp_path, blob.sha256), CHUNK_BYTES)
    with pytest.raises(BlobTampered):
        await blobs.read(blob.sha256)


async def test_what_a_crash_left_aside_is_never_read_and_swept_when_old(tmp_path: Path) -> None:
    aside = tmp_path / "blobs" / "incoming"
    aside.mkdir(parents=True)
    (aside / HELLO_SHA256).write_bytes(HELLO)
    (aside / "tmp-being-written").write_bytes(b"hel")
    os.utime(aside / HELLO_SHA256, (time.time() - 4_000,) * 2)
    blobs = LocalBlobs(tmp_path / "blobs")
    with pytest.raises(BlobMissing):
        await blobs.read(HELLO_SHA256)
    assert [path.name for path in aside.iterdir()] == ["tmp-being-written"]
