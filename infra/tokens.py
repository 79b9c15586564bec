"""Access tokens: short-lived JWTs that this Aureus issues to whoever proved who they are, and accepts from nobody else."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import orjson

from domain.kernel import Asker
from domain.values import ActorKind, Role, uuid7
from infra.keystore import Signer, verify
from infra.token_settings import LIFETIME_SECONDS

LEEWAY_SECONDS: Final = 5
"""By how much the clock of the process that issued a token may be ahead. That it runs out is forgiven nobody."""
TOKEN_BYTES_MAX: Final = 4_096
AUDIENCE: Final = "aureus"
ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"
"""RFC 9068: an access token, so no other JWT signed with this key can pass for one."""
_REMEMBERED_TOKENS: Final = 10_000
_SIGNATURE_TEXT_LENGTH: Final = 86
_STANDARD_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_ROLES: Final = {role.value: role for role in Role}
_KINDS: Final = {kind.value: kind for kind in ActorKind}
_URL_ALPHABET: Final = bytes.maketrans(b"+/", b"-_")

Reason = Literal[
    "malformed",
    "oversized",
    "algorithm_not_allowed",
    "wrong_type",
    "unknown_key",
    "signature_wrong",
    "issuer_unknown",
    "audience_wrong",
    "expired",
    "not_yet_valid",
    "claims_wrong",
]


class TokenRefused(Exception):
    """A token that is not accepted. The reason is for our log; whoever showed it learns only that it did not do."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Verified(NamedTuple):
    """What a good token says, and until when (Unix time) it may be said."""

    asker: Asker
    expires_at: int


class TokenIssuer:
    """Issues access tokens and verifies its own. A verified token is remembered: hot clients send the same one again.

    Every token of ours has the same header, byte for byte, and claims that are written in one way only. So nothing has to be
    understood before the signature is known to hold: no algorithm is chosen, no key is looked up, no JSON of a stranger is read.
    """

    def __init__(
        self, signer: Signer, issuer: str, *, lifetime_seconds: int = LIFETIME_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self.issuer, self.lifetime_seconds = issuer, lifetime_seconds
        self._signer, self._public, self._clock = signer, signer.public, clock
        self._header = _encoded(orjson.dumps({"alg": ALGORITHM, "typ": TYPE, "kid": signer.key_id}))
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()

    def issue(self, asker: Asker) -> str:
        """A token that lets its bearer act as the asker for `lifetime_seconds` from now, as long as its session is open."""
        now = int(self._clock())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": asker.actor,
            "tenant": asker.tenant,
            "roles": sorted(role.value for role in asker.roles),
            "kind": asker.kind.value,
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime_seconds,
            "jti": str(uuid7()),
        }
        if asker.owner is not None:
            claims["owner"] = asker.owner
        if asker.session is not None:
            claims["sid"] = asker.session
        text = self._header + b"." + _encoded(orjson.dumps(claims))
        return (text + b"." + _encoded(self._signer.sign(text))).decode()

    def verify(self, token: bytes) -> Verified:
        """Who the token speaks for. Raises TokenRefused."""
        if len(token) > TOKEN_BYTES_MAX:
            raise TokenRefused("oversized")
        digest = hashlib.sha256(token).digest()
        known = self._remembered.get(digest)
        if known is not None:
            if self._clock() >= known.expires_at:
                del self._remembered[digest]
                raise TokenRefused("expired")
            return known
        verified = self._verified(self._claims(token))
        self._remembered[digest] = verified
        if len(self._remembered) > _REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)
        return verified

    def public_keys(self) -> dict[str, Any]:
        """The JWKS by which others verify our tokens."""
        x = _encoded(self._public).decode()
        key = {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self._signer.key_id, "use": "sig", "alg": ALGORITHM}
        return {"keys": [key]}

    def _claims(self, token: bytes) -> dict[str, Any]:
        text, _, signature_text = token.rpartition(b".")
        header, _, payload_text = text.partition(b".")
        if header != self._header:
            raise TokenRefused(self._other_header(header))
        signature = base64url(signature_text) if len(signature_text) == _SIGNATURE_TEXT_LENGTH else None
        if signature is None:
            raise TokenRefused("malformed")
        if not verify(self._public, text, signature):
            raise TokenRefused("signature_wrong")
        try:
            # What we signed is no stranger's text any more: written in any other way, its signature would not hold.
            payload = binascii.a2b_base64(payload_text.translate(_STANDARD_ALPHABET) + b"==")
            claims = orjson.loads(payload)
        except ValueError:
            raise TokenRefused("malformed") from None
        # Written again as we write claims, it has to be the same bytes: no claim stands there twice, or in some other way.
        if not isinstance(claims, dict) or orjson.dumps(claims) != payload:
            raise TokenRefused("malformed")
        return claims

    def _other_header(self, text: bytes) -> Reason:
        """What is wrong with a header that is not ours: for our log, for it is refused whatever it says."""
        try:
            header = orjson.loads(base64url(text) or b"")
            members = header.get("alg"), header.get("typ"), header.get("kid")
        except (orjson.JSONDecodeError, AttributeError):
            return "malformed"
        if members[0] != ALGORITHM:
            return "algorithm_not_allowed"
        if members[1] != TYPE:
            return "wrong_type"
        return "unknown_key" if members[2] != self._signer.key_id else "malformed"

    def _verified(self, claims: dict[str, Any]) -> Verified:
        expires_at, not_before, issued_at = claims.get("exp"), claims.get("nbf"), claims.get("iat")
        said = claims.get("iss"), claims.get("aud")
        if None in said or not (type(expires_at) is type(not_before) is type(issued_at) is int):
            raise TokenRefused("claims_wrong")
        if said[0] != self.issuer:
            raise TokenRefused("issuer_unknown")
        if said[1] != AUDIENCE:
            raise TokenRefused("audience_wrong")
        now = self._clock()
        if now >= expires_at:
            raise TokenRefused("expired")
        if max(not_before, issued_at) > now + LEEWAY_SECONDS:
            raise TokenRefused("not_yet_valid")
        return Verified(_asker(claims), expires_at)


def _asker(claims: dict[str, Any]) -> Asker:
    try:
        sub, tenant, jti, roles, kind = claims["sub"], claims["tenant"], claims["jti"], claims["roles"], claims["kind"]
        owner, session = claims.get("owner"), claims.get("sid")
        texts = type(sub) is type(tenant) is type(jti) is str
        if texts and (owner is None or type(owner) is str) and (session is None or type(session) is str):
            return Asker(sub, tenant, frozenset([_ROLES[role] for role in roles]), _KINDS[kind], owner, session=session)
    except (KeyError, TypeError):
        pass
    raise TokenRefused("claims_wrong")


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def base64url(text: bytes) -> bytes | None:
    """What base64url without padding stands for; None for any text but the one that `_encoded` would have written."""
    try:
        data = binascii.a2b_base64(text.translate(_STANDARD_ALPHABET) + b"=" * (-len(text) % 4))
    except binascii.Error:
        return None
    return data if binascii.b2a_base64(data, newline=False).translate(_URL_ALPHABET).rstrip(b"=") == text else None
