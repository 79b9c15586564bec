"""A backup's file: all that cannot be made again is in it, and a file that is cut, changed or made up is refused by name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.backing_up import Examined, examine
from domain.access import ActorRegistered
from domain.ledger import EventSigner
from domain.subjects import SubjectErased
from domain.values import ActorKind, Role, uuid7
from infra.backup.copying import HEADER, TRAILER, NotCopied, read_rows
from infra.backup.manifest import NAME, Manifest, sealed
from infra.backup.reading import Backup, BadBackup
from infra.backup.sealed_keys import WrongPassphrase, opened_keys, put_aside, put_in_place, sealed_keys
from infra.backup.taking import Sources, Taken, files_in, take
from infra.key_files import FileSigner
from infra.keystore import FileKeystore, KeystoreError
from infra.ledger import Append, Ledger, StreamWrite
from infra.opening import open_ledger
from infra.packing.canonical_zip import ZipWriter
from infra.settings import SettingsError
from infra.verifier.archive import Archive
from infra.verifier.trust import Trust
from tests.support.trees import grow

PASSPHRASE: Final = "correct horse battery"
ARTIFACT: Final = b"lineage of the lake"


def unseen(_phase: str, _done: int, _total: int | None) -> None:
    """Progress that nobody watches."""


def examined(file: Path, *kept: bytes) -> Examined:
    return examine(file, Trust(), kept, unseen)


def found(file: Path) -> list[str]:
    """What does not hold of a backup, each with its check."""
    return [f"{problem.check}: {problem.found}" for problem in examined(file).result.problems]


@dataclass(frozen=True)
class Place:
    """A ledger of 303 events, one of them about a person, and the home of its keys."""

    dsn: str
    home: Path
    keystore: FileKeystore
    whole: Path
    """A backup of it."""

    def take(self, file: Path, **changes: Any) -> Taken:
        blobs = files_in(self.home / "blobs", "[0-9a-f][0-9a-f]/*")
        sources = Sources("backup-1", self.keystore.service, packs={}, blobs=blobs)
        return take(self.dsn, file, lambda: replace(sources, **changes), unseen)

    def with_ledger(self, work: Callable[[Ledger], Awaitable[None]]) -> None:
        """Does something to the ledger itself."""

        async def doing() -> None:
            ledger = await open_ledger(self.dsn, self.keystore)
            try:
                await work(ledger)
            finally:
                await ledger.close()

        asyncio.run(doing())

    @contextmanager
    def changed(self, table: str, column: str, value: str, where: str) -> Iterator[None]:
        """A value changed by the database's owner, for whom triggers are no obstacle, and changed back."""
        row = f"UPDATE {table} SET {column} = %s WHERE {where}"
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            owner.execute("ALTER TABLE ledger.checkpoints DISABLE TRIGGER append_only")
            before = owner.execute(f"SELECT {column}, {value} FROM {table} WHERE {where}".encode()).fetchone()
            assert before is not None
            owner.execute(row.encode(), (before[1],))
            yield
            owner.execute(f"UPDATE {table} SET {column} = %s WHERE {column} = %s".encode(), before)
            owner.execute("ALTER TABLE ledger.checkpoints ENABLE ALWAYS TRIGGER append_only")


async def populated(ledger: Ledger) -> None:
    person = ActorRegistered(actor_id="usr-eve", kind=ActorKind.PERSON, roles=(Role.ANALYST,), display_name="Eve Example")
    await ledger.append(Append("acme", "usr-ana", (StreamWrite("actor:usr-eve", 0, (person,)),), uuid7()))
    await grow(ledger, 303)


@pytest.fixture(scope="module")
def place(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    home = tmp_path_factory.mktemp("home")
    sha256 = hashlib.sha256(ARTIFACT).hexdigest()
    (home / "blobs" / sha256[:2]).mkdir(parents=True)
    (home / "blobs" / sha256[:2] / sha256).write_bytes(ARTIFACT)
    made = Place(shared_database_url, home, FileKeystore.open(home / "keys"), tmp_path_factory.mktemp("backups") / "whole.backup")
    made.with_ledger(populated)
    made.take(made.whole)
    return made


def written_again(whole: Path, file: Path, signer: EventSigner, change: Callable[[str, bytes], bytes]) -> Path:
    """A backup whose members were changed, with every hash and the signature made to fit."""
    archive, said = Archive(whole), Backup(whole, unseen).manifest
    with file.open("w+b") as target:
        writer = ZipWriter(target)
        digests = {}
        for name in archive.members:
            if name != NAME:
                writer.add(name, change(name, archive.read(name)))
                digests[name] = writer.members[-1].sha256
        tables = [
            table.model_copy(update={"pieces": [piece.model_copy(update={"sha256": digests[piece.name]}) for piece in table.pieces]})
            for table in said.tables
        ]
        writer.add(NAME, sealed(said.model_copy(update={"tables": tables}), signer))
        writer.finish()
    return file


# -- what is in it


def test_a_backup_holds_the_events_and_whatever_stands_beside_them(place: Place) -> None:
    whole = examined(place.whole)
    said = whole.backup.manifest
    assert whole.result.ok, whole.result.sentences()
    assert (said.size, whole.result.events, whole.result.signatures) == (303, 303, 303)
    rows = {table.table: table.rows for table in said.tables}
    assert rows["ledger.events"] == 303
    assert (rows["ledger.head"], rows["vault.wrapping"]) == (1, 1)
    assert min(rows["vault.keys"], rows["vault.disclosures"]) >= 1
    assert dict(whole.backup.files("blobs")).keys() == {hashlib.sha256(ARTIFACT).hexdigest()}
    assert (said.keys_sha256, whole.backup.sealed_keys()) == (None, None)
    assert place.whole.stat().st_mode & 0o777 == 0o600
    for secret in (place.keystore.vault.seed, b"Eve Example"):
        assert secret not in b"".join(unpacked_members(place.whole)), "neither a value nor a key lies in it in the open"


def unpacked_members(file: Path) -> Iterator[bytes]:
    archive = Archive(file)
    for name in archive.members:
        content = archive.read(name)
        yield zlib.decompress(content) if name.startswith("tables/") else content


def test_two_backups_of_the_same_moment_hold_the_same_bytes(place: Place, tmp_path: Path) -> None:
    place.take(tmp_path / "again")
    one, other = (Backup(file, unseen).manifest.tables for file in (place.whole, tmp_path / "again"))
    assert one == other


def test_a_checkpoint_that_was_kept_shows_what_a_backup_lacks(place: Place, tmp_path: Path) -> None:
    notes: list[bytes] = []

    async def more(ledger: Ledger) -> None:
        notes.append(await ledger.store.note() or b"")
        await grow(ledger, ledger.head.size + 20)
        notes.append(await ledger.store.note() or b"")

    place.take(tmp_path / "before")
    place.with_ledger(more)
    before = examined(tmp_path / "before", *notes)
    assert (before.result.ok, before.lost) == (True, 20)


def test_one_backup_at_a_time_is_taken_and_none_over_another(place: Place, tmp_path: Path) -> None:
    def meanwhile() -> Sources:
        with pytest.raises(SettingsError, match="another backup of it is being taken"):
            place.take(tmp_path / "second")
        return Sources("backup-2", place.keystore.service, packs={}, blobs={})

    take(place.dsn, tmp_path / "first", meanwhile, unseen)
    with pytest.raises(SettingsError, match="is there already"):
        place.take(tmp_path / "first")
    with pytest.raises(SettingsError, match="cannot be written"):
        place.take(tmp_path / "no" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["first"], "nothing is left of those that were refused"


def test_a_database_without_a_ledger_has_no_backup(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no ledger"):
        take(postgres_url, tmp_path / "nothing", lambda: pytest.fail("nothing is asked for"), unseen)


def test_an_artifact_that_is_not_what_its_name_says_stays_out_and_is_named(place: Place, tmp_path: Path) -> None:
    wrong = tmp_path / "00" / ("00" * 32)
    wrong.parent.mkdir()
    wrong.write_bytes(b"changed")
    said = place.take(tmp_path / "backup", blobs={wrong.name: wrong}).manifest
    assert (said.damaged, said.blobs and said.blobs.count) == ([f"blobs/{wrong.name}"], 0)
    assert examined(tmp_path / "backup").result.ok


# -- what is refused


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60)
def test_a_backup_cut_short_anywhere_is_refused(place: Place, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    whole = place.whole.read_bytes()
    file = tmp_path_factory.getbasetemp() / "cut"
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadBackup, match="cut"):
        Backup(file, unseen)


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_a_backup_with_a_bit_flipped_anywhere_is_refused(
    place: Place, tmp_path_factory: pytest.TempPathFactory, share: float, bit: int
) -> None:
    content = bytearray(place.whole.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    file = tmp_path_factory.getbasetemp() / "flipped"
    file.write_bytes(content)
    with pytest.raises(BadBackup, match="flipped"):
        examined(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no backup"),
        (b"%PDF-1.7", "no backup"),
        (b"PK\5\6" + bytes(18), "it has no manifest.json"),
    ],
)
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BadBackup, match=said):
        Backup(tmp_path / "file", unseen)
    with pytest.raises(BadBackup, match="No such file"):
        Backup(tmp_path / "missing", unseen)


def test_garbage_behind_a_backup_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "longer").write_bytes(place.whole.read_bytes() + b"\0")
    with pytest.raises(BadBackup, match="longer"):
        Backup(tmp_path / "longer", unseen)


def test_a_backup_made_to_fit_by_somebody_else_is_not_verified(place: Place, tmp_path: Path) -> None:
    """A login's password was changed in it, say: no event signs that, so the manifest's own signature has to."""
    stranger = FileSigner.from_seed("service", os.urandom(32), "2026-01-01T00:00:00+00:00")
    file = written_again(place.whole, tmp_path / "forged", stranger, lambda _name, content: content)
    assert any("not a service key" in problem for problem in found(file))
    log_signed = written_again(place.whole, tmp_path / "log", place.keystore.log, lambda _name, content: content)
    assert any("not a service key" in problem for problem in found(log_signed))


def test_even_the_ledgers_own_key_signs_no_row_that_its_body_denies(place: Place, tmp_path: Path) -> None:
    def renamed(name: str, content: bytes) -> bytes:
        data = zlib.decompress(content) if name.startswith("tables/ledger.events") else b""
        return zlib.compress(data.replace(b"budget:b204", b"budget:b999", 1)) if data else content

    file = written_again(place.whole, tmp_path / "renamed", place.keystore.service, renamed)
    assert any("columns are not what its signed body says" in problem for problem in found(file))


@pytest.mark.parametrize(
    ("check", "table", "column", "value", "where"),
    [
        ("head", "ledger.head", "at", "at - interval '1 hour'", "true"),
        ("checkpoint", "ledger.checkpoints", "note", "''::bytea", "size = 204"),
        ("vault", "vault.disclosures", "position", "999999::bigint", "name = 'display_name'"),
        ("vault", "vault.disclosures", "purpose", "'marketing'", "name = 'display_name'"),
    ],
)
def test_what_was_changed_beside_the_events_is_found_in_the_backup(
    place: Place, tmp_path: Path, check: str, table: str, column: str, value: str, where: str
) -> None:
    with place.changed(table, column, value, where):
        place.take(tmp_path / "backup")
    assert [problem.partition(":")[0] for problem in found(tmp_path / "backup")] == [check]


def test_a_value_whose_erasure_is_certified_is_damage(place: Place, tmp_path: Path) -> None:
    async def certified(ledger: Ledger) -> None:
        certificate = SubjectErased(
            subject_id="usr-eve", ordered_position=5, until=300, everything=True, purposes=(), ground="objection", fields=1, keys=1
        )
        await ledger.append(Append("acme", "svc-reactions", (StreamWrite("subject:usr-eve", 0, (certificate,)),), uuid7()))

    place.with_ledger(certified)
    place.take(tmp_path / "backup")
    assert any("a value of usr-eve is here, though its erasure up to 300 is certified" in problem for problem in found(tmp_path / "backup"))


# -- keys under a passphrase


def test_keys_come_back_under_their_passphrase_and_no_other(place: Place, tmp_path: Path) -> None:
    sealed_under = sealed_keys(place.home, "here", PASSPHRASE)
    assert place.keystore.vault.seed not in sealed_under
    put_aside(tmp_path, opened_keys(sealed_under, "here", PASSPHRASE))
    with pytest.raises(KeystoreError, match="a restore that did not come to its end"):
        FileKeystore.open(tmp_path / "keys")
    put_in_place(tmp_path)
    again = FileKeystore.open(tmp_path / "keys")
    assert (again.log, again.service, again.vault) == (place.keystore.log, place.keystore.service, place.keystore.vault)
    with pytest.raises(WrongPassphrase, match="does not open"):
        opened_keys(sealed_under, "here", "another passphrase")
    with pytest.raises(WrongPassphrase, match="the backup is of elsewhere"):
        opened_keys(sealed_under, "elsewhere", PASSPHRASE)


# -- the format of its rows


@given(rows=st.lists(st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=5), max_size=5), cut=st.integers(0, 400))
def test_rows_are_read_whole_or_not_at_all(rows: list[list[bytes | None]], cut: int) -> None:
    fields = [[(-1).to_bytes(4, signed=True) if one is None else len(one).to_bytes(4) + one for one in row] for row in rows]
    data = HEADER + b"".join(len(row).to_bytes(2) + b"".join(row) for row in fields) + TRAILER
    assert list(read_rows(data)) == rows
    if cut < len(data):
        with pytest.raises(NotCopied):
            list(read_rows(data[:cut]))


def test_a_manifest_is_of_one_shape(place: Place) -> None:
    said = Backup(place.whole, unseen).manifest
    assert Manifest.model_validate(said.model_dump(mode="json")) == said
