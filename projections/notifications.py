"""Inboxes and webhooks as people read them: what one was told and has read, and where notifications are carried to."""

from domain.kernel import Recorded, timestamp
from domain.notifications import (
    NotificationRead,
    NotificationSent,
    RedeliveryOrdered,
    WebhookAdded,
    WebhookRemoved,
    WebhookSecretRotated,
)
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class NotificationRow:
    """One notification; `status` is unread or read, `position` where the ledger holds that it was sent."""

    notification_id: str
    recipient: str
    kind: str
    subject: str
    text: str
    about: str | None
    action_id: str | None
    sent_by: str
    sent_at: str
    position: int
    status: str
    read_at: str | None


@read_row
class WebhookRow:
    """One webhook; without `kinds` it takes notifications of every kind. Its secrets are nowhere to be read: it had so many, and the
    one before the last is used beside it until `old_secret_until`."""

    webhook_id: str
    url: str
    kinds: list[str]
    secrets: int
    secret_sha256: str
    old_secret_sha256: str | None
    old_secret_until: str | None
    status: str
    added_by: str
    added_at: str
    removed_at: str | None


@read_row
class RedeliveryRow:
    """An order to carry notifications to a webhook again; without names, those that were given up since then, or ever."""

    redelivery_id: str
    webhook_id: str
    notification_ids: list[str]
    since: str | None
    ordered_by: str
    ordered_at: str


notifications = ReadTable(
    "notifications",
    NotificationRow,
    filters=("recipient", "status", "kind", "about", "action_id"),
    sorts=("sent_at", "position"),
    search=("subject", "text"),
)
redeliveries = ReadTable("redeliveries", RedeliveryRow, filters=("webhook_id", "ordered_by"), sorts=("ordered_at",))
webhooks = ReadTable("webhooks", WebhookRow, filters=("status",), sorts=("webhook_id", "added_at"), search=("webhook_id", "url"))


@notifications.on(NotificationSent)
def sent(_row: None, recorded: Recorded[NotificationSent], notification_id: str) -> NotificationRow:
    event = recorded.event
    return NotificationRow(
        notification_id=notification_id,
        recipient=event.recipient,
        kind=event.kind,
        subject=event.subject,
        text=event.text,
        about=event.about,
        action_id=event.action_id,
        sent_by=recorded.actor,
        sent_at=recorded.at_text,
        position=recorded.position,
        status="unread",
        read_at=None,
    )


@notifications.on(NotificationRead)
def read(row: NotificationRow, recorded: Recorded[NotificationRead], _notification_id: str) -> NotificationRow:
    return replace(row, status="read", read_at=recorded.at_text)


@webhooks.on(WebhookAdded)
def added(_row: None, recorded: Recorded[WebhookAdded], webhook_id: str) -> WebhookRow:
    event = recorded.event
    return WebhookRow(
        webhook_id=webhook_id,
        url=event.url,
        kinds=list(event.kinds),
        secrets=1,
        secret_sha256=event.secret_sha256,
        old_secret_sha256=None,
        old_secret_until=None,
        status="active",
        added_by=recorded.actor,
        added_at=recorded.at_text,
        removed_at=None,
    )


@webhooks.on(WebhookSecretRotated)
def rotated(row: WebhookRow, recorded: Recorded[WebhookSecretRotated], _webhook_id: str) -> WebhookRow:
    event = recorded.event
    return replace(
        row,
        secrets=row.secrets + 1,
        secret_sha256=event.secret_sha256,
        old_secret_sha256=row.secret_sha256,
        old_secret_until=timestamp(event.old_until),
    )


def _redelivery(recorded: Recorded[RedeliveryOrdered]) -> tuple[str, ...]:
    return (f"{recorded.event.webhook_id}@{recorded.version}",)


@redeliveries.on(RedeliveryOrdered, keys=_redelivery)
def ordered(_row: None, recorded: Recorded[RedeliveryOrdered], redelivery_id: str) -> RedeliveryRow:
    event = recorded.event
    return RedeliveryRow(
        redelivery_id=redelivery_id,
        webhook_id=event.webhook_id,
        notification_ids=list(event.notification_ids),
        since=timestamp(event.since) if event.since else None,
        ordered_by=recorded.actor,
        ordered_at=recorded.at_text,
    )


@webhooks.on(WebhookRemoved)
def removed(row: WebhookRow, recorded: Recorded[WebhookRemoved], _webhook_id: str) -> WebhookRow:
    return replace(row, status="removed", removed_at=recorded.at_text)


PROJECTION = Projection("notifications", (notifications, webhooks, redeliveries), ordering="stream")
