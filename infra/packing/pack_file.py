"""The file of a pack while it is written: every finished member is on record, so that whoever goes on begins where it ends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import IO, Final, Self

import orjson

from infra.packing.canonical_zip import CHUNK_BYTES, Member, MemberWriter, ZipWriter, local_header

PACK: Final = "pack.zip"
_MEMBERS: Final = "members.jsonl"


class PackFile:
    """A pack in a working folder. Members that are whole are skipped by whoever asks `has` first.

    Nothing is flushed to disk on the way: what is on record is read again by whoever goes on. `as_left` takes it as it is, for
    whoever comes right after the one that wrote it.
    """

    def __init__(self, folder: Path, *, as_left: bool = False) -> None:
        self._path, self._journal_path = folder / PACK, folder / _MEMBERS
        self._path.touch(mode=0o600)
        self._file: IO[bytes] = self._path.open("r+b")
        members = self._whole_members(as_left=as_left)
        end = members[-1].end() if members else 0
        self._file.truncate(end)
        self._file.seek(end)
        self._writer = ZipWriter(self._file, members)
        self._journal_path.write_bytes(b"".join(map(_line, members)))
        self._journal = self._journal_path.open("ab")
        self._known = {member.name: member for member in members}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._journal.close()
        self._file.close()

    @property
    def members(self) -> list[Member]:
        return self._writer.members

    def has(self, name: str) -> bool:
        return name in self._known

    def read(self, name: str) -> bytes:
        """The bytes of a small member."""
        member = self._known[name]
        return os.pread(self._file.fileno(), member.size, member.end() - member.size)

    @contextmanager
    def member(self, name: str) -> Iterator[MemberWriter]:
        with self._writer.member(name) as writer:
            yield writer
        self._recorded()

    def add(self, name: str, content: bytes) -> None:
        if not self.has(name):
            self._writer.add(name, content)
            self._recorded()

    def add_file(self, name: str, path: Path) -> None:
        if not self.has(name):
            self._writer.add_file(name, path)
            self._recorded()

    def finish(self) -> None:
        """The zip is whole, and on disk."""
        self._writer.finish()
        os.fsync(self._file.fileno())

    def _recorded(self) -> None:
        member = self._writer.members[-1]
        self._file.flush()
        self._journal.write(_line(member))
        self._journal.flush()
        self._known[member.name] = member

    def _whole_members(self, *, as_left: bool) -> list[Member]:
        """Those on record that are as they were written; nothing after the first that is not."""
        whole: list[Member] = []
        try:
            lines = self._journal_path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return whole
        for line in lines:
            member = Member(*orjson.loads(line))
            if member.offset != (whole[-1].end() if whole else 0) or not (as_left or self._holds(member)):
                break
            whole.append(member)
        return whole

    def _holds(self, member: Member) -> bool:
        """Whether the file has the member where the record says, header and bytes."""
        self._file.seek(member.offset)
        header = local_header(member.name, member.size, member.crc)
        if self._file.read(len(header)) != header:
            return False
        digest, left = hashlib.sha256(), member.size
        while left and (chunk := self._file.read(min(CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
        return digest.hexdigest() == member.sha256


def _line(member: Member) -> bytes:
    return orjson.dumps(astuple(member)) + b"\n"
