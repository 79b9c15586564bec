"""A whole ledger: all its entries from the first on, and a checkpoint of that size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from infra.verifier.checking import Findings, Told
from infra.verifier.checkpoints import GrownTree, check_cosignatures, encoded, read_checkpoint, warn_of_root, whose_word
from infra.verifier.events import Bad, open_entry, read_body
from infra.verifier.keys import KeyRing
from infra.verifier.log import Log
from infra.verifier.result import Result
from infra.verifier.sources import CHUNK_ENTRIES, Held, Source
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers

FOUNDING_ENTRIES: Final = 256
"""The first stretch is a short one: it holds the keys under which the others can be checked side by side."""
NOBODYS: Final = Trust()


class Verifier:
    """Takes a ledger's entries in order, then its checkpoint. Trusts what it is told to, and nothing else."""

    def __init__(self, trust: Trust = NOBODYS, kept: Sequence[bytes] = (), workers: Workers | None = None, *, full: bool = True) -> None:
        """`kept` are older checkpoints of this ledger from elsewhere: the ledger must still begin with what they signed."""
        self.result = Result(mode="full" if full else "tree", ledger=trust.ledger)
        self.tree = GrownTree()
        self._trust, self._kept = trust, kept
        self._log = Log(self.result, KeyRing(trust.root_keys), workers or Workers(), Told(trust.ledger, {}, full=full))

    def add(self, entries: Iterable[bytes]) -> None:
        """The next entries: canonical JSON of DSSE envelopes, one per position."""
        self.take(self._stretches(iter(entries)))

    def take(self, sources: Iterable[Source]) -> None:
        """The next entries, wherever they lie."""
        self._log.take(self._named(sources), self._grow)

    def finish(self, note: bytes | None) -> Result:
        """Compares the tree with the signed checkpoint of the same size, and with those that were kept."""
        result, trust, ring = self.result, self._trust, self._log.ring
        self._log.finish()
        result.root = encoded(self.tree.root())
        warn_of_root(trust, result)
        for kept in self._kept:
            self._check_kept(kept)
        checkpoint = read_checkpoint(note, result.ledger, ring, result)
        if checkpoint is not None:
            opened, said = checkpoint
            check_cosignatures(opened, said, trust, ring, result)
            result.size = said.size
            if said.size != self.tree.size:
                result.problem("checkpoint", f"it is signed for {said.size} events, {self.tree.size} were read", self.tree.size)
            elif encoded(said.root) != result.root:
                found = f"the events hash to {result.root}, the checkpoint of {said.size} signs {encoded(said.root)}"
                result.problem("tree", found, self.tree.size)
        result.complete = result.ok
        return result

    def _stretches(self, entries: Iterator[bytes]) -> Iterator[Source]:
        first = self.tree.size + 1
        while held := tuple(islice(entries, CHUNK_ENTRIES if first > 1 else FOUNDING_ENTRIES)):
            yield Held(first, held)
            first += len(held)

    def _named(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources; of the first it is taken whose ledger this is, when nobody said so."""
        for source in sources:
            if not self.result.ledger:
                self._log.call(self._name_in(source))
                self.result.ledger = self._log.told.ledger
            yield source

    def _name_in(self, source: Source) -> str:
        try:
            _, entry = next(iter(source.read()))
            name: str = read_body(open_entry(entry)[0])["ledger"]
        except (Bad, StopIteration, ValueError, OSError):
            return ""
        return name

    def _grow(self, findings: Findings) -> None:
        self.tree.add(findings.leaves)

    def _check_kept(self, note: bytes) -> None:
        result = self.result
        kept = read_checkpoint(note, result.ledger, self._log.ring, result)
        if kept is None:
            return
        said = kept[1]
        if said.size > self.tree.size:
            found = f"the kept checkpoint signs {said.size} events, the ledger holds {self.tree.size}: its end was cut off"
            result.problem("history", found, self.tree.size)
        elif said.root != self.tree.root(said.size):
            found = f"its first {said.size} events are not those that the kept checkpoint signs{whose_word(said, self._log.ring)}"
            result.problem("history", found, said.size)
