"""One realistic sample of every event about hooks, and of what became newer about webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from domain import hooks, notifications
from domain.kernel import Event

LATER: Final = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
SHA: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def hook_samples() -> Iterator[Event]:
    yield hooks.HookAdded(
        hook_id="dbt",
        label="dbt finished",
        acts_as="svc-dbt",
        scheme="standard",
        command="catalog.record_refresh",
        fields={"dataset_id": "/data/models/0", "refreshed_at": "/data/finishedAt"},
        constants={"row_count": 7},
        only_when={"/eventType": "job.run.completed"},
        secret_sha256=SHA,
    )
    yield hooks.HookSecretRotated(hook_id="dbt", secret_sha256=SHA, old_until=LATER)
    yield hooks.HookRemoved(hook_id="dbt")
    yield notifications.WebhookSecretRotated(webhook_id="siem", secret_sha256=SHA, old_until=LATER)
    yield notifications.RedeliveryOrdered(webhook_id="siem", notification_ids=("ntf-7f3a",), since=LATER)
