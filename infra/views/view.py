"""What a rendering is: the events of an export, told again in a form that somebody's tools or eyes already know.

A rendering is made from the exported events and from what the export says of itself, and from nothing else: no clock, no
database, no chance. So the same export gives the same bytes, and whoever doubts a rendering renders it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, Protocol

import orjson

from domain.kernel import JsonObject

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class About:
    """What an export says of itself.

    `selection` and `profile` are those of the manifest's predicate; positions are (after, until]. `checkpoint_root` is base64,
    `witnesses` holds one line of text per witness that cosigned, and `counts` how many events there are of what.
    """

    ledger: str
    tenant: str
    export_id: str
    recipient: str
    created_at: str
    selection: Mapping[str, Any]
    after: int
    until: int
    checkpoint_size: int
    checkpoint_root: str
    witnesses: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    profile: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True, slots=True)
class ViewEvent:
    """One exported event: its position, its signed body as JSON, and its leaf hash (32 bytes)."""

    position: int
    body: JsonObject
    leaf: bytes


class Writing(Protocol):
    """One rendering on its way to its file. Memory does not grow with the number of events."""

    def add(self, events: Sequence[ViewEvent]) -> None:
        """The next events, in the order of their positions."""

    def close(self) -> None:
        """The file is whole. Whoever never comes this far leaves a file that is not."""


class View(Protocol):
    """A rendering. `path` is where it stands in a pack; `open` writes to `target`, whose folder is there."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def open(self, about: About, target: Path) -> Writing: ...


@dataclass(frozen=True, slots=True)
class Lines:
    """A rendering of JSON lines: each event becomes any number of objects, which is all there is to say of it."""

    name: str
    path: str
    told: Callable[[About], Callable[[ViewEvent], Sequence[JsonObject]]]
    """Called once per file, so that what it returns may remember."""

    def open(self, about: About, target: Path) -> Writing:
        return _WritingLines(self.told(about), target.open("wb"))


class _WritingLines:
    def __init__(self, told: Callable[[ViewEvent], Sequence[JsonObject]], file: IO[bytes]) -> None:
        self._told = told
        self._file = file

    def add(self, events: Sequence[ViewEvent]) -> None:
        lines = [orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for event in events for one in self._told(event)]
        self._file.write(b"".join(lines))

    def close(self) -> None:
        self._file.close()
