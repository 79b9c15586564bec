"""The process in which packs are built and large indexes are made, for both take whole minutes of a processor.

It is started for one job, which it reads from stdin as JSON, tells on stdout how far it is, a JSON object a line, and ends with the
last line: what came of it. When the one who waits for that is gone it ends as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from domain.kernel import JsonObject
from infra.blobs import BlobMissing, BlobsUnavailable, BlobTampered
from infra.key_encryption import KeyEncryptionKeys
from infra.packing.building import Outside, Progress, build
from infra.packing.disclosing import VaultPlace
from infra.packing.plan import BuildFailed
from infra.s3_blobs import opened_blobs
from infra.settings import S3Place
from infra.topic_index import TopicIndex

NICE: Final = 5
TOLD_SECONDS: Final = 0.2
APART_EVENTS: Final = 10_000
"""From so many events on, work is worth a process of its own, which leaves the server's core alone."""
_COMMAND: Final = (sys.executable, "-P", "-m", "infra.packing.process")
_ROOT: Final = Path(__file__).resolve().parent.parent.parent
Told = Callable[[str, int, int], Awaitable[None]]


class ProcessEnded(Exception):
    """The process ended without a result; its log says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """Build the pack in `folder`, with what is outside it, or bring the index of `tenant` forward to `size`."""

    task: Literal["build", "index"]
    dsn: str
    folder: str = ""
    keys_dir: str = ""
    """Where the key-encryption keys lie."""
    vault_keys_url: str = ""
    """The database that has the vault's keys, when it is another than the ledger's."""
    blobs_dir: str = ""
    s3: JsonObject | None = None
    tenant: str = ""
    size: int = 0
    apart: bool = True
    """Whether it is worth a process; what is done in a blink is done in a thread, and tells no progress."""


async def run(job: Job, told: Told) -> JsonObject:
    """The result of a job, done in a process that ends with this task. Raises BuildFailed, or ProcessEnded."""
    if not job.apart:
        return await asyncio.to_thread(_done, job, lambda _phase, _done, _total: None)
    process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    said: JsonObject = {}
    try:
        process.stdin.write(orjson.dumps(asdict(job)))
        process.stdin.close()
        async for line in process.stdout:
            said = orjson.loads(line)
            if "phase" in said:
                await told(said["phase"], said["done"], said["total"])
        await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
    if "failed" in said:
        raise BuildFailed(**said["failed"])
    if "result" not in said:
        raise ProcessEnded(f"The process that worked on it ended with {process.returncode}.")
    result: JsonObject = said["result"]
    return result


class _Telling:
    """Progress on stdout, a few times a second, and the first and last of each phase."""

    def __init__(self) -> None:
        self._phase, self._at = "", 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase or done >= total or now - self._at >= TOLD_SECONDS:
            self._phase, self._at = phase, now
            _say({"phase": phase, "done": done, "total": total})


def _say(line: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _done(job: Job, telling: Progress) -> JsonObject:
    try:
        return _build(job, telling) if job.task == "build" else _index(job, telling)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise BuildFailed("disk_refused", f"The pack cannot be written: {error.strerror}. Make room for it.") from error


def _build(job: Job, telling: Progress) -> JsonObject:
    folder = Path(job.folder)
    with (folder / "lock").open("w") as lock:
        # Whoever built here before may not have noticed yet that nobody waits for it any more.
        fcntl.flock(lock, fcntl.LOCK_EX)
        vault = VaultPlace(KeyEncryptionKeys(Path(job.keys_dir)), job.vault_keys_url or job.dsn)
        outside = Outside(job.dsn, vault, lambda sha256, aside: _artifact(job, sha256, aside))
        packed = build(folder, outside, telling)
    return {**packed, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _artifact(job: Job, sha256: str, aside: Path) -> None:
    async def fetch() -> None:
        async with opened_blobs(S3Place(**job.s3) if job.s3 else None, Path(job.blobs_dir)) as blobs:
            with aside.open("wb") as file:
                async for piece in await blobs.read(sha256):
                    file.write(piece)

    try:
        asyncio.run(fetch())
    except (BlobMissing, BlobTampered, BlobsUnavailable) as error:
        raise BuildFailed("artifact_lost", f"Artifact {sha256} cannot be packed: {error}") from error


def _index(job: Job, telling: Progress) -> JsonObject:
    index = TopicIndex(job.dsn).bring_forward(job.tenant, job.size, lambda done, total: telling("index", done, total))
    return {"size": index.size, "topics": index.topics, "root": index.root.hex()}


def main() -> None:
    """Does the job on stdin."""
    os.nice(NICE)
    job, telling = Job(**orjson.loads(sys.stdin.buffer.read())), _Telling()
    try:
        _say({"result": _done(job, telling)})
    except BuildFailed as failed:
        _say({"failed": {"code": failed.code, "message": failed.message}})
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
