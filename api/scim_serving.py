"""SCIM as it is spoken: a request becomes a change of one person or group, and what stands then is the answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import orjson
from pydantic import ValidationError
from scim2_models import (
    Context,
    Error,
    InvalidSyntaxException,
    ListResponse,
    Meta,
    NotFoundException,
    NotImplementedException,
    PatchOp,
    PreconditionFailedException,
    Resource,
    ResponseParameters,
    SCIMException,
    ScimFilter,
    SearchRequest,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from api.asking import read_body
from api.errors import ApiError
from api.scim import MEDIA_TYPE, PREFIX
from api.scim_groups import Groups
from api.scim_shapes import CONFIG, DISCOVERY, LENIENT, PROVIDER, RESULTS_MAX, Group, User
from api.scim_users import Users
from api.services import Services
from domain.kernel import Asker, JsonObject
from infra.canonical import ProfileError, loads_strict
from infra.scim_users import ScimChanges

_CREATING: Final = Context.RESOURCE_CREATION_REQUEST
_REPLACING: Final = Context.RESOURCE_REPLACEMENT_REQUEST
_PATCHING: Final = Context.RESOURCE_PATCH_REQUEST
_SHOWING: Final = Context.RESOURCE_QUERY_RESPONSE


class Holdings(Protocol):
    """All resources of one kind in one tenant. What changes them is asked in the provider's turn, of `changes`."""

    async def get(self, scim_id: str) -> Any | None: ...
    async def find(self, wanted: ScimFilter[Any] | None) -> list[Any]: ...
    async def create(self, wanted: Any, changes: ScimChanges) -> str: ...
    async def change(self, before: Any, after: Any, changes: ScimChanges) -> None: ...
    async def remove(self, before: Any, changes: ScimChanges) -> None: ...


MODELS: Final[dict[str, type[Resource[Any]]]] = {"Users": User, "Groups": Group}


async def serve(what: str, kind: str, services: Services, asker: Asker, scope: Scope, receive: Receive) -> Response:
    """The answer to one request. Raises ApiError with `scim_type` for what SCIM calls an error."""
    call = Call(services, asker, kind, scope, receive)
    try:
        with PROVIDER:
            response: Response = await getattr(call, what)()
    except SCIMException as error:
        raise _as_api_error(error.to_error()) from error
    except ValidationError as invalid:
        raise _as_api_error(Error.from_validation_errors(invalid)[0]) from invalid
    return response


def _as_api_error(error: Error) -> ApiError:
    details = {"scim_type": error.scim_type} if error.scim_type else {}
    return ApiError(error.status or 400, "scim_error", error.detail or "Not valid.", **details)


@dataclass(frozen=True, slots=True)
class Call:
    """One request about one kind of resource."""

    services: Services
    asker: Asker
    kind: str
    scope: Scope
    receive: Receive

    # -- what there is

    async def configured(self) -> Response:
        return self._told(self._plain(CONFIG))

    async def known(self) -> Response:
        found = [self._plain(one) for one in DISCOVERY[self.kind]]
        return self._told(
            {
                "schemas": [str(ListResponse.__schema__)],
                "totalResults": len(found),
                "startIndex": 1,
                "itemsPerPage": len(found),
                "Resources": found,
            }
        )

    async def known_as(self) -> Response:
        wanted = self.scope["path_params"]["name"]
        for one in DISCOVERY[self.kind]:
            if wanted in {one.id, getattr(one, "name", None)}:
                return self._told(self._plain(one))
        raise NotFoundException(detail=f"There is no {wanted} among the {self.kind}.")

    async def nothing(self) -> Response:
        raise NotFoundException(detail="Nothing is here: use Users, Groups, ServiceProviderConfig, ResourceTypes or Schemas.")

    async def refuse(self) -> Response:
        raise NotImplementedException(
            detail="Neither bulk requests nor searches over several kinds are supported; see ServiceProviderConfig."
        )

    # -- reading

    async def show(self) -> Response:
        found = await self._found()
        parameters = ResponseParameters[self._model].model_validate(self._asked())  # type: ignore[name-defined]
        shown = self._shown(found, parameters)
        given = self._header(b"if-none-match")
        if given is not None and shown["etag"] in _tags(given):
            return Response(None, 304, {"etag": shown["etag"]})
        return self._told(shown["body"], etag=shown["etag"])

    async def list(self) -> Response:
        request = SearchRequest[self._model].model_validate(self._asked())  # type: ignore[name-defined]
        found = request.sort(await self._all().find(request.filter))
        first = request.start_index or 1
        count = min(RESULTS_MAX if request.count is None else request.count, RESULTS_MAX)
        page = found[first - 1 : first - 1 + count]
        return self._told(
            {
                "schemas": [str(ListResponse.__schema__)],
                "totalResults": len(found),
                "startIndex": first,
                "itemsPerPage": len(page),
                "Resources": [self._shown(one, request)["body"] for one in page],
            }
        )

    # -- changing

    async def create(self) -> Response:
        wanted = self._model.model_validate(await self._body(), scim_ctx=_CREATING)
        async with self.services.scim.alone(self.asker.tenant) as changes:
            made = await self._all().get(await self._all().create(wanted, changes))
        return self._answer(made, 201)

    async def replace(self) -> Response:
        wanted = self._model.model_validate(await self._body(), scim_ctx=_REPLACING)
        async with self.services.scim.alone(self.asker.tenant) as changes:
            before = await self._matching()
            wanted.replace(before)
            await self._all().change(before, wanted, changes)
            after = await self._found()
        return self._answer(after)

    async def patch(self) -> Response:
        asked = PatchOp[self._model].model_validate(await self._body(), scim_ctx=_PATCHING)  # type: ignore[name-defined]
        async with self.services.scim.alone(self.asker.tenant) as changes:
            before = await self._matching()
            wanted = before.model_copy(deep=True)
            asked.patch(wanted, LENIENT)
            await self._all().change(before, wanted, changes)
            after = await self._found()
        return self._answer(after)

    async def delete(self) -> Response:
        async with self.services.scim.alone(self.asker.tenant) as changes:
            await self._all().remove(await self._matching(), changes)
        return Response(None, 204)

    # -- within

    @property
    def _model(self) -> type[Resource[Any]]:
        return MODELS[self.kind]

    def _all(self) -> Holdings:
        return Users(self.services, self.asker) if self.kind == "Users" else Groups(self.services, self.asker)

    async def _found(self) -> Any:
        scim_id = self.scope["path_params"]["scim_id"]
        found = await self._all().get(scim_id)
        if found is None:
            raise NotFoundException(detail=f"There is no {scim_id} among the {self.kind}.")
        return found

    async def _matching(self) -> Any:
        """The resource to be changed, as long as it is the one that If-Match names."""
        found = await self._found()
        given = self._header(b"if-match")
        if given is not None and given.strip() != "*" and self._shown(found, None)["etag"] not in _tags(given):
            raise PreconditionFailedException(detail="It was changed meanwhile: read it again.")
        return found

    async def _body(self) -> JsonObject:
        try:
            given = loads_strict(await read_body(self.receive))
        except ProfileError as error:
            raise InvalidSyntaxException(detail=f"{error}.") from error
        if not isinstance(given, dict):
            raise InvalidSyntaxException(detail="The body is not a JSON object.")
        return given

    def _asked(self) -> dict[str, str]:
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1")))

    def _header(self, wanted: bytes) -> str | None:
        return next((value.decode("latin-1") for name, value in self.scope["headers"] if name == wanted), None)

    def _plain(self, resource: Any) -> JsonObject:
        body: JsonObject = resource.model_dump(scim_ctx=_SHOWING)
        return body

    def _shown(self, resource: Any, parameters: Any) -> JsonObject:
        """A resource as it is told, and its ETag, which says nothing but that it is the same."""
        tag = hashlib.sha256(orjson.dumps(resource.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        etag = f'W/"{tag}"'
        told, root = resource.model_copy(deep=True), f"{str(Request(self.scope).base_url).rstrip('/')}{PREFIX}"
        for member in getattr(told, "members", None) or ():
            member.ref = f"{root}/{member.type}s/{member.value}"
        told.meta = Meta(
            resource_type=self._model.__name__,
            created=resource.meta.created,
            last_modified=resource.meta.last_modified,
            location=f"{root}/{self.kind}/{resource.id}",
            version=etag,
        )
        return {"body": told.model_dump(scim_ctx=_SHOWING, response_parameters=parameters), "etag": etag}

    def _answer(self, resource: Any, status: int = 200) -> Response:
        shown = self._shown(resource, None)
        return self._told(shown["body"], status, etag=shown["etag"], location=shown["body"]["meta"]["location"])

    def _told(self, body: JsonObject, status: int = 200, **headers: str) -> Response:
        return Response(orjson.dumps(body), status, {**headers, "x-request-id": self.scope["state"]["request_id"]}, MEDIA_TYPE)


def _tags(header: str) -> set[str]:
    """Entity tags, compared weakly: a proxy may have made ours strong, or have been told it without its mark."""
    return {f"W/{tag.strip().removeprefix('W/')}" for tag in header.split(",")}
