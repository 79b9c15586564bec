"""How answers look: tables and sentences for people, the API's own JSON for machines, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from api.cli.failures import ExitCode, Failure

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]
_PIPE_WIDTH: Final = 1_000
"""Columns when the output is no terminal: a script must never meet a value cut in half."""

_CIRCUMSTANCES: Final = {"action": "action_id", "version": "version", "position": "position"}
_UNTOLD: Final = frozenset({"currency", "position", "evidence", "problem_count"})
"""Details that other lines tell, or that help nobody at a terminal."""


def major_units(minor: int | None) -> str:
    """Minor units as people write them: 123456 -> 1,234.56."""
    if minor is None:
        return ""
    whole, cents = divmod(abs(minor), 100)
    return f"{'-' if minor < 0 else ''}{whole:,}.{cents:02d}"


def moment(text: str | None) -> str:
    """A timestamp to the second: 2026-03-03T14:00:00.123456Z -> 2026-03-03 14:00:00."""
    return text[:19].replace("T", " ") if text else ""


def plain(value: Any) -> str:
    """Any JSON value in a table's cell."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list() if all(isinstance(item, str | int) for item in value):
            return ", ".join(str(item) for item in value)
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: its title, and the row's key or a function of the row."""

    title: str
    value: str | Callable[[Row], Any]
    right: bool = False

    def cell(self, row: Row) -> str:
        return plain(row.get(self.value) if isinstance(self.value, str) else self.value(row))


def amount(title: str, key: str) -> Column:
    return Column(title, lambda row: major_units(row.get(key)), right=True)


def when(title: str, key: str) -> Column:
    return Column(title, lambda row: moment(row.get(key)))


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console: Console | None = None
        self._error_console: Console | None = None

    @property
    def console(self) -> Console:
        if self._console is None:
            self._console = _console(stderr=False)
        return self._console

    @property
    def errors(self) -> Console:
        if self._error_console is None:
            self._error_console = _console(stderr=True)
        return self._error_console

    def json(self, value: Any) -> None:
        """A JSON document on one line, as the API gave it."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def text(self, text: str) -> None:
        print(text, flush=True)

    def markdown(self, text: str) -> None:
        """A document: laid out on a terminal, as it is in a pipe."""
        if not self.console.is_terminal:
            return self.text(text.rstrip("\n"))
        from rich.markdown import Markdown

        self.console.print(Markdown(text))
        return None

    def note(self, text: str) -> None:
        """A remark beside the answer."""
        print(text, file=sys.stderr, flush=True)

    def done(self, result: Row, sentence: str) -> None:
        """A command was carried out."""
        if self.as_json:
            return self.json(result)
        self.console.print(sentence, style="green")
        if "action_id" in result:
            told = [f"{name} {result[key]}" for name, key in _CIRCUMSTANCES.items() if key in result]
            self.console.print("  " + ", ".join(told), style="dim")
        return None

    def rows(self, page: Row, columns: Sequence[Column], nothing: str = "Nothing is listed.") -> None:
        """A list, as a table."""
        if self.as_json:
            return self.json(page)
        if not page["items"]:
            return self.note(nothing)
        self.table(page["items"], columns)
        if page.get("next_cursor"):
            self.note(f"There are more than these {len(page['items'])}: see them with --limit.")
        return None

    def table(self, items: Sequence[Row], columns: Sequence[Column]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for item in items:
            table.add_row(*(Text(column.cell(item)) for column in columns))
        self.console.print(table)

    def record(self, row: Row, title: str, first: Sequence[str] = ()) -> None:
        """One thing with all its properties, the most telling ones first."""
        if self.as_json:
            return self.json(row)
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for key in (*first, *sorted(row.keys() - set(first))):
            if row.get(key) not in (None, "", [], {}):
                name, shown = _property(key, row[key])
                grid.add_row(Text(name, style="dim"), Text(shown))
        self.console.print(Text(title, style="bold"))
        self.console.print(grid)
        return None

    def failure(self, failure: Failure) -> None:
        """Why a command did not succeed, what the facts are and what would help."""
        if self.as_json:
            return self.json(failure.body)
        from rich.text import Text

        style = "yellow" if failure.exit_code is ExitCode.WAITS_FOR_APPROVAL else "bold red"
        self.errors.print(Text.assemble((f"{failure.code}: ", style), (failure.message, style.removeprefix("bold "))))
        # A rule that the message states already is not told twice.
        details = {key: value for key, value in failure.details.items() if not (key == "rule" and str(value) in failure.message)}
        remedy = details.pop("remedy", None)
        for name, shown in _facts(details):
            self.errors.print(Text(f"  {name}: {shown}"))
        if remedy:
            self.errors.print(Text(f"  {remedy}", style="cyan"))
        if failure.request_id:
            self.errors.print(Text(f"  request {failure.request_id}", style="dim"))
        return None

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """A bar on stderr for each phase: call what is yielded with the phase, how much is done and (at first) of how much."""
        if self.as_json or not self.errors.is_terminal:
            yield lambda _phase, _done, _total: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        tasks: dict[str, TaskID] = {}
        shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*shown, console=self.errors) as bars:

            def report(phase: str, done: int, total: int | None) -> None:
                if phase not in tasks:
                    tasks[phase] = bars.add_task(phase, total=total)
                bars.update(tasks[phase], completed=done)

            yield report


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, markup=False, highlight=False, emoji=False, soft_wrap=False)


def _property(key: str, value: Any) -> tuple[str, str]:
    if key.endswith("_minor") and isinstance(value, int):
        return key.removesuffix("_minor").replace("_", " "), major_units(value)
    if key.endswith("_at") and isinstance(value, str):
        return key.replace("_", " "), moment(value)
    return key.replace("_", " "), plain(value)


def _facts(details: Row) -> Iterator[tuple[str, str]]:
    currency = details.get("currency")
    for key, value in details.items():
        if value in (None, "", [], {}) or key in _UNTOLD:
            continue
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            # Problems of one document or body: one line each rather than a block of JSON; the message told the only one.
            for item in value if len(value) > 1 else ():
                where = item.get("path") or item.get("field") or ""
                yield f"at {where}" if where else key, plain(item.get("rule") or item)
            continue
        name, shown = _property(key, value)
        yield name, f"{shown} {currency}" if currency and key.endswith("_minor") else shown
