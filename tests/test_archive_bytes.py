"""A sealed segment with a byte flipped: wherever it is, it is found, and said where."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from api.cli.main import app
from domain.archive import SegmentSealed
from infra.archive.building import MANIFEST, PARQUET, TILES
from infra.archive.reading import Sealed, SegmentReader, raw_events
from infra.archive.segment import COLUMNS, STRUCTURE, ArchiveError, Manifest
from infra.archive.verifying import Checked, examine, verify
from infra.envelope import entry_bytes
from infra.merkle import leaf_hash
from tests.support.archive import SEGMENT, Archived, archived

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(database_url: str, tmp_path: Path) -> AsyncIterator[Archived]:
    async with archived(database_url, tmp_path) as opened:
        yield opened


async def checked(archive: Archived) -> Checked:
    return await verify(archive.dsn, archive.blobs, archive.home / "archive")


async def on_the_command_line(archive: Archived) -> Result:
    environment = {"AUREUS_HOME": str(archive.home), "DATABASE_URL": archive.dsn}
    return await asyncio.to_thread(CliRunner().invoke, app, ["archive", "verify"], env=environment)


def flip(file: Path, at: int, mask: int = 1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= mask
    file.write_bytes(content)


async def test_an_untouched_archive_verifies_with_the_ledger_behind_it_and_reads_as_it(archive: Archived) -> None:
    result = await checked(archive)
    assert (result.problems, result.segments, result.events) == ([], 2, 2 * SEGMENT)
    size = (await archive.ledger.refresh()).size
    assert (result.signatures, result.ledger_events) == (size, size - 2 * SEGMENT)
    told = await on_the_command_line(archive)
    assert (told.exit_code, f"Verified 2 segments with 1024 events, and {size - 1_024} more of the ledger" in told.output) == (0, True)
    await the_same_range_is_written_as_the_same_bytes(archive)
    await what_is_read_is_what_the_ledger_holds(archive)
    await a_manifest_that_leads_elsewhere_is_found(archive)


async def test_an_empty_archive_verifies_as_the_ledger_it_is_of_and_nothing_tampered_with_is_sealed(
    database_url: str, tmp_path: Path
) -> None:
    async with archived(database_url, tmp_path, 600, sealed=0) as archive:
        result = await checked(archive)
        assert (result.problems, result.segments, result.ledger_events) == ([], 0, archive.ledger.head.size)
        await nothing_that_was_tampered_with_is_sealed(archive)


async def the_same_range_is_written_as_the_same_bytes(archive: Archived) -> None:
    first, _ = await archive.written(1, SEGMENT)
    again, folder = await archive.written(1, SEGMENT)
    assert (first.parquet_sha256, first.tiles_sha256) == (again.parquet_sha256, again.tiles_sha256)
    assert sum(part.size for part in again.parts) == again.parquet_bytes == (folder / PARQUET).stat().st_size
    assert {part.column for part in again.parts} == {*COLUMNS, STRUCTURE}


async def test_any_flipped_byte_of_any_file_is_found_and_named(archive: Archived, tmp_path: Path) -> None:
    segment = archive.segments[1]
    place = tmp_path / "flipped"
    place.mkdir()
    whole = {
        name: archive.file(digest).read_bytes()
        for name, digest in ((PARQUET, segment.parquet_sha256), (TILES, segment.tiles_sha256), (MANIFEST, segment.manifest_sha256))
    }
    for name, content in whole.items():
        (place / name).write_bytes(content)
    assert examine(segment, place) == []
    manifest = Manifest.load(whole[MANIFEST])

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(list(whole)), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
    def found(name: str, where: float, mask: int) -> None:
        at = int(where * len(whole[name]))
        flip(place / name, at, mask)
        try:
            findings = examine(segment, place)
        finally:
            (place / name).write_bytes(whole[name])
        if name == TILES:
            position = segment.first + at // 32
            assert findings == [("tiles", f"the hash of position {position}, in tile {(position - 1) // 256}, is not that of its event")]
        elif name == MANIFEST:
            assert findings == [("manifest", "its bytes are not those that were sealed")]
        else:
            (part,) = [part for part in manifest.parts if part.offset <= at < part.offset + part.size]
            assert findings == [("parquet", str(part))]

    found()
    await rows_that_were_sealed_wrongly_are_found(archive, tmp_path)


async def what_is_reported_names_the_segment_the_column_and_the_positions(archive: Archived) -> None:
    segment = archive.segments[0]
    file = archive.file(segment.parquet_sha256)
    manifest = Manifest.load(archive.file(segment.manifest_sha256).read_bytes())
    body = next(part for part in manifest.parts if part.column == "body")
    flip(file, body.offset + body.size // 2)
    (problem,) = (await checked(archive)).problems
    assert (problem.segment, problem.check) == ("000000000001-000000000512", "parquet")
    assert re.fullmatch(r"the body of positions 1 to 512, bytes \d+ to \d+", problem.found)
    told = await on_the_command_line(archive)
    assert (told.exit_code, "archive_tampered: The archive is not what was sealed:" in told.output) == (8, True)
    assert f"000000000001-000000000512: parquet: {problem.found}" in told.output
    with pytest.raises(ArchiveError) as refusal:
        list(raw_events([Sealed(file, segment.first, segment.last, segment.parquet_sha256)]))
    assert (refusal.value.code, "aureus archive verify" in refusal.value.remedy) == ("segment_tampered", True)


async def test_a_file_that_is_gone_or_changed_is_named(archive: Archived) -> None:
    segment = archive.segments[1]
    for name, check in (("parquet_sha256", PARQUET), ("tiles_sha256", TILES), ("manifest_sha256", MANIFEST)):
        file = archive.file(getattr(segment, name))
        content = file.read_bytes()
        file.unlink()
        (problem,) = (await checked(archive)).problems
        assert (problem.segment, problem.check) == (segment.segment_id, check)
        assert "restore it from a backup" in problem.found
        file.write_bytes(content)
    await a_file_cut_short_or_grown_is_found(archive)
    await what_is_reported_names_the_segment_the_column_and_the_positions(archive)


async def a_file_cut_short_or_grown_is_found(archive: Archived) -> None:
    file = archive.file(archive.segments[0].parquet_sha256)
    content = file.read_bytes()
    for changed, found in ((content[:-7], f"it has {len(content) - 7} bytes"), (content + b"x", f"it has {len(content) + 1} bytes")):
        file.write_bytes(changed)
        problems = (await checked(archive)).problems
        assert problems[0].found.startswith(found)
    file.write_bytes(content)


# -- what somebody who may sign sealed wrongly on purpose: every hash is right, and what they are of is not


def rewritten(archive: Archived, place: Path, change: str) -> tuple[SegmentSealed, Path]:
    """The first segment's files with changed rows, and an event that names their hashes."""
    manifest = Manifest.load(archive.file(archive.segments[0].manifest_sha256).read_bytes())
    place.mkdir()
    source = archive.file(archive.segments[0].parquet_sha256)
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(f"COPY ({change.format(source=source)}) TO '{place / PARQUET}' (FORMAT parquet, COMPRESSION zstd)")
    (place / TILES).write_bytes(archive.file(archive.segments[0].tiles_sha256).read_bytes())
    content = (place / PARQUET).read_bytes()
    digest = sha256(content).hexdigest()
    forged = replace(manifest, parquet_sha256=digest, parquet_bytes=len(content), parts=())
    (place / MANIFEST).write_bytes(forged.content())
    told = {
        "parquet_sha256": digest,
        "parquet_bytes": len(content),
        "manifest_sha256": sha256(forged.content()).hexdigest(),
    }
    return archive.segments[0].model_copy(update=told), place


WRONG = (
    ("position + 1 AS position", "", "position", "position 2 stands where 1 belongs"),
    ("position AS position", "WHERE position <> 300", "position", "position 301 stands where 300 belongs"),
    ("position AS position", "WHERE position < 512", "position", "it ends with position 511, and 512 was sealed"),
    ("if(position = 9, 'rival', tenant) AS tenant", "", "tenant", "position 9: its tenant is rival in the row and acme in the signed body"),
    ("if(position = 9, 7, version) AS version", "", "version", "position 9: its version is 7 in the row"),
    ("if(position = 9, type || 'x', type) AS type", "", "type", "position 9: its type is"),
    ("if(position = 9, stream || 'x', stream) AS stream", "", "stream", "position 9: its stream is"),
    ('"at" + INTERVAL 1 HOUR AS "at"', "", "at", "position 1: its at is"),
    ("if(position = 9, unhex('00'), leaf) AS leaf", "", "leaf", "position 9: its body and signatures do not hash to its leaf"),
    ("if(position = 9, unhex('00'), signatures) AS signatures", "", "leaf", "position 9: its body and signatures do not hash"),
    ("if(position = 9, replace(body, 'acme', 'asme'), body) AS body", "", "leaf", "position 9: its body and signatures do not hash"),
    ("if(position = 9, 'no JSON', body) AS body", "", "body", "position 9: it cannot be read"),
)


async def rows_that_were_sealed_wrongly_are_found(archive: Archived, tmp_path: Path) -> None:
    for number, (change, where, check, found) in enumerate(WRONG):
        segment, place = rewritten(archive, tmp_path / str(number), f"SELECT * REPLACE ({change}) FROM read_parquet('{{source}}') {where}")
        findings = examine(segment, place)
        assert any(name == check and told.startswith(found) for name, told in findings), (change, findings)


async def a_manifest_that_leads_elsewhere_is_found(archive: Archived) -> None:
    segment = archive.segments[1]
    _, place = await archive.written(segment.first, segment.last)
    manifest = Manifest.load((place / MANIFEST).read_bytes())
    lies: tuple[tuple[str, Any, str], ...] = (
        ("root", "0" * 64, "tree"),
        ("before", ("0" * 64,), "tree"),
        ("consistency", ("0" * 64,), "checkpoint"),
        ("checkpoint", "nonsense", "checkpoint"),
        ("last", segment.last + 256, "manifest"),
    )
    for field, value, check in lies:
        forged = replace(manifest, plan=replace(manifest.plan, **{field: value})).content()
        (place / MANIFEST).write_bytes(forged)
        findings = examine(segment.model_copy(update={"manifest_sha256": sha256(forged).hexdigest()}), place)
        assert check in {name for name, _ in findings}, field


def test_a_manifest_of_another_version_is_said_to_be_one() -> None:
    for wrong in (orjson.dumps({"v": 2}), b"[]", orjson.dumps({"v": 1}), b"no JSON"):
        with pytest.raises(ArchiveError) as refusal:
            Manifest.load(wrong)
        assert refusal.value.code == "manifest_unreadable"


# -- a ledger that is not what was signed is not sealed


async def nothing_that_was_tampered_with_is_sealed(archive: Archived) -> None:
    with psycopg.connect(archive.dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER append_only")
        for position, change in (
            (500, "UPDATE ledger.events SET body = body || ' ' WHERE position = %s"),
            (450, "UPDATE ledger.events SET signatures = '' WHERE position = %s"),
            (400, "DELETE FROM ledger.events WHERE position = %s"),
        ):
            connection.execute(change, (position,))
            with pytest.raises(ArchiveError) as refusal:
                await archive.written(257, 512)
            assert (refusal.value.code, refusal.value.remedy[:21]) == ("ledger_tampered", "Run `aureus log fsck`")
            assert refusal.value.message == f"The event at position {position} is not the one that was signed."


async def what_is_read_is_what_the_ledger_holds(archive: Archived) -> None:
    segment = archive.segments[1]
    sealed = Sealed(archive.file(segment.parquet_sha256), segment.first, segment.last, segment.parquet_sha256)
    stored = await archive.ledger.entries(segment.first - 1, SEGMENT)
    rows = [row for batch in raw_events([sealed]) for row in batch]
    assert [(position, body.encode(), signatures, leaf) for position, body, signatures, leaf in rows] == [
        (event.position, event.body, event.signatures, event.leaf) for event in stored
    ]
    assert all(leaf_hash(entry_bytes(event.body, event.signatures)) == event.leaf for event in stored)
    with SegmentReader(sealed) as reader:
        typed = [one for batch in reader.events(segment.first - 1, segment.last) for one in batch]
        assert typed == await archive.ledger.read(segment.first - 1, SEGMENT)
        others = [one for batch in reader.events(segment.first - 1, segment.last, ["actions.action_allowed"]) for one in batch]
    assert others == [one for one in typed if one.event.event_name != "actions.action_allowed"]
