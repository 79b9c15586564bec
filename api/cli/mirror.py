"""A ledger's tiles and entries as files, laid out as c2sp.org/tlog-tiles serves them: a folder that any web server can serve on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from infra.verifier.notes import CheckpointText, parse_checkpoint, parse_note
from infra.verifier.tree import HASH_BYTES, ProofError, TileTree, leaf_hash, tile_path, tiles_of

CHECKPOINT: Final = "checkpoint"


class Mirror:
    """A folder that follows a ledger. `fetch` gets a tile's or an entry bundle's bytes by its path."""

    def __init__(self, folder: Path, fetch: Callable[[str], bytes]) -> None:
        self._folder, self._fetch = folder, fetch
        self._fetched: dict[str, bytes] = {}
        self._kept = 0

    def follow(self, checkpoint: CheckpointText, note: bytes, report: Callable[[str, int, int | None], None]) -> int:
        """Fetches what is missing up to this checkpoint: how many files that were. Raises ProofError; then the old checkpoint stays."""
        tree = TileTree(checkpoint.size, lambda *place: self._read(tile_path(*place)))
        if tree.root() != checkpoint.root:
            raise ProofError(f"the tiles hash to {tree.root().hex()}, the checkpoint of {checkpoint.size} signs {checkpoint.root.hex()}")
        self._require_grown(checkpoint, tree)
        places = list(tiles_of(checkpoint.size))
        for done, (level, index, width) in enumerate(places, 1):
            hashes = tree.tile(level, index)
            self._keep(tile_path(level, index, width))
            if level == 0:
                self._keep_entries(tile_path("entries", index, width), hashes)
            report("mirroring", done, len(places))
        self._write(CHECKPOINT, note)
        return self._kept

    def _require_grown(self, checkpoint: CheckpointText, tree: TileTree) -> None:
        """What was mirrored before must be what the log begins with."""
        kept = self._folder / CHECKPOINT
        if not kept.exists():
            return
        old = parse_checkpoint(parse_note(kept.read_bytes()).text)
        if old.origin != checkpoint.origin:
            raise ProofError(f"{kept} is of {old.origin}, the server's ledger is {checkpoint.origin}")
        if old.size > checkpoint.size:
            raise ProofError(f"{kept} is of {old.size} events, the server's ledger has {checkpoint.size}: its end was cut off")
        before = TileTree(old.size, lambda level, index, width: tree.tile(level, index)[: width * HASH_BYTES])
        if before.root() != old.root:
            raise ProofError(f"{kept} is of {old.size} events that the server's ledger does not begin with: its past was changed")

    def _keep_entries(self, place: str, hashes: bytes) -> None:
        if (self._folder / place).exists():
            return
        bundle = self._read(place)
        at, found = 0, []
        while at < len(bundle):
            end = at + 2 + int.from_bytes(bundle[at : at + 2])
            found.append(leaf_hash(bundle[at + 2 : end]))
            at = end
        if at != len(bundle) or b"".join(found) != hashes:
            raise ProofError(f"the entries of {place} do not hash to its tile")
        self._keep(place)

    def _read(self, place: str) -> bytes:
        file = self._folder / place
        if file.is_file():
            return file.read_bytes()
        self._fetched[place] = self._fetch(place)
        return self._fetched[place]

    def _keep(self, place: str) -> None:
        """Writes what was fetched, now that it is checked."""
        if place in self._fetched:
            self._write(place, self._fetched.pop(place))
            self._kept += 1

    def _write(self, place: str, content: bytes) -> None:
        """All of the file or none: an interrupted mirror goes on where it was."""
        file = self._folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"{file.name}.new")
        fresh.write_bytes(content)
        fresh.replace(file)
