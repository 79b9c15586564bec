"""Viewing over HTTP: lists that page, filter and sort, and single rows with their version, now or at a past moment."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from fastapi import Path, Query
from starlette.responses import Response
from starlette.types import Receive, Scope

from api.asking import Answer, described
from api.errors import ApiError
from api.reading import AS_OF, AT_LEAST, Reader, open_reader, require_reading, require_role
from api.representing import FIELDS, fields_wanted, page_response, row_response, sparse
from api.services import Services
from domain.kernel import Asker, JsonObject
from domain.values import Role
from infra.read_queries import MAX_LIMIT, ListQuery
from projections.engine import ReadTable

_LIST_PARAMETERS: Final = frozenset({"sort", "limit", "cursor", "q", "fields", "as_of", "at_least"})
_ROW_PARAMETERS: Final = frozenset({"fields", "as_of", "at_least"})


@dataclass(frozen=True, slots=True)
class Own:
    """Rows of which everybody sees their own: `column` says whose a row is. `overseers` see those of others, when they ask for them,
    or (`whole`) unless they ask for somebody's.
    """

    column: str
    overseers: frozenset[Role]
    whole: bool = False

    def narrowed(self, asker: Asker, where: dict[str, list[str]]) -> dict[str, list[str]]:
        """The filters, kept to what the caller may see; ApiError 403 when they ask for more."""
        if self.whole and self.column not in where and self._oversees(asker):
            return where
        wanted = where.get(self.column, [asker.actor])
        if wanted != [asker.actor]:
            require_role(asker, self.overseers)
        return {**where, self.column: wanted}

    def shows(self, asker: Asker, row: JsonObject) -> bool:
        return row[self.column] == asker.actor or self._oversees(asker)

    def _oversees(self, asker: Asker) -> bool:
        return asker.domains is None and not asker.roles.isdisjoint(self.overseers)


def _moment_parameters() -> list[inspect.Parameter]:
    parameter = inspect.Parameter
    return [
        parameter("as_of", parameter.KEYWORD_ONLY, annotation=str | None, default=Query(default=None, description=AS_OF)),
        parameter("at_least", parameter.KEYWORD_ONLY, annotation=int | None, default=Query(default=None, description=AT_LEAST)),
    ]


def list_endpoint(read: ReadTable[Any]) -> Callable[..., Any]:
    parameter = inspect.Parameter

    def text(name: str, description: str) -> inspect.Parameter:
        return parameter(name, parameter.KEYWORD_ONLY, annotation=str | None, default=Query(default=None, description=description))

    parameters = [text(name, "Only rows with this value; repeat it for any of several.") for name in read.filters]
    if read.sorts:
        parameters.append(text("sort", f"One of {', '.join(read.sorts)}; with - in front for descending."))
    if read.search:
        parameters.append(text("q", f"Only rows that have this text in {', '.join(read.search)}."))
    limit = Query(default=50, ge=1, le=MAX_LIMIT, description="Rows per page.")
    parameters.append(parameter("limit", parameter.KEYWORD_ONLY, annotation=int, default=limit))
    parameters.append(text("cursor", "The next_cursor of the page before."))
    parameters.append(text("fields", FIELDS))
    return described([*parameters, *_moment_parameters()])


def row_endpoint(id_field: str) -> Callable[..., Any]:
    parameter = inspect.Parameter
    row_id = parameter(id_field, parameter.KEYWORD_ONLY, annotation=str, default=Path())
    wanted = parameter("fields", parameter.KEYWORD_ONLY, annotation=str | None, default=Query(default=None, description=FIELDS))
    return described([row_id, wanted, *_moment_parameters()])


async def _reader(services: Services, scope: Scope, roles: frozenset[Role], parameters: dict[str, list[str]]) -> Reader:
    asker = await services.authenticator.authenticate(scope["headers"])
    require_reading(asker, roles)
    as_of, at_least = (parameters[name][-1] if name in parameters else None for name in ("as_of", "at_least"))
    reader = await open_reader(services, asker, as_of, at_least, roles)
    scope["state"]["masked"] = reader.masked
    return reader


def query_parameters(scope: Scope, allowed: frozenset[str]) -> dict[str, list[str]]:
    """What the query says, by name; ApiError 422 when it names something else than what is allowed."""
    found: dict[str, list[str]] = {}
    if not scope["query_string"]:
        return found
    for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name not in allowed:
            raise ApiError(
                422,
                "invalid_parameter",
                f"There is no parameter {name!r} here.",
                field=name,
                remedy=f"Use some of {', '.join(sorted(allowed))}.",
            )
        if "\0" in value:
            raise ApiError(
                422, "invalid_parameter", f"{name} holds a NUL character.", field=name, remedy="Leave it out: no text here has one."
            )
        found.setdefault(name, []).append(value)
    return found


def _limit(texts: list[str] | None) -> int:
    text = texts[-1] if texts else "50"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_LIMIT and len(text) < 6):
        raise ApiError(
            422, "invalid_parameter", f"limit {text!r} is not between 1 and {MAX_LIMIT}.", field="limit", remedy="Page with next_cursor."
        )
    return int(text)


def list_answer(read: ReadTable[Any], roles: frozenset[Role], own: Own | None = None) -> Answer:
    allowed = frozenset(read.filters) | _LIST_PARAMETERS

    async def answer(services: Services, scope: Scope, _receive: Receive) -> Response:
        parameters = query_parameters(scope, allowed)
        wanted = fields_wanted(read, parameters.get("fields"))
        reader = await _reader(services, scope, roles, parameters)
        where = {name: parameters[name] for name in read.filters if name in parameters}
        asked = ListQuery(
            where=own.narrowed(reader.asker, where) if own else where,
            sort=parameters["sort"][-1] if "sort" in parameters else None,
            search=parameters["q"][-1] if "q" in parameters else None,
            limit=_limit(parameters.get("limit")),
            cursor=parameters["cursor"][-1] if "cursor" in parameters else None,
        )
        page = await reader.page(read, asked)
        return page_response((sparse(row, wanted) for row in page.documents), page.next_cursor, page.position, scope)

    return answer


def row_answer(
    read: ReadTable[Any], id_field: str, roles: frozenset[Role], stream: Callable[[str], str] | None, own: Own | None = None
) -> Answer:
    label = read.name.replace("_", " ").removesuffix("s")

    async def answer(services: Services, scope: Scope, _receive: Receive) -> Response:
        parameters = query_parameters(scope, _ROW_PARAMETERS)
        wanted = fields_wanted(read, parameters.get("fields"))
        reader = await _reader(services, scope, roles, parameters)
        row_id = scope["path_params"][id_field]
        found = await reader.found(read, row_id, stream(row_id) if stream else None)
        if found is None or (own and not own.shows(reader.asker, orjson.loads(found.document))):
            message = f"There is no {label} {row_id!r}{' at that time' if reader.as_of is not None else ''}."
            raise ApiError(
                404, f"{read.name.removesuffix('s')}_not_found", message, field=id_field, remedy="List them to see what is there."
            )
        return row_response(sparse(found.document, wanted), found.stream_version or found.from_position, scope)

    return answer
