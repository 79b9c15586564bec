"""`GET /metrics`: what Prometheus scrapes. It names no tenant, no person and no entity."""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Final

from fastapi import Request
from starlette.responses import Response

from api.errors import ApiError
from api.routing import PUBLIC, ContextRouter
from api.services import Services

router = ContextRouter(tags=["health"])
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_REMEDY: Final = "Set AUREUS_METRICS_TOKEN on the server, and have the scraper send it: Authorization: Bearer <token>."


@router.query("/metrics", roles=PUBLIC, response_class=Response, limit="none")
async def metrics(request: Request) -> Response:
    """Counters and positions for Prometheus (text, or OpenMetrics when asked for): with the scrape token, or from this machine."""
    services: Services = request.app.state.services
    _require_scraper(request, services.settings.observing.metrics_token)
    body, content_type = await services.metrics.text(request.headers.get("accept", ""), request.app.state.requests.readings)
    return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})


def _require_scraper(request: Request, token: str | None) -> None:
    """ApiError 401 without the token, if there is one; otherwise 403 for whoever is, or comes through a proxy from, elsewhere."""
    if token is not None:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), token.encode()):
            message = "The metrics are read with the scrape token."
            challenge = {"www-authenticate": 'Bearer realm="aureus metrics"'}
            raise ApiError(401, "scrape_token_needed", message, challenge, remedy="Send the token that AUREUS_METRICS_TOKEN names.")
    elif not _from_here(request):
        raise ApiError(403, "scraper_elsewhere", "Without a scrape token the metrics are read from this machine alone.", remedy=_REMEDY)


def _from_here(request: Request) -> bool:
    """Whether the caller is on this machine, and speaks for itself: behind a proxy everybody seems to be here."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    return ip_address(request.client.host).is_loopback
