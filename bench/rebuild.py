"""`rebuild`: every read model of every context from position 0, beside the stock library's runner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from api.services import projections
from bench.bulk import fill, history
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from bench.peers import projecting
from infra.read_models import create_read_models
from infra.rebuild import rebuild_all

EVENTS: Final = 1_000_000


@contextmanager
def rebuilds(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Reading, verifying types, folding, writing every version of every row, and indexing.

    That is what the runner beside us does, and more of it. What follows is told apart as `proven_rate`, for the runner
    has nothing like it: digests over every row, live and built, and the swap once they are equal.
    """
    events = lab.scaled(EVENTS)
    with lab.database("ours") as dsn:
        fill(lab, dsn, events, history())
        lab.run(create_read_models(dsn, projections()))
        with psycopg.connect(dsn, autocommit=True) as connection:
            # The warm-up builds what is live from then on; each round after it must come to the very same rows.
            connection.execute("UPDATE projections.positions SET position = (SELECT size FROM ledger.head)")
        first = True

        def one_round() -> Sample:
            nonlocal first
            began: dict[str, float] = {}

            async def progress(phase: str, _done: int, _total: int) -> None:
                began.setdefault(phase, time.perf_counter())

            started = time.perf_counter()
            results = lab.run(rebuild_all(dsn, projections(), swap=True, accept_changes=first, progress=progress))
            ended = time.perf_counter()
            if not first and not all(result.equal for result in results):
                raise CannotMeasure(
                    "a rebuild did not come to the same rows as the one before: " + repr([r for r in results if not r.equal])
                )
            first = False
            return {"rate": events / (began["comparing"] - started), "proven_rate": events / (ended - started)}

        yield one_round


FIGURES: Final = (
    Figure("rebuild", ours=rebuilds, peers={"runner": projecting.projects}, goals=(Goal("runner", "rate", "events/s", 100),)),
)
