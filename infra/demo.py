"""The demo's cast: one login per role and an agent, made at the first start with passwords nobody else has."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from commands.access import RegisterActor
from commands.path import Ask, CommandPath
from domain.kernel import Asker
from domain.values import ActorKind, Role, uuid7
from infra.passwords import Passwords
from infra.settings import Settings, SettingsError

BOOTSTRAP_ACTOR: Final = "svc-bootstrap"
_OWNED_BY_ANALYST: Final = "analyst"
_CAST: Final = (
    ("admin", ActorKind.PERSON, Role.ADMIN),
    ("analyst", ActorKind.PERSON, Role.ANALYST),
    ("approver", ActorKind.PERSON, Role.APPROVER),
    ("approver2", ActorKind.PERSON, Role.APPROVER),
    ("auditor", ActorKind.PERSON, Role.AUDITOR),
    ("viewer", ActorKind.PERSON, Role.VIEWER),
    ("agent", ActorKind.AGENT, Role.AGENT),
)
_PREFIX: Final = {ActorKind.PERSON: "usr-", ActorKind.AGENT: "agt-"}


@dataclass(frozen=True, slots=True)
class DemoLogin:
    """A login of the demo; the actor's id is opaque, as every actor's is."""

    login: str
    password: str
    actor: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's logins; `fresh` when they were made just now, `position` where the last of them was registered."""

    logins: tuple[DemoLogin, ...]
    fresh: bool
    position: int


class Services(Protocol):
    """What the demo needs of a running Aureus."""

    @property
    def settings(self) -> Settings: ...

    @property
    def path(self) -> CommandPath: ...

    @property
    def passwords(self) -> Passwords: ...


async def ensure_demo(services: Services) -> Demo:
    """The demo's logins, made when there are none; a start that was killed half-way is completed by the next."""
    settings, passwords = services.settings, services.passwords
    file = settings.demo_logins_file
    fresh = not file.exists()
    if fresh:
        _write(file, _new_logins())
    logins = _read(file)
    known = await passwords.logins(settings.tenant)
    # The password is the last thing a login gets, so who has one is registered.
    missing = [login for login in logins if known.get(login.login) != login.actor]
    position = await _register(services.path, settings.tenant, logins, missing)
    await asyncio.gather(*(passwords.set(settings.tenant, login.login, login.actor, login.password) for login in missing))
    return Demo(logins, fresh, position)


def _new_logins() -> tuple[DemoLogin, ...]:
    return tuple(
        DemoLogin(login, "-".join(secrets.token_hex(3) for _ in range(4)), f"{_PREFIX[kind]}{secrets.token_hex(4)}", (role.value,))
        for login, kind, role in _CAST
    )


async def _register(path: CommandPath, tenant: str, logins: Sequence[DemoLogin], missing: Sequence[DemoLogin]) -> int:
    """Registers who is missing; one who was registered before a start was killed gets the same answer again."""
    bootstrap = Asker(BOOTSTRAP_ACTOR, tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)
    owner = next(login.actor for login in logins if login.login == _OWNED_BY_ANALYST)
    position = 0
    for login in missing:
        kind = ActorKind.AGENT if login.actor.startswith(_PREFIX[ActorKind.AGENT]) else ActorKind.PERSON
        command = RegisterActor(
            actor_id=login.actor,
            kind=kind,
            granted_roles=tuple(Role(role) for role in login.roles),
            owner=owner if kind is ActorKind.AGENT else None,
        )
        ask = Ask(command, bootstrap, uuid7(), datetime.now(UTC), idempotency_key=f"demo:{login.actor}", reason="A login of the demo.")
        outcome = await path.handle(ask)
        if outcome.outcome != "allowed":
            raise SettingsError(
                "demo",
                f"the policies refuse the demo's {login.login}: {outcome.message}",
                "Let svc-bootstrap register actors, or set AUREUS_DEMO=off.",
            )
        position = max(position, outcome.position)
    return position


def _write(file: Path, logins: tuple[DemoLogin, ...]) -> None:
    """In one piece, and for its owner's eyes: the file comes before the actors, so no password is lost half-way."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as output:
        json.dump([asdict(login) for login in logins], output, indent=1)
        output.flush()
        os.fsync(output.fileno())
    beside.rename(file)


def _read(file: Path) -> tuple[DemoLogin, ...]:
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError("demo", f"{file} is open to other accounts.", f"Close it: chmod 0600 {file}")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return tuple(DemoLogin(entry["login"], entry["password"], entry["actor"], tuple(entry["roles"])) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError("demo", f"{file} is not what Aureus wrote.", "Restore it, or remove it to get new logins.") from error
