"""Logging in: what was shown becomes a session, and a session becomes tokens. Secrets are made here and never reach the ledger."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Final

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api import admission
from api.authentication import Unauthenticated, secret_digest
from api.errors import ApiError, refusal_status
from api.services import Services, now
from commands.outcome import Outcome
from commands.path import Ask
from commands.sessions import REFRESH_LIFETIME, ChangePassword, LogOut, OpenSession, RecordRecovery, RecordSlowedLogins, RefreshSession
from domain.kernel import Command, Refused
from domain.sessions import EndReason, RefreshTokenReused, SessionRefreshed
from domain.values import Identifier, Role, uuid7
from infra.passwords import LENGTH_MAX, require_length
from infra.read_queries import ListQuery
from infra.slowing import TooManyFailures, Try
from projections.sessions import sessions
from streams.reactions import asker as aureus_itself

COOKIE: Final = "aureus_refresh"
COOKIE_PATH: Final = "/v1/auth"
ENROLLING: Final = ("sessions",)
"""What a session may be used for while its actor has no second factor and needs one."""
_REFRESH: Final = re.compile(r"aurr_([A-Za-z0-9][A-Za-z0-9._@/+=~-]{0,199})_(ses-[0-9a-f]{32})_([0-9a-f]{64})")
_TOTP: Final = re.compile(r"[0-9]{6}", re.ASCII)

Password = Annotated[str, Field(min_length=1, max_length=LENGTH_MAX)]
Code = Annotated[str, Field(min_length=6, max_length=40)]


class Credentials(BaseModel):
    """A login and its password, and a code where the login has a second factor; `tenant` when it is not the one served by default.

    `new_password` changes the password at once. With `cookie`, a browser keeps the refresh token where no script can read it.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"login": "analyst", "password": "..."}]})

    login: Annotated[str, Field(min_length=1, max_length=200)]
    password: Password
    code: Code | None = None
    new_password: Password | None = None
    tenant: Identifier | None = None
    cookie: bool = False


class Tokens(BaseModel):
    """A token to send as `Authorization: Bearer ...`, whom it speaks for, and the token that the next one is had for.

    `refresh_token` works once, and is left out where a cookie holds it. With `scopes` the session is good for nothing else.
    """

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - a kind of token, not one
    expires_in: int
    refresh_token: str | None = None
    refresh_expires_in: int
    session: str
    scopes: list[str] | None = None
    actor: str
    tenant: str
    roles: list[Role]


async def log_in(services: Services, given: Credentials, address: str) -> Tokens:
    """Tokens for whoever shows a login's password. Raises Unauthenticated, or ApiError for what would help."""
    require_passwords(services)
    tenant = given.tenant or services.settings.tenant
    if given.new_password is not None:
        require_length(given.new_password, "new_password")
    tried = await begin_try(services, tenant, given.login, address)
    actor = await services.passwords.check(tenant, given.login, given.password)
    if actor is None:
        await _record_failure(services, tried, await services.passwords.actor_of(tenant, given.login))
        raise Unauthenticated("login_or_password_wrong")
    roles = (await services.standing.of(tenant, actor)).roles
    if given.new_password is None and await services.passwords.must_change(tenant, given.login):
        # Before a code is looked at, for it would be used up.
        message = "Somebody else gave you this password: it is good for choosing your own, and for nothing else."
        raise ApiError(403, "password_must_change", message, field="new_password", remedy="Log in again, and send new_password as well.")
    method = await _second_factor(services, tenant, actor, given.code, tried)
    await services.slowing.forgive(tried)
    if given.new_password is not None:
        await _change(services, tenant, actor, given)
    needs_enrolling = method == "password" and roles & services.settings.tokens.second_factor_roles
    return await open_session(services, tenant, actor, method, scopes=ENROLLING if needs_enrolling else None)


async def open_session(services: Services, tenant: str, actor_id: str, method: str, *, scopes: tuple[str, ...] | None = None) -> Tokens:
    """A new session for an actor who has proved who they are by `method`, and its first tokens."""
    secret, session_id = secrets.token_hex(32), f"ses-{secrets.token_hex(16)}"
    await services.standing.of(tenant, actor_id)
    command = OpenSession(session_id=session_id, actor_id=actor_id, method=method, refresh_sha256=secret_digest(secret), scopes=scopes)
    outcome = carried_out(await services.path.handle(_ask(tenant, command)))
    return await _tokens(services, tenant, actor_id, outcome, secret)


async def refresh(services: Services, text: str) -> Tokens:
    """The next tokens for a refresh token, which is used up. Raises Unauthenticated; shown a second time it ends its session."""
    tenant, session_id, shown = _parts(text)
    secret = secrets.token_hex(32)
    command = RefreshSession(session_id=session_id, shown_sha256=shown, refresh_sha256=secret_digest(secret))
    # What nobody was ever given leaves no trace in the ledger: it could be sent without end.
    if (looked := await services.path.rehearse(_ask(tenant, command))).outcome != "allowed":
        raise Unauthenticated(looked.code or "session_not_refreshed")
    actor_id = (await services.reads.many(sessions, tenant, [session_id]))[session_id]["actor_id"]
    if looked.events[-1]["type"] == SessionRefreshed.event_name:
        # Who may not act for now keeps the token: it is not used up for nothing.
        await services.standing.of(tenant, actor_id, session=session_id)
    outcome = await services.path.handle(_ask(tenant, command))
    if outcome.outcome != "allowed":
        raise Unauthenticated(outcome.code or "session_not_refreshed")
    if outcome.events[-1]["type"] == RefreshTokenReused.event_name:
        raise Unauthenticated("refresh_token_reused")
    return await _tokens(services, tenant, actor_id, outcome, secret)


async def log_out(services: Services, text: str) -> None:
    """Ends the session of a refresh token, used up or not. Raises Unauthenticated for what never was one."""
    tenant, session_id, shown = _parts(text)
    command = RefreshSession(session_id=session_id, shown_sha256=shown, refresh_sha256=shown)
    if (looked := await services.path.rehearse(_ask(tenant, command))).outcome != "allowed" and looked.code != "refresh_token_expired":
        raise Unauthenticated(looked.code or "session_unknown")
    await end(services, tenant, session_id, "logout")


async def end(services: Services, tenant: str, session_id: str, reason: EndReason) -> None:
    """Ends a session; one that is over stays as it is."""
    outcome = carried_out(await services.path.handle(_ask(tenant, LogOut(session_id=session_id, reason=reason))))
    await services.wait_for(outcome.position)


async def open_sessions(services: Services, tenant: str, actor_id: str) -> list[str]:
    """The ids of an actor's open sessions."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        asked = ListQuery(where={"actor_id": [actor_id], "status": ["open"]}, limit=500, cursor=cursor)
        page = await services.reads.page(sessions, tenant, asked)
        found += [orjson.loads(document)["session_id"] for document in page.documents]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def end_others(services: Services, tenant: str, actor_id: str, reason: EndReason, keep: str | None = None) -> None:
    """Ends every open session of an actor but one."""
    for session_id in await open_sessions(services, tenant, actor_id):
        if session_id != keep:
            await end(services, tenant, session_id, reason)


async def begin_try(services: Services, tenant: str, what: str, address: str) -> Try:
    """Counts a try to prove something; ApiError 429 when too many failed."""
    try:
        return await services.slowing.begin(tenant, what, address)
    except TooManyFailures as slowed:
        seconds = slowed.wait_seconds
        message = "Too many logins failed here lately; this one was not looked at."
        remedy = f"Try again in {seconds} s. Open sessions and API keys go on working."
        headers = {"retry-after": str(seconds)}
        raise ApiError(429, "logins_slowed", message, headers, retry_after_seconds=seconds, remedy=remedy) from None


async def second_factor_shown(services: Services, tenant: str, actor: str, code: str) -> str | None:
    """What a code was, `totp` or `recovery`, when it was good; it is used up."""
    if _TOTP.fullmatch(code):
        return "totp" if await services.second_factors.take(tenant, actor, code) else None
    left = await services.second_factors.recover(tenant, actor, code)
    if left is None:
        return None
    carried_out(await services.path.handle(_ask(tenant, RecordRecovery(actor_id=actor, recovery_codes=left))))
    return "recovery"


def require_passwords(services: Services) -> None:
    """ApiError 403 where passwords are turned off."""
    if not services.settings.tokens.passwords:
        message = "Here nobody logs in with a password of Aureus."
        raise ApiError(403, "passwords_off", message, field="password", remedy="Log in through your identity provider.")


def carried_out(outcome: Outcome) -> Outcome:
    """The outcome, or ApiError: what goes with a command that is asked here cannot wait for an approval."""
    if outcome.outcome == "allowed":
        return outcome
    code = outcome.code or "approval_not_possible"
    message = outcome.message or "A policy wants an approval for this, and a secret cannot wait for one."
    raise ApiError(refusal_status(code, denied=outcome.denied), code, message, **{**outcome.facts, "action_id": outcome.action_id})


def own_origin(request: Request) -> str:
    """The scheme under which a browser shows our own page; ApiError 403 when the request comes from another page, or from none."""
    scheme, _, place = request.headers.get("origin", "").partition("://")
    if scheme not in {"http", "https"} or place != request.headers.get("host"):
        message = "A session in a cookie is for our own pages alone."
        raise ApiError(403, "origin_refused", message, field="Origin", remedy="Send the refresh token in the body instead.")
    return scheme


def keep_in_cookie(response: Response, tokens: Tokens, scheme: str) -> Tokens:
    """The tokens without the refresh token, which goes into a cookie that no script and no other site can use."""
    assert tokens.refresh_token is not None
    response.set_cookie(
        COOKIE,
        tokens.refresh_token,
        max_age=tokens.refresh_expires_in,
        path=COOKIE_PATH,
        secure=scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return tokens.model_copy(update={"refresh_token": None})


def drop_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, path=COOKIE_PATH, httponly=True, samesite="strict")


def address_of(request: Request) -> str:
    """Where a request came from, as the front door sees it: trusted proxies are looked through."""
    told = {name: value for name, value in request.scope["headers"] if name == b"x-forwarded-for"}
    return admission.address_of(request.scope, told, request.app.state.services.settings.front.trusted_proxies)


async def _second_factor(services: Services, tenant: str, actor: str, code: str | None, tried: Try) -> str:
    """The method of the login, once its second factor was shown, if it has one."""
    if not await services.second_factors.confirmed(tenant, actor):
        return "password"
    if code is None:
        message = "This login has a second factor."
        remedy = "Send `code` as well: from your authenticator, or one of your recovery codes."
        raise ApiError(401, "second_factor_needed", message, {"www-authenticate": "Bearer"}, field="code", remedy=remedy)
    shown = await second_factor_shown(services, tenant, actor, code)
    if shown is None:
        await _record_failure(services, tried, actor)
        raise Unauthenticated("second_factor_wrong")
    return f"password+{shown}"


async def _record_failure(services: Services, tried: Try, actor: str | None) -> None:
    """Puts on record that somebody's logins are slowed; of a login that nobody has there is nobody to name."""
    if actor is not None and tried.notable:
        command = RecordSlowedLogins(actor_id=actor, failed_logins=tried.failures, wait_seconds=tried.wait_seconds)
        carried_out(await services.path.handle(_ask(tried.tenant, command)))


async def _change(services: Services, tenant: str, actor: str, given: Credentials) -> None:
    """A new password instead of the one just shown."""
    assert given.new_password is not None
    require_other(given.password, given.new_password)
    carried_out(await services.path.handle(_ask(tenant, ChangePassword(actor_id=actor))))
    await services.passwords.set(tenant, given.login, actor, given.new_password)
    await end_others(services, tenant, actor, "password_changed")


def require_other(old: str, new: str) -> None:
    """Refuses a password that is the old one."""
    if old == new:
        raise Refused("password_unchanged", "This is the password you have.", field="new_password", remedy="Choose another one.")


async def _tokens(services: Services, tenant: str, actor_id: str, outcome: Outcome, secret: str) -> Tokens:
    """The tokens of a session, once the read models know that it is open: whoever is shown one looks there."""
    await services.wait_for(outcome.position)
    session_id = outcome.stream.partition(":")[2]
    asker = await services.standing.of(tenant, actor_id, session=session_id)
    return Tokens(
        access_token=services.tokens.issue(asker),
        expires_in=services.tokens.lifetime_seconds,
        refresh_token=f"aurr_{tenant}_{session_id}_{secret}",
        refresh_expires_in=int(REFRESH_LIFETIME.total_seconds()),
        session=session_id,
        scopes=None if asker.scopes is None else sorted(asker.scopes),
        actor=asker.actor,
        tenant=tenant,
        roles=sorted(asker.roles),
    )


def _parts(text: str) -> tuple[str, str, str]:
    """(tenant, session, digest of the secret) of a refresh token. Raises Unauthenticated."""
    found = _REFRESH.fullmatch(text)
    if found is None:
        raise Unauthenticated("refresh_token_malformed")
    tenant, session_id, secret = found.groups()
    return tenant, session_id, secret_digest(secret)


def _ask(tenant: str, command: Command) -> Ask:
    return Ask(command, aureus_itself(tenant), uuid7(), now())
