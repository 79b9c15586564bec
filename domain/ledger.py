"""The ledger as everybody else knows it: what can be written to it, what it answers, and why it may say no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from domain.kernel import Event, Recorded

MAX_ENTRY_BYTES: Final = 65_535
StreamKey = tuple[str, str]
"""(tenant, stream)"""


class EventSigner(Protocol):
    """Signs events with one Ed25519 key."""

    @property
    def key_id(self) -> str: ...
    @property
    def public(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...


class Conflict(Exception):
    """A stream is not at the version the decision was made on."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"{stream} is at version {actual}, not {expected}")
        self.stream, self.expected, self.actual = stream, expected, actual


class AlreadyAnswered(Exception):
    """A request with this idempotency key is in the ledger already: its answer is remembered there."""


class EventTooLarge(ValueError):
    """An event whose entry would pass 65,535 bytes: large payloads go to the blob store, by hash."""

    def __init__(self, event_name: str, size_bytes: int) -> None:
        super().__init__(f"{event_name} would take {size_bytes} bytes in the ledger, the limit is {MAX_ENTRY_BYTES}.")
        self.event_name, self.size_bytes = event_name, size_bytes
        self.remedy = "Store the large part as an artifact and refer to it by its SHA-256."


class LedgerUnavailable(Exception):
    """The store cannot take or give events now. `code` is stable; nothing was acknowledged."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.code, self.message, self.remedy = code, message, remedy


@dataclass(frozen=True, slots=True)
class StreamWrite:
    """Events for one stream that must stand at `expected_version` (0: it has none yet).

    `fresh` promises that the stream's name was never used, so nobody need look it up. `tenant` is whose stream it is when
    it is not that of whoever asked: the keys belong to the ledger itself.
    """

    stream: str
    expected_version: int
    events: tuple[Event, ...]
    fresh: bool = False
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Remember:
    """A request's idempotency key: `answer(first_position)` is stored with it, in the same commit."""

    key: str
    digest: bytes
    answer: Callable[[int], bytes]


@dataclass(slots=True, eq=False)
class Fate:
    """Whether what an append hoped to write came to nothing, for those that were decided upon it."""

    lost: bool = False


@dataclass(frozen=True, slots=True)
class Append:
    """What one command writes, all of it or nothing. `reads` are versions it relied on without writing there.

    `upon` are the fates of earlier appends that it was decided upon before they were durable. A version number alone
    would not do: another process may have written something else under the number that was hoped for.
    """

    tenant: str
    actor: str
    writes: tuple[StreamWrite, ...]
    correlation: UUID
    causation: UUID | None = None
    reads: tuple[tuple[StreamKey, int], ...] = ()
    remember: Remember | None = None
    signer: EventSigner | None = None
    upon: tuple[Fate, ...] = ()
    fate: Fate = field(default_factory=Fate)

    def key(self, write: StreamWrite) -> StreamKey:
        """Whose stream, and which, a write goes to."""
        return (write.tenant or self.tenant, write.stream)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an append came to stand; it is durable, and covered by a signed checkpoint."""

    first_position: int
    last_position: int
    at: datetime


class LedgerPort(Protocol):
    """The ledger as the command path needs it."""

    @property
    def name(self) -> str:
        """Its identity, which all that is signed for it names."""

    def enqueue(self, append: Append) -> Awaitable[Receipt]:
        """Takes a place in the order of commits at once; the answer comes when it is durable.

        Raises EventTooLarge or ProfileError at once; when awaited Conflict, AlreadyAnswered or LedgerUnavailable, or Refused: it
        holds personal values of somebody who was erased.
        """

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0) -> list[Recorded[Any]]: ...

    async def remembered(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        """(digest of the request, its answer) of an idempotency key."""
