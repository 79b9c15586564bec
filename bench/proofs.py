"""`inclusion_proof`: proving one event in any log that there ever was, beside reading the same tiles by their primary key."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bench.bulk import fill, history
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from infra.key_encryption import KeyEncryptionKeys
from infra.postgres_store import PostgresStore
from infra.proofs import Inclusion, Proofs
from infra.tiles import Tiles
from infra.vault import Vault
from infra.verifier.tree import ProofError, check_inclusion

EVENTS: Final = 1_000_000
P99_MS: Final = 5.0
TIMES_READING: Final = 4.0
"""How much longer a proof may take than reading its tiles: it hashes some 800 nodes, and looks the checkpoint up."""
QUESTIONS: Final = 2_000
"""Per round: twenty of them are slower than the 99th percentile."""
_TILES: Final = """
    SELECT kept.hashes FROM ledger.tiles AS kept
    JOIN unnest(%s::smallint[], %s::bigint[]) AS wanted(level, index) ON kept.level = wanted.level AND kept.index = wanted.index
"""


@contextmanager
def _log(lab: Lab) -> Iterator[tuple[Tiles, PostgresStore, int]]:
    """A ledger with so many events, its tiles, and its size."""
    with lab.database("ours") as dsn:
        fill(lab, dsn, lab.scaled(EVENTS), history())
        tiles, store = Tiles(dsn), PostgresStore(dsn, Vault(KeyEncryptionKeys(lab.subfolder("keys"))))
        lab.run(tiles.open())
        lab.run(store.open())
        try:
            head = lab.run(store.head())
            assert head is not None
            lab.run(tiles.ensure(head.size))
            yield tiles, store, head.size
        finally:
            lab.run(tiles.close())
            lab.run(store.close())


def _questions(size: int) -> list[tuple[int, int]]:
    """(position, size): any event, in any log that it was part of."""
    dice = random.Random(6962)
    return [(position, dice.randint(position, size)) for position in (dice.randint(1, size) for _ in range(QUESTIONS))]


@contextmanager
def proves(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """One proof after another, each followed by the bare reading of its tiles; all are verified afterwards, outside the measured time."""
    with _log(lab) as (tiles, store, size):
        proofs, questions = Proofs(tiles, store), _questions(size)

        async def one_round() -> Sample:
            proving, reading, answers = [], [], list[Inclusion]()
            for position, upon in questions:
                started = time.perf_counter()
                answers.append(await proofs.inclusion(position, upon))
                proving.append(time.perf_counter() - started)
                places = _tiles_of(position, upon)
                started = time.perf_counter()
                await tiles.fetch(_TILES, places)
                reading.append(time.perf_counter() - started)
            for proof in answers:
                _require_proven(proof)
            return {"p99_ms": _p99_ms(proving), "times_reading": _p99_ms(proving) / _p99_ms(reading)}

        yield lambda: lab.run(one_round())


def _tiles_of(position: int, size: int) -> tuple[list[int], list[int]]:
    """Levels and indices of the full tiles that a proof is made of: those above the event, and those at the log's right edge."""
    places = sorted({(level, leaf >> 8 * level + 8) for level in (0, 1) for leaf in (position - 1, size)})
    return [level for level, _ in places], [index for _, index in places]


def _p99_ms(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100] * 1_000


def _require_proven(proof: Inclusion) -> None:
    try:
        check_inclusion(proof.index, proof.size, proof.leaf, proof.hashes, proof.root)
    except ProofError as error:
        raise CannotMeasure(f"a proof does not hold: {error}") from error


FIGURES: Final = (
    Figure(
        "inclusion_proof",
        ours=proves,
        goals=(
            Goal(P99_MS, "p99_ms", "ms", 1.0, better="lower", name="p99"),
            Goal(TIMES_READING, "times_reading", "x", 1.0, better="lower", name="reading"),
        ),
    ),
)
