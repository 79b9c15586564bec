"""A whole Aureus in this process, with policies of the test's own and a client that asks as whoever the test names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from api.app import create_app
from api.services import Services, open_services
from commands.access import RegisterActor
from domain.kernel import Asker
from infra.limit_settings import Front
from infra.operations_settings import RESOURCES, Operations
from infra.settings import S3Place, Settings, TokenPlace
from tests.support.kernel import ADM, STAND_IN, ask, written

CALM: Final[dict[str, Any]] = {
    "front": Front.open(),
    "operations": Operations(alert_percent=tuple(dict.fromkeys(RESOURCES, 100).items())),
}
"""Settings by which nobody is refused for asking much, nor told that they do or that this machine is busy."""


@dataclass(frozen=True)
class Aureus:
    """A running Aureus, reached as over HTTP."""

    services: Services
    http: httpx.AsyncClient

    async def know(self, *askers: Asker) -> None:
        """Registers actors, so that they can log in, and waits until the read models know them."""
        position = 0
        for one in askers:
            command = RegisterActor(actor_id=one.actor, kind=one.kind, granted_roles=tuple(one.roles), owner=one.owner)
            position = (await self.services.path.handle(ask(command, ADM))).position
        await self.services.wait_for(position)

    async def get(self, path: str, by: Asker, /, **parameters: Any) -> httpx.Response:
        return await self.http.get(path, headers=self._identity(by), params=parameters)

    async def post(self, path: str, body: Any, by: Asker, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, headers={**self._identity(by), **named}, json=body)

    def _identity(self, by: Asker) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.services.tokens.issue(by)}"}


@asynccontextmanager
async def running(
    dsn: str,
    home: Path,
    rego: str = STAND_IN,
    *,
    reacting: bool = True,
    s3: S3Place | None = None,
    token: TokenPlace | None = None,
    **more: Any,
) -> AsyncIterator[Aureus]:
    """An Aureus on this database; without `reacting` it neither moves the read models nor reacts to anything.

    `more` are other settings by name, and stand in place of those of CALM.
    """
    policies = written(home / "policies", rego)
    chosen = CALM | more
    settings = Settings(home=home, database_url=dsn, tenant="acme", policies=policies, demo=False, s3=s3, token_place=token, **chosen)
    async with open_services(settings, run_projections=reacting) as services:
        app = create_app(services=services)
        app.state.services = services
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            yield Aureus(services, http)
