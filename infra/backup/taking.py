"""Taking a backup: one snapshot of the database, streamed into one file beside whatever else happens, and signed.

Memory is bounded by a few pieces of a few megabytes, however long the ledger is. Nothing waits for it: appends go on, and what they add
is not in the snapshot.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import psycopg

from domain.ledger import EventSigner
from infra.backup.contents import KEPT
from infra.backup.copying import Connection, Full, Piece, columns_of, copied_out
from infra.backup.manifest import FORMAT, NAME, FilesOf, Manifest, PieceOf, TableOf, sealed
from infra.backup.sealed_keys import MEMBER as KEYS_MEMBER
from infra.blobs import SHA256
from infra.durable import sync_folder
from infra.packing.canonical_zip import ZipWriter
from infra.settings import SettingsError
from infra.verifier.ledger import FOUNDING_ENTRIES
from infra.verifier.main import available_cores
from infra.verifier.sources import CHUNK_ENTRIES
from infra.version import aureus_version

BACKUP_LOCK: Final = 7_283_673
PIECE_BYTES: Final = 4 << 20
_LEVEL: Final = 1
"""Bodies are JSON around hashes: more effort takes several times as long, and saves a few percent."""
EVENTS: Final = "ledger.events"
BLOBS, PACKS = "blobs", "packs"
Report = Callable[[str, int, int | None], None]
_HEAD: Final = "SELECT origin, size, root, note FROM ledger.head WHERE size > 0"
_COSIGNED: Final = """
    SELECT (SELECT note FROM ledger.checkpoints AS c WHERE c.size = max(o.size)), string_agg(o.line, '' ORDER BY o.witness)
    FROM ledger.cosignatures AS o WHERE o.size = (SELECT max(size) FROM ledger.cosignatures) HAVING count(*) > 0
"""
_STAMP: Final = "SELECT obj_description(to_regnamespace('ledger'), 'pg_namespace')"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a backup is made of besides the database. `blobs` and `packs` are files by SHA-256; None: the blobs lie in a bucket."""

    backup_id: str
    signer: EventSigner
    packs: dict[str, Path]
    blobs: dict[str, Path] | None
    sealed_keys: bytes | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A backup that is written."""

    manifest: Manifest
    sha256: str
    size_bytes: int


def take(dsn: str, target: Path, sources: Callable[[], Sources], report: Report) -> Taken:
    """Writes a backup to a file that is not there yet. `sources` are asked for once the snapshot stands.

    Raises SettingsError when there is no ledger, another backup is being taken, or the file cannot be written.
    """
    if target.exists():
        raise SettingsError("FILE", f"{target} is there already.", "Name a file that is not: a backup is never written over another.")
    partial = target.with_name(f"{target.name}.partial")
    try:
        with _snapshot(dsn) as connection, os.fdopen(os.open(partial, _FLAGS, 0o600), "w+b") as file:
            manifest = _Backup(connection, file, report).write(sources)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest, size_bytes = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        partial.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        rule = f"{target} cannot be written: {error.strerror or error}."
        raise SettingsError("FILE", rule, "Make room there, or name another place.") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Taken(manifest, digest, size_bytes)


_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC


def files_in(folder: Path, pattern: str) -> dict[str, Path]:
    """Files of a folder that lie under their SHA-256."""
    found = {path.name.partition(".")[0]: path for path in folder.glob(pattern)} if folder.is_dir() else {}
    return {name: found[name] for name in sorted(found) if SHA256.fullmatch(name)}


@contextmanager
def _snapshot(dsn: str) -> Iterator[Connection]:
    """A connection on which every query sees one moment of a ledger that goes on."""
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (BACKUP_LOCK,)).fetchone()
            if row is None or not row[0]:
                raise SettingsError("DATABASE_URL", "another backup of it is being taken.", "Wait until that one is written.")
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection
    except psycopg.OperationalError as error:
        raise _unreachable(error) from error


def require_ledger(dsn: str) -> None:
    """Raises SettingsError for a database without a ledger, or that does not answer."""
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            _head(connection)
    except psycopg.OperationalError as error:
        raise _unreachable(error) from error


def _head(connection: Connection) -> tuple[str, int, bytes, bytes]:
    """(name, size, root, note)"""
    try:
        found = connection.execute(_HEAD).fetchone()
    except psycopg.errors.UndefinedTable:
        found = None
    if found is None:
        raise SettingsError("DATABASE_URL", "it holds no ledger.", "Name the ledger's database, or start Aureus on it once.")
    return found[0], found[1], found[2], found[3]


def _unreachable(error: psycopg.OperationalError) -> SettingsError:
    return SettingsError("DATABASE_URL", f"the database cannot be read: {error}", "Check the address, the password and the server.")


class _Backup:
    """A file on its way to be a backup."""

    def __init__(self, connection: Connection, file: IO[bytes], report: Report) -> None:
        self._connection, self._zip, self._report = connection, ZipWriter(file), report
        self._damaged: list[str] = []

    def write(self, asked: Callable[[], Sources]) -> Manifest:
        origin, size, root, note = _head(self._connection)
        sources = asked()
        cosigned = self._connection.execute(_COSIGNED).fetchone()
        stamp = self._connection.execute(_STAMP).fetchone()
        tables = [table for name in KEPT if (table := self._table(name, size)) is not None]
        blobs = None if sources.blobs is None else self._files(BLOBS, sources.blobs)
        packs = self._files(PACKS, sources.packs)
        keys_sha256 = self._add(KEYS_MEMBER, sources.sealed_keys) if sources.sealed_keys is not None else None
        manifest = Manifest(
            format=FORMAT,
            backup_id=sources.backup_id,
            ledger=origin,
            size=size,
            root=root.hex(),
            checkpoint=note.decode(),
            cosigned=b"".join(cosigned).decode() if cosigned else None,
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            software=f"aureus {aureus_version()}",
            schema_stamp=stamp[0] if stamp else "",
            tables=tables,
            blobs=blobs,
            packs=packs,
            damaged=sorted(self._damaged),
            vault_keys=any(table.table == "vault.keys" and table.pieces for table in tables),
            keys_sha256=keys_sha256,
        )
        self._add(NAME, sealed(manifest, sources.signer))
        self._zip.finish()
        return manifest

    def _table(self, name: str, size: int) -> TableOf | None:
        columns = columns_of(self._connection, name)
        if not columns:
            return None
        pieces: list[PieceOf] = []
        done = 0
        for piece, compressed in _compressed(copied_out(self._connection, name, columns, full_of(name))):
            member = f"tables/{name}/{len(pieces):06d}"
            pieces.append(PieceOf(name=member, rows=piece.rows, sha256=self._add(member, compressed)))
            done += piece.rows
            if name == EVENTS:
                self._report("events", done, size)
        return TableOf(table=name, columns=[list(column) for column in columns], pieces=pieces)

    def _files(self, kind: str, files: dict[str, Path]) -> FilesOf:
        names, size_bytes = hashlib.sha256(), 0
        count = 0
        for number, (sha256, path) in enumerate(sorted(files.items())):
            try:
                with path.open("rb") as file:
                    whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            except FileNotFoundError:
                continue  # erased meanwhile
            if not whole:
                self._damaged.append(f"{kind}/{sha256}")
                continue
            self._zip.add_file(f"{kind}/{sha256}", path)
            names.update(f"{sha256}\n".encode())
            size_bytes += self._zip.members[-1].size
            count += 1
            self._report(kind, number + 1, len(files))
        return FilesOf(count=count, bytes=size_bytes, names_sha256=names.hexdigest())

    def _add(self, name: str, content: bytes) -> str:
        self._zip.add(name, content)
        return self._zip.members[-1].sha256


def full_of(table: str) -> Full:
    """Where the pieces of a table end, whenever it is copied."""
    return _stretch if table == EVENTS else _four_megabytes


def _stretch(number: int, rows: int, _size: int) -> bool:
    """As verifiers take them: a short first one, which holds the keys."""
    return rows == (FOUNDING_ENTRIES if number == 0 else CHUNK_ENTRIES)


def _four_megabytes(_number: int, _rows: int, size: int) -> bool:
    return size >= PIECE_BYTES


def _compressed(pieces: Iterator[Piece]) -> Iterator[tuple[Piece, bytes]]:
    """Each piece as a zlib stream (RFC 1950), in order; compressed on every core while the database sends the next."""
    cores = available_cores()
    with ThreadPoolExecutor(cores, thread_name_prefix="backup") as pool:
        waiting: deque[tuple[Piece, Future[bytes]]] = deque()
        for piece in pieces:
            waiting.append((piece, pool.submit(zlib.compress, piece.data, _LEVEL)))
            if len(waiting) > cores:
                yield _done(waiting)
        while waiting:
            yield _done(waiting)


def _done(waiting: deque[tuple[Piece, Any]]) -> tuple[Piece, bytes]:
    piece, answer = waiting.popleft()
    return piece, answer.result()
