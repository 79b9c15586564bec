"""Asking over HTTP: a request becomes a command with its circumstances, and an outcome becomes the answer."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, get_type_hints
from uuid import UUID

import orjson
from fastapi import Body, Header, Path
from pydantic import BaseModel, create_model
from starlette.responses import Response
from starlette.types import Receive, Scope

from api.errors import ApiError, Prepared, refusal_status
from api.examples import EXAMPLES
from api.services import Services, now
from commands.outcome import Outcome
from commands.path import Ask
from domain.actions import RequestSignature
from domain.kernel import Asker, Command
from domain.values import uuid7
from infra.canonical import loads_strict, require_profile
from infra.logs import errand
from infra.request_signing import HEADER, PREPARE, parse
from infra.tracing import correlation_of

WHEN_APPROVED: Final = "Aureus-When-Approved"
CARRY_OUT: Final = "carry-out"
MAX_BODY_BYTES: Final = 1_048_576
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+=~-]{0,199}")
Answer = Callable[[Services, Scope, Receive], Awaitable[Response]]
Complete = Callable[[Services, Asker, Any], Awaitable[Command]]
"""Adds to a command what only the server knows, and is no part of its intent."""
More = Callable[[Services, Ask, Outcome], Awaitable[dict[str, Any]]]
"""What the answer tells besides, once the command was carried out: that it was is durable by then."""


class CommandEvent(BaseModel):
    """A fact the command led to."""

    type: str
    version: int
    position: int
    data: dict[str, Any]


class CommandAnswer(BaseModel):
    """What became of a command that was carried out, or that waits for an approval."""

    action_id: UUID
    outcome: str
    stream: str
    version: int
    position: int
    events: list[CommandEvent] = []
    policy_results: list[dict[str, Any]] = []
    evidence: str
    approval_id: str | None = None
    approver_roles: list[str] | None = None
    quorum: int | None = None
    action_digest: str | None = None
    policy_version: str | None = None
    required_evidence: list[str] | None = None
    carry_out: bool | None = None


async def read_body(receive: Receive, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The whole request body; ApiError 413 past the limit."""
    chunks = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "client_gone", "The request ended before its body did.")
        chunks += message.get("body", b"")
        if len(chunks) > limit_bytes:
            raise ApiError(413, "body_too_large", f"The body is larger than {limit_bytes} bytes.", remedy="Send less at once.")
        if not message.get("more_body"):
            return bytes(chunks)


def command_endpoint(command: type[Command], in_path: list[str]) -> Callable[..., Any]:
    """A signature for the OpenAPI: path parameters, the remaining fields as body, and the headers every command takes."""
    hints = get_type_hints(command, include_extras=True)
    example = EXAMPLES.get(command.command_name, {})
    parameter = inspect.Parameter
    shown = {name: [example[name]] if name in example else None for name in in_path}
    parameters = [parameter(name, parameter.KEYWORD_ONLY, annotation=hints[name], default=Path(examples=shown[name])) for name in in_path]
    body = {name: (hints[name], field) for name, field in command.model_fields.items() if name not in in_path}
    if body:
        sent = {name: value for name, value in example.items() if name not in in_path}
        model: Any = create_model(command.__name__, __doc__=inspect.getdoc(command), **body)  # type: ignore[call-overload]
        parameters.append(parameter("body", parameter.KEYWORD_ONLY, annotation=model, default=Body(examples=[sent] if example else None)))
    for name, alias, description in _HEADERS:
        header = Header(default=None, alias=alias, description=description)
        parameters.append(parameter(name, parameter.KEYWORD_ONLY, annotation=str | None, default=header))
    return described(parameters)


_HEADERS: Final = (
    ("idempotency_key", "Idempotency-Key", "Applied once per key; the first answer is given again."),
    ("if_match", "If-Match", "The version (ETag) the decision was made on."),
    ("reason", "Aureus-Reason", "Why; kept in the audit log."),
    ("approval", "Aureus-Approval", "The approval that covers exactly this command."),
    (
        "when_approved",
        WHEN_APPROVED,
        "`carry-out`: if it has to wait for an approval, Aureus carries it out on your behalf as soon as that is granted.",
    ),
    ("evidence", "Aureus-Evidence", "SHA-256 of stored artifacts that belong to this action, separated by commas."),
    ("correlation", "X-Correlation-Id", "A UUID that ties this to what led to it."),
    ("signature", HEADER, "The actor's own signature over this command, from who has a key: keyid=, nonce=, at=, sig=."),
    ("prepare", PREPARE, "Answers with the command as it would be asked, what the server adds included, and asks nothing: to be signed."),
)


def described(parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    async def endpoint(**_: Any) -> Any:
        raise AssertionError("answered from the ASGI scope")

    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return endpoint


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a command is asked for over HTTP, alone or as one of many. `complete` and `more` add to the command and to its answer."""

    command: type[Command]
    status: int = 200
    complete: Complete | None = None
    more: More | None = None

    async def answer(
        self, services: Services, asker: Asker, fields: dict[str, Any], headers: list[tuple[bytes, bytes]], request_id: str
    ) -> Response:
        """What became of it; a refusal is an ApiError, and every other error is raised as it came."""
        parsed = self.command.model_validate(fields)
        whole = parsed if self.complete is None else await self.complete(services, asker, parsed)
        ask = ask_of(whole, asker, headers)
        if ask.artifacts:
            await require_stored(services, ask)
        outcome = await services.path.handle(ask)
        besides = await self.more(services, ask, outcome) if self.more is not None and outcome.outcome == "allowed" else {}
        return told(outcome, self.status, request_id, besides)


def command_answer(entrance: Entrance) -> Answer:
    async def answer(services: Services, scope: Scope, receive: Receive) -> Response:
        headers = scope["headers"]
        asker = await services.authenticator.authenticate(headers)
        given = await read_body(receive)
        whole = _joined(fields_of(given), scope["path_params"])
        return await entrance.answer(services, asker, whole, headers, scope["state"]["request_id"])

    return answer


def _joined(fields: dict[str, Any], in_path: dict[str, Any]) -> dict[str, Any]:
    """The body's fields and the path's; an id that stands in both must be the same."""
    for name, value in in_path.items():
        if fields.get(name, value) != value:
            rule = f"the path says {value!r}, the body {fields[name]!r}"
            raise _header_error(name, rule, "Leave it out of the body.")
    return {**fields, **in_path}


def fields_of(body: bytes) -> dict[str, Any]:
    """A command's fields from a request body, within the profile of what can be signed; raises ProfileError or ApiError."""
    fields = loads_strict(body) if body else {}
    require_profile(fields)
    if not isinstance(fields, dict):
        remedy = "Send the command's fields as an object."
        raise ApiError(422, "validation_failed", "The body is not a JSON object.", field="", remedy=remedy)
    return fields


def ask_of(command: Command, asker: Asker, headers: list[tuple[bytes, bytes]]) -> Ask:
    given = {name.decode(): value.decode("latin-1") for name, value in headers if name in _COMMAND_HEADERS}
    on = errand()
    if not given:
        return Ask(command, asker, uuid7(), now(), correlation=on.correlation, elapsed_us=stopwatch())
    if PREPARE.lower() in given:
        raise Prepared(command)
    key, signature = _key(given.get("idempotency-key")), _signature(given.get(HEADER.lower()))
    if signature is not None and key not in {None, signature.nonce}:
        rule = "a signed request's is the nonce that was signed"
        raise _header_error("Idempotency-Key", rule, "Leave it out, or sign it as the nonce.")
    on.correlation = _correlation(given.get("x-correlation-id")) or correlation_of(given.get("traceparent")) or on.correlation
    return Ask(
        command,
        asker,
        uuid7(),
        now(),
        correlation=on.correlation,
        if_match=_version(given.get("if-match")),
        idempotency_key=key,
        approval_id=_approval(given.get("aureus-approval")),
        reason=_reason(given.get("aureus-reason")),
        artifacts=_artifacts(given.get("aureus-evidence")),
        signature=signature,
        carry_out=_carry_out(given.get(WHEN_APPROVED.lower())),
        elapsed_us=stopwatch(),
    )


def stopwatch() -> Callable[[], int]:
    """How many microseconds ago this was called."""
    started = time.perf_counter_ns()
    return lambda: (time.perf_counter_ns() - started) // 1_000


_COMMAND_HEADERS: Final = frozenset((b"traceparent", *(alias.lower().encode() for _, alias, _ in _HEADERS)))


def _header_error(field: str, rule: str, remedy: str) -> ApiError:
    return ApiError(422, "validation_failed", f"{field}: {rule}", field=field, rule=rule, remedy=remedy)


def _correlation(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise _header_error("X-Correlation-Id", "it is not a UUID", "Send a UUID, or leave it out.") from None


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    bare = text.strip().removeprefix("W/").strip('"').partition("-")[0]  # what comes after the version tells contents apart
    if not (bare.isascii() and bare.isdigit() and len(bare) < 19):
        raise _header_error("If-Match", f"{text!r} is not a version", 'Send the ETag of a read or a command, such as "3".')
    return int(bare)


def _key(text: str | None) -> str | None:
    if text is not None and not (0 < len(text) <= 200 and text.isascii() and text.isprintable()):
        raise _header_error("Idempotency-Key", "it is 1 to 200 printable ASCII characters", "Use a UUID.")
    return text


def _signature(text: str | None) -> RequestSignature | None:
    try:
        return parse(text) if text is not None else None
    except ValueError as error:
        raise _header_error(HEADER, str(error), "Send keyid=<hex>, nonce=<uuid>, at=<RFC 3339>, sig=<base64>.") from None


def _approval(text: str | None) -> str | None:
    if text is not None and not _IDENTIFIER.fullmatch(text):
        raise _header_error("Aureus-Approval", "it is not an approval's id", "Send the approval_id of the answer that asked for one.")
    return text


def _carry_out(text: str | None) -> bool:
    if text not in (None, CARRY_OUT):
        raise _header_error(WHEN_APPROVED, f"{text!r} is not {CARRY_OUT}", f"Send {CARRY_OUT}, or leave it out.")
    return text is not None


def _reason(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        reason = text.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise _header_error("Aureus-Reason", "it is not UTF-8", "Encode the header's text as UTF-8.") from None
    if len(reason) > 2_000:
        raise _header_error("Aureus-Reason", "it is longer than 2,000 characters", "Attach long explanations as evidence.")
    return reason


def _artifacts(text: str | None) -> tuple[str, ...]:
    hashes = tuple(part.strip().removeprefix("sha256:") for part in text.split(",") if part.strip()) if text else ()
    for value in hashes:
        if not _SHA256.fullmatch(value):
            raise _header_error(
                "Aureus-Evidence", f"{value[:80]!r} is not a SHA-256 in hex", "Store the artifact first: POST /v1/artifacts."
            )
    return hashes


async def require_stored(services: Services, ask: Ask) -> None:
    """Evidence that nobody stored proves nothing."""
    streams = [(ask.by.tenant, f"artifact:{sha256}") for sha256 in ask.artifacts]
    known = await services.ledger.store.stream_heads(streams)
    missing = [stream.partition(":")[2] for tenant, stream in streams if (tenant, stream) not in known]
    if missing:
        raise ApiError(
            422,
            "artifact_not_stored",
            f"No artifact {missing[0]} is stored.",
            field="Aureus-Evidence",
            missing=missing,
            remedy="Store it first: POST /v1/artifacts.",
        )


def told(outcome: Outcome, status: int, request_id: str, besides: Mapping[str, Any] = MappingProxyType({})) -> Response:
    evidence = f"/v1/evidence/{outcome.action_id}"
    if outcome.outcome == "blocked":
        code = outcome.code or "refused"
        facts = {key: value for key, value in outcome.facts.items() if value is not None}
        facts |= {"action_id": outcome.action_id, "position": outcome.position, "evidence": evidence}
        raise ApiError(refusal_status(code, denied=outcome.denied), code, outcome.message or code, **facts)
    body: dict[str, Any] = {
        "action_id": outcome.action_id,
        "outcome": outcome.outcome,
        "stream": outcome.stream,
        "version": outcome.version,
        "position": outcome.position,
        "events": outcome.events,
        "policy_results": outcome.policy_results,
        "evidence": evidence,
        **besides,
    }
    if outcome.approval is not None:
        body.update(outcome.approval)
        status = 202
    headers = {"etag": f'"{outcome.version}"', "x-request-id": request_id}
    return Response(orjson.dumps(body), status, headers, "application/json")
