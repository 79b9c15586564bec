"""Access over REST: who may act, in which roles and with which keys, and whom identity providers know them as."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.asking import ask_of
from api.authentication import API_KEY, api_key_text, secret_digest
from api.errors import ApiError, refusal_status
from api.routing import ContextRouter, Own, Present, Reader
from commands.access import (
    BoundDomains,
    ChangeOwner,
    ChangeRoles,
    ChangeTier,
    IssueApiKey,
    LinkIdentity,
    OffboardActor,
    RegisterActor,
    ReinstateActor,
    RevokeApiKey,
    RotateApiKey,
    SuspendActor,
    UnlinkIdentity,
)
from commands.access.intents import OVERLAP_HOURS, OVERLAP_HOURS_MAX, SCOPES_MAX
from domain.access import PROVISION, READ, ActorId, ApiKeyId, KeyScope
from domain.contexts import CONTEXTS
from domain.values import PEOPLE, Label, Role
from projections.access import actors, api_keys, identities

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR, Role.APPROVER})


class NewApiKey(BaseModel):
    """Whose key, what for, and until when; ninety days when that is left out.

    `scopes` bound it: `read`, all commands of a context (`catalog`), or one (`catalog.register_dataset`). Without any it may be used
    for all that its actor may do.
    """

    model_config = ConfigDict(extra="forbid")

    actor_id: ActorId
    label: Label
    expires_at: AwareDatetime | None = None
    scopes: Annotated[tuple[KeyScope, ...], Field(min_length=1, max_length=SCOPES_MAX)] | None = None


class NewRotation(BaseModel):
    """Whose key is to be replaced, how long it goes on beside the new one, and until when the new one lasts."""

    model_config = ConfigDict(extra="forbid")

    actor_id: ActorId
    overlap_hours: Annotated[int, Field(ge=0, le=OVERLAP_HOURS_MAX)] = OVERLAP_HOURS
    expires_at: AwareDatetime | None = None


class IssuedApiKey(BaseModel):
    """A new key. `api_key` is shown this once: only its digest is kept. `old_ends_at` is when the key ends that it replaces."""

    key_id: str
    api_key: str
    actor_id: str
    label: str
    expires_at: str
    scopes: list[str] | None
    old_ends_at: str | None
    action_id: str
    position: int


class KeyUse(BaseModel):
    """When a key was last used, to the minute; null when that was never noted."""

    key_id: str
    last_used_at: datetime | None


router = ContextRouter(prefix="/v1", tags=["access"])


@router.query("/api-keys", roles=PEOPLE, narrowed=True, methods=("POST",), status_code=201)
async def issue_api_key(wanted: NewApiKey, reader: Present, request: Request) -> IssuedApiKey:
    """Issue a key; it is shown this once and cannot be shown again.

    The secret is made here and never reaches the ledger. So an Idempotency-Key keeps a second key from being issued,
    but cannot bring the answer back: when it is lost, revoke the key and issue another.
    """
    _require_known(wanted.scopes or (), reader)
    secret = secrets.token_hex(32)
    command = IssueApiKey(key_id=secrets.token_hex(8), secret_sha256=secret_digest(secret), **wanted.model_dump())
    return await _issued(command, secret, reader, request)


@router.query("/api-keys/{key_id}/rotate", roles=PEOPLE, narrowed=True, methods=("POST",), status_code=201)
async def rotate_api_key(key_id: ApiKeyId, wanted: NewRotation, reader: Present, request: Request) -> IssuedApiKey:
    """Issue a key for the same uses beside another one, which ends after the overlap; the new one is shown this once."""
    secret = secrets.token_hex(32)
    new_id, digest = secrets.token_hex(8), secret_digest(secret)
    command = RotateApiKey(key_id=new_id, replaces=key_id, secret_sha256=digest, **wanted.model_dump())
    return await _issued(command, secret, reader, request)


async def _issued(command: IssueApiKey | RotateApiKey, secret: str, reader: Reader, request: Request) -> IssuedApiKey:
    outcome = await reader.services.path.handle(ask_of(command, reader.asker, request.scope["headers"]))
    if outcome.outcome != "allowed":
        code = outcome.code or "approval_not_possible"
        message = outcome.message or "A policy wants an approval for this, and a secret cannot wait for one."
        raise ApiError(refusal_status(code, denied=outcome.denied), code, message, **{**outcome.facts, "action_id": outcome.action_id})
    (event,) = outcome.events
    data = event["data"]
    return IssuedApiKey(
        key_id=command.key_id,
        api_key=api_key_text(reader.asker.tenant, command.key_id, secret),
        actor_id=command.actor_id,
        label=data["label"],
        expires_at=data["expires_at"],
        scopes=data.get("scopes"),
        old_ends_at=data.get("old_ends_at"),
        action_id=outcome.action_id,
        position=outcome.position,
    )


def _require_known(scopes: Sequence[str], reader: Reader) -> None:
    """A scope that names nothing would be found out only when the key is used."""
    unknown = sorted({*scopes} - {READ, PROVISION, *CONTEXTS} - reader.services.path.commands.keys())
    if unknown:
        message = f"{unknown[0]} is neither {READ} nor {PROVISION}, nor a context, nor a command."
        remedy = "Use read, a context such as catalog, or a command such as catalog.register_dataset."
        raise ApiError(422, "scope_unknown", message, field="scopes", unknown=unknown, rule="of what there is", remedy=remedy)


@router.query("/api-keys/{key_id}/use", roles=PEOPLE)
async def api_key_use(key_id: str, reader: Present) -> KeyUse:
    """When a key was last used: for whoever may see the key."""
    row = await reader.get(api_keys, key_id)
    if row is None or not OWN_KEYS.shows(reader.asker, row):
        remedy = "List them to see what is there."
        raise ApiError(404, "api_key_not_found", f"There is no api key {key_id}.", field="key_id", remedy=remedy)
    return KeyUse(key_id=key_id, last_used_at=await reader.services.last_used.of(reader.asker.tenant, API_KEY, key_id))


OWN_KEYS: Final = Own("actor_id", OVERSEERS, whole=True)
router.command("/api-keys/{key_id}/revoke", RevokeApiKey)
router.views("/api-keys", api_keys, row_id="key_id", roles=PEOPLE, own=OWN_KEYS)
router.command("/actors", RegisterActor, status=201)
router.command("/actors/{actor_id}/roles", ChangeRoles)
router.command("/actors/{actor_id}/owner", ChangeOwner)
router.command("/actors/{actor_id}/tier", ChangeTier)
router.command("/actors/{actor_id}/domains", BoundDomains)
router.command("/actors/{actor_id}/suspend", SuspendActor)
router.command("/actors/{actor_id}/reinstate", ReinstateActor)
router.command("/actors/{actor_id}/offboard", OffboardActor)
router.views("/actors", actors, row_id="actor_id", roles=PEOPLE, stream=lambda actor_id: f"actor:{actor_id}")
router.command("/identities", LinkIdentity, status=201)
router.command("/identities/{subject_sha256}/unlink", UnlinkIdentity)
router.views("/identities", identities, row_id="subject_sha256", roles=OVERSEERS)
