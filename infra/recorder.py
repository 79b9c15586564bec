"""The ledger behind the `eventsourcing` library: its applications run on signed, proved, gapless events unchanged.

    class School(Application): ...
    School(env={"PERSISTENCE_MODULE": "infra.recorder", "DATABASE_URL": "postgresql://..."})

What such an application stores is kept as `eventsourcing.event_stored`, so every promise of the ledger holds for it.
What Aureus itself records can be read and followed with the library, but is written by commands alone: there is no
second door. The ledger is asynchronous and the library is not, so a recorder keeps an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import orjson
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    InfrastructureFactory,
    IntegrityError,
    ListenNotifySubscription,
    Mapper,
    Notification,
    NotSupportedError,
    OperationalError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    TrackingRecorder,
)
from eventsourcing.popo import POPOAggregateRecorder
from eventsourcing.utils import Environment, EnvType
from pydantic import ValidationError

from domain.foreign import EventStored
from domain.kernel import EVENTS, Event, JsonObject, Recorded
from domain.ledger import Append, Conflict, EventTooLarge, LedgerUnavailable, StreamWrite
from domain.values import uuid7
from infra.canonical import canonical
from infra.embedded import EmbeddedPostgres
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.pkcs11_keys import open_keystore
from infra.settings import Settings
from infra.store import StoredEvent as LedgerRow
from infra.tasks import ended

CATEGORY: Final = "eventsourcing"
ACTOR: Final = "svc-eventsourcing"
_PAGE: Final = 500
_KNOWN_ORIGINATORS: Final = 100_000
_RECONNECT_SECONDS: Final = 0.5
_FOREIGN: Final = EventStored.event_name

T = TypeVar("T")


@dataclass(frozen=True)
class LedgerEvent:
    """An event of Aureus as the library sees it: its stream is the originator."""

    originator_id: str
    originator_version: int
    event: Event

    @classmethod
    def of(cls, recorded: Recorded[Event]) -> LedgerEvent:
        return cls(recorded.stream, recorded.version, recorded.event)


class LedgerMapper(Mapper[Any]):
    """Maps events of Aureus by their stable names, upcast to today's shape, and every other event as the library does."""

    def to_stored_event(self, domain_event: DomainEventProtocol[Any]) -> StoredEvent:
        if not isinstance(domain_event, LedgerEvent):
            return super().to_stored_event(domain_event)
        kind = type(domain_event.event)
        state = _native_state(kind.schema_version, domain_event.event.told())
        return StoredEvent(domain_event.originator_id, domain_event.originator_version, kind.event_name, state)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[Any]:
        if EVENTS.find(stored_event.topic) is None:
            return super().to_domain_event(stored_event)
        told = orjson.loads(stored_event.state)
        event = EVENTS.load(stored_event.topic, told["schema"], told["data"])
        found = LedgerEvent(str(stored_event.originator_id), stored_event.originator_version, event)
        return cast("DomainEventProtocol[Any]", found)


def _native_state(schema: int, data: JsonObject) -> bytes:
    return canonical({"schema": schema, "data": data})


def _stored(row: LedgerRow) -> StoredEvent:
    """The library's view of a row of the ledger."""
    body = orjson.loads(row.body)
    data = body["data"]
    if row.type != _FOREIGN:
        return StoredEvent(row.stream, row.version, row.type, _native_state(body["schema"], data))
    stored = EVENTS.load(row.type, body["schema"], data)
    assert isinstance(stored, EventStored)
    originator = UUID(stored.originator_id) if stored.originator_kind == "uuid" else stored.originator_id
    return StoredEvent(originator, stored.originator_version, stored.topic, base64.b64decode(stored.state))


def _kept(stored: StoredEvent) -> EventStored:
    """How the ledger keeps an event of the library's; raises the library's errors on what it cannot keep."""
    if EVENTS.find(stored.topic) is not None:
        raise ProgrammingError(f"topic: {stored.topic} is an event of Aureus, which only its commands record; send the command instead.")
    originator = str(stored.originator_id)
    is_uuid = isinstance(stored.originator_id, UUID)
    if not is_uuid and not (originator.isascii() and originator.isprintable() and not set(originator) & set(':"\\')):
        raise DataError(f"originator_id: {originator!r} is not printable ASCII without colons, quotes and backslashes; name it so.")
    try:
        return EventStored(
            originator_id=originator,
            originator_kind="uuid" if is_uuid else "text",
            originator_version=stored.originator_version,
            topic=stored.topic,
            state=base64.b64encode(stored.state).decode(),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{first['loc'][0]}: {first['msg']} (event of topic {stored.topic!r})") from error


@contextmanager
def _library_errors() -> Iterator[None]:
    """What the ledger says, in the library's words."""
    try:
        yield
    except Conflict as conflict:
        raise IntegrityError(
            f"originator {conflict.stream.partition(':')[2]}: other events stand there already, or versions are left out; "
            f"the ledger holds {conflict.actual} of its events and {conflict.expected} were expected."
        ) from conflict
    except EventTooLarge as large:
        raise DataError(f"{large} {large.remedy}") from large
    except ValueError as unfit:
        raise DataError(str(unfit)) from unfit
    except LedgerUnavailable as unavailable:
        raise OperationalError(str(unavailable)) from unavailable


class _Loop:
    """An event loop in a thread of its own, for callers that have none."""

    def __init__(self) -> None:
        self._closing = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ledger-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to; OperationalError when the loop is closed before it is done."""
        with self._closing:
            if self._closed:
                work.close()
                raise OperationalError("The recorder is closed.")
            waited = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waited.result()
        except CancelledError:
            raise OperationalError("The recorder was closed.") from None

    def close(self) -> None:
        """Ends the thread. Whoever still waits is told: the loop's end would leave a caller of another thread waiting for ever."""
        with self._closing:
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        await ended(*(asyncio.all_tasks() - {cast("asyncio.Task[None]", asyncio.current_task())}))


class LedgerRecorder(ApplicationRecorder):
    """A tenant's events as an application sequence.

    A notification's id is the event's position after the ledger's founding (the keys, in its first commit), so ids start
    at 1, never change, and rise in the order of commits; where several tenants share a ledger, each sees gaps where the
    others' events stand. An originator's versions start at 0 or 1 and leave none out.
    """

    def __init__(self, opening: Callable[[], Awaitable[Ledger]], tenant: str, actor: str = ACTOR) -> None:
        self._tenant, self._actor = tenant, actor
        self._bases: dict[str, int] = {}
        self._subscriptions: set[LedgerSubscription] = set()
        self._following: asyncio.Task[None] | None = None
        self._loop = _Loop()
        try:
            self.ledger: Ledger = self._run(self._open(opening))
        except BaseException:
            self._loop.close()
            raise

    async def _open(self, opening: Callable[[], Awaitable[Ledger]]) -> Ledger:
        ledger = await opening()
        first = await ledger.entries(0, _PAGE)
        correlations = [orjson.loads(row.body)["correlation"] for row in first]
        self._founding = next((index for index, one in enumerate(correlations) if one != correlations[0]), len(correlations))
        return ledger

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with _library_errors():
            return self._loop.run(work)

    def close(self) -> None:
        """Ends every subscription, and the ledger when its last commit is durable."""
        for subscription in tuple(self._subscriptions):
            subscription.end()
        self._run(self._close())
        self._loop.close()

    async def _close(self) -> None:
        if self._following is not None:
            await ended(self._following)
        await self.ledger.close()

    # -- writing

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        """All of them in one durable, signed commit, or none; their notification ids."""
        if kwargs.get("tracking") is not None:
            raise NotSupportedError("tracking: a ledger keeps no position of others; keep it with the read model that it belongs to.")
        if not stored_events:
            return []
        return self._run(self._insert([_kept(stored) for stored in stored_events]))

    async def _insert(self, events: list[EventStored]) -> list[int]:
        streams: dict[str, list[EventStored]] = {}
        for event in events:
            streams.setdefault(_stream(event.originator_id), []).append(event)
        writes = [StreamWrite(stream, await self._expected(stream, those), tuple(those)) for stream, those in streams.items()]
        receipt = await self.ledger.append(Append(self._tenant, self._actor, tuple(writes), uuid7()))
        for stream, those in streams.items():
            self._bases.setdefault(stream, those[0].originator_version)
        if len(self._bases) > _KNOWN_ORIGINATORS:
            self._bases.clear()
        committed = [event for those in streams.values() for event in those]
        first = receipt.first_position - self._founding
        ids = {(event.originator_id, event.originator_version): first + index for index, event in enumerate(committed)}
        return [ids[event.originator_id, event.originator_version] for event in events]

    async def _expected(self, stream: str, events: list[EventStored]) -> int:
        """How many events the originator must have for these to follow; raises IntegrityError when they do not follow each other."""
        versions = [event.originator_version for event in events]
        if versions != list(range(versions[0], versions[0] + len(versions))):
            raise IntegrityError(f"originator {events[0].originator_id}: versions {versions} do not follow one another.")
        if stream not in self._bases:
            known = await self.ledger.store.read_stream(self._tenant, stream)
            if known:
                self._bases[stream] = _stored(known[0]).originator_version
            elif versions[0] > 1:
                raise IntegrityError(f"originator {events[0].originator_id}: its first version is 0 or 1, not {versions[0]}.")
        return versions[0] - self._bases.get(stream, versions[0])

    # -- reading

    def select_events(
        self, originator_id: UUID | str, *, gt: int | None = None, lte: int | None = None, desc: bool = False, limit: int | None = None
    ) -> Sequence[StoredEvent]:
        """An originator's events; a stream of Aureus (`budget:eu-lake`) is an originator too."""
        is_native = isinstance(originator_id, str) and ":" in originator_id
        stream = str(originator_id) if is_native else _stream(str(originator_id))
        found = [_stored(row) for row in self._run(self.ledger.store.read_stream(self._tenant, stream))]
        found = [one for one in found if (gt is None or one.originator_version > gt) and (lte is None or one.originator_version <= lte)]
        return (found[::-1] if desc else found)[:limit]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The tenant's events in order of commit."""
        after = max((start or 1) - 1 if inclusive_of_start else (start or 0), 0)
        return self._run(self._select(after, limit, stop, frozenset(topics)))

    async def _select(self, after: int, limit: int, stop: int | None, topics: frozenset[str]) -> list[Notification]:
        found: list[Notification] = []
        position = after + self._founding
        page = _PAGE if topics else min(max(limit, 1), _PAGE)
        while rows := await self.ledger.entries(position, page):
            for row in rows:
                number = row.position - self._founding
                if len(found) == limit or (stop is not None and number > stop):
                    return found
                if row.tenant != self._tenant:
                    continue
                stored = _stored(row)
                if not topics or stored.topic in topics:
                    found.append(Notification(stored.originator_id, stored.originator_version, stored.topic, stored.state, number))
            position = rows[-1].position
        return found

    def max_notification_id(self) -> int | None:
        return self._run(self._max())

    async def _max(self) -> int | None:
        position = (await self.ledger.refresh()).size
        while position > self._founding:
            after = max(position - _PAGE, self._founding)
            for row in reversed(await self.ledger.entries(after, position - after)):
                if row.tenant == self._tenant:
                    return row.position - self._founding
            position = after
        return None

    # -- following

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> LedgerSubscription:
        """Every event after `gt`, now and whenever one is recorded, by this process or another."""
        return LedgerSubscription(self, gt=gt, topics=topics)

    def enter(self, subscription: LedgerSubscription) -> None:
        """Wakes the subscription whenever the ledger may have grown."""
        self._subscriptions.add(subscription)
        self._run(self._follow())
        subscription.wake()

    def leave(self, subscription: LedgerSubscription) -> None:
        self._subscriptions.discard(subscription)

    async def _follow(self) -> None:
        if self._following is None:
            self._following = asyncio.create_task(self._tell(), name="ledger-recorder-following")

    async def _tell(self) -> None:
        async for _ in self.ledger.appended():
            for subscription in tuple(self._subscriptions):
                subscription.wake()


def _stream(originator: str) -> str:
    return f"{CATEGORY}:{originator}"


class LedgerSubscription(ListenNotifySubscription[LedgerRecorder]):
    """Outlives the loss of its database: that is a pause, not an end."""

    def __init__(self, recorder: LedgerRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        self._pause = threading.Event()
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        recorder.enter(self)

    def wake(self) -> None:
        self._has_been_notified.set()

    def stop(self) -> None:
        super().stop()
        self._pause.set()
        self._recorder.leave(self)

    def end(self) -> None:
        """Stops, and waits until the recorder is asked nothing any more."""
        self.stop()
        self._pull_thread.join()

    def _pull(self) -> None:
        while not self._has_been_stopped:
            try:
                super()._pull()
                return
            except OperationalError:
                self._pause.wait(_RECONNECT_SECONDS)


class LedgerFactory(InfrastructureFactory[TrackingRecorder]):
    """Builds what an `Application` needs, from the settings Aureus itself takes: DATABASE_URL, AUREUS_HOME, AUREUS_TENANT.

    Without DATABASE_URL it starts the embedded PostgreSQL in AUREUS_HOME.
    """

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        self._recorder: LedgerRecorder | None = None
        self._postgres: EmbeddedPostgres | None = None

    def mapper(self, transcoder: Any = None, mapper_class: Any = None) -> Mapper[Any]:
        chosen = mapper_class or (None if self.env.get(self.MAPPER_TOPIC) else LedgerMapper)
        return super().mapper(transcoder, chosen)

    def application_recorder(self) -> LedgerRecorder:
        if self._recorder is None:
            settings = Settings.from_environment(self.env)
            if settings.database_url is None:
                self._postgres = EmbeddedPostgres(settings.postgres_dir)
            dsn = settings.database_url or cast("EmbeddedPostgres", self._postgres).start()
            self._recorder = recorder_at(dsn, open_keystore(settings), settings.tenant, settings.origin, settings.vault_keys_url)
        return self._recorder

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """Events lie in the ledger. A snapshot is what events say already, so it is kept for speed alone, in memory."""
        return self.application_recorder() if purpose == "events" else POPOAggregateRecorder()

    def tracking_recorder(self, tracking_recorder_class: type[TrackingRecorder] | None = None) -> TrackingRecorder:  # noqa: ARG002
        raise NotSupportedError("A read model keeps its position beside its rows; take the tracking recorder of the read model's database.")

    def process_recorder(self) -> ProcessRecorder:
        raise NotSupportedError("A ledger keeps no position of others; follow it with a projection that keeps its own.")

    def close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None


def recorder_at(
    dsn: str, keystore: FileKeystore, tenant: str, origin: str | None = None, vault_keys_url: str | None = None
) -> LedgerRecorder:
    """A recorder on the ledger in this database."""
    return LedgerRecorder(lambda: open_ledger(dsn, keystore, origin, vault_keys_url=vault_keys_url), tenant)
