"""The HTTP application: every context's routes, one error body, and a request id on every answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api import (
    audit,
    bulk,
    console,
    could,
    decisions,
    diffing,
    doctor,
    feeds,
    handbook,
    imports,
    limits,
    metrics,
    oidc,
    proofs,
    rollback,
    scim,
    streams,
    system,
    timeline,
    verifier,
    why,
    witnesses,
)
from api.describing import completed
from api.dispatch import FrontDoor
from api.errors import EXPECTED, error_response
from api.services import Services, open_services
from domain.contexts import CONTEXTS
from infra.measures import Requests
from infra.settings import Settings
from infra.version import aureus_version

_DESCRIPTION: Final = """
Every governance action becomes an immutable, signed event in an append-only ledger; what you read here is projected
from it. Send commands with `POST`, read with `GET`; every view takes `as_of` (a position or a time).
"""


class _Aureus(FastAPI):
    """FastAPI behind the front door."""

    def build_middleware_stack(self) -> ASGIApp:
        return FrontDoor(super().build_middleware_stack(), self.routes, self.state.requests, lambda: getattr(self.state, "services", None))

    def openapi(self) -> dict[str, Any]:
        """FastAPI's description, completed."""
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi(), self.routes)
        return self.openapi_schema


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope.get("state", {}).get("request_id", ""))


def create_app(settings: Settings | None = None, *, run_projections: bool = True, services: Services | None = None) -> FastAPI:
    """The application. It opens its services from `settings` when it starts, or serves with those it is given."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if services is not None:
            app.state.services = services
            yield
            return
        assert settings is not None
        async with open_services(settings, run_projections=run_projections) as opened:
            app.state.services = opened
            yield

    app = _Aureus(title="Aureus", version=aureus_version(), description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.requests = Requests()
    for kind in (*EXPECTED, Exception):
        app.add_exception_handler(kind, _on_error)
    for module in (
        *(import_module(f"api.{context}") for context in CONTEXTS),
        audit,
        bulk,
        could,
        decisions,
        diffing,
        doctor,
        feeds,
        imports,
        limits,
        metrics,
        oidc,
        proofs,
        rollback,
        scim,
        streams,
        system,
        timeline,
        verifier,
        why,
        witnesses,
        console,
        handbook,
    ):
        # The routes themselves, not copies in a nested router: theirs is the ASGI application that answers.
        app.router.routes.extend(module.router.routes)
    return app
