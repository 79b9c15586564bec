"""The schema is set up once: whoever starts after that takes no lock, and an upgrade gives way to appends."""

import asyncio
from uuid import uuid4

import psycopg
import pytest

from domain.budgets import BudgetOpened
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.opening import open_ledger
from infra.schema import create_schema

pytestmark = [pytest.mark.anyio, pytest.mark.postgres15]
OLDER = "COMMENT ON SCHEMA ledger IS 'Aureus, an older one'"


async def test_who_starts_beside_a_busy_server_waits_for_nobody(database_url: str) -> None:
    await create_schema(database_url)
    async with await psycopg.AsyncConnection.connect(database_url) as busy:
        await busy.execute("LOCK TABLE ledger.head, ledger.events IN ROW EXCLUSIVE MODE")
        async with asyncio.timeout(5):
            await create_schema(database_url)


async def test_an_upgrade_waits_its_turn_and_then_takes_place(database_url: str) -> None:
    await create_schema(database_url)
    async with await psycopg.AsyncConnection.connect(database_url) as busy:
        await busy.execute(OLDER)
        await busy.execute("DROP TRIGGER one_head ON ledger.head")
        await busy.commit()
        await busy.execute("LOCK TABLE ledger.events IN ROW EXCLUSIVE MODE")
        upgrade = asyncio.create_task(create_schema(database_url))
        await asyncio.sleep(1)
        assert not upgrade.done()
        await busy.commit()
        async with asyncio.timeout(10):
            await upgrade
        triggers = await (await busy.execute("SELECT count(*) FROM pg_trigger WHERE tgname = 'one_head'")).fetchone()
    assert triggers == (1,)


async def test_no_append_is_the_victim_of_an_upgrade(database_url: str, keystore: FileKeystore) -> None:
    ledger = await open_ledger(database_url, keystore)

    async def appending() -> int:
        appended = 0
        while not over.is_set():
            event = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
            await ledger.append(Append("acme", "usr-ana", (StreamWrite(f"budget:{uuid4().hex}", 0, (event,)),), uuid7()))
            appended += 1
        return appended

    over = asyncio.Event()
    writers = [asyncio.create_task(appending()) for _ in range(8)]
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        for _ in range(5):
            await owner.execute(OLDER)
            await create_schema(database_url)
            await asyncio.sleep(0.1)
    over.set()
    assert all(appended > 0 for appended in await asyncio.gather(*writers))
    await ledger.close()
