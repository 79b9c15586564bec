"""A report as its parts, before it is HTML or PDF: sections of text, pairs, figures, charts and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from infra.views.report.drawing import Drawing

_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""Characters that show nothing, or change how others are shown: with them, text could pretend to say something else."""
_LONGEST: Final = 240


def plain(text: object) -> str:
    """What somebody typed, as it may be shown: each unseen character as U+FFFD, white space as one space, cut when too long."""
    shown = _UNSEEN.sub("\ufffd", " ".join(str(text).split()))
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}\u2026"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences; a warning stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names and what they stand for."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """A few numbers that say the most, each with what it counts."""

    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing under its title."""

    title: str
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class Commands:
    """What to type in a terminal."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `share` of its width against that of the others."""

    title: str
    share: int
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; `more` says that there are others, and where."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    more: str = ""


Block = Paragraph | Pairs | Figures | Chart | Commands | Table


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under its heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report; `made_at` is RFC 3339."""

    title: str
    subtitle: str
    made_at: str
    sections: tuple[Section, ...]
