"""The identity provider as requests meet it: its tokens, its logins and its logouts, in the words of our errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from api.authentication import issuer_told
from api.errors import ApiError
from api.joining import Joining
from infra.oidc import LEEWAY_SECONDS, GrantRefused, LoggedIn, Provider, TokenNotBelieved, scopes_of
from infra.oidc_fetching import ANSWER_SECONDS_MAX, ProviderUnreachable
from infra.standing import Unauthenticated

WHOLE_SCOPE: Final = "aureus"
"""The scope of an access token that is good for all that its actor may do; `aureus:catalog` is good for that much."""
_PENDING: Final = frozenset({"authorization_pending", "slow_down"})
POLL_SECONDS: Final = 5

log = logging.getLogger(__name__)


class IdentityProvider:
    """One provider, and who its people are here."""

    def __init__(self, provider: Provider, joining: Joining) -> None:
        self.provider, self.joining, self.place = provider, joining, provider.place

    async def actor(self, token: bytes) -> tuple[str, str, float, frozenset[str] | None]:
        """The tenant and the actor an access token of the provider's stands for, until when, and for what."""
        if issuer_told(token) != self.place.issuer:
            raise Unauthenticated("token_issuer_unknown")
        try:
            async with _told():
                claims = await self.provider.access_token(token.decode("latin-1"))
        except ApiError as error:
            if error.status != 401:
                raise
            raise Unauthenticated(f"provider_{error.details['reason']}") from error
        scopes = scopes_of(claims)
        limited = frozenset(scope.removeprefix(f"{WHOLE_SCOPE}:") for scope in scopes if scope.startswith(f"{WHOLE_SCOPE}:"))
        if WHOLE_SCOPE not in scopes and not limited:
            raise Unauthenticated("provider_scope_missing")
        tenant, actor_id = await self.joining.known(claims)
        return tenant, actor_id, claims["exp"] + LEEWAY_SECONDS, None if WHOLE_SCOPE in scopes else limited

    async def login_url(self, redirect_uri: str, **flow: str) -> str:
        async with _told():
            return await self.provider.login_url(redirect_uri, **flow)

    async def redeem(self, code: str, redirect_uri: str, **flow: str) -> LoggedIn:
        async with _told():
            return await self.provider.redeem(code, redirect_uri, **flow)

    async def logout_url(self, id_token: str | None) -> str:
        async with _told():
            return await self.provider.logout_url(id_token=id_token, back_to=f"{self.place.public_url}/")

    async def begin_device(self) -> dict[str, Any]:
        async with _told():
            return await self.provider.begin_device()

    async def redeem_device(self, device_code: str) -> LoggedIn:
        async with _told():
            return await self.provider.redeem_device(device_code)

    async def logged_out(self, logout_token: str) -> tuple[str, str] | None:
        """The tenant and the actor whose session ended at the provider; None for somebody who never was here."""
        async with _told():
            return await self.joining.found(await self.provider.logout_token(logout_token))


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """Tells what goes wrong with a provider as an ApiError; all that it is asked for one request takes no longer than one answer may."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            yield
    except (ProviderUnreachable, TimeoutError) as error:
        log.warning("the identity provider cannot be used: %s", error)
        raise ApiError(
            503,
            "provider_unreachable",
            "The identity provider does not answer as it should, so nobody new can log in.",
            {"retry-after": "5"},
            remedy="Try again in a moment. Sessions that are open go on; the log of Aureus says what is wrong.",
        ) from error
    except TokenNotBelieved as error:
        log.warning("a token of the identity provider's is not believed: %s", error.reason)
        message = "What the identity provider says of you does not hold."
        remedy = "Log in again; the table in docs/identity-providers.md says what each reason means."
        raise ApiError(
            401, "provider_token_refused", message, {"www-authenticate": "Bearer"}, reason=error.reason, remedy=remedy
        ) from error
    except GrantRefused as error:
        raise _refused(error.error) from error


def _refused(error: str) -> ApiError:
    if error in _PENDING:
        remedy = f"Ask again after {POLL_SECONDS} s."
        return ApiError(409, error, "Nobody has let this device in yet.", {"retry-after": str(POLL_SECONDS)}, remedy=remedy)
    if error == "access_denied":
        return login_refused(error)
    if error in {"invalid_grant", "expired_token"}:
        return ApiError(409, "login_expired", "The code of this login is used up, or too old.", remedy="Begin again.")
    message = "The identity provider does not know this client, or not for that."
    return ApiError(
        503, "provider_refuses_client", message, error=error[:40], remedy="Have the operator compare its settings with the client."
    )


def login_refused(error: str) -> ApiError:
    """Somebody, or a rule of the provider's, said no there."""
    message = "The identity provider did not log you in."
    return ApiError(403, "login_refused_by_provider", message, error=error[:40], remedy="Log in again, or ask whoever runs the provider.")
