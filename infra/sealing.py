"""Sealing: what a command wants to write becomes positions, signed bytes, leaves and a checkpoint.

Pure of I/O: it works on a head (where the log ends) and the stream heads it is told, and yields the next of both. A
command whose expectations do not hold fails alone; the rest of the batch is sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from domain.kernel import Event, timestamp
from domain.keys import KeyRing, KeyRotated
from domain.ledger import (
    MAX_ENTRY_BYTES,
    AlreadyAnswered,
    Append,
    Conflict,
    EventSigner,
    EventTooLarge,
    LedgerUnavailable,
    Receipt,
    Remember,
    StreamKey,
    StreamWrite,
)
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
    signers: Signers
    """Who signs from here on; others than before, when the batch rotates one of the ledger's own keys."""


@dataclass(frozen=True, slots=True)
class Signers:
    """The ledger's own keys: the one for checkpoints, and the one for events."""

    log: EventSigner
    service: EventSigner

    def after(self, event: Event, find: FindSigner) -> Signers:
        """Who signs after an event: somebody else once one of the two was rotated. Raises LookupError when its key is not here."""
        if not isinstance(event, KeyRotated):
            return self
        if event.old_key_id == self.log.key_id:
            return Signers(find(event.key_id), self.service)
        return Signers(self.log, find(event.key_id)) if event.old_key_id == self.service.key_id else self


FindSigner = Callable[[str], EventSigner]
"""The signer with a key id; raises LookupError, with a sentence, when its key is not here."""


def _no_other(key_id: str) -> EventSigner:
    raise LookupError(f"The key {key_id[:16]} is not here")


class Prepared:
    """An append whose data has been checked and encoded, off the writer's critical path; kept for re-sealing."""

    __slots__ = ("append", "facts", "rotates")

    def __init__(self, append: Append) -> None:
        require_plain("tenant", append.tenant)
        require_plain("actor", append.actor)
        for write in append.writes:
            require_plain("stream", write.stream)
            if write.tenant is not None:
                require_plain("tenant", write.tenant)
        self.append = append
        self.rotates = any(isinstance(event, KeyRotated) for write in append.writes for event in write.events)
        """Whether it changes who signs: then nothing else is sealed beside it."""
        self.facts: list[list[Facts]] = [[facts_of(event) for event in write.events] for write in append.writes]


class Sealer:
    """Seals batches for one ledger with its log key and its service key; a helper on another core takes a share."""

    def __init__(self, ledger: str, signers: Signers, help_with: HelpWith | None = None, find: FindSigner = _no_other) -> None:
        self.ledger, self.signers, self._help_with, self._find = ledger, signers, help_with, find
        self._helper = help_with(signers.service) if help_with is not None else None

    @property
    def batch_events(self) -> int:
        """How many events to seal at once: few with a key that signs slowly somewhere else, for nothing else happens meanwhile."""
        return MAX_BATCH_EVENTS if self._help_with is None or self._helper is not None else MAX_BATCH_EVENTS_FROM_A_TOKEN

    def sign_with(self, signers: Signers) -> None:
        """From the next batch on."""
        if signers.service.key_id != self.signers.service.key_id and self._help_with is not None:
            self.close()
            self._helper = self._help_with(signers.service)
        self.signers = signers

    def signers_of(self, ring: KeyRing) -> Signers:
        """Who signs now, as the ledger's own key events have it. Raises LookupError when one of those keys is not here."""
        log, service = (ring.active(role)[-1].key_id for role in ("log", "service"))
        here = self.signers
        return Signers(
            here.log if here.log.key_id == log else self._find(log),
            here.service if here.service.key_id == service else self._find(service),
        )

    def seal(
        self, head: Head, heads: Mapping[StreamKey, StreamHead], batch: Sequence[Prepared], now: datetime
    ) -> tuple[Batch, dict[StreamKey, StreamHead]]:
        """The sealed batch and the stream heads it moves. `heads` must know every stream that is not fresh."""
        at = max(now, head.at)
        plan = _Plan(heads, head.size, self.signers, self._find)
        receipts: list[Receipt | Exception] = []
        for prepared in batch:
            first = plan.position + 1
            try:
                plan.add(prepared)
            except (Conflict, AlreadyAnswered, EventTooLarge, LedgerUnavailable) as refusal:
                prepared.append.fate.lost = True
                receipts.append(refusal)
            else:
                prepared.append.fate.lost = False
                receipts.append(Receipt(first, plan.position, at))
        rows = plan.rows
        if not rows.streams:
            return Batch(head, head, rows, receipts, self.signers), {}
        self._seal_chains(list(plan.chains.values()), rows, timestamp(at))
        frontier = head.frontier.extend(rows.leaves)
        root = frontier.root()
        note = Checkpoint(self.ledger, frontier.size, root).signed(plan.signers.log)
        moved = {key: (chain.version + len(chain.items), rows.leaves[chain.rows[-1]].hex()) for key, chain in plan.chains.items()}
        return Batch(head, Head(frontier, root, note, at), rows, receipts, plan.signers), moved

    def close(self) -> None:
        """Lets the helper go."""
        if self._helper is not None:
            self._helper.close()

    def _seal_chains(self, chains: list[Chain], rows: SealedEvents, at: str) -> None:
        """Fills in bodies, signatures and leaves; streams are independent of each other, so two can be sealed at once."""
        sealing = Sealing(self.ledger, at)
        theirs: list[Chain] = []
        if self._helper is not None and len(rows.streams) >= SHARE_FROM_EVENTS:
            chains, theirs = _halves(chains, self.signers.service)
        asked = bool(theirs) and self._helper is not None and self._helper.ask(sealing, theirs)
        for chain in chains:
            rows.place(chain, sealing.chain(chain))
        if asked and self._helper is not None and (sealed := self._helper.answer()) is not None:
            for chain, events in zip(theirs, sealed, strict=True):
                rows.place(chain, events)
        else:
            for chain in theirs:
                rows.place(chain, sealing.chain(chain))


MAX_BATCH_EVENTS: Final = 1_000
MAX_BATCH_EVENTS_FROM_A_TOKEN: Final = 50
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


HelpWith = Callable[[EventSigner], "SealingHelper | None"]
"""A helper that signs events with a key; None for a key that cannot leave where it is."""


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

    def __init__(self, heads: Mapping[StreamKey, StreamHead], position: int, signers: Signers, find: FindSigner) -> None:
        self._heads, self._find = heads, find
        self.signers = signers
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
            write = append.writes[0]
            raise Conflict(write.stream, write.expected_version, self._version(append.key(write)))
        self._check(append.reads)
        self._check((append.key(write), write.expected_version) for write in append.writes)
        _check_size(prepared)
        if prepared.rotates:
            self._require_signers(append)
        first = self.position + 1
        for write, facts_list in zip(append.writes, prepared.facts, strict=True):
            if facts_list:
                self._extend(append, write, facts_list)
        if append.remember is not None:
            self._answered.add((append.tenant, append.remember.key))
            self.rows.remembered.append((append.tenant, append.remember, first))

    def _version(self, key: StreamKey) -> int:
        chain = self.chains.get(key)
        return chain.version + len(chain.items) if chain is not None else self._heads.get(key, NO_EVENTS)[0]

    def _check(self, expectations: Iterable[tuple[StreamKey, int]]) -> None:
        for key, expected in expectations:
            actual = self._version(key)
            if actual != expected:
                raise Conflict(key[1], expected, actual)

    def _require_signers(self, append: Append) -> None:
        """Before anything of it is planned: whoever signs after this append must be able to, here."""
        signers = self.signers
        try:
            for write in append.writes:
                for event in write.events:
                    signers = signers.after(event, self._find)
        except LookupError as error:
            remedy = "Put the new key where the server's keys are, then ask again."
            raise LedgerUnavailable("signing_key_missing", f"{error.args[0]}.", remedy) from error

    def _extend(self, append: Append, write: StreamWrite, facts_list: list[Facts]) -> None:
        key = tenant, stream = append.key(write)
        chain = self.chains.get(key)
        if chain is None:
            chain = self.chains[key] = Chain(tenant, stream, *self._heads.get(key, NO_EVENTS))
        rows = self.rows
        correlation, causation = str(append.correlation), str(append.causation) if append.causation else None
        version = chain.version + len(chain.items)
        for event, facts in zip(write.events, facts_list, strict=True):
            version += 1
            self.position += 1
            chain.items.append(Item(append.actor, correlation, causation, facts, append.signer or self.signers.service))
            if type(event) is KeyRotated:
                self.signers = self.signers.after(event, self._find)
            chain.rows.append(len(rows.streams))
            rows.tenants.append(tenant)
            rows.streams.append(stream)
            rows.versions.append(version)
            rows.types.append(facts.event_name)
            if facts.disclosures:
                rows.disclosures.extend((self.position, tenant, disclosure) for disclosure in facts.disclosures)


_ENVELOPE_BYTES: Final = 1_400
"""More than everything in an entry that is not the event's data: room for the longest ids and one signature."""


def _check_size(prepared: Prepared) -> None:
    for facts_list in prepared.facts:
        for facts in facts_list:
            size_bytes = (len(facts.data) + sum(map(len, facts.digests)) + _ENVELOPE_BYTES) * 4 // 3
            if size_bytes > MAX_ENTRY_BYTES:
                raise EventTooLarge(facts.event_name, size_bytes)
