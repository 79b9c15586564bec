"""What may be asked of notifications and webhooks: an inbox is its owner's, and nothing leaves for where it could do harm."""

from typing import Annotated, Any, Final, assert_never
from urllib.parse import urlsplit

from pydantic import Field

from domain.access import ActorId
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.notifications import (
    Kind,
    Notification,
    NotificationEvent,
    NotificationRead,
    NotificationSent,
    StreamName,
    Webhook,
    WebhookAdded,
    WebhookEvent,
    WebhookRemoved,
    WebhookUrl,
    evolve_notification,
    evolve_webhook,
    literal_address,
    refused_address,
)
from domain.values import EVERYBODY, Identifier, Label, Role, Sha256, Text

SENDERS: Final = frozenset({Role.ADMIN})
"""Administrators, and services that hold their role: the platform's own reactions among them."""


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


class RemoveWebhook(Command, name="notifications.remove_webhook", roles=SENDERS):
    """Carry nothing there any more, nor what still waits; its secret is destroyed."""

    webhook_id: Identifier


NotificationCommand = Notify | MarkRead
WebhookCommand = AddWebhook | RemoveWebhook


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


def decide_webhook(webhook: Webhook, command: WebhookCommand, _asked: Asked) -> list[WebhookEvent]:
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
        case RemoveWebhook():
            require(
                webhook.added is not None,
                "webhook_not_found",
                f"There is no webhook {command.webhook_id}.",
                field="webhook_id",
                remedy="List them to see what is there.",
            )
            return [] if webhook.removed else [WebhookRemoved(webhook_id=command.webhook_id)]
        case _:
            assert_never(command)


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
    commands=(AddWebhook, RemoveWebhook),
    events=(WebhookAdded, WebhookRemoved),
    entity=lambda command: command.webhook_id,
    facts=_webhook_facts,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (NOTIFICATIONS, WEBHOOKS)
