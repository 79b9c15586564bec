"""Building a pack, member after member, in the one order there is; whatever is finished already is passed over.

Everything handed out hangs together before it is: each entry hashes to its place in a tile, each tile to the one above it,
and those at the top to the checkpoint's root.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Final

import orjson

from infra.canonical import canonical
from infra.durable import write_whole
from infra.packing.choosing import Chosen, choose
from infra.packing.disclosing import VaultPlace, certificates, disclosures
from infra.packing.erased import Erasures, accounted_from, erasures_of
from infra.packing.manifest import counts, readme, statement
from infra.packing.pack_file import PackFile
from infra.packing.plan import BuildFailed, Plan
from infra.packing.reading import Connection, Positions, connected, copied, lines, within
from infra.packing.tile_members import needed_tiles, write_tiles
from infra.verifier.tree import HASH_BYTES, TILE_WIDTH, tile_path, tile_width

ENTRIES_PER_FILE: Final = 50_000
SPOOL: Final = "spool"
PAYLOAD: Final = "manifest.payload"
Progress = Callable[[str, int, int], None]
"""progress(phase, done, of so many)"""
ReadArtifact = Callable[[str, Path], None]
"""Writes the bytes kept under a SHA-256 to a file; raises BuildFailed when they are not there, or are others."""
_KEYS: Final = (
    "SELECT position FROM ledger.events WHERE tenant = 'system' AND stream = 'keys:ledger' AND position <= {size} ORDER BY version"
)
_NAMED_ARTIFACTS: Final = """
    SELECT body FROM ledger.events WHERE {within} AND type LIKE 'actions.%' AND position('"artifacts":["'::bytea IN body) > 0
    ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class Outside:
    """What a pack is made of besides the ledger's own rows: what opens the vault, and where artifacts are kept."""

    dsn: str
    vault: VaultPlace
    read_artifact: ReadArtifact


def build(folder: Path, outside: Outside, progress: Progress) -> dict[str, int]:
    """Writes all members but the manifest, and what is to be signed as its payload; how much of what it holds. Raises BuildFailed."""
    plan = Plan.load(folder)
    assert plan is not None, "a pack is built by its plan"
    spool = folder / SPOOL
    spool.mkdir(exist_ok=True)
    with connected(outside.dsn) as connection, PackFile(folder) as pack:
        chosen = choose(connection, plan, spool, lambda done, total: progress("choosing", done, total))
        keys = _key_positions(connection, plan)
        _Building(plan, pack, chosen, keys, connection, outside, spool, progress).run()
        write_whole(folder / PAYLOAD, canonical(statement(plan, pack.members, chosen.choice, len(keys), accounted_from(connection))))
    return counts(chosen.choice, len(keys))


def _key_positions(connection: Connection, plan: Plan) -> Positions:
    return array("Q", (position for (position,) in copied(connection, _KEYS.format(size=plan.checkpoint_size), ["int8"])))


class _Building:
    """One pack on its way."""

    def __init__(
        self,
        plan: Plan,
        pack: PackFile,
        chosen: Chosen,
        keys: Positions,
        connection: Connection,
        outside: Outside,
        spool: Path,
        progress: Progress,
    ) -> None:
        self._plan, self._pack, self._chosen, self._keys, self._connection = plan, pack, chosen, keys, connection
        self._outside, self._spool, self._progress = outside, spool, progress
        self._erasures = Erasures(one for one in erasures_of(connection, plan.tenant) if (one.certificate or 0) <= plan.checkpoint_size)

    def run(self) -> None:
        plan, pack = self._plan, self._pack
        pack.add("README.txt", readme(plan))
        pack.add("log/checkpoint", plan.checkpoint.encode())
        for authority in sorted(plan.timestamps):
            pack.add(f"log/timestamps/{authority}.tsr", base64.b64decode(plan.timestamps[authority]))
        write_tiles(pack, plan, self._connection, self._outside.dsn, needed_tiles(plan, self._needed()), self._progress)
        self._write_lines("keys.tsv", self._keys)
        self._write_entries()
        self._write_index()
        self._write_disclosures()
        if plan.artifacts:
            self._write_artifacts()
        if plan.views:
            # Loaded when it is needed: what it draws with takes half a second and 40 MB.
            render = import_module("infra.packing.rendering").render
            render(plan, self._chosen, len(self._keys), pack, self._connection, self._outside.dsn, self._spool, self._progress)

    def _needed(self) -> Iterator[Positions]:
        """Every position whose entry stands in the pack."""
        yield self._keys
        yield self._certificates
        if self._plan.index is not None:
            yield array("Q", [self._plan.index["position"]])
        yield from self._chosen.chunks(ENTRIES_PER_FILE)

    def _write_entries(self) -> None:
        done = 0
        for number, chunk in enumerate(self._chosen.chunks(ENTRIES_PER_FILE)):
            self._write_lines(f"entries/{number:06d}.tsv", chunk)
            done += len(chunk)
            self._progress("entries", done, self._chosen.choice.entries)

    def _write_lines(self, name: str, positions: Positions) -> None:
        """Entries of these positions; each is the one that the log's tree has at its place."""
        if self._pack.has(name):
            return
        tile, tile_number = b"", -1
        with self._pack.member(name) as member:
            for position, line, entry in lines(self._connection, positions):
                number, place = divmod(position - 1, TILE_WIDTH)
                if number != tile_number:
                    tile, tile_number = self._tile(number), number
                if sha256(b"\x00" + entry).digest() != tile[place * HASH_BYTES : (place + 1) * HASH_BYTES]:
                    message = f"The event at position {position} is not the one that was signed into the tree: run `aureus log fsck`."
                    raise BuildFailed("ledger_tampered", message)
                member.write(line)

    def _tile(self, number: int) -> bytes:
        return self._pack.read(f"log/{tile_path(0, number, tile_width(0, number, self._plan.checkpoint_size))}")

    def _write_index(self) -> None:
        if self._plan.index is None:
            return
        self._write_lines("index/committed.tsv", array("Q", [self._plan.index["position"]]))
        for path in self._chosen.topics():
            self._pack.add_file(f"index/topics/{path.name}", path)

    @cached_property
    def _certificates(self) -> Positions:
        """Of the erasures that took values of the chosen events."""
        found: set[int] = set()
        for chunk in self._chosen.chunks(ENTRIES_PER_FILE):
            found |= certificates(self._connection, chunk, self._erasures)
        return array("Q", sorted(found))

    def _write_disclosures(self) -> None:
        if self._pack.has("disclosures.jsonl"):
            return
        if self._certificates:
            self._write_lines("certificates.tsv", self._certificates)
        with self._pack.member("disclosures.jsonl") as member:
            for chunk in self._chosen.chunks(ENTRIES_PER_FILE):
                for line in disclosures(self._connection, chunk, self._outside.vault, self._plan.profile["disclose"], self._erasures):
                    member.write(canonical(line) + b"\n")

    def _write_artifacts(self) -> None:
        """The evidence that the included actions name, once each, in the order of its hashes."""
        named: set[str] = set()
        for chunk in self._chosen.chunks(ENTRIES_PER_FILE):
            query = _NAMED_ARTIFACTS.format(within=within(chunk))
            for (body,) in copied(self._connection, query, ["bytea"]):
                named.update(orjson.loads(body)["data"].get("artifacts", ()))
        aside = self._spool / "artifact"
        for number, digest in enumerate(sorted(named), 1):
            if not self._pack.has(f"artifacts/{digest}"):
                self._outside.read_artifact(digest, aside)
                self._pack.add_file(f"artifacts/{digest}", aside)
            self._progress("artifacts", number, len(named))
        aside.unlink(missing_ok=True)
