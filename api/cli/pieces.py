"""Pieces of requests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


def bearer(token: str) -> dict[str, Any]:
    return {"Authorization": f"Bearer {token}"}


def present(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those that have a value."""
    return {key: value for key, value in parameters.items() if value is not None and value != ""}


def decoded(response: httpx.Response) -> Any:
    """The body: as JSON where it is that, else as text."""
    if "json" not in response.headers.get("Content-Type", "") or not response.content:
        return response.text
    try:
        return response.json()
    except ValueError:
        return response.text


def fresh_key() -> str:
    import uuid

    return str(uuid.uuid4())
