"""A notification: what one actor is told because of what happened; and a webhook: where notifications are carried to.

A webhook's secret is known to its receiver and to a table beside the ledger; here stands only its digest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import Annotated, Final, assert_never
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints

from domain.access import ActorId
from domain.kernel import Event
from domain.values import Identifier, Label, Sha256, Text

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
"""What a notification is about, in one word, such as action_blocked: webhooks are chosen by it."""
StreamName = Annotated[str, StringConstraints(min_length=1, max_length=300)]
IpAddress = IPv4Address | IPv6Address

_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
"""Where a bank's own receivers live: an administrator may name them, over https."""
_TREACHEROUS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "169.254.0.0/16": "a link-local address, where clouds keep the keys of their machines",
        "fe80::/10": "a link-local address",
        "fd00:ec2::/32": "a cloud's metadata service",
        "168.63.129.16/32": "a cloud's metadata service",
        "64:ff9b::/96": "an address that stands for another one",
        "2002::/16": "an address that stands for another one",
    }
)
"""Networks that would let whoever names a webhook speak with what only this machine should reach, each with the reason."""
_REFUSED: Final = tuple((ip_network(network), reason) for network, reason in _TREACHEROUS.items())


def refused_address(address: IpAddress) -> str | None:
    """Why nothing is ever delivered to an address; None when it may be."""
    plain = getattr(address, "ipv4_mapped", None) or address
    for network, reason in _REFUSED:
        if plain in network:
            return reason
    reachable = plain.is_loopback or (plain.is_global and not plain.is_multicast) or any(plain in network for network in _PRIVATE)
    return None if reachable else "no address of a receiver"


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise ValueError("an address such as https://hooks.example.org/aureus")
    return url


WebhookUrl = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2_000), AfterValidator(_web_address)]


def literal_address(url: str) -> IpAddress | None:
    """The IP address a URL names outright; None when it names a host."""
    try:
        return ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return None


class NotificationSent(Event, name="notifications.notification_sent"):
    """Somebody was told something; `about` is the stream it is about, `action_id` the action that gave rise to it."""

    notification_id: Identifier
    recipient: ActorId
    kind: Kind
    subject: Label
    text: Text
    about: StreamName | None = None
    action_id: Identifier | None = None


class NotificationRead(Event, name="notifications.notification_read"):
    """Its recipient has seen it."""

    notification_id: Identifier


class WebhookAdded(Event, name="notifications.webhook_added"):
    """Notifications of these kinds (none named: of every kind) are carried to this address from now on, signed with a secret."""

    webhook_id: Identifier
    url: WebhookUrl
    kinds: tuple[Kind, ...] = ()
    secret_sha256: Sha256


class WebhookSecretRotated(Event, name="notifications.webhook_secret_rotated"):
    """Deliveries are signed with another secret from now on, and with the one before as well until then."""

    webhook_id: Identifier
    secret_sha256: Sha256
    old_until: datetime


class RedeliveryOrdered(Event, name="notifications.redelivery_ordered"):
    """These notifications are carried there again; none named: those that were given up since then, or ever."""

    webhook_id: Identifier
    notification_ids: tuple[Identifier, ...] = ()
    since: datetime | None = None


class WebhookRemoved(Event, name="notifications.webhook_removed"):
    """Nothing is carried there any more."""

    webhook_id: Identifier


NotificationEvent = NotificationSent | NotificationRead
WebhookEvent = WebhookAdded | WebhookSecretRotated | RedeliveryOrdered | WebhookRemoved


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification; `sent` is None before it was."""

    sent: NotificationSent | None = None
    read: bool = False


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook; `added` is None before it was."""

    added: WebhookAdded | None = None
    secret_sha256: str | None = None
    removed: bool = False


def evolve_notification(notification: Notification, event: NotificationEvent) -> Notification:
    match event:
        case NotificationSent():
            return Notification(event)
        case NotificationRead():
            return replace(notification, read=True)
        case _:
            assert_never(event)


def evolve_webhook(webhook: Webhook, event: WebhookEvent) -> Webhook:
    match event:
        case WebhookAdded():
            return Webhook(event, event.secret_sha256)
        case WebhookSecretRotated():
            return replace(webhook, secret_sha256=event.secret_sha256)
        case RedeliveryOrdered():
            return webhook
        case WebhookRemoved():
            return replace(webhook, removed=True)
        case _:
            assert_never(event)
