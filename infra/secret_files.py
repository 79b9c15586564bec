"""Secrets that an operator keeps in files."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from infra.settings_error import SettingsError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def secret_in(name: str, path: Path, what: str) -> str:
    """What a file holds that nobody else may read; `name` is the setting that names it, `what` what it is to hold. Raises SettingsError."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(name, f"{path} cannot be read: {error}.", f"Name a file that holds the {what} and nothing else.") from error
    if mode & _OTHERS:
        raise SettingsError(name, f"{path} is open to other accounts (mode {stat.S_IMODE(mode):04o}).", f"Close it: chmod 0600 {path}")
    if not text:
        raise SettingsError(name, f"{path} is empty.", f"Write the {what} into it.")
    return text
