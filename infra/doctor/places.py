"""The servers beside it that it was told of: whether each answers now, to what Aureus asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import httpx

from infra.doctor.findings import Finding, well
from infra.s3_blobs import opened_blobs
from infra.settings import Settings
from infra.settings_error import SettingsError

ANSWER_SECONDS: Final = 5.0
Asking = Callable[[Settings], Awaitable[str]]


async def _opa(settings: Settings) -> str:
    headers = {"authorization": f"Bearer {settings.opa_token}"} if settings.opa_token else {}
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, headers=headers) as http:
        (await http.get(f"{settings.opa_url}/v1/data")).raise_for_status()
    return f"{settings.opa_url} judges"


async def _s3(settings: Settings) -> str:
    async with opened_blobs(settings.s3, settings.blobs_dir) as blobs:
        await blobs.has("0" * 64)
    assert settings.s3 is not None
    return f"{settings.s3.endpoint} lets its key into {settings.s3.bucket}"


async def _redis(settings: Settings) -> str:
    from redis.asyncio import from_url  # noqa: PLC0415 - takes its time to load

    assert settings.front.redis_url is not None
    redis = from_url(settings.front.redis_url, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS)
    try:
        await redis.ping()
    finally:
        await redis.aclose()
    return "it counts what several processes allow together"


async def _kafka(settings: Settings) -> str:
    from infra.kafka import ensure_topic  # noqa: PLC0415 - takes its time to load

    assert settings.kafka is not None
    partitions = await ensure_topic(settings.kafka, settings.kafka.topic)
    return f"{settings.kafka.topic} has {partitions} partitions at {', '.join(settings.kafka.servers)}"


async def _oidc(settings: Settings) -> str:
    from infra.oidc_fetching import Fetching  # noqa: PLC0415 - only where there is a provider

    assert settings.oidc is not None
    fetching = Fetching(settings.oidc.tls_roots)
    try:
        told = await fetching.get(f"{settings.oidc.issuer.rstrip('/')}/.well-known/openid-configuration")
        await fetching.get(str(told.get("jwks_uri")))
    finally:
        await fetching.close()
    if told.get("issuer") != settings.oidc.issuer:
        raise ConnectionError(f"it calls itself {told.get('issuer')!r}, not {settings.oidc.issuer!r}")
    return f"{settings.oidc.issuer} answers, and has keys"


_PLACES: Final[tuple[tuple[str, str, Callable[[Settings], bool], Asking], ...]] = (
    ("opa.reachable", "AUREUS_OPA_URL", lambda settings: settings.opa_url is not None, _opa),
    ("s3.reachable", "AUREUS_BLOBS", lambda settings: settings.s3 is not None, _s3),
    ("redis.reachable", "AUREUS_REDIS_URL", lambda settings: settings.front.redis_url is not None, _redis),
    ("kafka.reachable", "AUREUS_KAFKA_SERVERS", lambda settings: settings.kafka is not None, _kafka),
    ("oidc.reachable", "AUREUS_OIDC_ISSUER", lambda settings: settings.oidc is not None, _oidc),
)


async def look_at_places(settings: Settings) -> AsyncIterator[Finding]:
    """A finding for each that is configured; what is not is passed over."""
    for check, setting, is_wanted, ask in _PLACES:
        if not is_wanted(settings):
            continue
        try:
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                yield well(check, await ask(settings))
        except SettingsError as error:
            yield Finding(check, "fail", f"{error.field}: {error.rule}", error.remedy)
        except Exception as error:  # noqa: BLE001 - each library has its own way to say that nobody answers
            found = f"no answer ({type(error).__name__})"
            yield Finding(check, "fail", found, f"See that it runs and that this machine reaches it, or change {setting}.")
