"""How an answer shows what was found: only the fields that were asked for, and not again to who has it already."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Scope

from api.errors import ApiError
from projections.engine import ReadTable

FIELDS: Final = "Only these fields of each row, separated by commas."
_TAG_BYTES: Final = 8


def fields_wanted(read: ReadTable[Any], texts: Sequence[str] | None) -> tuple[str, ...] | None:
    """The fields that `fields=` names, in the row's order; None for all. ApiError 422 for one that no row has."""
    if not texts:
        return None
    wanted = {name.strip() for text in texts for name in text.split(",")} - {""}
    known = [each.name for each in fields(read.row)]
    unknown = sorted(wanted.difference(known))
    if unknown or not wanted:
        message = f"There is no field {unknown[0]!r} here." if unknown else "fields names no field."
        raise ApiError(422, "invalid_parameter", message, field="fields", rule="names of fields", remedy=f"Use some of {', '.join(known)}.")
    return tuple(name for name in known if name in wanted)


def sparse(document: str, wanted: tuple[str, ...] | None) -> str:
    """A row's document with the wanted fields alone."""
    if wanted is None:
        return document
    whole = orjson.loads(document)
    return orjson.dumps({name: whole[name] for name in wanted if name in whole}).decode()


def tag(content: bytes) -> str:
    """Tells one content from another."""
    return hashlib.blake2b(content, digest_size=_TAG_BYTES).hexdigest()


def row_response(document: str, version: int, scope: Scope) -> Response:
    """One row. Its ETag says the version, which If-Match goes by, and which content it is, for If-None-Match: a row may change by
    events of other streams than its own."""
    content = document.encode()
    return _response(content, f'"{version}-{tag(content)}"', scope)


def page_response(documents: Iterable[str], next_cursor: str | None, position: int, scope: Scope) -> Response:
    """A page of rows. The position moves with every event, so the ETag goes by the rows alone."""
    rows, cursor = ",".join(documents), orjson.dumps(next_cursor).decode()
    body = f'{{"items":[{rows}],"next_cursor":{cursor},"position":{position}}}'
    return _response(body.encode(), f'W/"{tag(rows.encode())}"', scope)


def _response(content: bytes, etag: str, scope: Scope) -> Response:
    headers = {"etag": etag, "x-request-id": scope["state"]["request_id"]}
    if _has_it(scope, etag):
        return Response(None, 304, headers)
    return Response(content, 200, headers, "application/json")


def _has_it(scope: Scope, etag: str) -> bool:
    """Whether If-None-Match names it; by RFC 9110 strong and weak tags compare as equal there."""
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            told = {part.strip().removeprefix("W/") for part in value.decode("latin-1").split(",")}
            return etag.removeprefix("W/") in told or "*" in told
    return False
