"""The report of an export, for people: what was exported, what happened, and how to check it - as HTML and as PDF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.views.report.content import document
from infra.views.report.document import Document
from infra.views.report.gather import Gathered
from infra.views.report.html import html
from infra.views.report.pdf import pdf
from infra.views.view import About, ViewEvent, Writing


@dataclass(frozen=True, slots=True)
class Report:
    """A report in one form."""

    name: str
    path: str
    form: Callable[[Document], bytes]

    def open(self, about: About, target: Path) -> Writing:
        return _Writing(about, target, self.form)


class _Writing:
    def __init__(self, about: About, target: Path, form: Callable[[Document], bytes]) -> None:
        self._about = about
        self._target = target
        self._form = form
        self._gathered = Gathered()

    def add(self, events: Sequence[ViewEvent]) -> None:
        for event in events:
            self._gathered.see(event)

    def close(self) -> None:
        self._target.write_bytes(self._form(document(self._about, self._gathered)))


def _html(told: Document) -> bytes:
    return html(told).encode()


HTML: Final = Report("html", "views/report.html", _html)
PDF: Final = Report("pdf", "views/report.pdf", pdf)
