"""`python -m bench [--only NAME ...]`: runs the benchmarks, prints a table and writes bench/results.json."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import (
    access,
    append,
    authorise,
    bulk,
    decision_replay,
    diff,
    erase,
    export,
    feeds,
    guard,
    live,
    over_http,
    past,
    policy,
    proofs,
    rebuild,
    relay,
    segments,
    start,
    streams,
    token_check,
    verify,
)
from bench.lab import ROUND_SECONDS, CannotMeasure, open_lab
from bench.measure import ROUNDS, Figure, Row, Spread, measure

FIGURES: Final[tuple[Figure, ...]] = (
    *append.FIGURES,
    *bulk.FIGURES,
    *over_http.FIGURES,
    *access.FIGURES,
    *policy.FIGURES,
    *guard.FIGURES,
    *rebuild.FIGURES,
    *relay.FIGURES,
    *segments.FIGURES,
    *streams.FIGURES,
    *token_check.FIGURES,
    *authorise.FIGURES,
    *start.FIGURES,
    *decision_replay.FIGURES,
    *diff.FIGURES,
    *erase.FIGURES,
    *past.FIGURES,
    *verify.FIGURES,
    *proofs.FIGURES,
    *export.FIGURES,
    *live.FIGURES,
    *feeds.FIGURES,
)
_WIDTH: Final = 120
"""Of the table where there is no terminal to fit it to."""
RESULTS: Final = Path(__file__).parent / "results.json"


def main() -> int:
    """0 when every goal is met, 1 when one is missed or a figure could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=[figure.name for figure in FIGURES], help="these figures: %(choices)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds after the warm-up (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS, help="length of a timed round (default %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the fixed amounts of work; goals are about 1")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended and folders removed
    rows: list[Row] = []
    missing: list[str] = []
    with open_lab(round_seconds=given.seconds, scale=given.scale) as lab:
        for figure in FIGURES:
            if given.only is None or figure.name in given.only:
                try:
                    with console.status(figure.name) as status:
                        rows += measure(figure, lab, given.rounds, status.update)
                except CannotMeasure as error:
                    missing.append(f"{figure.name}: {error}")
    console.print(_table(rows))
    for line in missing:
        console.print(f"[red]not measured[/red] {line}")
    if (given.rounds, given.seconds, given.scale) == (ROUNDS, ROUND_SECONDS, 1.0):
        write_results(rows, RESULTS, only=given.only)
    else:
        console.print("A quick look: bench/results.json stays as it is.")
    return 0 if not missing and all(row.ok for row in rows) else 1


def _table(rows: list[Row]) -> Table:
    table = Table(title="Medians (lowest-highest) of interleaved rounds on two cores")
    for heading in ("name", "ours", "peer or limit", "unit", "ratio", "goal", "ok"):
        table.add_column(heading, justify="left" if heading in ("name", "unit") else "right", no_wrap=True)
    for row in rows:
        sign = "≥" if row.goal.better == "higher" else "≤"
        verdict = "[green]yes[/green]" if row.ok else "[red]no[/red]"
        table.add_row(row.name, _spread(row.ours), _spread(row.peer), row.unit, f"{row.ratio:.2f}", f"{sign} {row.goal.ratio:g}", verdict)
    return table


def _spread(spread: Spread) -> str:
    if spread.lowest == spread.highest:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.lowest)}-{_number(spread.highest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_results(rows: list[Row], file: Path, *, only: Collection[str] | None) -> None:
    """All rows of this run; with `only`, those of the other figures stay as an earlier run left them."""
    results = [row.as_json() for row in rows]
    if only and file.exists():
        kept = [result for result in json.loads(file.read_text()) if _figure(result) not in only]
        order = [figure.name for figure in FIGURES]
        results = sorted([*kept, *results], key=lambda result: order.index(_figure(result)))
    file.write_text(json.dumps(results, indent=2) + "\n")


def _figure(result: dict[str, Any]) -> str:
    return str(result["name"]).partition("/")[0]


if __name__ == "__main__":
    sys.exit(main())
