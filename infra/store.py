"""What the ledger asks of a store: keep sealed batches in order, and read them back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.ledger import StreamKey
from infra.anchors import Anchors
from infra.sealing import Batch, Head, StreamHead


class HeadMoved(Exception):
    """Another writer appended first: nothing of the batch was written."""


class StreamTaken(Exception):
    """A (tenant, stream, version) or an idempotency key in the batch exists already: nothing of it was written."""


class ValuesRefused(Exception):
    """Personal values of a batch cannot be kept: at which positions, and why. Nothing of the batch was written."""

    def __init__(self, refused: Mapping[int, Exception]) -> None:
        super().__init__(f"the personal values at {sorted(refused)} cannot be kept")
        self.refused = refused


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event's exact bytes and where they stand."""

    position: int
    tenant: str
    stream: str
    version: int
    type: str
    body: bytes
    signatures: bytes
    leaf: bytes


class Store(Anchors, Protocol):
    """Kept by PostgreSQL, or by memory in unit tests; both pass the same tests."""

    async def head(self) -> Head | None: ...

    async def commit(self, batch: Batch) -> None:
        """All of the batch, durably, or an exception: HeadMoved, StreamTaken, ValuesRefused or LedgerUnavailable."""

    async def stream_heads(self, keys: Iterable[StreamKey]) -> dict[StreamKey, StreamHead]: ...

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0, limit: int | None = None) -> list[StoredEvent]: ...

    async def read(self, after_position: int, limit: int) -> list[StoredEvent]: ...

    async def read_types(self, types: Collection[str], after_position: int, up_to: int) -> list[StoredEvent]:
        """Those of some types, in order of position."""

    async def remembered(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        """(digest of the request, answer) of an idempotency key."""

    async def position_at(self, moment: datetime) -> int:
        """The last position recorded at or before a moment; 0 when there is none."""

    async def note(self, size: int | None = None) -> bytes | None:
        """The signed checkpoint of exactly `size` events, or the latest."""

    def appended(self) -> AsyncIterator[int]:
        """Yields the log's size now and whenever it may have grown; survives the loss of its connection."""

    async def close(self) -> None: ...
