"""What the front door lets in: how much within a minute or an hour, how large, how slow, and from which other origins."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final
from urllib.parse import urlsplit

from infra.settings_error import SettingsError

Network = IPv4Network | IPv6Network
_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
_OFF: Final = "off"


@dataclass(frozen=True)
class Front:
    """The front door's policy. Amounts are per `window_seconds` or `query_window_seconds`; None sets no limit."""

    queries: int | None = 100
    """Expensive reads of one actor, by all its tokens and keys together."""
    queries_premium: int | None = 1_000
    """The same for an actor of the premium tier."""
    query_window_seconds: int = 3_600
    actor: int | None = 6_000
    """Requests of any kind by one actor."""
    key: int | None = 6_000
    """Requests with one API key."""
    tenant: int | None = None
    """Requests by everybody of one tenant."""
    address: int | None = 30_000
    """Requests from one address, whoever makes them: offices and gateways share one."""
    attempts: int | None = 300
    """Logins and refused credentials from one address."""
    window_seconds: int = 60
    runaway: int | None = 100
    """So many refusals within an hour, and the actor's owner is told."""
    in_flight: int = 1_000
    """Requests that this process works on at once; one more is told to come again."""
    request_seconds: float = 120.0
    """How long a read may take until its answer begins."""
    redis_url: str | None = field(default=None, repr=False)
    """Where expensive reads are counted for several processes together; None counts in each."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    origins: frozenset[str] = frozenset()
    """Other origins whose pages may use this API."""

    @classmethod
    def open(cls) -> Front:
        """No amount is limited."""
        return cls(queries=None, queries_premium=None, actor=None, key=None, tenant=None, address=None, attempts=None)


def front(given: Callable[[str], str | None]) -> Front:
    """From AUREUS_LIMIT_*, AUREUS_REDIS_URL, AUREUS_TRUSTED_PROXIES and AUREUS_CORS_ORIGINS; raises SettingsError."""

    def amount(name: str, default: int | None) -> int | None:
        return _amount(f"AUREUS_LIMIT_{name}", given(f"AUREUS_LIMIT_{name}"), default)

    return Front(
        queries=amount("QUERIES", Front.queries),
        queries_premium=amount("QUERIES_PREMIUM", Front.queries_premium),
        actor=amount("ACTOR", Front.actor),
        key=amount("KEY", Front.key),
        tenant=amount("TENANT", Front.tenant),
        address=amount("ADDRESS", Front.address),
        attempts=amount("ATTEMPTS", Front.attempts),
        runaway=amount("RUNAWAY", Front.runaway),
        in_flight=_amount("AUREUS_LIMIT_IN_FLIGHT", given("AUREUS_LIMIT_IN_FLIGHT"), Front.in_flight, may_be_off=False) or Front.in_flight,
        request_seconds=_seconds(given("AUREUS_REQUEST_SECONDS")),
        redis_url=_redis(given("AUREUS_REDIS_URL")),
        trusted_proxies=_networks(given("AUREUS_TRUSTED_PROXIES")),
        origins=_origins(given("AUREUS_CORS_ORIGINS")),
    )


def _amount(name: str, text: str | None, default: int | None, *, may_be_off: bool = True) -> int | None:
    if text is None:
        return default
    if may_be_off and text.lower() == _OFF:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0):
        remedy = "Give a whole number from 1 to 99999999" + (", or off." if may_be_off else ".")
        raise SettingsError(name, f"{text[:20]!r} is no number of requests.", remedy)
    return int(text)


def _seconds(text: str | None) -> float:
    if text is None:
        return Front.request_seconds
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text) > 0):
        raise SettingsError("AUREUS_REQUEST_SECONDS", f"{text[:20]!r} is no number of seconds.", "Give a whole number from 1 to 9999.")
    return float(text)


def _redis(url: str | None) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        whole = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:  # what it holds is not repeated: there may be a password in it
        raise SettingsError(
            "AUREUS_REDIS_URL", "it is not the URL of a Redis.", "Write redis://host:6379/0, or rediss://:password@host:6379/0 for TLS."
        )
    return url


def _networks(text: str | None) -> tuple[Network, ...]:
    found = []
    for part in (text or "").split(","):
        try:
            found += [ip_network(part.strip())] if part.strip() else []
        except ValueError:
            rule = f"{part.strip()[:60]!r} is no address and no network."
            raise SettingsError("AUREUS_TRUSTED_PROXIES", rule, "Write 10.0.0.7, or 10.0.0.0/24; a comma before the next.") from None
    return tuple(found)


def _origins(text: str | None) -> frozenset[str]:
    origins = [part.strip() for part in (text or "").split(",") if part.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            rule = f"{origin[:60]!r} is no origin: a scheme, a host in lower case and perhaps a port, and nothing after them."
            raise SettingsError("AUREUS_CORS_ORIGINS", rule, "Write https://portal.example.org; a comma before the next. There is no *.")
    return frozenset(origins)
