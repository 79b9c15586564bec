"""`aureus log fsck`: whatever the owner of the database changes is found by name, and tiles, which are derived, are built again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from infra.checkpoint import Checkpoint
from infra.fsck import Checked, fsck
from infra.fsck_tiles import compared
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.settings import SettingsError
from infra.tiles import Tiles
from infra.verifier.checkpoints import GrownTree
from tests.support.trees import grow, plant
from tests.support.typed import CommandLine

pytestmark = pytest.mark.anyio
SIZE: Final = 780
"""Three keys, then commits of a hundred: the last of 77. Three full tiles."""


@pytest.fixture
async def ledger(database_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    await grow(opened, SIZE)
    tiles = Tiles(database_url)
    await tiles.open()
    await tiles.ensure(SIZE)
    await tiles.close()
    yield opened
    await opened.close()


@pytest.fixture
async def owner(database_url: str, ledger: Ledger) -> AsyncIterator[psycopg.AsyncConnection]:
    """The owner of the database, for whom triggers are no obstacle."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        yield connection


async def checked(dsn: str, *, repair: bool = False) -> Checked:
    return await asyncio.to_thread(fsck, dsn, repair=repair)


def found(result: Checked) -> set[tuple[int | None, str]]:
    return {(problem.position, problem.check) for problem in result.problems}


GUARDS: Final = dict.fromkeys(("events", "checkpoints", "cosignatures", "timestamps"), ("append_only", "no_truncate")) | {
    "head": ("one_head",)
}


async def unguarded(owner: psycopg.AsyncConnection, *statements: str) -> None:
    """Carries out what the triggers are there to refuse, and arms them again."""
    guards = [(table, trigger) for table, triggers in GUARDS.items() for trigger in triggers]
    for table, trigger in guards:
        await owner.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER {trigger}".encode())
    for statement in statements:
        await owner.execute(statement.encode())
    for table, trigger in guards:
        await owner.execute(f"ALTER TABLE ledger.{table} ENABLE ALWAYS TRIGGER {trigger}".encode())


async def test_a_ledger_that_nobody_touched_holds(database_url: str, ledger: Ledger) -> None:
    result = await checked(database_url)
    assert (result.ok, result.problems, result.ledger) == (True, [], ledger.name)
    assert (result.events, result.signatures, result.checkpoints, result.tiles) == (SIZE, SIZE, 9, 3)


async def test_a_ledger_that_several_processes_check(database_url: str, tmp_path: Path) -> None:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    await grow(opened, 4_500, per_commit=900)
    await opened.close()
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await unguarded(
            owner,
            "UPDATE ledger.events SET signatures = set_byte(signatures, 40, get_byte(signatures, 40) # 1) WHERE position = 4400",
            "UPDATE ledger.checkpoints SET note = '' WHERE size = 3603",
        )
    phases: list[tuple[str, int]] = []
    result = await asyncio.to_thread(fsck, database_url, report=lambda phase, done, _total: phases.append((phase, done)))
    assert found(result) == {
        (3_603, "checkpoint"),
        (4_400, "signature"),
        (4_400, "leaf"),
        (4_401, "chain"),
        (4_500, "tree"),
        (4_500, "head"),
    }
    assert [phase for phase in phases if phase[1] == 4_500] == [("signatures and rows", 4_500), ("checkpoints", 4_500)]


async def test_each_change_beside_the_signed_bytes_is_found_by_name(
    database_url: str, owner: psycopg.AsyncConnection, ledger: Ledger, tmp_path: Path
) -> None:
    log = FileKeystore.open(tmp_path / "keys").log
    false_root = Checkpoint(ledger.name, 503, bytes(32)).signed(log).hex()
    await unguarded(
        owner,
        "UPDATE ledger.events SET type = 'budgets.closed' WHERE position = 100",
        "UPDATE ledger.events SET at = at - interval '1 hour' WHERE position = 120",
        "UPDATE ledger.events SET leaf = sha256(leaf) WHERE position = 200",
        "UPDATE ledger.checkpoints SET note = (SELECT note FROM ledger.checkpoints WHERE size = 203) WHERE size = 303",
        "UPDATE ledger.checkpoints SET note = set_byte(note, octet_length(note) - 30, "
        "CASE get_byte(note, octet_length(note) - 30) WHEN 88 THEN 89 ELSE 88 END) WHERE size = 403",
        f"UPDATE ledger.checkpoints SET note = decode('{false_root}', 'hex') WHERE size = 503",
        "UPDATE ledger.checkpoints SET note = '' WHERE size = 603",
        "INSERT INTO ledger.checkpoints VALUES (1000, '')",
        "INSERT INTO ledger.cosignatures VALUES (5, 'w', '', now())",
        "INSERT INTO ledger.timestamps VALUES (6, 'tsa', '', now())",
        "INSERT INTO ledger.events SELECT 900, tenant, 'more', 1, type, at, body, signatures, leaf FROM ledger.events WHERE position = 9",
    )
    await owner.execute("ALTER TABLE ledger.requests DISABLE TRIGGER append_only")
    result = await checked(database_url)
    assert found(result) == {
        *((100, "row"), (120, "row"), (200, "leaf")),
        *((303, "checkpoint"), (403, "checkpoint"), (503, "tree"), (603, "checkpoint"), (1000, "checkpoint")),
        *((5, "cosignature"), (6, "timestamp"), (900, "position"), (None, "trigger")),
    }
    said = {problem.position: problem.found for problem in result.problems}
    assert said[100] == "its type is budgets.closed in the row and budgets.budget_opened in the signed body"
    assert said[303] == f"it is of {ledger.name} with 203 events"
    assert said[None] == "append_only of ledger.requests does not stand guard: it is missing, changed or disabled"
    assert "the checkpoint signs 0000" in said[503]


async def test_a_head_that_is_not_where_the_log_ends_is_found(database_url: str, owner: psycopg.AsyncConnection) -> None:
    changes = "root = sha256(root), frontier = sha256(frontier), at = now(), note = note || ' '"
    await unguarded(owner, f"UPDATE ledger.head SET {changes}")
    assert [(problem.position, problem.check, problem.found) for problem in (await checked(database_url)).problems] == [
        (SIZE, "head", f"its {column} is not that of the last event's commit") for column in ("note", "root", "frontier", "at")
    ]


async def test_an_edited_body_is_found_and_its_tiles_stay_evidence(database_url: str, owner: psycopg.AsyncConnection) -> None:
    """What was signed is gone from the row; the tile still holds its hash, so not even --repair puts another one there."""
    edited = """convert_to(replace(convert_from(body, 'UTF8'), '"limit_minor":1', '"limit_minor":9'), 'UTF8')"""
    await unguarded(owner, f"UPDATE ledger.events SET body = {edited} WHERE position = 250")
    result = await checked(database_url, repair=True)
    broken = {(size, "tree") for size in (303, 403, 503, 603, 703, 780)}
    assert found(result) == {(250, "leaf"), (250, "signature"), (251, "chain"), (SIZE, "head"), (None, "tile"), *broken}
    assert result.repaired == []
    assert (await checked(database_url)).problems == result.problems


async def test_a_deleted_event_is_found_at_its_position(database_url: str, owner: psycopg.AsyncConnection) -> None:
    await unguarded(owner, "DELETE FROM ledger.events WHERE position = 250")
    result = await checked(database_url)
    assert found(result) == {(250, "position"), (251, "stream")}
    assert result.problems[0].found == f"position 250 of {SIZE} cannot be found: the tree is not checked from there on"


async def test_an_end_that_was_cut_off_is_found(database_url: str, owner: psycopg.AsyncConnection) -> None:
    await unguarded(owner, "DELETE FROM ledger.events WHERE position > 703", "DELETE FROM ledger.checkpoints WHERE size > 703")
    result = await checked(database_url)
    assert found(result) == {(704, "position"), (SIZE, "checkpoint"), (SIZE, "head")}
    assert "positions 704 to 780" in result.problems[0].found


async def test_tiles_are_found_and_built_again(database_url: str, owner: psycopg.AsyncConnection) -> None:
    before = await (await owner.execute("SELECT * FROM ledger.tiles ORDER BY 1, 2")).fetchall()
    changes = (
        "UPDATE ledger.tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1) WHERE index = 0",
        "DELETE FROM ledger.tiles WHERE index = 1",
        "UPDATE ledger.tiles SET root = sha256(root) WHERE index = 2",
        "INSERT INTO ledger.tiles SELECT 1, 0, hashes, root FROM ledger.tiles WHERE index = 0",
    )
    for change in changes:
        await owner.execute(change.encode())
    result = await checked(database_url)
    expected = [
        "tile/0/000 is not what the events hash to",
        "tile/0/001 is missing",
        "tile/0/002 is not what the events hash to",
        "tile/1/000 is of no tree that this ledger had",
    ]
    assert [problem.found for problem in result.problems] == expected
    repaired = await checked(database_url, repair=True)
    assert (repaired.ok, [problem.found for problem in repaired.repaired]) == (True, expected)
    assert await (await owner.execute("SELECT * FROM ledger.tiles ORDER BY 1, 2")).fetchall() == before
    assert (await checked(database_url)).ok


async def test_a_changed_tile_above_the_leaves_is_found(database_url: str) -> None:
    """A tile of level 1 stands on 65,536 leaves, which nobody signs for a test: the tiles are compared with the leaves alone."""
    tree = GrownTree()
    tree.add(await plant(database_url, 66_000))
    tiles = Tiles(database_url)
    await tiles.open()
    await tiles.ensure(66_000)
    await tiles.close()

    def wrong() -> list[str | None]:
        with psycopg.connect(database_url) as connection:
            return [found for _, _, found in compared(connection, tree) if found]

    assert await asyncio.to_thread(wrong) == []
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("UPDATE ledger.tiles SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1) WHERE level = 1")
    assert await asyncio.to_thread(wrong) == ["tile/1/000 is not what the events hash to"]


def aureus(home: Path, **environment: str) -> CommandLine:
    """The command line of the machine that holds the ledger."""
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL" and not name.startswith("AUREUS_")}
    return CommandLine({**kept, "AUREUS_HOME": str(home), **environment})


async def test_the_operators_command(database_url: str, owner: psycopg.AsyncConnection, tmp_path: Path) -> None:
    command = aureus(tmp_path, DATABASE_URL=database_url)
    assert f"Checked {SIZE} events of" in await command("log", "fsck")
    await owner.execute("DELETE FROM ledger.tiles WHERE index = 1")
    told = await command("log", "fsck", exit_code=8)
    assert "tile/0/001 is missing" in told
    assert "aureus log fsck --repair" in told
    answer = await command.json("log", "fsck", "--repair")
    assert (answer["ok"], answer["repaired"][0]["found"]) == (True, "tile/0/001 is missing")


async def test_where_there_is_no_ledger_that_is_said(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="it holds no ledger of this version"):
        await checked(database_url)
    with pytest.raises(SettingsError, match="the database cannot be reached"):
        await checked("postgresql://nobody@127.0.0.1:1/nothing")
    home = tmp_path / "home"
    refused = await aureus(home).json("log", "fsck", exit_code=2)
    assert refused["error"]["message"] == f"AUREUS_HOME: no ledger lies in {home}."
