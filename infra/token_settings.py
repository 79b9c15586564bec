"""How people log in here: how long an access token is good for, whether there are passwords, and who needs a second factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from domain.values import Role
from infra.settings_error import SettingsError

HOURS_MAX: Final = 24
LIFETIME_SECONDS: Final = 900


@dataclass(frozen=True)
class TokenSettings:
    """What of it was chosen."""

    access_seconds: int = LIFETIME_SECONDS
    passwords: bool = True
    """Off where an identity provider alone says who somebody is."""
    second_factor_roles: frozenset[Role] = frozenset()
    """Whoever holds one of these does nothing with a password alone but enrol a second factor."""


def token_settings(given: Callable[[str], str | None]) -> TokenSettings:
    """From AUREUS_TOKEN_HOURS, AUREUS_PASSWORDS and AUREUS_TOTP_ROLES; raises SettingsError."""
    passwords = _switch("AUREUS_PASSWORDS", given("AUREUS_PASSWORDS"))
    if not passwords and (given("AUREUS_DEMO") or "on").lower() != "off":
        rule = "the demo's logins have passwords, and this turns passwords off."
        raise SettingsError("AUREUS_PASSWORDS", rule, "Set AUREUS_DEMO=off as well.")
    return TokenSettings(_access_seconds(given("AUREUS_TOKEN_HOURS")), passwords, _roles(given("AUREUS_TOTP_ROLES")))


def _access_seconds(text: str | None) -> int:
    if text is None:
        return LIFETIME_SECONDS
    if not (text.isascii() and text.isdigit() and len(text) < 3 and 1 <= int(text) <= HOURS_MAX):
        rule = f"{text[:20]!r} is no number of hours that an access token may live."
        raise SettingsError("AUREUS_TOKEN_HOURS", rule, f"Give a whole number from 1 to {HOURS_MAX}, or unset it for a quarter of an hour.")
    return int(text) * 3_600


def _switch(name: str, text: str | None) -> bool:
    if text is not None and text.lower() not in {"on", "off"}:
        raise SettingsError(name, f"{text[:20]!r} is neither on nor off.", "Write on or off, or unset it.")
    return text is None or text.lower() == "on"


def _roles(text: str | None) -> frozenset[Role]:
    known = sorted(role.value for role in Role)
    wanted = [role.strip() for role in (text or "").split(",") if role.strip()]
    if unknown := [role for role in wanted if role not in known]:
        raise SettingsError("AUREUS_TOTP_ROLES", f"{unknown[0]!r} is no role.", f"Name some of {', '.join(known)}, with commas between.")
    return frozenset(Role(role) for role in wanted)
