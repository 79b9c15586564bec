"""A tile directory: a log as static files (c2sp.org/tlog-tiles), which anybody can copy, keep and serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from infra.verifier.ledger import Verifier
from infra.verifier.notes import BadNote, parse_checkpoint, parse_note
from infra.verifier.pack import Report
from infra.verifier.result import Result
from infra.verifier.sources import CHUNK_ENTRIES, Bundles
from infra.verifier.tree import HASH_BYTES, TILE_WIDTH, tile_path, tiles_of
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers

CHECKPOINT_FILE: Final = "checkpoint"
BUNDLES: Final = CHUNK_ENTRIES // TILE_WIDTH


class NotATileDirectory(ValueError):
    """A folder without a checkpoint."""


def verify_tiles(folder: Path, trust: Trust, kept: Sequence[bytes], workers: Workers, report: Report, *, full: bool = True) -> Result:
    """Verifies a whole log from its files alone; raises NotATileDirectory and OSError."""
    try:
        note = (folder / CHECKPOINT_FILE).read_bytes()
    except FileNotFoundError:
        raise NotATileDirectory(f"it holds no file `{CHECKPOINT_FILE}`") from None
    verifier = Verifier(trust, kept, workers, full=full)
    result = verifier.result
    result.what = "tiles"
    try:
        size = parse_checkpoint(parse_note(note).text).size
    except BadNote as error:
        result.problem("checkpoint", str(error), where=CHECKPOINT_FILE)
        return result
    verifier.take(_bundles(folder, size, result, report))
    if verifier.tree.size == size:
        _compare(folder, verifier, report)
    return verifier.finish(note)


def _bundles(folder: Path, size: int, result: Result, report: Report) -> Iterator[Bundles]:
    """The entry bundles in stretches; the first is one alone, for it holds the keys. Ends where one is missing."""
    index, count = 0, -(-size // TILE_WIDTH)
    while index < count:
        names, widths, first = [], [], index * TILE_WIDTH + 1
        for number in range(index, min(index + (BUNDLES if index else 1), count)):
            width = min(TILE_WIDTH, size - number * TILE_WIDTH)
            name = tile_path("entries", number, width)
            if not (folder / name).is_file():
                result.problem("file", f"it is missing, and with it the events from position {number * TILE_WIDTH + 1} on", where=name)
                count = number
                break
            names.append(name)
            widths.append(width)
        if names:
            report("verifying", first - 1, size)
            yield Bundles(first, folder, names, widths)
        index += len(names)


def _compare(folder: Path, verifier: Verifier, report: Report) -> None:
    """The tiles are those of the tree that the entries make: whoever proves with them proves with the right ones."""
    size = verifier.tree.size
    for number, (level, index, width) in enumerate(tiles_of(size)):
        name, wanted = tile_path(level, index, width), verifier.tree.tile(level, index, width)
        try:
            found = (folder / name).read_bytes()
        except OSError:
            verifier.result.problem("tile", "it is missing", where=name)
            continue
        if found != wanted:
            same = next((at for at, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
            verifier.result.problem("tile", f"hash {same // HASH_BYTES} of it is not that of the tree", where=f"{name} byte {same}")
        if number % 1_000 == 0:
            report("tiles", index, -(-size // TILE_WIDTH))
