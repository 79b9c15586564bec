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
from tests.support.forging import Owner, findings, owning, verified
from tests.support.kernel import ADM, ask, catch_up, policies, processes, unequal

pytestmark = pytest.mark.anyio
LAST: Final = 9
TABLES: Final = ("events", "checkpoints", "requests")


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    """Positions 1 to 3 are the founding keys, 4 to 9 two budgets' streams, each event a commit of its own."""
    opened = await open_ledger(database_url, keystore)
    for version in range(3):
        for name in ("a", "b"):
            event = BudgetOpened(budget_id=name, label=f"v{version}", currency="EUR", limit_minor=1)
            await opened.append(Append("acme", "usr-ana", (StreamWrite(f"budget:{name}", version, (event,)),), uuid7()))
    assert (await verified(opened)).problems == []
    yield opened
    await opened.close()


@pytest.fixture
async def owner(ledger: Ledger, database_url: str) -> AsyncIterator[Owner]:
    async with owning(database_url) as owner:
        yield owner


STATEMENTS: Final = (
    "UPDATE ledger.{} SET {} = {}",
    "DELETE FROM ledger.{}",
    "TRUNCATE ledger.{}",
)


@pytest.mark.parametrize("role", ["aureus_app", None])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", STATEMENTS)
async def test_the_database_refuses_to_change_what_was_written(
    ledger: Ledger, database_url: str, role: str | None, table: str, statement: str
) -> None:
    column = {"events": "body", "checkpoints": "note", "requests": "answer"}[table]
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        owner = Owner(connection)
        await owner.run("INSERT INTO ledger.requests VALUES ('acme', 'k', '', '')")
        await owner.run("SET session_replication_role = replica")
        if role is not None:
            await owner.run(f"SET ROLE {role}")
        with pytest.raises(errors.InsufficientPrivilege, match=r"append-only|permission denied"):
            await owner.run(statement.format(table, column, column))
    assert await findings(ledger) == set()


async def test_an_edited_body_is_found(ledger: Ledger, owner: Owner) -> None:
    body, _ = await owner.row(6)
    await owner.run("UPDATE ledger.events SET body = %s WHERE position = 6", body.replace(b'"limit_minor":1', b'"limit_minor":9'))
    assert await findings(ledger) == {(6, "signature"), (8, "chain"), (LAST, "tree")}


async def test_a_deleted_row_is_found(ledger: Ledger, owner: Owner) -> None:
    await owner.run("DELETE FROM ledger.events WHERE position = 6")
    # The row after the hole, position 8, now stands as the seventh.
    assert {(7, "stream"), (LAST - 1, "checkpoint")} <= await findings(ledger)


async def test_two_rows_that_changed_places_are_found(ledger: Ledger, owner: Owner) -> None:
    for old, new in ((6, 60), (7, 6), (60, 7)):
        await owner.run("UPDATE ledger.events SET position = %s WHERE position = %s", new, old)
    assert {(7, "time"), (LAST, "tree")} <= await findings(ledger)


async def test_two_rows_of_one_stream_that_changed_places_are_found(ledger: Ledger, owner: Owner) -> None:
    for old, new in ((6, 60), (8, 6), (60, 8)):
        await owner.run("UPDATE ledger.events SET position = %s WHERE position = %s", new, old)
    assert {(6, "stream"), (8, "stream"), (LAST, "tree")} <= await findings(ledger)


async def test_a_changed_signature_is_found(ledger: Ledger, owner: Owner) -> None:
    _, packed = await owner.row(9)
    (key, signature), *_ = unpack_signatures(packed)
    forged = pack_signature(key, bytes([signature[0] ^ 1]) + signature[1:])
    await owner.run("UPDATE ledger.events SET signatures = %s WHERE position = 9", forged)
    assert await findings(ledger) == {(9, "signature"), (LAST, "tree")}


async def test_a_changed_key_id_is_found(ledger: Ledger, owner: Owner, keystore: FileKeystore) -> None:
    _, packed = await owner.row(9)
    (_, signature), *_ = unpack_signatures(packed)
    forged = pack_signature(keystore.log.key_id, signature)
    await owner.run("UPDATE ledger.events SET signatures = %s WHERE position = 9", forged)
    assert await findings(ledger) == {(9, "key"), (LAST, "tree")}


async def test_a_signature_by_an_unknown_key_is_found(ledger: Ledger, owner: Owner, keystore: FileKeystore) -> None:
    """A forger who rewrites the event, signs it with a key of his own, and mends the leaf."""
    stranger = nacl.signing.SigningKey.generate()
    own = key_id(bytes(stranger.verify_key))
    body, _ = await owner.row(9)
    body = body.replace(keystore.service.key_id.encode(), own.encode())
    packed = pack_signature(own, stranger.sign(signing_input(body)).signature)
    query = "UPDATE ledger.events SET body = %s, signatures = %s, leaf = %s WHERE position = 9"
    await owner.run(query, body, packed, leaf_hash(body))
    problems = (await verified(ledger)).problems
    assert {(problem.position, problem.check) for problem in problems} == {(9, "key"), (LAST, "tree")}
    assert own[:16] in problems[0].found


async def test_a_re_signed_event_by_whoever_holds_the_service_key_is_found(ledger: Ledger, owner: Owner, keystore: FileKeystore) -> None:
    """The signature holds; the tree that the log key signed does not."""
    body, _ = await owner.row(9)
    body = body.replace(b'"limit_minor":1', b'"limit_minor":9')
    packed = pack_signature(keystore.service.key_id, keystore.service.sign(signing_input(body)))
    await owner.run("UPDATE ledger.events SET body = %s, signatures = %s WHERE position = 9", body, packed)
    assert await findings(ledger) == {(LAST, "tree")}


async def test_a_truncated_tail_is_found(ledger: Ledger, owner: Owner) -> None:
    await owner.run("DELETE FROM ledger.events WHERE position > 7")
    assert await findings(ledger) == {(7, "checkpoint")}


async def test_a_tail_cut_off_together_with_its_checkpoints_is_what_only_a_witness_finds(ledger: Ledger, owner: Owner) -> None:
    """The limit of what the bytes alone can show; every verification says so aloud. A checkpoint that somebody kept shows it."""
    kept = ledger.head.note
    await owner.run("DELETE FROM ledger.events WHERE position > 7")
    await owner.run("UPDATE ledger.head SET size = 7, note = (SELECT note FROM ledger.checkpoints WHERE size = 7)")
    result = await verified(ledger)
    assert result.problems == []
    assert any("witness" in warning for warning in result.warnings)
    assert await findings(ledger, kept) == {(7, "history")}


async def test_an_edited_row_of_a_read_model_is_found_by_a_rebuild(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 1) as (here,):
        await here.path.handle(ask(OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=100), ADM))
        await here.path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=10), ADM))
        await catch_up(database_url, here.ledger)
        assert await unequal(database_url) == []
        edit = "UPDATE read_budgets.budgets SET doc = jsonb_set(doc, '{label}', '\"Mine\"') WHERE id = 'lake'"
        async with owning(database_url) as owner:
            await owner.run(edit)
        assert await unequal(database_url) == ["budgets.budgets"]
