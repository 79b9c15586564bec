"""A pack: one file that has to account for everything in it, and for everything of what was asked that is not in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from infra.verifier.archive import Archive, BadArchive, NoArchive
from infra.verifier.checking import Findings, StreamKey, Told, shown
from infra.verifier.checkpoints import check_cosignatures, encoded, read_checkpoint, warn_of_root, whose_word
from infra.verifier.completeness import MISSING, Finding, Included, Topics, all_of, ends, selection_of, withheld_fences
from infra.verifier.events import Bad, Body, read_place
from infra.verifier.fields import Fields, check_fields
from infra.verifier.keys import KeyRing
from infra.verifier.log import Log
from infra.verifier.manifest import MANIFEST, Manifest, read_manifest, require_signed
from infra.verifier.notes import CheckpointText
from infra.verifier.result import Result
from infra.verifier.sources import CHUNK_ENTRIES, Lines, Source, Unreadable
from infra.verifier.tree import TILE_WIDTH, ProofError, TileTree, tile_path
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers

CHUNK_BYTES: Final = CHUNK_ENTRIES * 1_024
MAX_FINDINGS: Final = 1_000
LINE_BYTES: Final = 1 << 17
"""More than the longest line."""
KEYS: Final = "keys.tsv"
COMMITTED: Final = "index/committed.tsv"
FIELDS: Final = "disclosures.jsonl"
CERTIFICATES: Final = "certificates.tsv"
CHECKPOINT: Final = "log/checkpoint"
TILES: Final = "log/tile/"
_SECTIONS: Final = tuple(
    re.compile(section)
    for section in (
        r"README\.txt",
        r"log/checkpoint",
        r"log/timestamps/[^/]+\.tsr",
        r"log/tile/.+",
        r"keys\.tsv",
        r"entries/[0-9]{6}\.tsv",
        r"index/committed\.tsv",
        r"index/topics/[0-9]{6}\.tsv",
        r"certificates\.tsv",
        r"disclosures\.jsonl",
        r"artifacts/[0-9a-f]{64}",
        r"views/.+",
        r"manifest\.json",
    )
)
_NEEDED: Final = ("README.txt", CHECKPOINT, KEYS, FIELDS, MANIFEST)
_NUMBERED: Final = ("entries/", "index/topics/")

Report = Callable[[str, int, int | None], None]
"""(what is done, how much of it, of how much)"""


class NotAPack(ValueError):
    """A file that is not a pack, damaged or not."""


def verify_pack(path: Path, trust: Trust, kept: Sequence[bytes], workers: Workers, report: Report, *, full: bool = True) -> Result:
    """Verifies a pack from its bytes alone; raises NotAPack and OSError."""
    result = Result(what="pack", mode="full" if full else "tree", ledger=trust.ledger)
    try:
        archive = Archive(path)
    except NoArchive as error:
        raise NotAPack(str(error)) from None
    except BadArchive as error:
        result.problem("archive", error.found, where=f"byte {error.at}")
        return result
    if MANIFEST not in archive.members:
        raise NotAPack(f"it holds no {MANIFEST}")
    _Pack(archive, trust, kept, workers, report, result, full).check()
    return result


class _Pack:
    """A pack whose headers are as they have to be."""

    def __init__(
        self, archive: Archive, trust: Trust, kept: Sequence[bytes], workers: Workers, report: Report, result: Result, full: bool
    ) -> None:
        self._archive, self._trust, self._kept, self._workers, self._report = archive, trust, kept, workers, report
        self.result, self._full = result, full
        self._ring = KeyRing(trust.root_keys)
        self._tree = TileTree(0, lambda *_place: b"")
        self._bodies: dict[int, Body] = {}
        self._digests: dict[int, list[str]] = {}
        self._named: dict[int, list[str]] = {}
        self._topics: dict[str, list[int]] = {}
        self._logs: list[Log] = []
        self._leaves: dict[int, bytes] = {}
        """Of included events, as topics' rows have them."""

    def check(self) -> None:
        """Everything there is to check, from the outside in."""
        result = self.result
        self._check_names()
        try:
            manifest = read_manifest(self._archive.read(MANIFEST))
            self._check_members(manifest)
            self._check_log(manifest)
        except Bad as bad:
            result.problem(bad.check, bad.found, where=MANIFEST)
        except BadArchive as error:
            result.problem("archive", error.found, where=f"byte {error.at}")
        except Unreadable as error:
            result.problem("file", error.found, where=error.where)
        except ProofError as error:
            result.problem("tree", str(error), where=TILES)
        if result.complete:
            result.complete = result.ok

    # -- members

    def _check_names(self) -> None:
        names, before, numbers = list(self._archive.members), 0, dict.fromkeys(_NUMBERED, 0)
        for name in names:
            section = next((number for number, section in enumerate(_SECTIONS) if section.fullmatch(name)), None)
            if section is None or section < before:
                found = "no member of a pack has this name" if section is None else "it does not stand in the order of a pack's members"
                self.result.problem("archive", found, where=name)
                continue
            before = section
            for prefix in _NUMBERED:
                if name.startswith(prefix):
                    if name != f"{prefix}{numbers[prefix]:06d}.tsv":
                        self.result.problem("archive", f"{prefix}{numbers[prefix]:06d}.tsv is missing before it", where=name)
                    numbers[prefix] += 1
        for name in _NEEDED:
            if name not in self._archive.members:
                self.result.problem("archive", "it is missing", where=name)

    def _check_members(self, manifest: Manifest) -> None:
        """Each member is one that the manifest lists, with these bytes."""
        names = [name for name in self._archive.members if name != MANIFEST]
        if names != list(manifest.subjects):
            gone, added = [sorted(one) for one in (set(manifest.subjects) - set(names), set(names) - set(manifest.subjects))]
            found = f"missing: {', '.join(gone) or 'none'}; not listed: {', '.join(added) or 'none'}" if gone or added else "another order"
            self.result.problem("manifest", f"its members are not those that it lists ({found})", where=MANIFEST)
        for number, name in enumerate(names):
            try:
                digest = self._archive.sha256(name)
            except BadArchive as error:
                self.result.problem("archive", error.found, where=f"byte {error.at}")
                continue
            if name in manifest.subjects and digest != manifest.subjects[name]:
                self.result.problem("manifest", f"its SHA-256 is {digest}, and the manifest says {manifest.subjects[name]}", where=name)
            if name.startswith("artifacts/") and name != f"artifacts/{digest}":
                self.result.problem("artifact", f"its SHA-256 is {digest}", where=name)
            self._report("reading", number + 1, len(names))

    # -- the log

    def _check_log(self, manifest: Manifest) -> None:
        result, predicate = self.result, manifest.predicate
        ledger, size = predicate["ledger"], predicate["checkpoint"]["size"]
        if result.ledger and result.ledger != ledger:
            result.problem("ledger", f"it is of the ledger {ledger}, and the trusted one is {result.ledger}", where=MANIFEST)
        result.ledger, result.tenant = ledger, predicate["tenant"]
        period = predicate["selection"]
        result.range = {**predicate["range"], "scope": predicate["scope"], "from": period["from"], "to": period["to"], "selection": period}
        self._tree = TileTree(size, self._tile)
        keys = self._take_keys(ledger, manifest)
        self._check_checkpoint(ledger, manifest)
        warn_of_root(self._trust, result)
        try:
            require_signed(manifest, self._ring)
        except Bad as bad:
            result.problem(bad.check, bad.found, where=MANIFEST)
        committed = self._committed(ledger, manifest)
        topics = None
        if committed is not None:
            topics = Topics(manifest, committed, lambda number: self._rows(f"index/topics/{number:06d}.tsv"))
            self._tell([*topics.check(), *topics.check_keys(keys, self._leaf)])
            self._leaves = topics.leaves
        entries = self._take_entries(ledger, manifest, topics, keys)
        self._check_complete(manifest, topics, keys, entries)
        self._check_fields(ledger, manifest)
        if any(name.startswith("log/timestamps/") for name in self._archive.members):
            result.warnings.append("Timestamps (RFC 3161) are not checked by this program: `openssl ts -verify` does that.")

    def _tile(self, level: int, index: int, width: int) -> bytes:
        name = f"log/{tile_path(level, index, width)}"
        if name not in self._archive.members:
            raise ProofError(f"{name} is missing")
        return self._archive.read(name, TILE_WIDTH * 32)

    def _leaf(self, position: int) -> bytes:
        return self._tree.leaf(position - 1)

    def _check_checkpoint(self, ledger: str, manifest: Manifest) -> None:
        result, said = self.result, manifest.predicate["checkpoint"]
        for number, note in enumerate([self._archive.read(CHECKPOINT), *self._kept]):
            checkpoint = read_checkpoint(note, ledger, self._ring, result)
            if checkpoint is None:
                continue
            opened, signed = checkpoint
            if number:
                self._check_kept(signed)
                continue
            check_cosignatures(opened, signed, self._trust, self._ring, result)
            result.size, result.root = signed.size, encoded(signed.root)
            if (said["size"], said["root"]) != (signed.size, result.root):
                result.problem("checkpoint", f"it signs {signed.size} events, and the manifest speaks of another one", where=CHECKPOINT)
            else:
                self._check_root(signed.root)

    def _check_root(self, signed: bytes) -> None:
        try:
            root = self._tree.root()
        except ProofError as error:
            self.result.problem("tree", str(error), where=TILES)
            return
        if root != signed:
            found = f"the tiles come to {encoded(root)}, the checkpoint of {self._tree.size} signs {encoded(signed)}"
            self.result.problem("tree", found, where=TILES)

    def _check_kept(self, said: CheckpointText) -> None:
        """The pack's log begins with what a checkpoint from elsewhere signed, as far as its tiles tell."""
        if said.size > self._tree.size:
            found = f"The kept checkpoint signs {said.size} events, the pack's {self._tree.size}: compare it with a later pack."
            self.result.warnings.append(found)
            return
        try:
            if TileTree(said.size, self._part_of_tile).root() != said.root:
                found = f"its first {said.size} events are not those that the kept checkpoint signs{whose_word(said, self._ring)}"
                self.result.problem("history", found, said.size)
        except ProofError as error:
            self.result.warnings.append(f"The kept checkpoint of {said.size} cannot be compared with the pack: {error}.")

    def _part_of_tile(self, level: int, index: int, width: int) -> bytes:
        return self._tree.tile(level, index)[: width * 32]

    # -- entries

    def _log(self, told: Told) -> Log:
        self._logs.append(Log(self.result, self._ring, self._workers, told))
        return self._logs[-1]

    def _take_keys(self, ledger: str, manifest: Manifest) -> Sequence[int]:
        """The key stream: it has no gaps, and teaches which key may sign what."""
        log = self._log(Told(ledger, {}, wanted=frozenset(manifest.fences)))
        log.take(self._lines(KEYS), self._found)
        log.finish()
        return log.positions

    def _take_entries(self, ledger: str, manifest: Manifest, topics: Topics | None, keys: Sequence[int]) -> Sequence[int]:
        names = [name for name in self._archive.members if name.startswith("entries/")]
        sources = [source for name in names for source in self._lines(name)]
        asked = frozenset([*topics.base, *topics.within] if topics is not None and self._full else ())
        wanted = frozenset(ends(manifest, topics, keys))
        log = self._log(Told(ledger, self._ring.keys, self._full, whole=False, topics=asked, wanted=wanted))
        log.take(self._reported(sources), self._found)
        log.finish()
        own = {manifest.predicate["tenant"]} | ({"system"} if manifest.everything else set())
        if not log.tenants <= own:
            self.result.problem(
                "tenant", f"it holds events of {', '.join(sorted(log.tenants - own))}, and is a pack of {self.result.tenant}"
            )
        return log.positions

    def _reported(self, sources: Sequence[Source]) -> Iterator[Source]:
        for number, source in enumerate(sources):
            self._report("verifying", number, len(sources))
            yield source

    def _committed(self, ledger: str, manifest: Manifest) -> tuple[int, Body] | None:
        """The event that holds the index; None when there is none, or nothing can be made of it."""
        index = manifest.predicate["index"]
        if (index is None) != (COMMITTED not in self._archive.members):
            self.result.problem(
                "index", "the event that commits the index is missing" if index else "nothing speaks of it", where=COMMITTED
            )
        if index is None or COMMITTED not in self._archive.members:
            return None
        told = Told(ledger, self._ring.keys, whole=False, wanted=frozenset({index["position"]}))
        log, found = self._log(told), self._bodies
        log.take(self._lines(COMMITTED), self._found)
        if index["position"] not in found or list(log.positions) != [index["position"]]:
            self.result.problem("index", f"the event that commits the index, position {index['position']}, is not there", where=COMMITTED)
            return None
        return index["position"], found.pop(index["position"])

    def _found(self, findings: Findings) -> None:
        """What is asked of every event of a pack: that it is at its place in the tree."""
        self._bodies |= findings.bodies
        self._digests |= findings.digests
        self._named |= findings.named
        for topic, positions in findings.topics.items():
            self._topics.setdefault(topic, []).extend(positions)
        for position, leaf in zip(findings.positions, findings.leaves, strict=True):
            try:
                if self._leaf(position) != leaf:
                    self._tell([Finding("tree", "it is not the event that the tree has at its place", position)])
                elif self._leaves.get(position, leaf) != leaf:
                    self._tell([Finding("index", "the index has another event at its position", position)])
            except ProofError as error:
                self._tell([Finding("tree", str(error), position)])

    def _lines(self, name: str) -> list[Lines]:
        """A member's lines in stretches that can be checked side by side."""
        member, path, start = self._archive.members[name], self._archive.path, 0
        stretches: list[Lines] = []
        with path.open("rb") as file:
            while start < member.size or not stretches:
                end = min(start + CHUNK_BYTES, member.size)
                if end < member.size:
                    file.seek(member.start + end)
                    rest = file.read(min(LINE_BYTES, member.size - end))
                    end = end + rest.index(b"\n") + 1 if b"\n" in rest else member.size
                stretches.append(Lines(path, name, member.start, start, end))
                start = end
        return stretches

    def _rows(self, name: str) -> tuple[str, bytes]:
        if name not in self._archive.members:
            raise Unreadable(name, "it is missing")
        return name, self._archive.read(name, 1 << 40)

    # -- what is not there

    def _check_complete(self, manifest: Manifest, topics: Topics | None, keys: Sequence[int], entries: Sequence[int]) -> None:
        result = self.result
        included = Included(entries, keys, self._bodies, self._topics)
        if manifest.everything:
            found = all_of(manifest, included)
        elif topics is not None and topics.told:
            found = selection_of(manifest, topics, included)
        else:
            result.complete = False
            return
        findings = list(islice(found, MAX_FINDINGS))
        missing = {finding.position for finding in findings if finding.check == MISSING}
        names = self._names_of({position for position in missing if position is not None})
        for finding in findings:
            name = names.get(finding.position or 0)
            self._tell([replace(finding, found=f"{finding.found} ({name})") if name and finding.check == MISSING else finding])
        result.complete = not findings
        for position in withheld_fences(manifest):
            result.warnings.append(
                f"The event at position {position}, next to the period, is withheld: where the period ends there is not shown."
            )

    def _tell(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            where = MANIFEST if finding.position is None else self._where(finding.position)
            self.result.problem(finding.check, finding.found, finding.position, where)

    def _where(self, position: int) -> str | None:
        return next((where for log in self._logs if (where := log.where(position)) is not None), None)

    def _names_of(self, missing: set[int]) -> dict[int, str]:
        """Which version of which stream stood at these positions, where the events before and after it in its stream are here."""
        before: dict[StreamKey, tuple[int, int]] = {}
        candidates: dict[int, list[str]] = {}
        for position, entry in self._entries() if missing else ():
            try:
                tenant, stream, version, _ = read_place(entry)
            except Bad:
                continue
            last, at = before.get((tenant, stream), (0, 0))
            if version == last + 2:
                for gone in (gone for gone in missing if at < gone < position):
                    candidates.setdefault(gone, []).append(f"version {version - 1} of {shown(stream)}")
            before[tenant, stream] = version, position
        return {position: " or ".join(found) for position, found in candidates.items()}

    def _entries(self) -> Iterator[tuple[int, bytes]]:
        """All entries, up to where they cannot be read."""
        with suppress(Unreadable):
            for name in self._archive.members:
                for lines in self._lines(name) if name.startswith("entries/") else ():
                    yield from lines.read()

    def _check_fields(self, ledger: str, manifest: Manifest) -> None:
        if not self._full:
            return
        predicate = manifest.predicate
        certificates = self._take_certificates(ledger)
        fields = Fields(predicate["tenant"], self._digests, self._named, certificates, predicate["accounted_after"])
        for problem in check_fields(self._archive.pieces(FIELDS), FIELDS, fields, self.result.fields):
            self.result.add(problem)

    def _take_certificates(self, ledger: str) -> dict[int, Body]:
        """The certificates of erasure, each at its place in the tree."""
        if CERTIFICATES not in self._archive.members:
            return {}
        sources = self._lines(CERTIFICATES)
        positions = frozenset(position for source in sources for position, _ in source.read())
        log = self._log(Told(ledger, self._ring.keys, whole=False, wanted=positions))
        log.take(sources, self._found)
        return {position: self._bodies[position] for position in positions if position in self._bodies}
