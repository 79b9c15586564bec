"""The ledger's promises, held by memory and PostgreSQL alike: gapless, all or nothing, each command its own fate."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer._key import SSlibKey

from domain.budgets import BudgetOpened, FundsReserved
from domain.kernel import Event
from domain.ledger import AlreadyAnswered, Append, Conflict, EventTooLarge, LedgerUnavailable, Remember, StreamWrite
from domain.values import uuid7
from infra.canonical import ProfileError
from infra.envelope import entry_bytes
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.memory_store import MemoryStore
from infra.opening import open_ledger, open_memory_ledger
from infra.verifier.ledger import Verifier
from tests.support.kernel import opened

pytestmark = pytest.mark.anyio
OPENED = BudgetOpened(budget_id="lake", label="Läke", currency="EUR", limit_minor=100)


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres15)])
async def ledger(request: pytest.FixtureRequest, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        opened = await open_memory_ledger(keystore)
    else:
        opened = await open_ledger(request.getfixturevalue("database_url"), keystore)
    yield opened
    await opened.close()


def write(stream: str, expected: int, *events: Event, key: str | None = None) -> Append:
    remember = Remember(key, b"digest", lambda first: f"first {first}".encode()) if key else None
    return Append("acme", "usr-ana", (StreamWrite(stream, expected, events),), uuid7(), remember=remember)


async def verified(ledger: Ledger) -> Verifier:
    verifier = Verifier()
    verifier.add(entry_bytes(event.body, event.signatures) for event in await ledger.entries(0, 100_000))
    verifier.finish(await ledger.store.note())
    return verifier


async def test_an_append_is_read_back_signed_and_chained(ledger: Ledger) -> None:
    receipt = await ledger.append(write("budget:lake", 0, OPENED, OPENED))
    assert receipt.last_position == receipt.first_position + 1 == ledger.head.size
    events = await ledger.read_stream("acme", "budget:lake")
    assert [(event.version, event.position, event.event) for event in events] == [
        (1, receipt.first_position, OPENED),
        (2, receipt.last_position, OPENED),
    ]
    assert (await verified(ledger)).result.problems == []


async def test_a_wrong_expected_version_is_a_conflict_that_names_both(ledger: Ledger) -> None:
    await ledger.append(write("budget:lake", 0, OPENED))
    with pytest.raises(Conflict) as conflict:
        await ledger.append(write("budget:lake", 0, OPENED))
    assert (conflict.value.expected, conflict.value.actual) == (0, 1)


async def test_in_one_commit_a_conflict_fails_alone(ledger: Ledger) -> None:
    appends = [write("budget:lake", 0, OPENED), write("budget:lake", 0, OPENED), write("budget:pond", 0, OPENED)]
    outcomes = await asyncio.gather(*(ledger.append(append) for append in appends), return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Receipt", "Conflict", "Receipt"]
    assert ledger.head.size == 3 + 2


async def test_an_append_over_several_streams_is_all_or_nothing(ledger: Ledger) -> None:
    await ledger.append(write("budget:b", 0, OPENED))
    both = Append("acme", "usr-ana", (StreamWrite("budget:a", 0, (OPENED,)), StreamWrite("budget:b", 0, (OPENED,))), uuid7())
    with pytest.raises(Conflict):
        await ledger.append(both)
    assert await ledger.read_stream("acme", "budget:a") == []


async def test_what_a_decision_read_must_still_hold(ledger: Ledger) -> None:
    await ledger.append(write("budget:lake", 0, OPENED))
    relying = Append("acme", "usr-ana", (StreamWrite("budget:b", 0, (OPENED,)),), uuid7(), reads=((("acme", "budget:lake"), 0),))
    with pytest.raises(Conflict):
        await ledger.append(relying)


async def test_an_idempotency_key_is_taken_once_however_many_come_at_once(ledger: Ledger) -> None:
    appends = [ledger.append(write(f"budget:{number}", 0, OPENED, key="once")) for number in range(20)]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {AlreadyAnswered}
    with pytest.raises(AlreadyAnswered):
        await ledger.append(write("budget:later", 0, OPENED, key="once"))
    assert await ledger.remembered("acme", "once") == (b"digest", b"first 4")


async def test_positions_are_gapless_under_many_writers(ledger: Ledger) -> None:
    async def writer(number: int) -> None:
        for version in range(15):
            await ledger.append(write(f"budget:{number}", version, OPENED))

    await asyncio.gather(*(writer(number) for number in range(16)))
    positions = [event.position for event in await ledger.read(0, 1_000)]
    assert positions == list(range(1, 3 + 16 * 15 + 1))
    assert (await verified(ledger)).result.problems == []


async def test_an_event_that_is_too_large_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    size = ledger.head.size
    huge = FundsReserved(budget_id="lake", reservation_id="r", amount_minor=1, path=("x" * 200,) * 300)
    with pytest.raises(EventTooLarge, match="65535"):
        await ledger.append(write("budget:lake", 0, huge))
    assert ledger.head.size == size


async def test_text_that_is_not_nfc_is_refused_with_its_field(ledger: Ledger) -> None:
    with pytest.raises(ProfileError, match="label"):
        await ledger.append(write("budget:lake", 0, OPENED.model_copy(update={"label": "e\u0301"})))


async def test_an_id_that_would_need_escaping_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="opaque id"):
        await ledger.append(write('budget:"quoted"', 0, OPENED))


async def test_the_largest_event_that_is_taken_fits_an_entry(ledger: Ledger) -> None:
    path = tuple(f"p{index:03}" + "x" * 190 for index in range(235))
    await ledger.append(write("budget:lake", 0, FundsReserved(budget_id="lake", reservation_id="r", amount_minor=1, path=path)))
    stored = (await ledger.entries(3, 1))[0]
    assert 60_000 < len(entry_bytes(stored.body, stored.signatures)) <= 65_535


async def test_a_stranger_verifies_the_signature_and_the_checkpoint(ledger: Ledger, keystore: FileKeystore) -> None:
    await ledger.append(write("budget:lake", 0, OPENED))
    stored = (await ledger.entries(3, 1))[0]
    envelope = Envelope.from_dict(json.loads(entry_bytes(stored.body, stored.signatures)))
    key = SSlibKey(keystore.service.key_id, "ed25519", "ed25519", {"public": keystore.service.public.hex()})
    assert envelope.verify([key], 1)
    note = await ledger.store.note()
    assert note is not None
    assert opened(note, ledger.name, keystore.log.public).size == 4


async def test_times_never_fall_and_lead_to_positions(ledger: Ledger) -> None:
    await ledger.append(write("budget:a", 0, OPENED))
    await ledger.append(write("budget:b", 0, OPENED))
    events = await ledger.read(0, 10)
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert await ledger.store.position_at(events[3].at) in (4, 5)
    assert await ledger.store.position_at(events[0].at.replace(year=2020)) == 0


async def test_correlation_and_causation_are_kept(ledger: Ledger) -> None:
    correlation, causation = uuid7(), uuid7()
    await ledger.append(Append("acme", "usr-ana", (StreamWrite("budget:a", 0, (OPENED,)),), correlation, causation))
    event = (await ledger.read_stream("acme", "budget:a"))[0]
    assert (event.correlation, event.causation) == (correlation, causation)
    assert isinstance(event.id, UUID)


@pytest.mark.parametrize("change", [{"stream": "budget:other"}, {"version": 7}, {"tenant": "others"}, {"type": "budgets.budget_closed"}])
async def test_a_row_whose_columns_are_not_what_was_signed_is_used_by_nobody(keystore: FileKeystore, change: dict[str, Any]) -> None:
    store_of = (ledger := await open_memory_ledger(keystore)).store
    assert isinstance(store_of, MemoryStore)
    await ledger.append(write("budget:lake", 0, OPENED))
    store_of.events[3] = replace(store_of.events[3], **change)
    for read in (ledger.read(0, 10), ledger.entries(0, 10)):
        with pytest.raises(LedgerUnavailable, match="position 4"):
            await read
    await ledger.close()


@pytest.mark.postgres15
async def test_the_version_that_a_stream_had_is_found_by_position(database_url: str, keystore: FileKeystore) -> None:
    opened = await open_ledger(database_url, keystore)
    written: list[tuple[str, int]] = []
    for number in range(40):
        stream = f"budget:{'lake' if number % 3 else 'sea'}"
        version = sum(known == stream for known, _ in written)
        receipt = await opened.append(write(stream, version, OPENED))
        written.append((stream, receipt.first_position))
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for stream in ("budget:lake", "budget:sea", "budget:nowhere"):
            for position in range(opened.head.size + 2):
                row = await (await connection.execute("SELECT ledger.version_at('acme', %s, %s)", (stream, position))).fetchone()
                had = sum(known == stream and at <= position for known, at in written)
                assert row == (had or None,), (stream, position)
    await opened.close()
