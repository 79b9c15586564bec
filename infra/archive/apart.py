"""A process for one job: it reads it from stdin as JSON, and its last word on stdout is what came of it. It ends with who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import orjson

from domain.kernel import JsonObject
from infra.archive.segment import ArchiveError

_ROOT: Final = Path(__file__).resolve().parent.parent.parent


async def apart(module: str, job: JsonObject, environment: Mapping[str, str] | None = None) -> JsonObject:
    """What `module` makes of a job, in a process of its own. Raises ArchiveError, of the process too when it ended without a word."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, env=environment
    )
    try:
        answer, _ = await process.communicate(orjson.dumps(job))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    said: JsonObject = orjson.loads(answer) if answer else {}
    if "failed" in said:
        raise ArchiveError(**said["failed"])
    if "result" not in said:
        message = f"The process that worked on it ended with {process.returncode}."
        raise ArchiveError("process_ended", message, "The server's log says more.")
    result: JsonObject = said["result"]
    return result


def answer_one(work: Callable[[JsonObject], JsonObject]) -> None:
    """Does the job on stdin and says what came of it."""
    try:
        said = {"result": work(orjson.loads(sys.stdin.buffer.read()))}
    except ArchiveError as error:
        said = {"failed": {"code": error.code, "message": error.message, "remedy": error.remedy}}
    sys.stdout.buffer.write(orjson.dumps(said))
    sys.stdout.buffer.flush()
