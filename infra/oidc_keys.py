"""The keys that an identity provider signs with, each pinned to the one algorithm that it is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

Key = RSAKey | ECKey | OKPKey
KEYS_MAX: Final = 50
RSA_CHARACTERS_MIN: Final = 342
"""Of the modulus as a JWK writes it: 2,048 bits."""
_KINDS: Final[Mapping[tuple[str, str | None], tuple[str, type[Key]]]] = {
    ("RSA", None): ("RS256", RSAKey),
    ("EC", "P-256"): ("ES256", ECKey),
    ("OKP", "Ed25519"): ("EdDSA", OKPKey),
}
"""By type and curve. Nothing symmetric is here, so a provider that publishes such a key publishes it for nothing."""
_PUBLIC: Final = ("kty", "crv", "x", "y", "n", "e")


@dataclass(frozen=True, slots=True)
class PinnedKey:
    """A public key, and the algorithm with which alone it verifies."""

    algorithm: str
    key: Key


def keys_of(document: Mapping[str, Any], algorithms: Iterable[str]) -> dict[str, PinnedKey]:
    """The usable keys of a JWKS by their id; others are passed over, as RFC 7517 has it."""
    found: dict[str, PinnedKey] = {}
    listed = document.get("keys")
    for jwk in listed[:KEYS_MAX] if isinstance(listed, list) else ():
        pinned = _pinned(jwk) if isinstance(jwk, dict) else None
        if pinned is not None and pinned.algorithm in algorithms:
            found.setdefault(jwk["kid"], pinned)
    return found


def _pinned(jwk: dict[str, Any]) -> PinnedKey | None:
    kind = _KINDS.get((str(jwk.get("kty")), str(jwk["crv"]) if "crv" in jwk else None))
    if kind is None or jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid"), str):
        return None
    algorithm, key_type = kind
    if jwk.get("alg", algorithm) != algorithm or (algorithm == "RS256" and len(str(jwk.get("n"))) < RSA_CHARACTERS_MIN):
        return None
    public: dict[str, str | list[str]] = {name: jwk[name] for name in _PUBLIC if name in jwk}
    try:
        return PinnedKey(algorithm, key_type.import_key(public))
    except (JoseError, ValueError, TypeError):
        return None
