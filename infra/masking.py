"""How a personal value is shown to those who may not see it: its outline, or a keyed hash that tells equal from different."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final, Literal

import orjson

_HASH_DIGITS: Final = 16


def masked(value: Any, mask: Literal["partial", "hash"], key: bytes) -> str:
    """`hash` is the beginning of HMAC-SHA256 under `key` over the value's JSON: equal values look equal, and nobody without the
    key can try out guesses.
    """
    if mask == "hash":
        return f"hmac:{hmac.digest(key, orjson.dumps(value, option=orjson.OPT_SORT_KEYS), hashlib.sha256).hex()[:_HASH_DIGITS]}"
    if not isinstance(value, str):
        return "***"
    if value.count("@") == 1:
        local, _, host = value.partition("@")
        name, dot, top = host.rpartition(".")
        return f"{_outlined(local)}@{_outlined(name or top)}{dot}{top if name else ''}"
    return " ".join(_outlined(word) for word in value.split())


def _outlined(word: str) -> str:
    """The first letter, and a star for each of the others; a word of one letter is a star."""
    return word[:1] + "*" * (len(word) - 1) if len(word) > 1 else "*" * len(word)
