"""The ledger behind the `eventsourcing` library: its own conformance suite, a real application, and the defects it must not inherit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    ApplicationRecorder,
    DataError,
    InfrastructureFactory,
    IntegrityError,
    JSONTranscoder,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from eventsourcing.tests import persistence as suite

from domain.budgets import BudgetOpened
from domain.kernel import EVENTS, Event, JsonObject, UnknownEvent
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.envelope import entry_bytes
from infra.keystore import FileKeystore
from infra.opening import open_memory_ledger
from infra.recorder import LedgerEvent, LedgerFactory, LedgerMapper, LedgerRecorder, recorder_at
from infra.verifier.ledger import Verifier

OPENED = BudgetOpened(budget_id="lake", label="Läke", currency="EUR", limit_minor=100)
PATIENCE_SECONDS = 20.0


def in_memory(keys: Path) -> LedgerRecorder:
    keystore = FileKeystore.open(keys)
    return LedgerRecorder(lambda: open_memory_ledger(keystore), "acme")


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres15)])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], LedgerRecorder]:
    """Opens a recorder on a ledger that is new, or (PostgreSQL) on the same one again."""
    if request.param == "memory":
        return lambda: in_memory(tmp_path / "keys")
    url = request.getfixturevalue("database_url")
    return lambda: recorder_at(url, FileKeystore.open(tmp_path / "keys"), "acme")


@pytest.fixture
def recorder(opening: Callable[[], LedgerRecorder]) -> Iterator[LedgerRecorder]:
    opened = opening()
    yield opened
    opened.close()


@pytest.fixture
def durable(database_url: str, tmp_path: Path) -> Iterator[LedgerRecorder]:
    opened = recorder_at(database_url, FileKeystore.open(tmp_path / "keys"), "acme")
    yield opened
    opened.close()


def stored(originator: UUID | str, version: int, state: bytes = b"state", topic: str = "topic") -> StoredEvent:
    return StoredEvent(originator, version, topic, state)


def record_natively(recorder: LedgerRecorder, *events: Event, tenant: str = "acme") -> int:
    async def append() -> int:
        writes = (StreamWrite(f"budget:{uuid4()}", 0, events),)
        return (await recorder.ledger.append(Append(tenant, "usr-ana", writes, uuid7()))).first_position

    return recorder._run(append())


# -- the library's own suite


class Conformance(suite.ApplicationRecorderTestCase[Any]):
    """Given a recorder, and run by name, by the test below."""

    __test__ = False
    given: LedgerRecorder

    def create_recorder(self) -> ApplicationRecorder:
        return self.given


class NonInterleaving(suite.NonInterleavingNotificationIDsBaseCase):
    __test__ = False
    given: LedgerRecorder
    insert_num = 200

    def create_recorder(self) -> ApplicationRecorder:
        return self.given


@pytest.mark.parametrize(
    "promise",
    [
        "test_insert_select",
        "test_performance",
        "test_concurrent_no_conflicts",
        "test_concurrent_throughput",
        "optional_test_insert_subscribe",
    ],
)
def test_it_keeps_every_promise_the_library_tests_for(recorder: LedgerRecorder, promise: str) -> None:
    case = Conformance(promise)
    case.given = recorder
    getattr(case, promise)()


def test_two_commits_do_not_interleave(recorder: LedgerRecorder) -> None:
    case = NonInterleaving("test")
    case.given = recorder
    case.test()


# -- a real application


class Dog(Aggregate):
    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


class School(Application[UUID]):
    snapshotting_intervals = {Dog: 2}

    def register(self, name: str) -> UUID:
        dog = Dog(name)
        self.save(dog)
        return dog.id

    def teach(self, dog_id: UUID, trick: str) -> None:
        dog: Dog = self.repository.get(dog_id)
        dog.add_trick(trick)
        self.save(dog)


def school(url: str, home: Path) -> School:
    environment = {"PERSISTENCE_MODULE": "infra.recorder", "DATABASE_URL": url, "AUREUS_HOME": str(home), "AUREUS_TENANT": "kennel"}
    return School(environment)


def test_a_library_application_runs_on_the_ledger_with_all_its_proofs(database_url: str, tmp_path: Path) -> None:
    app = school(database_url, tmp_path)
    dog_id = app.register("Fido")
    app.teach(dog_id, "roll over")
    app.teach(dog_id, "play dead")
    assert [notification.id for notification in app.notification_log.select(1, 10)] == [1, 2, 3]

    recorder = cast("LedgerRecorder", app.recorder)
    rows = recorder._run(recorder.ledger.entries(0, 100))
    note = recorder._run(recorder.ledger.store.note())
    verifier = Verifier()
    verifier.add(entry_bytes(row.body, row.signatures) for row in rows)
    assert verifier.finish(note).ok
    assert [row.type for row in rows[3:]] == ["eventsourcing.event_stored"] * 3
    app.factory.close()

    again = school(database_url, tmp_path)
    found: Dog = again.repository.get(dog_id)
    assert (found.name, found.tricks, found.version) == ("Fido", ["roll over", "play dead"], 3)
    again.factory.close()


def test_an_application_without_a_database_starts_the_embedded_one(tmp_path: Path) -> None:
    environment = {"PERSISTENCE_MODULE": "infra.recorder", "DATABASE_URL": "", "AUREUS_HOME": str(tmp_path)}
    factory = InfrastructureFactory.construct(environment)
    assert isinstance(factory, LedgerFactory)
    try:
        assert factory.application_recorder().insert_events([stored(uuid4(), 1)]) == [1]
    finally:
        factory.close()


def test_a_ledger_keeps_nobody_elses_position(recorder: LedgerRecorder) -> None:
    with pytest.raises(NotSupportedError, match="tracking"):
        recorder.insert_events([], tracking=Tracking("upstream", 1))
    factory = LedgerFactory({})
    for build in (factory.tracking_recorder, factory.process_recorder):
        with pytest.raises(NotSupportedError, match="position"):
            build()


# -- events of Aureus


def test_events_of_aureus_are_read_and_followed_with_the_library(recorder: LedgerRecorder) -> None:
    position = record_natively(recorder, OPENED)
    [notification] = recorder.select_notifications(1, 10, topics=["budgets.budget_opened"])
    assert notification.id == position - 3 == recorder.max_notification_id()
    assert [one.state for one in recorder.select_events(notification.originator_id)] == [notification.state]
    mapper = LedgerMapper(JSONTranscoder())
    mapped = mapper.to_domain_event(notification)
    assert isinstance(mapped, LedgerEvent)
    assert mapped.event == OPENED
    assert mapper.to_stored_event(mapped).state == notification.state


def test_a_mapper_reads_old_shapes_and_refuses_unknown_ones() -> None:
    class Renamed(Event, name="test.renamed", schema=2):
        title: str

        @classmethod
        def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
            return {"title": data["name"]}

    try:
        mapper = LedgerMapper(JSONTranscoder())
        mapped = mapper.to_domain_event(StoredEvent("note:1", 1, "test.renamed", b'{"data":{"name":"old"},"schema":1}'))
        assert isinstance(mapped, LedgerEvent)
        assert mapped.event == Renamed(title="old")
        with pytest.raises(UnknownEvent, match="knows it up to schema 1"):
            mapper.to_domain_event(StoredEvent("budget:1", 1, "budgets.budget_opened", b'{"data":{},"schema":99}'))
    finally:
        del EVENTS._classes["test.renamed"]


def test_there_is_no_second_door_for_events_of_aureus(recorder: LedgerRecorder) -> None:
    with pytest.raises(ProgrammingError, match="send the command"):
        recorder.insert_events([stored(uuid4(), 1, topic="budgets.budget_opened")])
    assert recorder.max_notification_id() is None


def test_tenants_do_not_see_each_other(recorder: LedgerRecorder) -> None:
    record_natively(recorder, OPENED, tenant="other")
    assert recorder.select_notifications(1, 10) == []
    assert recorder.max_notification_id() is None
    assert recorder.insert_events([stored("dog-1", 0)]) == [2]
    assert [one.originator_id for one in recorder.select_notifications(1, 10)] == ["dog-1"]


# -- what cannot be stored


def test_a_large_event_is_refused_at_once_and_the_next_one_is_stored(recorder: LedgerRecorder) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=r"the limit is 65535\. Store the large part as an artifact"):
        recorder.insert_events([stored(uuid4(), 1, b"x" * 1_048_576)])
    assert time.monotonic() - started < 5
    assert recorder.insert_events([stored(uuid4(), 1, b"x" * 30_000)]) == [1]


@pytest.mark.parametrize("originator", ["budget:lake", 'a"b', "a\\b", "é", "", "x" * 201])
def test_an_originator_that_cannot_be_signed_is_named(recorder: LedgerRecorder, originator: str) -> None:
    with pytest.raises(DataError, match="originator_id"):
        recorder.insert_events([stored(originator, 1)])


def test_versions_follow_one_another(recorder: LedgerRecorder) -> None:
    dog, cat = uuid4(), uuid4()
    recorder.insert_events([stored(dog, 1), stored(dog, 2)])
    for refused in ([stored(dog, 2)], [stored(dog, 4)], [stored(dog, 3), stored(dog, 3)], [stored(dog, 0)], [stored(cat, 7)]):
        with pytest.raises(IntegrityError):
            recorder.insert_events(refused)
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(cat, 1), stored(dog, 1)])
    assert recorder.select_events(cat) == []
    assert recorder.insert_events([stored(dog, 3), stored(cat, 0), stored(dog, 4)]) == [3, 5, 4]
    assert [(one.id, one.originator_version) for one in recorder.select_notifications(3, 10)] == [(3, 3), (4, 4), (5, 0)]
    assert [one.originator_version for one in recorder.select_events(dog, gt=1, lte=3, desc=True, limit=1)] == [3]


def test_any_bytes_come_back_as_they_went_in(recorder: LedgerRecorder) -> None:
    state = bytes(range(256))
    recorder.insert_events([stored("dog-1", 1, state, topic="kennel:Dog.Registrée")])
    assert recorder.select_events("dog-1") == [stored("dog-1", 1, state, topic="kennel:Dog.Registrée")]


def test_another_process_continues_where_the_first_stopped(database_url: str, tmp_path: Path) -> None:
    dog = uuid4()
    for version in (0, 1, 2):
        recorder = recorder_at(database_url, FileKeystore.open(tmp_path / "keys"), "acme")
        assert recorder.insert_events([stored(dog, version)]) == [version + 1]
        recorder.close()


# -- following


@contextmanager
def followed(recorder: LedgerRecorder, **options: Any) -> Iterator[list[int]]:
    """The ids that a follower has seen so far."""
    seen: list[int] = []
    with recorder.subscribe(**options) as subscription:

        def read() -> None:
            for notification in subscription:
                seen.append(notification.id)  # noqa: PERF401 - the list is watched while it grows

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        yield seen
    reading.join(PATIENCE_SECONDS)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_a_follower_misses_no_event_of_concurrent_writers(durable: LedgerRecorder, database_url: str, tmp_path: Path) -> None:
    writers, appends, others = 8, 40, 3
    second = recorder_at(database_url, FileKeystore.open(tmp_path / "keys"), "acme")

    def write(recorder: LedgerRecorder) -> None:
        originator = uuid4()
        for number in range(appends):
            recorder.insert_events([stored(originator, number)])

    with followed(durable) as seen, ThreadPoolExecutor(writers + others) as pool:
        writing = [pool.submit(write, durable) for _ in range(writers)] + [pool.submit(write, second) for _ in range(others)]
        for one in writing:
            one.result()
        total = (writers + others) * appends
        assert eventually(lambda: len(seen) >= total)
        assert seen == list(range(1, total + 1))
    second.close()


def test_killing_the_listening_backend_does_not_end_a_subscription(durable: LedgerRecorder, database_url: str) -> None:
    with followed(durable) as seen:
        durable.insert_events([stored(uuid4(), 1)])
        assert eventually(lambda: seen == [1])
        with psycopg.connect(database_url, autocommit=True) as server:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            assert server.execute(kill).rowcount >= 1
        durable.insert_events([stored(uuid4(), 1)])
        assert eventually(lambda: seen == [1, 2])


def test_closing_a_recorder_ends_its_subscriptions(opening: Callable[[], LedgerRecorder]) -> None:
    recorder = opening()
    subscription = recorder.subscribe()
    recorder.close()
    with suppress(StopIteration):
        pytest.fail(f"got {next(subscription)}")


def test_closing_a_recorder_tells_whoever_still_reads(opening: Callable[[], LedgerRecorder]) -> None:
    ended: list[Exception] = []

    def read(recorder: LedgerRecorder) -> None:
        try:
            while True:
                recorder.select_notifications(start=None, limit=10)
        except OperationalError as closed:
            ended.append(closed)

    for _ in range(5):
        recorder = opening()
        readers = [threading.Thread(target=read, args=(recorder,), daemon=True) for _ in range(4)]
        for reader in readers:
            reader.start()
        recorder.close()
        for reader in readers:
            reader.join(PATIENCE_SECONDS)
            assert not reader.is_alive()
    assert len(ended) == 20
