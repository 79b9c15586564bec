"""The asker's side of signed requests: signs every command that is sent, with a key that the server never has.

    httpx.Client(base_url=..., headers=..., auth=SignedRequests(read_key(file, "actor"), ledger, tenant, actor))

The digest is computed here, from what is sent and by the rules of the command's own class; no digest that a server says is
signed. Where the server completes a command, what it added is fetched first, and all that was asked must stand in it unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
from pydantic import ValidationError

from domain.kernel import Command, JsonObject
from domain.values import uuid7
from infra.canonical import ProfileError, loads_strict
from infra.key_files import Signer
from infra.request_signing import HEADER, PREPARE, header_of, sign

NONCE: Final = "Idempotency-Key"
"""What is signed is carried out once: the nonce and the idempotency key are the same."""

ROUTES: Final = Path(__file__).parent / "commands.json"
"""Written from the routes themselves (`python -m api.reference`): to load all of those takes seconds."""

COMPLETED: Final = {
    "/v1/agents/{agent_id}/actions": "commands.agents:RequestAction",
    "/v1/keys/server/{role}/rotate": "commands.keys:RotateKey",
}
"""Commands that the server completes and that can be signed: with what data is like now, and with its own next key."""


class NotSigned(ValueError):
    """A request that cannot be signed, or that the server made another one of; it is not sent."""


class SignedRequests(httpx.Auth):
    """Signs commands as one actor of one ledger, for clients of httpx, in step or not."""

    requires_request_body = True
    requires_response_body = True

    def __init__(
        self, key: Signer, ledger: str, tenant: str, actor: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._key, self._ledger, self._tenant, self._actor, self._clock = key, ledger, tenant, actor, clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request with its signature, made anew for each time it is sent; raises NotSigned."""
        place = place_of(request.url.path) if request.method == "POST" else None
        if place is not None and place.completed:
            request.headers[PREPARE] = "1"
            prepared = yield request
            del request.headers[PREPARE]
            if prepared.status_code != 200:
                return
            self._sign(request, place.checked(prepared.json(), request.content))
        elif place is not None and (command := place.asked(request.content)) is not None:
            self._sign(request, command)
        yield request

    def _sign(self, request: httpx.Request, command: Command) -> None:
        nonce = nonce_of(request.headers.get(NONCE))
        who = (self._ledger, self._tenant, self._actor)
        signature = sign(*who, command.command_name, command.digest(), self._key, self._clock(), nonce)
        request.headers[NONCE] = nonce
        request.headers[HEADER] = header_of(signature)


def nonce_of(idempotency_key: str | None) -> str:
    """The idempotency key as a nonce, or a fresh one where there is none; NotSigned when it is not a UUID."""
    try:
        return str(UUID(idempotency_key)) if idempotency_key else str(uuid7())
    except ValueError:
        raise NotSigned(f"{NONCE} {idempotency_key!r} cannot be signed: the nonce of a signature is a UUID") from None


@dataclass(frozen=True, slots=True)
class Place:
    """A path that a command is asked for at: its class, and what the path says of it."""

    command: type[Command]
    in_path: JsonObject
    completed: bool

    def asked(self, body: bytes) -> Command | None:
        """The command that a body asks for; None when it will be refused as it is."""
        try:
            return self.command.model_validate({**(loads_strict(body) if body else {}), **self.in_path})
        except (ProfileError, TypeError, ValidationError):
            return None

    def checked(self, prepared: Any, body: bytes) -> Command:
        """The command as the server completed it; NotSigned when it is another, or says another thing than was asked."""
        if prepared.get("command") != self.command.command_name:
            raise NotSigned(f"the server prepared {prepared.get('command')!r}, asked was {self.command.command_name}")
        command = self.command.model_validate(prepared["inputs"])
        inputs = command.intent()
        for name, asked in {**(loads_strict(body) if body else {}), **self.in_path}.items():
            if inputs.get(name) != asked:
                raise NotSigned(f"the server prepared {self.command.command_name} with another {name} than was asked")
        return command


def place_of(path: str) -> Place | None:
    """What is asked for at a path, when it is a command that can be signed."""
    for pattern, name, completed in _routes():
        if found := pattern.fullmatch(path):
            module, _, command = name.partition(":")
            return Place(getattr(import_module(module), command), found.groupdict(), completed)
    return None


@cache
def _routes() -> tuple[tuple[re.Pattern[str], str, bool], ...]:
    routes = [(path, name, path in COMPLETED) for path, name in {**json.loads(ROUTES.read_text()), **COMPLETED}.items()]
    return tuple((re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), name, completed) for path, name, completed in routes)
