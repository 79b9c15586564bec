"""The one way a fact is written down: canonical JSON (RFC 8785) in a profile every reader agrees on.

ASCII keys, no floats, integers within +-(2**53 - 1), NFC strings without lone surrogates and without U+0000 (which no
PostgreSQL text or jsonb can hold, so no read model could), no duplicate keys. Inside that profile orjson with sorted
keys equals RFC 8785 (a property test holds it against the rfc8785 package).
"""

import json
from typing import Any, Final, NoReturn
from unicodedata import is_normalized

import orjson

from domain.values import MAX_SAFE_INTEGER


class ProfileError(ValueError):
    """A value that cannot be signed: `path` says where, `rule` which rule, `remedy` what to do."""

    def __init__(self, path: str, rule: str, remedy: str) -> None:
        super().__init__(f"{path or 'the document'}: {rule}; {remedy}")
        self.path, self.rule, self.remedy = path, rule, remedy


def canonical(value: Any) -> bytes:
    """Canonical JSON bytes of `value`; raises ProfileError when it is outside the profile."""
    require_profile(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _fits(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        text: str = value
        return "\0" not in text and (text.isascii() or (is_normalized("NFC", text) and _encodable(text)))
    if kind is int:
        number: int = value
        return -MAX_SAFE_INTEGER <= number <= MAX_SAFE_INTEGER
    if kind is dict:
        # A plain loop: a generator costs as much again, and this sees every value that is signed.
        for key, item in value.items():
            if type(key) is not str or not key.isascii() or "\0" in key or not _fits(item):
                return False
        return True
    if kind is list or kind is tuple:
        return all(map(_fits, value))
    return value is None or kind is bool


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explain(value: Any, path: str) -> NoReturn:
    """Finds the first value outside the profile and says what is wrong with it."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii() or "\0" in key:
                raise ProfileError(f"{path}.{key}".lstrip("."), "a key must be ASCII text without U+0000", "rename the key")
            if not _fits(item):
                _explain(item, f"{path}.{key}".lstrip("."))
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if not _fits(item):
                _explain(item, f"{path}[{index}]")
    if isinstance(value, float):
        raise ProfileError(path, "floats are not signed", "use an integer in a smaller unit, or text")
    if isinstance(value, int):
        raise ProfileError(path, "integers lie within +-(2**53 - 1)", "use a coarser unit, or text")
    if isinstance(value, str) and "\0" in value:
        raise ProfileError(path, "text holds no U+0000", "leave the character out")
    if isinstance(value, str):
        raise ProfileError(path, "text must be NFC and free of lone surrogates", "normalise it (unicodedata.normalize('NFC', ...))")
    raise ProfileError(path, f"{type(value).__name__} is not a JSON value", "use text, integers, booleans, null, lists and objects")


def require_profile(value: Any) -> None:
    """Raises ProfileError, naming the place, unless `value` could be signed."""
    if not _fits(value):
        _explain(value, "")


def loads_strict(document: bytes) -> Any:
    """JSON from outside, refusing what parsers disagree on: duplicate keys, NaN and Infinity, and nesting too deep."""
    try:
        return _STRICT.decode(document.decode())
    except RecursionError:
        raise ProfileError("", "it is nested too deeply", "flatten it") from None
    except ValueError as error:
        if isinstance(error, ProfileError):
            raise
        raise ProfileError("", f"it is not JSON in UTF-8 ({error})", "send a JSON document") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ProfileError(twice, "a key stands twice in one object", "send it once")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ProfileError("", f"{name} is not JSON", "send a number, or leave the field out")


_STRICT: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
