"""Attacks on the past as a whole, by an operator who holds every key: cut off, forked, restored. Only what others kept can tell."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
import pytest

from domain.budgets import BudgetOpened
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.opening import open_ledger
from infra.verifier.trust import Trust
from tests.support.forging import Operator, findings, owning, verified
from tests.support.witness import WitnessProcess, request
from tests.test_witnessing import ORIGINS, Watched, place, watched, watched_logs

pytestmark = pytest.mark.anyio
SEEN: Final = 7
"""How many events the witnesses and the auditor saw: the founding keys, and four that the operator would like to be rid of."""
_fresh: Final = count()


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> FileKeystore:
    return FileKeystore.open(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def witness_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


@pytest.fixture(scope="module")
def witness(witness_home: Path, keystore: FileKeystore) -> Iterator[WitnessProcess]:
    process = WitnessProcess(witness_home, watched_logs(keystore))
    yield process
    assert process.stop() == ""


@pytest.fixture
def origin() -> str:
    return ORIGINS[next(_fresh)]


@pytest.fixture
async def seen(database_url: str, keystore: FileKeystore, origin: str, witness: WitnessProcess) -> bytes:
    """The checkpoint that the witness cosigned, as the auditor kept it."""
    async with watched(database_url, keystore, origin, [place(witness)]) as here:
        await here.append(SEEN - here.ledger.head.size)
        return await here.witnessed(SEEN)


@pytest.fixture
def auditor(origin: str, keystore: FileKeystore, witness: WitnessProcess, seen: bytes) -> Trust:
    """What somebody was told who does not take the operator's word: a root key, and a witness, which has seen the ledger."""
    return Trust(origin, (keystore.root.key_id,), (witness.verifier,), 1)


@asynccontextmanager
async def operating(dsn: str, keystore: FileKeystore, origin: str) -> AsyncIterator[tuple[Watched, Operator]]:
    """The operator at work, without the witness."""
    async with watched(dsn, keystore, origin) as here, owning(dsn) as owner:
        yield here, Operator(owner.connection, origin, keystore, keystore.log)


@asynccontextmanager
async def copied(postgres_url: str, dsn: str) -> AsyncIterator[str]:
    """A copy of a database that nobody uses at the moment: a backup, or a second set of books."""
    name = dsn.rpartition("/")[2].partition("?")[0]
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as server:
        await server.execute(f'CREATE DATABASE "{name}_copy" TEMPLATE "{name}"'.encode())
        yield dsn.replace(name, f"{name}_copy")
        await server.execute(f'DROP DATABASE "{name}_copy" WITH (FORCE)'.encode())


def forks_of(origin: str, witness_home: Path) -> list[dict[str, str]]:
    """What a witness keeps of trees that contradict what it cosigned."""
    return [json.loads(path.read_bytes()) for path in witness_home.glob("evidence/*/fork-*") if origin in path.read_text()]


async def test_a_tail_cut_off_with_the_log_key_is_found_by_whoever_kept_a_checkpoint_or_trusts_a_witness(
    database_url: str, keystore: FileKeystore, origin: str, witness: WitnessProcess, seen: bytes, auditor: Trust
) -> None:
    async with operating(database_url, keystore, origin) as (here, operator):
        await operator.run("DELETE FROM ledger.events WHERE position > 5")
        await operator.run("DELETE FROM ledger.cosignatures")
        await operator.sign_tree()
        assert await findings(here.ledger) == set()
        assert await findings(here.ledger, seen) == {(5, "history")}
        result = await verified(here.ledger, auditor)
        assert [(problem.check, result.cosigned) for problem in result.problems] == [("witness", [])]
        note = (await here.ledger.refresh()).note
        answer = witness.add(request(0, [], note))
        assert (answer.status_code, answer.text) == (409, f"{SEEN}\n")


async def test_a_fork_is_found_by_two_who_compare_and_by_the_witness_who_keeps_the_evidence(
    database_url: str, postgres_url: str, keystore: FileKeystore, origin: str, witness: WitnessProcess, witness_home: Path, auditor: Trust
) -> None:
    """One set of books for the auditor, one for everybody else. Each holds for itself."""
    async with copied(postgres_url, database_url) as second:
        async with operating(database_url, keystore, origin) as (genuine, _):
            first_note = (await genuine.ledger.refresh()).note
            assert (await verified(genuine.ledger, auditor)).problems == []
        async with operating(second, keystore, origin) as (here, operator):
            await operator.rewrite(SEEN, lambda body: body.replace(b'"limit_minor":1', b'"limit_minor":9'))
            assert await findings(here.ledger) == set()
            assert await findings(here.ledger, first_note) == {(SEEN, "history")}
            assert {problem.check for problem in (await verified(here.ledger, auditor)).problems} == {"witness"}
            second_note = (await here.ledger.refresh()).note
    assert witness.add(request(SEEN, [], second_note)).status_code == 422
    evidence = forks_of(origin, witness_home)[0]
    assert evidence["submitted"].endswith(second_note.decode())
    assert first_note.decode().partition("\n\n")[0] in evidence["cosigned"]


async def test_two_histories_for_two_witnesses_satisfy_nobody_who_asks_for_both(
    database_url: str, postgres_url: str, keystore: FileKeystore, origin: str, witness: WitnessProcess, seen: bytes, tmp_path: Path
) -> None:
    other = WitnessProcess(tmp_path / "other", watched_logs(keystore))
    both = Trust(origin, (keystore.root.key_id,), (witness.verifier, other.verifier), 2)
    async with copied(postgres_url, database_url) as second:
        async with operating(second, keystore, origin) as (_, operator):
            await operator.run("DELETE FROM ledger.cosignatures")
            await operator.rewrite(SEEN, lambda body: body.replace(b'"limit_minor":1', b'"limit_minor":9'))
        async with watched(second, keystore, origin, [place(other)]) as here:
            await here.witnessed(SEEN)
            shown = await verified(here.ledger, both)
            assert [cosigned.witness for cosigned in shown.cosigned] == [other.verifier.name]
            assert {problem.check for problem in shown.problems} == {"witness"}
    other.stop()


async def test_a_backup_that_is_restored_and_written_to_is_found_by_whoever_kept_a_checkpoint_or_trusts_a_witness(
    database_url: str, postgres_url: str, keystore: FileKeystore, origin: str, witness: WitnessProcess, seen: bytes, auditor: Trust
) -> None:
    """No key is misused: an honest server goes on from an old backup. With its witness at hand it does not."""
    async with copied(postgres_url, database_url) as backup:
        async with watched(database_url, keystore, origin, [place(witness)]) as here:
            await here.append(2)
            kept = await here.witnessed(SEEN + 2)
        async with operating(backup, keystore, origin) as (restored, _):
            await restored.append(3)
            assert await findings(restored.ledger) == set()
            assert await findings(restored.ledger, kept) == {(SEEN + 2, "history")}
            assert {problem.check for problem in (await verified(restored.ledger, auditor)).problems} == {"witness"}
        async with watched(backup, keystore, origin, [place(witness)]) as again:
            await again.refused("ledger_forked")


async def test_a_clock_that_is_set_back_dates_nothing_back(database_url: str, keystore: FileKeystore, origin: str) -> None:
    """The ledger's time never falls; a later time than it is shows in the cosignatures and timestamps of others."""
    async with watched(database_url, keystore, origin) as here:
        await here.append()
        before = (await here.ledger.read(0, 10))[-1].at
    set_back = await open_ledger(database_url, keystore, clock=lambda: datetime(2020, 1, 1, tzinfo=UTC))
    event = BudgetOpened(budget_id="late", label="Late", currency="EUR", limit_minor=1)
    receipt = await set_back.append(Append("acme", "usr-ana", (StreamWrite("budget:late", 0, (event,)),), uuid7()))
    assert receipt.at == before
    assert await findings(set_back) == set()
    await set_back.close()
