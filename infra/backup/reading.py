"""Reading a backup: a file that is whole or refused, its rows, and its events as verifiers take them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Final

import orjson

from infra.backup.copying import NotCopied, read_rows
from infra.backup.manifest import NAME, FilesOf, Manifest, Signed, TableOf, opened
from infra.backup.sealed_keys import MEMBER as KEYS_MEMBER
from infra.backup.taking import BLOBS, PACKS, Report
from infra.envelope import SIGNATURE_BYTES, entry_bytes, entry_of_one, parse_timestamp
from infra.verifier.archive import Archive, BadArchive, NoArchive
from infra.verifier.events import Bad
from infra.verifier.sources import Unreadable
from infra.verifier.tree import leaf_hash

PIECE_BYTES_MAX: Final = 1 << 30
"""Of one piece, unpacked: 4 MiB, unless a single row is larger."""
_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_COLUMNS: Final = ("position", "tenant", "stream", "version", "type", "at", "body", "signatures", "leaf")


class BadBackup(ValueError):
    """A file that is no whole backup: `where` in it, and what was found."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(f"{where}: {found}")
        self.where, self.found = where, found


class Backup:
    """A backup whose every byte is where its manifest says; what the bytes mean is for others to verify."""

    def __init__(self, path: Path, report: Report) -> None:
        """Reads the file once. Raises BadBackup."""
        self.path = path
        try:
            self._archive = Archive(path)
            self.signed: Signed = opened(b"".join(self._archive.pieces(NAME)))
            self._require_members(report)
        except NoArchive as error:
            raise BadBackup(str(path), f"it is no backup: {error}") from None
        except BadArchive as error:
            raise BadBackup(f"{path} byte {error.at}", error.found) from None
        except KeyError:
            raise BadBackup(str(path), f"it is no backup: it has no {NAME}") from None
        except Bad as bad:
            raise BadBackup(f"{path} {NAME}", bad.found) from None
        except OSError as error:
            raise BadBackup(str(path), f"it cannot be read: {error.strerror or error}") from None

    @property
    def manifest(self) -> Manifest:
        return self.signed.manifest

    def pieces(self, table: TableOf) -> Iterator[bytes]:
        """The rows of a table, piece by piece."""
        for piece in table.pieces:
            yield unpacked(self.place(piece.name))

    def rows(self, name: str) -> Iterator[dict[str, bytes]]:
        """The rows of a table, by column; NULLs are left out. Of a table that is not there, nothing."""
        table = self.manifest.table(name)
        if table is None:
            return
        names = [column for column, _ in table.columns]
        for piece in self.pieces(table):
            for row in read_rows(piece):
                yield {column: value for column, value in zip(names, row, strict=True) if value is not None}

    def stretches(self) -> Iterator[Stretch]:
        """The events, in stretches that can be checked side by side."""
        table, first = self.manifest.table("ledger.events"), 1
        if table is None:
            return
        columns = tuple(column for column, _ in table.columns)
        for piece in table.pieces:
            yield Stretch(self.place(piece.name), first, columns)
            first += piece.rows

    def files(self, kind: str) -> Iterator[tuple[str, Iterator[bytes]]]:
        """(SHA-256, content) of every file of a kind."""
        for name in self._archive.members:
            if name.startswith(f"{kind}/"):
                yield name.partition("/")[2], self._archive.pieces(name)

    def sealed_keys(self) -> bytes | None:
        return self._archive.read(KEYS_MEMBER) if KEYS_MEMBER in self._archive.members else None

    def place(self, name: str) -> Place:
        member = self._archive.members[name]
        return Place(self.path, name, member.start, member.size)

    def _require_members(self, report: Report) -> None:
        """That the file holds what the manifest lists, each byte of it, and nothing else."""
        said, there = self.manifest, self._archive.members
        expected = {piece.name: piece.sha256 for table in said.tables for piece in table.pieces}
        if said.keys_sha256 is not None:
            expected[KEYS_MEMBER] = said.keys_sha256
        files = {name: name.partition("/")[2] for name in there if name.startswith((f"{BLOBS}/", f"{PACKS}/"))}
        if there.keys() != {*expected, *files, NAME}:
            odd = min(there.keys() ^ {*expected, *files, NAME})
            raise BadBackup(f"{self.path} {odd}", "the manifest does not list it" if odd in there else "it is missing")
        for kind, listed in ((BLOBS, said.blobs), (PACKS, said.packs)):
            _require_listed(f"{self.path} {kind}", sorted(sha for name, sha in files.items() if name.startswith(f"{kind}/")), listed)
        total = sum(member.size for member in there.values())
        done = 0
        for name, sha256 in (expected | files).items():
            found = self._archive.sha256(name)
            if found != sha256:
                raise BadBackup(f"{self.path} {name}", f"its SHA-256 is {found}, and should be {sha256}")
            done += there[name].size
            report("bytes", done, total)


def _require_listed(where: str, names: list[str], listed: FilesOf | None) -> None:
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    wanted = (0, hashlib.sha256().hexdigest()) if listed is None else (listed.count, listed.names_sha256)
    if (len(names), digest) != wanted:
        raise BadBackup(where, f"{len(names)} files are there, and not the {wanted[0]} that the manifest lists")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member's content lies in a file."""

    path: Path
    name: str
    start: int
    size: int


def unpacked(place: Place) -> bytes:
    """The content of a piece. Raises BadBackup, OSError."""
    with place.path.open("rb") as file:
        file.seek(place.start)
        packed = file.read(place.size)
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, PIECE_BYTES_MAX)
    except zlib.error as error:
        raise BadBackup(place.name, f"it does not unpack: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise BadBackup(place.name, f"it does not unpack to {PIECE_BYTES_MAX} bytes or less")
    return data


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events at consecutive positions, each with the row it stands in, whose columns have to be what the signed body says."""

    place: Place
    first: int
    columns: tuple[str, ...]

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(position, entry) of each. Raises Unreadable, OSError."""
        expected, moments = self.first, _Moments()
        try:
            fields_of = itemgetter(*(self.columns.index(name) for name in _COLUMNS))
            for fields in read_rows(unpacked(self.place)):
                yield expected, _entry(fields_of(fields), expected, moments)
                expected += 1
        except (BadBackup, NotCopied) as error:
            raise Unreadable(self.place.name, str(error)) from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Unreadable(self.where(expected), f"the row of position {expected}: {error}") from None

    def where(self, position: int) -> str:
        return f"{self.place.name} row {position - self.first + 1}"


def _entry(fields: tuple[bytes, ...], position: int, moments: _Moments) -> bytes:
    """The entry that a row makes, once it is known to be the row of that entry, there. Raises ValueError and its like."""
    kept, tenant, stream, version, kind, at, body, signatures, leaf = fields
    if int.from_bytes(kept) != position:
        raise ValueError(f"it stands at position {int.from_bytes(kept)}")
    said = orjson.loads(body)
    names = (tenant.decode(), stream.decode(), int.from_bytes(version), kind.decode())
    if names != (said["tenant"], said["stream"], said["version"], said["type"]) or not moments.same(at, said["at"]):
        raise ValueError("its columns are not what its signed body says")
    if len(signatures) == SIGNATURE_BYTES:
        entry = entry_of_one(body, signatures[:32].hex(), signatures[32:])
    else:
        entry = entry_bytes(body, signatures)
    if leaf != leaf_hash(entry):
        raise ValueError("its leaf is not the hash of its entry")
    return entry


class _Moments:
    """Compares timestamps as PostgreSQL keeps them with those of bodies; the events of a commit share theirs."""

    def __init__(self) -> None:
        self._at, self._text = b"", ""

    def same(self, at: bytes, text: str) -> bool:
        if at == self._at and text == self._text:
            return True
        self._at, self._text = at, text
        return _POSTGRES_EPOCH + timedelta(microseconds=int.from_bytes(at, signed=True)) == parse_timestamp(text)
