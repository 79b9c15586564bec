"""Keys over REST: let one in, hand it on, take it out; the server's own are rotated where they lie, while it writes."""

from __future__ import annotations

import asyncio
import base64
from typing import Final, Literal

from fastapi import Request
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, told
from api.errors import ApiError
from api.reading import Present
from api.routing import ContextRouter
from api.services import Services
from commands.keys import AddKey, RevokeKey, RotateKey, key_id_of
from domain.kernel import Asker
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRing, KeyRotated, holder_of, ring_of
from domain.values import PEOPLE, Role
from infra.key_files import KeystoreError, Signer
from projections.keys import keys

ADMINS: Final = frozenset({Role.ADMIN})


async def _ring(services: Services) -> KeyRing:
    return ring_of(recorded.event for recorded in await services.ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))


async def _authorised(services: Services, asker: Asker, command: AddKey) -> AddKey:
    """With the root key's authorisation, where the root key is this server's and whoever asks may add such a key."""
    allowed = command.holder == holder_of(asker.tenant, asker.actor) if command.role == "actor" else bool(asker.roles & ADMINS)
    if command.authorisation is not None or not allowed:
        return command
    root = (await _ring(services)).active("root")[-1]
    try:
        signature = services.keystore.find(root.key_id).sign(command.authorisation_statement(services.ledger.name))
    except (LookupError, KeystoreError):  # it is elsewhere: the answer will say what has to be signed there
        return command
    return command.model_copy(update={"authorised_by": root.key_id, "authorisation": _text(signature)})


async def _happened(services: Services, _asker: Asker, command: RevokeKey) -> RevokeKey:
    """What is still to come cannot be disputed."""
    since = command.compromised_since
    if since is not None and since > services.ledger.head.size and since > (size := (await services.ledger.refresh()).size):
        raise ApiError(
            422,
            "validation_failed",
            f"compromised_since: the ledger ends at position {size}, before {since}",
            field="compromised_since",
            head=size,
            remedy="Name the first position that the key may have been misused at.",
        )
    return command


router = ContextRouter(tags=["keys"])
router.command("/v1/keys", AddKey, status=201, complete=_authorised)
router.command("/v1/keys/{old_key_id}/rotate", RotateKey)
router.command("/v1/keys/{key_id}/revoke", RevokeKey, complete=_happened)
router.views("/v1/keys", keys, row_id="key_id", roles=PEOPLE, stream=lambda _key_id: KEY_STREAM)


@router.query(
    "/v1/keys/server/{role}/rotate",
    roles=ADMINS,
    methods=("POST",),
    response_model=CommandAnswer,
    responses={202: {"model": CommandAnswer, "description": "Parked: it waits for an approval."}},
)
async def rotate_server_key(role: Literal["root", "log", "service"], reader: Present, request: Request) -> Response:
    """Rotate a key that this server holds; what is written after it is signed with the new one.

    The next key is made beside the old one, or taken from the token, and is the same when this is asked again: after a
    failure, or with the approval that a policy wanted.
    """
    services = reader.services
    command = await _rotation(services, role)
    outcome = await services.path.handle(ask_of(command, reader.asker, request.scope["headers"]))
    if role == "root" and outcome.outcome == "allowed":
        # Whoever writes follows the log and service keys by itself; the root signs nothing that is written.
        await asyncio.to_thread(services.keystore.settle, {"root": key_id_of(command.public)})
    return told(outcome, 200, request.scope["state"]["request_id"])


async def _rotation(services: Services, role: Literal["root", "log", "service"]) -> RotateKey:
    ring = await _ring(services)
    old = ring.active(role)[-1]
    try:
        signer = services.keystore.find(old.key_id)
        following: Signer = await asyncio.to_thread(services.keystore.prepare, role, ring.keys)
        statement = KeyRotated.statement(services.ledger.name, role, old.key_id, following.key_id, following.custody)
        signatures = {"proof": _text(following.sign(statement)), "consent": _text(signer.sign(statement))}
    except LookupError as error:
        raise _not_here(role, f"{error.args[0]}.", "Rotate it where it is: `aureus keys rotate`.") from error
    except KeystoreError as error:
        raise _not_here(role, error.rule, error.remedy) from error
    return RotateKey(old_key_id=old.key_id, role=role, custody=following.custody, public=_text(following.public), **signatures)


def _not_here(role: str, rule: str, remedy: str) -> ApiError:
    return ApiError(409, "key_not_here", f"The {role} key cannot be rotated here: {rule}", field="role", remedy=remedy)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
