"""Sessions over REST: logging in and out, staying logged in, who one is, and which sessions there are."""

from typing import Annotated, Any, Final

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import credentials
from api.authentication import Unauthenticated
from api.errors import ApiError
from api.logging_in import (
    COOKIE,
    Credentials,
    Tokens,
    address_of,
    carried_out,
    drop_cookie,
    end,
    keep_in_cookie,
    log_in,
    log_out,
    open_session,
    open_sessions,
    own_origin,
    refresh,
)
from api.reading import require_role
from api.roles_held import groups_around, reached
from api.routing import PUBLIC, ContextRouter, Own, Present, Reading
from api.services import Services, now
from commands.path import Ask
from commands.sessions import EndSession
from domain.access import ROLES_OF_KIND, ActorId
from domain.values import EVERYBODY, ActorKind, Role, Tier, uuid7
from projections.access import actors
from projections.sessions import credentials as credential_rows
from projections.sessions import sessions

__all__ = ["open_session", "router"]

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR})


class Me(BaseModel):
    """The actor behind a request, and the session it came from, if it came from one."""

    actor: str
    tenant: str
    roles: list[Role]
    kind: ActorKind
    owner: str | None
    tier: Tier
    domains: list[str] | None
    """The data domains that these roles reach; null: all of them."""
    groups: list[str] = []
    scopes: list[str] | None = None
    """What the credential that was shown may be used for; null: for all that the actor may do."""
    session: str | None = None


class Refreshing(BaseModel):
    """A refresh token; left out by a browser, whose cookie holds it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"refresh_token": "aurr_..."}]})

    refresh_token: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None


class Ending(BaseModel):
    """Whose sessions end, your own when nobody is named; the one you ask from stays open unless `this` is said."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"actor_id": "usr-ana"}]})

    actor_id: ActorId | None = None
    this: bool = False


class Ended(BaseModel):
    """The sessions that are over now."""

    sessions: list[str]


router = ContextRouter(prefix="/v1", tags=["sessions"])


@router.query("/auth/token", roles=PUBLIC, methods=("POST",))
async def open_by_password(given: Credentials, request: Request, response: Response) -> Tokens:
    """Log in: exchange a login and its password, and a code where there is a second factor, for tokens."""
    scheme = own_origin(request) if given.cookie else ""
    tokens = await log_in(request.app.state.services, given, address_of(request))
    response.headers["cache-control"] = "no-store"
    return keep_in_cookie(response, tokens, scheme) if given.cookie else tokens


@router.query("/auth/refresh", roles=PUBLIC, methods=("POST",))
async def stay_logged_in(request: Request, response: Response, given: Refreshing | None = None) -> Tokens:
    """Exchange a refresh token for new tokens. Each works once: one that is shown again ends the session, and its owner is told."""
    services: Services = request.app.state.services
    response.headers["cache-control"] = "no-store"
    if given is not None and given.refresh_token is not None:
        return await refresh(services, given.refresh_token)
    scheme = own_origin(request)
    return keep_in_cookie(response, await refresh(services, request.cookies.get(COOKIE, "")), scheme)


@router.query("/auth/logout", roles=PUBLIC, methods=("POST",), status_code=204)
async def leave(request: Request, response: Response, given: Refreshing | None = None) -> None:
    """Log out: end the session of the refresh token shown, or else of the access token; all its tokens are worth nothing then."""
    services: Services = request.app.state.services
    drop_cookie(response)
    shown = given.refresh_token if given is not None else None
    if shown is None and COOKIE in request.cookies:
        own_origin(request)
        shown = request.cookies[COOKIE]
    if shown is not None:
        await log_out(services, shown)
    else:
        asker = await services.authenticator.authenticate(request.scope["headers"])
        if asker.session is None:
            raise Unauthenticated("no_session")
        await end(services, asker.tenant, asker.session, "logout")
    services.authenticator.forget()


@router.query("/auth/keys", roles=PUBLIC)
async def token_keys(request: Request) -> dict[str, Any]:
    """The public keys (JWKS) by which others verify our tokens."""
    services: Services = request.app.state.services
    keys: dict[str, Any] = services.tokens.public_keys()
    return keys


@router.query("/auth/me", roles=EVERYBODY, narrowed=True, any_scope=True)
async def me(reader: Reading) -> Me:
    """Whom your credentials stand for, and what they may do; with as_of, what they might do then."""
    asker = reader.asker
    if reader.as_of is not None:
        row = await reader.get(actors, asker.actor)
        if row is None:
            message = f"There was no actor {asker.actor} at that time."
            raise ApiError(404, "actor_not_found", message, field="as_of", remedy="Ask for a later moment, or leave as_of out.")
        of_groups = (await groups_around(reader, [asker.actor]))[asker.actor]
        given = {role for each in (row, *of_groups) for role in each["roles"]}
        return Me(
            actor=asker.actor,
            tenant=asker.tenant,
            roles=sorted(ROLES_OF_KIND[ActorKind(row["kind"])] & given),
            kind=row["kind"],
            owner=row["owner"],
            tier=row["tier"],
            domains=reached([row, *of_groups]),
            groups=sorted(row["group_id"] for row in of_groups),
        )
    return Me(
        actor=asker.actor,
        tenant=asker.tenant,
        roles=sorted(asker.roles),
        kind=asker.kind,
        owner=asker.owner,
        tier=asker.tier,
        domains=None if asker.domains is None else sorted(asker.domains),
        groups=sorted(asker.groups),
        scopes=None if asker.scopes is None else sorted(asker.scopes),
        session=asker.session,
    )


@router.query("/auth/sessions/end", roles=EVERYBODY, narrowed=True, methods=("POST",))
async def end_sessions(given: Ending, reader: Present) -> Ended:
    """End all your sessions but this one, or as an administrator all of somebody's."""
    asker, services = reader.asker, reader.services
    actor_id = given.actor_id or asker.actor
    if actor_id != asker.actor:
        require_role(asker, frozenset({Role.ADMIN}))
    found = [each for each in await open_sessions(services, asker.tenant, actor_id) if given.this or each != asker.session]
    position = 0
    for session_id in found:
        outcome = await services.path.handle(Ask(EndSession(session_id=session_id), asker, uuid7(), now()))
        position = carried_out(outcome).position
    await services.wait_for(position)
    services.authenticator.forget()
    return Ended(sessions=found)


router.command("/auth/sessions/{session_id}/end", EndSession)
router.views(
    "/auth/sessions",
    sessions,
    row_id="session_id",
    roles=EVERYBODY,
    stream="session:{}".format,
    own=Own("actor_id", OVERSEERS),
)
router.views(
    "/auth/credentials",
    credential_rows,
    row_id="actor_id",
    roles=EVERYBODY,
    stream="credentials:{}".format,
    own=Own("actor_id", OVERSEERS),
)
router.routes.extend(credentials.router.routes)
