"""Why Aureus cannot start as it is set up."""

from __future__ import annotations


class SettingsError(Exception):
    """Aureus cannot start as it is set up: the setting at fault, the rule it breaks, and what would help."""

    def __init__(self, field: str, rule: str, remedy: str) -> None:
        super().__init__(f"{field}: {rule} {remedy}")
        self.field = field
        self.rule = rule
        self.remedy = remedy
