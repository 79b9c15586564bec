"""Reading segments: the bytes that were hashed are the bytes that are read, as fast as DuckDB gives them.

What is read here was compared with the hash that the ledger signed, file by file; `infra.archive.verifying` trusts nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from domain.kernel import Recorded
from infra.archive.segment import ArchiveError
from infra.envelope import entry_bytes, recorded_members

BATCH_EVENTS: Final = 512
"""Few enough that what a batch leads to stays in the processor's caches."""
_RAW: Final = "SELECT position, body, signatures, leaf FROM read_parquet('{path}') WHERE position BETWEEN ? AND ?"
_TYPED: Final = """
    SELECT position, body, leaf FROM read_parquet('{path}') WHERE position BETWEEN ? AND ? AND NOT list_contains(?, type)
"""
# Neither query sorts: rows come in the order of the file, which is that of positions (`infra.archive.verifying` looks at it).
Raw = tuple[int, str, bytes, bytes]
"""(position, body, signatures, leaf)"""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The Parquet file of a segment on this machine, and the hash under which the ledger sealed it."""

    path: Path
    first: int
    last: int
    sha256: str

    def require_whole(self) -> None:
        """Raises ArchiveError when the file is not the one that was sealed."""
        try:
            with self.path.open("rb") as file:
                found = file_digest(file, "sha256").hexdigest()
        except OSError as error:
            message = f"The segment of positions {self.first} to {self.last} cannot be read: {error.strerror}."
            raise ArchiveError("segment_lost", message, "Restore it from a backup of the blob store.") from error
        if found != self.sha256:
            message = f"The segment of positions {self.first} to {self.last} was changed: {self.sha256} was sealed, and {found} lies there."
            raise ArchiveError("segment_tampered", message, "`aureus archive verify` names the bytes; restore it from a backup.")


class SegmentReader:
    """A segment, opened once its hash was compared. Nobody else may write to the folder it lies in."""

    def __init__(self, sealed: Sealed) -> None:
        self.sealed = sealed
        sealed.require_whole()
        import duckdb  # noqa: PLC0415 - takes long to load, and most processes read no segment

        self._closing = ExitStack()
        # One thread: whoever reads in bulk has a process for each core already.
        self._database = self._closing.enter_context(duckdb.connect(config={"threads": 1, "autoload_known_extensions": False}))
        self._path = str(sealed.path).replace("'", "''")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.close()

    def raw(self, after: int, until: int) -> Iterator[list[Raw]]:
        """The events of positions after `after`, up to `until`, as they were signed, some at a time."""
        found = self._database.execute(_RAW.format(path=self._path), (after + 1, until))
        while rows := found.fetchmany(BATCH_EVENTS):
            yield rows

    def events(self, after: int, until: int, passed_over: Sequence[str] = ()) -> Iterator[list[Recorded[Any]]]:
        """The typed events of these positions, but for some types; raises UnknownEvent when this code has no class for one."""
        found = self._database.execute(_TYPED.format(path=self._path), (after + 1, until, list(passed_over)))
        while rows := found.fetchmany(BATCH_EVENTS):
            members = orjson.loads(f"[{','.join([body for _, body, _ in rows])}]")
            yield [recorded_members(position, member, leaf) for (position, _, leaf), member in zip(rows, members, strict=True)]


def raw_events(segments: Sequence[Sealed]) -> Iterator[list[Raw]]:
    """All events of some segments, some at a time."""
    for sealed in segments:
        with SegmentReader(sealed) as reader:
            yield from reader.raw(sealed.first - 1, sealed.last)


def events(segments: Sequence[Sealed], until: int, passed_over: Sequence[str] = ()) -> Iterator[tuple[int, list[Recorded[Any]]]]:
    """(up to which position, the typed events since the last) of consecutive segments, up to `until` at most, some at a time."""
    for sealed in segments:
        if sealed.first > until:
            return
        with SegmentReader(sealed) as reader:
            for batch in reader.events(sealed.first - 1, until, passed_over):
                yield batch[-1].position, batch
            yield min(sealed.last, until), []


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of some positions of a segment, for whoever verifies them: put together from bodies and signatures."""

    sealed: Sealed
    after: int
    until: int

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(position, entry) of each."""
        with SegmentReader(self.sealed) as reader:
            for rows in reader.raw(self.after, self.until):
                for position, body, signatures, _leaf in rows:
                    yield position, _entry(body, signatures)

    def where(self, position: int) -> str | None:
        return f"{self.sealed.path.name} position {position}"


def _entry(body: str, signatures: bytes) -> bytes:
    try:
        return entry_bytes(body.encode(), signatures)
    except ValueError:
        return b""  # no envelope can be made of it, and the verifier says so
