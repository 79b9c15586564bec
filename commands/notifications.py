"""What may be asked of notifications and webhooks: an inbox is its owner's, and nothing leaves for where it could do harm."""

from datetime import timedelta
from typing import Annotated, Any, Final, assert_never
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field

from domain.access import ActorId
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.notifications import (
    Kind,
    Notification,
    NotificationEvent,
    NotificationRead,
    NotificationSent,
    RedeliveryOrdered,
    StreamName,
    Webhook,
    WebhookAdded,
    WebhookEvent,
    WebhookRemoved,
    WebhookSecretRotated,
    WebhookUrl,
    evolve_notification,
    evolve_webhook,
    literal_address,
    refused_address,
)
from domain.values import EVERYBODY, Duration, Identifier, Label, Role, Sha256, Text, duration_seconds

SENDERS: Final = frozenset({Role.ADMIN})
"""Administrators, and services that hold their role: the platform's own reactions among them."""
OVERLAP_MAX: Final = timedelta(days=30)
REDELIVERED_MAX: Final = 500


class Notify(Command, name="notifications.notify", roles=SENDERS):
    """Tell an actor something; the same id means the same notification, which is sent once."""

    notification_id: Identifier
    recipient: ActorId
    kind: Kind = "message"
    subject: Label
    text: Text = ""
    about: StreamName | None = None
    action_id: Identifier | None = None


class MarkRead(Command, name="notifications.mark_read", roles=EVERYBODY):
    """Put on record that you have seen what you were told."""

    notification_id: Identifier


class AddWebhook(Command, name="notifications.add_webhook", roles=SENDERS):
    """Carry notifications to a receiver, over https or to this very machine; its address is on record, so it holds no secret."""

    webhook_id: Identifier
    url: WebhookUrl
    kinds: Annotated[tuple[Kind, ...], Field(max_length=20)] = ()
    secret_sha256: Sha256


class RotateWebhookSecret(Command, name="notifications.rotate_webhook_secret", roles=SENDERS):
    """Sign deliveries with another secret; for the overlap, a day if it is not said, with the one before as well."""

    webhook_id: Identifier
    secret_sha256: Sha256
    overlap: Duration = "P1D"


class Redeliver(Command, name="notifications.redeliver", roles=SENDERS):
    """Carry notifications to a webhook again: those named, or what was given up since a time; without either, all that was given up."""

    webhook_id: Identifier
    notification_ids: Annotated[tuple[Identifier, ...], Field(max_length=REDELIVERED_MAX)] = ()
    since: AwareDatetime | None = None


class RemoveWebhook(Command, name="notifications.remove_webhook", roles=SENDERS):
    """Carry nothing there any more, nor what still waits; its secret is destroyed."""

    webhook_id: Identifier


NotificationCommand = Notify | MarkRead
WebhookCommand = AddWebhook | RotateWebhookSecret | Redeliver | RemoveWebhook


def decide_notification(notification: Notification, command: NotificationCommand, asked: Asked) -> list[NotificationEvent]:
    sent = notification.sent
    match command:
        case Notify():
            if sent is None:
                return [NotificationSent(**command.model_dump())]
            require(
                (sent.recipient, sent.kind) == (command.recipient, command.kind),
                "notification_exists",
                f"Notification {command.notification_id} told somebody else, or something else.",
                field="notification_id",
                remedy="Choose another id.",
            )
            return []
        case MarkRead():
            require(
                sent is not None,
                "notification_not_found",
                f"There is no notification {command.notification_id}.",
                field="notification_id",
                remedy="Look at your inbox.",
            )
            assert sent is not None
            require(
                sent.recipient == asked.by.actor,
                "notification_of_another",
                f"Notification {command.notification_id} is for somebody else.",
                field="notification_id",
                remedy="Only who it is for can have read it.",
            )
            return [] if notification.read else [NotificationRead(notification_id=sent.notification_id)]
        case _:
            assert_never(command)


def decide_webhook(webhook: Webhook, command: WebhookCommand, asked: Asked) -> list[WebhookEvent]:
    match command:
        case AddWebhook():
            require(
                webhook.added is None,
                "webhook_exists",
                f"Webhook {command.webhook_id} was added before.",
                field="webhook_id",
                remedy="Choose another id: one that was removed does not come back, and neither does its secret.",
            )
            _require_fit(command.url)
            return [WebhookAdded(**command.model_dump())]
        case RotateWebhookSecret():
            return _rotate(webhook, command, asked)
        case Redeliver():
            return _redeliver(webhook, command)
        case RemoveWebhook():
            _require_known(webhook, command.webhook_id, known=webhook.added is not None)
            return [] if webhook.removed else [WebhookRemoved(webhook_id=command.webhook_id)]
        case _:
            assert_never(command)


def _rotate(webhook: Webhook, command: RotateWebhookSecret, asked: Asked) -> list[WebhookEvent]:
    _require_known(webhook, command.webhook_id, known=webhook.added is not None and not webhook.removed)
    overlap = timedelta(seconds=duration_seconds(command.overlap))
    require(
        overlap <= OVERLAP_MAX,
        "overlap_too_long",
        f"Two secrets are used beside each other for at most {OVERLAP_MAX.days} days.",
        field="overlap",
        remedy="Give the receiver the new secret sooner.",
    )
    if command.secret_sha256 == webhook.secret_sha256:
        return []
    return [WebhookSecretRotated(webhook_id=command.webhook_id, secret_sha256=command.secret_sha256, old_until=asked.at + overlap)]


def _redeliver(webhook: Webhook, command: Redeliver) -> list[WebhookEvent]:
    _require_known(webhook, command.webhook_id, known=webhook.added is not None and not webhook.removed)
    require(
        not (command.notification_ids and command.since),
        "redelivery_said_twice",
        "Either notifications are named, or a time since when.",
        field="since",
        remedy="Leave one of them out.",
    )
    return [RedeliveryOrdered(**command.model_dump())]


def _require_known(webhook: Webhook, webhook_id: str, *, known: bool) -> None:
    require(
        known,
        "webhook_not_found",
        f"{'Webhook' if webhook.removed else 'There is no webhook'} {webhook_id}{' was removed' if webhook.removed else ''}.",
        field="webhook_id",
        remedy="List them to see what is there.",
    )


def _require_fit(url: str) -> None:
    parts = urlsplit(url)
    require(
        "@" not in parts.netloc and not parts.query and not parts.fragment,
        "webhook_url_not_plain",
        "The address holds a name, a password, a query or a fragment; it is on record for ever, and must hold no secret.",
        field="url",
        remedy="Leave that part out: every delivery is signed, so the receiver needs nothing else.",
    )
    address = literal_address(url)
    require(
        parts.scheme == "https" or _is_this_machine(url),
        "webhook_url_insecure",
        "Without TLS, anybody on the way reads what is delivered.",
        field="url",
        remedy="Use https; http is good for this very machine alone (localhost, 127.0.0.1).",
    )
    reason = refused_address(address) if address is not None else None
    require(
        reason is None,
        "webhook_address_refused",
        f"Nothing is delivered to {address}: {reason}.",
        field="url",
        remedy="Name the receiver's own address.",
    )


def _is_this_machine(url: str) -> bool:
    address = literal_address(url)
    return address.is_loopback if address is not None else urlsplit(url).hostname == "localhost"


def _notification_facts(notification: Notification, command: NotificationCommand) -> JsonObject:
    return {"kind": command.kind if isinstance(command, Notify) else notification.sent.kind if notification.sent else None}


def _webhook_facts(webhook: Webhook, command: WebhookCommand) -> JsonObject:
    url = command.url if isinstance(command, AddWebhook) else webhook.added.url if webhook.added else None
    return {"stays_on_this_machine": _is_this_machine(url) if url else None}


NOTIFICATIONS: Decider[Notification, NotificationCommand, NotificationEvent] = Decider(
    context="notifications",
    category="notification",
    initial=Notification(),
    evolve=evolve_notification,
    decide=decide_notification,
    commands=(Notify, MarkRead),
    events=(NotificationSent, NotificationRead),
    entity=lambda command: command.notification_id,
    facts=_notification_facts,
)
WEBHOOKS: Decider[Webhook, WebhookCommand, WebhookEvent] = Decider(
    context="notifications",
    category="webhook",
    initial=Webhook(),
    evolve=evolve_webhook,
    decide=decide_webhook,
    commands=(AddWebhook, RotateWebhookSecret, Redeliver, RemoveWebhook),
    events=(WebhookAdded, WebhookSecretRotated, RedeliveryOrdered, WebhookRemoved),
    entity=lambda command: command.webhook_id,
    facts=_webhook_facts,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (NOTIFICATIONS, WEBHOOKS)
