"""Questions in SQL over the archive, answered by DuckDB in a process of its own (`infra.archive.answering`).

Whoever asks may write any SELECT. So nothing depends on what it says: the process has a copy of what may be seen, in a folder that
goes with it; it has no environment, opens no other file, loads no extension and cannot write; memory, time and rows are bounded.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domain.archive import SegmentSealed
from domain.kernel import JsonObject
from infra.archive.apart import apart
from infra.archive.fetching import fetched
from infra.archive.reading import Sealed
from infra.archive.segment import ArchiveError, too_large
from infra.blobs import BlobStore

MODULE: Final = "infra.archive.answering"
SECONDS: Final = 30.0
ROWS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of whose events: those of positions behind `after`, up to `until`."""

    sql: str
    tenant: str
    after: int
    until: int
    rows: int = 1_000


async def ask(
    blobs: BlobStore, segments: Sequence[SegmentSealed], question: Question, beside: Path, seconds: float = SECONDS
) -> JsonObject:
    """{columns: [{name, type}], rows: [[...]], truncated}. Raises ArchiveError.

    Whoever stops waiting stops the process.
    """
    async with fetched(blobs, segments, beside) as files:
        folder = files[0].path.parent
        try:
            async with asyncio.timeout(seconds):
                return await apart(MODULE, job(files, question, folder), {"HOME": str(folder), "PATH": os.defpath})
        except ArchiveError as error:
            if error.code != "process_ended":
                raise
            raise too_large() from None
        except TimeoutError:
            remedy = "Ask for fewer events with `after` and `until`, or for a simpler answer."
            raise ArchiveError("query_too_long", f"The question took longer than {seconds:g} seconds.", remedy) from None


def job(files: Sequence[Sealed], question: Question, folder: Path) -> JsonObject:
    return {
        "files": [str(one.path) for one in files],
        "folder": str(folder),
        "sql": question.sql,
        "tenant": question.tenant,
        "after": question.after,
        "until": question.until,
        "rows": min(question.rows, ROWS_MAX),
    }
