"""Who operates an Aureus, and from where on its resources are short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.settings_error import SettingsError

RESOURCES: Final = ("cpu", "memory", "disk", "connections", "pools")
ALERT_PERCENT: Final = 80


@dataclass(frozen=True)
class Operations:
    """`alert_percent` is by resource: that much of it in use is told to the administrators. 100 tells nobody."""

    operator_tenant: str | None = None
    """Whose auditors may read, and mirror, every entry of the log; None lets nobody read another tenant's."""
    alert_percent: tuple[tuple[str, int], ...] = tuple((resource, ALERT_PERCENT) for resource in RESOURCES)
    alert_every_seconds: int = 15


def operations(given: Callable[[str], str | None]) -> Operations:
    """From AUREUS_OPERATOR_TENANT, AUREUS_ALERT_PERCENT and AUREUS_ALERT_SECONDS; raises SettingsError."""
    return Operations(
        operator_tenant=given("AUREUS_OPERATOR_TENANT"),
        alert_percent=_alert_percent(given("AUREUS_ALERT_PERCENT")),
        alert_every_seconds=_number("AUREUS_ALERT_SECONDS", given("AUREUS_ALERT_SECONDS") or str(Operations.alert_every_seconds), 3_600),
    )


def _alert_percent(text: str | None) -> tuple[tuple[str, int], ...]:
    """`85` for all of them, or `cpu=95,disk=70` for some."""
    percent = dict(Operations.alert_percent)
    for part in (text or "").split(","):
        resource, equals, number = part.strip().partition("=")
        if equals and resource not in RESOURCES:
            rule = f"{resource[:20]!r} is no resource that is watched."
            raise SettingsError("AUREUS_ALERT_PERCENT", rule, f"Write some of {', '.join(RESOURCES)}, such as cpu=95,disk=70.")
        if resource:
            chosen = _number("AUREUS_ALERT_PERCENT", number if equals else resource, 100)
            percent |= {resource: chosen} if equals else dict.fromkeys(RESOURCES, chosen)
    return tuple(percent.items())


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) <= most):
        raise SettingsError(name, f"{text[:20]!r} is no whole number from 1 to {most}.", "Write one, or unset it.")
    return int(text)
