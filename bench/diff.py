"""`diff`: two moments of a hundred thousand datasets, from the read rows' versions to the JSON lines of a download."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg

from api.services import projections
from bench import workload
from bench.append import ledger
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from domain.catalog import DatasetDescribed, DatasetRegistered, Jurisdiction, PiiLevel, Profile
from domain.values import uuid7
from infra.diff import Diff, Shown
from infra.ledger import Append, Ledger, StreamWrite
from infra.read_models import create_read_models
from infra.read_queries import Reads
from infra.rebuild import rebuild_all

ENTITIES: Final = 100_000
SECONDS_MAX: Final = 2.0
IN_FLIGHT: Final = 512
_RAW: Final = """
    COPY (SELECT id, from_position, to_position, doc FROM read_catalog.datasets WHERE from_position <= {end} AND to_position > {start}
        AND (from_position <= {start}) <> (to_position > {end}) ORDER BY id, from_position) TO STDOUT
"""
"""The same versions in the same order, with nothing compared, and nobody asked who made them."""


@dataclass
class _Ledger:
    """The one ledger that both read, and the two moments of it."""

    dsn: str = ""
    start: int = 0
    end: int = 0


_shared = _Ledger()


async def _act(opened: Ledger, writes: Iterator[tuple[int, DatasetRegistered | DatasetDescribed]]) -> int:
    """One action for each fact, as the command path writes them; the position after the last."""

    async def work() -> None:
        for version, fact in writes:
            stream, action_id = f"dataset:{fact.dataset_id}", uuid7()
            command = "catalog.register_dataset" if version == 0 else "catalog.describe_dataset"
            action = workload.allowed(command, stream, fact, version + 1)
            facts = (StreamWrite(stream, version, (fact,)), StreamWrite(f"action:{action_id}", 0, (action,), fresh=True))
            await opened.append(Append(workload.TENANT, workload.ACTOR, facts, action_id, action_id))

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return opened.head.size


def _registered(numbers: range) -> Iterator[tuple[int, DatasetRegistered]]:
    for number in numbers:
        yield 0, DatasetRegistered(dataset_id=f"orders-{number}", profile=_profile(PiiLevel.NONE, number))


def _described(numbers: range) -> Iterator[tuple[int, DatasetDescribed]]:
    for number in numbers:
        yield 1, DatasetDescribed(dataset_id=f"orders-{number}", profile=_profile(PiiLevel.HIGH, number))


def _profile(pii_level: PiiLevel, number: int) -> Profile:
    return Profile(name=f"Orders {number}", domain="sales", pii_level=pii_level, jurisdiction=Jurisdiction.EU)


@contextmanager
def diffs(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Every one of the datasets differs: nine of ten were described anew, the others came in between."""
    entities = lab.scaled(ENTITIES)
    older = entities * 9 // 10
    thresholds = gc.get_threshold()
    with lab.database("diff") as dsn:
        with ledger(lab, dsn) as opened:
            _shared.start = lab.run(_act(opened, _registered(range(older))))
            _shared.end = lab.run(_act(opened, itertools.chain(_described(range(older)), _registered(range(older, entities)))))
        _shared.dsn = dsn
        lab.run(create_read_models(dsn, projections()))
        concerned = [one for one in projections() if one.name in ("catalog", "evidence")]
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE projections.positions SET position = (SELECT size FROM ledger.head)")
        lab.run(rebuild_all(dsn, concerned, swap=True, accept_changes=True, progress=_untold))
        tables = [Shown("catalog", read, workload.TENANT) for one in concerned if one.name == "catalog" for read in one.tables]
        reads = Reads(dsn, projections())
        lab.run(reads.open())
        gc.freeze()  # as in the server
        gc.set_threshold(20_000, 20, 50)

        def one_round() -> Sample:
            started = time.perf_counter()
            lines = lab.run(_counted(Diff(reads, tables, _shared.start, _shared.end)))
            seconds = time.perf_counter() - started
            if lines != entities + 1:
                raise CannotMeasure(f"the diff has {lines} lines, and not one for each of {entities} datasets and the summary")
            return {"seconds": seconds}

        yield one_round
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        lab.run(reads.close())


async def _counted(diff: Diff) -> int:
    return sum([text.count(b"\n") async for text in diff.lines()])


async def _untold(_phase: str, _done: int, _total: int) -> None:
    """Nobody watches."""


@contextmanager
def copies(_lab: Lab) -> Iterator[Callable[[], Sample]]:
    """The same rows as PostgreSQL writes them."""
    if not _shared.dsn:
        raise CannotMeasure("the peer reads the ledger that we have made: it cannot run alone.")
    query = _RAW.format(start=_shared.start, end=_shared.end).encode()
    with psycopg.connect(_shared.dsn, autocommit=True) as connection:

        def one_round() -> Sample:
            started = time.perf_counter()
            with connection.cursor().copy(query) as copy:
                size = sum(len(block) for block in copy)
            seconds = time.perf_counter() - started
            if size == 0:
                raise CannotMeasure("nothing lies between the two moments")
            return {"seconds": seconds}

        yield one_round


FIGURES: Final = (
    Figure(
        "diff",
        ours=diffs,
        peers={"copy": copies},
        goals=(Goal(SECONDS_MAX, "seconds", "s", 1.0, "lower"), Goal("copy", "seconds", "s", 8.0, "lower", name="copy")),
    ),
)
