"""Carrying again what a receiver would not take: by order of an administrator, once per order; and secrets that overlap meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from commands.notifications import WEBHOOKS, Redeliver, RotateWebhookSecret
from domain.notifications import RedeliveryOrdered, WebhookAdded, WebhookRemoved, WebhookSecretRotated
from infra.sealed_secrets import secret_digest
from infra.webhooks import signature
from streams.notifications import Patience
from tests.given import ADMIN, AT, given
from tests.support.receiver import receiver, verified
from tests.support.webhooks import Office, delivering, office_of, settled, until

pytestmark = pytest.mark.anyio
ADDED = WebhookAdded(webhook_id="siem", url="https://siem.example.org/aureus", secret_sha256="ab" * 32)
REMOVED = WebhookRemoved(webhook_id="siem")
SPENT = Patience(tries=1)


def test_what_is_to_be_carried_again_is_named_or_dated() -> None:
    given(WEBHOOKS, ADDED).by(ADMIN).when(Redeliver(webhook_id="siem", since=AT)).then(RedeliveryOrdered(webhook_id="siem", since=AT))
    both = Redeliver(webhook_id="siem", notification_ids=("n1",), since=AT)
    given(WEBHOOKS, ADDED).by(ADMIN).when(both).refused("redelivery_said_twice", field="since")
    for history in ((), (ADDED, REMOVED)):
        given(WEBHOOKS, *history).by(ADMIN).when(Redeliver(webhook_id="siem")).refused("webhook_not_found", field="webhook_id")


def test_a_secret_is_rotated_once_and_not_for_ever() -> None:
    rotate = RotateWebhookSecret(webhook_id="siem", secret_sha256="cd" * 32, overlap="PT0S")
    rotated = WebhookSecretRotated(webhook_id="siem", secret_sha256="cd" * 32, old_until=AT)
    given(WEBHOOKS, ADDED).by(ADMIN).when(rotate).then(rotated)
    given(WEBHOOKS, ADDED, rotated).by(ADMIN).when(rotate).then()
    given(WEBHOOKS, ADDED).by(ADMIN).when(rotate.model_copy(update={"overlap": "P31D"})).refused("overlap_too_long", field="overlap")
    given(WEBHOOKS, ADDED, REMOVED).by(ADMIN).when(rotate).refused("webhook_not_found", field="webhook_id")


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    async with office_of(database_url, tmp_path) as opened:
        yield opened


async def come_to(office: Office, **expected: tuple[str, int]) -> None:
    """Waits until deliveries stand so, after so many tries."""

    async def so() -> bool:
        return expected.items() <= (await office.states("siem")).items()

    await until(so)


async def test_what_was_given_up_is_carried_again_by_order(office: Office) -> None:
    async with receiver(500, 500, 500, 204) as siem:
        await office.webhook("siem", siem.url)
        async with delivering(office.store, patience=SPENT):
            for number in range(3):
                await office.tell(f"n{number}")
            await settled(office, "siem", "n0", "n1", "n2")
            assert set((await office.states("siem")).values()) == {("failed", 1)}
            await office.do(Redeliver(webhook_id="siem", notification_ids=("n1",)))
            await come_to(office, n1=("delivered", 1))
            await office.do(Redeliver(webhook_id="siem"))
            await come_to(office, **dict.fromkeys(("n0", "n1", "n2"), ("delivered", 1)))
    assert sorted(each.id for each in siem.received) == ["n0", "n0", "n1", "n1", "n2", "n2"], "what had arrived is not carried again"


async def test_what_was_given_up_since_a_time_is_carried_again(office: Office) -> None:
    async with receiver(500, 500, 204) as siem:
        await office.webhook("siem", siem.url)
        async with delivering(office.store, patience=SPENT):
            await office.tell("early")
            await settled(office, "siem", "early")
            between = datetime.now(UTC)
            await office.tell("late")
            await settled(office, "siem", "late")
            await office.do(Redeliver(webhook_id="siem", since=between))
            await come_to(office, early=("failed", 1), late=("delivered", 1))


async def test_an_order_is_carried_out_once_whoever_restarts(office: Office) -> None:
    async with receiver(500) as siem:
        await office.webhook("siem", siem.url)
        async with delivering(office.store, patience=SPENT):
            await office.tell("n1")
            await settled(office, "siem", "n1")
            await office.do(Redeliver(webhook_id="siem"))
            await until(lambda: len(siem.received) == 2)
            await settled(office, "siem", "n1")
        async with office.another_store() as other:
            await other.fill()
            assert await other.claim(10) == []


async def test_an_hour_of_failures_costs_few_tries_and_loses_nothing() -> None:
    """With the pauses that are set: how often a receiver that answers 500 for an hour is asked meanwhile."""
    patience, waited, tries = Patience(), 0.0, 0
    while waited < 3_600:
        tries += 1
        waited += patience.pause_seconds(tries)
    assert 5 <= tries < patience.tries


async def test_while_secrets_overlap_a_receiver_may_know_either(office: Office) -> None:
    async with receiver() as siem, delivering(office.store):
        old = await office.webhook("siem", siem.url)
        new = await office.store.secret("acme", "siem", 1)
        await office.do(RotateWebhookSecret(webhook_id="siem", secret_sha256=secret_digest(new), overlap="PT1H"))
        await office.tell("n1")
        await settled(office, "siem", "n1")
        newest = await office.store.secret("acme", "siem", 2)
        await office.do(RotateWebhookSecret(webhook_id="siem", secret_sha256=secret_digest(newest), overlap="PT0S"))
        await office.tell("n2")
        await settled(office, "siem", "n2")
    first, second = siem.received
    signatures = first.headers["webhook-signature"].split()
    signed_by = [signature(each, first.id, int(first.headers["webhook-timestamp"]), first.body) for each in (new, old)]
    assert signatures == signed_by
    assert verified(second, newest)["data"]["notification_id"] == "n2"
