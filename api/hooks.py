"""Hooks over REST: administrators say what reports of other systems become, and those systems send them, each signed."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, read_body, require_stored, stopwatch, told
from api.authentication import Unauthenticated
from api.errors import ApiError, known_error
from api.routing import PUBLIC, ContextRouter, Present
from api.services import Services, now
from commands.hooks import AddHook, RemoveHook, RotateHookSecret
from commands.outcome import Outcome
from commands.path import Ask
from domain.hooks import CommandName, Constants, Fields, Only, Scheme, ServiceId
from domain.kernel import Asker, Command, JsonObject, timestamp
from domain.ledger import LedgerUnavailable
from domain.values import Duration, Identifier, Label, Role, uuid7
from infra.hook_signatures import NotSigned, standard_key, verified
from infra.hooks import Delivery, State
from infra.logs import errand
from infra.sealed_secrets import secret_digest
from projections.hooks import hooks

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR})
REPORT_BYTES_MAX: Final = 1_048_576
KEY_BYTES_MIN: Final = 24
_log = logging.getLogger("aureus.hooks")

Secret = Annotated[str, Field(min_length=KEY_BYTES_MIN, max_length=200, pattern=r"^[!-~]+$")]


class NewHook(BaseModel):
    """What a hook's reports become, and in whose name. `secret` when the other system chose one; else one is made here."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "hook_id": "dbt",
                    "label": "dbt finished",
                    "acts_as": "svc-dbt",
                    "command": "catalog.record_refresh",
                    "fields": {"dataset_id": "/data/dataset"},
                    "only_when": {"/eventType": "job.run.completed"},
                }
            ]
        },
    )

    hook_id: Identifier
    label: Label
    acts_as: ServiceId
    scheme: Scheme = "standard"
    command: CommandName
    fields: Fields
    constants: Constants = {}
    only_when: Only = {}
    secret: Secret | None = None


class NewSecret(BaseModel):
    """For how long the secret before stays good, and the new one if the other system chose it."""

    model_config = ConfigDict(extra="forbid")

    overlap: Duration = "P1D"
    secret: Secret | None = None


class HookAnswer(CommandAnswer):
    """The command's answer, with where reports go and the secret they are signed with: no list shows it."""

    address: str | None = None
    secret: str | None = None


class Report(BaseModel):
    """What became of a report. Whoever sends a report again is told how the first one stands."""

    delivery_id: str
    state: State
    code: str | None = None
    problem: str | None = None
    action_id: str | None = None


class Deliveries(BaseModel):
    """The latest reports to a hook, newest first."""

    items: list[Delivery]


router = ContextRouter(prefix="/v1", tags=["hooks"])


@router.query("/hooks", roles=AddHook.roles, methods=("POST",), status_code=201, response_model=HookAnswer)
async def add_hook(wanted: NewHook, request: Request) -> Response:
    """Have another system's signed reports become a command; the answer holds the secret, and nothing else ever shows it.

    It is made once for each `hook_id`, so the same request with the same Idempotency-Key, or with the approval it had to wait for,
    is the same command.
    """
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    _require_possible(services, wanted)
    _require_key(wanted.scheme, wanted.secret)
    secret = await services.hooks.secrets.made(asker.tenant, wanted.hook_id, given=wanted.secret)
    command = AddHook(**wanted.model_dump(exclude={"secret"}), secret_sha256=secret_digest(secret))
    return await _asked(services, asker, command, request, 201, secret)


@router.query("/hooks/{hook_id}/secret", roles=RotateHookSecret.roles, methods=("POST",), response_model=HookAnswer)
async def rotate_hook_secret(hook_id: str, wanted: NewSecret, request: Request) -> Response:
    """Have reports signed with another secret, which the answer holds; the one before stays good for the overlap."""
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    row = await _row(services, asker.tenant, hook_id)
    _require_key(row["scheme"], wanted.secret)
    secret = await services.hooks.secrets.made(asker.tenant, hook_id, row["secrets"], wanted.secret)
    command = RotateHookSecret(hook_id=hook_id, secret_sha256=secret_digest(secret), overlap=wanted.overlap)
    return await _asked(services, asker, command, request, 200, secret)


async def _forget(services: Services, ask: Ask, _outcome: Outcome) -> JsonObject:
    assert isinstance(ask.command, RemoveHook)
    await services.hooks.secrets.forget(ask.by.tenant, ask.command.hook_id)
    return {}


router.command("/hooks/{hook_id}/remove", RemoveHook, more=_forget)


@router.query("/hooks/{hook_id}", roles=PUBLIC, methods=("POST",), response_model=Report)
async def report(
    hook_id: str, request: Request, tenant: Annotated[str | None, Query(description="When it is not the default one.")] = None
) -> Response:
    """Report what happened, as JSON of at most 1 MB, signed as the hook's scheme has it: its signature says who you are.

    200: it became a command, was to become nothing, or was reported before. 202: it is kept, and waits for an approval or for somebody
    to mend what was in its way: it need not be sent again.
    """
    services: Services = request.app.state.services
    of = tenant or services.settings.tenant
    body = await read_body(request.receive, REPORT_BYTES_MAX)
    row = (await services.reads.many(hooks, of, [hook_id])).get(hook_id)
    secrets = await _good_secrets(services, of, row) if row is not None and row["status"] == "active" else []
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    try:
        delivery_id = verified(row["scheme"] if row else "standard", secrets, headers, body, time.time())
    except NotSigned as refused:
        _log.info("a report to hook %s was refused: %s", hook_id, refused)
        raise Unauthenticated(f"hook_{refused}") from refused
    assert row is not None, "nobody signs for a hook that is not there"
    delivery = await services.hooks.received(of, hook_id, delivery_id, body)
    if not delivery.settled:
        delivery = await _become(services, of, row, delivery, f"Hook {hook_id}, report {delivery_id}.")
    return _told(delivery)


@router.query("/hooks/{hook_id}/deliveries", roles=OVERSEERS)
async def hook_deliveries(
    hook_id: str,
    reader: Present,
    state: Annotated[State | None, Query(description="Only those that stand so.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="At most this many.")] = 50,
) -> Deliveries:
    """What became of what was reported: done, parked for an approval, ignored as the hook says, or failed and kept."""
    await _row(reader.services, reader.asker.tenant, hook_id)
    return Deliveries(items=await reader.services.hooks.latest(reader.asker.tenant, hook_id, limit, state))


@router.query("/hooks/{hook_id}/deliveries/{delivery_id}/replay", roles=AddHook.roles, methods=("POST",), response_model=Report)
async def replay_delivery(hook_id: str, delivery_id: str, reader: Present) -> Response:
    """Try a report again that failed, once what was in its way is mended; it still is the service's command."""
    services, tenant = reader.services, reader.asker.tenant
    row = await _row(services, tenant, hook_id)
    delivery = await services.hooks.get(tenant, hook_id, delivery_id)
    if delivery is None:
        message = f"Hook {hook_id} has no report {delivery_id!r}."
        raise ApiError(404, "delivery_not_found", message, field="delivery_id", remedy="List them to see what is there.")
    if delivery.settled or delivery.body is None or row["status"] != "active":
        message = f"Report {delivery_id} is {delivery.state}, hook {hook_id} {row['status']}."
        remedy = "Only what failed is tried again, within thirty days, and while its hook is there."
        raise ApiError(409, "delivery_not_replayable", message, field="delivery_id", remedy=remedy)
    reason = f"Hook {hook_id}, report {delivery_id}, replayed by {reader.asker.actor}."
    return _told(await _become(services, tenant, row, delivery, reason), kept_status=200)


router.views("/hooks", hooks, row_id="hook_id", roles=OVERSEERS, stream="hook:{}".format)


# -- what reports become


async def _become(services: Services, tenant: str, row: JsonObject, delivery: Delivery, reason: str) -> Delivery:
    """Asks for a report's command, and says on the report what came of it. Raises only when the ledger is away."""
    settled: dict[str, Any]
    try:
        given = orjson.loads(delivery.body or b"")
        wanted = all(_text(_found(given, pointer)) == value for pointer, value in row["only_when"].items())
        settled = await _carried_out(services, tenant, row, delivery, given, reason) if wanted else {"state": "ignored"}
    except LedgerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, it is kept and listed
        known = known_error(error, errand().request_id or "")
        settled = {"state": "failed", "code": known.code, "problem": known.message}
    await services.hooks.settle(tenant, row["hook_id"], delivery.delivery_id, **settled)
    found = await services.hooks.get(tenant, row["hook_id"], delivery.delivery_id)
    assert found is not None, "nothing is deleted there"
    return found


async def _carried_out(services: Services, tenant: str, row: JsonObject, delivery: Delivery, given: Any, reason: str) -> dict[str, Any]:
    """The same report asks under the same key, whoever was killed meanwhile; one that was refused asks anew."""
    fields = {field: _found(given, pointer) for field, pointer in row["fields"].items()}
    command = services.path.commands[row["command"]].model_validate({**fields, **row["constants"]})
    asker = await services.standing.of(tenant, row["acts_as"])
    digest = hashlib.sha256(orjson.dumps((row["hook_id"], delivery.delivery_id))).hexdigest()
    key, on = f"hook:{digest}:{delivery.refusals}", errand()
    asked = Ask(command, asker, uuid7(), now(), correlation=on.correlation, idempotency_key=key, reason=reason, elapsed_us=stopwatch())
    outcome = await services.path.handle(asked)
    state: Literal["done", "parked", "failed"] = (
        "done" if outcome.outcome == "allowed" else "parked" if outcome.approval is not None else "failed"
    )
    return {"state": state, "action_id": outcome.action_id, "code": outcome.code, "problem": outcome.message}


def _found(document: Any, pointer: str) -> Any:
    """What a JSON pointer leads to. Raises ApiError when it leads nowhere."""
    value = document
    for part in pointer.split("/")[1:]:
        token = part.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(token)] if isinstance(value, list) and token.isascii() and token.isdigit() else value[token]
        except (KeyError, IndexError, TypeError):
            raise ApiError(422, "pointer_leads_nowhere", f"The report has nothing at {pointer}.") from None
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# -- within


async def _good_secrets(services: Services, tenant: str, row: JsonObject) -> list[str]:
    """The secrets that a report may be signed with now: those whose digest is on record."""
    good = [(row["secrets"] - 1, row["secret_sha256"])]
    if row["old_secret_until"] is not None and timestamp(datetime.now(UTC)) < row["old_secret_until"]:
        good.append((row["secrets"] - 2, row["old_secret_sha256"]))
    kept = [(await services.hooks.secrets.kept(tenant, row["hook_id"], number), digest) for number, digest in good]
    return [secret for secret, digest in kept if secret is not None and secret_digest(secret) == digest]


def _require_possible(services: Services, wanted: NewHook) -> None:
    """A hook whose reports could never become its command would only be found out by the first of them."""
    command = services.path.commands.get(wanted.command)
    if command is None:
        message = f"There is no command {wanted.command}."
        raise ApiError(422, "validation_failed", message, field="command", remedy="`aureus api` lists them.")
    said = {**wanted.fields, **wanted.constants}
    unknown = sorted(said.keys() - command.model_fields.keys())
    missing = sorted(name for name, field in command.model_fields.items() if field.is_required() and name not in said)
    if unknown or missing:
        message = f"{wanted.command} has no {unknown[0]}." if unknown else f"{wanted.command} needs {', '.join(missing)}."
        raise ApiError(422, "validation_failed", message, field="fields", remedy="Say in fields or constants where each value stands.")


def _require_key(scheme: str, secret: str | None) -> None:
    if secret is None or scheme != "standard":
        return
    try:
        long_enough = len(standard_key(secret)) >= KEY_BYTES_MIN
    except ValueError:
        long_enough = False
    if not long_enough:
        message = f"A secret of the Standard Webhooks is whsec_ and the base64 of at least {KEY_BYTES_MIN} bytes."
        raise ApiError(422, "validation_failed", message, field="secret", remedy="Leave it out: then one is made here.")


async def _row(services: Services, tenant: str, hook_id: str) -> JsonObject:
    row = (await services.reads.many(hooks, tenant, [hook_id])).get(hook_id)
    if row is None:
        message = f"There is no hook {hook_id!r}."
        raise ApiError(404, "hook_not_found", message, field="hook_id", remedy="List them to see what is there.")
    return row


async def _asked(services: Services, asker: Asker, command: Command, request: Request, status: int, secret: str) -> Response:
    ask = ask_of(command, asker, request.scope["headers"])
    await require_stored(services, ask)
    answer = told(await services.path.handle(ask), status, request.scope["state"]["request_id"])
    if answer.status_code != status:
        return answer
    hook_id = ask.command.model_dump()["hook_id"]
    of = "" if asker.tenant == services.settings.tenant else f"?tenant={asker.tenant}"
    shown: Mapping[str, Any] = {**orjson.loads(answer.body), "address": f"/v1/hooks/{hook_id}{of}", "secret": secret}
    return Response(orjson.dumps(shown), status, {"etag": answer.headers["etag"]}, "application/json")


def _told(delivery: Delivery, kept_status: int = 202) -> Response:
    shown = Report(**{name: getattr(delivery, name) for name in Report.model_fields})
    return Response(shown.model_dump_json(), 200 if delivery.state in {"done", "ignored"} else kept_status, media_type="application/json")
