"""Timestamps: a real authority stamps checkpoints, other people's tools agree, and no other answer is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from domain.budgets import BudgetOpened
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.settings import Settings, SettingsError, TimestampPlace
from infra.tasks import ended
from infra.timestamps import Authority, NotStamped, Timestamping
from infra.verifier.notes import parse_note
from tests.support.tsa import Tsa
from tests.support.witness import until

pytestmark = pytest.mark.anyio
TEXT = b"ledger.example/l\n5\nAAAA\n"


@pytest.fixture
def tsa(tmp_path: Path) -> Iterator[Tsa]:
    authority = Tsa(tmp_path / "tsa")
    yield authority
    authority.close()


@pytest.fixture
async def ledger(database_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    yield opened
    await opened.close()


async def stamped(text: bytes, place: TimestampPlace) -> tuple[bytes, datetime]:
    authority = Authority(place)
    try:
        return await authority.stamp(text)
    finally:
        await authority.close()


async def test_openssl_agrees_with_a_token(tsa: Tsa) -> None:
    token, at = await stamped(TEXT, TimestampPlace(tsa.url, tsa.roots, 3_600))
    assert abs(at - datetime.now(UTC)) < timedelta(seconds=10)
    assert tsa.verified(token, TEXT)
    assert not tsa.verified(token, TEXT.replace(b"5", b"6"))


async def test_an_answer_that_does_not_hold_is_not_taken(tsa: Tsa, tmp_path: Path) -> None:
    place = TimestampPlace(tsa.url, tsa.roots, 3_600)
    first, _ = await stamped(TEXT, place)
    for tsa.answer in (first, first[:-1] + bytes([first[-1] ^ 1]), b"", b"garbage", first[:100], b"x" * 100_000):
        with pytest.raises(NotStamped):
            await stamped(TEXT, place)
    tsa.answer = None
    others = Tsa(tmp_path / "others")
    with pytest.raises(NotStamped, match="does not hold"):
        await stamped(TEXT, TimestampPlace(tsa.url, others.roots, 3_600))
    others.close()


async def test_a_growing_ledger_is_stamped_once_an_interval(ledger: Ledger, tsa: Tsa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.timestamps.LOOK_SECONDS", 0.02)
    ahead = timedelta()
    stamping = Timestamping(ledger, TimestampPlace(tsa.url, tsa.roots, 3_600), clock=lambda: datetime.now(UTC) + ahead)
    running = asyncio.create_task(stamping.run())

    async def appended() -> int:
        event = BudgetOpened(budget_id="b", label="b", currency="EUR", limit_minor=1)
        receipt = await ledger.append(Append("acme", "usr-ana", (StreamWrite(f"budget:{uuid7()}", 0, (event,)),), uuid7()))
        return receipt.last_position

    async def is_stamped() -> bool:
        return bool(await ledger.store.stamps(ledger.head.size))

    async def complains() -> bool:
        return stamping.last_error is not None

    await until(is_stamped)
    last = await appended()
    await asyncio.sleep(0.3)
    assert not await is_stamped()  # the hour is not over
    ahead = timedelta(hours=2)
    await until(is_stamped)
    (stamp,) = await ledger.store.stamps(last)
    note = await ledger.store.note(last)
    assert note is not None
    assert tsa.verified(stamp.token, parse_note(note).text)
    ahead = timedelta(hours=4)
    await asyncio.sleep(0.3)
    assert (tsa.asked, stamping.last_error) == (2, None)  # it did not grow
    tsa.answer = b""
    await appended()
    await until(complains)
    assert "does not hold" in (stamping.last_error or "")
    await ended(running)
    await stamping.authority.close()


def test_an_authority_needs_somebody_to_vouch_for_it(tmp_path: Path) -> None:
    def found(**environment: str) -> Settings:
        return Settings.from_environment({"AUREUS_HOME": str(tmp_path), "AUREUS_TSA_URL": "http://tsa.example.org/tsr", **environment})

    empty = tmp_path / "roots.pem"
    empty.touch()
    place = found(AUREUS_TSA_CERTIFICATES=str(empty)).timestamps
    assert place == TimestampPlace("http://tsa.example.org/tsr", empty, 3_600)
    with pytest.raises(SettingsError, match="holds no certificate"):
        Authority(place)
    for field, environment in (
        ("AUREUS_TSA_CERTIFICATES", {}),
        ("AUREUS_TSA_CERTIFICATES", {"AUREUS_TSA_CERTIFICATES": str(tmp_path / "missing")}),
        ("AUREUS_TSA_URL", {"AUREUS_TSA_CERTIFICATES": str(empty), "AUREUS_TSA_URL": "ftp://tsa.example.org"}),
        ("AUREUS_TSA_INTERVAL_SECONDS", {"AUREUS_TSA_CERTIFICATES": str(empty), "AUREUS_TSA_INTERVAL_SECONDS": "0"}),
    ):
        with pytest.raises(SettingsError) as refused:
            found(**environment)
        assert refused.value.field == field
