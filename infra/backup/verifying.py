"""Verifying a backup from its bytes alone: every event, the tree, every checkpoint, and all that stands beside them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

from infra.backup.copying import read_rows
from infra.backup.manifest import Manifest, require_signed
from infra.backup.reading import Backup, Place, unpacked
from infra.backup.taking import Report
from infra.envelope import unpack_signatures
from infra.fsck import grown
from infra.fsck_rows import SignedRoot, signed_root
from infra.merkle import Frontier
from infra.verifier.canonical import NotCanonical, canonical_object
from infra.verifier.checkpoints import GrownTree, check_cosignatures, read_checkpoint
from infra.verifier.events import Bad, Body
from infra.verifier.keys import KEY_EVENT, Key, KeyRing
from infra.verifier.ledger import Verifier
from infra.verifier.main import available_cores
from infra.verifier.result import NO_WITNESS, Result
from infra.verifier.sources import Source
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers

ALONE_EVENTS: Final = 20_000
"""Up to so many, starting processes takes longer than it saves."""
CERTIFICATE: Final = "subjects.subject_erased"
_MARKS: Final = (b'"stream":"keys:ledger"', b'"type":"%b"' % CERTIFICATE.encode())


@dataclass(frozen=True, slots=True)
class Verified:
    """What a backup came to: `result` says whether it holds."""

    result: Result
    ring: KeyRing
    """Every key of the ledger, up to where the backup ends."""


@dataclass(slots=True)
class _Told:
    """What the events say that has to be known to check the rest."""

    ring: KeyRing = field(default_factory=KeyRing)
    certificates: list[Body] = field(default_factory=list)


def verify(backup: Backup, trust: Trust, kept: Sequence[bytes], report: Report) -> Verified:
    """Every problem there is goes into the result. Raises BadBackup when rows cannot even be read."""
    said, told = backup.manifest, _Told()
    processes = available_cores() if said.size > ALONE_EVENTS else 1
    cosigned = [said.cosigned.encode()] if said.cosigned else []
    with Workers(processes) as workers:
        verifier = Verifier(replace(trust, required=0), [*kept, *cosigned], workers)
        verifier.take(_noted(backup, told, report))
        result = verifier.finish(said.checkpoint.encode())
    _check_witnesses(said, trust, told.ring, result)
    if (result.ledger, result.size, verifier.tree.root().hex()) != (said.ledger, said.size, said.root):
        found = f"it says {said.size} events of {said.ledger} with the root {said.root}, and holds {result.events} of {result.ledger}"
        result.problem("manifest", found)
    try:
        require_signed(backup.signed, told.ring)
    except Bad as bad:
        result.problem(bad.check, bad.found)
    if result.ok:
        _Books(backup, told, verifier.tree, result, processes, report).check()
    return Verified(result, told.ring)


def _check_witnesses(said: Manifest, trust: Trust, ring: KeyRing, result: Result) -> None:
    """The last checkpoint is a moment old, and nobody has cosigned it yet: what counts is the latest that somebody has."""
    result.cosigned, result.warnings = [], [warning for warning in result.warnings if not warning.endswith(NO_WITNESS)]
    latest = said.cosigned.encode() if said.cosigned else said.checkpoint.encode()
    checkpoint = read_checkpoint(latest, said.ledger, ring, result)
    if checkpoint is None:
        return
    opened, of = checkpoint
    check_cosignatures(opened, of, trust, ring, result)
    if result.cosigned and of.size < said.size:
        result.warnings.append(
            f"Witnesses cosigned the first {of.size} of the {said.size} events, and for the others the log's word stands alone."
        )


def _noted(backup: Backup, told: _Told, report: Report) -> Iterator[Source]:
    """Hands each stretch out, and looks meanwhile for the events that say something about the others."""
    for stretch in backup.stretches():
        yield stretch
        data = unpacked(stretch.place)
        rows = list(read_rows(data)) if any(mark in data for mark in _MARKS) else []
        at = {name: number for number, name in enumerate(stretch.columns)}
        for position, row in enumerate(rows, stretch.first):
            kind, body = (row[at["type"]] or b"").decode(), row[at["body"]] or b""
            if kind.startswith(KEY_EVENT) or kind == CERTIFICATE:
                with suppress(Bad, NotCanonical, ValueError):  # whoever verifies the signed bytes says why
                    member = canonical_object(body)
                    if kind == CERTIFICATE:
                        told.certificates.append(member)
                    else:
                        told.ring.learn(position, body, member, unpack_signatures(row[at["signatures"]] or b""))
        report("signatures", stretch.first - 1, backup.manifest.size)
    report("signatures", backup.manifest.size, backup.manifest.size)


class _Books:
    """What stands beside the events, compared with what they are known to be."""

    def __init__(self, backup: Backup, told: _Told, tree: GrownTree, result: Result, processes: int, report: Report) -> None:
        self._backup, self._told, self._tree, self._result = backup, told, tree, result
        self._processes, self._report = processes, report

    def check(self) -> None:
        frontier = self._check_checkpoints()
        self._check_head(frontier)
        self._check_vault()

    def _check_checkpoints(self) -> Frontier:
        said, frontier, sizes = self._backup.manifest, Frontier(), array("Q")
        for signed in self._signed_roots():
            sizes.append(signed.size)
            if signed.wrong is not None or not 0 < signed.size <= said.size:
                self._result.problem("checkpoint", signed.wrong or "it is of a size that the log never had", signed.size)
                continue
            frontier = grown(frontier, self._tree, signed.size)
            if frontier.root() != signed.root:
                self._result.problem("checkpoint", "it signs another root than the events have", signed.size)
        for table in ("ledger.cosignatures", "ledger.timestamps"):
            for row in self._backup.rows(table):
                size = int.from_bytes(row["size"])
                place = bisect_left(sizes, size)
                if place == len(sizes) or sizes[place] != size:
                    self._result.problem("checkpoint", f"a row of {table} is of a checkpoint that is not there", size)
        return grown(frontier, self._tree, said.size)

    def _signed_roots(self) -> Iterator[SignedRoot]:
        said = self._backup.manifest
        table = said.table("ledger.checkpoints")
        places = [self._backup.place(piece.name) for piece in table.pieces] if table else []
        columns = tuple(name for name, _ in table.columns) if table else ()
        ask = partial(signed_roots, columns, said.ledger, list(self._told.ring.of_role("log")))
        done, total = 0, table.rows if table else 0
        with ProcessPoolExecutor(self._processes, get_context("spawn")) as pool:
            for answer in pool.map(ask, places) if self._processes > 1 and total > ALONE_EVENTS else map(ask, places):
                yield from answer
                done += len(answer)
                self._report("checkpoints", done, total)

    def _check_head(self, frontier: Frontier) -> None:
        said = self._backup.manifest
        rows = list(self._backup.rows("ledger.head"))
        *_, last = [{}, *_last_rows(self._backup)]
        wanted = {
            "origin": said.ledger.encode(),
            "size": said.size.to_bytes(8),
            "root": frontier.root(),
            "frontier": frontier.dump(),
            "note": said.checkpoint.encode(),
            "at": last.get("at", b""),
        }
        if len(rows) != 1:
            self._result.problem("head", f"there are {len(rows)} rows of it, and not one")
            return
        for name, value in wanted.items():
            if rows[0].get(name, b"") != value:
                self._result.problem("head", f"its {name} is not that of the last event's commit", said.size)

    def _check_vault(self) -> None:
        """Values belong to events that are there, have a key, and are of nobody whose erasure is certified here."""
        said = self._backup.manifest
        keys = {_owner(row) for row in self._backup.rows("vault.keys")}
        erased: dict[tuple[bytes, bytes], list[Body]] = {}
        for certificate in self._told.certificates:
            whose = (certificate["tenant"].encode(), certificate["data"]["subject_id"].encode())
            erased.setdefault(whose, []).append(certificate["data"])
        for row in self._backup.rows("vault.disclosures"):
            owner, position = _owner(row), int.from_bytes(row["position"])
            if not 0 < position <= said.size:
                self._result.problem("vault", f"a value stands at position {position}, where there is no event")
            elif said.vault_keys and owner not in keys:
                self._result.problem("vault", "a value has no key, and no certificate says that it was destroyed", position)
            for certificate in erased.get(owner[:2], ()):
                if position <= certificate["until"] and (certificate["everything"] or owner[2].decode() in certificate["purposes"]):
                    found = f"a value of {owner[1].decode()} is here, though its erasure up to {certificate['until']} is certified"
                    self._result.problem("vault", found, position)


def _owner(row: dict[str, bytes]) -> tuple[bytes, bytes, bytes]:
    return row["tenant"], row["subject"], row["purpose"]


def _last_rows(backup: Backup) -> Iterator[dict[str, bytes]]:
    """The rows of the last stretch of events."""
    table = backup.manifest.table("ledger.events")
    if table is not None and table.pieces:
        names = [column for column, _ in table.columns]
        for row in read_rows(unpacked(backup.place(table.pieces[-1].name))):
            yield {name: value for name, value in zip(names, row, strict=True) if value is not None}


def signed_roots(columns: tuple[str, ...], origin: str, keys: list[Key], place: Place) -> list[SignedRoot]:
    """The checkpoints of one piece, in order; `keys` are all the log keys there ever were."""
    found = []
    for fields in read_rows(unpacked(place)):
        row: dict[str, Any] = dict(zip(columns, fields, strict=True))
        found.append(signed_root(origin, keys, int.from_bytes(row["size"]), row["note"]))
    return found
