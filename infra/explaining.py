"""What each event of a stream changed in the state that decisions are made on: the state as JSON, and the change in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal
from uuid import UUID

from immutables import Map
from pydantic import BaseModel

from domain.kernel import Decider, Recorded, timestamp

ENTRIES_MAX: Final = 200
"""Of a collection in a state, so many are shown: what changed of it is told in any case."""
_SAID_MAX: Final = 80
_NAMES_MAX: Final = 10
_IDENTIFYING: Final = ("name", "key_id", "policy_id", "step", "approver")
_EMPTY: Final[tuple[Any, ...]] = (None, "", (), [], {}, frozenset())
Kind = Literal["changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that an event changed, by its path (`columns.email.pii`); `before` and `after` are JSON values."""

    field: str
    kind: Kind
    before: Any
    after: Any
    label: str
    """As words name it: `pii_level` is enough for `profile.pii_level`."""


@dataclass(frozen=True, slots=True)
class Step:
    """An event, the state after it, and what it changed; `sentences` say the same in words."""

    recorded: Recorded[Any]
    state: Any
    differences: list[Difference]
    sentences: list[str]


def steps(decider: Decider[Any, Any, Any], state: Any, history: Iterable[Recorded[Any]], *, explain: bool) -> Iterator[Step]:
    """Each event of a history, from a state on, with the state after it and, if that is to be explained, what it changed."""
    for recorded in history:
        before, state = state, decider.evolve(state, recorded.event)
        found = list(differences(before, state)) if explain else []
        yield Step(recorded, state_json(state), found, sentences(found))


# -- states as JSON


def state_json(value: Any) -> Any:
    """A state as JSON values; a collection of more than ENTRIES_MAX is cut, and says how many entries it has."""
    match value:
        case None | bool() | int() | float():
            return value
        case Enum():
            return value.value
        case str():
            return value
        case datetime():
            return timestamp(value)
        case UUID():
            return str(value)
        case bytes():
            return value.hex()
        case _ if (members := _members(value)) is not None:
            shown = {str(key): state_json(member) for key, member in _first(members.items())}
            return _counted(shown, len(members))
        case AbstractSet():
            return _counted_list([state_json(item) for item in _first(sorted(value, key=_order))], len(value))
        case list() | tuple():
            return _counted_list([state_json(item) for item in _first(value)], len(value))
        case _:
            raise TypeError(f"a state holds a {type(value).__name__}, which nobody knows to show")


def _first(items: Iterable[Any]) -> Iterator[Any]:
    return (item for _, item in zip(range(ENTRIES_MAX), items, strict=False))


def _counted(shown: dict[str, Any], length: int) -> dict[str, Any]:
    return shown if length <= ENTRIES_MAX else {**shown, "...": f"{length} entries in all"}


def _counted_list(shown: list[Any], length: int) -> list[Any]:
    return shown if length <= ENTRIES_MAX else [*shown, f"... {length} entries in all"]


def _members(value: Any) -> Mapping[Any, Any] | None:
    """The named parts of a value: fields of an object, or entries of a mapping; None when it has no such parts."""
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return value if isinstance(value, Map | Mapping) else None


def _order(item: Any) -> str:
    return str(state_json(item))


# -- what changed


def differences(before: Any, after: Any) -> Iterator[Difference]:
    """What differs between two states, field by field. Parts that they share are not looked into, however large they are."""
    if _parts(after) is None:
        yield Difference("", "changed", state_json(before), state_json(after), "state")
    else:
        yield from _inside(before, after, "", "")


def _inside(before: Any, after: Any, path: str, entry: str) -> Iterator[Difference]:
    """What differs in the parts of a value. Inside a collection, words name its `entry`; a field of a field is told by its own name."""
    old, new = _parts(before) or {}, _parts(after) or {}
    differs = False
    for name in [*old, *(name for name in new if name not in old)]:
        was, now = old.get(name), new.get(name)
        if name in old and name in new and (was is now or was == now):
            continue
        differs = True
        where = f"{path}.{name}" if path else str(name)
        if _is_object(after):
            label = f"{entry}.{name}" if entry else str(name)
            if _parts(now) is None or (was is not None and _parts(was) is None):
                if not (was is None and now in _EMPTY):
                    yield Difference(where, "changed", state_json(was), state_json(now), label)
            else:
                yield from _inside(was, now, where, "" if _is_object(now) and not entry else label)
        elif name not in old or name not in new:
            kind: Kind = "added" if name in new else "removed"
            yield Difference(where, kind, state_json(was), state_json(now), f"{entry}.{name}")
        elif _parts(now) is None or _parts(was) is None:
            yield Difference(where, "changed", state_json(was), state_json(now), f"{entry}.{name}")
        else:
            yield from _inside(was, now, where, f"{entry}.{name}")
    if not differs and old and isinstance(after, tuple | list):
        yield Difference(path, "changed", state_json(before), state_json(after), f"order of {entry}")


def _is_object(value: Any) -> bool:
    """Whether its parts are fields, which are always there, and no entries that come and go."""
    return isinstance(value, BaseModel) or dataclasses.is_dataclass(value)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """As `_members`; the items of a list or a set are its parts too, by what identifies each."""
    if isinstance(value, AbstractSet | tuple | list):
        return {_identity(item): item for item in value}
    return _members(value)


def _identity(item: Any) -> str:
    """What tells an item from others of its collection."""
    if isinstance(item, tuple):
        return ", ".join(str(state_json(part)) for part in item)
    members = _members(item) or {}
    named = next((str(members[name]) for name in _IDENTIFYING if members.get(name) is not None), None)
    version = f"@{members['version']}" if "version" in members else ""
    return f"{named}{version}" if named else str(state_json(item))


# -- in words


def sentences(found: Iterable[Difference]) -> list[str]:
    """One sentence for each field that changed, and one for all entries that were added to, or removed from, the same collection."""
    said: list[str] = []
    grouped: dict[tuple[str, Kind], list[str]] = {}
    for difference in found:
        if difference.kind == "changed":
            said.append(f"{difference.label}: {_said(difference.before)} -> {_said(difference.after)}")
        else:
            collection, _, name = difference.label.partition(".")
            grouped.setdefault((collection, difference.kind), []).append(name)
    said += [f"{_counted_words(collection, len(names))} {kind}: {_listed(names)}" for (collection, kind), names in grouped.items()]
    return said


def _counted_words(collection: str, count: int) -> str:
    """`2 columns`; `1 budget`."""
    words = collection.replace("_", " ")
    if count == 1 and words.endswith("ies"):
        words = f"{words[:-3]}y"
    elif count == 1 and words.endswith("s") and not words.endswith("ss"):
        words = words[:-1]
    elif not words.endswith("s"):
        words = f"entr{'y' if count == 1 else 'ies'} of {words}"
    return f"{count} {words}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return ", ".join(_short(name) for name in names[:_NAMES_MAX]) + more


def _said(value: Any) -> str:
    match value:
        case None | "" | [] | {}:
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case list():
            return _short(", ".join(_said(item) for item in value))
        case dict():
            return _short(", ".join(f"{name} {_said(item)}" for name, item in value.items() if item not in (None, [], {}, "")))
        case _:
            return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _SAID_MAX else f"{text[: _SAID_MAX - 3]}..."
