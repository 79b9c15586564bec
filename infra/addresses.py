"""Addresses in settings: URLs, and whether what goes there can be read on the way."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

from infra.settings_error import SettingsError

_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def url_in(name: str, text: str) -> SplitResult:
    """The URL that a setting holds; raises SettingsError."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError as error:
        raise SettingsError(name, f"{text!r} is not a URL: {error}.", "Write it as the operators' guide shows.") from None
    return url


def is_private(endpoint: SplitResult) -> bool:
    """Whether what goes there can be read by nobody on the way."""
    bare = endpoint.hostname and endpoint.path in {"", "/"} and not (endpoint.query or endpoint.fragment)
    return bool(bare) and (endpoint.scheme == "https" or (endpoint.scheme == "http" and endpoint.hostname in _THIS_MACHINE))
