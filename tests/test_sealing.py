"""Sealing with a helper on another core: the same bytes for everybody to verify, and no harm done when it is slow or dead."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.budgets import BudgetOpened
from domain.ledger import Append, Conflict, StreamWrite
from domain.values import uuid7
from infra.envelope import entry_bytes
from infra.key_files import FileSigner
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_memory_ledger
from infra.sealing import SHARE_FROM_EVENTS, Sealer, Signers
from infra.sealing_helper import ProcessHelper
from infra.verifier.ledger import Verifier

pytestmark = pytest.mark.anyio
OPENED = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
EVENTS = 3 * SHARE_FROM_EVENTS
START_SECONDS_MAX = 30.0


@pytest.fixture
async def helped(tmp_path: Path) -> AsyncIterator[tuple[Ledger, ProcessHelper]]:
    """A ledger in memory whose helper is up."""
    keystore = FileKeystore.open(tmp_path / "keys")
    ledger = await open_memory_ledger(keystore)
    service = keystore.service
    assert isinstance(service, FileSigner)
    helper = ProcessHelper(service)
    ledger.sealer = Sealer(ledger.name, Signers(keystore.log, keystore.service), lambda _: helper)
    deadline = time.monotonic() + START_SECONDS_MAX
    while not helper.up:
        assert time.monotonic() < deadline, "the helper did not start"
        await asyncio.sleep(0.02)
    yield ledger, helper
    await ledger.close()


async def append_many(ledger: Ledger, name: str) -> list[object]:
    """Many small appends that come at once, some for one stream, one of them on a wrong version."""
    appends = [Append("acme", "usr-ana", (StreamWrite(f"budget:{name}-{number}", 0, (OPENED,)),), uuid7()) for number in range(EVENTS)]
    appends += [Append("acme", "usr-ana", (StreamWrite(f"budget:{name}-0", version, (OPENED, OPENED)),), uuid7()) for version in (1, 3, 9)]
    return await asyncio.gather(*(ledger.append(append) for append in appends), return_exceptions=True)


async def problems(ledger: Ledger) -> list[object]:
    verifier = Verifier()
    verifier.add(entry_bytes(event.body, event.signatures) for event in await ledger.entries(0, 10_000))
    return list(verifier.finish(await ledger.store.note()).problems)


async def test_what_two_sealed_verifies_as_if_one_had(helped: tuple[Ledger, ProcessHelper]) -> None:
    ledger, helper = helped
    outcomes = await append_many(ledger, "a")
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)] == [Conflict]
    assert helper.up, "it was not asked, or did not answer"
    assert await problems(ledger) == []
    chain = await ledger.read_stream("acme", "budget:a-0")
    assert [event.version for event in chain] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_helper_that_is_dead_or_hangs_costs_time_and_nothing_else(
    helped: tuple[Ledger, ProcessHelper], how: signal.Signals
) -> None:
    ledger, helper = helped
    os.kill(helper.pid, how)
    outcomes = await append_many(ledger, "b")
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)] == [Conflict]
    assert not helper.up
    assert await problems(ledger) == []
