"""Aureus as its users meet it: `aureus serve` in a process of its own, with a demo login and a client to prepare it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from api.services import open_services
from bench.lab import CannotMeasure
from bench.servers import answers, ending, free_port, wait_until
from infra.demo import ensure_demo
from infra.settings import Settings

UNLIMITED: Final = {f"AUREUS_LIMIT_{limit}": "off" for limit in ("QUERIES", "QUERIES_PREMIUM", "ACTOR", "KEY", "ADDRESS", "ATTEMPTS")}
"""One program here makes the requests of a whole company."""
TOKEN_SECONDS: Final = 600
"""A token is renewed after this; it is good for 900."""


@dataclass
class Server:
    """A running Aureus, and a token of a login that holds a role."""

    port: int
    home: Path
    dsn: str | None = None
    _token: str = ""
    _renew_at: float = 0.0

    def bearer(self, role: str = "admin") -> dict[str, str]:
        """The Authorization header of a demo login with that role."""
        if time.monotonic() >= self._renew_at:
            login = self._demo_login(role)
            answer = self.post("/v1/auth/token", {"login": login["login"], "password": login["password"]}, headers={})
            self._token, self._renew_at = answer["access_token"], time.monotonic() + TOKEN_SECONDS
        return {"Authorization": f"Bearer {self._token}"}

    def _demo_login(self, role: str) -> dict[str, Any]:
        file = self.home / "demo-logins.json"
        logins = json.loads(file.read_text()) if file.exists() else []
        found: dict[str, Any] | None = next((login for login in logins if role in login["roles"]), None)
        if found is None:
            raise CannotMeasure(f"{file} names no login with the role {role}: `aureus serve` makes it at its first start")
        return found

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        headers = self.bearer() if headers is None else headers
        return _accepted(httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, headers=headers, timeout=30))

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", params=parameters, headers=self.bearer(), timeout=30)


def _accepted(answer: httpx.Response) -> Any:
    if answer.status_code not in (200, 201):
        raise CannotMeasure(f"{answer.request.url} answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()


async def found(home: Path, dsn: str) -> None:
    """Founds a ledger with the demo's logins in a database of the lab's; `aureus serve` does that only for its own."""
    async with open_services(Settings(home, database_url=dsn), run_projections=False) as services:
        await ensure_demo(services)


@contextmanager
def serving(
    home: Path,
    dsn: str | None = None,
    ready: Callable[[int], bool] | None = None,
    settings: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """`aureus serve` on a home of its own; on `dsn`, or on its embedded PostgreSQL. Waits until `ready(port)`, or /readyz says so.

    `settings` are further ones, by their names in the environment; nobody is limited unless they say so.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL" and not name.startswith("AUREUS_")}
    environment |= {"AUREUS_HOME": str(home), "AUREUS_PORT": str(port), "AUREUS_LOG_LEVEL": "warning", **UNLIMITED, **(settings or {})}
    if dsn is not None:
        environment["DATABASE_URL"] = dsn
    log = home / "serve.log"
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", "api.cli", "serve", *options], env=environment, stdout=output, stderr=output)
    with ending(process):
        wait_until(lambda: ready(port) if ready else answers(port, "/readyz"), process, "aureus serve", log)
        yield Server(port, home, dsn)
