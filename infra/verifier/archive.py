"""A zip that can be written in one way only: every header is made again from what it says, and compared byte for byte.

Members are stored as they are, one after another, then the directory, then nothing. So nothing can hide between them or behind
them, no member stands twice, and none is larger than it is.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

LIMIT: Final = 0xFFFF_FFFF
"""From here on a number does not fit into its field, and stands in that of zip64."""
COUNT_LIMIT: Final = 0xFFFF
_HEADER: Final = struct.Struct("<4s5H3I2H")
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_NAME_BYTES: Final = 255
_DATE: Final = 0x21
"""1980-01-01."""
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_PLAIN, _ZIP64 = 20, 45
_READ_BYTES: Final = 1 << 20


class NoArchive(ValueError):
    """A file that does not even begin as a zip."""


class BadArchive(ValueError):
    """A zip with a byte that should be another; `at` says which."""

    def __init__(self, at: int, found: str) -> None:
        super().__init__(found)
        self.at, self.found = at, found


@dataclass(frozen=True, slots=True)
class PackMember:
    """A member: its name, its header's place in the file, the place and size of its content, and the CRC-32 that it states."""

    name: str
    offset: int
    start: int
    size: int
    crc: int


class Archive:
    """The members of a canonical zip, by name and in order. Opening it reads the headers; contents are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Raises NoArchive, BadArchive and OSError."""
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            members = list(_members(file, size))
            after = members[-1].start + members[-1].size if members else 0
            _require_bytes(file, after, _directory(members, after), "the directory at the end is not that of the members before it")
        self.members: dict[str, PackMember] = {}
        for member in members:
            if member.name in self.members:
                raise BadArchive(member.offset, f"{member.name} stands twice")
            self.members[member.name] = member

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a member, a megabyte at a time; raises BadArchive at its end when it is not what its CRC says."""
        member, crc = self.members[name], 0
        with self.path.open("rb") as file:
            file.seek(member.start)
            left = member.size
            while left and (piece := file.read(min(left, _READ_BYTES))):
                crc = zlib.crc32(piece, crc)
                left -= len(piece)
                yield piece
        if crc != member.crc:
            raise BadArchive(member.start, f"the content of {name} is not what its checksum says")

    def read(self, name: str, most: int = 1 << 26) -> bytes:
        """The content of a small member; raises BadArchive when it is larger than `most` bytes."""
        member = self.members[name]
        if member.size > most:
            raise BadArchive(member.start, f"{name} has {member.size} bytes, more than {most}")
        with self.path.open("rb") as file:
            file.seek(member.start)
            return file.read(member.size)

    def sha256(self, name: str) -> str:
        """Hex, over the content; raises BadArchive when that is not what its CRC says."""
        digest = sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()


def _members(file: IO[bytes], size: int) -> Iterator[PackMember]:
    """Walks from header to header, each of which has to be the one way to write what it says."""
    at = 0
    while True:
        file.seek(at)
        fields = file.read(_HEADER.size)
        if fields[:4] == (b"PK\1\2" if at else b"PK\5\6"):  # without members there is no directory, just its end
            return
        if fields[:4] != b"PK\3\4":
            if not at:
                raise NoArchive("it does not begin as a zip")
            raise BadArchive(at, "neither a member nor the directory begins here")
        if len(fields) < _HEADER.size:
            raise BadArchive(at, "the file ends within a header")
        *_, crc, shown, _, name_bytes, extra_bytes = _HEADER.unpack(fields)
        rest = file.read(min(name_bytes, _NAME_BYTES) + min(extra_bytes, 20))
        name = rest[:name_bytes].decode("latin-1")
        if name_bytes > _NAME_BYTES or not _NAME.fullmatch(name):
            raise BadArchive(at + _HEADER.size, f"{name[:40]!r} is no name for a member")
        content = struct.unpack("<Q", rest[-8:])[0] if shown == LIMIT and extra_bytes == 20 and len(rest) >= 8 else shown
        header = _local_header(name, crc, content)
        _require_bytes(file, at, header, f"the header of {name} is not written as it has to be", whole=False)
        start = at + len(header)
        if start + content > size:
            raise BadArchive(start, f"the file ends within {name}: {content} bytes are stated, {size - start} are left")
        yield PackMember(name, at, start, content, crc)
        at = start + content


def _require_bytes(file: IO[bytes], at: int, wanted: bytes, otherwise: str, *, whole: bool = True) -> None:
    """The bytes at a place are these; with `whole`, nothing comes after them."""
    file.seek(at)
    found = file.read(len(wanted) + whole)
    if found != wanted:
        same = next((place for place, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
        raise BadArchive(at + same, otherwise)


def _local_header(name: str, crc: int, size: int) -> bytes:
    large = size >= LIMIT
    extra = struct.pack("<2H2Q", 1, 16, size, size) if large else b""
    version, shown = (_ZIP64, LIMIT) if large else (_PLAIN, size)
    return _HEADER.pack(b"PK\3\4", version, 0, 0, 0, _DATE, crc, shown, shown, len(name), len(extra)) + name.encode() + extra


def _directory(members: list[PackMember], at: int) -> bytes:
    """The directory of these members, which begins at `at`, and the records that end the file."""
    lines = b"".join(map(_line, members))
    count, size = len(members), len(lines)
    end = b""
    if count >= COUNT_LIMIT or size >= LIMIT or at >= LIMIT:
        end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, _ZIP64, _ZIP64, 0, 0, count, count, size, at)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, at + size, 1)
    shown = min(count, COUNT_LIMIT)
    return lines + end + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, shown, shown, min(size, LIMIT), min(at, LIMIT), 0)


def _line(member: PackMember) -> bytes:
    large = [member.size] * 2 if member.size >= LIMIT else []
    large += [member.offset] if member.offset >= LIMIT else []
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version, size, offset = (_ZIP64 if large else _PLAIN), min(member.size, LIMIT), min(member.offset, LIMIT)
    fields = (b"PK\1\2", _UNIX << 8 | version, version, 0, 0, 0, _DATE, member.crc, size, size)
    numbers = (len(member.name), len(extra), 0, 0, 0, _MODE, offset)
    return struct.pack("<4s6H3I5H2I", *fields, *numbers) + member.name.encode() + extra
