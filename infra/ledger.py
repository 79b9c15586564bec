"""The ledger: commands that come at the same time share one durable, signed commit, and each learns its own fate.

One task writes. While PostgreSQL makes one batch durable, the next is sealed and signed on top of it; if the first
does not make it, the next is sealed again. A command is acknowledged only when it is durable and covered by a
signed checkpoint.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

from domain.kernel import Event, Recorded
from domain.keys import KEY_STREAM, SYSTEM_TENANT, ring_of
from domain.ledger import AlreadyAnswered, Append, Conflict, LedgerUnavailable, Receipt, StreamKey, StreamWrite
from infra.envelope import recorded
from infra.measures import Appends, Reading
from infra.sealing import NO_EVENTS, Batch, Head, Prepared, Sealer, Signers, StreamHead
from infra.store import HeadMoved, Store, StoredEvent, StreamTaken, ValuesRefused

__all__ = ["AlreadyAnswered", "Append", "Conflict", "Ledger", "LedgerUnavailable", "Receipt", "StreamWrite"]

MAX_QUEUED_APPENDS: Final = 20_000
KNOWN_STREAMS: Final = 100_000
MAX_TRIES: Final = 3
SLICE_EVENTS: Final = 128
"""Reading what is stored holds the event loop up: after this many, others have their turn."""
KEYS: Final = (SYSTEM_TENANT, KEY_STREAM)


class StreamHeads:
    """The latest version and leaf of streams lately used; what it does not hold is looked up."""

    def __init__(self) -> None:
        self._heads: OrderedDict[StreamKey, StreamHead] = OrderedDict()

    def get(self, key: StreamKey) -> StreamHead | None:
        return self._heads.get(key)

    def learn(self, key: StreamKey, head: StreamHead) -> None:
        """From a read: never sets back what the writer knows better."""
        known = self._heads.get(key)
        if known is None or known[0] < head[0]:
            self._heads[key] = head

    def move(self, moved: dict[StreamKey, StreamHead]) -> None:
        heads = self._heads
        for key, head in moved.items():
            heads[key] = head
            heads.move_to_end(key)

    def trim(self) -> None:
        """Forgets the longest unused; only between batches, for a sealed batch stands on what it was told."""
        while len(self._heads) > KNOWN_STREAMS:
            self._heads.popitem(last=False)

    def clear(self) -> None:
        self._heads.clear()

    def __contains__(self, key: StreamKey) -> bool:
        return key in self._heads

    def view(self) -> OrderedDict[StreamKey, StreamHead]:
        return self._heads


class _Waiting:
    """An append and whoever waits for it."""

    __slots__ = ("future", "prepared", "since", "tries")

    def __init__(self, prepared: Prepared, future: asyncio.Future[Receipt]) -> None:
        self.prepared, self.future, self.tries = prepared, future, 0
        self.since = perf_counter()

    def settle(self, outcome: Receipt | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self.prepared.append.fate.lost = True
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Ledger:
    """Append and read events. Open it with `infra.opening.open_ledger`, or on a store of your own."""

    def __init__(self, store: Store, sealer: Sealer, head: Head, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.store, self.sealer, self._clock = store, sealer, clock
        self._durable = head
        self._tip = head
        self._streams = StreamHeads()
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self.refusal: LedgerUnavailable | None = None
        """Why nothing is written any more, if so: somebody showed that this is not the ledger that was."""
        self._writer = asyncio.create_task(self._write(), name="ledger-writer")
        self.on_commit: list[Callable[[int], None]] = []
        """Called with the new size after each durable commit of this process."""
        self.on_signers: list[Callable[[Signers], None]] = []
        """Called when other keys begin to sign."""
        self._keys_version = 0
        self.measured = Appends()

    @property
    def name(self) -> str:
        """The ledger's identity, signed into every event and checkpoint."""
        return self.sealer.ledger

    @property
    def head(self) -> Head:
        """Where the log ends as far as this process knows: durable, and signed."""
        return self._durable

    # -- writing

    async def append(self, append: Append) -> Receipt:
        """`enqueue`, and wait for how it ended."""
        return await self.enqueue(append)

    def enqueue(self, append: Append) -> asyncio.Future[Receipt]:
        """Takes a place in the order of commits at once; the future tells how it ended."""
        if self._closing:
            raise LedgerUnavailable("ledger_closing", "The ledger is shutting down.", "Try again in a moment.")
        if self.refusal is not None:
            raise LedgerUnavailable(self.refusal.code, self.refusal.message, self.refusal.remedy)
        if len(self._queue) >= MAX_QUEUED_APPENDS:
            raise LedgerUnavailable("ledger_overloaded", f"{MAX_QUEUED_APPENDS} commands wait already.", "Try again in a moment.")
        waiting = _Waiting(Prepared(append), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        return waiting.future

    def refuse(self, because: LedgerUnavailable) -> None:
        """From now on every append is refused, for the first reason given; what is on its way already is finished."""
        self.refusal = self.refusal or because

    async def _write(self) -> None:
        """The only writer of this process: seals a batch while the one before it is being made durable."""
        flying: asyncio.Task[list[_Waiting] | None] | None = None
        while True:
            if not self._queue:
                self._wake.clear()
                if flying is not None:
                    self._queue.extendleft(reversed(await flying or ()))
                    flying = None
                elif self._closing:
                    return
                else:
                    await self._wake.wait()
                continue
            group = self._take()
            await self._look_up(group)
            batch = self._seal(group)
            if flying is not None and (again := await flying) is not None:
                # What this batch was sealed upon did not happen: seal it again, after what has to be tried again.
                group = again + group
                await self._look_up(group)
                batch = self._seal(group)
            if self._queue and batch.signers is self.sealer.signers:
                flying = asyncio.create_task(self._commit(batch, group))
            else:
                # Nothing to seal meanwhile: going round the event loop once more would only cost time. Nor can anything be
                # sealed while it is not known who signs it.
                flying = None
                self._queue.extendleft(reversed(await self._commit(batch, group) or ()))

    def _take(self) -> list[_Waiting]:
        """The next to be sealed. All who wait, up to a bound: a commit costs far more than one more event in it."""
        group: list[_Waiting] = []
        events = 0
        most = self.sealer.batch_events
        while self._queue and events < most:
            if group and self._queue[0].prepared.rotates:
                break
            waiting = self._queue.popleft()
            if waiting.future.cancelled():
                waiting.prepared.append.fate.lost = True
                continue
            group.append(waiting)
            if waiting.prepared.rotates:
                break
            events += sum(map(len, waiting.prepared.facts))
        return group

    async def _look_up(self, group: list[_Waiting]) -> None:
        """Learns the heads of streams it does not know, and which retried requests were answered meanwhile."""
        unknown: set[StreamKey] = set()
        for waiting in group:
            append = waiting.prepared.append
            unknown.update(append.key(write) for write in append.writes if not write.fresh)
            unknown.update(key for key, _ in append.reads)
        unknown = {key for key in unknown if key not in self._streams}
        try:
            if unknown:
                known = await self.store.stream_heads(unknown)
                for key in unknown:  # that a stream has no events is worth knowing as well
                    self._streams.learn(key, known.get(key, NO_EVENTS))
            for waiting in [waiting for waiting in group if waiting.tries]:
                append = waiting.prepared.append
                if append.remember and await self.store.remembered(append.tenant, append.remember.key):
                    waiting.settle(AlreadyAnswered(append.remember.key))
                    group.remove(waiting)
        except LedgerUnavailable as error:
            self._fail(group, error)

    def _fail(self, group: list[_Waiting], error: Exception) -> None:
        self.measured.failed += len(group)
        for waiting in group:
            waiting.settle(error)
        group.clear()

    def _seal(self, group: list[_Waiting]) -> Batch:
        try:
            return self._sealed(group)
        except Exception as error:  # noqa: BLE001 - the one writer must outlive whatever a batch holds
            self._fail(group, error)
            return self._sealed(group)

    def _sealed(self, group: list[_Waiting]) -> Batch:
        batch, moved = self.sealer.seal(self._tip, self._streams.view(), [waiting.prepared for waiting in group], self._clock())
        self._streams.move(moved)
        self._tip = batch.after
        return batch

    async def _commit(self, batch: Batch, group: list[_Waiting]) -> list[_Waiting] | None:
        """Makes a batch durable and tells everybody: None. Otherwise those who must try again: nothing was written."""
        began = perf_counter()
        try:
            if batch.after.size > batch.before.size:
                await self.store.commit(batch)
        except (HeadMoved, StreamTaken) as surprise:
            return await self._start_over(group, surprise)
        except ValuesRefused as refusal:
            self._refuse_values(batch, group, refusal)
            return await self._start_over(group, refusal)
        except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must hear of it
            self._forget()
            self._fail(group, error)
            return []
        self._durable = batch.after
        if batch.signers is not self.sealer.signers:
            self._sign_with(batch.signers)
        self._streams.trim()
        if batch.after.size > batch.before.size:
            since = [waiting.since for waiting in group if not waiting.prepared.append.fate.lost]
            self.measured.committed(batch.after.size - batch.before.size, began, perf_counter(), since)
        for waiting, outcome in zip(group, batch.receipts, strict=True):
            waiting.settle(outcome)
        for tell in self.on_commit:
            tell(batch.after.size)
        return None

    async def _start_over(self, group: list[_Waiting], surprise: Exception) -> list[_Waiting]:
        """Another process wrote: learn where the log ends now, and who of this group may try again."""
        try:
            head = await self.store.head()
            await self._follow_keys()
        except LedgerUnavailable as error:
            self._forget()
            self._fail(group, error)
            return []
        assert head is not None
        self._durable = head
        self._forget()
        for waiting in group:
            waiting.tries += isinstance(surprise, StreamTaken)
            if waiting.tries > MAX_TRIES or waiting.future.cancelled():
                waiting.settle(LedgerUnavailable("ledger_contended", "Others wrote first, again and again.", "Try again in a moment."))
        return [waiting for waiting in group if not waiting.future.done()]

    def _refuse_values(self, batch: Batch, group: list[_Waiting], refusal: ValuesRefused) -> None:
        """Those whose personal values cannot be kept hear of it; the others of the batch try again without them."""
        for waiting, outcome in zip(group, batch.receipts, strict=True):
            if not isinstance(outcome, Receipt):
                continue
            positions = range(outcome.first_position, outcome.last_position + 1)
            because = next((refusal.refused[position] for position in positions if position in refusal.refused), None)
            if because is not None:
                self.measured.failed += 1
                waiting.settle(because)

    async def _follow_keys(self) -> None:
        """Another process may have rotated the keys that sign: from there on only the new ones do."""
        keys = (await self.store.stream_heads([KEYS])).get(KEYS, NO_EVENTS)[0]
        if keys == self._keys_version:
            return
        ring = ring_of(known.event for known in await self.read_stream(*KEYS))
        try:
            self._sign_with(self.sealer.signers_of(ring))
        except LookupError as error:
            message = f"The ledger's keys were rotated elsewhere. {error.args[0]}."
            raise LedgerUnavailable("signing_key_missing", message, "Put the new keys where this server's keys are.") from error
        self._keys_version = keys

    def _sign_with(self, signers: Signers) -> None:
        self.sealer.sign_with(signers)
        for tell in self.on_signers:
            tell(signers)

    def _forget(self) -> None:
        self._tip = self._durable
        self._streams.clear()

    # -- reading

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0) -> list[Recorded[Event]]:
        """A stream's events in order of version."""
        stored = await self.store.read_stream(tenant, stream, after_version)
        if stored:
            self._streams.learn((tenant, stream), (stored[-1].version, stored[-1].leaf.hex()))
        events = [_as_signed(event) for event in stored]
        if [event.version for event in events] != list(range(after_version + 1, after_version + 1 + len(events))):
            raise _tampered(events[0].position, f"the versions of {stream} have a gap after it")
        return events

    async def read_stream_page(self, tenant: str, stream: str, after_version: int, limit: int) -> list[Recorded[Event]]:
        """So many of a stream's events at most, for those who walk through long ones."""
        return [_as_signed(event) for event in await self.store.read_stream(tenant, stream, after_version, limit)]

    async def remembered(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        return await self.store.remembered(tenant, key)

    async def read(self, after_position: int = 0, limit: int = 1_000) -> list[Recorded[Event]]:
        """Events in order of position."""
        stored = await self.store.read(after_position, limit)
        events: list[Recorded[Event]] = []
        for start in range(0, len(stored), SLICE_EVENTS):
            if start:
                await asyncio.sleep(0)
            events += [_as_signed(event) for event in stored[start : start + SLICE_EVENTS]]
        return events

    async def read_types(self, types: Collection[str], after_position: int, up_to: int) -> list[Recorded[Event]]:
        """The events of some types among those up to a position, in order."""
        return [_as_signed(event) for event in await self.store.read_types(types, after_position, up_to)]

    async def entries(self, after_position: int, limit: int) -> list[StoredEvent]:
        """The exact bytes, for those who verify."""
        stored = await self.store.read(after_position, limit)
        for event in stored:
            _as_signed(event)
        return stored

    def readings(self) -> Iterable[Reading]:
        """What it has done, and how it stands, for a scraper."""
        yield from self.measured.readings()
        yield "aureus_append_queue", (), len(self._queue)
        yield "aureus_ledger_refusing", (), int(self.refusal is not None)

    def appended(self) -> AsyncIterator[int]:
        return self.store.appended()

    async def refresh(self) -> Head:
        """Where the log ends now, other writers included."""
        head = await self.store.head()
        assert head is not None
        return head

    async def close(self) -> None:
        """Finishes what was taken on, then closes the store."""
        self._closing = True
        self._wake.set()
        await self._writer
        self.sealer.close()
        await self.store.close()


def _as_signed(stored: StoredEvent) -> Recorded[Event]:
    """The event of a row whose columns say what its signed body says: nobody decides on a row that was moved."""
    event = recorded(stored.position, stored.body, stored.leaf)
    if (event.tenant, event.stream, event.version, event.event.event_name) != (stored.tenant, stored.stream, stored.version, stored.type):
        raise _tampered(stored.position, f"its row says {stored.stream} version {stored.version}, its signed body another place")
    return event


def _tampered(position: int, found: str) -> LedgerUnavailable:
    remedy = "Stop writing, verify the ledger, and restore the row from a backup."
    return LedgerUnavailable("ledger_tampered", f"The ledger was changed at position {position}: {found}.", remedy)
