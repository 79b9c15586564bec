"""`verify_full` and `verify_tree`: a log verified from its files, beside libsodium's verifying alone and SHA-256 alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from bench.bulk import fill, history
from bench.lab import CORES, CannotMeasure, Lab
from bench.measure import Contestant, Figure, Goal, Sample
from bench.peers import raw
from infra.envelope import entry_bytes, signing_input, unpack_signatures
from infra.verifier.checkpoints import GrownTree
from infra.verifier.tiles import verify_tiles
from infra.verifier.tree import TILE_WIDTH, leaf_hash, tile_path, tiles_of
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers

EVENTS: Final = 1_000_000
TREE_EVENTS_PER_SECOND: Final = 250_000
CHECKPOINT: Final = "checkpoint"


def log_of(lab: Lab, events: int) -> Path:
    """A tile directory of governed work, and in `raw/` what the peers are given of it; made once for all who ask."""
    folder = lab.folder / f"log-{events}"
    if not (folder / CHECKPOINT).exists():
        with lab.database("log") as dsn:
            fill(lab, dsn, events, history())
            with psycopg.connect(dsn) as connection:
                _write(connection, folder)
    return folder


def _write(connection: psycopg.Connection, folder: Path) -> None:
    tree = GrownTree()
    public = connection.execute("SELECT body FROM ledger.events WHERE position = 3").fetchone()
    note = connection.execute("SELECT note FROM ledger.head").fetchone()
    assert public is not None
    assert note is not None
    with connection.cursor("rows") as rows, raw.Material(folder / "raw", raw.public_key(public[0])) as material:
        rows.itersize = 16 * TILE_WIDTH
        rows.execute("SELECT body, signatures FROM ledger.events ORDER BY position")
        while stored := rows.fetchmany(TILE_WIDTH):
            entries = [entry_bytes(body, signatures) for body, signatures in stored]
            bundle = b"".join(len(entry).to_bytes(2) + entry for entry in entries)
            _put(folder / tile_path("entries", tree.size // TILE_WIDTH, len(entries)), bundle)
            tree.add([leaf_hash(entry) for entry in entries])
            material.add(entries, [unpack_signatures(signatures)[0][1] + signing_input(body) for body, signatures in stored])
    for level, index, width in tiles_of(tree.size):
        _put(folder / tile_path(level, index, width), tree.tile(level, index, width))
    _put(folder / CHECKPOINT, note[0])


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def verifies(*, full: bool) -> Contestant:
    """From the files to the result: reading, hashing, canonical form, chains, keys, the tree - and every signature, or none."""

    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        folder = log_of(lab, lab.scaled(EVENTS))

        def one_round() -> Sample:
            started = time.perf_counter()
            with Workers(CORES) as workers:
                result = verify_tiles(folder, Trust(), [], workers, lambda _what, _done, _of: None, full=full)
            if not result.ok:
                raise CannotMeasure(f"the log does not verify: {result.problems[0]}")
            return {"rate": result.events / (time.perf_counter() - started)}

        yield one_round

    return contestant


def alone(work: raw.Work) -> Contestant:
    """The one thing that nobody can do without, for the same events in as many processes."""

    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        events = lab.scaled(EVENTS)
        folder = log_of(lab, events) / "raw"
        yield lambda: {"rate": raw.rate(folder, work, CORES)}

    return contestant


FIGURES: Final = (
    Figure(
        "verify_full",
        ours=verifies(full=True),
        peers={"libsodium": alone(raw.verify)},
        goals=(Goal("libsodium", "rate", "events/s", 0.9),),
    ),
    Figure(
        "verify_tree",
        ours=verifies(full=False),
        peers={"sha256": alone(raw.hash_entries)},
        goals=(
            Goal(TREE_EVENTS_PER_SECOND, "rate", "events/s", 1.0, name="rate"),
            Goal("sha256", "rate", "events/s", 0.15, name="sha256"),
        ),
    ),
)
