"""A ledger with a queue of deliveries beside it, and couriers at work on it, for the tests of webhooks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from commands.notifications import AddWebhook, Notify
from domain.kernel import Command
from infra.keystore import FileKeystore
from infra.sealed_secrets import secret_digest
from infra.tasks import ended
from infra.webhooks import HttpWebhooks, Standing, WebhookStore
from streams.notifications import Courier, Patience
from tests.support.kernel import ADM, Process, ask, catch_up, policies, processes

HASTE: Final = Patience(tries=4, first_seconds=0.01, longest_seconds=0.05)


@asynccontextmanager
async def port(answer_seconds: float = 5, tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpWebhooks]:
    opened = HttpWebhooks(answer_seconds=answer_seconds, tls=tls)
    try:
        yield opened
    finally:
        await opened.close()


class Office:
    """A ledger with its read models, and a queue of deliveries beside it."""

    def __init__(self, dsn: str, keystore: FileKeystore, process: Process, store: WebhookStore) -> None:
        self.dsn, self.store, self.ledger = dsn, store, process.ledger
        self._keks, self._path = keystore.key_encryption_keys(), process.path

    async def do(self, command: Command, by: Any = ADM) -> None:
        outcome = await self._path.handle(ask(command, by))
        assert outcome.outcome == "allowed", outcome.message
        await catch_up(self.dsn, self.ledger)

    async def webhook(self, webhook_id: str, url: str, *kinds: str) -> str:
        """Adds one; answers its secret."""
        secret = await self.store.secret("acme", webhook_id)
        await self.do(AddWebhook(webhook_id=webhook_id, url=url, kinds=kinds, secret_sha256=secret_digest(secret)))
        return secret

    async def tell(self, notification_id: str, kind: str = "message") -> None:
        await self.do(Notify(notification_id=notification_id, recipient="usr-ana", kind=kind, subject=f"About {notification_id}"))

    @asynccontextmanager
    async def another_store(self) -> AsyncIterator[WebhookStore]:
        """The queue as another process, or the next start, sees it."""
        store = WebhookStore(self.dsn, self._keks)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def standing(self, webhook_id: str) -> dict[str, Standing]:
        return {standing.notification_id: standing for standing in await self.store.latest("acme", webhook_id, 100)}

    async def states(self, webhook_id: str) -> dict[str, tuple[str, int]]:
        """How the deliveries to a webhook stand, and how often each was tried."""
        return {each: (standing.state, standing.tries) for each, standing in (await self.standing(webhook_id)).items()}

    async def execute(self, statement: str) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(statement.encode())


@asynccontextmanager
async def office_of(database_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    """Everything on this database, with keys of its own."""
    keystore = FileKeystore.open(tmp_path / "keys")
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 1) as (process,):
        await catch_up(database_url, process.ledger)
        store = WebhookStore(database_url, keystore.key_encryption_keys())
        await store.open()
        yield Office(database_url, keystore, process, store)
        await store.close()


@asynccontextmanager
async def delivering(store: WebhookStore, *, answer_seconds: float = 5, patience: Patience = HASTE) -> AsyncIterator[None]:
    """A courier at work, as a process runs it."""
    async with port(answer_seconds) as webhooks:
        running = asyncio.create_task(Courier(store, webhooks, patience, poll_seconds=0.02).run())
        try:
            yield
        finally:
            await ended(running)


async def until(true: Callable[[], Any]) -> None:
    """Waits until something holds."""
    for _ in range(1_000):
        found = true()
        if await found if asyncio.iscoroutine(found) else found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not come to that")


async def settled(office: Office, webhook_id: str, *expected: str) -> None:
    """Waits until these notifications are no longer pending."""

    async def all_of_them() -> bool:
        states = await office.states(webhook_id)
        return all(states.get(each, ("pending", 0))[0] != "pending" for each in expected)

    await until(all_of_them)
