"""The API's description (OpenAPI): who may ask for an operation, and what many operations share said once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from domain.kernel import JsonObject

IDENTITIES: Final = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "From POST /v1/auth/token."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "From POST /v1/api-keys."},
}
_SHARED_FROM: Final = 5
"""So many operations say the same, before it is said elsewhere."""


def completed(document: JsonObject, routes: Sequence[BaseRoute]) -> JsonObject:
    """FastAPI's description with the ways to say who one is, the roles that open each operation, and shared parts in `components`."""
    document.setdefault("components", {})["securitySchemes"] = IDENTITIES
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema and (roles := getattr(route, "authorisation", None)):
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                operation["security"] = [{name: []} for name in IDENTITIES]
                operation["x-roles"] = sorted(roles)
    _share(document, "responses", _responses)
    _share(document, "parameters", _parameters)
    return document


def _operations(document: JsonObject) -> Iterator[JsonObject]:
    for methods in document["paths"].values():
        yield from methods.values()


def _responses(operation: JsonObject) -> Iterator[tuple[Any, Any, JsonObject, str]]:
    """(where it stands, under which key, what it says, what to call it)"""
    for status, said in operation.get("responses", {}).items():
        yield operation["responses"], status, said, said.get("description", status)


def _parameters(operation: JsonObject) -> Iterator[tuple[Any, Any, JsonObject, str]]:
    for place, said in enumerate(operation.get("parameters", ())):
        yield operation["parameters"], place, said, said["name"]


def _share(document: JsonObject, kind: str, parts: Any) -> None:
    """Puts what at least `_SHARED_FROM` operations say in the same words under `components`, named after it."""
    found: dict[bytes, list[tuple[Any, Any, str]]] = defaultdict(list)
    for operation in _operations(document):
        for place, key, said, name in parts(operation):
            found[orjson.dumps(said, option=orjson.OPT_SORT_KEYS)].append((place, key, name))
    shared = document["components"].setdefault(kind, {})
    for said_as, places in found.items():
        if len(places) < _SHARED_FROM:
            continue
        name = _free(shared, places[0][2])
        shared[name] = orjson.loads(said_as)
        for place, key, _ in places:
            place[key] = {"$ref": f"#/components/{kind}/{name}"}


def _free(shared: JsonObject, wanted: str) -> str:
    """A name that nothing shared has yet: `No valid identity` -> `NoValidIdentity`."""
    base = "".join(word[:1].upper() + word[1:] for word in "".join(c if c.isalnum() else " " for c in wanted).split())
    return next(name for name in (base, *(f"{base}{number}" for number in range(2, 1_000))) if name not in shared)
