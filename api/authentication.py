"""Who is asking: the actor behind a bearer token or an API key, as it may act at this moment."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final, Protocol

import orjson

from domain.kernel import Asker, timestamp
from infra.logs import errand
from infra.standing import Rows, Standing, Unauthenticated
from infra.tokens import TokenIssuer, TokenRefused
from projections.access import api_keys

__all__ = ["Authenticator", "Headers", "Unauthenticated", "api_key_text", "secret_digest"]

API_KEY: Final = "api_key"
"""The kind of credential that is noted as used."""
CHALLENGE: Final = 'Bearer realm="aureus"'
TRUST_SECONDS: Final = 1.0
"""How long an answer is believed before the actor's row is looked at again: a suspension takes effect within it."""
_REMEMBERED: Final = 10_000
_KEY: Final = re.compile(r"aur_([A-Za-z0-9][A-Za-z0-9._@/+=~-]{0,199})_([a-z0-9]{8,32})_([0-9a-f]{64})")
_CREDENTIAL_BYTES_MAX: Final = 8_192
_KEY_AS_TOKEN: Final = b"bearer aur_"

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI gives them: lower-case names."""
Noted = Callable[[str, str, str], None]
"""`noted(tenant, kind, id)`: a credential was used just now."""

log = logging.getLogger(__name__)


class Providers(Protocol):
    """The identity providers whose tokens are accepted beside our own."""

    async def actor(self, token: bytes) -> tuple[str, str, float, frozenset[str] | None]:
        """The tenant and the actor that a token of theirs stands for, until when (Unix time), and for what. Raises Unauthenticated."""


def unnoted(_tenant: str, _kind: str, _id: str) -> None:
    """Where nobody asks when a credential was last used."""


def api_key_text(tenant: str, key_id: str, secret: str) -> str:
    """An API key as its holder keeps it. Secret scanners know it by its prefix; key id and secret hold no underscore."""
    return f"aur_{tenant}_{key_id}_{secret}"


def secret_digest(secret: str) -> str:
    """What is kept of a secret. It is 256 random bits, so a plain hash is enough: nobody guesses it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Authenticator:
    """Finds the asker of a request; what it found is believed for a second."""

    def __init__(
        self,
        tokens: TokenIssuer,
        rows: Rows,
        standing: Standing,
        *,
        providers: Providers | None = None,
        noted: Noted = unnoted,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tokens, self._rows, self._standing, self._providers = tokens, rows, standing, providers
        self._noted, self._now = noted, now
        self._believed: OrderedDict[bytes, tuple[float, Asker]] = OrderedDict()
        self._looking: dict[bytes, asyncio.Future[Asker]] = {}

    async def authenticate(self, headers: Headers) -> Asker:
        """The actor who asks. Raises Unauthenticated."""
        shown: bytes | None = None
        is_key = False
        for name, value in headers:
            if name in {b"authorization", b"x-api-key"}:
                if shown is not None:
                    raise Unauthenticated("more_than_one_credential")
                shown, is_key = value, name == b"x-api-key"
        if shown is None:
            raise Unauthenticated("no_credential")
        if len(shown) > _CREDENTIAL_BYTES_MAX:
            raise Unauthenticated("oversized")
        if shown[: len(_KEY_AS_TOKEN)].lower() == _KEY_AS_TOKEN:
            # Identity providers, like many clients, can send what they were given as a bearer token only.
            shown, is_key = shown.partition(b" ")[2].strip(), True
        digest = hashlib.sha256(b"key " + shown if is_key else shown).digest()
        believed = self._believed.get(digest)
        if believed is not None and believed[0] > self._now():
            asker = believed[1]
        else:
            asker = await self._look(shown, digest, is_key=is_key)
        errand().actor = asker.actor
        return asker

    def forget(self) -> None:
        """Believes nothing any more: the next request of everybody is looked at."""
        self._believed.clear()

    async def _look(self, shown: bytes, digest: bytes, *, is_key: bool) -> Asker:
        """Looks once for however many requests show the same credential at the same time."""
        looking = self._looking.get(digest)
        if looking is None:
            looking = self._looking[digest] = asyncio.ensure_future(self._found(shown, digest, is_key=is_key))
            looking.add_done_callback(lambda _: self._looking.pop(digest, None))
        # Shielded: one request that is given up must not take the answer from the others.
        return await asyncio.shield(looking)

    async def _found(self, shown: bytes, digest: bytes, *, is_key: bool) -> Asker:
        self._believed.pop(digest, None)
        try:
            asker, ends = await (self._by_key(shown) if is_key else self._by_token(shown))
        except Unauthenticated as refused:
            log.info("authentication refused: %s", refused.reason)
            raise
        self._believed[digest] = (min(self._now() + TRUST_SECONDS, ends), asker)
        if len(self._believed) > _REMEMBERED:
            self._believed.popitem(last=False)
        return asker

    async def _by_token(self, shown: bytes) -> tuple[Asker, float]:
        scheme, _, token = shown.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated("scheme_unknown")
        token = token.strip()
        if self._providers is not None and issuer_told(token) != self._tokens.issuer:
            tenant, actor, good_until, scopes = await self._providers.actor(token)
            return await self._standing.of(tenant, actor, scopes=scopes), good_until
        try:
            verified = self._tokens.verify(token)
        except TokenRefused as refused:
            raise Unauthenticated(f"token_{refused.reason}") from refused
        said = verified.asker
        return await self._standing.of(said.tenant, said.actor, session=said.session), verified.expires_at

    async def _by_key(self, shown: bytes) -> tuple[Asker, float]:
        parts = _KEY.fullmatch(shown.decode("latin-1"))
        if parts is None:
            raise Unauthenticated("key_malformed")
        tenant, key_id, secret = parts.groups()
        row = (await self._rows(api_keys, tenant, [key_id])).get(key_id)
        # The digest of what was shown is compared even when there is no such key: both take as long.
        if not hmac.compare_digest(secret_digest(secret), row["secret_sha256"] if row else "") or row is None:
            raise Unauthenticated("key_unknown_or_wrong")
        if row["status"] != "active":
            raise Unauthenticated("key_revoked")
        if row["expires_at"] <= timestamp(datetime.fromtimestamp(self._now(), UTC)):
            raise Unauthenticated("key_expired")
        scopes = None if row["scopes"] is None else frozenset(row["scopes"])
        asker = await self._standing.of(tenant, row["actor_id"], scopes=scopes)
        self._noted(tenant, API_KEY, key_id)
        return asker, self._now() + TRUST_SECONDS


def issuer_told(token: bytes) -> str | None:
    """Who a token says it is from: nothing is proved by that but whom to ask. None when it says nothing that can be read."""
    try:
        payload = token.split(b".")[1]
        told = orjson.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))["iss"]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return told if isinstance(told, str) else None
