"""Where this Aureus lives and how it is reached: its settings, read once from the environment and never changed after."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOG_LEVELS: Final = ("critical", "error", "warning", "info", "debug")
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/=~-]{0,199}")
_SHARED_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class SettingsError(Exception):
    """Aureus cannot start as it is set up: the setting at fault, the rule it breaks, and what would help."""

    def __init__(self, field: str, rule: str, remedy: str) -> None:
        super().__init__(f"{field}: {rule} {remedy}")
        self.field = field
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True)
class Settings:
    """The settings of one Aureus. `database_url` None means the embedded PostgreSQL in `home`."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8420
    database_url: str | None = field(default=None, repr=False)
    tenant: str = "demo"
    origin: str | None = None
    """The ledger's own name in checkpoints; None lets the ledger keep the one it was born with, or choose one."""
    policies: Path | None = None
    """A folder of Rego policies instead of those shipped."""
    log_level: str = "info"
    demo: bool = True
    """Whether the first start makes the demo's logins; turn it off (AUREUS_DEMO=off) once people have their own."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings from AUREUS_* and DATABASE_URL; creates the home folder. Raises SettingsError."""

        def given(name: str) -> str | None:
            return environment.get(name, "").strip() or None

        policies = given("AUREUS_POLICIES")
        return cls(
            home=private_folder("AUREUS_HOME", Path(given("AUREUS_HOME") or "~/.aureus").expanduser()),
            host=given("AUREUS_HOST") or cls.host,
            port=_port(given("AUREUS_PORT")),
            database_url=_database_url(given("DATABASE_URL")),
            tenant=_tenant(given("AUREUS_TENANT")),
            origin=_origin(given("AUREUS_ORIGIN")),
            policies=_existing_folder("AUREUS_POLICIES", Path(policies)) if policies else None,
            log_level=_log_level(given("AUREUS_LOG_LEVEL")),
            demo=_switch("AUREUS_DEMO", given("AUREUS_DEMO"), default=cls.demo),
        )

    @property
    def postgres_dir(self) -> Path:
        return self.home / "postgres"

    @property
    def keys_dir(self) -> Path:
        return self.home / "keys"

    @property
    def blobs_dir(self) -> Path:
        return self.home / "blobs"

    @property
    def demo_logins_file(self) -> Path:
        return self.home / "demo-logins.json"


def private_folder(name: str, path: Path) -> Path:
    """The folder, created 0700 when missing; refused when another account owns it or can write to it."""
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except FileExistsError:
        raise SettingsError(name, f"{path} is not a folder.", "Name a folder.") from None
    except OSError as error:
        raise SettingsError(name, f"{path} cannot be created: {error.strerror}.", "Name a folder that you may write to.") from error
    if found.st_uid != os.geteuid():
        raise SettingsError(
            name,
            f"{path} belongs to user id {found.st_uid}, and Aureus runs as {os.geteuid()}.",
            f"Run Aureus as its owner, name another folder, or hand it over: chown -R {os.geteuid()} {path}",
        )
    if found.st_mode & _SHARED_WRITE:
        raise SettingsError(
            name,
            f"{path} can be written to by other accounts (mode {stat.S_IMODE(found.st_mode):04o}).",
            f"Close it: chmod go-w {path}",
        )
    return path


def _existing_folder(name: str, path: Path) -> Path:
    if not path.is_dir():
        raise SettingsError(name, f"{path} is not a folder.", "Name a folder of Rego policies, or leave it unset.")
    return path.absolute()


def _port(text: str | None) -> int:
    if text is None:
        return Settings.port
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65_536):
        raise SettingsError("AUREUS_PORT", f"{text[:20]!r} is not a port.", "Give a number from 1 to 65535.")
    return int(text)


def _database_url(text: str | None) -> str | None:
    if text is not None and not text.startswith(("postgresql://", "postgres://")):
        raise SettingsError(
            "DATABASE_URL",
            "it is not a PostgreSQL URL.",
            "Write postgresql://user:password@host:5432/name, or unset it.",
        )
    return text


def _origin(text: str | None) -> str | None:
    # The name stands on a line of its own in checkpoints and between spaces in verifier keys (C2SP signed note).
    if text is not None and (not text.isprintable() or "+" in text or any(character.isspace() for character in text)):
        raise SettingsError("AUREUS_ORIGIN", f"{text!r} cannot name a ledger.", "Use a name such as ledger.example.org/main.")
    return text


def _tenant(text: str | None) -> str:
    tenant = text or Settings.tenant
    if not _TENANT.fullmatch(tenant):
        raise SettingsError(
            "AUREUS_TENANT", f"{tenant!r} cannot be a tenant's id.", "Use up to 200 ASCII letters, digits, dots and dashes."
        )
    return tenant


def _switch(field: str, text: str | None, *, default: bool) -> bool:
    if text is None:
        return default
    if text.lower() not in {"on", "off"}:
        raise SettingsError(field, f"{text!r} is neither on nor off.", "Write on or off, or unset it.")
    return text.lower() == "on"


def _log_level(text: str | None) -> str:
    level = (text or Settings.log_level).lower()
    if level not in LOG_LEVELS:
        raise SettingsError("AUREUS_LOG_LEVEL", f"{text!r} is not a level.", f"Use one of {', '.join(LOG_LEVELS)}.")
    return level
