"""A zip with nothing left to choose: the same members give the same bytes, so a verifier can rebuild every header and compare.

Members are stored, not compressed, in the order they were added; times are 1980-01-01, modes 0644, no comments, no extra
fields but those of zip64, and those only where a number does not fit. Field by field: docs/packs.md.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

LIMIT: Final = 0xFFFF_FFFF
"""What a 32-bit field says when the number stands in the zip64 field instead; from here on a number does not fit."""
COUNT_LIMIT: Final = 0xFFFF
CHUNK_BYTES: Final = 256 * 1024
"""Few enough that what is hashed, checksummed and written is still in the processor's cache."""
_UNIX: Final = 3
_DATE_1980: Final = 0x21
_MODE: Final = 0o100644 << 16
_PLAIN, _ZIP64 = 20, 45


class MemberTooLarge(ValueError):
    """A member that was written without its size being known, and came to 4 GiB: let it be a file first."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member that is written: where its local header stands, and what was written. `sha256` is hex."""

    name: str
    offset: int
    size: int
    crc: int
    sha256: str

    def end(self, limit: int = LIMIT) -> int:
        """Where the next member begins."""
        return self.offset + len(local_header(self.name, self.size, self.crc, limit)) + self.size


def local_header(name: str, size: int, crc: int, limit: int = LIMIT) -> bytes:
    """What stands before a member's bytes."""
    large = size >= limit
    extra = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
    shown = LIMIT if large else size
    version = _ZIP64 if large else _PLAIN
    fields = struct.pack("<4s5H3I2H", b"PK\3\4", version, 0, 0, 0, _DATE_1980, crc, shown, shown, len(name), len(extra))
    return fields + name.encode("ascii") + extra


def central_header(member: Member, limit: int = LIMIT) -> bytes:
    """A member's line in the directory at the end."""
    numbers = [member.size, member.size] if member.size >= limit else []
    numbers += [member.offset] if member.offset >= limit else []
    extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    version = _ZIP64 if numbers else _PLAIN
    size = LIMIT if member.size >= limit else member.size
    offset = LIMIT if member.offset >= limit else member.offset
    fields = struct.pack(
        "<4s4B4H3I5H2I",
        *(b"PK\1\2", version, _UNIX, version, 0, 0, 0, 0, _DATE_1980),
        *(member.crc, size, size, len(member.name), len(extra), 0, 0, 0, _MODE, offset),
    )
    return fields + member.name.encode("ascii") + extra


def end_records(count: int, size: int, offset: int, limit: int = LIMIT, count_limit: int = COUNT_LIMIT) -> bytes:
    """What ends the file, after a directory of so many members and bytes that begins at `offset`."""
    parts = []
    if count >= count_limit or size >= limit or offset >= limit:
        parts.append(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, _ZIP64, _ZIP64, 0, 0, count, count, size, offset))
        parts.append(struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1))
    shown = COUNT_LIMIT if count >= count_limit else count
    shown_size, shown_offset = (LIMIT if number >= limit else number for number in (size, offset))
    parts.append(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, shown, shown, shown_size, shown_offset, 0))
    return b"".join(parts)


class ZipWriter:
    """Writes members one after another to a seekable file.

    `members` are those that the file holds already, up to where it stands. `limit` and `count_limit` are lower in tests alone.
    """

    def __init__(self, file: IO[bytes], members: Sequence[Member] = (), *, limit: int = LIMIT, count_limit: int = COUNT_LIMIT) -> None:
        self._file, self._limit, self._count_limit = file, limit, count_limit
        self.members = list(members)

    @contextmanager
    def member(self, name: str) -> Iterator[MemberWriter]:
        """A member of fewer than 4 GiB whose size shows as it is written. Raises MemberTooLarge."""
        offset = self._file.tell()
        self._file.write(local_header(name, 0, 0, self._limit))
        writer = MemberWriter(self._file)
        yield writer
        writer.flush()
        if writer.size >= self._limit:
            raise MemberTooLarge(f"{name} has {writer.size} bytes")
        member = Member(name, offset, writer.size, writer.crc, writer.sha256())
        self._file.seek(offset)
        self._file.write(local_header(name, member.size, member.crc, self._limit))
        self._file.seek(0, os.SEEK_END)
        self.members.append(member)

    def add(self, name: str, content: bytes) -> None:
        """A small member."""
        member = Member(name, self._file.tell(), len(content), zlib.crc32(content), hashlib.sha256(content).hexdigest())
        self._file.write(local_header(name, member.size, member.crc, self._limit) + content)
        self.members.append(member)

    def add_file(self, name: str, path: Path) -> None:
        """A member of any size, from a file: read twice, first for its checksum."""
        size, crc = path.stat().st_size, 0
        with path.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                crc = zlib.crc32(chunk, crc)
            source.seek(0)
            offset = self._file.tell()
            self._file.write(local_header(name, size, crc, self._limit))
            writer = MemberWriter(self._file)
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
            writer.flush()
        if (writer.size, writer.crc) != (size, crc):
            raise OSError(f"{path.name} changed while it was packed")
        self.members.append(Member(name, offset, size, crc, writer.sha256()))

    def finish(self) -> None:
        """Writes the directory: the file is whole."""
        offset = self._file.tell()
        directory = b"".join(central_header(member, self._limit) for member in self.members)
        self._file.write(directory + end_records(len(self.members), len(directory), offset, self._limit, self._count_limit))
        self._file.flush()


class MemberWriter:
    """Takes a member's bytes, in pieces of any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest, self.crc, self.size = hashlib.sha256(), 0, 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def write(self, piece: bytes) -> None:
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Takes in what waits."""
        chunk = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._digest.update(chunk)
        self.crc = zlib.crc32(chunk, self.crc)
        self.size += len(chunk)
        self._file.write(chunk)

    def sha256(self) -> str:
        """Hex, of all that was written and flushed."""
        return self._digest.hexdigest()
