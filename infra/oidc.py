"""An OpenID Connect provider as we know it: what it says of itself, what its tokens prove, and how people are sent to it and back."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel

from infra.oidc_fetching import Fetching, Kept, ProviderUnreachable
from infra.oidc_keys import PinnedKey, keys_of
from infra.oidc_settings import OidcPlace, https_url
from infra.settings_error import SettingsError

TOKEN_BYTES_MAX: Final = 16_384
LEEWAY_SECONDS: Final = 30
LOGOUT_SECONDS_MAX: Final = 120
"""How old a logout token may be: it is sent when it is made."""
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

Claims = dict[str, Any]


class TokenNotBelieved(Exception):
    """A token of the provider's that proves nothing here; the reason goes to the log, and to nobody who shows tokens."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GrantRefused(Exception):
    """The provider does not exchange a code for tokens; `error` is its OAuth error code."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a provider says of itself (OpenID Connect Discovery)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    device_authorization_endpoint: str | None
    end_session_endpoint: str | None


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Somebody who logged in at the provider: what it says of them, and the token by which it knows the session again."""

    claims: Claims
    id_token: str


class Provider:
    """One provider. Nothing is fetched before somebody needs it, so that Aureus starts without it."""

    def __init__(self, place: OidcPlace, *, clock: Callable[[], float] = time.time) -> None:
        self.place, self._clock = place, clock
        self._http = Fetching(place.tls_roots)
        self._metadata = Kept(self._discover, clock)
        self._keys = Kept(self._fetch_keys, clock)

    async def close(self) -> None:
        await self._metadata.close()
        await self._keys.close()
        await self._http.close()

    # Logging in

    async def login_url(self, redirect_uri: str, *, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent to log in (authorization code with PKCE)."""
        # Here, because it takes long to load, and nobody needs it to start.
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # noqa: PLC0415
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415

        url: str = prepare_grant_uri(
            (await self._metadata.get()).authorization_endpoint,
            self.place.client_id,
            "code",
            redirect_uri,
            "openid profile",
            state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return url

    async def redeem(self, code: str, redirect_uri: str, *, nonce: str, verifier: str) -> LoggedIn:
        """Who logged in. Raises GrantRefused, TokenNotBelieved and ProviderUnreachable."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
        logged_in = await self._granted(form, self.place.client_id)
        if logged_in.claims.get("nonce") != nonce:
            raise TokenNotBelieved("nonce_wrong")
        return logged_in

    async def begin_device(self) -> dict[str, Any]:
        """What a device shows its owner, as RFC 8628 has the provider answer it."""
        endpoint = (await self._metadata.get()).device_authorization_endpoint
        if endpoint is None:
            raise GrantRefused("unsupported_grant_type")
        status, told = await self._http.post(endpoint, {"client_id": self._cli_client(), "scope": "openid profile"})
        if status != 200:
            raise GrantRefused(told["error"])
        if not {"device_code", "user_code", "verification_uri", "expires_in"} <= told.keys():
            raise ProviderUnreachable(f"{endpoint} does not answer as RFC 8628 has it")
        return told

    async def redeem_device(self, device_code: str) -> LoggedIn:
        """Who let the device in; GrantRefused("authorization_pending") until somebody has."""
        return await self._granted({"grant_type": DEVICE_GRANT, "device_code": device_code}, self._cli_client())

    async def logout_url(self, *, id_token: str | None, back_to: str) -> str:
        """Where a browser is sent to end the session at the provider as well; `back_to` where the provider knows no such thing."""
        endpoint = (await self._metadata.get()).end_session_endpoint
        if endpoint is None:
            return back_to
        asked = f"client_id={quote(self.place.client_id, safe='')}&post_logout_redirect_uri={quote(back_to, safe='')}"
        hint = f"&id_token_hint={quote(id_token, safe='')}" if id_token else ""
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{asked}{hint}"

    def _cli_client(self) -> str:
        if self.place.cli_client_id is None:
            raise GrantRefused("unauthorized_client")
        return self.place.cli_client_id

    async def _granted(self, form: dict[str, str], client_id: str) -> LoggedIn:
        endpoint = (await self._metadata.get()).token_endpoint
        secret = self.place.client_secret if client_id == self.place.client_id else None
        # RFC 6749 s.2.3.1: both are form-encoded before they become a user and a password.
        user = (quote(client_id, safe=""), quote(secret, safe="")) if secret else None
        status, told = await self._http.post(endpoint, form if user else {**form, "client_id": client_id}, user=user)
        if status != 200:
            raise GrantRefused(told["error"])
        token = told.get("id_token")
        if not isinstance(token, str):
            raise TokenNotBelieved("id_token_missing")
        return LoggedIn(await self.id_token(token, client_id), token)

    # What tokens prove

    async def id_token(self, token: str, client_id: str) -> Claims:
        """What an ID token says that was made for this client. Raises TokenNotBelieved and ProviderUnreachable."""
        claims = await self._verified(token, client_id)
        authorised = claims.get("azp")
        if authorised != client_id and (authorised is not None or len(_audiences(claims)) > 1):
            raise TokenNotBelieved("azp_wrong")
        if claims.get("typ", "ID") != "ID" or "events" in claims:
            raise TokenNotBelieved("type_wrong")
        return claims

    async def access_token(self, token: str) -> Claims:
        """What an access token says that is shown to us by whoever it was given to. Raises TokenNotBelieved and ProviderUnreachable."""
        if self.place.audience is None:
            raise TokenNotBelieved("access_tokens_not_accepted")
        claims = await self._verified(token, self.place.audience)
        # An ID token says who logged in somewhere; it lets nobody in, even where audience and client are called the same.
        if claims.get("typ", "Bearer") != "Bearer" or "nonce" in claims or "events" in claims or not scopes_of(claims):
            raise TokenNotBelieved("type_wrong")
        return claims

    async def logout_token(self, token: str) -> Claims:
        """Whose session ended at the provider (back-channel logout). Raises TokenNotBelieved and ProviderUnreachable."""
        claims = await self._verified(token, self.place.client_id)
        events = claims.get("events")
        if not isinstance(events, dict) or LOGOUT_EVENT not in events or "nonce" in claims:
            raise TokenNotBelieved("type_wrong")
        if claims["iat"] < self._clock() - LOGOUT_SECONDS_MAX:
            raise TokenNotBelieved("expired")
        return claims

    async def _verified(self, token: str, audience: str) -> Claims:
        header = _header(token)
        pinned = await self._key(header)
        if header.get("alg") != pinned.algorithm:
            raise TokenNotBelieved("algorithm_wrong")
        claims = _opened(token, pinned)
        self._require_valid(claims, audience)
        return claims

    async def _key(self, header: dict[str, Any]) -> PinnedKey:
        """The key of that id. What else the header names (`jwk`, `jku`, `x5u`) is never looked at, let alone fetched."""
        if header.get("alg") not in self.place.algorithms:
            raise TokenNotBelieved("algorithm_not_allowed")
        key_id = header.get("kid")
        if not isinstance(key_id, str):
            raise TokenNotBelieved("key_unnamed")
        pinned = (await self._keys.get()).get(key_id) or (await self._keys.again()).get(key_id)
        if pinned is None:
            raise TokenNotBelieved("key_unknown")
        return pinned

    def _require_valid(self, claims: Claims, audience: str) -> None:
        now = self._clock()
        times = {name: claims.get(name) for name in ("exp", "iat", "nbf") if name in claims}
        if any(isinstance(at, bool) or not isinstance(at, int | float) for at in times.values()) or not {"exp", "iat"} <= times.keys():
            raise TokenNotBelieved("times_wrong")
        if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
            raise TokenNotBelieved("subject_missing")
        for wrong, reason in (
            (claims.get("iss") != self.place.issuer, "issuer_wrong"),
            (audience not in _audiences(claims), "audience_wrong"),
            (claims["exp"] <= now - LEEWAY_SECONDS, "expired"),
            (max(claims["iat"], claims.get("nbf", 0)) > now + LEEWAY_SECONDS, "not_yet_valid"),
        ):
            if wrong:
                raise TokenNotBelieved(reason)

    # What the provider says of itself

    async def _discover(self) -> Metadata:
        issuer = self.place.issuer
        told = await self._http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if told.get("issuer") != issuer:
            raise ProviderUnreachable(f"the provider calls itself {told.get('issuer')!r:.200}, and AUREUS_OIDC_ISSUER says {issuer!r}")

        def perhaps(name: str) -> str | None:
            return _endpoint(told, name) if name in told else None

        return Metadata(
            authorization_endpoint=_endpoint(told, "authorization_endpoint"),
            token_endpoint=_endpoint(told, "token_endpoint"),
            jwks_uri=_endpoint(told, "jwks_uri"),
            device_authorization_endpoint=perhaps("device_authorization_endpoint"),
            end_session_endpoint=perhaps("end_session_endpoint"),
        )

    async def _fetch_keys(self) -> dict[str, PinnedKey]:
        keys = keys_of(await self._http.get((await self._metadata.get()).jwks_uri), self.place.algorithms)
        if not keys:
            raise ProviderUnreachable("the provider publishes no key that could be used")
        return keys


class _Pinned(jws.JWSRegistry):
    """A registry in which no other algorithm exists."""

    max_header_length = TOKEN_BYTES_MAX

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> JWSAlgModel:
        if name != self._algorithm:
            raise UnsupportedAlgorithmError(f"Algorithm {name!r} is not allowed")
        return self.algorithms[name]  # `EdDSA` as providers still call it, though RFC 9864 would have it called Ed25519


def scopes_of(claims: Claims) -> tuple[str, ...]:
    """What an access token was given for (`scope`, or `scp` as Entra ID and Okta have it)."""
    given = claims.get("scope", claims.get("scp"))
    named = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    return tuple(scope for scope in named if isinstance(scope, str))


def _endpoint(told: dict[str, Any], name: str) -> str:
    try:
        return https_url(name, str(told.get(name)))
    except SettingsError as error:
        raise ProviderUnreachable(f"the provider's {name} cannot be used: {error}") from error


def _audiences(claims: Claims) -> list[Any]:
    audience = claims.get("aud")
    return audience if isinstance(audience, list) else [audience]


def _header(token: str) -> dict[str, Any]:
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenNotBelieved("oversized")
    try:
        header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    except (ValueError, RecursionError):
        raise TokenNotBelieved("malformed") from None
    if not isinstance(header, dict):
        raise TokenNotBelieved("malformed")
    return header


def _opened(token: str, pinned: PinnedKey) -> Claims:
    try:
        claims = json.loads(jws.deserialize_compact(token, pinned.key, registry=_Pinned(pinned.algorithm)).payload)
    except BadSignatureError:
        raise TokenNotBelieved("signature_wrong") from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise TokenNotBelieved("malformed") from None
    if not isinstance(claims, dict):
        raise TokenNotBelieved("malformed")
    return claims
