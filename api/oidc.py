"""Logging in through an identity provider over REST: a browser by authorization code, a device by its owner's consent; and logging out.

What has to be kept of a login under way is kept in the browser that began it, so any process can end it: one secret, from which
state, nonce and PKCE verifier follow. The provider's answer waits there as well, until our own page asks for the session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from api.errors import ApiError
from api.identity_provider import POLL_SECONDS, IdentityProvider, login_refused
from api.logging_in import Tokens, end, keep_in_cookie, open_session, open_sessions, own_origin
from api.routing import PUBLIC, ContextRouter
from api.services import Services
from projections.sessions import sessions

METHOD: Final = "oidc"
"""How a session was opened that an identity provider stands for."""
PLACE: Final = "/v1/auth/oidc"
LOGIN, ANSWER, HINT = "aureus_login", "aureus_login_answer", "aureus_logout_hint"
LOGIN_SECONDS: Final = 600
HINT_SECONDS: Final = 30 * 86_400
COOKIE_BYTES_MAX: Final = 3_800
LOGOUT_BYTES_MAX: Final = 32_768
_BACK: Final = re.compile(r"(#/[A-Za-z0-9/?&=%._~:@+,-]{0,500})?")
"""A page of the console: whatever is appended to our own address cannot lead elsewhere."""


class ProviderChoice(BaseModel):
    """A provider that people log in through: `login` is where a browser goes, `device` where a command line begins."""

    name: str
    issuer: str
    login: str
    device: str | None


class WaysIn(BaseModel):
    """How people log in here."""

    password: bool
    providers: list[ProviderChoice]


class DeviceLogin(BaseModel):
    """What a device shows its owner, who enters `user_code` at `verification_uri`, and the secret that it asks for the session with."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: int
    interval: int = POLL_SECONDS


class DeviceCode(BaseModel):
    """The secret from `POST /v1/auth/oidc/device`."""

    model_config = ConfigDict(extra="forbid")

    device_code: Annotated[str, Field(min_length=1, max_length=2_000)]


@dataclass(frozen=True, slots=True)
class Flow:
    """A login under way in one browser."""

    secret: str
    back: str = ""

    @classmethod
    def read(cls, cookie: str) -> Flow | None:
        secret, _, back = cookie.partition(".")
        try:
            page = base64.urlsafe_b64decode(back).decode("ascii")
        except ValueError:
            return None
        return cls(secret, page) if secret and _BACK.fullmatch(page) else None

    def __str__(self) -> str:
        return f"{self.secret}.{base64.urlsafe_b64encode(self.back.encode()).decode()}"

    def derived(self, what: str) -> str:
        """43 characters that say nothing of the secret, nor of each other."""
        digest = hmac.digest(self.secret.encode(), f"{what} {self.back}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


router = ContextRouter(prefix="/v1/auth", tags=["sessions"])


@router.query("/providers", roles=PUBLIC)
async def ways_in(request: Request) -> WaysIn:
    """How people log in here: what a login page offers."""
    services: Services = request.app.state.services
    place = services.settings.oidc
    if place is None:
        return WaysIn(password=services.settings.tokens.passwords, providers=[])
    device = f"{PLACE}/device" if place.cli_client_id else None
    choice = ProviderChoice(name=place.name, issuer=place.issuer, login=f"{PLACE}/login", device=device)
    return WaysIn(password=services.settings.tokens.passwords, providers=[choice])


@router.query("/oidc/login", roles=PUBLIC)
async def begin_login(request: Request, to: Annotated[str, Field(max_length=502)] = "") -> Response:
    """Log in through the identity provider: a browser is sent there, everybody else is told where `url` is.

    `to` is the page of the console to return to, such as #/budgets.
    """
    if not _BACK.fullmatch(to):
        message = "Whoever logs in returns to a page of the console, and nowhere else."
        raise ApiError(422, "return_elsewhere", message, field="to", remedy="Name a page such as #/budgets, or leave it out.")
    provider, flow = _provider(request), Flow(secrets.token_urlsafe(32), to)
    flow_values = {what: flow.derived(what) for what in ("state", "nonce", "verifier")}
    response = _sent(request, await provider.login_url(_callback(provider), **flow_values))
    _keep(provider, response, LOGIN, str(flow), LOGIN_SECONDS)
    return response


@router.query("/oidc/callback", roles=PUBLIC)
async def come_back(request: Request) -> Response:
    """Where the identity provider sends a browser back to; what it brings waits in a cookie, for our own page to use."""
    provider, brought = _provider(request), request.query_params
    told = urlencode({name: brought[name] for name in ("code", "state", "iss", "error") if name in brought})
    if len(told) > COOKIE_BYTES_MAX:
        raise ApiError(422, "login_answer_too_long", "No provider answers that much.", remedy="Begin again.")
    flow = _flow(provider, request)
    response = RedirectResponse(f"/?welcome{flow.back if flow else ''}", 303, {"cache-control": "no-store"})
    _keep(provider, response, ANSWER, told, LOGIN_SECONDS)
    return response


@router.query("/oidc/session", roles=PUBLIC, methods=("POST",))
async def end_login(request: Request, response: Response) -> Tokens:
    """Open a session for whoever just came back from the identity provider in this browser. A first login makes an actor."""
    services: Services = request.app.state.services
    provider, scheme = _provider(request), own_origin(request)
    flow, answer = _flow(provider, request), parse_qs(request.cookies.get(_name(provider, ANSWER), ""))
    told = {name: values[0] for name, values in answer.items()}
    _require_own_login(provider, flow, told)
    assert flow is not None
    logged_in = await provider.redeem(told["code"], _callback(provider), nonce=flow.derived("nonce"), verifier=flow.derived("verifier"))
    tenant, actor_id = await provider.joining.admit(logged_in.claims)
    tokens = await open_session(services, tenant, actor_id, METHOD)
    response.headers["cache-control"] = "no-store"
    for cookie in (LOGIN, ANSWER):
        _keep(provider, response, cookie, "", 0)
    if len(logged_in.id_token) <= COOKIE_BYTES_MAX:
        _keep(provider, response, HINT, logged_in.id_token, HINT_SECONDS)
    return keep_in_cookie(response, tokens, scheme)


@router.query("/oidc/logout", roles=PUBLIC)
async def log_out_there(request: Request) -> Response:
    """End the session at the identity provider too, once `POST /v1/auth/logout` has ended ours."""
    provider = _provider(request)
    response = _sent(request, await provider.logout_url(request.cookies.get(_name(provider, HINT))))
    _keep(provider, response, HINT, "", 0)
    return response


@router.query("/oidc/backchannel-logout", roles=PUBLIC, methods=("POST",))
async def logged_out_there(request: Request) -> Response:
    """For the identity provider: somebody's session ended there, so those that it opened here end (OpenID Connect Back-Channel Logout)."""
    services: Services = request.app.state.services
    provider = _provider(request)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LOGOUT_BYTES_MAX:
            raise ApiError(413, "body_too_large", "No logout token is that long.", remedy="Send logout_token=... and nothing else.")
    (token,) = parse_qs(body.decode("latin-1")).get("logout_token", [""])[:1]
    try:
        whose = await provider.logged_out(token)
    except ApiError as error:
        if error.status != 401:
            raise
        raise ApiError(400, "logout_token_refused", "This is no logout token for us.", **error.details) from error
    if whose is not None:
        await _end_sessions(services, *whose)
    return Response(status_code=200, headers={"cache-control": "no-store"})


@router.query("/oidc/device", roles=PUBLIC, methods=("POST",))
async def begin_device_login(request: Request) -> DeviceLogin:
    """Begin a login on a device without a browser (RFC 8628): its owner lets it in on another one."""
    shown = await _provider(request).begin_device()
    return DeviceLogin.model_validate({name: shown[name] for name in DeviceLogin.model_fields if name in shown})


@router.query("/oidc/device/session", roles=PUBLIC, methods=("POST",))
async def end_device_login(given: DeviceCode, request: Request, response: Response) -> Tokens:
    """Open a session for a device whose owner has let it in; `authorization_pending` (409) until then."""
    services: Services = request.app.state.services
    provider = _provider(request)
    logged_in = await provider.redeem_device(given.device_code)
    tenant, actor_id = await provider.joining.admit(logged_in.claims)
    response.headers["cache-control"] = "no-store"
    return await open_session(services, tenant, actor_id, METHOD)


def _provider(request: Request) -> IdentityProvider:
    services: Services = request.app.state.services
    if services.provider is None:
        message = "No identity provider is set up here."
        raise ApiError(404, "provider_not_configured", message, remedy="Log in with a password, or set AUREUS_OIDC_ISSUER.")
    return services.provider


def _callback(provider: IdentityProvider) -> str:
    return f"{provider.place.public_url}{PLACE}/callback"


def _require_own_login(provider: IdentityProvider, flow: Flow | None, told: dict[str, str]) -> None:
    """Refuses what this browser did not begin, and what the provider did not end well."""
    again = "Begin again from the login page, in one window."
    if flow is None or not told:
        raise ApiError(409, "login_not_begun", "No login is under way in this browser.", remedy=again)
    if not hmac.compare_digest(told.get("state", "").encode(), flow.derived("state").encode()):
        raise ApiError(403, "login_of_another", "This answer belongs to a login that was begun elsewhere.", field="state", remedy=again)
    if told.get("iss", provider.place.issuer) != provider.place.issuer:
        raise ApiError(403, "login_of_another", "This answer is another provider's.", field="iss", remedy=again)
    if "code" not in told:
        raise login_refused(told.get("error", ""))


async def _end_sessions(services: Services, tenant: str, actor_id: str) -> None:
    """Those that the provider stands for; one opened with a password of ours goes on."""
    found = await open_sessions(services, tenant, actor_id)
    rows = await services.reads.many(sessions, tenant, found)
    for session_id in found:
        if rows[session_id]["method"] == METHOD:
            await end(services, tenant, session_id, "logout")
    services.authenticator.forget()


def _sent(request: Request, url: str) -> Response:
    """A browser that navigates is sent there; a script is told where."""
    headers = {"cache-control": "no-store", "vary": "accept"}
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(url, 303, headers)
    told: dict[str, Any] = {"url": url}
    return JSONResponse(told, headers=headers)


def _flow(provider: IdentityProvider, request: Request) -> Flow | None:
    return Flow.read(request.cookies.get(_name(provider, LOGIN), ""))


def _name(provider: IdentityProvider, cookie: str) -> str:
    """Over TLS a cookie that no neighbouring site can have planted: browsers take `__Host-` from nobody but us."""
    return f"__Host-{cookie}" if provider.place.public_url.startswith("https:") else cookie


def _keep(provider: IdentityProvider, response: Response, cookie: str, value: str, seconds: int) -> None:
    # Lax: the browser has to bring it along when the provider's page sends it back here.
    name = _name(provider, cookie)
    response.set_cookie(name, value, max_age=seconds, path="/", secure=name != cookie, httponly=True, samesite="lax")
