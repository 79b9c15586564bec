"""Sealing: what a command wants to write becomes positions, signed bytes, leaves and a checkpoint.

Pure of I/O: it works on a head (where the log ends) and the stream heads it is told, and yields the next of both. A
command whose expectations do not hold fails alone; the rest of the batch is sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from domain.kernel import timestamp
from domain.ledger import MAX_ENTRY_BYTES, AlreadyAnswered, Append, Conflict, EventSigner, EventTooLarge, Receipt, Remember
from domain.values import uuid7_text
from infra.checkpoint import Checkpoint
from infra.envelope import (
    Disclosure,
    Facts,
    body_bytes,
    entry_of_one,
    facts_of,
    pack_signature,
    require_plain,
    signing_input,
)
from infra.merkle import Frontier, leaf_hash

StreamKey = tuple[str, str]
"""(tenant, stream)"""
StreamHead = tuple[int, str]
"""(version, hex leaf hash) of a stream's latest event."""
NO_EVENTS: Final[StreamHead] = (0, "")


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends."""

    frontier: Frontier
    root: bytes
    note: bytes
    at: datetime

    @property
    def size(self) -> int:
        return self.frontier.size


@dataclass(slots=True)
class SealedEvents:
    """Rows of the event table, column by column, as the store inserts them."""

    tenants: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    signatures: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    disclosures: list[tuple[int, str, Disclosure]] = field(default_factory=list)
    """(position, tenant, disclosure)"""
    remembered: list[tuple[str, Remember, int]] = field(default_factory=list)
    """(tenant, request, first position)"""

    def place(self, chain: Chain, events: Sequence[SealedEvent]) -> None:
        """Puts a chain's sealed events where they stand among the rows."""
        missing = len(self.streams) - len(self.bodies)
        if missing:
            for column in (self.bodies, self.signatures, self.leaves):
                column.extend([b""] * missing)
        for row, (body, signatures, leaf) in zip(chain.rows, events, strict=True):
            self.bodies[row], self.signatures[row], self.leaves[row] = body, signatures, leaf


@dataclass(slots=True)
class Batch:
    """A sealed group of appends on its way into the store."""

    before: Head
    after: Head
    events: SealedEvents
    receipts: list[Receipt | Exception]
    """One per append, in the order they came; a refused one wrote nothing."""


class Prepared:
    """An append whose data has been checked and encoded, off the writer's critical path; kept for re-sealing."""

    __slots__ = ("append", "facts")

    def __init__(self, append: Append) -> None:
        require_plain("tenant", append.tenant)
        require_plain("actor", append.actor)
        for write in append.writes:
            require_plain("stream", write.stream)
        self.append = append
        self.facts: list[list[Facts]] = [[facts_of(event) for event in write.events] for write in append.writes]


class Sealer:
    """Seals batches for one ledger with its log key and its service key; a helper on another core takes a share."""

    def __init__(self, ledger: str, log: EventSigner, service: EventSigner, helper: SealingHelper | None = None) -> None:
        self.ledger, self._log, self._service, self._helper = ledger, log, service, helper

    def seal(
        self, head: Head, heads: Mapping[StreamKey, StreamHead], batch: Sequence[Prepared], now: datetime
    ) -> tuple[Batch, dict[StreamKey, StreamHead]]:
        """The sealed batch and the stream heads it moves. `heads` must know every stream that is not fresh."""
        at = max(now, head.at)
        plan = _Plan(heads, head.size, self._service)
        receipts: list[Receipt | Exception] = []
        for prepared in batch:
            first = plan.position + 1
            try:
                plan.add(prepared)
            except (Conflict, AlreadyAnswered, EventTooLarge) as refusal:
                prepared.append.fate.lost = True
                receipts.append(refusal)
            else:
                prepared.append.fate.lost = False
                receipts.append(Receipt(first, plan.position, at))
        rows = plan.rows
        if not rows.streams:
            return Batch(head, head, rows, receipts), {}
        self._seal_chains(list(plan.chains.values()), rows, timestamp(at))
        frontier = head.frontier.extend(rows.leaves)
        root = frontier.root()
        note = Checkpoint(self.ledger, frontier.size, root).signed(self._log)
        moved = {key: (chain.version + len(chain.items), rows.leaves[chain.rows[-1]].hex()) for key, chain in plan.chains.items()}
        return Batch(head, Head(frontier, root, note, at), rows, receipts), moved

    def close(self) -> None:
        """Lets the helper go."""
        if self._helper is not None:
            self._helper.close()

    def _seal_chains(self, chains: list[Chain], rows: SealedEvents, at: str) -> None:
        """Fills in bodies, signatures and leaves; streams are independent of each other, so two can be sealed at once."""
        sealing = Sealing(self.ledger, at)
        theirs: list[Chain] = []
        if self._helper is not None and len(rows.streams) >= SHARE_FROM_EVENTS:
            chains, theirs = _halves(chains, self._service)
        asked = bool(theirs) and self._helper is not None and self._helper.ask(sealing, theirs)
        for chain in chains:
            rows.place(chain, sealing.chain(chain))
        if asked and self._helper is not None and (sealed := self._helper.answer()) is not None:
            for chain, events in zip(theirs, sealed, strict=True):
                rows.place(chain, events)
        else:
            for chain in theirs:
                rows.place(chain, sealing.chain(chain))


SHARE_FROM_EVENTS: Final = 32
"""Below this, asking the helper costs more than it saves (measured: at 64 in flight it adds a fifth, at 20 it adds nothing)."""


def _halves(chains: list[Chain], service: EventSigner) -> tuple[list[Chain], list[Chain]]:
    """Ours and the helper's: about half the events each. It holds the service key alone."""
    half = sum(len(chain.items) for chain in chains) // 2
    ours: list[Chain] = []
    theirs: list[Chain] = []
    for chain in chains:
        fits = len(chain.items) <= half and all(item.signer is service for item in chain.items)
        (theirs if fits else ours).append(chain)
        half -= len(chain.items) if fits else 0
    return ours, theirs


@dataclass(frozen=True, slots=True)
class Item:
    """One event to be sealed: its facts, and on whose behalf."""

    actor: str
    correlation: str
    causation: str | None
    facts: Facts
    signer: EventSigner


@dataclass(slots=True)
class Chain:
    """The events of one stream in a batch, in order: each is linked to the one before."""

    tenant: str
    stream: str
    version: int
    prev: str
    items: list[Item] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    """Where each stands among the batch's rows."""


SealedEvent = tuple[bytes, bytes, bytes]
"""(body, packed signatures, leaf)"""


@dataclass(frozen=True, slots=True)
class Sealing:
    """What all events of a batch share: the ledger they are of, and the time they are recorded at."""

    ledger: str
    at: str

    def chain(self, chain: Chain) -> list[SealedEvent]:
        """Signs a chain's events, one after another."""
        sealed: list[SealedEvent] = []
        version, prev = chain.version, chain.prev
        for item in chain.items:
            version += 1
            signer = item.signer
            body = body_bytes(
                self.ledger,
                chain.tenant,
                chain.stream,
                version,
                prev,
                uuid7_text(),
                item.actor,
                signer.key_id,
                self.at,
                item.correlation,
                item.causation,
                item.facts,
            )
            signature = signer.sign(signing_input(body))
            leaf = leaf_hash(entry_of_one(body, signer.key_id, signature))
            prev = leaf.hex()
            sealed.append((body, pack_signature(signer.key_id, signature), leaf))
        return sealed


class SealingHelper(Protocol):
    """Seals chains elsewhere, with the service key; whatever it fails to do is done here."""

    def ask(self, sealing: Sealing, chains: list[Chain]) -> bool:
        """Hands chains over; False when it cannot take them."""

    def answer(self) -> list[list[SealedEvent]] | None:
        """What was asked for, in order; None when it did not come."""

    def close(self) -> None:
        """Ends it; everything is sealed here from then on."""


class _Plan:
    """Which appends of a batch go ahead, and at which positions and versions their events will stand."""

    def __init__(self, heads: Mapping[StreamKey, StreamHead], position: int, service: EventSigner) -> None:
        self._heads, self._service = heads, service
        self.position = position
        self.rows = SealedEvents()
        self.chains: dict[StreamKey, Chain] = {}
        self._answered: set[tuple[str, str]] = set()

    def add(self, prepared: Prepared) -> None:
        """Adds all events of an append, or raises and adds none."""
        append = prepared.append
        if append.remember is not None and (append.tenant, append.remember.key) in self._answered:
            raise AlreadyAnswered(append.remember.key)
        if any(fate.lost for fate in append.upon):
            stream, expected = append.writes[0].stream, append.writes[0].expected_version
            raise Conflict(stream, expected, self._version((append.tenant, stream)))
        self._check(append.tenant, append.reads)
        self._check(append.tenant, ((write.stream, write.expected_version) for write in append.writes))
        _check_size(prepared)
        first = self.position + 1
        for write, facts_list in zip(append.writes, prepared.facts, strict=True):
            if facts_list:
                self._extend(append, write.stream, facts_list)
        if append.remember is not None:
            self._answered.add((append.tenant, append.remember.key))
            self.rows.remembered.append((append.tenant, append.remember, first))

    def _version(self, key: StreamKey) -> int:
        chain = self.chains.get(key)
        return chain.version + len(chain.items) if chain is not None else self._heads.get(key, NO_EVENTS)[0]

    def _check(self, tenant: str, expectations: Iterable[tuple[str, int]]) -> None:
        for stream, expected in expectations:
            actual = self._version((tenant, stream))
            if actual != expected:
                raise Conflict(stream, expected, actual)

    def _extend(self, append: Append, stream: str, facts_list: list[Facts]) -> None:
        key = (append.tenant, stream)
        chain = self.chains.get(key)
        if chain is None:
            chain = self.chains[key] = Chain(append.tenant, stream, *self._heads.get(key, NO_EVENTS))
        rows, signer = self.rows, append.signer or self._service
        correlation, causation = str(append.correlation), str(append.causation) if append.causation else None
        version = chain.version + len(chain.items)
        for facts in facts_list:
            version += 1
            self.position += 1
            chain.items.append(Item(append.actor, correlation, causation, facts, signer))
            chain.rows.append(len(rows.streams))
            rows.tenants.append(append.tenant)
            rows.streams.append(stream)
            rows.versions.append(version)
            rows.types.append(facts.event_name)
            if facts.disclosures:
                rows.disclosures.extend((self.position, append.tenant, disclosure) for disclosure in facts.disclosures)


_ENVELOPE_BYTES: Final = 1_400
"""More than everything in an entry that is not the event's data: room for the longest ids and one signature."""


def _check_size(prepared: Prepared) -> None:
    for facts_list in prepared.facts:
        for facts in facts_list:
            size_bytes = (len(facts.data) + sum(map(len, facts.digests)) + _ENVELOPE_BYTES) * 4 // 3
            if size_bytes > MAX_ENTRY_BYTES:
                raise EventTooLarge(facts.event_name, size_bytes)
