"""A chart as plain shapes, so that HTML and PDF draw the same one. Units are those of a page 720 wide; y grows downwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

WIDTH: Final = 720.0
INK: Final = "#1c2733"
MUTED: Final = "#5c6873"
RULE: Final = "#d4dadf"


@dataclass(frozen=True, slots=True)
class Paint:
    """How a series is filled and edged."""

    fill: str
    edge: str


LIGHT: Final = Paint("#c6dcea", "#7fa3ba")
MIDDLE: Final = Paint("#cf8a12", "#a56c08")
DARK: Final = Paint("#7d1f2d", "#5e1320")
SLATE: Final = Paint("#4a6278", "#33475a")
"""Told apart by those who see no colours, and in black and white print: light, middle, dark."""

Series = tuple[tuple[str, Paint], ...]


@dataclass(frozen=True, slots=True)
class Rect:
    """A bar. `title` says in words what it stands for."""

    x: float
    y: float
    width: float
    height: float
    paint: Paint
    title: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A straight rule."""

    x1: float
    y1: float
    x2: float
    y2: float
    color: str = RULE


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text on its base line; `size` in the units of the page."""

    x: float
    y: float
    text: str
    size: float = 12
    anchor: Literal["start", "middle", "end"] = "start"
    color: str = MUTED
    bold: bool = False


Shape = Rect | Line | Text


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart of a height, with a sentence for those who cannot see it."""

    height: float
    said: str
    shapes: tuple[Shape, ...]
