"""A ledger that is put back from a backup is the one that it was: the drill, what is refused, and a restore that was killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from base64 import b64decode
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
import pytest

from api.backing_up import BackedUp, Examined, back_up, erasures_in, examine, keys_for, restore
from api.services import Services, open_services, projections
from commands.access import RegisterActor
from commands.budgets import OpenBudget
from commands.evidence import RegisterArtifact
from commands.exports import RequestExport
from commands.subjects import AttachArtifact, EraseSubject
from domain.backups import BackupTaken, LedgerRestored
from domain.subjects import SubjectErased
from domain.values import ActorKind, Role, uuid7
from infra.backup.contents import FILES_KEPT, FILES_OF_THE_PLACE, FILES_WITH_KEYS, KEPT, is_decided
from infra.backup.erasures import BadErasures, Erasure
from infra.backup.taking import Taken
from infra.backup.verifying import CERTIFICATE
from infra.blobs import BlobMissing
from infra.embedded import embedded_postgres
from infra.envelope import entry_bytes
from infra.fsck import fsck
from infra.key_files import FileSigner, write_key
from infra.keystore import FileKeystore
from infra.ledger import Append, StreamWrite
from infra.opening import open_ledger, open_memory_ledger
from infra.postgres_store import PostgresStore
from infra.read_tables import LIVE, schema_name
from infra.settings import Settings, SettingsError
from infra.store import StoredEvent
from infra.tasks import ended
from infra.verifier.pack import verify_pack
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers
from streams.backups import record_restore
from tests.support.kernel import ADM, STAND_IN, Process, ask, everything, unequal, verification, written
from tests.test_keys_path import turn

pytestmark = pytest.mark.anyio
PASSPHRASE: Final = "correct horse battery"
ARTIFACT: Final = b"what she wrote"
OF_HER: Final = hashlib.sha256(ARTIFACT).hexdigest()


def unseen(_phase: str, _done: int, _total: int | None) -> None:
    """Progress that nobody watches."""


def settings_of(dsn: str, home: Path, **more: Any) -> Settings:
    home.mkdir(mode=0o700, exist_ok=True)
    policies = written(home / "policies", STAND_IN)
    return Settings(home=home, database_url=dsn, tenant="acme", policies=policies, demo=False, **more)


@asynccontextmanager
async def opened(dsn: str, home: Path) -> AsyncIterator[Services]:
    """An Aureus on this database, with everything but its API."""
    async with open_services(settings_of(dsn, home)) as services:
        yield services


async def budgets(services: Services, first: int, many: int) -> None:
    for number in range(first, first + many):
        await services.path.handle(ask(OpenBudget(budget_id=f"b{number}", label="B", currency="EUR", limit_minor=10), ADM))


async def busy(services: Services) -> None:
    """Somebody writes and writes, until cancelled."""
    for number in count():
        await budgets(services, number, 1)


async def backed_up(services: Services, file: Path, passphrase: str | None = None) -> BackedUp:
    return await back_up(services.settings, services.dsn, file, passphrase, with_blobs=False, report=unseen)


async def examined(file: Path) -> Examined:
    found = await asyncio.to_thread(examine, file, Trust(), [], unseen)
    assert found.result.ok, found.result.sentences()
    return found


async def put_back(file: Path, dsn: str, home: Path, erasures: Sequence[Erasure] = (), passphrase: str | None = None) -> Examined:
    found, settings = await examined(file), settings_of(dsn, home)
    await restore(settings, dsn, found, erasures, keys_for(settings, found, passphrase), unseen)
    return found


def with_keys_of(home: Path, other: Path) -> Path:
    """Another home, with the same keys."""
    other.mkdir(mode=0o700)
    shutil.copytree(home / "keys", other / "keys")
    return other


async def certificates(services: Services, file: Path) -> Path:
    """What `aureus subjects certificates --export` writes."""
    ledger = services.ledger
    lines = [
        orjson.dumps({"position": event.position, "entry": entry_of(event)})
        for event in await ledger.entries(0, ledger.head.size)
        if event.type == CERTIFICATE
    ]
    await asyncio.to_thread(file.write_bytes, b"".join(line + b"\n" for line in lines))
    return file


def entry_of(event: StoredEvent) -> Any:
    return json.loads(entry_bytes(event.body, event.signatures))


async def eventually(services: Services, name: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            for recorded in await everything(services.ledger):
                if recorded.event.event_name == name:
                    return recorded
            await asyncio.sleep(0.05)


async def read_rows(dsn: str, position: int) -> dict[str, str]:
    """The digest of every read table as it stood at a position."""
    found = {}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for projection in projections():
            for table in projection.tables:
                name = f"{schema_name(projection.name, LIVE)}.{table.name}"
                rows = 'string_agg(tenant || id || from_position || doc::text, \',\' ORDER BY tenant COLLATE "C", id COLLATE "C")'
                query = f"SELECT md5({rows}) FROM {name} WHERE from_position <= %s AND to_position > %s"
                found[name] = ((await (await connection.execute(query.encode(), (position, position))).fetchone()) or [""])[0]
    return found


async def one(content: bytes) -> AsyncIterable[bytes]:
    yield content


# -- the drill


async def lived(services: Services) -> None:
    """Somebody whose name the vault keeps, an artifact about her, and a pack that was made of it all."""
    await services.path.handle(
        ask(RegisterActor(actor_id="usr-eve", kind=ActorKind.PERSON, granted_roles=(Role.ANALYST,), display_name="Eve Example"), ADM)
    )
    await services.blobs.put(one(ARTIFACT))
    registered = RegisterArtifact(sha256=OF_HER, size_bytes=len(ARTIFACT), media_type="text/plain", name="letter", kind="file")
    await services.path.handle(ask(registered, ADM))
    await services.path.handle(ask(AttachArtifact(subject_id="usr-eve", sha256=OF_HER), ADM))
    await services.path.handle(ask(RequestExport(export_id="e1", recipient="BaFin", everything=True), ADM))
    await eventually(services, "exports.export_sealed")


async def erased(services: Services) -> None:
    outcome = await services.path.handle(ask(EraseSubject(subject_id="usr-eve", ground="objection"), ADM))
    assert outcome.outcome == "allowed", outcome.message
    await eventually(services, CERTIFICATE)


async def value_of_eve(services: Services) -> Any:
    position = next(event.position for event in await everything(services.ledger) if event.stream == "actor:usr-eve")
    store = services.ledger.store
    assert isinstance(store, PostgresStore)
    return (await store.vault.open(store.pool, "acme", position)).get("display_name")


@dataclass(frozen=True)
class Story:
    """What happened to a ledger: it was backed up while others wrote to it, and then somebody was erased."""

    dsn: str
    home: Path
    file: Path
    certificates: Path
    taken: Taken
    name: str
    as_it_was: dict[str, str]
    """The digests of all read models where the backup ends."""
    tables: list[str]
    files: list[str]

    @property
    def size(self) -> int:
        return self.taken.manifest.size


@pytest.fixture(scope="module")
def story(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return asyncio.run(_told(shared_database_url, tmp_path_factory.mktemp("story")))


async def _told(dsn: str, folder: Path) -> Story:
    async with opened(dsn, folder / "home") as here:
        await lived(here)
        writing = asyncio.create_task(busy(here))
        done = await backed_up(here, folder / "backup", PASSPHRASE)
        await ended(writing)
        size = done.taken.manifest.size
        assert done.unrecorded is None
        await erased(here)
        await here.wait_for(here.ledger.head.size)
        listed = await certificates(here, folder / "certificates.jsonl")
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            tables = [row[0] for row in await (await connection.execute(_TABLES)).fetchall()]
        files = [path.name for path in here.settings.home.iterdir()]
        recorded = [event.event for event in await everything(here.ledger) if isinstance(event.event, BackupTaken)]
        assert [(event.sha256, event.size, event.keys, event.artifacts) for event in recorded] == [(done.taken.sha256, size, True, 1)]
        as_it_was, name = await read_rows(dsn, size), here.ledger.name
    return Story(dsn, folder / "home", folder / "backup", listed, done.taken, name, as_it_was, tables, files)


_TABLES: Final = """
    SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_' ORDER BY 1
"""


def test_of_every_table_and_file_it_is_decided_what_becomes_of_it_in_a_backup(story: Story) -> None:
    assert [table for table in story.tables if not is_decided(table)] == [], "name it in infra/backup/contents.py"
    assert set(KEPT) - set(story.tables) == set(), "what is to be backed up is there"
    places = {*FILES_KEPT, *FILES_WITH_KEYS, *FILES_OF_THE_PLACE}
    known = [getattr(Settings(home=story.home), name) for name, one in vars(Settings).items() if isinstance(one, property)]
    names = {path.name for path in known if isinstance(path, Path)} | set(story.files)
    assert names - places == {"policies"}, "the tests' own; name any other in infra/backup/contents.py"


async def test_a_ledger_backed_up_under_load_comes_back_without_who_was_erased_since(
    story: Story, database_url: str, tmp_path: Path
) -> None:
    certified = erasures_in([story.certificates], await examined(story.file))
    assert [(erasure.subject, erasure.artifacts) for erasure in certified] == [("usr-eve", (OF_HER,))]
    await put_back(story.file, database_url, tmp_path / "home", certified, PASSPHRASE)
    assert await read_rows(database_url, story.size) == story.as_it_was, "every read model, row for row"
    checked = await asyncio.to_thread(fsck, database_url)
    assert (checked.problems, checked.events, checked.ledger) == ([], story.size, story.name)
    async with opened(database_url, tmp_path / "home") as there:
        assert (await verification(there.ledger)).ok
        assert await value_of_eve(there) is None
        with pytest.raises(BlobMissing):
            await there.blobs.read(OF_HER)
        (pack,) = there.settings.exports_dir.glob("*.zip")
        with Workers() as workers:
            assert verify_pack(pack, Trust(), (), workers, unseen, full=True).ok
        await budgets(there, 1_000, 3)
        await record_restore(there.ledger, there.path, "acme")
        await record_restore(there.ledger, there.path, "acme")
        said = story.taken.manifest
        expected = LedgerRestored(backup_id=said.backup_id, size=said.size, root=said.root, sha256=story.taken.sha256, erasures=1)
        events = [recorded.event for recorded in await everything(there.ledger)]
        assert [event for event in events if isinstance(event, LedgerRestored)] == [expected], "on record, once"
        await there.wait_for(there.ledger.head.size)
    assert await unequal(database_url) == []


@pytest.mark.slow
async def test_a_backup_of_one_mode_is_put_back_in_the_other_with_all_that_was_in_it(story: Story, tmp_path: Path) -> None:
    home = with_keys_of(story.home, tmp_path / "home")
    with embedded_postgres(home / "postgres") as dsn:
        await put_back(story.file, dsn, home)
        async with opened(dsn, home) as there:
            assert (there.ledger.name, there.ledger.head.size) == (story.name, story.size)
            assert await value_of_eve(there) == "Eve Example", "nobody said that she was erased"
            assert b"".join([piece async for piece in await there.blobs.read(OF_HER)]) == ARTIFACT
            again = await backed_up(there, tmp_path / "again")
        assert (await examined(tmp_path / "again")).backup.manifest.size > story.size
    assert again.taken.manifest.keys_sha256 is None


# -- what is refused


async def test_nothing_is_restored_over_a_ledger(story: Story, database_url: str, tmp_path: Path) -> None:
    home = with_keys_of(story.home, tmp_path / "home")
    with pytest.raises(SettingsError, match=r"it holds the same ledger with \d+ events already"):
        await put_back(story.file, story.dsn, home)
    other = await open_ledger(database_url, FileKeystore.open(tmp_path / "others"), "ledger.example/other")
    await other.close()
    with pytest.raises(SettingsError, match=f"it holds the ledger ledger.example/other with .* the backup is of {story.name}"):
        await put_back(story.file, database_url, home)


async def test_a_backup_of_another_ledger_is_refused_before_anything_is_written(story: Story, database_url: str, tmp_path: Path) -> None:
    found, others = await examined(story.file), tmp_path / "others"
    others.mkdir()
    FileKeystore.open(others / "keys")
    with pytest.raises(SettingsError, match=f"those of another ledger, with the root key .* the backup is of {story.name}"):
        await put_back(story.file, database_url, others)
    named = settings_of(database_url, with_keys_of(story.home, tmp_path / "named"), origin="ledger.example/other")
    with pytest.raises(SettingsError, match=f"it names the ledger ledger.example/other, and the backup is of {story.name}"):
        await restore(named, database_url, found, [], None, unseen)
    renamed = with_keys_of(story.home, tmp_path / "renamed")
    (renamed / "keys" / "vault.key").unlink()
    write_key(renamed / "keys" / "vault.key", FileSigner.from_seed("vault", bytes(32), "2026-01-01T00:00:00+00:00"))
    with pytest.raises(SettingsError, match=r"the key-encryption key [0-9a-f]{16} is not in .* personal values in the backup are sealed"):
        await put_back(story.file, database_url, renamed)
    elsewhere = replace(settings_of(database_url, renamed), vault_keys_url=database_url)
    with pytest.raises(SettingsError, match="this backup holds them itself"):
        await restore(elsewhere, database_url, found, [], None, unseen)
    with pytest.raises(SettingsError, match="gives them to nobody without its passphrase"):
        keys_for(settings_of(database_url, tmp_path / "nowhere"), found, None)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        assert await (await connection.execute("SELECT to_regclass('ledger.head')")).fetchone() == (None,)


def flipped(line: dict[str, Any]) -> dict[str, Any]:
    signature = line["entry"]["signatures"][0]
    sig = ("B" if signature["sig"][0] == "A" else "A") + signature["sig"][1:]
    return {**line, "entry": {**line["entry"], "signatures": [{**signature, "sig": sig}]}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: {**line, "position": 0}, None),
        (lambda line: {**line, "position": line["position"] + 1, "entry": {**line["entry"], "payload": "e30="}}, "its members are none"),
        (lambda line: {"position": line["position"]}, "no entry of a ledger"),
        (lambda line: {**line, "position": str(line["position"])}, "its position is not a number"),
        (flipped, "does not hold"),
    ],
)
async def test_a_certificate_counts_only_as_it_was_signed(
    story: Story, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], said: str | None
) -> None:
    found, file = await examined(story.file), tmp_path / "certificates"
    (line,) = story.certificates.read_bytes().splitlines()
    file.write_bytes(orjson.dumps(change(json.loads(line))))
    if said is None:
        assert erasures_in([file], found) == [], "the backup knows it already"
        return
    with pytest.raises(BadErasures, match=f"line 1: .*{said}"):
        erasures_in([file], found)


async def test_events_that_are_no_certificates_of_this_ledger_erase_nobody(story: Story, tmp_path: Path) -> None:
    found, file = await examined(story.file), tmp_path / "certificates"
    keystore = FileKeystore.open(tmp_path / "keys")
    foreign = await open_memory_ledger(keystore, "ledger.example/other")
    here = await open_ledger(story.dsn, FileKeystore.open(story.home / "keys"))
    try:
        for ledger, said in ((foreign, "it is of the ledger ledger.example/other"), (here, "and no certificate of an erasure")):
            event = (await ledger.entries(ledger.head.size - 1, 1))[0]
            file.write_bytes(orjson.dumps({"position": story.size + 1, "entry": entry_of(event)}))
            with pytest.raises(BadErasures, match=said):
                erasures_in([file], found)
    finally:
        await foreign.close()
        await here.close()


# -- a restore that does not come to its end


@pytest.mark.slow
async def test_a_restore_that_was_broken_off_serves_nothing_and_is_begun_again(story: Story, database_url: str, tmp_path: Path) -> None:
    home = with_keys_of(story.home, tmp_path / "home")
    found, settings = await examined(story.file), settings_of(database_url, home)

    for phase in ("rows", "read models"):

        def broken(name: str, _done: int, _total: int | None, at: str = phase) -> None:
            if name == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await restore(settings, database_url, found, [], None, broken)
        with pytest.raises(SettingsError, match="did not come to its end"):
            await open_ledger(database_url, FileKeystore.open(home / "keys"))
    await restore(settings, database_url, found, [], None, unseen)
    async with opened(database_url, home) as there:
        assert there.ledger.head.size == story.size


# -- the last test: the ledger of the story has another key after it


async def test_a_certificate_signed_by_a_key_that_came_in_later_counts_with_that_key(story: Story, tmp_path: Path) -> None:
    """The service key was rotated after the backup: what lets the new one in stands in the file of certificates too."""
    home = with_keys_of(story.home, tmp_path / "home")
    found, file = await examined(story.file), tmp_path / "certificates"
    async with opened(story.dsn, home) as here:
        before = here.ledger.head.size
        await turn(Process(here.ledger, here.path), here.keystore, "service")
        certificate = json.loads(story.certificates.read_bytes())
        again = SubjectErased(**json.loads(b64decode(certificate["entry"]["payload"]))["data"])
        version = max(event.version for event in await everything(here.ledger) if event.stream == "subject:usr-eve")
        await here.ledger.append(Append("acme", "svc-reactions", (StreamWrite("subject:usr-eve", version, (again,)),), uuid7()))
        events = await here.ledger.entries(before, 100)
    lines = {event.type: orjson.dumps({"position": event.position, "entry": entry_of(event)}) + b"\n" for event in events}
    file.write_bytes(lines[CERTIFICATE])
    with pytest.raises(BadErasures, match="which is not a service key of this ledger"):
        erasures_in([file], found)
    file.write_bytes(lines["keys.key_rotated"] + lines[CERTIFICATE])
    assert [erasure.subject for erasure in erasures_in([file], found)] == ["usr-eve"]
