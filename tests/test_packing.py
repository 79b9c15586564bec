"""Packing: one way to write a zip, the same bytes however often it was interrupted, and nothing packed that the tree has not."""

from __future__ import annotations

import asyncio
import io
import struct
import subprocess
import zipfile
from array import array
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import workload
from domain.kernel import JsonObject
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.blobs import BlobMissing, BlobTampered
from infra.envelope import entry_bytes
from infra.keystore import FileKeystore
from infra.opening import open_ledger
from infra.packing import building
from infra.packing.building import Outside, build
from infra.packing.canonical_zip import CHUNK_BYTES, LIMIT, Member, MemberTooLarge, ZipWriter, central_header, end_records, local_header
from infra.packing.disclosing import VaultPlace
from infra.packing.pack_file import PACK, PackFile
from infra.packing.plan import BuildFailed, Plan
from infra.packing.reading import connected, lines, within
from infra.packing.shelf import Shelf, part
from infra.verifier.archive import Archive
from infra.verifier.trust import Trust
from tests.support.packs import predicate, verified

pytestmark = pytest.mark.anyio
MEMBERS = {"README.txt": b"hello", "empty": b"", "log/tile/0/000.p/3": bytes(96), "large": b"x" * (2 * CHUNK_BYTES + 17)}


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    writer = ZipWriter(file)
    for name, content in members.items():
        with writer.member(name) as member:
            for at in range(0, len(content), 100_000):
                member.write(content[at : at + 100_000])
    writer.finish()
    return file.getvalue()


# -- the zip


def test_a_zip_opens_everywhere_and_is_written_in_one_way(tmp_path: Path) -> None:
    content = zipped(MEMBERS)
    path = tmp_path / "pack.zip"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as pack:
        assert pack.testzip() is None
        assert {info.filename: pack.read(info) for info in pack.infolist()} == MEMBERS
        for info in pack.infolist():
            assert (info.date_time, info.compress_type, info.flag_bits, info.create_system) == ((1980, 1, 1, 0, 0, 0), 0, 0, 3)
            assert (info.external_attr, info.extra, info.comment, info.extract_version) == (0o100644 << 16, b"", b"", 20)
    assert subprocess.run(["unzip", "-tq", path], capture_output=True, check=False).returncode == 0
    assert list(Archive(path).members) == list(MEMBERS)
    assert content == zipped(MEMBERS)


def test_members_written_at_once_as_files_or_in_pieces_come_to_the_same(tmp_path: Path) -> None:
    file = io.BytesIO()
    writer = ZipWriter(file)
    for name, content in MEMBERS.items():
        (tmp_path / "member").write_bytes(content)
        writer.add(name, content) if len(content) < 100 else writer.add_file(name, tmp_path / "member")
    writer.finish()
    assert file.getvalue() == zipped(MEMBERS)


@given(st.lists(st.binary(max_size=300), max_size=8))
@settings(max_examples=30)
def test_numbers_that_do_not_fit_stand_in_zip64_fields_and_only_those(contents: list[bytes]) -> None:
    """Python's own zipfile reads what is written when the limits lie so low that most numbers do not fit."""
    members = {f"entries/{number:06d}.tsv": content for number, content in enumerate(contents)}
    file = io.BytesIO()
    writer = ZipWriter(file, limit=120, count_limit=4)
    for name, content in members.items():
        writer.add(name, content)
    writer.finish()
    with zipfile.ZipFile(io.BytesIO(file.getvalue())) as pack:
        assert {info.filename: pack.read(info) for info in pack.infolist()} == members
        for info in pack.infolist():
            assert (info.extract_version == 45) == (info.file_size >= 120 or info.header_offset >= 120)


def test_zip64_stands_where_the_numbers_of_a_real_pack_would_not_fit() -> None:
    assert local_header("a", LIMIT - 1, 0)[4:6] == struct.pack("<H", 20)
    large = local_header("a", LIMIT, 7)
    assert large[4:6] == struct.pack("<H", 45)
    assert large[-20:] == struct.pack("<HHQQ", 1, 16, LIMIT, LIMIT)
    assert end_records(0xFFFE, 10, 10).startswith(b"PK\5\6")
    assert end_records(0xFFFF, 10, 10).startswith(b"PK\6\6")
    writer = ZipWriter(io.BytesIO(), limit=10)
    with pytest.raises(MemberTooLarge), writer.member("a") as member:
        member.write(bytes(10))
    assert central_header(Member("a", LIMIT, 5, 0, ""))[-12:] == struct.pack("<HHQ", 1, 8, LIMIT)


# -- going on where it was


def test_a_pack_is_gone_on_with_after_its_last_whole_member(tmp_path: Path) -> None:
    with PackFile(tmp_path) as pack:
        pack.add("a", b"first")
        with pack.member("b") as member:
            member.write(b"second")
    (tmp_path / PACK).write_bytes((tmp_path / PACK).read_bytes() + b"half of a third")
    with PackFile(tmp_path) as pack:
        assert pack.has("a")
        assert pack.read("b") == b"second"
        assert not pack.has("c")
        pack.add("a", b"ignored: it is there")
        pack.add("c", b"third")
        pack.finish()
    assert (tmp_path / PACK).read_bytes() == zipped({"a": b"first", "b": b"second", "c": b"third"})


@pytest.mark.parametrize("at", [3, 33, 40])
def test_a_member_that_is_not_what_was_written_is_written_again(tmp_path: Path, at: int) -> None:
    with PackFile(tmp_path) as pack:
        pack.add("a", b"first")
        pack.add("b", b"second")
    content = bytearray((tmp_path / PACK).read_bytes())
    content[at] ^= 1
    (tmp_path / PACK).write_bytes(content)
    with PackFile(tmp_path) as pack:
        assert pack.has("a") == (at > 35)
        assert not pack.has("b")


@given(st.sets(st.integers(1, 400), min_size=1))
def test_sql_for_positions_is_true_of_exactly_those(chosen: set[int]) -> None:
    condition = within(array("Q", sorted(chosen)))
    listed = {int(number) for number in condition.partition("{")[2].partition("}")[0].split(",") if number}
    if condition.startswith("position = ANY"):
        assert listed == chosen
    else:
        first, last = condition.removeprefix("position BETWEEN ").partition(" AND position <>")[0].split(" AND ")
        assert set(range(int(first), int(last) + 1)) - listed == chosen


# -- building


class Bank:
    """A ledger with a few hundred events, and plans of packs of it."""

    def __init__(self, dsn: str, folder: Path, keystore: FileKeystore) -> None:
        self.dsn, self.folder, self.keystore = dsn, folder, keystore
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT size, note, origin FROM ledger.head").fetchone()
        assert row is not None
        self.size, self.note, self.ledger = int(row[0]), bytes(row[1]).decode(), str(row[2])

    def plan(self, name: str = "pack", **fields: Any) -> Path:
        folder = self.folder / name
        folder.mkdir()
        nothing: JsonObject = {"datasets": [], "agents": [], "actors": [], "policies": [], "jurisdictions": [], "from": None, "to": None}
        said: dict[str, Any] = {
            "export_id": "e",
            "tenant": workload.TENANT,
            "ledger": self.ledger,
            "recipient": "BaFin",
            "created_at": "2026-03-03T14:00:00.000000Z",
            "software": "aureus",
            "scope": "everything",
            "selection": nothing,
            "profile": {"name": "regulator", "disclose": [], "withhold_types": []},
            "views": (),
            "artifacts": False,
            "after": 0,
            "until": self.size,
            "checkpoint_size": self.size,
            "checkpoint": self.note,
            "timestamps": {},
            "service_key": self.keystore.service.key_id,
            **fields,
        }
        Plan(**said).save(folder)
        return folder

    def outside(self) -> Outside:
        return Outside(self.dsn, VaultPlace(self.keystore.key_encryption_keys(), self.dsn), lambda _sha256, _aside: None)

    async def build(self, folder: Path, progress: Any = lambda _phase, _done, _total: None) -> Path:
        """Beside this thread's event loop, for a build is its process's only work and runs one of its own."""
        await asyncio.to_thread(build, folder, self.outside(), progress)
        sha256, _, _ = Shelf(self.folder).finish(folder, self.keystore.service)
        return self.folder / f"{sha256}.zip"

    @property
    def trust(self) -> Trust:
        return Trust(ledger=self.ledger, root_keys=(self.keystore.root.key_id,))


EVENTS = 700


@pytest.fixture
async def bank(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    monkeypatch.setattr(building, "ENTRIES_PER_FILE", 100)
    keystore = FileKeystore.open(tmp_path / "keys")
    ledger = await open_ledger(database_url, keystore)
    events = tuple(workload.reserved(0, number) for number in range(EVENTS))
    await ledger.append(Append(workload.TENANT, workload.ACTOR, (StreamWrite(workload.stream(0), 0, events),), uuid7()))
    await ledger.close()
    return Bank(database_url, tmp_path, keystore)


class Killed(Exception):
    """What a build is interrupted with."""


async def test_a_build_that_was_interrupted_anywhere_comes_to_the_same_bytes(bank: Bank) -> None:
    whole = await bank.build(bank.plan("whole"))
    assert verified(whole, bank.trust).ok
    assert predicate(whole)["counts"]["entries"] == EVENTS
    begun: list[str] = []
    for stop in (2, 4, 7):
        folder, seen = bank.plan(f"killed-{stop}"), 0

        def progress(phase: str, _done: int, _total: int, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                begun.append(phase)
                raise Killed

        with pytest.raises(Killed):
            await bank.build(folder, progress)
        half = (folder / PACK).stat().st_size
        assert 0 < half < whole.stat().st_size
        again = await bank.build(folder)
        assert again == whole, "the same bytes, hence under the same name"
    assert {"tiles", "entries"} <= set(begun)


async def test_any_period_of_everything_is_complete_and_what_is_withheld_is_named(bank: Bank) -> None:
    for after, until in ((0, 10), (300, 500), (EVENTS, EVENTS + 3), (50, 50)):
        result = verified(await bank.build(bank.plan(f"{after}-{until}", after=after, until=until)), bank.trust)
        # All events are of one moment, so no time can be told that parts them: the positions alone are looked at here.
        assert [problem for problem in result.problems if problem.check != "period"] == []
    profile = {"name": "onsite", "disclose": [], "withhold_types": ["budgets.funds_reserved"]}
    path = await bank.build(bank.plan("withheld", profile=profile))
    result = verified(path, bank.trust)
    assert (result.ok, result.complete) == (True, True)
    claimed = predicate(path)
    assert claimed["withheld"] == list(range(4, EVENTS + 4))
    assert claimed["counts"]["entries"] == 0


TAMPERED = (
    ("UPDATE ledger.events SET body = body || ' ' WHERE position = 321", "ledger_tampered"),
    (
        "UPDATE ledger.events SET signatures = set_byte(signatures, 49, get_byte(signatures, 49) # 1) WHERE position = 321",
        "ledger_tampered",
    ),
    ("DELETE FROM ledger.events WHERE position = 321", "ledger_tampered"),
    ("UPDATE ledger.events SET leaf = sha256(leaf) WHERE position = 701", "tiles_damaged"),
    ("UPDATE ledger.tiles SET hashes = set_byte(hashes, 49, get_byte(hashes, 49) # 1) WHERE level = 0 AND index = 1", "tiles_damaged"),
)


async def test_what_the_tree_has_not_is_not_packed(bank: Bank) -> None:
    await bank.build(bank.plan("before"))  # so that the tiles are kept
    with psycopg.connect(bank.dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        connection.execute("CREATE TABLE saved AS TABLE ledger.events")
        for number, (tamper, code) in enumerate(TAMPERED):
            connection.execute(tamper.encode())
            with pytest.raises(BuildFailed) as failed:
                await bank.build(bank.plan(f"after-{number}"))
            assert failed.value.code == code, tamper
            connection.execute("DELETE FROM ledger.events WHERE position IN (321, 701)")
            connection.execute("INSERT INTO ledger.events SELECT * FROM saved WHERE position IN (321, 701)")


async def test_postgresql_puts_together_the_entries_that_we_would(bank: Bank) -> None:
    with psycopg.connect(bank.dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        for position, times in ((10, 2), (11, 3)):
            connection.execute(
                "UPDATE ledger.events SET signatures = decode(repeat(encode(signatures, 'hex'), %s), 'hex') WHERE position = %s",
                (times, position),
            )
        stored = connection.execute("SELECT position, body, signatures FROM ledger.events ORDER BY position").fetchall()
    expected = [(position, entry_bytes(body, signatures)) for position, body, signatures in stored]
    assert {entry.count(b"keyid") for _, entry in expected} == {1, 2, 3}
    with connected(bank.dsn) as reading:
        found = list(lines(reading, array("Q", range(1, bank.size + 1))))
        assert [(position, bytes(entry)) for position, _, entry in found] == expected
        assert [line for _, line, _ in found] == [b"%d\t%b\n" % one for one in expected]
        with pytest.raises(BuildFailed):
            list(lines(reading, array("Q", [1, bank.size + 1])))


# -- the shelf


async def test_a_pack_is_handed_out_in_parts_and_only_as_it_was_sealed(bank: Bank) -> None:
    path = await bank.build(bank.plan())
    shelf, content = Shelf(bank.folder), path.read_bytes()
    assert b"".join([piece async for piece in part(await shelf.open(path.stem), 10, 2_000)]) == content[10:2_001]
    changed = bytearray(content)
    changed[1_000] ^= 1
    path.write_bytes(changed)
    with pytest.raises(BlobTampered):
        await shelf.open(path.stem)
    path.unlink()
    with pytest.raises(BlobMissing):
        await shelf.open(path.stem)
