"""Whether a pack leaves anything out: what was asked for, counted and chained again, and compared with what the ledger committed to."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra.verifier.events import Body
from infra.verifier.manifest import Manifest
from infra.verifier.sources import Unreadable, read_lines
from infra.verifier.topics import EMPTY_CHAIN, chain_step, index_entry, topics_of_selection
from infra.verifier.tree import EMPTY_ROOT, ProofError, check_inclusion, leaf_hash

INDEX_EVENT: Final = "exports.index_committed"
MISSING: Final = "missing"
_HASH: Final = re.compile("[0-9a-f]{64}")
Standing = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a pack's completeness, and at which position, if at one."""

    check: str
    found: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Included:
    """What stands in the pack: positions of entries, of key events, the bodies of the fences and of the period's ends."""

    entries: Sequence[int]
    keys: Sequence[int]
    bodies: Mapping[int, Body]
    topics: Mapping[str, Sequence[int]]
    """By topic of the selection: the positions of entries that are of it by their bodies alone."""


def ends(manifest: Manifest, topics: Topics | None, keys: Collection[int]) -> set[int]:
    """Positions whose times show where the period begins and ends: the fences, and the first and the last entry in range."""
    elsewhere = set(manifest.predicate["withheld"]).union(keys)
    span = range(manifest.after + 1, manifest.until + 1)
    if topics is None or not topics.told:
        first = next((position for position in span if position not in elsewhere), None)
        last = next((position for position in reversed(span) if position not in elsewhere), None)
    else:
        there = [position for position in topics.selected() if position in span and position not in elsewhere]
        first, last = min(there, default=None), max(there, default=None)
    return {position for position in (*manifest.fences, first, last) if position is not None}


# -- everything


def all_of(manifest: Manifest, included: Included) -> Iterator[Finding]:
    """Every position in range is there, or named as withheld; and the range is that of the period."""
    size, after, until = manifest.predicate["checkpoint"]["size"], manifest.after, manifest.until
    fences = {"before": after or None, "after": until + 1 if until < size else None}
    if manifest.predicate["fences"] != fences:
        yield Finding("period", f"the events next to its range are {_told(fences)}, and it names {_told(manifest.predicate['fences'])}")
    yield from _period(manifest, included.bodies, before=bool(after), after=until < size)
    yield from _counted(manifest, included, {"other_jurisdiction": 0, "outside_period": size - (until - after)})
    there = sorted({*manifest.predicate["withheld"], *included.entries, *included.keys})
    expected = after + 1 if fences["before"] is None else after
    last = until if fences["after"] is None else until + 1
    for position in [*there[bisect_left(there, expected) : bisect_left(there, last + 1)], last + 1]:
        for missing in range(expected, position):
            yield Finding(MISSING, f"position {missing} is missing", missing)
        expected = position + 1
    span = range(after, until + 2)
    yield from _unasked(manifest, included, {position for position in there if position in span})


# -- a selection


class Topics:
    """The rows of the topics that a selection is made of, each chained again."""

    def __init__(self, manifest: Manifest, committed: tuple[int, Body], rows: Callable[[int], tuple[str, bytes]]) -> None:
        """`committed` is the event (position, body) that holds the index; `rows` gives name and content of a topic's file, by number."""
        self._manifest, self._index, self._rows = manifest, manifest.predicate["index"], rows
        self._position, self._committed = committed
        self.base, self.within = topics_of_selection(manifest.predicate["selection"])
        self.positions: dict[str, array[int]] = {}
        self.leaves: dict[int, bytes] = {}
        """Leaf hashes as the rows have them."""

    def _check_committed(self) -> Iterator[Finding]:
        """The event is the index that the manifest speaks of."""
        member, index = self._committed, self._index
        data, tenant = member["data"], self._manifest.predicate["tenant"]
        said = (member["tenant"], member["stream"], member["type"], self._position)
        if said != (tenant, f"index:{tenant}", INDEX_EVENT, index["position"]):
            yield Finding("index", f"it is {member['type']} of {member['stream']}, not an index of {tenant}", self._position)
        elif not isinstance(data.get("root"), str) or not _HASH.fullmatch(data["root"]):
            yield Finding("index", "the root it commits is not a hash", self._position)
        elif (data.get("size"), data.get("topics")) != (index["size"], index["topics_count"]) or index["size"] >= self._position:
            said_here = f"{data.get('topics')} topics at {data.get('size')}"
            found = f"it commits {said_here}, and the manifest says {index['topics_count']} at {index['size']}"
            yield Finding("index", found, self._position)

    def check_keys(self, keys: Sequence[int], leaf_of: Callable[[int], bytes]) -> Iterator[Finding]:
        """The key stream in the pack, whose positions these are, reaches as far as it did when the index was committed."""
        data, known = self._committed["data"], bisect_left(keys, self._index["size"] + 1)
        head = (known, leaf_of(keys[known - 1]).hex() if known else "")
        if (data.get("keys_version"), data.get("keys_leaf")) != head:
            found = f"the key stream had {data.get('keys_version')} events when the index was committed, and {known} of them are here"
            yield Finding(MISSING, found)

    def check(self) -> Iterator[Finding]:
        """Each topic's rows come to what was committed, or the topic is shown not to be there."""
        bad = list(self._check_committed())
        if bad:
            yield from bad
            return
        wanted = [*self.base, *self.within]
        if [standing["topic"] for standing in self._index["topics"]] != wanted:
            yield Finding("index", f"the selection is made of the topics {', '.join(wanted)}, and the manifest tells of others")
            return
        for number, standing in enumerate(self._index["topics"]):
            topic = standing["topic"]
            try:
                count, chain = self._read(number, topic)
                if "absent" in standing:
                    self._require_absent(standing, count)
                else:
                    self._require_standing(standing, count, chain)
            except (Unreadable, ProofError, ValueError) as error:
                yield Finding("index", f"{topic}: {error}")
                self.positions.setdefault(topic, array("Q"))

    @property
    def told(self) -> bool:
        """Whether the rows of every topic of the selection were there to be read."""
        return self.positions.keys() == {*self.base, *self.within}

    def selected(self) -> set[int]:
        """All positions that the selection is made of, whatever the period."""
        return self._of(self.base) & self._of(self.within) if self.within else self._of(self.base)

    def elsewhere(self) -> int:
        """How many events of the first topics stand under other laws."""
        return len(self._of(self.base)) - len(self.selected())

    def _of(self, topics: Iterable[str]) -> set[int]:
        return {position for topic in topics for position in self.positions[topic]}

    def _read(self, number: int, topic: str) -> tuple[int, bytes]:
        """(count, chain) of a topic's rows."""
        name, content = self._rows(number)
        positions, chain, size = array("Q"), EMPTY_CHAIN, self._index["size"]
        for at, position, text in read_lines(content, name):
            leaf = bytes.fromhex(text.decode("ascii"))
            if len(text) != 64 or text.lower() != text or position > size:
                raise Unreadable(f"{name} byte {at}", "not a position of the index and a leaf hash in hex")
            if self.leaves.setdefault(position, leaf) != leaf:
                raise Unreadable(f"{name} byte {at}", f"another leaf at position {position} than another topic has")
            positions.append(position)
            chain = chain_step(chain, position, leaf)
        self.positions[topic] = positions
        return len(positions), chain

    def _require_standing(self, standing: Standing, count: int, chain: bytes) -> None:
        if (standing["count"], standing["chain"]) != (count, chain.hex()):
            raise ProofError(f"its {count} rows do not come to the {standing['count']} events that were committed")
        self._require_in_index(standing)

    def _require_in_index(self, standing: Standing) -> None:
        leaf = leaf_hash(index_entry(standing["topic"], standing["count"], bytes.fromhex(standing["chain"])))
        path = [bytes.fromhex(value) for value in standing["path"]]
        check_inclusion(standing["index"], self._index["topics_count"], leaf, path, bytes.fromhex(self._committed["data"]["root"]))

    def _require_absent(self, standing: Standing, count: int) -> None:
        """It would stand between two neighbours, or at an end, or there is no topic at all."""
        before, after, topics = standing["before"], standing["after"], self._index["topics_count"]
        topic, place = standing["topic"].encode(), (-1 if before is None else before["index"])
        for neighbour in (before, after):
            if neighbour is not None:
                self._require_in_index(neighbour)
        if count or standing["absent"] is not True:
            raise ProofError("it has rows, and is said not to be there")
        if (before and before["topic"].encode() >= topic) or (after and after["topic"].encode() <= topic):
            raise ProofError("it would not stand between the neighbours that are shown")
        if place + 1 != (topics if after is None else after["index"]):
            raise ProofError("the topics shown beside it are not neighbours in the index")
        if not topics and self._committed["data"]["root"] != EMPTY_ROOT.hex():
            raise ProofError("the index is not empty")


def selection_of(manifest: Manifest, topics: Topics, included: Included) -> Iterator[Finding]:
    """Every selected position in range is there, or named as withheld; and the range is that of the period."""
    selected = sorted(topics.selected())
    first, last = bisect_left(selected, manifest.after + 1), bisect_left(selected, manifest.until + 1)
    before, after = selected[first - 1] if first else None, selected[last] if last < len(selected) else None
    fences = {"before": before, "after": after}
    if manifest.predicate["fences"] != fences:
        yield Finding("period", f"the selected events next to it are {_told(fences)}, and it names {_told(manifest.predicate['fences'])}")
    wanted = set(selected[first:last]) | {position for position in fences.values() if position is not None}
    yield from _period(manifest, included.bodies, before=before is not None, after=after is not None)
    outside = {"other_jurisdiction": topics.elsewhere(), "outside_period": len(selected) - (last - first)}
    yield from _counted(manifest, included, outside)
    for position in sorted(wanted.difference(manifest.predicate["withheld"], included.entries, included.keys)):
        yield Finding(MISSING, f"position {position}, an event of {' or '.join(topics.base)}, is missing", position)
    yield from _unasked(manifest, included, wanted)
    for topic, positions in included.topics.items():
        left_out = set(positions).difference(topics.positions[topic])
        for position in sorted(position for position in left_out if position <= manifest.predicate["index"]["size"]):
            yield Finding("index", f"its body makes it an event of {topic}, and the committed index leaves it out", position)


# -- both


def _unasked(manifest: Manifest, included: Included, wanted: Collection[int]) -> Iterator[Finding]:
    """No entry stands there that is not wanted, and none that is said to be withheld."""
    withheld = set(manifest.predicate["withheld"])
    for position in sorted(withheld.union(included.entries).difference(wanted)):
        yield Finding("selection", "it is not part of what was selected", position)
    for position in sorted(withheld.intersection(included.entries)):
        yield Finding("selection", "it is there, and said to be withheld", position)


def _counted(manifest: Manifest, included: Included, outside: Mapping[str, int]) -> Iterator[Finding]:
    withheld = len(manifest.predicate["withheld"])
    found = {"entries": len(included.entries), "keys": len(included.keys), "withheld_entries": withheld, **outside}
    if manifest.predicate["counts"] != found:
        yield Finding("manifest", f"it counts {_told(manifest.predicate['counts'])}, and there are {_told(found)}")


def _period(manifest: Manifest, bodies: Mapping[int, Body], *, before: bool, after: bool) -> Iterator[Finding]:
    """at(before) < from <= at(in range) < to <= at(after): where the period ends is shown by the events next to it."""
    selection, fences = manifest.predicate["selection"], manifest.predicate["fences"]
    start, end = selection["from"], selection["to"]
    if (before and start is None) or (after and end is None):
        yield Finding("period", "it leaves events out before or after its range, and states no time at which the period begins or ends")
    for position, body in bodies.items():
        at = body["at"]
        if position == fences["before"]:
            holds = start is None or at < start
        elif position == fences["after"]:
            holds = end is None or at >= end
        else:
            holds = not manifest.after < position <= manifest.until or ((start is None or at >= start) and (end is None or at < end))
        if not holds:
            yield Finding("period", f"it is of {at}, and the period is from {start or 'the beginning'} to {end or 'the end'}", position)


def withheld_fences(manifest: Manifest) -> Collection[int]:
    """Fences that cannot be looked at, for the profile withholds them."""
    return manifest.fences.intersection(manifest.predicate["withheld"])


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'none' if value is None else value}" for name, value in values.items())
