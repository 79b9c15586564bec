"""Canonical JSON (RFC 8785, in the profile of the ledger): a document is taken only when no other bytes say the same."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn
from unicodedata import is_normalized

MAX_INTEGER: Final = 2**53 - 1
_TOO_LONG: Final = 17


class NotCanonical(ValueError):
    """Bytes that are not the canonical form of an object in the profile; says which rule they break."""


def canonical(value: Any) -> bytes:
    """The canonical bytes of a value that `canonical_object` could have returned."""
    return _ENCODER.encode(value).encode()


def canonical_object(document: bytes) -> dict[str, Any]:
    """The JSON object with exactly these canonical bytes; raises NotCanonical."""
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise NotCanonical(f"it is not UTF-8 at byte {error.start}") from None
    if not text.isascii() and not is_normalized("NFC", text):
        raise NotCanonical("it has text that is not NFC")
    try:
        value = _DECODER.decode(text)
        if not isinstance(value, dict):
            raise NotCanonical("it is not a JSON object")
        if "\\u0000" in text:
            _refuse_nul(value)
        encoded = canonical(value)
    except RecursionError:
        raise NotCanonical("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise NotCanonical("it has a lone surrogate") from None
    except NotCanonical:
        raise
    except ValueError as error:
        raise NotCanonical(f"it is not JSON ({error})") from None
    if encoded != document:
        raise NotCanonical(f"it is not canonical JSON at byte {_first_difference(encoded, document)}")
    return value


def _first_difference(one: bytes, other: bytes) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise NotCanonical(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    for key in found:
        if not key.isascii() or "\0" in key:
            raise NotCanonical(f"the key {key!r} is not ASCII")
    return found


def _integer(text: str) -> int:
    if len(text) > _TOO_LONG or abs(value := int(text)) > MAX_INTEGER:
        raise NotCanonical("it has an integer beyond 2^53 - 1")
    return value


def _no_float(text: str) -> NoReturn:
    raise NotCanonical(f"it has the number {text[:20]}, and only integers are signed")


def _refuse_nul(value: Any) -> None:
    if isinstance(value, str) and "\0" in value:
        raise NotCanonical("it has text with U+0000")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_nul(item)


_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float)
