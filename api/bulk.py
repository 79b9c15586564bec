"""Many commands in one request: each goes the one command path on its own, and what became of each is told apart.

What touches the same entity keeps its order; the rest is asked side by side. Too many, or on request, they become a job.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import Header, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from api.asking import CommandAnswer, Entrance, ask_of, told
from api.authentication import Unauthenticated
from api.errors import ApiError, ErrorDetail, error_response
from api.routing import ContextRouter
from api.services import Services
from commands.jobs import ITEMS_MAX, StartJob
from domain.contexts import CONTEXTS
from domain.jobs import JobStarted, OnFailure
from domain.kernel import Asker, JsonObject
from domain.ledger import StreamKey
from domain.values import EVERYBODY, uuid7_text
from infra.blobs import BlobsUnavailable
from infra.canonical import loads_strict
from infra.request_signing import HEADER, PREPARE
from streams.jobs import AskerGone, NotNow, job_of

AT_ONCE: Final = 16
"""So many commands of one request are decided side by side."""
ANSWERED_MAX: Final = 1_000
"""So many commands are carried out before the answer; more of them become a job."""
NOT_RUN: Final = 424
_JOBS: Final = uuid.UUID("0199a1f0-0000-7000-8000-6a6f62730000")
Headers = list[tuple[bytes, bytes]]


class BulkItem(BaseModel):
    """One command with its fields, and the circumstances that it would have as headers if it were sent alone."""

    model_config = ConfigDict(extra="forbid")

    command: Annotated[str, Field(max_length=100)]
    fields: dict[str, Any] = {}
    idempotency_key: str | None = None
    if_match: Annotated[int, Field(ge=0)] | None = None
    reason: str | None = None
    approval: str | None = None
    evidence: Annotated[list[str], Field(max_length=50)] = []
    when_approved: Literal["carry-out"] | None = None
    signature: str | None = None

    def headers(self, key: str | None) -> Headers:
        """What the item would have said in headers. `key` is its idempotency key when it names none."""
        said = {
            "idempotency-key": self.idempotency_key or (key if self.signature is None else None),
            "if-match": None if self.if_match is None else str(self.if_match),
            "aureus-reason": self.reason,
            "aureus-approval": self.approval,
            "aureus-evidence": ",".join(self.evidence) or None,
            "aureus-when-approved": self.when_approved,
            HEADER.lower(): self.signature,
        }
        return [(name.encode(), value.encode()) for name, value in said.items() if value is not None]


class BulkRequest(BaseModel):
    """Commands in the order in which what touches the same entity is done. With `stop` all of them are done one after another, and
    none after the first that is not carried out; with `continue` each for itself."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "commands": [
                        {"command": "budgets.fund_budget", "fields": {"budget_id": "eu-lake", "amount_minor": 500_000}},
                        {
                            "command": "budgets.reserve_funds",
                            "fields": {"budget_id": "eu-lake", "amount_minor": 120_000},
                            "reason": "Nightly",
                        },
                    ],
                    "on_failure": "stop",
                }
            ]
        },
    )

    commands: Annotated[list[BulkItem], Field(min_length=1, max_length=ITEMS_MAX)]
    on_failure: OnFailure = "continue"


class BulkResult(BaseModel):
    """What became of one command: the status, and the answer or the error, that it would have had if it were sent alone.

    `outcome` is allowed, requires_approval, blocked (that is on record), failed (nothing is), or not_run (424).
    """

    index: int
    status: int
    outcome: str
    answer: CommandAnswer | None = None
    error: ErrorDetail | None = None


class BulkAnswer(BaseModel):
    """What became of each command, in the order of the request; a read at least at `position` sees all of it."""

    items: list[BulkResult]
    allowed: int
    parked: int
    refused: int
    position: int


class JobAnswer(BaseModel):
    """A job that works through the commands; its progress and its results are at these paths."""

    job_id: str
    status: str
    items: int
    action_id: str
    position: int
    resource: str
    results: str
    cancel: str


router = ContextRouter(prefix="/v1", tags=["jobs"])


@cache
def entrances() -> dict[str, Entrance]:
    """Every command that has a route of its own, by name: the same may be asked for here."""
    routers = [import_module(f"api.{context}").router for context in CONTEXTS]
    found = [route.entrance for one in routers for route in one.routes if hasattr(route, "entrance")]
    return {entrance.command.command_name: entrance for entrance in found}


@router.query(
    "/bulk",
    roles=EVERYBODY,
    methods=("POST",),
    narrowed=True,
    any_scope=True,
    status_code=207,
    response_model=BulkAnswer,
    responses={202: {"model": JobAnswer, "description": "A job works through them."}},
)
async def bulk(
    wanted: BulkRequest,
    request: Request,
    prefer: Annotated[str | None, Header(description="`respond-async`: have it worked through as a job.")] = None,
    idempotency_key: Annotated[str | None, Header(description="Each command without a key gets one made of this and its place.")] = None,
) -> Response:
    """Ask for many commands at once: each is authorised, judged and decided on its own. Over 1,000 of them become a job (202)."""
    loads_strict(await request.body())  # a key that stands twice is refused here as it is for one command
    headers: Headers = request.scope["headers"]
    _require_signed_apart(headers)
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(headers)
    request_id = request.scope["state"]["request_id"]
    if len(wanted.commands) > ANSWERED_MAX or "respond-async" in (prefer or "").replace(",", " ").split():
        return await _as_job(services, asker, wanted, idempotency_key, headers, request_id)
    correlation = [(name, value) for name, value in headers if name in {b"x-correlation-id", b"traceparent"}]
    shared = correlation or [(b"x-correlation-id", uuid7_text().encode())]

    def key_of(index: int) -> str | None:
        return None if idempotency_key is None else f"{idempotency_key}:{index}"

    items = await carried_out(services, asker, wanted.commands, wanted.on_failure, key_of, shared, request_id)
    outcomes = [item["outcome"] for item in items]
    allowed, parked = outcomes.count("allowed"), outcomes.count("requires_approval")
    positions = [(item["answer"] or item["error"]["details"]).get("position", 0) for item in items]
    body = {"items": items, "allowed": allowed, "parked": parked, "refused": len(items) - allowed - parked, "position": max(positions)}
    return Response(orjson.dumps(body), 207, {"x-request-id": request_id}, "application/json")


def _require_signed_apart(headers: Headers) -> None:
    """ApiError 422 for what is said of one command and cannot be said of many."""
    for name, _ in headers:
        if name in {HEADER.lower().encode(), PREPARE.lower().encode()}:
            remedy = "Sign each command on its own, and send its signature in the item."
            raise ApiError(422, "validation_failed", "Many commands have no one signature.", field=name.decode(), remedy=remedy)


async def carried_out(
    services: Services,
    asker: Asker,
    items: Sequence[BulkItem],
    on_failure: OnFailure,
    key_of: Callable[[int], str | None],
    headers: Headers,
    request_id: str,
) -> list[JsonObject]:
    """What became of each item (as BulkResult), in order."""
    results: list[JsonObject] = [_not_run(index, request_id) for index in range(len(items))]
    places = asyncio.Semaphore(AT_ONCE)

    async def run(lane: Sequence[int]) -> None:
        for index in lane:
            async with places:
                item = items[index]
                results[index] = await _one(services, asker, item, index, [*item.headers(key_of(index)), *headers], request_id)
            if on_failure == "stop" and results[index]["error"] is not None:
                return

    lanes = [range(len(items))] if on_failure == "stop" else lanes_of(services, asker, items)
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(run(lane))
    return results


def lanes_of(services: Services, asker: Asker, items: Sequence[BulkItem]) -> list[list[int]]:
    """The items in lanes: what changes a stream, and what looks at it, is in one lane, in the order of the request."""
    touched = [_touched(services, asker, item) for item in items]
    changed = set[StreamKey]().union(*(changes for changes, _ in touched))
    leader = list(range(len(items)))

    def led_by(index: int) -> int:
        while leader[index] != index:
            leader[index] = index = leader[leader[index]]
        return index

    first_at: dict[StreamKey, int] = {}
    for index, (changes, looks_at) in enumerate(touched):
        for key in changes | (looks_at & changed):
            leader[led_by(index)] = led_by(first_at.setdefault(key, index))
    lanes: dict[int, list[int]] = {}
    for index in range(len(items)):
        lanes.setdefault(led_by(index), []).append(index)
    return list(lanes.values())


def _touched(services: Services, asker: Asker, item: BulkItem) -> tuple[set[StreamKey], set[StreamKey]]:
    """The streams that a command changes, and those that it looks at besides; of one that cannot be understood, none."""
    entrance = entrances().get(item.command)
    try:
        command = entrance.command.model_validate(item.fields) if entrance is not None else None
    except ValidationError:
        command = None
    if command is None:
        return set(), set()
    approval = {(asker.tenant, f"approval:{item.approval}")} if item.approval else set[StreamKey]()
    return {services.path.stream_of(command, asker)} | approval, {(asker.tenant, stream) for stream in command.relies_on()}


async def _one(services: Services, asker: Asker, item: BulkItem, index: int, headers: Headers, request_id: str) -> JsonObject:
    """What became of one, as BulkResult."""
    try:
        entrance = entrances().get(item.command)
        if entrance is None:
            remedy = "The API's schema names every command that has a path of its own; ask for others where they are."
            raise ApiError(404, "command_not_found", f"No command {item.command!r} can be asked for here.", field="command", remedy=remedy)
        response = await entrance.answer(services, asker, item.fields, headers, request_id)
        answer = orjson.loads(response.body)
        return {"index": index, "status": response.status_code, "outcome": answer["outcome"], "answer": answer, "error": None}
    except Exception as error:  # noqa: BLE001 - whatever it was, the others go on
        return _refused(index, error, request_id)


def _refused(index: int, error: Exception, request_id: str) -> JsonObject:
    response = error_response(error, request_id)
    told = orjson.loads(response.body)["error"]
    outcome = "blocked" if "action_id" in told["details"] else "not_run" if response.status_code == NOT_RUN else "failed"
    return {"index": index, "status": response.status_code, "outcome": outcome, "answer": None, "error": told}


def _not_run(index: int, request_id: str) -> JsonObject:
    message = "A command before it was not carried out, and then none was to be."
    return _refused(index, ApiError(NOT_RUN, "not_run", message, remedy="Mend that one, and send the rest again."), request_id)


# -- as a job


async def _as_job(
    services: Services, asker: Asker, wanted: BulkRequest, idempotency_key: str | None, headers: Headers, request_id: str
) -> Response:
    """Keeps the commands, and puts the job on record; asked for again under the same key it is the same job."""
    told_twice = None if idempotency_key is None else f"{asker.tenant}\n{asker.actor}\n{idempotency_key}"
    job_id = uuid7_text() if told_twice is None else str(uuid.uuid5(_JOBS, told_twice))
    commands = [item.model_dump(exclude_defaults=True) for item in wanted.commands]
    try:
        blob = await services.blobs.put(_once(orjson.dumps({"job_id": job_id, "commands": commands})))
    except BlobsUnavailable as error:
        raise ApiError(503, "artifact_store_unavailable", str(error), {"retry-after": "1"}, remedy=error.remedy) from error
    scopes = None if asker.scopes is None else tuple(sorted(asker.scopes))
    command = StartJob(job_id=job_id, items=len(commands), on_failure=wanted.on_failure, input_sha256=blob.sha256, scopes=scopes)
    try:
        answer = told(await services.path.handle(ask_of(command, asker, headers)), 202, request_id)
        started = orjson.loads(answer.body)
        if started["outcome"] != "allowed":
            message = "A policy wants an approval for this, and nobody could say of what: each command is judged when its turn comes."
            remedy = "Send the commands without respond-async, 1,000 at once."
            raise ApiError(409, "approval_not_possible", message, action_id=started["action_id"], remedy=remedy)
        job = await job_of(services.ledger, asker.tenant, job_id)
        if not job.is_open:
            await services.blobs.delete(blob.sha256)  # it was asked for before, and nobody needs its commands any more
    except BaseException:
        await services.blobs.delete(blob.sha256)
        raise
    resource = f"/v1/jobs/{job_id}"
    body = {
        "job_id": job_id,
        "status": job.status,
        "items": len(commands),
        "action_id": started["action_id"],
        "position": started["position"],
        "resource": resource,
        "results": f"{resource}/results",
        "cancel": f"{resource}/cancel",
    }
    sent = {"location": resource, "retry-after": "1", "preference-applied": "respond-async", "x-request-id": request_id}
    return Response(orjson.dumps(body), 202, sent, "application/json")


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


class JobCarrier:
    """Asks for a job's commands as its asker would now: in the roles held at this moment."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def carry_out(self, tenant: str, job_id: str, started: JobStarted, items: Sequence[JsonObject], first: int) -> list[JsonObject]:
        """What became of each, as BulkResult. Raises AskerGone, and NotNow when something that commands need does not answer."""
        asker = await self._asker(tenant, started)
        wanted = [BulkItem.model_validate(item) for item in items]
        correlation = [(b"x-correlation-id", job_id.encode())]

        def key_of(index: int) -> str:
            return f"job:{job_id}:{first + index}"

        results = await carried_out(self._services, asker, wanted, started.on_failure, key_of, correlation, job_id)
        silent = next((one for one in results if one["status"] == 503), None)
        if silent is not None:
            raise NotNow(silent["error"]["message"])
        told = [{**one, "index": first + one["index"]} for one in results]
        return [one for one in told if one["status"] != NOT_RUN]

    async def _asker(self, tenant: str, started: JobStarted) -> Asker:
        scopes = None if started.scopes is None else frozenset(started.scopes)
        try:
            return await self._services.standing.of(tenant, started.asked_by, scopes=scopes)
        except Unauthenticated as gone:
            message = f"{started.asked_by} does not act any more ({gone.reason}): nothing more is done in that name."
            raise AskerGone("asker_gone", message) from gone
