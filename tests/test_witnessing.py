"""Having the ledger witnessed: enough cosign whoever else fails, and a database that was restored behind a witness is not written to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from itertools import count, product
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from domain.budgets import BudgetOpened
from domain.ledger import Append, LedgerUnavailable, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.merkle import Frontier
from infra.opening import open_ledger
from infra.own_witness import OwnWitness
from infra.proofs import Proofs
from infra.settings import Settings, SettingsError, WitnessPlace
from infra.tasks import ended
from infra.tiles import Tiles
from infra.verifier.notes import LOG, WITNESS, VerifierKey, cosigned_at, parse_checkpoint, parse_note
from infra.witnessing import Member, Witnessing
from tests.support.witness import TestKey, TestLog, WitnessProcess, until

pytestmark = pytest.mark.anyio
ORIGINS = [f"ledger.example/{number}" for number in range(30)]
REFUSES_ALL = """
import infra.witness
def refuse(*arguments): raise infra.witness.ProofError("it always says so")
infra.witness.check_consistency = refuse
import api.cli.main
api.cli.main.main()
"""
AN_HOUR_AND_MORE_AHEAD = """
import time
now = time.time
time.time = lambda: now() + 4000
import api.cli.main
api.cli.main.main()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.witnessing.RETRY_SECONDS", (0.1, 0.5))
    monkeypatch.setattr("infra.witnessing.POLL_SECONDS", 0.2)
    monkeypatch.setattr("infra.witnessing.STALL_SECONDS", 3.0)


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> FileKeystore:
    return FileKeystore.open(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def witnesses(tmp_path_factory: pytest.TempPathFactory, keystore: FileKeystore) -> Iterator[list[WitnessProcess]]:
    """Two witnesses that watch every ledger of these tests."""
    started = [WitnessProcess(tmp_path_factory.mktemp(f"w{number}"), watched_logs(keystore)) for number in range(2)]
    yield started
    assert [witness.stop() for witness in started] == ["", ""]


_fresh = count()


@pytest.fixture
def origin() -> str:
    """The name of a ledger that no witness has heard of."""
    return ORIGINS[next(_fresh)]


def watched_logs(keystore: FileKeystore) -> list[str]:
    return [VerifierKey(origin, LOG, keystore.log.public).text() for origin in ORIGINS]


def place(witness: WitnessProcess) -> WitnessPlace:
    return WitnessPlace(witness.verifier, witness.url)


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Watched:
    """A ledger and what has it witnessed."""

    def __init__(self, ledger: Ledger, witnessing: Witnessing) -> None:
        self.ledger, self.witnessing = ledger, witnessing

    async def append(self, times: int = 1) -> None:
        for _ in range(times):
            event = BudgetOpened(budget_id="b", label="b", currency="EUR", limit_minor=1)
            await self.ledger.append(Append("acme", "usr-ana", (StreamWrite(f"budget:{uuid7()}", 0, (event,), fresh=True),), uuid7()))

    async def witnessed(self, size: int | None = None, seconds: float = 15.0) -> bytes:
        """Waits until enough have cosigned a size (this ledger's, by default); the checkpoint with what stands under it."""
        wanted = size or self.ledger.head.size

        async def enough() -> bool:
            return await self.witnessing.witnessed() >= wanted

        await until(enough, seconds)
        note = await self.ledger.store.note(wanted)
        assert note is not None
        return note + b"".join(await self.ledger.store.cosignatures(wanted))

    async def refused(self, code: str, seconds: float = 10.0) -> LedgerUnavailable:
        """Waits until nothing is written any more; how that is said."""

        async def refuses() -> bool:
            return self.ledger.refusal is not None

        await until(refuses, seconds)
        with pytest.raises(LedgerUnavailable) as refused:
            await self.append()
        assert refused.value.code == code
        assert len(await self.ledger.read(0, 10_000)) == (await self.ledger.refresh()).size
        return refused.value


@asynccontextmanager
async def watched(
    dsn: str, keystore: FileKeystore, origin: str, places: Sequence[WitnessPlace] = (), required: int = 1, every_seconds: float = 1.0
) -> AsyncIterator[Watched]:
    ledger = await open_ledger(dsn, keystore, origin)
    tiles = Tiles(dsn)
    await tiles.open()
    witnessing = Witnessing(ledger, Proofs(tiles, ledger.store), places, required, every_seconds=every_seconds)
    try:
        yield Watched(ledger, witnessing)
    finally:
        await witnessing.close()
        await tiles.close()
        await ledger.close()


def only(witnessing: Witnessing) -> Member:
    (member,) = witnessing.members
    return member


async def complained(witnessing: Witnessing) -> None:
    """Waits until something is the matter with the only witness."""

    async def something() -> bool:
        return any(member.last_error for member in witnessing.members)

    await until(something)


@asynccontextmanager
async def slowly(witness: WitnessProcess, seconds: float) -> AsyncIterator[WitnessPlace]:
    """The same witness, at the end of a slow line."""
    host, port = witness.url.removeprefix("http://").split(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        try:
            while data := await reader.read(65_536):
                await asyncio.sleep(delay)
                writer.write(data)
        finally:
            writer.close()

    lines: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        lines.extend(asyncio.create_task(line) for line in (carry(reader, back, seconds), carry(there, writer, 0)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield WitnessPlace(witness.verifier, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await ended(*lines)


# -- k of n


async def test_two_of_three_are_enough_when_one_is_dead_and_one_is_slow(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    dead = WitnessPlace(VerifierKey("witness.example/dead", WITNESS, TestKey(1).public), f"http://127.0.0.1:{free_port()}")
    async with (
        slowly(witnesses[1], 0.7) as slow,
        watched(database_url, keystore, origin, [dead, place(witnesses[0]), slow], required=2) as here,
    ):
        for _ in range(8):
            await here.append()
            await asyncio.sleep(0.3)
        note = parse_note(await here.witnessed())
        times = [cosigned_at(note, member.key) for member in here.witnessing.members]
        assert times[0] is None
        assert None not in times[1:]
        assert parse_checkpoint(note.text).size == here.ledger.head.size
        assert "cannot be reached" in (here.witnessing.members[0].last_error or "")
        assert [member.compared for member in here.witnessing.members] == [False, True, True]


async def test_a_log_that_grows_is_submitted_about_once_a_second(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    async with watched(database_url, keystore, origin, [place(witnesses[0])]) as here:
        for _ in range(100):
            await here.append()
            await asyncio.sleep(0.02)
        await here.witnessed()
        sizes = [size for size in range(1, here.ledger.head.size + 1) if await here.ledger.store.cosignatures(size)]
        assert 3 <= len(sizes) <= 6
        assert sizes[-1] == here.ledger.head.size


async def test_a_signature_by_another_key_does_not_count(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    liar = WitnessPlace(replace(witnesses[0].verifier, public=TestKey(1).public), witnesses[0].url)
    async with watched(database_url, keystore, origin, [liar, place(witnesses[1])]) as here:
        note = await here.witnessed()
        assert cosigned_at(parse_note(note), witnesses[1].verifier) is not None
        await here.witnessing.asked()
        assert "signatures of others" in (here.witnessing.members[0].last_error or "")
        assert len(await here.ledger.store.cosignatures(here.ledger.head.size)) == 1
        await here.append()


async def test_a_witness_with_a_clock_far_ahead_is_not_believed(
    database_url: str, keystore: FileKeystore, origin: str, tmp_path: Path
) -> None:
    witness = WitnessProcess(tmp_path / "w", watched_logs(keystore), program=("-c", AN_HOUR_AND_MORE_AHEAD))
    async with watched(database_url, keystore, origin, [place(witness)]) as here:
        await here.witnessing.asked()
        assert "its clock is ahead" in (only(here.witnessing).last_error or "")
        assert await here.ledger.store.cosignatures(here.ledger.head.size) == []
    witness.stop()


async def test_a_witness_that_does_not_watch_this_ledger_says_what_to_do(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    witness = WitnessProcess(tmp_path / "w", [TestLog("ledger.example/0").verifier])
    async with watched(database_url, keystore, "ledger.example/unheard-of", [place(witness)]) as here:
        await here.witnessing.asked()
        assert "Tell it the log's verifier key" in (only(here.witnessing).last_error or "")
    witness.stop()


async def test_two_processes_on_one_database_do_not_accuse_each_other(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    places = [place(witness) for witness in witnesses]
    async with watched(database_url, keystore, origin, places) as one, watched(database_url, keystore, origin, places) as other:
        for _ in range(20):
            await asyncio.gather(one.append(), other.append())
            await asyncio.sleep(0.05)
        await one.witnessed((await one.ledger.refresh()).size)
        assert (one.ledger.refusal, other.ledger.refusal) == (None, None)


async def test_witnesses_of_different_speed_cosign_the_same_checkpoints(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    async with (
        slowly(witnesses[0], 0.7) as one,
        slowly(witnesses[1], 0.9) as other,
        watched(database_url, keystore, origin, [one, other], required=2, every_seconds=0.3) as here,
    ):
        for _ in range(60):
            await here.append()
            await asyncio.sleep(0.05)
        await here.witnessed()
        cosigned = [len(await here.ledger.store.cosignatures(size)) for size in range(1, here.ledger.head.size + 1)]
        assert set(cosigned) == {0, 2}
        assert cosigned.count(2) > 2


async def test_a_witness_that_another_process_was_quicker_to_ask_accuses_nobody(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    async with watched(database_url, keystore, origin, [place(witnesses[0])]) as here:
        await here.witnessed()
        looked_at = here.ledger.head
        await here.append(3)
        await here.witnessed()
        await here.witnessing._submit(only(here.witnessing), looked_at)
        assert here.ledger.refusal is None


# -- a database that is not the one the witness saw


@pytest.fixture
async def backup(
    database_url: str, postgres_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> AsyncIterator[str]:
    """A copy of a database, made when 5 events were in it, and 9 before the witnesses cosigned more of the original."""
    async with watched(database_url, keystore, origin) as here:
        await here.append(2)
    name = database_url.rpartition("/")[2].partition("?")[0]
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as server:
        await server.execute(f'CREATE DATABASE "{name}_backup" TEMPLATE "{name}"'.encode())
    async with watched(database_url, keystore, origin, [place(witness) for witness in witnesses], required=2) as here:
        await here.append(4)
        await here.witnessed(9)
    yield database_url.replace(name, f"{name}_backup")
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as server:
        await server.execute(f'DROP DATABASE "{name}_backup" WITH (FORCE)'.encode())


async def test_a_database_restored_behind_a_witness_is_not_written_to(
    backup: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    async with watched(backup, keystore, origin, [place(witnesses[0])]) as here:
        await here.witnessing.asked()
        refusal = await here.refused("ledger_behind_witness")
        assert f"{witnesses[0].verifier.name} has cosigned 9 events" in refusal.message
        assert "ends at 5" in refusal.message
        assert "Restore the database as it was at 9 events or later" in refusal.remedy
        assert only(here.witnessing).contradiction == refusal.message


@pytest.mark.parametrize("appended", [4, 40])
async def test_a_database_that_was_restored_and_then_written_to_is_not_written_to_again(
    backup: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess], appended: int
) -> None:
    async with watched(backup, keystore, origin) as alone:
        await alone.append(appended)
    async with watched(backup, keystore, origin, [place(witnesses[0])]) as here:
        await here.witnessing.asked()
        refusal = await here.refused("ledger_forked")
        assert f"has cosigned 9 events of this ledger, and the {5 + appended} in the database do not begin with them" in refusal.message


async def test_a_witness_that_is_away_at_the_start_is_heard_when_it_comes(
    backup: str, keystore: FileKeystore, origin: str, tmp_path: Path
) -> None:
    home, port = tmp_path / "w", free_port()
    before = WitnessProcess(home, watched_logs(keystore), port=port)
    there = place(before)
    async with watched(backup, keystore, origin, [there]) as here:
        await here.append(4)
        await here.witnessed()
    before.stop()
    async with watched(backup, keystore, origin, [there]) as here:
        began = asyncio.get_running_loop().time()
        await here.witnessing.asked()
        assert asyncio.get_running_loop().time() - began < 2.5
        assert not only(here.witnessing).compared
        await here.append()
        async with await psycopg.AsyncConnection.connect(backup, autocommit=True) as owner:
            await cut_to(owner, 5)
        back = WitnessProcess(home, watched_logs(keystore), port=port)
        await here.refused("ledger_behind_witness", seconds=40)
    back.stop()


async def cut_to(owner: psycopg.AsyncConnection, size: int) -> None:
    """What a database owner can do: cut off the end, checkpoints and all."""
    for table in ("events", "checkpoints"):
        await owner.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL".encode())
    await owner.execute("DELETE FROM ledger.events WHERE position > %s", (size,))
    await owner.execute("DELETE FROM ledger.checkpoints WHERE size > %s", (size,))
    note = await (await owner.execute("SELECT note FROM ledger.checkpoints WHERE size = %s", (size,))).fetchone()
    leaves = await (await owner.execute("SELECT leaf FROM ledger.events ORDER BY position")).fetchall()
    assert note is not None
    tree = Frontier().extend(leaf for (leaf,) in leaves)
    update = "UPDATE ledger.head SET size = %s, root = %s, frontier = %s, note = %s"
    await owner.execute(update, (size, tree.root(), tree.dump(), note[0]))


async def test_a_database_cut_under_a_running_server_is_found_without_a_write(
    database_url: str, keystore: FileKeystore, origin: str, witnesses: list[WitnessProcess]
) -> None:
    async with watched(database_url, keystore, origin, [place(witnesses[0])]) as here:
        await here.append(4)
        await here.witnessed()
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
            await cut_to(owner, 5)
        refusal = await here.refused("ledger_behind_witness")
        assert "ends at 5" in refusal.message


async def test_what_the_database_forgot_of_a_witness_is_learnt_from_it(
    backup: str, database_url: str, keystore: FileKeystore, origin: str, tmp_path: Path
) -> None:
    """The copy knows nothing of the witness, which has cosigned just what the copy holds."""
    witness = WitnessProcess(tmp_path / "w", watched_logs(keystore))
    for dsn, size in ((backup, 5), (database_url, 9)):
        async with watched(dsn, keystore, origin, [place(witness)]) as here:
            await here.witnessed(size)
            assert only(here.witnessing).compared
            assert here.ledger.refusal is None
    witness.stop()


async def test_a_witness_that_is_broken_stops_nobody(database_url: str, keystore: FileKeystore, origin: str, tmp_path: Path) -> None:
    home = tmp_path / "w"
    sound = WitnessProcess(home, watched_logs(keystore))
    async with watched(database_url, keystore, origin, [place(sound)]) as here:
        await here.witnessed()
    sound.stop()
    broken = WitnessProcess(home, watched_logs(keystore), program=("-c", REFUSES_ALL))
    async with watched(database_url, keystore, origin, [place(broken)]) as here:
        await here.append()
        await complained(here.witnessing)
        assert "refuses a checkpoint that follows from the one it shows" in (only(here.witnessing).last_error or "")
        await here.append()
        assert here.ledger.refusal is None
    broken.stop()


# -- what is kept


async def test_the_database_keeps_what_others_said(database_url: str, keystore: FileKeystore, origin: str) -> None:
    async with watched(database_url, keystore, origin), await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        for table, role in product(("cosignatures", "timestamps"), ("aureus_app", "none")):
            await owner.execute(f"INSERT INTO ledger.{table} VALUES (1, '{role}', '', now())".encode())
            await owner.execute(f"SET ROLE {role}".encode())
            for statement in ("UPDATE ledger.{} SET size = size", "DELETE FROM ledger.{}", "TRUNCATE ledger.{}"):
                with pytest.raises(errors.InsufficientPrivilege):
                    await owner.execute(statement.format(table).encode())
            await owner.execute("RESET ROLE")


# -- the demo's own


async def test_the_demo_s_own_witness_comes_back_and_learns_the_log_s_new_key(
    database_url: str, keystore: FileKeystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.own_witness.RESTART_SECONDS", 0.05)
    origin = "ledger.example/demo"
    async with watched(database_url, keystore, origin) as here:
        told: list[VerifierKey] = []

        def log_key() -> VerifierKey:
            told.append(VerifierKey(origin, LOG, keystore.log.public if told else TestKey(1).public))
            return told[-1]

        own = OwnWitness(tmp_path / "w", log_key, lambda found: here.witnessing.add(found, own=True))
        running = asyncio.create_task(own.run())
        await complained(here.witnessing)
        member = only(here.witnessing)
        assert "does not know the key that signed" in (member.last_error or "")
        own.learn_key()
        await here.witnessed()
        assert (len(told), member.own, only(here.witnessing) is member) == (2, True, True)
        await ended(running)
        await here.append()
        await complained(here.witnessing)


# -- settings


def test_a_demo_brings_a_witness_unless_others_are_named_or_none_is_wanted(tmp_path: Path) -> None:
    def found(**environment: str) -> Settings:
        return Settings.from_environment({"AUREUS_HOME": str(tmp_path), **environment})

    key = VerifierKey("witness.example/w", WITNESS, TestKey(1).public)
    other = VerifierKey("witness.example/v", WITNESS, TestKey(2).public)
    both = f"{key.text()} https://w.example.org:8430/prefix/, {other.text()} http://127.0.0.1:8430"
    named = found(AUREUS_WITNESSES=both, AUREUS_WITNESSES_REQUIRED="2")
    assert named.witnesses == (WitnessPlace(key, "https://w.example.org:8430/prefix"), WitnessPlace(other, "http://127.0.0.1:8430"))
    assert (named.witnesses_required, named.brings_witness) == (2, False)
    assert found().brings_witness
    assert not found(AUREUS_DEMO="off").brings_witness
    assert not found(AUREUS_WITNESSES="none").brings_witness


KEY = VerifierKey("witness.example/w", WITNESS, TestKey(1).public).text()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AUREUS_WITNESSES", KEY, "not a verifier key and a URL"),
        ("AUREUS_WITNESSES", f"{KEY} http://w.example.org", "not https"),
        ("AUREUS_WITNESSES", f"{KEY} https://me:secret@w.example.org", "not https"),
        ("AUREUS_WITNESSES", f"{KEY} https://w.example.org?a=b", "not https"),
        ("AUREUS_WITNESSES", f"{KEY[:-2]} https://w.example.org", "base64"),
        ("AUREUS_WITNESSES", f"{TestLog('l').verifier} https://w.example.org", "that of a log"),
        ("AUREUS_WITNESSES", f"{KEY} https://w.example.org,{KEY} https://v.example.org", "named twice"),
        ("AUREUS_WITNESSES", f"{KEY} https://w.example.org,", "not a verifier key and a URL"),
        ("AUREUS_WITNESSES_REQUIRED", "2", "of 1 witnesses"),
        ("AUREUS_WITNESSES_REQUIRED", "0", "of 1 witnesses"),
        ("AUREUS_WITNESSES_REQUIRED", "all", "of 1 witnesses"),
    ],
)
def test_witnesses_that_cannot_be_are_refused_by_name(tmp_path: Path, name: str, value: str, says: str) -> None:
    environment = {"AUREUS_HOME": str(tmp_path), "AUREUS_WITNESSES": f"{KEY} https://w.example.org", name: value}
    with pytest.raises(SettingsError, match=says) as refused:
        Settings.from_environment(environment)
    assert refused.value.field == name
    assert "secret" not in str(refused.value)
