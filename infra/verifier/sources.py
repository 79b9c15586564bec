"""Where entries lie: in memory, in the bundles of a tile directory, or in lines of a pack. Whoever checks them reads them there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

CHUNK_ENTRIES: Final = 4_096
"""How many entries are checked in one go: a quarter of a second's work, and a few megabytes."""
_POSITION: Final = re.compile(rb"[1-9][0-9]{0,18}")


class Unreadable(ValueError):
    """Bytes that are not entries in the form that was said; `where` names the file and the byte."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(found)
        self.where, self.found = where, found


class Source(Protocol):
    """Some entries, in ascending positions."""

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(position, entry) of each; raises Unreadable and OSError."""

    def where(self, position: int) -> str | None:
        """The file and the byte at which an entry begins, for people; None when it lies in no file."""


@dataclass(frozen=True, slots=True)
class Held:
    """Entries in memory, at consecutive positions."""

    first: int
    entries: Sequence[bytes]

    def read(self) -> Iterator[tuple[int, bytes]]:
        return enumerate(self.entries, self.first)

    def where(self, _position: int) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Bundles:
    """Entry bundles (c2sp.org/tlog-tiles) in files, one after another: each entry follows its length, two bytes, big-endian."""

    first: int
    folder: Path
    names: Sequence[str]
    widths: Sequence[int]

    def read(self) -> Iterator[tuple[int, bytes]]:
        position = self.first
        for name, width in zip(self.names, self.widths, strict=True):
            data = (self.folder / name).read_bytes()
            for start, end in _spans(data, width, name):
                yield position, data[start:end]
                position += 1

    def where(self, position: int) -> str | None:
        before = self.first
        for name, width in zip(self.names, self.widths, strict=True):
            if position < before + width:
                spans = list(_spans((self.folder / name).read_bytes(), width, name))
                return f"{name} byte {spans[position - before][0]}"
            before += width
        return None


def _spans(data: bytes, width: int, name: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each entry of a bundle."""
    at = 0
    for _ in range(width):
        end = at + 2 + int.from_bytes(data[at : at + 2])
        if end > len(data) or at + 2 > len(data):
            raise Unreadable(f"{name} byte {at}", f"the bundle ends within an entry; {width} entries are expected in it")
        yield at + 2, end
        at = end
    if at != len(data):
        raise Unreadable(f"{name} byte {at}", f"the bundle goes on after its {width} entries")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines `<position>\\t<entry>\\n`, a stretch of a member of an archive."""

    path: Path
    name: str
    offset: int
    """Of the member's content in the archive."""
    start: int
    """Of this stretch in the content."""
    end: int

    def read(self) -> Iterator[tuple[int, bytes]]:
        return ((position, entry) for _, position, entry in self._lines())

    def where(self, position: int) -> str | None:
        return next((f"{self.name} byte {at}" for at, found, _ in self._lines() if found == position), None)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        with self.path.open("rb") as file:
            file.seek(self.offset + self.start)
            data = file.read(self.end - self.start)
        return read_lines(data, self.name, self.start)


def where(source: Source, position: int) -> str | None:
    """The file and the byte at which an event begins, when that can be told."""
    try:
        return source.where(position)
    except (Unreadable, OSError):
        return None


def read_lines(data: bytes, name: str, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """(byte, position, what stands beside it) of each line; positions ascend. Raises Unreadable."""
    before, at = 0, start
    for line in data.split(b"\n")[:-1] if data.endswith(b"\n") or not data else [data]:
        number, tab, rest = line.partition(b"\t")
        if not tab or not _POSITION.fullmatch(number) or int(number) <= before:
            raise Unreadable(f"{name} byte {at}", f"not a line of a position above {before}, a tab and what stands there")
        before = int(number)
        yield at, before, rest
        at += len(line) + 1
    if data and not data.endswith(b"\n"):
        raise Unreadable(f"{name} byte {start + len(data)}", "the last line has no end")
