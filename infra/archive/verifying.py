"""Verifying the archive from scratch: every file against the ledger's hash, every row against its tile, all of it against the tree.

Segments and whatever of the ledger follows them are verified together, as one log: signatures, chains, keys, and the root that the
ledger's latest checkpoint signs. Where a file was changed it is said which bytes, of which column and which positions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import TupleRow

from domain.archive import ARCHIVE_STREAM, TILE_EVENTS, SegmentSealed, segment_id
from domain.keys import SYSTEM_TENANT
from infra.archive.building import MANIFEST, PARQUET, TILES
from infra.archive.fetching import private_folder, spool
from infra.archive.reading import Entries, Sealed
from infra.archive.segment import ArchiveError, Manifest
from infra.blobs import BlobMissing, BlobStore
from infra.envelope import entry_bytes, parse_timestamp, recorded
from infra.fsck_rows import Rows
from infra.merkle import leaf_hash
from infra.verifier.ledger import FOUNDING_ENTRIES, Verifier
from infra.verifier.notes import BadNote, parse_checkpoint, parse_note
from infra.verifier.sources import CHUNK_ENTRIES, Source
from infra.verifier.tree import HASH_BYTES, ProofError, check_consistency
from infra.verifier.workers import Workers

PROCESSES: Final = 2
MAX_PROBLEMS: Final = 100
_SEGMENTS: Final = "SELECT position, body, leaf FROM ledger.events WHERE tenant = %s AND stream = %s AND type = %s ORDER BY version"
_HEAD: Final = "SELECT size, note FROM ledger.head"
_COLUMNS: Final = ("tenant", "stream", "version", "type")
_ROWS: Final = """SELECT position, tenant, stream, version, type, "at", body, signatures, leaf FROM read_parquet('{path}')"""
Finding = tuple[str, str]
"""(check, found)"""
Report = Callable[[str, int, int | None], None]


def untold(_phase: str, _done: int, _total: int | None) -> None:
    """Nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What does not hold, in which segment (or the archive as a whole)."""

    segment: str
    check: str
    found: str


@dataclass(slots=True)
class Checked:
    """What was checked, and what does not hold."""

    segments: int = 0
    events: int = 0
    """In segments."""
    ledger_events: int = 0
    """Those behind them, read from the ledger's database."""
    signatures: int = 0
    root_key: str = ""
    problems: list[Problem] = field(default_factory=list)
    """The first hundred."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, segment: str, check: str, found: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(segment, check, found))


async def verify(dsn: str, blobs: BlobStore, beside: Path, report: Report = untold) -> Checked:
    """Checks every segment that the ledger in this database says there is. Raises BlobsUnavailable, psycopg.OperationalError."""
    checked = Checked()
    with psycopg.connect(dsn) as connection:
        segments = _segments(connection)
        size, note = connection.execute(_HEAD, binary=True).fetchone() or (0, b"")
    with private_folder(beside) as folder:
        files = []
        for segment in segments:
            place = folder / segment.segment_id
            place.mkdir()
            for found in [*await _fetched(blobs, segment, place), *await asyncio.to_thread(examine, segment, place)]:
                checked.add(segment.segment_id, *found)
            files.append(Sealed(place / PARQUET, segment.first, segment.last, segment.parquet_sha256))
            checked.segments, checked.events = checked.segments + 1, segment.last
            report("segments", segment.last, segments[-1].last)
        if checked.ok:
            await asyncio.to_thread(_as_one_log, dsn, files, (size, note), checked, report)
    return checked


def _segments(connection: psycopg.Connection[TupleRow]) -> list[SegmentSealed]:
    query = (SYSTEM_TENANT, ARCHIVE_STREAM, SegmentSealed.event_name)
    found = [recorded(*row).event for row in connection.execute(_SEGMENTS, query, binary=True)]
    return [event for event in found if isinstance(event, SegmentSealed)]


async def _fetched(blobs: BlobStore, segment: SegmentSealed, place: Path) -> list[Finding]:
    """Copies the files as they lie; what is not there is a finding."""
    missing = []
    for name, digest in _files(segment):
        try:
            await spool(await blobs.as_kept(digest), place / name)
        except BlobMissing as error:
            missing.append((name, str(error)))
    return missing


def _files(segment: SegmentSealed) -> tuple[tuple[str, str], ...]:
    return ((MANIFEST, segment.manifest_sha256), (PARQUET, segment.parquet_sha256), (TILES, segment.tiles_sha256))


# -- one segment


def examine(segment: SegmentSealed, place: Path) -> list[Finding]:
    """What does not hold in a segment's files, (check, found) each; files that are missing are passed over."""
    contents = {name: (place / name).read_bytes() for name, _ in _files(segment) if (place / name).exists()}
    changed = {name for name, digest in _files(segment) if name in contents and sha256(contents[name]).hexdigest() != digest}
    findings: list[Finding] = []
    manifest = None
    if MANIFEST in changed:
        findings.append(("manifest", "its bytes are not those that were sealed"))
    elif MANIFEST in contents:
        try:
            manifest = Manifest.load(contents[MANIFEST])
            findings += _check_manifest(segment, manifest)
        except ArchiveError as error:
            findings.append(("manifest", error.message))
    if PARQUET in changed:
        damaged = list(manifest.damaged(contents[PARQUET])) if manifest else []
        findings += [("parquet", found) for found in damaged or ["its bytes are not those that were sealed, and no manifest tells which"]]
    leaves = b""
    if PARQUET in contents and PARQUET not in changed:
        leaves = _check_rows(segment, place / PARQUET, findings)
    if TILES in changed:
        findings += _changed_tiles(segment, contents[TILES], leaves)
    elif leaves and contents.get(TILES, leaves) != leaves:
        findings.append(("tiles", "they are not the leaves of the rows"))
    if manifest and leaves:
        findings += _check_tree(manifest, leaves)
    return findings


def _check_manifest(segment: SegmentSealed, manifest: Manifest) -> Iterator[Finding]:
    """It must say what the ledger says."""
    plan = manifest.plan
    said = (plan.first, plan.last, plan.root, plan.checkpoint_size, manifest.parquet_sha256, manifest.parquet_bytes, manifest.tiles_sha256)
    names = ("first", "last", "root", "checkpoint_size", "parquet_sha256", "parquet_bytes", "tiles_sha256")
    for name, value in zip(names, said, strict=True):
        if value != getattr(segment, name):
            yield "manifest", f"its {name} is {value}, and the ledger sealed {getattr(segment, name)}"


def _check_rows(segment: SegmentSealed, path: Path, findings: list[Finding]) -> bytes:
    """Each row against its own body and leaf; returns the leaves that the bodies and signatures hash to."""
    import duckdb  # noqa: PLC0415 - takes long to load, and most processes verify no archive

    leaves, expected = bytearray(), segment.first
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")
        rows = database.execute(_ROWS.format(path=path))
        while batch := rows.fetchmany(CHUNK_ENTRIES):
            for position, *columns, body, signatures, leaf in batch:
                if position != expected:
                    findings.append(("position", f"position {position} stands where {expected} belongs"))
                expected = position + 1
                leaves += _leaf(body, signatures)
                findings += _check_row(position, columns, body, leaf, bytes(leaves[-HASH_BYTES:]))
    if expected != segment.last + 1:
        findings.append(("position", f"it ends with position {expected - 1}, and {segment.last} was sealed"))
    return bytes(leaves)


def _leaf(body: str, signatures: bytes) -> bytes:
    try:
        return leaf_hash(entry_bytes(body.encode(), signatures))
    except ValueError:
        return bytes(HASH_BYTES)  # no envelope can be made of it: no leaf of any tree is this


def _check_row(position: int, columns: list[Any], body: str, leaf: bytes, found: bytes) -> Iterator[Finding]:
    if leaf != found:
        yield "leaf", f"position {position}: its body and signatures do not hash to its leaf"
    try:
        member = orjson.loads(body)
        signed = [*(member[name] for name in _COLUMNS), parse_timestamp(member["at"])]
    except (ValueError, KeyError, TypeError) as error:
        yield "body", f"position {position}: it cannot be read: {error!r}"
        return
    for name, column, said in zip((*_COLUMNS, "at"), columns, signed, strict=True):
        if column != said:
            yield name, f"position {position}: its {name} is {column} in the row and {said} in the signed body"


def _changed_tiles(segment: SegmentSealed, tiles: bytes, leaves: bytes) -> Iterator[Finding]:
    wrong = [at for at in range(0, len(leaves), HASH_BYTES) if tiles[at : at + HASH_BYTES] != leaves[at : at + HASH_BYTES]]
    for at in wrong:
        position = segment.first + at // HASH_BYTES
        yield "tiles", f"the hash of position {position}, in tile {(position - 1) // TILE_EVENTS}, is not that of its event"
    if not wrong:
        yield "tiles", "their bytes are not those that were sealed"


def _check_tree(manifest: Manifest, leaves: bytes) -> Iterator[Finding]:
    """From the leaves to the root, and from there to the checkpoint that was signed."""
    plan = manifest.plan
    root = plan.root_of([leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)])
    if root != plan.root:
        yield "tree", f"its events hash to {root}, and {plan.root} was sealed"
    try:
        signed = parse_checkpoint(parse_note(plan.checkpoint.encode()).text)
        path = [bytes.fromhex(value) for value in plan.consistency]
        check_consistency(plan.last, signed.size, path, bytes.fromhex(plan.root), signed.root)
    except (BadNote, ProofError) as error:
        yield "checkpoint", str(error)


# -- all of them


def _as_one_log(dsn: str, files: Sequence[Sealed], head: tuple[int, bytes], checked: Checked, report: Report) -> None:
    """The segments and what of the ledger follows them, under the ledger's latest checkpoint."""
    size, note = head
    kept = [Manifest.load((one.path.parent / MANIFEST).read_bytes()).plan.checkpoint.encode() for one in files]
    with Workers(PROCESSES if size > CHUNK_ENTRIES else 1) as workers:
        verifier = Verifier(kept=kept, workers=workers)
        verifier.take(_sources(dsn, files, size, report))
        result = verifier.finish(note)
    checked.ledger_events, checked.signatures, checked.root_key = size - checked.events, result.signatures, result.root_key
    for problem in result.problems:
        holder = next((one for one in files if problem.position is not None and one.first <= problem.position <= one.last), None)
        place = f"position {problem.position}: " if problem.position is not None else ""
        checked.add(segment_id(holder.first, holder.last) if holder else "ledger", problem.check, f"{place}{problem.found}")


def _sources(dsn: str, files: Sequence[Sealed], size: int, report: Report) -> Iterator[Source]:
    """Stretches of the whole log: the founding keys first, for under them the others are checked side by side."""
    for sealed in (*files, None):
        first, last = (sealed.first, sealed.last) if sealed else (files[-1].last + 1 if files else 1, size)
        edges = [first - 1, *([FOUNDING_ENTRIES] if first == 1 < last - FOUNDING_ENTRIES else [])]
        edges += [*range(edges[-1] + CHUNK_ENTRIES, last, CHUNK_ENTRIES), last]
        for after, until in pairwise(edges):
            if until > after:
                yield Entries(sealed, after, until) if sealed else Rows(dsn, after, until)
                report("signatures", until, size)
