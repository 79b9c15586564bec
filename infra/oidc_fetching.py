"""What is fetched from an identity provider: never more than it should be, never for longer, and kept while the provider is away."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import httpx

ANSWER_SECONDS_MAX: Final = 5.0
CONNECT_SECONDS_MAX: Final = 2.0
ANSWER_BYTES_MAX: Final = 256 * 1024
FRESH_SECONDS: Final = 3_600.0
"""How long a document is used before it is looked for again, in the background."""
KEPT_SECONDS: Final = 86_400.0
"""How long it is used when the provider is away: a key that was withdrawn meanwhile is not believed for ever."""
RETRY_SECONDS: Final = 5.0
"""How long after one look the next may be: tokens with made-up key ids make nobody ask the provider more often."""

log = logging.getLogger(__name__)
Thing = TypeVar("Thing")


class ProviderUnreachable(Exception):
    """The identity provider does not answer, or not with what it should."""


class Fetching:
    """JSON from a provider over one small pool of connections; no redirect is followed, no compressed answer is taken."""

    def __init__(self, tls_roots: Path | None = None) -> None:
        trusted = ssl.create_default_context(cafile=str(tls_roots)) if tls_roots else True
        self._http = httpx.AsyncClient(
            verify=trusted,
            timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            limits=httpx.Limits(max_connections=16, keepalive_expiry=15),
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, url: str) -> dict[str, Any]:
        """The object there. Raises ProviderUnreachable."""
        status, told = await self._ask("GET", url)
        if status != 200:
            raise ProviderUnreachable(f"{url} answers {status}")
        return told

    async def post(self, url: str, form: Mapping[str, str], *, user: tuple[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """What a form is answered with, 200 or an OAuth error (4xx). Raises ProviderUnreachable."""
        status, told = await self._ask("POST", url, data=dict(form), auth=user)
        if status != 200 and not (400 <= status < 500 and isinstance(told.get("error"), str)):
            raise ProviderUnreachable(f"{url} answers {status}")
        return status, told

    async def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX), self._http.stream(method, url, **more) as answer:
                body = await _read(answer, url)
        except (httpx.HTTPError, TimeoutError) as error:
            raise ProviderUnreachable(f"{url}: {type(error).__name__}") from error
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise ProviderUnreachable(f"{url} answers {answer.status_code} with something that is no JSON object")
        return answer.status_code, told


async def _read(answer: httpx.Response, url: str) -> bytes:
    if "content-encoding" in answer.headers:
        raise ProviderUnreachable(f"{url} answers compressed, and was asked not to")
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise ProviderUnreachable(f"{url} answers more than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


class Kept(Generic[Thing]):
    """A document of the provider: fetched once for however many wait for it, looked at again in time, kept while it cannot be had."""

    def __init__(self, fetch: Callable[[], Awaitable[Thing]], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._thing: Thing | None = None
        self._fetched_at = self._looked_at = -KEPT_SECONDS
        self._looking: asyncio.Task[Thing] | None = None

    async def get(self) -> Thing:
        """As it was within the last hour, or the last day when the provider is away. Raises ProviderUnreachable."""
        age = self._clock() - self._fetched_at
        if self._thing is None or age >= KEPT_SECONDS:
            return await asyncio.shield(self._look())
        if age >= FRESH_SECONDS and self._may_look():
            self._look()  # nobody waits for it: what is there still does
        return self._thing

    async def again(self) -> Thing:
        """As it is now, unless that was looked at a moment ago or cannot be. Raises ProviderUnreachable when there is nothing at all."""
        if self._thing is not None and not self._may_look():
            return self._thing
        try:
            return await asyncio.shield(self._look())
        except ProviderUnreachable:
            if self._thing is None:
                raise
            return self._thing

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    def _may_look(self) -> bool:
        return self._looking is not None or self._clock() - self._looked_at >= RETRY_SECONDS

    def _look(self) -> asyncio.Task[Thing]:
        if self._looking is None:
            self._looking = asyncio.create_task(self._looked())
            self._looking.add_done_callback(self._seen)
        return self._looking

    async def _looked(self) -> Thing:
        self._looked_at = self._clock()
        thing = self._thing = await self._fetch()
        self._fetched_at = self._clock()
        return thing

    def _seen(self, looking: asyncio.Task[Thing]) -> None:
        self._looking = None
        if not looking.cancelled() and (error := looking.exception()) is not None:
            log.warning("the identity provider is not reached: %s", error)
