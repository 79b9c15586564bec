"""Which Aureus this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def aureus_version() -> str:
    """The installed version."""
    try:
        return version("aureus")
    except PackageNotFoundError:
        return "0.1.0"
