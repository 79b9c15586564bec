"""Topics: what an event is about, so that "everything about dataset X" is a set that can be counted, and nothing of it left out.

A topic is a short text that follows from what is signed and from nothing else: `all`, `actor:usr-ana` (who did it),
`stream:dataset:customers` (where it stands), `about:dataset:customers` (what it concerns), `jurisdiction:EU` (whose law).
Of each topic a tenant's index holds how many events it has and one hash chained over them in order, and the ledger holds
the root of that index. Who is given all events of a topic counts and chains them again; one left out shows.

The rules, applied to an event's body:

- its own stream, and every member `stream` or `about`, names what it concerns by category and id;
- so does every member named `<category>_id` or `<category>_ids`, at any depth of `data`, and those of `NAMED_OTHERWISE`;
- an actor's id (`usr-`, `agt-`, `svc-`) concerns that actor wherever it stands as a whole text, an agent's also that agent;
- a jurisdiction is what a member `jurisdiction` says in one of the places of `STATED_AT`; besides, an event has the one
  last stated for each dataset and pipeline it is about. `jurisdiction:-` marks what no single law is known for: nothing
  was stated, or `multi`. It belongs to every selection by jurisdiction, for such an event may be under any;
- an event of a stream of `INHERITING` is about what the first event of that stream was about.

What happens once and is never asked for by its id has no topic of that id (`NOT_ASKED_FOR`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

RULES: Final = 1
"""Counts the changes of these rules; a committed index says under which it was made."""
EMPTY_CHAIN: Final = bytes(32)
ALL: Final = "all"
UNKNOWN_LAW: Final = "jurisdiction:-"
MULTI: Final = "multi"
NOT_ASKED_FOR: Final = frozenset(
    {"action", "artifact", "key", "notification", "originator", "pack", "request", "reservation", "tool", "webhook"}
)
"""Categories of one event each, or of no interest to anybody who does not hold the event already."""
INHERITING: Final = frozenset({"approval", "delegation", "export"})
"""Categories whose first event says what it is about, while the later ones name only the stream."""
GOVERNED: Final = ("about:dataset:", "about:pipeline:")
"""What a jurisdiction is stated for."""
SELECTED: Final = (("datasets", "about:dataset:"), ("agents", "about:agent:"), ("actors", "actor:"), ("policies", "about:policy:"))
"""Members of a selection, and what makes topics of the names in them."""
NAMED_OTHERWISE: Final[Mapping[str, str]] = {
    "actors": "actor",
    "agents": "agent",
    "budgets": "budget",
    "datasets": "dataset",
    "inputs": "dataset",
    "outputs": "dataset",
    "path": "budget",
    "pipelines": "pipeline",
    "policies": "policy",
    "policy": "policy",
    "replaced_by": "dataset",
    "retire": "policy",
    "upstream_id": "dataset",
    "upstream_ids": "dataset",
    "upstreams_removed": "dataset",
}
"""Members that hold ids (a text, or a list of texts) and do not say so by `_id`: the category the ids are of."""
STATED_AT: Final = (
    ("jurisdiction",),
    ("profile", "jurisdiction"),
    ("snapshot", "profile", "jurisdiction"),
    ("inputs", "jurisdiction"),
    ("intent", "inputs", "jurisdiction"),
    ("question", "facts", "jurisdiction"),
    ("question", "facts", "becomes", "jurisdiction"),
    ("datasets", "jurisdiction"),
    ("intent", "inputs", "facts", "jurisdiction"),
)
"""Paths in `data`; a list on the way stands for each of its items."""
_SETTLED_AT: Final = (("profile", "jurisdiction"), ("snapshot", "profile", "jurisdiction"))
"""Where an entity's own events say what holds from now on."""
_WALKED: Final = frozenset({str, dict, list})
_ID: Final = re.compile(r"[!-~]{1,200}")
_ACTOR: Final = re.compile(r"(usr|agt|svc)-[a-z0-9][a-z0-9-]{0,60}")
_STREAM: Final = ":stream"
"""Stands for a category where a value is a stream, which names its own."""


def topics_of(body: Mapping[str, Any]) -> set[str]:
    """The topics that an event's body alone gives it."""
    stream, actor, data = body["stream"], body["actor"], body["data"]
    found = {ALL, f"actor:{actor}"}
    _add_actor(found, actor)
    _add_stream(found, stream)
    if f"about:{stream}" in found:
        found.add(f"stream:{stream}")
    _walk(found, data)
    for stated in _stated(data, STATED_AT):
        found.add(f"jurisdiction:{stated}")
    return found


class TopicFold:
    """The topics of one tenant's events, fed in order, with what later ones take from earlier ones.

    `memory` holds that between events: by stream, the texts it hands on. A caller with millions of streams gives a mapping
    that keeps them elsewhere; `recalls` says which of them an event will ask for.
    """

    def __init__(self, memory: MutableMapping[str, tuple[str, ...]] | None = None) -> None:
        self._memory: MutableMapping[str, tuple[str, ...]] = {} if memory is None else memory

    def topics(self, body: Mapping[str, Any], own: set[str] | None = None) -> set[str]:
        """All topics of the next event; `own` is `topics_of` it, if that is known already."""
        found = topics_of(body) if own is None else own
        stream: str = body["stream"]
        category = stream.partition(":")[0]
        if category in INHERITING:
            handed_on = self._memory.get(stream)
            if handed_on is None:
                handed_on = self._memory[stream] = tuple(sorted(topic for topic in found if topic.startswith("about:")))
            found.update(handed_on)
        for entity in list(governed(found)):
            found.update(f"jurisdiction:{law}" for law in self._memory.get(entity, ()))
        if f"about:{stream}".startswith(GOVERNED):
            settled = tuple(_stated(body["data"], _SETTLED_AT))
            if settled:
                self._memory[stream] = settled
        if not any(topic.startswith("jurisdiction:") and topic != f"jurisdiction:{MULTI}" for topic in found):
            found.add(UNKNOWN_LAW)
        return found


def recalls(stream: str, topics: Iterable[str]) -> Iterator[str]:
    """Keys of a fold's memory that an event of this stream, with these topics of its own, asks for."""
    if stream.partition(":")[0] in INHERITING:
        yield stream
    yield from governed(topics)


def governed(topics: Iterable[str]) -> Iterator[str]:
    """The datasets and pipelines among topics, as streams."""
    return (topic[len("about:") :] for topic in topics if topic.startswith(GOVERNED))


def topics_of_selection(selection: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What a selection is made of: events of any of the first topics and, when there are some, of any of the second as well."""
    base = [f"{prefix}{name}" for member, prefix in SELECTED for name in selection[member]]
    within = [f"jurisdiction:{law}" for law in selection["jurisdictions"]]
    return list(dict.fromkeys(base or [ALL])), list(dict.fromkeys([*within, UNKNOWN_LAW] if within else []))


def chain_step(chain: bytes, position: int, leaf: bytes) -> bytes:
    """The chain of a topic after one more event: SHA-256(chain || position as 8 bytes, big-endian || leaf)."""
    return sha256(b"%b%b%b" % (chain, position.to_bytes(8, "big"), leaf)).digest()


def index_entry(topic: str, count: int, chain: bytes) -> bytes:
    """A topic's entry in the index, whose tree is over the topics in the order of their bytes."""
    return json.dumps([topic, count, chain.hex()], ensure_ascii=False, separators=(",", ":")).encode()


def _add_stream(found: set[str], stream: str) -> None:
    """What a stream is about; nothing for what is no stream's name."""
    category, _, entity = stream.partition(":")
    if category.isalpha() and category not in NOT_ASKED_FOR and _ID.fullmatch(entity):
        found.add(f"about:{stream}")
    _add_actor(found, entity)


def _add_actor(found: set[str], text: str) -> None:
    if text[3:4] == "-" and _ACTOR.fullmatch(text):
        found.add(f"about:actor:{text}")
        if text.startswith("agt-"):
            found.add(f"about:agent:{text}")


def _walk(found: set[str], data: Any) -> None:
    """Adds what every text in JSON is about, by the name of the member it is a value of; a member's name can be an actor's id too.

    It sees every event of a ledger: hence plain loops, types compared rather than asked for, and no recursion.
    """
    waiting: list[tuple[str | None, Any]] = [(None, data)]
    while waiting:
        category, value = waiting.pop()
        kind = type(value)
        if kind is str:
            if value[3:4] == "-":
                _add_actor(found, value)
            if category is not None:
                _add_named(found, category, value)
        elif kind is dict:
            for name, inner in value.items():
                if name[3:4] == "-":
                    _add_actor(found, name)
                kind = type(inner)
                if kind in _WALKED:
                    waiting.append((_category(name), inner))
        elif kind is list:
            waiting.extend([(category, item) for item in value])


def _add_named(found: set[str], category: str, value: str) -> None:
    if category == _STREAM:
        _add_stream(found, value)
    elif _ID.fullmatch(value):
        found.add(f"about:{category}:{value}")


@lru_cache(maxsize=4096)
def _category(name: str) -> str | None:
    """What a member of this name holds ids of."""
    if name in ("stream", "about"):
        return _STREAM
    category = NAMED_OTHERWISE.get(name)
    if category is None and name.endswith(("_id", "_ids")):
        category = name.removesuffix("s").removesuffix("_id")
    return None if category in NOT_ASKED_FOR else category or None


def _stated(data: Any, paths: Iterable[tuple[str, ...]]) -> set[str]:
    """The jurisdictions that stand at these places."""
    found: set[str] = set()
    for path in paths:
        _add_stated(found, data, path, 0)
    return found


def _add_stated(found: set[str], value: Any, path: tuple[str, ...], at: int) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            _add_stated(found, item, path, at)
    elif at == len(path):
        if kind is str and _ID.fullmatch(value):
            found.add(value)
    elif kind is dict and path[at] in value:
        _add_stated(found, value[path[at]], path, at + 1)
