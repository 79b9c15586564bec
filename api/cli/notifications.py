"""`aureus inbox` and `aureus webhooks`: what you were told, and where notifications are carried to."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from api.cli.client import path
from api.cli.options import Limit, Search, client_of, output_of
from api.cli.output import Column, when

app = typer.Typer()
inbox = typer.Typer(help="What you were told.", no_args_is_help=True)
webhooks = typer.Typer(help="Where notifications are carried to.", no_args_is_help=True)
app.add_typer(inbox, name="inbox")
app.add_typer(webhooks, name="webhooks")

NotificationId = Annotated[str, typer.Argument(metavar="NOTIFICATION", help="Its id, as the list shows it.")]
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="What it is called, such as siem.")]
COLUMNS = (
    Column("notification", "notification_id"),
    Column("status", "status"),
    Column("kind", "kind"),
    Column("subject", "subject"),
    Column("about", "about"),
    when("sent", "sent_at"),
)
WEBHOOK_COLUMNS = (
    Column("webhook", "webhook_id"),
    Column("url", "url"),
    Column("kinds", lambda row: row["kinds"] or "all"),
    Column("status", "status"),
    when("added", "added_at"),
)
DELIVERY_COLUMNS = (
    Column("notification", "notification_id"),
    Column("state", "state"),
    Column("tries", "tries", right=True),
    when("settled", "settled_at"),
    Column("problem", "problem"),
)


@inbox.command("list")
def list_(
    context: typer.Context,
    unread: Annotated[bool, typer.Option("--unread", help="Only what you have not read.")] = False,
    kind: Annotated[str | None, typer.Option("--kind", help="Such as action_blocked or approval_requested.")] = None,
    recipient: Annotated[str | None, typer.Option("--of", metavar="ACTOR", help="Somebody else's, as an auditor or administrator.")] = None,
    search: Search = None,
    limit: Limit = 50,
) -> None:
    """List what you were told, the latest first."""
    status = "unread" if unread else None
    page = client_of(context).rows(path("notifications"), limit, recipient=recipient, status=status, kind=kind, q=search, sort="-position")
    output_of(context).rows(page, COLUMNS, "Nobody told you anything.")


@inbox.command()
def show(context: typer.Context, notification_id: NotificationId) -> None:
    """Show one notification whole."""
    notification = client_of(context).one(path("notifications", notification_id))
    output_of(context).record(notification, notification["subject"], ("text", "about", "action_id", "status"))


@inbox.command()
def read(
    context: typer.Context,
    notification_ids: Annotated[list[str] | None, typer.Argument(metavar="[NOTIFICATION]...", help="Their ids.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is unread.")] = False,
) -> None:
    """Put on record that you have read them."""
    client = client_of(context)
    if everything == bool(notification_ids):
        raise typer.BadParameter("Name what you have read, or say --all.")
    if everything:
        notification_ids = [row["notification_id"] for row in client.rows(path("notifications"), 10_000, status="unread")["items"]]
    results = [client.ask(path("notifications", each, "read"), {}) for each in notification_ids or ()]
    last = results[-1] if results else {}
    client.out.done(last, f"Read {len(results)} notification{'' if len(results) == 1 else 's'}.")


@inbox.command()
def send(
    context: typer.Context,
    recipient: Annotated[str, typer.Argument(metavar="ACTOR", help="Whom to tell.")],
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="What it is about, in a line.")],
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="What more there is to say.")] = "",
    about: Annotated[str | None, typer.Option("--about", metavar="STREAM", help="Such as dataset:crm.people.")] = None,
) -> None:
    """Tell somebody something."""
    body = {"notification_id": str(uuid.uuid4()), "recipient": recipient, "subject": subject, "text": text, "about": about}
    output_of(context).done(client_of(context).ask(path("notifications"), body), f"Told {recipient}.")


@webhooks.command()
def add(
    context: typer.Context,
    webhook_id: WebhookId,
    url: Annotated[str, typer.Argument(metavar="URL", help="https, or http on this very machine.")],
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only notifications of this kind; repeatable, all when not given.")
    ] = None,
) -> None:
    """Carry notifications to a receiver; the secret it verifies them with is shown this once."""
    result = client_of(context).ask(path("webhooks"), {"webhook_id": webhook_id, "url": url, "kinds": kind})
    output_of(context).done(result, f"Added {webhook_id}. Give its secret to the receiver, it is not shown again:\n{result['secret']}")


@webhooks.command()
def remove(context: typer.Context, webhook_id: WebhookId) -> None:
    """Carry nothing there any more."""
    output_of(context).done(client_of(context).ask(path("webhooks", webhook_id, "remove"), {}), f"Removed {webhook_id}.")


@webhooks.command("list")
def list_webhooks(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="active or removed.")] = None,
    limit: Limit = 50,
) -> None:
    """List where notifications are carried to."""
    page = client_of(context).rows(path("webhooks"), limit, status=status)
    output_of(context).rows(page, WEBHOOK_COLUMNS, "Notifications are carried nowhere.")


@webhooks.command()
def rotate(
    context: typer.Context,
    webhook_id: WebhookId,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="DURATION", help="How long deliveries are signed with the secret before as well.")
    ] = "P1D",
) -> None:
    """Sign deliveries with another secret; it is shown this once."""
    result = client_of(context).ask(path("webhooks", webhook_id, "secret"), {"overlap": overlap})
    told = f"Rotated. For {overlap} both are used. Give the new one to the receiver, it is not shown again:"
    output_of(context).done(result, f"{told}\n{result['secret']}")


@webhooks.command()
def redeliver(
    context: typer.Context,
    webhook_id: WebhookId,
    notification_ids: Annotated[list[str] | None, typer.Argument(metavar="[NOTIFICATION]...", help="Their ids, if not all.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="What was given up since then.")] = None,
) -> None:
    """Carry there again what was given up: these, those since a time, or all."""
    client_of(context).ask(path("webhooks", webhook_id, "redeliver"), {"notification_ids": notification_ids, "since": since})
    output_of(context).done({}, f"Ordered. See how it goes: aureus webhooks deliveries {webhook_id}")


@webhooks.command()
def delivery(context: typer.Context, webhook_id: WebhookId, notification_id: NotificationId) -> None:
    """Show how one delivery stands, and what is carried there."""
    found = client_of(context).one(path("webhooks", webhook_id, "deliveries", notification_id))
    shown = {**found["delivery"], "body": found["body"]}
    output_of(context).record(shown, notification_id, ("state", "tries", "due_at", "settled_at", "problem", "body"))


@webhooks.command()
def deliveries(
    context: typer.Context,
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option("--state", help="pending, delivered, failed or dropped.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many to list at most.")] = 50,
) -> None:
    """List what became of what was sent there, the latest first."""
    page = client_of(context).one(path("webhooks", webhook_id, "deliveries"), state=state, limit=limit)
    output_of(context).rows(page, DELIVERY_COLUMNS, "Nothing was sent there.")
