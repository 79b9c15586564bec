"""Whom the front door lets in: every request is counted for who makes it and where it comes from, and the one too many is told to wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final, Literal

from starlette.types import Scope

from api.authentication import Headers, Unauthenticated
from api.errors import ApiError
from api.services import Services
from domain.kernel import Asker
from infra.limit_settings import Network
from infra.limiting import QUERIES, LimitReached, Standing
from streams.runaways import tell_owner

Limit = Literal["queries", "none"]
"""What a route's requests are counted as besides: expensive reads, or `none` for what is never refused."""
Shown = Mapping[bytes, bytes]
"""The headers that the front door looks at, by name."""
_SIXTY_FOUR: Final = 64
_WHAT: Final = {
    "queries": "expensive reads",
    "actor": "requests",
    "key": "requests with this key",
    "tenant": "requests of this tenant",
    "address": "requests from this address",
    "attempts": "logins and refused credentials from this address",
}
_log = logging.getLogger("aureus.limits")


class Admission:
    """The front door's own list: counts, refuses, and has an owner told of a program that runs away."""

    def __init__(self) -> None:
        self._telling: set[asyncio.Task[None]] = set()

    async def admit(self, services: Services, scope: Scope, route: Any, headers: Headers, shown: Shown) -> Standing | None:
        """How the allowance stands that this request is counted against, if it is an expensive read.

        Raises ApiError 429, or Unauthenticated on a route that needs an identity; what is on none of ours is the router's to refuse.
        """
        limit: Limit | None = getattr(route, "limit", None)
        if limit == "none":
            return None
        limiter, asker = services.limiter, None
        try:
            address = address_of(scope, shown, limiter.policy.trusted_proxies)
            limiter.guards.count("address", address)
            if not getattr(route, "authorisation", None):
                if route is not None and scope.get("method") == "POST":
                    limiter.guards.count("attempts", address)
                return None
            asker = await self._asker(services, headers, address)
            limiter.guard(asker, _key_id(shown.get(b"x-api-key")))
            if limit == QUERIES:
                return await limiter.take_query(asker)
            return None
        except LimitReached as reached:
            limiter.refused(reached, asker)
            if reached.runaway and asker is not None:
                self._tell(services, asker, reached.standing)
            raise too_many(reached.standing) from None

    async def _asker(self, services: Services, headers: Headers, address: str) -> Asker:
        try:
            return await services.authenticator.authenticate(headers)
        except Unauthenticated:
            services.limiter.guards.count("attempts", address)
            raise

    def _tell(self, services: Services, asker: Asker, standing: Standing) -> None:
        _log.warning("%s of %s runs into its limits again and again", asker.actor, asker.tenant)
        telling = asyncio.create_task(tell_owner(services.path, asker, _WHAT[standing.limit], services.limiter.policy.runaway or 0))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)


def too_many(standing: Standing) -> ApiError:
    """The refusal of the one request too many."""
    what, seconds = _WHAT[standing.limit], standing.reset_seconds
    message = f"More than {standing.allowed} {what} within {_span(standing.window_seconds)} are not taken."
    headers = {"retry-after": str(seconds), **{name.decode(): value.decode() for name, value in told(standing)}}
    about = {"limit": standing.limit, "allowed": standing.allowed, "window_seconds": standing.window_seconds, "retry_seconds": seconds}
    remedy = f"Wait {seconds} s (Retry-After), and see GET /v1/limits. What everybody may ask is the operator's to set."
    return ApiError(429, "too_many_requests", message, headers, **about, remedy=remedy)


def told(standing: Standing) -> list[tuple[bytes, bytes]]:
    """How an allowance stands, as headers."""
    return [
        (b"ratelimit-limit", b"%d" % standing.allowed),
        (b"ratelimit-remaining", b"%d" % standing.remaining),
        (b"ratelimit-reset", b"%d" % standing.reset_seconds),
    ]


def address_of(scope: Scope, shown: Shown, proxies: tuple[Network, ...]) -> str:
    """Where a request comes from: what the nearest proxy that is not trusted says of itself. Of IPv6, the network of one customer."""
    client = scope.get("client")
    nearest = client[0] if client else ""
    if proxies and _trusted(nearest, proxies):
        for hop in reversed(shown.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            if not _is_address(hop.strip()):
                break  # whoever wrote that is not to be believed any further
            nearest = hop.strip()
            if not _trusted(nearest, proxies):
                break
    return _customer(nearest) if ":" in nearest else nearest


def _customer(address: str) -> str:
    found = ip_address(address)
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network(f"{address.partition('%')[0]}/{_SIXTY_FOUR}", strict=False))


def from_trusted(scope: Scope, proxies: tuple[Network, ...]) -> bool:
    """Whether a proxy that is believed handed the request on."""
    client = scope.get("client")
    return bool(proxies) and client is not None and _trusted(client[0], proxies)


def _trusted(text: str, proxies: tuple[Network, ...]) -> bool:
    if not _is_address(text):
        return False
    address = ip_address(text)
    return any(address in network for network in proxies if network.version == address.version)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _key_id(key: bytes | None) -> str | None:
    """Which key it is, without its secret."""
    return key.rpartition(b"_")[0].decode("latin-1") if key is not None else None


def _span(seconds: int) -> str:
    return {60: "a minute", 3_600: "an hour"}.get(seconds, f"{seconds} s")
