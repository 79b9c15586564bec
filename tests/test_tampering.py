"""Every tamper of a ledger's rows by the owner of its database is found, with the position and by which check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import nacl.signing
import psycopg
import pytest
from psycopg import errors

from commands.budgets import OpenBudget, ReserveFunds
from domain.budgets import BudgetOpened
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.envelope import pack_signature, signing_input, unpack_signatures
from infra.keystore import FileKeystore, key_id
from infra.ledger import Ledger
from infra.merkle import leaf_hash
from infra.opening import open_ledger
from tests.support.kernel import ADM, ask, catch_up, policies, processes, unequal, verification

pytestmark = pytest.mark.anyio
LAST: Final = 9
TABLES: Final = ("events", "checkpoints", "requests")


@pytest.fixture
def keystore(tmp_path: Path) -> FileKeystore:
    return FileKeystore.open(tmp_path / "keys")


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    """Positions 1 to 3 are the founding keys, 4 to 9 two budgets' streams, each event a commit of its own."""
    opened = await open_ledger(database_url, keystore)
    for version in range(3):
        for name in ("a", "b"):
            event = BudgetOpened(budget_id=name, label=f"v{version}", currency="EUR", limit_minor=1)
            await opened.append(Append("acme", "usr-ana", (StreamWrite(f"budget:{name}", version, (event,)),), uuid7()))
    assert (await verification(opened)).problems == []
    yield opened
    await opened.close()


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


async def disarmed(owner: psycopg.AsyncConnection) -> None:
    for table in TABLES:
        await owner.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL".encode())


async def row(owner: psycopg.AsyncConnection, position: int) -> tuple[bytes, bytes]:
    query = "SELECT body, signatures FROM ledger.events WHERE position = %s"
    found = await (await owner.execute(query, (position,))).fetchone()
    assert found is not None
    return found[0], found[1]


async def found(ledger: Ledger) -> set[tuple[int, str]]:
    return {(problem.position, problem.check) for problem in (await verification(ledger)).problems}


STATEMENTS: Final = (
    "UPDATE ledger.{} SET {} = {}",
    "DELETE FROM ledger.{}",
    "TRUNCATE ledger.{}",
)


@pytest.mark.parametrize("role", ["aureus_app", None])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", STATEMENTS)
async def test_the_database_refuses_to_change_what_was_written(
    ledger: Ledger, owner: psycopg.AsyncConnection, role: str | None, table: str, statement: str
) -> None:
    column = {"events": "body", "checkpoints": "note", "requests": "answer"}[table]
    remember = "INSERT INTO ledger.requests VALUES ('acme', 'k', '', '')"
    await owner.execute(remember.encode())
    await owner.execute("SET session_replication_role = replica")
    if role is not None:
        await owner.execute(f"SET ROLE {role}".encode())
    with pytest.raises(errors.InsufficientPrivilege, match=r"append-only|permission denied"):
        await owner.execute(statement.format(table, column, column).encode())
    assert await found(ledger) == set()


async def test_an_edited_body_is_found(ledger: Ledger, owner: psycopg.AsyncConnection) -> None:
    await disarmed(owner)
    body, _ = await row(owner, 6)
    await owner.execute("UPDATE ledger.events SET body = %s WHERE position = 6", (body.replace(b'"limit_minor":1', b'"limit_minor":9'),))
    assert await found(ledger) == {(6, "signature"), (8, "chain"), (LAST, "tree")}


async def test_a_deleted_row_is_found(ledger: Ledger, owner: psycopg.AsyncConnection) -> None:
    await disarmed(owner)
    await owner.execute("DELETE FROM ledger.events WHERE position = 6")
    # The row after the hole, position 8, now stands as the seventh.
    assert {(7, "stream"), (LAST - 1, "checkpoint")} <= await found(ledger)


async def test_two_rows_that_changed_places_are_found(ledger: Ledger, owner: psycopg.AsyncConnection) -> None:
    await disarmed(owner)
    for old, new in ((6, 60), (7, 6), (60, 7)):
        await owner.execute("UPDATE ledger.events SET position = %s WHERE position = %s", (new, old))
    assert {(7, "time"), (LAST, "tree")} <= await found(ledger)


async def test_two_rows_of_one_stream_that_changed_places_are_found(ledger: Ledger, owner: psycopg.AsyncConnection) -> None:
    await disarmed(owner)
    for old, new in ((6, 60), (8, 6), (60, 8)):
        await owner.execute("UPDATE ledger.events SET position = %s WHERE position = %s", (new, old))
    assert {(6, "stream"), (8, "stream"), (LAST, "tree")} <= await found(ledger)


async def test_a_changed_signature_is_found(ledger: Ledger, owner: psycopg.AsyncConnection) -> None:
    await disarmed(owner)
    _, packed = await row(owner, 9)
    (key, signature), *_ = unpack_signatures(packed)
    forged = pack_signature(key, bytes([signature[0] ^ 1]) + signature[1:])
    await owner.execute("UPDATE ledger.events SET signatures = %s WHERE position = 9", (forged,))
    assert await found(ledger) == {(9, "signature"), (LAST, "tree")}


async def test_a_changed_key_id_is_found(ledger: Ledger, owner: psycopg.AsyncConnection, keystore: FileKeystore) -> None:
    await disarmed(owner)
    _, packed = await row(owner, 9)
    (_, signature), *_ = unpack_signatures(packed)
    forged = pack_signature(keystore.log.key_id, signature)
    await owner.execute("UPDATE ledger.events SET signatures = %s WHERE position = 9", (forged,))
    assert await found(ledger) == {(9, "key"), (LAST, "tree")}


async def test_a_signature_by_an_unknown_key_is_found(ledger: Ledger, owner: psycopg.AsyncConnection, keystore: FileKeystore) -> None:
    """A forger who rewrites the event, signs it with a key of his own, and mends the leaf."""
    await disarmed(owner)
    stranger = nacl.signing.SigningKey.generate()
    own = key_id(bytes(stranger.verify_key))
    body, _ = await row(owner, 9)
    body = body.replace(keystore.service.key_id.encode(), own.encode())
    packed = pack_signature(own, stranger.sign(signing_input(body)).signature)
    query = "UPDATE ledger.events SET body = %s, signatures = %s, leaf = %s WHERE position = 9"
    await owner.execute(query, (body, packed, leaf_hash(body)))
    problems = (await verification(ledger)).problems
    assert {(problem.position, problem.check) for problem in problems} == {(9, "key"), (LAST, "tree")}
    assert own[:16] in problems[0].found


async def test_a_re_signed_event_by_whoever_holds_the_service_key_is_found(
    ledger: Ledger, owner: psycopg.AsyncConnection, keystore: FileKeystore
) -> None:
    """The signature holds; the tree that the log key signed does not."""
    await disarmed(owner)
    body, _ = await row(owner, 9)
    body = body.replace(b'"limit_minor":1', b'"limit_minor":9')
    packed = pack_signature(keystore.service.key_id, keystore.service.sign(signing_input(body)))
    await owner.execute("UPDATE ledger.events SET body = %s, signatures = %s WHERE position = 9", (body, packed))
    assert await found(ledger) == {(LAST, "tree")}


async def test_a_truncated_tail_is_found(ledger: Ledger, owner: psycopg.AsyncConnection) -> None:
    await disarmed(owner)
    await owner.execute("DELETE FROM ledger.events WHERE position > 7")
    assert await found(ledger) == {(7, "checkpoint")}


async def test_a_tail_cut_off_together_with_its_checkpoints_is_what_only_a_witness_finds(
    ledger: Ledger, owner: psycopg.AsyncConnection
) -> None:
    """The limit of what the bytes alone can show; every verification says so aloud."""
    await disarmed(owner)
    await owner.execute("DELETE FROM ledger.events WHERE position > 7")
    await owner.execute("UPDATE ledger.head SET size = 7, note = (SELECT note FROM ledger.checkpoints WHERE size = 7)")
    result = await verification(ledger)
    assert result.problems == []
    assert any("witness" in warning for warning in result.warnings)


async def test_an_edited_row_of_a_read_model_is_found_by_a_rebuild(
    database_url: str, keystore: FileKeystore, owner: psycopg.AsyncConnection, tmp_path: Path
) -> None:
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 1) as (here,):
        await here.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100), ADM))
        await here.path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=10), ADM))
        await catch_up(database_url, here.ledger)
        assert await unequal(database_url) == []
        edit = "UPDATE read_budgets.budgets SET doc = jsonb_set(doc, '{label}', '\"Mine\"') WHERE id = 'lake'"
        await owner.execute(edit)
        assert await unequal(database_url) == ["budgets.budgets"]
