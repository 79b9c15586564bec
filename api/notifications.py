"""Notifications over REST: everybody's own inbox, and the webhooks that carry notifications elsewhere."""

from typing import Annotated, Any, Final

import orjson
from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, require_stored, told
from api.errors import ApiError
from api.routing import ContextRouter, Own, Present
from api.services import Services
from commands.notifications import AddWebhook, MarkRead, Notify, Redeliver, RemoveWebhook, RotateWebhookSecret
from domain.kernel import Asker, Command
from domain.notifications import Kind, WebhookUrl
from domain.values import EVERYBODY, Duration, Identifier, Role
from infra.sealed_secrets import secret_digest
from infra.webhooks import Standing, State
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


class WebhookSecretWanted(BaseModel):
    """For how long deliveries are signed with the secret before as well."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"overlap": "P1D"}]})

    overlap: Duration = "P1D"


class Deliveries(BaseModel):
    """The latest deliveries to a webhook, newest first."""

    items: list[Standing]


class WholeDelivery(BaseModel):
    """How one delivery stands, and the body that is carried there."""

    delivery: Standing
    body: dict[str, Any]


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
    return await _asked(services, asker, command, request, 201, secret)


@router.query("/webhooks/{webhook_id}/secret", roles=RotateWebhookSecret.roles, methods=("POST",), response_model=AddedWebhook)
async def rotate_webhook_secret(webhook_id: str, wanted: WebhookSecretWanted, request: Request) -> Response:
    """Sign deliveries with another secret, which the answer holds; for the overlap they have a signature by each."""
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    row = (await services.reads.many(webhooks, asker.tenant, [webhook_id])).get(webhook_id)
    if row is None:
        raise _no_webhook(webhook_id)
    secret = await services.webhooks.secret(asker.tenant, webhook_id, row["secrets"])
    command = RotateWebhookSecret(webhook_id=webhook_id, secret_sha256=secret_digest(secret), overlap=wanted.overlap)
    return await _asked(services, asker, command, request, 200, secret)


router.command("/webhooks/{webhook_id}/redeliver", Redeliver)
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
        raise _no_webhook(webhook_id)
    return Deliveries(items=await reader.services.webhooks.latest(reader.asker.tenant, webhook_id, limit, state))


@router.query("/webhooks/{webhook_id}/deliveries/{notification_id}", roles=OVERSEERS)
async def webhook_delivery(webhook_id: str, notification_id: str, reader: Present) -> WholeDelivery:
    """How one delivery stands, and what is carried there: the body that its signature covers."""
    found = await reader.services.webhooks.message(reader.asker.tenant, webhook_id, notification_id)
    if found is None:
        message = f"Nothing called {notification_id!r} was sent to webhook {webhook_id!r}."
        raise ApiError(404, "delivery_not_found", message, field="notification_id", remedy="List the deliveries to see what is there.")
    standing, carried = found
    return WholeDelivery(delivery=standing, body=orjson.loads(carried.body))


async def _asked(services: Services, asker: Asker, command: Command, request: Request, status: int, secret: str) -> Response:
    ask = ask_of(command, asker, request.scope["headers"])
    await require_stored(services, ask)
    answer = told(await services.path.handle(ask), status, request.scope["state"]["request_id"])
    if answer.status_code != status:
        return answer
    shown = {**orjson.loads(answer.body), "secret": secret}
    return Response(orjson.dumps(shown), status, {"etag": answer.headers["etag"]}, "application/json")


def _no_webhook(webhook_id: str) -> ApiError:
    message = f"There is no webhook {webhook_id!r}."
    return ApiError(404, "webhook_not_found", message, field="webhook_id", remedy="List them to see what is there.")


router.views("/webhooks", webhooks, row_id="webhook_id", roles=OVERSEERS, stream="webhook:{}".format)
