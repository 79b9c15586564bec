"""Writing a segment: the events of a range as the ledger holds them, each hashed into the tree before it is believed.

Rows are spooled as JSON lines, and DuckDB turns them into Parquet on one thread, in their order: whoever was killed half-way
writes the same bytes again.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson

from domain.kernel import JsonObject
from infra.archive.apart import answer_one
from infra.archive.segment import COLUMNS, ROW_GROUP_EVENTS, STRUCTURE, ArchiveError, Manifest, Part, Plan
from infra.envelope import entry_bytes
from infra.merkle import leaf_hash
from infra.packing.reading import connected, copied

MODULE: Final = "infra.archive.building"
PARQUET, TILES, MANIFEST = "segment.parquet", "segment.tiles", "segment.json"
NICE: Final = 5
_SPOOLED_ROWS: Final = 2_048
_TYPES: Final = {
    "position": "BIGINT",
    "tenant": "VARCHAR",
    "stream": "VARCHAR",
    "version": "BIGINT",
    "type": "VARCHAR",
    "at": "TIMESTAMPTZ",
    "body": "VARCHAR",
    "signatures": "VARCHAR",
    "leaf": "VARCHAR",
}
_EVENTS: Final = "SELECT position, body, signatures, leaf FROM ledger.events WHERE position BETWEEN {first} AND {last} ORDER BY position"
_COPY: Final = """
    COPY (SELECT * REPLACE (from_base64(signatures) AS signatures, from_base64(leaf) AS leaf)
          FROM read_json('{rows}', format = 'newline_delimited', columns = {{{columns}}}))
    TO '{target}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group})
"""
_CHUNKS: Final = """
    SELECT path_in_schema, row_group_id, coalesce(dictionary_page_offset, data_page_offset), total_compressed_size
    FROM parquet_metadata('{target}') ORDER BY 3
"""


def write(dsn: str, plan: Plan, folder: Path) -> Manifest:
    """Writes the three files of a segment into a folder. Raises ArchiveError when the ledger is not what was signed."""
    target = folder / PARQUET
    rows = folder / "rows.json"
    leaves = _spool(dsn, plan, rows)
    if (root := plan.root_of(leaves)) != plan.root:
        raise _tampered(f"Positions {plan.first} to {plan.last} hash to {root}, and {plan.root} is signed.")
    _to_parquet(rows, target)
    rows.unlink()
    tiles = b"".join(leaves)
    (folder / TILES).write_bytes(tiles)
    content = target.read_bytes()
    manifest = Manifest(plan, sha256(content).hexdigest(), len(content), tuple(_parts(target, content, plan)), sha256(tiles).hexdigest())
    (folder / MANIFEST).write_bytes(manifest.content())
    return manifest


def _spool(dsn: str, plan: Plan, target: Path) -> list[bytes]:
    """The rows of the range as JSON lines; returns the leaves."""
    leaves: list[bytes] = []
    with connected(dsn) as connection, target.open("wb") as file:
        query = _EVENTS.format(first=plan.first, last=plan.last)
        lines: list[bytes] = []
        for position, body, signatures, leaf in copied(connection, query, ("int8", "bytea", "bytea", "bytea")):
            if position != plan.first + len(leaves) or not _hashes_to(leaf, body, signatures):
                raise _tampered(f"The event at position {plan.first + len(leaves)} is not the one that was signed.")
            leaves.append(leaf)
            lines.append(orjson.dumps(_row(position, body, signatures, leaf), option=orjson.OPT_APPEND_NEWLINE))
            if len(lines) == _SPOOLED_ROWS:
                file.write(b"".join(lines))
                lines.clear()
        file.write(b"".join(lines))
    if len(leaves) != plan.last - plan.first + 1:
        raise _tampered(f"The event at position {plan.first + len(leaves)} is not there.")
    return leaves


def _hashes_to(leaf: bytes, body: bytes, signatures: bytes) -> bool:
    try:
        return leaf_hash(entry_bytes(body, signatures)) == leaf
    except ValueError:  # no envelope can be made of it
        return False


def _row(position: int, body: bytes, signatures: bytes, leaf: bytes) -> JsonObject:
    """Its columns say what the signed body says, whatever stands beside it in the database."""
    member = orjson.loads(body)
    return {
        "position": position,
        **{name: member[name] for name in ("tenant", "stream", "version", "type", "at")},
        "body": body.decode(),
        "signatures": b64encode(signatures).decode(),
        "leaf": b64encode(leaf).decode(),
    }


def _to_parquet(rows: Path, target: Path) -> None:
    import duckdb  # noqa: PLC0415 - takes long to load, and most who know of segments write none

    columns = ", ".join(f"\"{name}\": '{_TYPES[name]}'" for name in COLUMNS)
    with duckdb.connect(config={"threads": 1, "memory_limit": "1GB", "autoload_known_extensions": False}) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(_COPY.format(rows=rows, columns=columns, target=target, group=ROW_GROUP_EVENTS))


def _parts(target: Path, content: bytes, plan: Plan) -> Iterator[Part]:
    """Every byte of the file is of exactly one part."""
    import duckdb  # noqa: PLC0415

    end = 0
    with duckdb.connect() as database:
        for column, group, offset, size in database.execute(_CHUNKS.format(target=target)).fetchall():
            if offset > end:
                yield _part(STRUCTURE, plan.first, plan.last, end, content[end:offset])
            first = plan.first + group * ROW_GROUP_EVENTS
            yield _part(column, first, min(first + ROW_GROUP_EVENTS - 1, plan.last), offset, content[offset : offset + size])
            end = offset + size
    yield _part(STRUCTURE, plan.first, plan.last, end, content[end:])


def _part(column: str, first: int, last: int, offset: int, content: bytes) -> Part:
    return Part(column, first, last, offset, len(content), sha256(content).hexdigest())


def _tampered(found: str) -> ArchiveError:
    return ArchiveError("ledger_tampered", found, "Run `aureus log fsck`: nothing is sealed that does not hold.")


def _build(job: JsonObject) -> JsonObject:
    os.nice(NICE)
    try:
        manifest = write(job["dsn"], Plan.load(job["plan"]), Path(job["folder"]))
    except OSError as error:
        raise ArchiveError("disk_refused", f"The segment cannot be written: {error.strerror}.", "Make room for it.") from error
    return {"parquet_sha256": manifest.parquet_sha256, "parquet_bytes": manifest.parquet_bytes, "tiles_sha256": manifest.tiles_sha256}


def job(dsn: str, plan: Plan, folder: Path) -> JsonObject:
    """What the process is told to do."""
    return {"dsn": dsn, "plan": asdict(plan), "folder": str(folder)}


if __name__ == "__main__":
    answer_one(_build)
