"""The ledger's home in unit tests: lists, with the same promises as PostgreSQL but for surviving the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from datetime import datetime

from domain.ledger import StreamKey
from infra.anchors import MemoryAnchors
from infra.sealing import Batch, Head, StreamHead
from infra.store import HeadMoved, StoredEvent, StreamTaken


class MemoryStore(MemoryAnchors):
    """Implements `infra.store.Store`."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[StoredEvent] = []
        self._ats: list[datetime] = []
        self._head: Head | None = None
        self._notes: dict[int, bytes] = {}
        self._streams: dict[StreamKey, list[StoredEvent]] = {}
        self._remembered: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self._grown = asyncio.Condition()

    async def create_head(self, head: Head) -> None:
        self._head = head

    async def head(self) -> Head | None:
        return self._head

    async def commit(self, batch: Batch) -> None:
        if self._head is None or (self._head.size, self._head.root) != (batch.before.size, batch.before.root):
            raise HeadMoved
        rows = batch.events
        fresh = [
            StoredEvent(batch.before.size + index + 1, *columns)
            for index, columns in enumerate(
                zip(rows.tenants, rows.streams, rows.versions, rows.types, rows.bodies, rows.signatures, rows.leaves, strict=True)
            )
        ]
        if any(len(self._streams.get((event.tenant, event.stream), ())) >= event.version for event in fresh):
            raise StreamTaken
        if any((tenant, remember.key) in self._remembered for tenant, remember, _ in rows.remembered):
            raise StreamTaken
        for event in fresh:
            self.events.append(event)
            self._ats.append(batch.after.at)
            self._streams.setdefault((event.tenant, event.stream), []).append(event)
        for tenant, remember, first in rows.remembered:
            self._remembered[tenant, remember.key] = (remember.digest, remember.answer(first))
        self._head = batch.after
        self._notes[batch.after.size] = batch.after.note
        async with self._grown:
            self._grown.notify_all()

    async def stream_heads(self, keys: Iterable[StreamKey]) -> dict[StreamKey, StreamHead]:
        found = {key: self._streams[key][-1] for key in keys if key in self._streams}
        return {key: (event.version, event.leaf.hex()) for key, event in found.items()}

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0, limit: int | None = None) -> list[StoredEvent]:
        return self._streams.get((tenant, stream), [])[after_version:][:limit]

    async def read(self, after_position: int, limit: int) -> list[StoredEvent]:
        return self.events[after_position : after_position + limit]

    async def read_types(self, types: Collection[str], after_position: int, up_to: int) -> list[StoredEvent]:
        return [event for event in self.events[after_position:up_to] if event.type in types]

    async def remembered(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        return self._remembered.get((tenant, key))

    async def position_at(self, moment: datetime) -> int:
        return sum(at <= moment for at in self._ats)

    async def note(self, size: int | None = None) -> bytes | None:
        if size is not None:
            return self._notes.get(size)
        return self._head.note if self._head and self._head.size else None

    async def appended(self) -> AsyncIterator[int]:
        while True:
            yield len(self.events)
            async with self._grown:
                await self._grown.wait()

    async def close(self) -> None:
        """Nothing to let go of."""
