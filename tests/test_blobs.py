"""Blobs, in a folder and in S3 alike: kept whole or not at all, found by their hash alone, and never given out changed."""

import asyncio
import hashlib
import os
import resource
import stat
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Protocol

import pytest

from infra.blobs import CHUNK_BYTES, MAX_BLOB_BYTES, Blob, BlobMissing, BlobStore, BlobsUnavailable, BlobTampered, BlobTooLarge, LocalBlobs
from infra.s3_blobs import S3Blobs, object_name
from tests.support.minio import Minio

pytestmark = pytest.mark.anyio

HELLO: Final = b"hello"
HELLO_SHA256: Final = hashlib.sha256(HELLO).hexdigest()
MIB: Final = 1024 * 1024


class Kept(Protocol):
    """A store, and what can be done to it behind its back."""

    def open(self, max_bytes: int = MAX_BLOB_BYTES) -> BlobStore: ...

    def hashes(self) -> list[str]:
        """The blobs that lie there."""

    def replace(self, sha256: str, content: bytes) -> None:
        """Puts other bytes under this hash."""


class Folder:
    """Blobs in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, max_bytes: int = MAX_BLOB_BYTES) -> BlobStore:
        return LocalBlobs(self.root, max_bytes)

    def hashes(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())

    def replace(self, sha256: str, content: bytes) -> None:
        kept_file(self.root, sha256).write_bytes(content)


class Bucket:
    """Blobs in a bucket of a real S3 server."""

    def __init__(self, minio: Minio, aside: Path) -> None:
        self.minio, self.aside, self.place = minio, aside, minio.bucket()
        self.opened: list[S3Blobs] = []

    def open(self, max_bytes: int = MAX_BLOB_BYTES) -> BlobStore:
        self.opened.append(S3Blobs(self.place, self.aside, max_bytes))
        return self.opened[-1]

    def hashes(self) -> list[str]:
        assert list(self.aside.iterdir()) == []
        return [name.rpartition("/")[2] for name in self.minio.objects(self.place.bucket)]

    def replace(self, sha256: str, content: bytes) -> None:
        answer = self.minio.ask("PUT", f"/{self.place.bucket}/{object_name(self.place.prefix, sha256)}", content)
        assert answer.status_code == 200, answer.text


@pytest.fixture(params=["folder", "s3"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    if request.param == "folder":
        yield Folder(tmp_path / "blobs")
        return
    minio: Minio = request.getfixturevalue("minio")
    monkeypatch.setenv("SSL_CERT_FILE", str(minio.certificate))
    bucket = Bucket(minio, tmp_path)
    yield bucket
    for opened in bucket.opened:
        await opened.close()


@pytest.fixture
def blobs(kept: Kept) -> BlobStore:
    return kept.open()


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(blobs: BlobStore, sha256: str) -> bytes:
    return b"".join([chunk async for chunk in await blobs.read(sha256)])


def kept_file(root: Path, sha256: str) -> Path:
    return root / sha256[:2] / sha256


@pytest.mark.parametrize("content", [b"", HELLO, os.urandom(3 * CHUNK_BYTES + 1)], ids=["nothing", "hello", "much"])
async def test_what_is_put_is_read_back(blobs: BlobStore, content: bytes) -> None:
    blob = await blobs.put(pieces(content[:7], content[7:]))
    assert blob == Blob(hashlib.sha256(content).hexdigest(), len(content))
    assert await blobs.has(blob.sha256)
    assert await whole(blobs, blob.sha256) == content


async def test_a_large_blob_is_given_out_in_pieces(blobs: BlobStore) -> None:
    blob = await blobs.put(pieces(os.urandom(CHUNK_BYTES + 1)))
    assert [len(chunk) async for chunk in await blobs.read(blob.sha256)] == [CHUNK_BYTES, 1]


async def test_a_blob_outlives_its_store_object(kept: Kept) -> None:
    await kept.open().put(pieces(HELLO))
    assert await whole(kept.open(), HELLO_SHA256) == HELLO


async def test_the_same_bytes_are_kept_once(kept: Kept, blobs: BlobStore) -> None:
    assert await blobs.put(pieces(HELLO)) == await blobs.put(pieces(b"he", b"llo"))
    assert kept.hashes() == [HELLO_SHA256]


async def test_the_same_bytes_put_at_once_are_kept_once(kept: Kept, blobs: BlobStore) -> None:
    content = os.urandom(MIB)
    put = await asyncio.gather(*(kept.open().put(pieces(content)) for _ in range(8)))
    assert kept.hashes() == [blob.sha256 for blob in set(put)]
    assert await whole(blobs, put[0].sha256) == content


async def test_what_is_deleted_is_gone_and_may_come_back(kept: Kept, blobs: BlobStore) -> None:
    for content in (HELLO, b"others stay"):
        await blobs.put(pieces(content))
    await blobs.delete(HELLO_SHA256)
    assert kept.hashes() == [hashlib.sha256(b"others stay").hexdigest()]
    assert not await blobs.has(HELLO_SHA256)
    with pytest.raises(BlobMissing):
        await blobs.read(HELLO_SHA256)
    await blobs.delete(HELLO_SHA256)
    await blobs.delete("0" * 64)
    await blobs.put(pieces(HELLO))
    assert await whole(blobs, HELLO_SHA256) == HELLO


async def test_only_blobs_are_deleted(kept: Kept, blobs: BlobStore, tmp_path: Path) -> None:
    await blobs.put(pieces(HELLO))
    beside = tmp_path / "beside"
    beside.write_text("here")
    for name in ("../beside", str(beside), "", HELLO_SHA256[:2]):
        await blobs.delete(name)
    assert beside.exists()
    beside.unlink()
    assert kept.hashes() == [HELLO_SHA256]


async def test_too_many_bytes_are_refused_and_leave_nothing(kept: Kept) -> None:
    small = kept.open(max_bytes=4)
    with pytest.raises(BlobTooLarge) as refusal:
        await small.put(pieces(b"he", b"llo"))
    assert refusal.value.limit_bytes == 4
    assert kept.hashes() == []
    assert (await small.put(pieces(b"hell"))).size_bytes == 4


async def test_a_sender_who_breaks_off_leaves_nothing(kept: Kept, blobs: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield os.urandom(CHUNK_BYTES)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(broken())
    assert kept.hashes() == []


@pytest.mark.parametrize("sha256", ["00" * 32, "", "../../etc/passwd", HELLO_SHA256.upper(), HELLO_SHA256[:-1], f"{HELLO_SHA256}\n"])
async def test_only_a_whole_hash_finds_a_blob(blobs: BlobStore, sha256: str) -> None:
    await blobs.put(pieces(HELLO))
    with pytest.raises(BlobMissing) as refusal:
        await blobs.read(sha256)
    assert refusal.value.sha256 == sha256
    assert not await blobs.has(sha256)


async def test_tampering_is_detected_before_a_byte_is_given_out_and_the_original_mends_it(kept: Kept, blobs: BlobStore) -> None:
    await blobs.put(pieces(HELLO))
    kept.replace(HELLO_SHA256, b"jello")
    with pytest.raises(BlobTampered) as refusal:
        await blobs.read(HELLO_SHA256)
    assert (refusal.value.sha256, refusal.value.found) == (HELLO_SHA256, hashlib.sha256(b"jello").hexdigest())
    assert not await blobs.has(HELLO_SHA256)
    await blobs.put(pieces(HELLO))
    assert await whole(blobs, HELLO_SHA256) == HELLO


async def test_whoever_looks_for_what_was_changed_is_given_what_lies_there(kept: Kept, blobs: BlobStore) -> None:
    await blobs.put(pieces(HELLO))
    kept.replace(HELLO_SHA256, b"jello")
    assert b"".join([piece async for piece in await blobs.as_kept(HELLO_SHA256)]) == b"jello"
    with pytest.raises(BlobMissing):
        await blobs.as_kept("0" * 64)


async def test_a_blob_that_was_cut_or_emptied_is_detected(kept: Kept, blobs: BlobStore) -> None:
    content = os.urandom(2 * CHUNK_BYTES)
    blob = await blobs.put(pieces(content))
    for rest in (content[:CHUNK_BYTES], b""):
        kept.replace(blob.sha256, rest)
        with pytest.raises(BlobTampered):
            await blobs.read(blob.sha256)


async def test_a_blob_in_whose_place_too_much_lies_is_detected(kept: Kept) -> None:
    blob = await kept.open(max_bytes=4).put(pieces(b"hell"))
    kept.replace(blob.sha256, os.urandom(CHUNK_BYTES))
    with pytest.raises(BlobTampered):
        await kept.open(max_bytes=4).read(blob.sha256)


async def test_much_is_put_and_read_in_little_memory(blobs: BlobStore) -> None:
    piece = os.urandom(CHUNK_BYTES)

    async def much() -> AsyncIterator[bytes]:
        for _ in range(30 * MIB // len(piece)):
            yield piece

    tracemalloc.start()
    try:
        blob = await blobs.put(much())
        read = [len(chunk) async for chunk in await blobs.read(blob.sha256)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(read) == blob.size_bytes == 30 * MIB
    assert peak < 12 * MIB, f"{peak:,} bytes at most at once"


async def test_a_full_disk_keeps_nothing_and_says_so(kept: Kept, blobs: BlobStore) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES, unlimited[1]))
    try:
        with pytest.raises(BlobsUnavailable, match="cannot use its disk") as refusal:
            await blobs.put(pieces(os.urandom(2 * CHUNK_BYTES)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "Make room" in refusal.value.remedy
    assert kept.hashes() == []


# -- the folder's own


async def test_folders_and_files_are_private(tmp_path: Path) -> None:
    LocalBlobs(tmp_path / "blobs")
    (tmp_path / "blobs").chmod(0o755)
    await LocalBlobs(tmp_path / "blobs").put(pieces(HELLO))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "blobs").rglob("*") if path.is_dir()}
    assert modes | {stat.S_IMODE((tmp_path / "blobs").stat().st_mode)} == {0o700}
    assert stat.S_IMODE(kept_file(tmp_path / "blobs", HELLO_SHA256).stat().st_mode) == 0o600


async def test_a_disk_that_cannot_sync_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BlobsUnavailable, match="No space left"):
        await LocalBlobs(tmp_path).put(pieces(HELLO))
    assert Folder(tmp_path).hashes() == []


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
