"""What differs between two states of the same thing: by the path of each value, and in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

_NAMES: Final = ("name", "dataset_id", "id")
"""What tells the things in a list apart, whatever order they stand in."""
_WORDS_MAX: Final = 80
_NESTED: Final = frozenset({dict, list})


class Difference(NamedTuple):
    """One value: the path to it, and how it reads in either state; None where it is not."""

    field: str
    before: Any
    after: Any


def differences(before: Any, after: Any, field: str = "") -> list[Difference]:
    """Each value that differs, by its path: objects member by member, lists of named things by name, all else whole."""
    if isinstance(before, list) and isinstance(after, list):
        named, renamed = _by_name(before), _by_name(after)
        if named and renamed:
            before, after = named, renamed
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [Difference(field, before, after)] if before != after else []
    found = []
    for name in sorted(_differing(before, after)):
        was, now = before.get(name), after.get(name)
        path = f"{field}.{name}" if field else name
        if type(was) in _NESTED and type(now) in _NESTED:
            found += differences(was, now, path)
        else:
            found.append(Difference(path, was, now))
    return found


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if before.keys() == after.keys():
        return [name for name, value in before.items() if value != after[name]]
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


def in_words(found: Iterable[Difference]) -> str:
    """What changed, as a person would say it: `limit_minor from 1000 to 2000; tags gained gold`."""
    return "; ".join(_said(one) for one in found)


def _said(one: Difference) -> str:
    field, before, after = one
    if before in (None, [], {}):
        return f"{field} set to {_shown(after)}"
    if after in (None, [], {}):
        return f"{field} taken away (it was {_shown(before)})"
    if isinstance(before, list) and isinstance(after, list):
        gained, lost = [item for item in after if item not in before], [item for item in before if item not in after]
        told = [f"{verb} {', '.join(map(_shown, items))}" for verb, items in (("gained", gained), ("lost", lost)) if items]
        return f"{field} {' and '.join(told) or 'in another order'}"
    return f"{field} from {_shown(before)} to {_shown(after)}"


def _shown(value: Any) -> str:
    if isinstance(value, list) and value:
        value = ", ".join(_shown(item) for item in (_by_name(value) or value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WORDS_MAX else f"{text[: _WORDS_MAX - 3]}..."


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """A list of things that have names, each of its own, as an object of them; None of any other."""
    for name in _NAMES:
        if all(isinstance(item, dict) and isinstance(item.get(name), str) for item in items):
            named = {item[name]: item for item in items}
            return named if len(named) == len(items) else None
    return None
