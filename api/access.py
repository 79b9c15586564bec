"""Access over REST: logging in, who one is, and who may act in which roles and with which keys."""

import secrets
from typing import Annotated, Any, Final

from fastapi import Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.asking import ask_of
from api.authentication import Unauthenticated, api_key_text, asker_of, secret_digest
from api.errors import ApiError, refusal_status
from api.routing import PUBLIC, ContextRouter, Present, Reading
from api.services import Services
from commands.access import ChangeRoles, IssueApiKey, RegisterActor, ReinstateActor, RevokeApiKey, SuspendActor
from domain.access import ActorId
from domain.values import EVERYBODY, PEOPLE, ActorKind, Identifier, Label, Role
from infra.passwords import LENGTH_MAX
from infra.tokens import LIFETIME_SECONDS
from projections.access import actors, api_keys

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR, Role.APPROVER})


class Credentials(BaseModel):
    """A login and its password; `tenant` when it is not the one this Aureus serves by default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"login": "analyst", "password": "..."}]})

    login: Annotated[str, Field(min_length=1, max_length=200)]
    password: Annotated[str, Field(min_length=1, max_length=LENGTH_MAX)]
    tenant: Identifier | None = None


class AccessToken(BaseModel):
    """A token to send as `Authorization: Bearer ...`, and whom it speaks for."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - a kind of token, not one
    expires_in: int = LIFETIME_SECONDS
    actor: str
    tenant: str
    roles: list[Role]


class Me(BaseModel):
    """The actor behind a request."""

    actor: str
    tenant: str
    roles: list[Role]
    kind: ActorKind
    owner: str | None


class NewApiKey(BaseModel):
    """Whose key, what for, and until when; ninety days when that is left out."""

    model_config = ConfigDict(extra="forbid")

    actor_id: ActorId
    label: Label
    expires_at: AwareDatetime | None = None


class IssuedApiKey(BaseModel):
    """A new key. `api_key` is shown this once: only its digest is kept."""

    key_id: str
    api_key: str
    actor_id: str
    label: str
    expires_at: str
    action_id: str
    position: int


router = ContextRouter(prefix="/v1", tags=["access"])


@router.query("/auth/token", roles=PUBLIC, methods=("POST",))
async def log_in(credentials: Credentials, request: Request) -> AccessToken:
    """Exchange a login and its password for an access token, good for fifteen minutes."""
    services: Services = request.app.state.services
    tenant = credentials.tenant or services.settings.tenant
    actor = await services.passwords.check(tenant, credentials.login, credentials.password)
    if actor is None:
        raise Unauthenticated("login_or_password_wrong")
    row = (await services.reads.many(actors, tenant, [actor])).get(actor)
    if row is None:
        raise Unauthenticated("actor_unknown")
    asker = asker_of(tenant, row)
    return AccessToken(access_token=services.tokens.issue(asker), actor=asker.actor, tenant=tenant, roles=sorted(asker.roles))


@router.query("/auth/keys", roles=PUBLIC)
async def token_keys(request: Request) -> dict[str, Any]:
    """The public keys (JWKS) by which others verify our tokens."""
    services: Services = request.app.state.services
    keys: dict[str, Any] = services.tokens.public_keys()
    return keys


@router.query("/auth/me", roles=EVERYBODY)
async def me(reader: Reading) -> Me:
    """Whom your credentials stand for, and what they may do; with as_of, what they might do then."""
    asker = reader.asker
    if reader.as_of is not None:
        row = await reader.get(actors, asker.actor)
        if row is None:
            message = f"There was no actor {asker.actor} at that time."
            raise ApiError(404, "actor_not_found", message, field="as_of", remedy="Ask for a later moment, or leave as_of out.")
        return Me(**{name: row[name] for name in ("roles", "kind", "owner")}, actor=asker.actor, tenant=asker.tenant)
    return Me(actor=asker.actor, tenant=asker.tenant, roles=sorted(asker.roles), kind=asker.kind, owner=asker.owner)


@router.query("/api-keys", roles=PEOPLE, methods=("POST",), status_code=201)
async def issue_api_key(wanted: NewApiKey, reader: Present, request: Request) -> IssuedApiKey:
    """Issue a key; it is shown this once and cannot be shown again.

    The secret is made here and never reaches the ledger. So an Idempotency-Key keeps a second key from being issued,
    but cannot bring the answer back: when it is lost, revoke the key and issue another.
    """
    secret = secrets.token_hex(32)
    command = IssueApiKey(
        actor_id=wanted.actor_id,
        key_id=secrets.token_hex(8),
        label=wanted.label,
        secret_sha256=secret_digest(secret),
        expires_at=wanted.expires_at,
    )
    outcome = await reader.services.path.handle(ask_of(command, reader.asker, request.scope["headers"]))
    if outcome.outcome != "allowed":
        code = outcome.code or "approval_not_possible"
        message = outcome.message or "A policy wants an approval for this, and a secret cannot wait for one."
        raise ApiError(refusal_status(code, denied=outcome.denied), code, message, **{**outcome.facts, "action_id": outcome.action_id})
    (event,) = outcome.events
    return IssuedApiKey(
        key_id=command.key_id,
        api_key=api_key_text(reader.asker.tenant, command.key_id, secret),
        actor_id=wanted.actor_id,
        label=wanted.label,
        expires_at=event["data"]["expires_at"],
        action_id=outcome.action_id,
        position=outcome.position,
    )


router.command("/api-keys/{key_id}/revoke", RevokeApiKey)
router.views("/api-keys", api_keys, row_id="key_id", roles=OVERSEERS)
router.command("/actors", RegisterActor, status=201)
router.command("/actors/{actor_id}/roles", ChangeRoles)
router.command("/actors/{actor_id}/suspend", SuspendActor)
router.command("/actors/{actor_id}/reinstate", ReinstateActor)
router.views("/actors", actors, row_id="actor_id", roles=PEOPLE, stream=lambda actor_id: f"actor:{actor_id}")
