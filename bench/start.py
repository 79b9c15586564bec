"""`start`: how long from the command to the first answer, on a home that has been used, and on one that never was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.aureus import serving
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from bench.servers import answers
from infra.embedded import EmbeddedPostgres
from infra.settings import Settings

WARM_SECONDS_MAX: Final = 2.5
FRESH_SECONDS_MAX: Final = 10.0
_FIRST_REQUEST: Final = "/v1/budgets"


@contextmanager
def starts(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """`aureus serve` with its embedded PostgreSQL; the answer is to a request with a token, from the read models."""
    used = lab.subfolder("home")
    with serving(used) as server:
        token = server.bearer()  # keys outlive the process, so the token does too

    def one_round() -> Sample:
        _require_stopped(used)
        started = time.perf_counter()
        with serving(used, ready=lambda port: answers(port, _FIRST_REQUEST, token)):
            warm = time.perf_counter() - started
        started = time.perf_counter()
        new = lab.subfolder("home")
        with serving(new):
            fresh = time.perf_counter() - started
        _require_stopped(new)
        return {"warm_s": warm, "fresh_s": fresh}

    yield one_round


def _require_stopped(home: Path) -> None:
    """Refuses to call a start warm that would only adopt the PostgreSQL which the last one left running."""
    postgres = EmbeddedPostgres(Settings(home).postgres_dir)
    if postgres.url() is not None:
        postgres.start()
        postgres.stop()
        raise CannotMeasure("`aureus serve` ended on SIGTERM without stopping its PostgreSQL")


FIGURES: Final = (
    Figure(
        "start",
        ours=starts,
        goals=(
            Goal(WARM_SECONDS_MAX, "warm_s", "s", 1.0, better="lower", name="warm"),
            Goal(FRESH_SECONDS_MAX, "fresh_s", "s", 1.0, better="lower", name="fresh"),
        ),
    ),
)
