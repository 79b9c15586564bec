"""SCIM 2.0 (RFC 7643, RFC 7644): an identity provider creates, changes and ends the accounts of people and groups here.

What has power - that an actor exists, may act, is in a group - goes through the one command path like everything else. What the
provider says of a person besides is kept beside the ledger (infra/scim_users.py).
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any, Final

import orjson
from fastapi import Path
from starlette.responses import Response
from starlette.types import Receive, Scope

from api.asking import described
from api.errors import known_error
from api.reading import require_everywhere, require_scope
from api.routing import ContextRouter
from api.services import Services
from domain.access import PROVISION
from domain.kernel import Asker, JsonObject
from domain.values import Role

NOWHERE: Final = "(not there)"
PREFIX: Final = "/scim/v2"
MEDIA_TYPE: Final = "application/scim+json"
PROVISIONERS: Final = frozenset({Role.ADMIN})
Headers = list[tuple[bytes, bytes]]


async def provisioner(services: Services, headers: Headers) -> Asker:
    """Who asks, if they may provision. Raises Unauthenticated, or ApiError 403."""
    asker = await services.authenticator.authenticate(headers)
    require_scope(asker, PROVISION)
    require_everywhere(asker, PROVISIONERS)
    return asker


def failure(error: Exception, request_id: str) -> Response:
    """The error body of RFC 7644, section 3.12."""
    known = known_error(error, request_id)
    body: JsonObject = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": str(known.status), "detail": known.message}
    if "scim_type" in known.details:
        body["scimType"] = known.details["scim_type"]
    elif "remedy" in known.details:
        body["detail"] = f"{known.message} {known.details['remedy']}"
    return Response(orjson.dumps(body), known.status, {**known.headers, "x-request-id": request_id}, MEDIA_TYPE)


class _Router(ContextRouter):
    """Routes that answer as SCIM does, errors included."""

    def serve(self, method: str, path: str, what: str, kind: str = "", *, status: int = 200, described_as: str | None = None) -> None:
        """Answers with `api.scim_serving.<what>(call)`."""

        async def answer(services: Services, scope: Scope, receive: Receive) -> Response:
            request_id = scope["state"]["request_id"]
            try:
                asker = await provisioner(services, scope["headers"])
                # Loaded with the first request: the models of SCIM take longer to load than all the rest of a server.
                serving = import_module("api.scim_serving")
                response: Response = await serving.serve(what, kind, services, asker, scope, receive)
            except Exception as error:  # noqa: BLE001 - whatever it was, the provider gets the error body of SCIM
                response = failure(error, request_id)
            return response

        summary = described_as or f"{what.capitalize()} SCIM {kind}"
        parameter = inspect.Parameter
        in_path = [parameter(name, parameter.KEYWORD_ONLY, annotation=str, default=Path()) for name in re.findall(r"{(\w+)", path)]
        shown: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"type": "object"}}}, "description": "As RFC 7644 has it"}
        self._declare(
            path,
            method,
            described(in_path),
            answer,
            PROVISIONERS,
            name=f"scim_{what}_{kind.lower()}",
            summary=summary,
            description=f"{summary}: RFC 7644; errors have its body as well.",
            status_code=status,
            response_class=Response,
            responses={} if status == 204 else {status: shown},
            include_in_schema=described_as != NOWHERE,
        )


router = _Router(prefix=PREFIX, tags=["scim"])
router.serve("GET", "/ServiceProviderConfig", "configured", described_as="What this SCIM service can do")
for _kind, _described in (("ResourceTypes", "The kinds of resources there are"), ("Schemas", "The attributes that are kept")):
    router.serve("GET", f"/{_kind}", "known", _kind, described_as=_described)
    router.serve("GET", f"/{_kind}/{{name}}", "known_as", _kind, described_as=f"{_described}: one of them")
for _kind in ("Users", "Groups"):
    router.serve("GET", f"/{_kind}", "list", _kind)
    router.serve("POST", f"/{_kind}", "create", _kind, status=201)
    router.serve("GET", f"/{_kind}/{{scim_id}}", "show", _kind)
    router.serve("PUT", f"/{_kind}/{{scim_id}}", "replace", _kind)
    router.serve("PATCH", f"/{_kind}/{{scim_id}}", "patch", _kind)
    router.serve("DELETE", f"/{_kind}/{{scim_id}}", "delete", _kind, status=204)
for _path in ("/.search", "/Bulk"):
    router.serve("POST", _path, "refuse", described_as=NOWHERE)
router.serve("GET", "/{rest:path}", "nothing", described_as=NOWHERE)
