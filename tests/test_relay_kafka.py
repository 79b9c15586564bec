"""The relay against a real broker: in order, without a hole, and whatever dies, nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import orjson
import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from infra.kafka import KafkaUnavailable, client_options, ensure_topic
from infra.kafka_settings import KafkaPlace
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.partitions import partition_of
from streams.cloudevents import cloudevents
from streams.producing import BATCH_BYTES, acknowledged, producing
from streams.records import Outgoing
from streams.relay import PACK_FROM, Relay
from tests.support.kafka import GuardedKafka, Kafka
from tests.support.relaying import all_told, append, by_partition, new_place, records, relaying, started, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
DEAD_SECONDS: Final = 20
"""Longer than a producer tries by itself, so that the relay has to begin anew."""
TAKEOVER_SECONDS_MAX: Final = 5


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, keystore)
    yield opened
    await opened.close()


async def relayed(ledger: Ledger, dsn: str, place: KafkaPlace) -> Relay:
    """A relay that has told everything."""
    relay = Relay(ledger, dsn, place)
    async with relaying(relay):
        await until(lambda: relay.position == ledger.head.size)
    return relay


# -- what arrives


async def test_each_event_travels_as_signed_in_its_own_partition_behind_the_one_before_it(
    ledger: Ledger, database_url: str, kafka: Kafka
) -> None:
    place = new_place(kafka.servers)
    relay = Relay(ledger, database_url, place)
    async with relaying(relay):
        for _ in range(12):
            position = await append(ledger, streams=2, each=2)
            await until(lambda told=position: relay.position >= told)  # type: ignore[misc]
    found = await records(place)
    stored = {event.position: event for event in await ledger.entries(0, 1_000)}
    for record in found:
        said = dict(record.headers)
        if "position" in said:
            event = stored.pop(int(said["position"]))
            assert (record.value, record.key, said["leaf"]) == (event.body, f"{event.tenant} {event.stream}".encode(), event.leaf)
            assert (said["event"], said["of"]) == (event.type.encode(), b"4")
            assert int(said["schema"]) == orjson.loads(event.body)["schema"]
            assert record.partition == partition_of(event.tenant, event.stream, 4)
    assert stored == {}
    for chain in by_partition(found):
        assert [before.until for before in chain[:-1]] == [after.after for after in chain[1:]]
        assert chain[-1].until == ledger.head.size
    assert (relay.sent_events, relay.sent_records) == (ledger.head.size, len(found))


async def test_behind_it_sends_many_in_a_record_compressed_and_numbered_by_the_producer(
    ledger: Ledger, database_url: str, kafka: Kafka
) -> None:
    await append(ledger, streams=40, each=40)
    place = new_place(kafka.servers, partitions=2)
    relay = await relayed(ledger, database_url, place)
    found = await records(place)
    assert all_told(found) == list(range(1, ledger.head.size + 1))
    assert len(found) == relay.sent_records < ledger.head.size / PACK_FROM
    on_disk = next((kafka.folder / "data" / f"{place.topic}-0").glob("*.log")).read_bytes()
    attributes, producer_id = on_disk[21:23], on_disk[43:51]
    assert attributes[1] & 0b111 == 3, "batches are compressed with lz4"
    assert producer_id != b"\xff" * 8, "the producer is idempotent"
    assert len(on_disk) < relay.sent_bytes / 3


async def test_it_goes_on_where_it_stopped(ledger: Ledger, database_url: str, kafka: Kafka) -> None:
    place = new_place(kafka.servers)
    await append(ledger, streams=5)
    assert (await relayed(ledger, database_url, place)).sent_events == ledger.head.size
    before = ledger.head.size
    await append(ledger, streams=3)
    assert (await relayed(ledger, database_url, place)).sent_events == ledger.head.size - before
    assert all_told(await records(place)) == list(range(1, ledger.head.size + 1))


async def test_an_event_is_in_the_topic_a_few_milliseconds_later(ledger: Ledger, database_url: str, kafka: Kafka) -> None:
    relay = Relay(ledger, database_url, new_place(kafka.servers))
    took = []
    async with relaying(relay):
        await until(lambda: relay.leading)
        for _ in range(50):
            position = await append(ledger, streams=1)
            began = time.perf_counter()
            await until(lambda told=position: relay.position >= told)  # type: ignore[misc]
            took.append(time.perf_counter() - began)
    assert sorted(took)[25] < 0.1


async def test_what_does_not_fit_into_one_batch_goes_into_the_next_in_order(kafka: Kafka) -> None:
    place = new_place(kafka.servers, partitions=1)
    await ensure_topic(place, place.topic)
    sent = [random.randbytes(BATCH_BYTES // 4) for _ in range(20)]
    async with producing(place) as producer:
        acks = await producer.send_all(place.topic, 0, [Outgoing(None, value, []) for value in sent])
        assert len(acks) > 5
        await acknowledged(acks)
    assert [record.value for record in await records(place)] == sent


async def test_what_the_broker_does_not_take_is_not_passed_over(kafka: Kafka) -> None:
    place = new_place(kafka.servers, partitions=1)
    await ensure_topic(place, place.topic)
    with pytest.raises(KafkaUnavailable):
        async with producing(place) as producer:
            await acknowledged(await producer.send_all(place.topic, 0, [Outgoing(None, random.randbytes(2_000_000), [])]))


# -- topics


async def test_a_topic_keeps_a_week_and_is_made_once(kafka: Kafka) -> None:
    place = new_place(kafka.servers, partitions=3)
    assert await ensure_topic(place, place.topic) == 3
    assert await ensure_topic(KafkaPlace(place.servers, partitions=8), place.topic) == 3
    admin = AIOKafkaAdminClient(**client_options(place))
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, place.topic)])
    finally:
        await admin.close()
    settings = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    assert settings["retention.ms"] == str(7 * 24 * 60 * 60 * 1_000)
    assert settings["cleanup.policy"] == "delete"
    assert settings["compression.type"] == "producer"


async def test_more_copies_than_brokers_are_refused_by_the_broker_in_its_words(kafka: Kafka) -> None:
    place = new_place(kafka.servers, replication=3)
    with pytest.raises(KafkaUnavailable, match="replication factor"):
        await ensure_topic(place, place.topic)


async def test_where_no_broker_is_the_servers_are_named() -> None:
    place = KafkaPlace(servers=("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1, 127\.0\.0\.1:2"):
        await ensure_topic(place, place.topic)


async def test_more_partitions_are_used_from_the_next_start(ledger: Ledger, database_url: str, kafka: Kafka) -> None:
    place = new_place(kafka.servers, partitions=2)
    await append(ledger, streams=20)
    await relayed(ledger, database_url, place)
    admin = AIOKafkaAdminClient(**client_options(place))
    await admin.start()
    try:
        await admin.create_partitions({place.topic: NewPartitions(5)})
    finally:
        await admin.close()
    before = ledger.head.size
    await append(ledger, streams=20)
    await relayed(ledger, database_url, place)
    later = [stretch for chain in by_partition(await records(place)) for stretch in chain if stretch.after >= before]
    assert {(stretch.partition, stretch.of) for stretch in later} == {(partition, 5) for partition in range(5)}
    for stretch in later:
        assert {partition_of(event.tenant, event.stream, 5) for event in stretch.events} <= {stretch.partition}


async def test_a_topic_that_was_deleted_is_made_again(ledger: Ledger, database_url: str, kafka: Kafka) -> None:
    place = new_place(kafka.servers)
    relay = Relay(ledger, database_url, place)
    async with relaying(relay):
        await append(ledger, streams=5)
        await until(lambda: relay.position == ledger.head.size)
        admin = AIOKafkaAdminClient(**client_options(place))
        await admin.start()
        try:
            await admin.delete_topics([place.topic])
        finally:
            await admin.close()
        before = ledger.head.size
        await append(ledger, streams=5)
        await until(lambda: relay.position == ledger.head.size)
    chains = by_partition(await records(place))
    assert {chain[0].after for chain in chains} == {before}
    assert sorted(event.position for chain in chains for stretch in chain for event in stretch.events) == list(
        range(before + 1, ledger.head.size + 1)
    )


# -- relays that die


async def test_killed_between_sending_and_noting_it_sends_again_and_readers_lose_nothing(
    ledger: Ledger, database_url: str, keystore: FileKeystore, kafka: Kafka
) -> None:
    place = new_place(kafka.servers)
    for _ in range(40):
        await append(ledger, streams=10, each=5)
    with started(database_url, keystore.folder, place, kill_before_move=2) as process:
        assert process.wait(30) == -signal.SIGKILL
    again = await relayed(ledger, database_url, place)
    assert 0 < again.sent_events < ledger.head.size
    found = await records(place)
    times = Counter(event.position for chain in by_partition(found) for stretch in chain for event in stretch.events)
    assert set(times.values()) == {1, 2}, "some was sent twice"
    assert all_told(found) == list(range(1, ledger.head.size + 1))


async def test_of_two_relays_one_leads_and_nothing_is_sent_twice(
    ledger: Ledger, database_url: str, keystore: FileKeystore, kafka: Kafka
) -> None:
    place = new_place(kafka.servers)
    other = await open_ledger(database_url, keystore)
    relays = [Relay(ledger, database_url, place), Relay(other, database_url, place)]
    async with relaying(*relays):
        for number in range(60):
            await append((ledger, other)[number % 2], streams=3)
        end = (await ledger.refresh()).size
        await until(lambda: any(relay.position == end for relay in relays))
        assert sorted(relay.leading for relay in relays) == [False, True]
    found = await records(place)
    assert sum(relay.sent_events for relay in relays) == end
    assert sum(len(stretch.events) for chain in by_partition(found) for stretch in chain) == end
    await other.close()


async def test_a_standby_takes_over_within_seconds_of_a_kill(
    ledger: Ledger, database_url: str, keystore: FileKeystore, kafka: Kafka
) -> None:
    place = new_place(kafka.servers)
    with started(database_url, keystore.folder, place) as process:
        await append(ledger, streams=10)
        await asyncio.to_thread(wait_for_place, database_url, ledger.head.size)
        standby = Relay(ledger, database_url, place)
        async with relaying(standby):
            await asyncio.sleep(1)
            assert not standby.leading
            process.kill()
            killed = time.monotonic()
            await append(ledger, streams=10)
            await until(lambda: standby.position == ledger.head.size)
            assert time.monotonic() - killed < TAKEOVER_SECONDS_MAX
    assert all_told(await records(place)) == list(range(1, ledger.head.size + 1))


async def test_who_loses_the_lock_stops_leading_and_another_goes_on(ledger: Ledger, database_url: str, kafka: Kafka) -> None:
    place = new_place(kafka.servers)
    relays = [Relay(ledger, database_url, place), Relay(ledger, database_url, place)]
    async with relaying(*relays):
        await append(ledger, streams=3)
        await until(lambda: any(relay.position == ledger.head.size for relay in relays))
        (leader,) = [relay for relay in relays if relay.leading]
        with psycopg.connect(database_url, autocommit=True) as connection:
            held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7283660 AND granted"
            connection.execute(held)
        await until(lambda: not leader.leading)
        await append(ledger, streams=3)
        await until(lambda: any(relay.leading and relay.position == ledger.head.size for relay in relays))
    assert all_told(await records(place)) == list(range(1, ledger.head.size + 1))


def wait_for_place(dsn: str, position: int) -> None:
    deadline = time.monotonic() + 30
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            if connection.execute("SELECT to_regclass('streams.positions')").fetchone() != (None,):
                row = connection.execute("SELECT position FROM streams.positions WHERE name = 'relay'").fetchone()
                if row is not None and row[0] >= position:
                    return
            time.sleep(0.02)
    pytest.fail(f"the relay does not come to {position}")


# -- a broker that goes away


async def test_a_broker_restarted_under_load_costs_neither_an_event_nor_a_double(
    ledger: Ledger, database_url: str, kafka_of_its_own: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.producing.ACKNOWLEDGED_SECONDS_MAX", 60)  # however long this machine takes to start a broker
    place = new_place(kafka_of_its_own.servers)
    relay = Relay(ledger, database_url, place)
    async with relaying(relay):
        loading = asyncio.create_task(load(ledger, seconds=6))
        await until(lambda: relay.position > 20)
        await asyncio.to_thread(kafka_of_its_own.restart)
        await loading
        await until(lambda: relay.position == ledger.head.size)
    found = await records(place)
    assert all_told(found) == list(range(1, ledger.head.size + 1))
    assert sum(len(stretch.events) for chain in by_partition(found) for stretch in chain) == ledger.head.size


async def test_while_the_broker_is_dead_commands_succeed_and_it_is_said_once(
    ledger: Ledger, database_url: str, kafka_of_its_own: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    place = new_place(kafka_of_its_own.servers)
    relay = Relay(ledger, database_url, place)
    async with relaying(relay):
        await append(ledger, streams=20)
        await until(lambda: relay.position == ledger.head.size)
        kafka_of_its_own.kill()
        with caplog.at_level(logging.INFO):
            slowest = await load(ledger, seconds=DEAD_SECONDS)
            assert slowest < 2, "the ledger does not wait for a broker"
            assert relay.last_error is not None
            assert relay.leading
            await asyncio.to_thread(kafka_of_its_own.start)
            await until(lambda: relay.position == ledger.head.size and relay.last_error is None)
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("aureus.relay", "aiokafka"))]
    assert len(said) == 2
    assert "the relay waits" in said[0]
    assert place.servers[0] in said[0]
    assert "the relay goes on" in said[1]
    assert all_told(await records(place)) == list(range(1, ledger.head.size + 1))


async def test_started_before_the_broker_it_waits_and_is_well_although_nothing_is_to_be_sent(
    ledger: Ledger, database_url: str, kafka_of_its_own: Kafka
) -> None:
    place = new_place(kafka_of_its_own.servers)
    await relayed(ledger, database_url, place)
    kafka_of_its_own.stop()
    relay = Relay(ledger, database_url, place)
    async with relaying(relay):
        await until(lambda: relay.last_error is not None)
        assert place.servers[0] in str(relay.last_error)
        await asyncio.to_thread(kafka_of_its_own.start)
        await until(lambda: relay.last_error is None)
    assert relay.sent_records == 0


async def test_it_ends_at_once_although_the_broker_is_gone(ledger: Ledger, database_url: str, kafka_of_its_own: Kafka) -> None:
    relay = Relay(ledger, database_url, new_place(kafka_of_its_own.servers))
    async with relaying(relay):
        await append(ledger, streams=5)
        await until(lambda: relay.position == ledger.head.size)
        kafka_of_its_own.kill()
        await append(ledger, streams=5)
        await asyncio.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert [task for task in asyncio.all_tasks() if "aiokafka" in task.get_coro().cr_code.co_filename] == []  # type: ignore[union-attr]


async def load(ledger: Ledger, seconds: float) -> float:
    """Commands one after another; the seconds that the slowest took."""
    end = time.monotonic() + seconds
    slowest = 0.0
    while time.monotonic() < end:
        began = time.monotonic()
        await append(ledger, streams=2)
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.01)
    return slowest


# -- a broker behind TLS and a password


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    broker = GuardedKafka(tmp_path_factory.mktemp("guarded"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


async def test_over_tls_with_a_password(ledger: Ledger, database_url: str, guarded: GuardedKafka) -> None:
    secret = {"user": guarded.USER, "password": guarded.PASSWORD, "tls_roots": guarded.certificate}
    place = new_place(guarded.guarded, **secret)
    await append(ledger, streams=5)
    await relayed(ledger, database_url, place)
    assert all_told(await records(place)) == list(range(1, ledger.head.size + 1))


@pytest.mark.parametrize("wrong", ["password", "roots"])
async def test_a_wrong_password_or_certificate_is_not_gone_around(guarded: GuardedKafka, wrong: str, tmp_path: Path) -> None:
    roots = GuardedKafka(tmp_path).certificate if wrong == "roots" else guarded.certificate
    password = "wrong" if wrong == "password" else guarded.PASSWORD
    place = new_place(guarded.guarded, user=guarded.USER, password=password, tls_roots=roots)
    with pytest.raises(KafkaUnavailable) as refused:
        await ensure_topic(place, place.topic)
    assert place.servers[0] in str(refused.value)
    assert password not in str(refused.value)


# -- the log as others read it


async def test_others_read_cloud_events_with_what_the_documentation_says(ledger: Ledger, database_url: str, kafka: Kafka) -> None:
    await append(ledger, streams=6, each=3)
    topic = new_place(kafka.servers).topic
    relay = Relay(ledger, database_url, KafkaPlace((kafka.servers,)), rendering=cloudevents(topic, ledger.name))
    async with relaying(relay):
        await until(lambda: relay.position == ledger.head.size)
        await append(ledger, streams=4)
        await until(lambda: relay.position == ledger.head.size)
    found = await records(KafkaPlace((kafka.servers,)), topic)
    entries = {orjson.loads(entry.body)["id"]: entry for entry in await ledger.entries(0, 1_000)}
    for record in found:
        event = JSONFormat().read(CloudEvent, record.value)
        entry = entries.pop(event.get_id())
        assert dict(record.headers) == {"content-type": b"application/cloudevents+json"}
        assert record.key == f"{entry.tenant} {entry.stream}".encode()
        assert event.get_type().startswith(f"aureus.{entry.type}.v")
        assert event.get_extension("position") == str(entry.position)
        assert event.get_data() == orjson.loads(entry.body)["data"]
    assert entries == {}

    documented = (Path(__file__).parents[1] / "docs" / "streams.md").read_text().split("## The log as others read it")[1]
    consumer = documented.split("```python")[1].split("```")[0]
    assert "127.0.0.1:9092" in consumer
    code = consumer.replace("127.0.0.1:9092", kafka.servers).replace("aureus.cloudevents", topic)
    reader = await asyncio.create_subprocess_exec(sys.executable, "-u", "-c", code, stdout=asyncio.subprocess.PIPE)
    assert reader.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(30):
        while len(lines) < ledger.head.size:
            lines.append((await reader.stdout.readline()).decode())
    reader.kill()  # it would read for ever
    await reader.wait()
    assert sum(" aureus.budgets.budget_opened.v1 budget:" in line for line in lines) == 22
