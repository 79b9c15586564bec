"""The charts of a report: stacked columns over time, stacked bars by name, and a timeline of lanes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Final

from infra.views.report.drawing import INK, MUTED, RULE, SLATE, WIDTH, Drawing, Line, Rect, Series, Shape, Text

LABEL_WIDTH: Final = 190.0
_LABEL_LETTERS: Final = 30
_BAR: Final = 17.0
_STEP: Final = 26.0
_PLOT: Final = 150.0
_MAX_COLUMNS: Final = 62
_MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the time that a chart covers, `[begins, ends)`."""

    begins: date
    ends: date
    label: str


def spans(first: str, last: str) -> list[Span]:
    """Days, weeks, months or years from one day to another (2026-04-01), as fine as fits into a chart."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    for step in (_next_day, _next_week, _next_month, _next_year):
        marks = [_floor(begin, step)]
        while marks[-1] <= end and len(marks) <= _MAX_COLUMNS + 1:
            marks.append(step(marks[-1]))
        if len(marks) <= _MAX_COLUMNS + 1 or step is _next_year:
            return [Span(one, after, _label(one, step)) for one, after in pairwise(marks)]
    raise AssertionError("unreachable")


def _next_day(day: date) -> date:
    return day + timedelta(days=1)


def _next_week(day: date) -> date:
    return day + timedelta(days=7)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _next_year(day: date) -> date:
    return date(day.year + 1, 1, 1)


def _floor(day: date, step: object) -> date:
    if step is _next_week:
        return day - timedelta(days=day.weekday())
    if step is _next_month:
        return day.replace(day=1)
    return date(day.year, 1, 1) if step is _next_year else day


def _label(day: date, step: object) -> str:
    if step is _next_year:
        return str(day.year)
    month = _MONTHS[day.month - 1]
    return f"{month} {day.year}" if step is _next_month else f"{day.day} {month}"


def unit_of(columns: Sequence[Span]) -> str:
    """What one column stands for."""
    length = (columns[0].ends - columns[0].begins).days
    return "day" if length == 1 else "week" if length == 7 else "month" if length < 32 else "year"


# -- stacked columns over time


def columns(said: str, over: Sequence[Span], series: Series, counts: Mapping[str, Mapping[str, int]]) -> Drawing:
    """Counts by day (2026-04-01) and series, added up per span."""
    sums = [[0] * len(series) for _ in over]
    for day, by_series in counts.items():
        if (at := _index(over, day)) is not None:
            for index, (name, _) in enumerate(series):
                sums[at][index] += by_series.get(name, 0)
    top = _round_up(max((sum(column) for column in sums), default=0))
    left, base = 44.0, _PLOT + 34
    shapes: list[Shape] = [*_legend(series, left), *_scale(top, left, base)]
    step = (WIDTH - left) / len(over)
    for number, (span, column) in enumerate(zip(over, sums, strict=True)):
        y, x, width = base, left + number * step, min(step * 0.78, 40.0)
        for (name, paint), count in zip(series, column, strict=True):
            if count:
                height = count / top * _PLOT
                y -= height
                shapes.append(Rect(x + (step - width) / 2, y, width, height, paint, f"{span.label}: {count:,} {name}"))
    return Drawing(base + 24, said, (*shapes, *_dates(over, left, base)))


def _index(over: Sequence[Span], day: str) -> int | None:
    when = date.fromisoformat(day)
    return next((index for index, span in enumerate(over) if span.begins <= when < span.ends), None)


def _round_up(value: int) -> int:
    """The smallest of 1, 2, 4, 5, 10, 20, 40, 50, ... that is not below."""
    power = 1
    while True:
        for leading in (1, 2, 4, 5):
            if leading * power >= value:
                return leading * power
        power *= 10


def _scale(top: int, left: float, base: float) -> Iterable[Shape]:
    parts = next(parts for parts in (4, 5, 2, 1) if top % parts == 0)
    for part in range(parts + 1):
        y = base - _PLOT * part / parts
        yield Line(left, y, WIDTH, y, MUTED if part == 0 else RULE)
        yield Text(left - 8, y + 4, f"{top * part // parts:,}", 11, "end")


def _dates(over: Sequence[Span], left: float, base: float) -> Iterable[Text]:
    every = -(-len(over) // 10)
    step = (WIDTH - left) / len(over)
    for number in range(0, len(over), every):
        yield Text(left + (number + 0.5) * step, base + 17, over[number].label, 11, "middle")


def _legend(series: Series, left: float) -> Iterable[Shape]:
    for name, paint in series:
        yield Rect(left, 2, 12, 12, paint)
        yield Text(left + 18, 12.5, name, 12, color=INK)
        left += 46 + 6.6 * len(name)


# -- stacked bars by name


def bars(said: str, series: Series, rows: Sequence[tuple[str, Sequence[int], str]]) -> Drawing:
    """One bar for each (name, value of each series, label at its end)."""
    top = max((sum(values) for _, values, _ in rows), default=0) or 1
    room = WIDTH - LABEL_WIDTH - 110
    shapes: list[Shape] = list(_legend(series, LABEL_WIDTH))
    for number, (name, values, label) in enumerate(rows):
        x, y = LABEL_WIDTH, 26 + number * _STEP
        shapes.append(Text(LABEL_WIDTH - 10, y + 12.5, shortened(name, _LABEL_LETTERS), 12, "end", INK))
        for (of, paint), value in zip(series, values, strict=True):
            if value:
                width = value / top * room
                shapes.append(Rect(x, y, width, _BAR, paint, f"{name}: {value:,} {of}"))
                x += width
        shapes.append(Text(x + 8, y + 12.5, label, 12))
    bottom = 26 + len(rows) * _STEP
    shapes.append(Line(LABEL_WIDTH, 22, LABEL_WIDTH, bottom - 5, MUTED))
    return Drawing(bottom, said, tuple(shapes))


# -- a timeline


def timeline(said: str, over: Sequence[Span], counts: Mapping[tuple[str, str], int]) -> Drawing:
    """Lanes with a mark in each span in which something happened; the more, the taller. `counts` by (lane, day)."""
    lanes = list(dict.fromkeys(sorted(lane for lane, _ in counts)))
    left = LABEL_WIDTH
    step = (WIDTH - left) / len(over)
    base = 8 + len(lanes) * _STEP
    sums: dict[tuple[str, int], int] = {}
    for (lane, day), count in counts.items():
        where = _index(over, day)
        if where is not None:
            sums[lane, where] = sums.get((lane, where), 0) + count
    top = max(sums.values(), default=1)
    shapes: list[Shape] = []
    for number, lane in enumerate(lanes):
        floor = 8 + (number + 1) * _STEP - 5
        total = sum(count for (of, _), count in sums.items() if of == lane)
        shapes.append(Text(left - 10, floor - 4, f"{lane} ({total:,})", 12, "end", INK))
        shapes.append(Line(left, floor, WIDTH, floor))
        for index, span in enumerate(over):
            if count := sums.get((lane, index), 0):
                height = 6 + (_STEP - 12) * count / top
                width = min(max(step * 0.7, 2.5), 14.0)
                x = left + (index + 0.5) * step - width / 2
                shapes.append(Rect(x, floor - height, width, height, SLATE, f"{lane}, {span.label}: {count:,}"))
    return Drawing(base + 20, said, (*shapes, *_dates(over, left, base - 4)))


def shortened(text: str, letters: int) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}\u2026"
