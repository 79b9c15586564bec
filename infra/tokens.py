"""Access tokens: short-lived JWTs that this Aureus issues to whoever proved who they are, and accepts from nobody else."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    InvalidClaimError,
    InvalidKeyIdError,
    JoseError,
    UnsupportedAlgorithmError,
)
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from domain.kernel import Asker
from domain.values import ActorKind, Role, uuid7
from infra.keystore import Signer, verify

LIFETIME_SECONDS: Final = 900
LEEWAY_SECONDS: Final = 5
TOKEN_BYTES_MAX: Final = 4_096
AUDIENCE: Final = "aureus"
ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"
"""RFC 9068: an access token, so no other JWT signed with this key can pass for one."""
_REMEMBERED_TOKENS: Final = 10_000

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


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good token says, and until when (Unix time, leeway included) it may be said."""

    asker: Asker
    token_id: str
    expires_at: int
    good_until: int


class _Ed25519(JWSAlgModel):
    """EdDSA through our own signer, wherever its key lies, and through libsodium's strict verification."""

    name = ALGORITHM
    description = "EdDSA over Ed25519"
    key_type = "OKP"

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def sign(self, msg: bytes, key: Any) -> bytes:  # noqa: ARG002 - the signer holds the key
        return self._signer.sign(msg)

    def verify(self, msg: bytes, sig: bytes, key: Any) -> bool:  # noqa: ARG002
        return verify(self._signer.public, msg, sig)


class _OneAlgorithm(JWSRegistry):
    """A registry in which no other algorithm exists, `none` least of all."""

    def __init__(self, algorithm: JWSAlgModel) -> None:
        super().__init__(algorithms=[algorithm.name])
        self._algorithm = algorithm

    def get_alg(self, name: str) -> JWSAlgModel:
        if name != self._algorithm.name:
            raise UnsupportedAlgorithmError(f"Algorithm {name!r} is not allowed")
        return self._algorithm


class TokenIssuer:
    """Issues access tokens and verifies its own. A verified token is remembered: hot clients send the same one again."""

    def __init__(self, signer: Signer, issuer: str, *, clock: Callable[[], float] = time.time) -> None:
        self._issuer, self._clock = issuer, clock
        self._key_id = signer.key_id
        public = base64.urlsafe_b64encode(signer.public).rstrip(b"=").decode()
        self._key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": public, "kid": signer.key_id, "use": "sig", "alg": ALGORITHM})
        self._registry = _OneAlgorithm(_Ed25519(signer))
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()

    def issue(self, asker: Asker) -> str:
        """A token that lets its bearer act as the asker for the next quarter of an hour."""
        now = int(self._clock())
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": asker.actor,
            "tenant": asker.tenant,
            "roles": sorted(role.value for role in asker.roles),
            "kind": asker.kind.value,
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
            "jti": str(uuid7()),
        }
        if asker.owner is not None:
            claims["owner"] = asker.owner
        return jwt.encode({"alg": ALGORITHM, "typ": TYPE, "kid": self._key_id}, claims, self._key, registry=self._registry)

    def verify(self, token: bytes) -> Verified:
        """Who the token speaks for. Raises TokenRefused."""
        if len(token) > TOKEN_BYTES_MAX:
            raise TokenRefused("oversized")
        digest = hashlib.sha256(token).digest()
        known = self._remembered.get(digest)
        if known is not None:
            if self._clock() >= known.good_until:
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
        return {"keys": [self._key.as_dict(private=False)]}

    def _claims(self, token: bytes) -> dict[str, Any]:
        try:
            decoded = jwt.decode(token, self._key, registry=self._registry)
        except UnsupportedAlgorithmError:
            raise TokenRefused("algorithm_not_allowed") from None
        except BadSignatureError:
            raise TokenRefused("signature_wrong") from None
        except InvalidKeyIdError:
            raise TokenRefused("unknown_key") from None
        except (JoseError, ValueError, TypeError, KeyError):
            raise TokenRefused("malformed") from None
        if decoded.header.get("typ") != TYPE:
            raise TokenRefused("wrong_type")
        if decoded.header.get("kid") != self._key_id:
            raise TokenRefused("unknown_key")
        self._require_valid(decoded.claims)
        return decoded.claims

    def _require_valid(self, claims: dict[str, Any]) -> None:
        rules = jwt.JWTClaimsRegistry(
            now=int(self._clock()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
            nbf={"essential": True},
            sub={"essential": True},
            jti={"essential": True},
        )
        try:
            rules.validate(claims)
        except ExpiredTokenError:
            raise TokenRefused("expired") from None
        except InvalidClaimError as error:
            raise TokenRefused(_REASON_BY_CLAIM.get(error.claim, "claims_wrong")) from None
        except ClaimError:
            raise TokenRefused("claims_wrong") from None

    def _verified(self, claims: dict[str, Any]) -> Verified:
        try:
            asker = Asker(
                actor=str(claims["sub"]),
                tenant=str(claims["tenant"]),
                roles=frozenset(Role(role) for role in claims["roles"]),
                kind=ActorKind(claims["kind"]),
                owner=claims.get("owner"),
            )
            expires_at = int(claims["exp"])
        except (KeyError, ValueError, TypeError):
            raise TokenRefused("claims_wrong") from None
        return Verified(asker, str(claims["jti"]), expires_at, expires_at + LEEWAY_SECONDS)


_REASON_BY_CLAIM: Final[dict[str, Reason]] = {
    "iss": "issuer_unknown",
    "aud": "audience_wrong",
    "nbf": "not_yet_valid",
    "iat": "not_yet_valid",
}
