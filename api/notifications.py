"""Notifications over REST: everybody's own inbox, and the webhooks that carry notifications elsewhere."""

from typing import Annotated, Final

import orjson
from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, require_stored, told
from api.errors import ApiError
from api.routing import ContextRouter, Own, Present
from api.services import Services
from commands.notifications import AddWebhook, MarkRead, Notify, RemoveWebhook
from domain.notifications import Kind, WebhookUrl
from domain.values import EVERYBODY, Identifier, Role
from infra.webhooks import Standing, State, secret_digest
from projections.notifications import notifications, webhooks

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR})


class NewWebhook(BaseModel):
    """What to call it, where it is, and what kinds of notifications it takes; all of them when none is named."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"webhook_id": "siem", "url": "https://siem.example.org/aureus", "kinds": ["action_blocked"]}]},
    )

    webhook_id: Identifier
    url: WebhookUrl
    kinds: Annotated[tuple[Kind, ...], Field(max_length=20)] = ()


class AddedWebhook(CommandAnswer):
    """The command's answer, with the secret that deliveries are signed with: no list shows it."""

    secret: str | None = None


class Deliveries(BaseModel):
    """The latest deliveries to a webhook, newest first."""

    items: list[Standing]


router = ContextRouter(prefix="/v1", tags=["notifications"])
router.command("/notifications", Notify, status=201)
router.command("/notifications/{notification_id}/read", MarkRead)
router.views(
    "/notifications",
    notifications,
    row_id="notification_id",
    roles=EVERYBODY,
    stream="notification:{}".format,
    own=Own("recipient", OVERSEERS),
)


@router.query("/webhooks", roles=AddWebhook.roles, methods=("POST",), status_code=201, response_model=AddedWebhook)
async def add_webhook(wanted: NewWebhook, request: Request) -> Response:
    """Carry notifications to a receiver; the answer holds the secret, and nothing else ever shows it.

    The secret is made here and never reaches the ledger. It is made once for each `webhook_id`, so the same request with the
    same Idempotency-Key, or with the approval it had to wait for, is the same command.
    """
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    secret = await services.webhooks.secret(asker.tenant, wanted.webhook_id)
    command = AddWebhook(webhook_id=wanted.webhook_id, url=wanted.url, kinds=wanted.kinds, secret_sha256=secret_digest(secret))
    ask = ask_of(command, asker, request.scope["headers"])
    await require_stored(services, ask)
    answer = told(await services.path.handle(ask), 201, request.scope["state"]["request_id"])
    if answer.status_code != 201:
        return answer
    added = {**orjson.loads(answer.body), "secret": secret}
    return Response(orjson.dumps(added), 201, {"etag": answer.headers["etag"]}, "application/json")


router.command("/webhooks/{webhook_id}/remove", RemoveWebhook)


@router.query("/webhooks/{webhook_id}/deliveries", roles=OVERSEERS)
async def webhook_deliveries(
    webhook_id: str,
    reader: Present,
    state: Annotated[State | None, Query(description="Only those that stand so.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="At most this many.")] = 50,
) -> Deliveries:
    """What became of what was sent to a webhook: pending, delivered, failed for good, or dropped with the webhook."""
    if await reader.get(webhooks, webhook_id) is None:
        message = f"There is no webhook {webhook_id!r}."
        raise ApiError(404, "webhook_not_found", message, field="webhook_id", remedy="List them to see what is there.")
    return Deliveries(items=await reader.services.webhooks.latest(reader.asker.tenant, webhook_id, limit, state))


router.views("/webhooks", webhooks, row_id="webhook_id", roles=OVERSEERS, stream="webhook:{}".format)
