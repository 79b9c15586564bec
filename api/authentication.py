"""Who is asking: the actor behind a bearer token or an API key, in the roles it holds at this moment."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from domain.kernel import Asker, timestamp
from domain.values import ActorKind, Role
from infra.logs import errand
from infra.read_queries import Reads
from infra.tokens import TokenIssuer, TokenRefused
from projections.access import actors, api_keys

CHALLENGE: Final = 'Bearer realm="aureus"'
TRUST_SECONDS: Final = 1.0
"""How long an answer is believed before the actor's row is looked at again: a suspension takes effect within it."""
_REMEMBERED: Final = 10_000
_KEY: Final = re.compile(r"aur_([A-Za-z0-9][A-Za-z0-9._@/+=~-]{0,199})_([a-z0-9]{8,32})_([0-9a-f]{64})")
_CREDENTIAL_BYTES_MAX: Final = 8_192

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI gives them: lower-case names."""
Lookup = Callable[[str, str, str], Awaitable[dict[str, Any] | None]]
"""`await lookup(table, tenant, row_id)`: the row as it stands now."""

log = logging.getLogger(__name__)


class Unauthenticated(Exception):
    """401. Everybody is told the same; the reason, which would help to guess, goes to the log."""

    code: Final = "unauthenticated"
    message: Final = "The credentials are missing, wrong, or no longer valid."
    remedy: Final = "Send `Authorization: Bearer <token>` from POST /v1/auth/token, or `X-API-Key: <key>`."

    def __init__(self, reason: str) -> None:
        super().__init__(self.message)
        self.reason = reason


def lookup_in(reads: Reads) -> Lookup:
    """Looks at the live read models."""
    tables = {table.name: table for table in (actors, api_keys)}

    async def lookup(table: str, tenant: str, row_id: str) -> dict[str, Any] | None:
        return (await reads.many(tables[table], tenant, [row_id])).get(row_id)

    return lookup


def api_key_text(tenant: str, key_id: str, secret: str) -> str:
    """An API key as its holder keeps it. Secret scanners know it by its prefix; key id and secret hold no underscore."""
    return f"aur_{tenant}_{key_id}_{secret}"


def secret_digest(secret: str) -> str:
    """What is kept of a secret. It is 256 random bits, so a plain hash is enough: nobody guesses it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Authenticator:
    """Finds the asker of a request; what it found is believed for a second."""

    def __init__(self, tokens: TokenIssuer, lookup: Lookup, *, now: Callable[[], float] = time.time) -> None:
        self._tokens, self._lookup, self._now = tokens, lookup, now
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
        try:
            verified = self._tokens.verify(token.strip())
        except TokenRefused as refused:
            raise Unauthenticated(f"token_{refused.reason}") from refused
        asker = await self._actor(verified.asker.tenant, verified.asker.actor)
        return asker, verified.good_until

    async def _by_key(self, shown: bytes) -> tuple[Asker, float]:
        parts = _KEY.fullmatch(shown.decode("latin-1"))
        if parts is None:
            raise Unauthenticated("key_malformed")
        tenant, key_id, secret = parts.groups()
        row = await self._lookup("api_keys", tenant, key_id)
        # The digest of what was shown is compared even when there is no such key: both take as long.
        if not hmac.compare_digest(secret_digest(secret), row["secret_sha256"] if row else "") or row is None:
            raise Unauthenticated("key_unknown_or_wrong")
        if row["status"] != "active":
            raise Unauthenticated("key_revoked")
        if row["expires_at"] <= timestamp(datetime.fromtimestamp(self._now(), UTC)):
            raise Unauthenticated("key_expired")
        return await self._actor(tenant, row["actor_id"]), self._now() + TRUST_SECONDS

    async def _actor(self, tenant: str, actor_id: str) -> Asker:
        """The actor in the roles it holds now: a token's own list may be a quarter of an hour old."""
        row = await self._lookup("actors", tenant, actor_id)
        if row is None:
            raise Unauthenticated("actor_unknown")
        return asker_of(tenant, row)


def asker_of(tenant: str, row: dict[str, Any]) -> Asker:
    """The asker that an actor's row stands for. Raises Unauthenticated when it is suspended."""
    if row["status"] != "active":
        raise Unauthenticated("actor_suspended")
    return Asker(
        actor=row["actor_id"],
        tenant=tenant,
        roles=frozenset(Role(role) for role in row["roles"]),
        kind=ActorKind(row["kind"]),
        owner=row["owner"],
    )
