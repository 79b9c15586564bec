"""How Aureus says no: one JSON body for every error, with a stable code, a sentence, the facts and the remedy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.authentication import Unauthenticated
from commands.path import KeyReused, VersionMismatch
from domain.kernel import Command, JsonObject, Refused, timestamp
from domain.ledger import Conflict, EventTooLarge, LedgerUnavailable
from infra.canonical import ProfileError
from infra.fields import FIELD_MASKED
from infra.logs import errand
from infra.reach import OUTSIDE_DOMAINS

_log = logging.getLogger("aureus.api")


class ErrorDetail(BaseModel):
    """What went wrong. `details.field` names the input at fault and `details.remedy` what would help, where known."""

    code: str
    message: str
    details: dict[str, Any] = {}
    request_id: str
    timestamp: str


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class ApiError(Exception):
    """An error with its HTTP status."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, /, **details: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details, self.headers = status, code, message, details, dict(headers or {})


class Prepared(Exception):
    """No error: whoever asks wants to see a command as it would be asked, to sign it, and nothing is asked yet."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.command_name)
        self.command = command


_STATUS_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}
_INVALID: Final = frozenset({"invalid_parameter", "validation_failed"})


def refusal_status(code: str, *, denied: bool = False) -> int:
    """The HTTP status of a refusal: 403 by role or policy, 404 for what is not there, otherwise 409."""
    if denied or code in {OUTSIDE_DOMAINS, FIELD_MASKED}:
        return 403
    if code in _INVALID:
        return 422
    return 404 if code.endswith("_not_found") else 409


EXPECTED: Final[tuple[type[Exception], ...]] = (
    ApiError,
    Prepared,
    Unauthenticated,
    Refused,
    ValidationError,
    RequestValidationError,
    ProfileError,
    EventTooLarge,
    VersionMismatch,
    Conflict,
    KeyReused,
    LedgerUnavailable,
    HTTPException,
)
"""What requests may end in that is nobody's fault here."""


def error_response(error: BaseException, request_id: str) -> Response:
    """The response for any exception; what nobody expected becomes a 500 that tells nothing but its request id."""
    if isinstance(error, Prepared):
        command = error.command
        seen = {"command": command.command_name, "inputs": command.intent(), "digest": command.digest()}
        return Response(orjson.dumps(seen), 200, {"x-request-id": request_id}, "application/json")
    return body_response(known_error(error, request_id), request_id)


def known_error(error: BaseException, request_id: str = "") -> ApiError:
    """What is told of any exception; one that nobody expected is logged."""
    known = _known(error)
    if known is None:
        _log.error("request %s failed, asked by %s", request_id, errand().actor or "nobody", exc_info=error)
        known = ApiError(
            500,
            "internal_error",
            "Something failed inside Aureus; nothing was acknowledged.",
            remedy="Send it again with the same Idempotency-Key; if it persists, give the request id to the operator.",
        )
    return known


def body_response(error: ApiError, request_id: str) -> Response:
    detail = {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "request_id": request_id,
        "timestamp": timestamp(datetime.now(UTC)),
    }
    headers = {**error.headers, "x-request-id": request_id}
    return Response(orjson.dumps({"error": detail}, default=str), error.status, headers, "application/json")


def _known(error: BaseException) -> ApiError | None:
    match error:
        case ApiError():
            return error
        case Unauthenticated():
            return ApiError(401, error.code, error.message, {"www-authenticate": "Bearer"}, remedy=error.remedy)
        case Refused():
            return ApiError(refusal_status(error.code), error.code, error.message, **error.facts)
        case ValidationError() | RequestValidationError():
            return _invalid(error.errors())
        case ProfileError():
            return ApiError(422, "validation_failed", str(error), field=error.path, rule=error.rule, remedy=error.remedy)
        case EventTooLarge():
            return ApiError(413, "event_too_large", str(error), event=error.event_name, size_bytes=error.size_bytes, remedy=error.remedy)
        case VersionMismatch():
            remedy = "Read it again and decide anew."
            return ApiError(412, "version_mismatch", str(error), field="If-Match", remedy=remedy, **_versions(error))
        case Conflict():
            return ApiError(409, "conflict", f"Others kept changing {error.stream} meanwhile.", remedy="Send it again.", **_versions(error))
        case KeyReused():
            message = "This Idempotency-Key was used for another request."
            return ApiError(409, "idempotency_key_reused", message, field="Idempotency-Key", remedy="Use a new key for a new request.")
        case LedgerUnavailable():
            return ApiError(503, error.code, error.message, {"retry-after": "1"}, remedy=error.remedy)
        case HTTPException():
            code = _STATUS_CODES.get(error.status_code, "http_error")
            return ApiError(error.status_code, code, str(error.detail), error.headers)
        case _:
            return None


def _versions(error: VersionMismatch | Conflict) -> JsonObject:
    return {"expected_version": error.expected, "actual_version": error.actual, "stream": error.stream}


def _invalid(errors: Any) -> ApiError:
    """Every field at fault, the first one up front."""
    found: list[JsonObject] = []
    for item in errors:
        path = ".".join(str(part) for part in item["loc"] if part != "body")
        found.append({"field": path, "rule": item["msg"], "code": item["type"]})
    first = found[0]
    if first["code"] == "model_attributes_type" and not first["field"]:
        remedy = "Send the fields as a JSON object, with Content-Type: application/json."
        return ApiError(422, "validation_failed", "The body is not a JSON object.", field="", rule="a JSON object", remedy=remedy)
    where = f"{first['field']}: " if first["field"] else ""
    remedy = "Mend the fields named in details.errors; the API's schema is at /docs."
    return ApiError(422, "validation_failed", f"{where}{first['rule']}", field=first["field"], errors=found, remedy=remedy)
