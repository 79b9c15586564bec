"""The report as PDF: the same parts as in HTML, the charts drawn as vectors, the same bytes every time.

Its letters are Noto Sans, cut down to Latin, Greek and Cyrillic (fonts/NOTICE); each letter of another script shows as U+FFFD, and
stands in the HTML as it is.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from fpdf import FPDF
from fpdf.enums import Align, MethodReturnValue, XPos, YPos
from fpdf.fonts import TTFFont

from infra.views.report.document import Block, Chart, Commands, Document, Figures, Pairs, Paragraph, Section, Table
from infra.views.report.drawing import INK, MUTED, RULE, WIDTH, Drawing, Line, Rect, Shape

_FONTS: Final = Path(__file__).parent / "fonts"
_FAMILY: Final = "NotoSans"
_MARGIN: Final = 18.0
_WIDE: Final = 210.0 - 2 * _MARGIN
_SCALE: Final = _WIDE / WIDTH
_POINTS: Final = 72 / 25.4
_WARNING: Final = "#7d1f2d"
_CELL: Final = 7.2
_LEADING: Final = 1.36
_GAP: Final = 3.0


class _Pdf(FPDF):
    """A page with the export's name at its foot. Lengths are millimetres, sizes of letters points."""

    def __init__(self, document: Document) -> None:
        super().__init__(format="A4")
        self._document = document
        made_at = datetime.fromisoformat(document.made_at)
        self.set_creation_date(made_at)
        self.set_title(document.title)
        self.set_lang("en")
        self.set_producer("Aureus")
        for style, name in (("", "Regular"), ("B", "Bold")):
            self.add_font(_FAMILY, style, _FONTS / f"NotoSans-{name}.ttf")
        self.set_margins(_MARGIN, _MARGIN)
        self.c_margin = 0  # text begins where rules begin
        self.set_auto_page_break(True, margin=20)
        self.letters(9)

    def normalize_text(self, text: str) -> str:
        if isinstance(font := self.current_font, TTFFont) and not font.cmap.keys() >= set(map(ord, text)):
            text = "".join(letter if ord(letter) in font.cmap else "\ufffd" for letter in text)
        return super().normalize_text(text)

    def letters(self, size: float, color: str = INK, style: Literal["", "B"] = "") -> None:
        self.set_font(_FAMILY, style, size)
        self.set_text_color(color)

    def lines(self, text: str, width: float = 0, align: Align = Align.L) -> None:
        """Text on as many lines as it takes, from here on; then below it."""
        height = self.font_size * _LEADING
        self.multi_cell(width, height, text, align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def needs(self, height: float) -> None:
        """The next `height` millimetres stay on one page."""
        if self.will_page_break(height):
            self.add_page()

    def footer(self) -> None:
        self.set_y(-13)
        self.letters(7.5, MUTED)
        self.cell(_WIDE / 2, 4, self._document.title)
        self.cell(_WIDE / 2, 4, f"{self.page_no()} / {{nb}}", align=Align.R)


def pdf(document: Document) -> bytes:
    """The whole file."""
    page = _Pdf(document)
    page.add_page()
    page.letters(8, MUTED)
    page.lines("AUREUS EXPORT REPORT")
    page.letters(21, style="B")
    page.lines(document.title)
    page.letters(10, MUTED)
    page.lines(document.subtitle)
    page.ln(3)
    page.set_draw_color(INK)
    page.set_line_width(0.5)
    page.line(_MARGIN, page.get_y(), _MARGIN + _WIDE, page.get_y())
    for section in document.sections:
        _section(page, section)
    return bytes(page.output())


def _section(page: _Pdf, section: Section) -> None:
    page.ln(7)
    page.needs(max(32, *(_drawn(block) + 24 for block in section.blocks[:1])))  # a heading stays with what it is for
    page.start_section(section.title)
    page.letters(13, style="B")
    page.lines(section.title)
    page.ln(1.5)
    for block in section.blocks:
        _block(page, block)


def _block(page: _Pdf, block: Block) -> None:
    match block:
        case Paragraph():
            _paragraph(page, block)
        case Pairs():
            _pairs(page, block)
        case Figures():
            _figures(page, block)
        case Commands():
            _commands(page, block)
        case Chart():
            _chart(page, block)
        case Table():
            _table(page, block)


def _paragraph(page: _Pdf, paragraph: Paragraph) -> None:
    if not paragraph.warning:
        page.letters(9)
        page.lines(paragraph.text)
        page.ln(1.5)
        return
    page.letters(9, style="B")
    top = page.get_y()
    page.set_x(_MARGIN + 3.5)
    page.lines(paragraph.text)
    page.set_fill_color(_WARNING)
    page.rect(_MARGIN, top, 1, page.get_y() - top, style="F")
    page.ln(1.5)


def _rule(page: _Pdf, color: str = RULE, width: float = 0.2) -> None:
    page.set_draw_color(color)
    page.set_line_width(width)
    page.line(_MARGIN, page.get_y(), _MARGIN + _WIDE, page.get_y())


def _pairs(page: _Pdf, pairs: Pairs) -> None:
    _rule(page)
    for name, value in pairs.rows:
        page.letters(8.5)
        page.needs(_height(page, value, _WIDE - 44) + 3)
        page.ln(1)
        top = page.get_y()
        page.letters(8.5, MUTED)
        page.cell(42, page.font_size * _LEADING, name)
        page.letters(8.5)
        page.set_xy(_MARGIN + 44, top)
        page.lines(value, _WIDE - 44)
        page.ln(1)
        _rule(page)
    page.ln(3)


def _height(page: _Pdf, text: str, width: float) -> float:
    height = page.font_size * _LEADING
    told = page.multi_cell(width, height, text, align=Align.L, dry_run=True, output=MethodReturnValue.HEIGHT)
    return float(told)  # type: ignore[arg-type]


def _figures(page: _Pdf, figures: Figures) -> None:
    gap = 4.0
    width = (_WIDE - gap * (len(figures.numbers) - 1)) / len(figures.numbers)
    top = page.get_y() + 1
    bottom = top
    page.set_draw_color(RULE)
    page.set_line_width(0.2)
    for index, (number, what) in enumerate(figures.numbers):
        x = _MARGIN + index * (width + gap)
        page.line(x, top, x + width, top)
        page.set_xy(x, top + 1.5)
        page.letters(15, style="B")
        page.cell(width, 7, number)
        page.set_xy(x, top + 8.5)
        page.letters(7.5, MUTED)
        page.multi_cell(width, 3.6, what, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        bottom = max(bottom, page.get_y())
    page.set_y(bottom + 3.5)


def _commands(page: _Pdf, commands: Commands) -> None:
    page.set_font("Courier", "", 9)
    page.set_text_color(INK)
    page.set_draw_color(RULE)
    page.set_line_width(0.2)
    page.multi_cell(_WIDE, 6.5, "\n".join(commands.lines), border=1, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT, padding=(0, 2))
    page.ln(2.5)


# -- tables


def _table(page: _Pdf, table: Table) -> None:
    total = sum(column.share for column in table.columns)
    widths = [_WIDE * column.share / total for column in table.columns]
    page.needs(20)
    _head(page, table, widths)
    for row in table.rows:
        page.letters(_CELL)
        height = max(_height(page, cell, width - _GAP) for cell, width in zip(row, widths, strict=True)) + 1.6
        if page.will_page_break(height):
            page.add_page()
            _head(page, table, widths)
            page.letters(_CELL)
        _row(page, table, widths, row, height)
        _rule(page)
    if table.more:
        page.ln(1.5)
        page.letters(7.5, MUTED)
        page.lines(table.more)
    page.ln(2)


def _head(page: _Pdf, table: Table, widths: list[float]) -> None:
    page.letters(_CELL, style="B")
    titles = tuple(column.title for column in table.columns)
    height = max(_height(page, title, width - _GAP) for title, width in zip(titles, widths, strict=True)) + 1.6
    _row(page, table, widths, titles, height)
    _rule(page, INK, 0.35)


def _row(page: _Pdf, table: Table, widths: list[float], cells: tuple[str, ...], height: float) -> None:
    x, top = _MARGIN, page.get_y()
    for column, width, cell in zip(table.columns, widths, cells, strict=True):
        page.set_xy(x, top + 0.8)
        align = Align.R if column.align == "right" else Align.L
        page.multi_cell(width - _GAP, page.font_size * _LEADING, cell, align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        x += width
    page.set_xy(_MARGIN, top + height)


# -- charts


def _drawn(block: Block) -> float:
    """The height of a chart; nothing else has to be whole on a page."""
    return block.drawing.height * _SCALE if isinstance(block, Chart) else 0.0


def _chart(page: _Pdf, chart: Chart) -> None:
    height = _drawn(chart)
    page.needs(height + 10)
    page.letters(9, style="B")
    page.lines(chart.title)
    page.ln(1.5)
    _draw(page, chart.drawing, page.get_y())
    page.set_xy(_MARGIN, page.get_y() + height)
    page.ln(4)


def _draw(page: _Pdf, drawing: Drawing, top: float) -> None:
    for shape in drawing.shapes:
        _shape(page, shape, top)


def _shape(page: _Pdf, shape: Shape, top: float) -> None:
    match shape:
        case Rect():
            page.set_fill_color(shape.paint.fill)
            page.set_draw_color(shape.paint.edge)
            page.set_line_width(0.15)
            page.rect(_MARGIN + shape.x * _SCALE, top + shape.y * _SCALE, shape.width * _SCALE, shape.height * _SCALE, style="DF")
        case Line():
            page.set_draw_color(shape.color)
            page.set_line_width(0.2)
            x1, x2 = (_MARGIN + x * _SCALE for x in (shape.x1, shape.x2))
            page.line(x1, top + shape.y1 * _SCALE, x2, top + shape.y2 * _SCALE)
        case _:
            page.letters(shape.size * _SCALE * _POINTS, shape.color, "B" if shape.bold else "")
            width = page.get_string_width(shape.text)
            before = {"start": 0.0, "middle": width / 2, "end": width}[shape.anchor]
            page.text(_MARGIN + shape.x * _SCALE - before, top + shape.y * _SCALE, shape.text)
