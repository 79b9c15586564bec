"""The report as one HTML file that needs nothing else: no script, no network; it prints as it reads.

Markup is made by `_tag` alone, which escapes every text it is given: what is to be taken as markup has the type that says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from infra.views.report.document import Block, Chart, Commands, Document, Figures, Pairs, Paragraph, Section, Table
from infra.views.report.drawing import WIDTH, Drawing, Line, Rect, Shape

_STYLE: Final = (Path(__file__).parent / "report.css").read_text()


class _Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def _tag(name: str, *inside: str, **attributes: object) -> _Markup:
    """An element. A trailing underscore of an attribute is dropped, one within becomes a hyphen; None leaves the attribute out."""
    told = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for attribute, value in attributes.items() if value is not None
    )
    return _Markup(f"<{name}{told}>{_joined(inside)}</{name}>")


def _joined(parts: Iterable[str]) -> _Markup:
    return _Markup("".join(part if isinstance(part, _Markup) else escape(part) for part in parts))


def html(document: Document) -> str:
    """The whole file."""
    head = _tag(
        "head",
        _Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        _Markup("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"),
        _tag("title", document.title),
        _tag("style", _Markup(_STYLE)),
    )
    title = _tag("header", _tag("p", "Aureus export report", class_="kicker"), _tag("h1", document.title), _tag("p", document.subtitle))
    contents = _tag("nav", _tag("ol", *(_tag("li", _tag("a", part.title, href=f"#{_anchor(part)}")) for part in document.sections)))
    body = _tag("body", title, contents, _tag("main", *map(_section, document.sections)))
    return f"<!doctype html>\n{_tag('html', head, body, lang='en')}\n"


def _anchor(section: Section) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())


def _section(section: Section) -> _Markup:
    return _tag("section", _tag("h2", section.title), *map(_block, section.blocks), id=_anchor(section))


def _block(block: Block) -> _Markup:
    match block:
        case Paragraph():
            return _tag("p", block.text, class_="warning" if block.warning else None)
        case Pairs():
            return _tag("dl", *(_tag("div", _tag("dt", name), _tag("dd", value)) for name, value in block.rows))
        case Figures():
            return _tag("ul", *(_tag("li", _tag("b", number), " ", what) for number, what in block.numbers), class_="figures")
        case Commands():
            return _tag("pre", "\n".join(block.lines))
        case Chart():
            return _tag("figure", _tag("figcaption", block.title), _svg(block.drawing))
        case Table():
            return _table(block)


def _table(table: Table) -> _Markup:
    total = sum(column.share for column in table.columns)
    widths = _joined(_Markup(f'<col style="width:{column.share / total:.2%}">') for column in table.columns)
    aligned = [column.align if column.align == "right" else None for column in table.columns]
    head = _tag("tr", *(_tag("th", column.title, scope="col", class_=align) for column, align in zip(table.columns, aligned, strict=True)))
    rows = (_tag("tr", *(_tag("td", cell, class_=align) for cell, align in zip(row, aligned, strict=True))) for row in table.rows)
    made = _tag("table", _tag("colgroup", widths), _tag("thead", head), _tag("tbody", *rows))
    return _joined((made, _tag("p", table.more, class_="more"))) if table.more else made


# -- charts


def _svg(drawing: Drawing) -> _Markup:
    inside = (_tag("title", drawing.said), *map(_shape, drawing.shapes))
    return _tag("svg", *inside, viewBox=f"0 0 {WIDTH:g} {drawing.height:g}", role="img")


def _shape(shape: Shape) -> _Markup:
    match shape:
        case Rect():
            place = {"x": _n(shape.x), "y": _n(shape.y), "width": _n(shape.width), "height": _n(shape.height)}
            title = (_tag("title", shape.title),) if shape.title else ()
            return _tag("rect", *title, **place, fill=shape.paint.fill, stroke=shape.paint.edge, stroke_width="0.7")
        case Line():
            place = {"x1": _n(shape.x1), "y1": _n(shape.y1), "x2": _n(shape.x2), "y2": _n(shape.y2)}
            return _tag("line", **place, stroke=shape.color)
        case _:
            weight = "600" if shape.bold else None
            place = {"x": _n(shape.x), "y": _n(shape.y), "font_size": _n(shape.size)}
            return _tag("text", shape.text, **place, font_weight=weight, text_anchor=shape.anchor, fill=shape.color)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
