"""Imports over REST: a foreign document in, its commands down the one command path, and a line for each as it ends."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse

from api.asking import ask_of, read_body
from api.errors import ApiError, error_response
from api.routing import ContextRouter
from api.services import Services
from commands.catalog import SyncDataset
from commands.importing import DocumentRefused, ImportCommand, dbt, odcs
from commands.outcome import Outcome
from commands.path import Ask
from domain.kernel import Asker
from domain.ledger import Conflict, EventTooLarge, LedgerUnavailable
from domain.values import uuid7
from infra.canonical import ProfileError, loads_strict
from infra.standards import require_odcs
from infra.yaml_documents import load_yaml

MAX_JSON_BYTES: Final = 64 * 1_048_576
MAX_YAML_BYTES: Final = 4 * 1_048_576
_AT_ONCE: Final = 64
_YAML_TYPES: Final = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
_DBT: Final = {"document": "dbt's target/manifest.json.", "catalog": "dbt's target/catalog.json, for column types; may be left out."}
_ODCS: Final = {"document": "The contract."}


def _body(members: Mapping[str, str], *, yaml: bool = False) -> dict[str, Any]:
    """What the OpenAPI says of a body that is read here rather than by a model."""
    properties = {name: {"type": "object", "description": text} for name, text in members.items()}
    schema = {"type": "object", "required": ["document"], "properties": properties, "additionalProperties": False}
    as_yaml = {"application/yaml": {"schema": {"type": "string", "description": "The contract as it is written."}}} if yaml else {}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}, **as_yaml}}}


router = ContextRouter(prefix="/v1/imports", tags=["imports"])


@router.query(
    "/dbt", roles=SyncDataset.roles, narrowed=True, methods=("POST",), response_class=StreamingResponse, openapi_extra=_body(_DBT)
)
async def import_dbt(request: Request) -> StreamingResponse:
    """Import a dbt project's manifest, with its catalog for column types; answers one JSON line for each command.

    The document is read whole first: one that cannot be is refused with every problem in it, and nothing is changed.
    What is there already as described is `unchanged`, so a document can be sent again, and again after it was edited.
    """

    def commands(body: bytes) -> list[ImportCommand]:
        sent = _sent(body, _DBT)
        return dbt.read(sent["document"], sent.get("catalog"))

    return await _import(request, await read_body(request.receive, MAX_JSON_BYTES), commands)


@router.query(
    "/odcs",
    roles=SyncDataset.roles,
    narrowed=True,
    methods=("POST",),
    response_class=StreamingResponse,
    openapi_extra=_body(_ODCS, yaml=True),
)
async def import_odcs(request: Request) -> StreamingResponse:
    """Import an Open Data Contract Standard v3 contract, as JSON or as YAML; answers one JSON line for each command.

    It is held against the standard's own JSON Schema first, and refused with every place where it breaks that.
    """
    is_yaml = request.headers.get("content-type", "").partition(";")[0].strip().lower() in _YAML_TYPES

    def commands(body: bytes) -> list[ImportCommand]:
        document = load_yaml(body) if is_yaml else _sent(body, _ODCS)["document"]
        require_odcs(document)
        return odcs.read(document)

    return await _import(request, await read_body(request.receive, MAX_YAML_BYTES if is_yaml else MAX_JSON_BYTES), commands)


async def _import(request: Request, body: bytes, commands: Callable[[bytes], list[ImportCommand]]) -> StreamingResponse:
    services: Services = request.app.state.services
    asker = await services.authenticator.authenticate(request.scope["headers"])
    try:
        # A large document takes seconds to read; other requests need not wait for that.
        found = await asyncio.to_thread(commands, body)
    except DocumentRefused as refusal:
        raise ApiError(422, refusal.code, refusal.message, **refusal.facts) from None
    asks = _asks(found, asker, request, hashlib.sha256(body).hexdigest())
    return StreamingResponse(_lines(services, asks, request.scope["state"]["request_id"]), media_type="application/x-ndjson")


def _sent(body: bytes, members: Mapping[str, str]) -> dict[str, Any]:
    try:
        sent = loads_strict(body)
    except ValueError as error:
        raise ApiError(422, "validation_failed", f"The body is not JSON: {error}.", field="", remedy="Send JSON in UTF-8.") from None
    if not isinstance(sent, dict) or "document" not in sent or set(sent) - set(members):
        rule = f"The body is an object with {', '.join(members)}, and no more."
        raise ApiError(422, "validation_failed", rule, field="document", remedy='Send {"document": {...}}.')
    return sent


def _asks(commands: Sequence[ImportCommand], asker: Asker, request: Request, digest: str) -> list[Ask]:
    """Each command in the circumstances of the request, all tied together.

    Only a key that the caller chose makes a command a repetition: the document alone does not, for a document may be
    sent again to undo what another one changed meanwhile.
    """
    import_id = uuid7()
    asks = []
    for index, command in enumerate(commands):
        ask = ask_of(command, asker, request.scope["headers"])
        key = ask.idempotency_key and hashlib.sha256(f"{ask.idempotency_key}:{digest}:{index}".encode()).hexdigest()
        correlation = ask.correlation or import_id
        asks.append(replace(ask, idempotency_key=key, correlation=correlation, if_match=None, approval_id=None, artifacts=()))
    return asks


async def _lines(services: Services, asks: Sequence[Ask], request_id: str) -> AsyncIterator[bytes]:
    yield _line({"total": len(asks)})
    told: Counter[str] = Counter()
    position = 0
    groups = list(_by_dataset(asks))
    index = 0
    # Datasets of one window are decided side by side and share commits; the commands of one dataset follow each other.
    for start in range(0, len(groups), _AT_ONCE):
        window = await asyncio.gather(*(_in_order(services, group, request_id) for group in groups[start : start + _AT_ONCE]))
        for ended in window:
            for line, reached in ended:
                told[line["outcome"]] += 1
                position = max(position, reached)
                yield _line({"index": index, **line})
                index += 1
    yield _line({"done": {"total": len(asks), **told, "position": position}})


def _by_dataset(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    for _, group in groupby(asks, key=lambda ask: getattr(ask.command, "dataset_id", None)):
        yield list(group)


async def _in_order(services: Services, group: Sequence[Ask], request_id: str) -> list[tuple[dict[str, Any], int]]:
    return [await _ended(services, ask, request_id) for ask in group]


async def _ended(services: Services, ask: Ask, request_id: str) -> tuple[dict[str, Any], int]:
    named = {"dataset_id": getattr(ask.command, "dataset_id", None), "command": ask.command.command_name}
    try:
        outcome = await services.path.handle(ask)
    except (Conflict, EventTooLarge, LedgerUnavailable, ProfileError) as error:
        body = orjson.loads(bytes(error_response(error, request_id).body))
        return {**named, "outcome": "failed", "error": body["error"]}, 0
    return {**named, "action_id": outcome.action_id, **_told(outcome)}, outcome.position


def _told(outcome: Outcome) -> dict[str, Any]:
    if outcome.outcome == "blocked":
        error = {"code": outcome.code, "message": outcome.message, "details": outcome.facts}
        return {"outcome": "blocked", "error": error}
    if outcome.approval is not None:
        return {"outcome": "requires_approval", **outcome.approval}
    return {"outcome": "allowed" if outcome.events else "unchanged", "events": [event["type"] for event in outcome.events]}


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"
