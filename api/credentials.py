"""Credentials over REST: passwords of local logins and second factors. The secrets are shown once, and no list shows them."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from api.asking import ask_of
from api.errors import ApiError
from api.logging_in import (
    Code,
    Password,
    address_of,
    begin_try,
    carried_out,
    end_others,
    require_other,
    require_passwords,
    second_factor_shown,
)
from api.routing import ContextRouter, Present
from commands.outcome import Outcome
from commands.sessions import ADMINS, ChangePassword, ConfirmSecondFactor, EnrolSecondFactor, RemoveSecondFactor, SetPassword
from domain.access import ActorId
from domain.kernel import Command, require
from domain.values import EVERYBODY
from infra.passwords import require_length
from infra.second_factor import provisioning_uri, recovery_codes
from projections.access import actors


class Changing(BaseModel):
    """The password you have and the one you want."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"old_password": "...", "new_password": "..."}]})

    old_password: Password
    new_password: Password


class Setting(BaseModel):
    """Whose password, under which login (the one they have when left out); a password is made when none is given."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"actor_id": "usr-ana", "login": "ana"}]})

    actor_id: ActorId
    login: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x20\x7f]+$")] | None = None
    password: Password | None = None


class Done(BaseModel):
    """The action that is on record."""

    actor_id: str
    action_id: str
    position: int


class SetDone(Done):
    """The login and its password, which is shown this once and has to be changed at the next login."""

    login: str
    password: str


class Enrolled(Done):
    """What an authenticator app is given, shown this once: the secret in base32, and the same as a link (or a QR code of it)."""

    secret: str
    provisioning_uri: str


class Confirmed(Done):
    """Codes that stand in for the authenticator, each once; shown this once."""

    recovery_codes: list[str]


class Confirming(BaseModel):
    """A code that the authenticator shows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"code": "492039"}]})

    code: Code


class Removing(BaseModel):
    """A code, to give up your own second factor; or as an administrator the actor whose second factor is reset."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"actor_id": "usr-ana"}]})

    code: Code | None = None
    actor_id: ActorId | None = None


router = ContextRouter(prefix="/v1", tags=["sessions"])


@router.query("/auth/password", roles=EVERYBODY, narrowed=True, methods=("POST",))
async def change_password(given: Changing, reader: Present, request: Request) -> Done:
    """Change your own password; your other sessions end."""
    services, asker = reader.services, reader.asker
    require_passwords(services)
    require_length(given.new_password, "new_password")
    require_other(given.old_password, given.new_password)
    login = await services.passwords.login_of(asker.tenant, asker.actor)
    if login is None:
        raise ApiError(404, "login_not_found", "You have no login with a password.", remedy="Ask an administrator for one.")
    tried = await begin_try(services, asker.tenant, login, address_of(request))
    if await services.passwords.check(asker.tenant, login, given.old_password) != asker.actor:
        message = "This is not the password you have."
        raise ApiError(403, "old_password_wrong", message, field="old_password", remedy="Have it reset by an administrator if you lost it.")
    await services.slowing.forgive(tried)
    outcome = await _ask(ChangePassword(actor_id=asker.actor), reader, request)
    await services.passwords.set(asker.tenant, login, asker.actor, given.new_password)
    await end_others(services, asker.tenant, asker.actor, "password_changed", keep=asker.session)
    return Done(actor_id=asker.actor, **_on_record(outcome))


@router.query("/auth/passwords", roles=ADMINS, methods=("POST",), status_code=201)
async def set_password(given: Setting, reader: Present, request: Request) -> SetDone:
    """Give somebody a login, or a new password for the one they have; their sessions end, and they choose their own at the next login."""
    services, asker, actor_id = reader.services, reader.asker, given.actor_id
    require_passwords(services)
    password = given.password or "-".join(secrets.token_hex(3) for _ in range(4))
    require_length(password)
    row = await reader.get(actors, actor_id)
    if row is None:
        raise ApiError(404, "actor_not_found", f"No actor {actor_id} is registered.", field="actor_id", remedy="Register it first.")
    login = await _login(given, reader)
    outcome = await _ask(SetPassword(actor_id=actor_id), reader, request)
    await services.passwords.set(asker.tenant, login, actor_id, password, must_change=True)
    await end_others(services, asker.tenant, actor_id, "password_changed")
    return SetDone(actor_id=actor_id, login=login, password=password, **_on_record(outcome))


@router.query("/auth/totp", roles=EVERYBODY, narrowed=True, methods=("POST",), status_code=201)
async def enrol_second_factor(reader: Present, request: Request) -> Enrolled:
    """Get a second factor; it counts once you have confirmed it with a code."""
    asker = reader.asker
    outcome = await _ask(EnrolSecondFactor(actor_id=asker.actor), reader, request)
    secret = await reader.services.second_factors.enrol(asker.tenant, asker.actor)
    uri = provisioning_uri(secret, asker.actor, asker.tenant)
    return Enrolled(actor_id=asker.actor, secret=secret, provisioning_uri=uri, **_on_record(outcome))


@router.query("/auth/totp/confirm", roles=EVERYBODY, narrowed=True, methods=("POST",))
async def confirm_second_factor(given: Confirming, reader: Present, request: Request) -> Confirmed:
    """Show a code of it: from now on each login takes one. The answer holds the recovery codes, for the day the device is lost."""
    asker, factors = reader.asker, reader.services.second_factors
    tried = await begin_try(reader.services, asker.tenant, f"second factor of {asker.actor}", address_of(request))
    _require_code(await factors.take(asker.tenant, asker.actor, given.code))
    await reader.services.slowing.forgive(tried)
    codes = recovery_codes()
    outcome = await _ask(ConfirmSecondFactor(actor_id=asker.actor, recovery_codes=len(codes)), reader, request)
    await factors.confirm(asker.tenant, asker.actor, codes)
    return Confirmed(actor_id=asker.actor, recovery_codes=codes, **_on_record(outcome))


@router.query("/auth/totp/remove", roles=EVERYBODY, narrowed=True, methods=("POST",))
async def remove_second_factor(given: Removing, reader: Present, request: Request) -> Done:
    """Give up your second factor with a code of it, or as an administrator reset that of somebody who lost theirs."""
    services, asker = reader.services, reader.asker
    actor_id = given.actor_id or asker.actor
    if actor_id == asker.actor and await services.second_factors.confirmed(asker.tenant, actor_id):
        tried = await begin_try(services, asker.tenant, f"second factor of {actor_id}", address_of(request))
        _require_code(given.code is not None and await second_factor_shown(services, asker.tenant, actor_id, given.code) is not None)
        await services.slowing.forgive(tried)
    outcome = await _ask(RemoveSecondFactor(actor_id=actor_id), reader, request)
    await services.second_factors.remove(asker.tenant, actor_id)
    if actor_id != asker.actor:
        await end_others(services, asker.tenant, actor_id, "second_factor_changed")
    return Done(actor_id=actor_id, **_on_record(outcome))


async def _login(given: Setting, reader: Present) -> str:
    """The actor's login: the one it has, or the one it is given. Refused when it is somebody else's, or would be a second one."""
    passwords, tenant = reader.services.passwords, reader.asker.tenant
    has = await passwords.login_of(tenant, given.actor_id)
    login = given.login or has
    require(login is not None, "login_missing", f"{given.actor_id} has no login yet.", field="login", remedy="Name one.")
    assert login is not None
    require(
        has in (None, login), "login_exists", f"{given.actor_id} has another login.", field="login", remedy="Leave it out to keep that one."
    )
    owner = await passwords.actor_of(tenant, login)
    require(
        owner in (None, given.actor_id), "login_of_another", "This login is somebody else's.", field="login", remedy="Choose another one."
    )
    return login


def _require_code(good: object) -> None:
    remedy = "Wait for the next code of your authenticator: each is taken once. See that your clock is right."
    require(bool(good), "code_wrong", "This is no code of your second factor, or it was taken before.", field="code", remedy=remedy)


async def _ask(command: Command, reader: Present, request: Request) -> Outcome:
    return carried_out(await reader.services.path.handle(ask_of(command, reader.asker, request.scope["headers"])))


def _on_record(outcome: Outcome) -> dict[str, Any]:
    return {"action_id": outcome.action_id, "position": outcome.position}
