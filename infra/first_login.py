"""The first administrator of an Aureus without the demo, and the way back in for the last one: for whoever runs the server."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import orjson

from commands.access import RegisterActor
from commands.path import Ask, CommandPath
from commands.sessions import RemoveSecondFactor, SetPassword
from domain.kernel import Asker, Command
from domain.values import ActorKind, Role, uuid7
from infra.demo import BOOTSTRAP_ACTOR
from infra.ledger import Ledger
from infra.passwords import Passwords
from infra.read_queries import ListQuery, Reads
from infra.second_factor import SecondFactors
from infra.settings import Settings
from infra.settings_error import SettingsError
from projections.access import actors

_REASON: Final = "Asked for on the server itself."


@dataclass(frozen=True, slots=True)
class FirstLogin:
    """A login whose password is good once: for choosing another."""

    actor: str
    login: str
    password: str


class Services(Protocol):
    """What is needed of a running Aureus."""

    @property
    def settings(self) -> Settings: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def path(self) -> CommandPath: ...

    @property
    def reads(self) -> Reads: ...

    @property
    def passwords(self) -> Passwords: ...

    @property
    def second_factors(self) -> SecondFactors: ...

    async def wait_for(self, position: int) -> None: ...


async def let_in(services: Services, login: str) -> FirstLogin:
    """Makes the first administrator, or lets the administrator with this login in again. Raises SettingsError for anybody else."""
    tenant = services.settings.tenant
    if not services.settings.tokens.passwords:
        raise SettingsError("AUREUS_PASSWORDS", "nobody logs in with a password here.", "Let the identity provider name an administrator.")
    await services.wait_for((await services.ledger.refresh()).size)
    active = ListQuery(where={"roles": [Role.ADMIN.value], "status": ["active"], "kind": [ActorKind.PERSON.value]})
    administrators = {row["actor_id"] for row in map(orjson.loads, (await services.reads.page(actors, tenant, active)).documents)}
    known = await services.passwords.actor_of(tenant, login)
    if known is not None and known in administrators:
        actor = known
        if await services.second_factors.confirmed(tenant, actor):
            await _ask(services, RemoveSecondFactor(actor_id=actor))
            await services.second_factors.remove(tenant, actor)
    elif known is None and not administrators:
        actor = f"usr-{secrets.token_hex(4)}"
        await _ask(services, RegisterActor(actor_id=actor, kind=ActorKind.PERSON, granted_roles=(Role.ADMIN,)))
    else:
        rule = f"{login} is no administrator's login, and there is an administrator already."
        raise SettingsError("login", rule, "Ask an administrator for a password, or name the login of one.")
    await _ask(services, SetPassword(actor_id=actor))
    password = "-".join(secrets.token_hex(3) for _ in range(4))
    await services.passwords.set(tenant, login, actor, password, must_change=True)
    return FirstLogin(actor, login, password)


async def _ask(services: Services, command: Command) -> None:
    bootstrap = Asker(BOOTSTRAP_ACTOR, services.settings.tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)
    outcome = await services.path.handle(Ask(command, bootstrap, uuid7(), datetime.now(UTC), reason=_REASON))
    if outcome.outcome != "allowed":
        rule = f"the policies refuse {command.command_name}: {outcome.message}"
        raise SettingsError("AUREUS_POLICIES", rule, f"Let {BOOTSTRAP_ACTOR} ask it.")
    await services.wait_for(outcome.position)
