"""What every answer wears: headers that keep browsers from mischief, leave for other origins, notice of what ends, and compression."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Scope

from api.admission import Shown, from_trusted
from api.errors import ApiError
from infra.limit_settings import Front

RawHeaders = list[tuple[bytes, bytes]]
COMPRESSED_BYTES_MIN: Final = 1_024
"""A smaller body is not worth it: it fits a packet or two as it is."""
_APART_BYTES: Final = 131_072
"""A larger one is compressed beside the event loop, which has others to serve."""
_LEVEL: Final = 5
_COMPRESSED: Final = ("application/json", "application/javascript", "text/", "image/svg+xml", "application/xml")
_DEFAULTS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""What an answer wears unless its route dressed it otherwise."""
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_EXPOSED: Final = (
    b"ETag, X-Request-Id, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Deprecation, Sunset, Link, Aureus-Masked"
)
_ALLOWED_METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
_ALLOWED_HEADERS: Final = (
    b"Authorization, X-API-Key, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Correlation-Id, traceparent, "
    b"Aureus-Reason, Aureus-Approval, Aureus-When-Approved, Aureus-Evidence, Aureus-Signature, Aureus-Prepare"
)


@dataclass(frozen=True, slots=True)
class Deprecated:
    """A route that will go: since when it is deprecated, when it is gone, and where to read what to use instead."""

    since: date
    sunset: date
    link: str

    def headers(self) -> RawHeaders:
        """As RFC 9745 and RFC 8594 want them."""
        since, sunset = (datetime.combine(day, time(), UTC) for day in (self.since, self.sunset))
        return [
            (b"deprecation", b"@%d" % since.timestamp()),
            (b"sunset", format_datetime(sunset, usegmt=True).encode()),
            (b"link", f'<{self.link}>; rel="deprecation"'.encode()),
        ]


class Wardrobe:
    """Dresses the answers of one front door by its policy."""

    def __init__(self, policy: Front) -> None:
        self._policy = policy
        self._origins = frozenset(origin.encode() for origin in policy.origins)

    def preflight(self, scope: Scope, shown: Shown) -> Response | None:
        """The answer to a browser that asks whether a page of another origin may ask; None when it is no such question.

        Raises ApiError 403 for an origin that is not on the list.
        """
        if scope["method"] != "OPTIONS" or not self._origins or b"access-control-request-method" not in shown:
            return None
        origin = shown.get(b"origin", b"")
        if origin not in self._origins:
            remedy = "Have the operator add it, exactly as the browser sends it, to AUREUS_CORS_ORIGINS."
            raise ApiError(403, "origin_not_allowed", f"Pages of {origin.decode('latin-1')[:200]!r} may not use this API.", remedy=remedy)
        response = Response(status_code=204)
        response.raw_headers += [
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", b"600"),
        ]
        return response

    def dress(self, headers: RawHeaders, scope: Scope, shown: Shown, route: Any) -> None:
        """Adds what is missing. Who an API serves from other origins is said in answers to those origins alone, and never `*`."""
        worn = {name for name, _ in headers}
        headers += [default for default in _DEFAULTS if default[0] not in worn]
        if self._origins:
            headers.append((b"vary", b"Origin"))
            if (origin := shown.get(b"origin")) in self._origins and origin is not None:
                headers += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
        if scope.get("scheme") == "https" or self._came_over_tls(scope, shown):
            headers.append(_HSTS)
        if masked := scope.get("state", {}).get("masked"):
            headers.append((b"aureus-masked", ", ".join(sorted(masked)).encode()))
        if (deprecated := getattr(route, "deprecation", None)) is not None:
            headers += deprecated.headers()

    def _came_over_tls(self, scope: Scope, shown: Shown) -> bool:
        return shown.get(b"x-forwarded-proto") == b"https" and from_trusted(scope, self._policy.trusted_proxies)


def may_compress(scope: Scope, shown: Shown, route: Any, status: int) -> bool:
    """Never what might hold a secret: beside something that others can put there, its length would give it away (BREACH).

    Secrets are answers to POST, or of routes that say so.
    """
    return (
        b"gzip" in shown.get(b"accept-encoding", b"")
        and scope["method"] == "GET"
        and status == 200
        and not getattr(route, "secret", False)
        and _accepts_gzip(shown[b"accept-encoding"])
    )


def is_whole(headers: RawHeaders) -> bool:
    """Whether a body comes in one piece, and not as a stream that its reader waits for."""
    return any(name == b"content-length" for name, _ in headers)


async def compressed(headers: RawHeaders, body: bytes) -> bytes:
    """The body as it is sent; its headers are changed to match. What is small, or of a kind that does not shrink, stays as it is."""
    found = dict(headers)
    if len(body) < COMPRESSED_BYTES_MIN or b"content-encoding" in found:
        return body
    if not found.get(b"content-type", b"").decode("latin-1").startswith(_COMPRESSED):
        return body
    smaller = (
        gzip.compress(body, _LEVEL, mtime=0) if len(body) < _APART_BYTES else await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
    )
    replaced = {b"content-length", b"etag"}
    kept = [pair for pair in headers if pair[0] not in replaced]
    if (etag := found.get(b"etag")) is not None:
        # The same row in other bytes: a strong tag would say that the bytes are the same.
        kept.append((b"etag", etag if etag.startswith(b"W/") else b"W/" + etag))
    headers[:] = [*kept, (b"content-length", b"%d" % len(smaller)), (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
    return smaller


def _accepts_gzip(accepted: bytes) -> bool:
    for part in accepted.split(b","):
        coding, _, quality = part.partition(b";")
        if coding.strip().lower() == b"gzip":
            return quality.replace(b" ", b"") not in {b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"}
    return False
