"""Choosing the events of a pack: one pass over the tenant's events, by the topics that were asked for - or simply all of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import orjson

from domain.keys import KEY_STREAM, SYSTEM_TENANT
from infra.durable import write_whole
from infra.packing.plan import BuildFailed, Plan
from infra.packing.reading import Connection, Positions, copied
from infra.verifier.topics import EMPTY_CHAIN, TopicFold, chain_step, topics_of_selection

Progress = Callable[[int, int], None]
TOLD_EVENTS: Final = 5_000
_POSITION_BYTES: Final = 8
_CHOICE, _CHOSEN, _TOPICS = "choice.json", "chosen.bin", "topics"


@dataclass(slots=True)
class Choice:
    """What was chosen: how many entries, which selected positions the profile keeps back, and what lies beside the selection.

    `before` and `after` are the fences: the nearest selected events outside the period, which stand among the entries.
    """

    entries: int = 0
    withheld: list[int] = field(default_factory=list)
    other_jurisdiction: int = 0
    outside_period: int = 0
    before: int | None = None
    after: int | None = None


class Chosen:
    """The chosen positions, and the topics' rows, in a folder: whoever goes on with a pack finds them there."""

    def __init__(self, folder: Path, choice: Choice) -> None:
        self._folder, self.choice = folder, choice

    def chunks(self, size: int) -> Iterator[Positions]:
        """The positions of the entries, so many at a time, ascending."""
        with (self._folder / _CHOSEN).open("rb") as file:
            while read := file.read(size * _POSITION_BYTES):
                yield array("Q", read)

    def topics(self) -> list[Path]:
        """The files of the topics' rows, in the order of the manifest."""
        return sorted((self._folder / _TOPICS).glob("*.tsv"))


def choose(connection: Connection, plan: Plan, folder: Path, progress: Progress) -> Chosen:
    """Chooses, or finds what was chosen before. Raises BuildFailed when the events are not those of the committed index."""
    try:
        return Chosen(folder, Choice(**orjson.loads((folder / _CHOICE).read_bytes())))
    except FileNotFoundError:
        (folder / _TOPICS).mkdir(parents=True, exist_ok=True)
    with (folder / _CHOSEN).open("wb") as file:
        choice = _everything(connection, plan, file) if plan.everything else _selected(connection, plan, folder, file, progress)
    write_whole(folder / _CHOICE, orjson.dumps(asdict(choice)))
    return Chosen(folder, choice)


def _everything(connection: Connection, plan: Plan, file: IO[bytes]) -> Choice:
    """All positions of the period, and one on each side of it; the stream of the keys has a file of its own."""
    before = plan.after or None
    after = plan.until + 1 if plan.until < plan.checkpoint_size else None
    first, last = before or plan.after + 1, after or plan.until
    keys = f"tenant = '{SYSTEM_TENANT}' AND stream = '{KEY_STREAM}'"
    query = f"SELECT position, {keys} FROM ledger.events WHERE position BETWEEN {first} AND {last} AND ({keys} OR {_of(plan)})"  # noqa: S608
    left_out = dict(copied(connection, f"{query} ORDER BY position", ["int8", "bool"]))
    withheld = [position for position, is_key in left_out.items() if not is_key]
    choice = Choice(withheld=withheld, outside_period=plan.checkpoint_size - (plan.until - plan.after), before=before, after=after)
    for start in range(first, last + 1, TOLD_EVENTS):
        chunk = array("Q", (position for position in range(start, min(start + TOLD_EVENTS, last + 1)) if position not in left_out))
        chunk.tofile(file)
        choice.entries += len(chunk)
    return choice


def _of(plan: Plan) -> str:
    """SQL that is true of the types that the profile withholds; their names hold no quotes."""
    types: list[str] = plan.profile["withhold_types"]
    return f"type = ANY('{{{','.join(types)}}}')"


def _selected(connection: Connection, plan: Plan, folder: Path, file: IO[bytes], progress: Progress) -> Choice:
    assert plan.index is not None
    base, within = topics_of_selection(plan.selection)
    tenant = plan.tenant.replace("'", "''")
    query = f"SELECT position, body, leaf FROM ledger.events WHERE position <= {plan.horizon} AND tenant = '{tenant}' ORDER BY position"  # noqa: S608
    fold, selecting = TopicFold(), _Selecting(plan, file)
    with ExitStack() as stack:
        rows = _Rows(stack, folder / _TOPICS, [*base, *within])
        for number, (position, stored, leaf) in enumerate(copied(connection, query, ["int8", "bytea", "bytea"]), 1):
            body = orjson.loads(stored)
            found = fold.topics(body)
            rows.add(found, position, leaf)
            if not found.isdisjoint(base):
                selecting.add(position, body["type"], is_within=not within or not found.isdisjoint(within))
            if number % TOLD_EVENTS == 0:
                progress(position, plan.horizon)
        rows.require(plan.index["topics"])
    return selecting.end()


class _Selecting:
    """Sorts the events of the base topics by jurisdiction and period."""

    def __init__(self, plan: Plan, file: IO[bytes]) -> None:
        self._plan, self._file = plan, file
        self._kept_back = frozenset(plan.profile["withhold_types"])
        self._choice = Choice()
        self._last_before: tuple[int, str] | None = None
        self._chunk = array("Q")

    def add(self, position: int, event_type: str, *, is_within: bool) -> None:
        choice = self._choice
        if not is_within:
            choice.other_jurisdiction += 1
        elif position <= self._plan.after:
            choice.outside_period += 1
            self._last_before = (position, event_type)
        elif position <= self._plan.until:
            self._fence_before()
            self._take(position, event_type)
        else:
            choice.outside_period += 1
            if choice.after is None:
                self._fence_before()
                choice.after = position
                self._take(position, event_type)

    def end(self) -> Choice:
        self._fence_before()
        self._chunk.tofile(self._file)
        return self._choice

    def _fence_before(self) -> None:
        if self._last_before is not None:
            self._choice.before = self._last_before[0]
            self._take(*self._last_before)
            self._last_before = None

    def _take(self, position: int, event_type: str) -> None:
        if event_type in self._kept_back:
            self._choice.withheld.append(position)
            return
        self._choice.entries += 1
        self._chunk.append(position)
        if len(self._chunk) >= TOLD_EVENTS:
            self._chunk.tofile(self._file)
            del self._chunk[:]


class _Rows:
    """A file for each topic: position and leaf of every event of it. Together they come to what the index says."""

    def __init__(self, stack: ExitStack, folder: Path, topics: Sequence[str]) -> None:
        files = (stack.enter_context((folder / f"{number:06d}.tsv").open("wb")) for number in range(len(topics)))
        self._files = dict(zip(topics, files, strict=True))
        self._chains = dict.fromkeys(topics, (0, EMPTY_CHAIN))

    def add(self, found: set[str], position: int, leaf: bytes) -> None:
        for topic in found & self._files.keys():
            count, chain = self._chains[topic]
            self._chains[topic] = (count + 1, chain_step(chain, position, leaf))
            self._files[topic].write(b"%d\t%b\n" % (position, leaf.hex().encode()))

    def require(self, standings: Sequence[dict[str, Any]]) -> None:
        for stands in standings:
            count, chain = self._chains[stands["topic"]]
            if (count, chain.hex()) != (stands.get("count", 0), stands.get("chain", EMPTY_CHAIN.hex())):
                message = f"The events of {stands['topic']} are not those of the committed index: run `aureus log fsck`."
                raise BuildFailed("index_differs", message)
