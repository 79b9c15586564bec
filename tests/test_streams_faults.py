"""Whatever dies on the way through Kafka and Faust, the read models come to what the ledger says: nothing lost, nothing doubled.

`level` says so after each: the digest of every read model equals that of a rebuild.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from api.services import projections
from infra.embedded import EmbeddedPostgres
from infra.keystore import FileKeystore
from streams.roster import workers
from tests.support.kafka import Kafka, broker
from tests.support.streams import Streams, forked_worker, streams, until

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

KILLS = 50
AT_ONCE = 10
NAMES = [projection.name for projection in projections()]


@pytest.fixture(scope="module")
def mortal_kafka() -> Iterator[Kafka]:
    """A broker that tests of this module stop and kill; each leaves it running."""
    with broker() as started:
        yield started


# -- the broker


async def test_a_broker_stopped_and_started_again_under_load(database_url: str, keystore: FileKeystore, mortal_kafka: Kafka) -> None:
    async with streams(database_url, keystore, mortal_kafka) as s, s.relaying(), s.working():
        async with s.writing():
            for end in (mortal_kafka.stop, mortal_kafka.kill):
                await s.moved()
                await asyncio.to_thread(end)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(mortal_kafka.start)
            await s.moved()
        await s.level()


async def test_while_the_broker_is_dead_commands_succeed(database_url: str, keystore: FileKeystore, mortal_kafka: Kafka) -> None:
    async with streams(database_url, keystore, mortal_kafka) as s, s.relaying() as relay, s.working():
        async with s.writing():
            await s.moved()
            await asyncio.to_thread(mortal_kafka.kill)
            written = s.written
            await asyncio.sleep(20)
            assert s.written - written > 300, "30 a second were asked for"
            assert relay.position < s.ledger.head.size
            await asyncio.to_thread(mortal_kafka.start)
        await s.level()
        assert relay.position == s.ledger.head.size


async def test_a_broker_that_is_not_there_yet_is_waited_for(database_url: str, keystore: FileKeystore, mortal_kafka: Kafka) -> None:
    await asyncio.to_thread(mortal_kafka.stop)
    async with streams(database_url, keystore, mortal_kafka) as s, s.relaying(), s.working() as worker:
        await s.write(100)
        await until(lambda: worker.state.last_error)
        assert mortal_kafka.servers in str(worker.state.last_error)
        await asyncio.to_thread(mortal_kafka.start)
        await s.level()


# -- workers


async def test_workers_killed_fifty_times_in_mid_batch(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    """Ten at once, each with read models of its own; each is killed moments after it was seen to move them."""
    shares = [[name] for name in NAMES[: AT_ONCE - 1]] + [NAMES[AT_ONCE - 1 :]]
    async with streams(database_url, keystore, kafka) as s, s.relaying():

        async def killed(names: Sequence[str]) -> None:
            for _ in range(KILLS // AT_ONCE):
                process = forked_worker(s, names)
                await s.moved(names)
                await asyncio.sleep(random.uniform(0, 0.1))
                process.kill()
                await asyncio.to_thread(process.join)

        async with s.writing():
            await asyncio.gather(*map(killed, shares))
        async with s.working():
            await s.level()


async def test_from_one_worker_to_three_and_back(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    async with streams(database_url, keystore, kafka) as s, s.relaying(), s.working() as worker:
        async with s.writing():
            await s.moved()
            assert len(worker.state.partitions) == s.place.partitions
            others = [forked_worker(s, ()) for _ in range(2)]
            try:
                await until(lambda: shares(s, [1, 1, 2]))
                for _ in range(3):
                    await s.moved()
            finally:
                for other in others:
                    other.terminate()
            await until(lambda: len(worker.state.partitions) == s.place.partitions)
            await s.moved()
            for other in others:
                await asyncio.to_thread(other.join)
        await s.level()
        await until(lambda: shares(s, [s.place.partitions]))
        assert [other.exitcode for other in others] == [0, 0]


async def test_a_worker_process_that_dies_is_started_again(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    async with streams(database_url, keystore, kafka) as s, s.relaying():
        with s.aureus_worker("--all", "-n", "2") as supervisor:
            await until(lambda: shares(s, [2, 2]))
            async with s.writing():
                victim = psutil.Process(supervisor.pid).children()[0]
                victim.kill()
                await s.moved()
                await until(lambda: shares(s, [2, 2]) if victim.pid not in pids(supervisor.pid) else False)
                await s.moved()
            await s.level()
        assert supervisor.returncode == 0


def pids(parent: int) -> list[int]:
    return [child.pid for child in psutil.Process(parent).children()]


async def shares(s: Streams, expected: list[int]) -> bool:
    """Whether the workers, as they say of themselves, have so many partitions each."""
    async with await psycopg.AsyncConnection.connect(s.dsn) as connection:
        return sorted(len(worker.partitions) for worker in await workers(connection)) == expected


# -- deliveries


async def test_duplicates_reordered_records_and_what_is_not_ours(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    async with streams(database_url, keystore, kafka) as s, s.relaying(pack_from=20), s.working() as worker:
        for _ in range(10):
            await s.write(10)
            await s.write(40)
        await s.reach(s.ledger.head.size)
        old = await records(s)
        async with s.writing(), AIOKafkaProducer(bootstrap_servers=s.place.servers) as producer:
            for record in random.sample(old * 2, len(old) * 2):
                sent = {"value": record.value, "key": record.key, "partition": record.partition, "headers": list(record.headers)}
                await producer.send_and_wait(s.place.topic, **sent)
            await producer.send_and_wait(s.place.topic, b"{}", partition=0)
            await producer.send_and_wait(s.place.topic, b"short", partition=1, headers=[("events", b"1"), ("after", b"0"), ("until", b"9")])
            await until(lambda: worker.state.duplicates >= len(old) and worker.state.bad_records == 2)
        await s.level()


async def test_records_of_the_future_wait_for_nobody(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    """What is written last arrives first, and most of the rest never does: the ledger has it."""
    async with streams(database_url, keystore, kafka) as s:
        async with s.relaying(pack_from=20) as relay:
            for _ in range(10):
                await s.write(40)
            await until(lambda: relay.position == s.ledger.head.size)
        sent = await records(s)
        await wipe(s)
        async with AIOKafkaProducer(bootstrap_servers=s.place.servers) as producer, s.working() as worker:
            await until(lambda: worker.state.partitions)
            for record in reversed(sent[len(sent) // 2 :]):
                await producer.send_and_wait(s.place.topic, record.value, partition=record.partition, headers=list(record.headers))
            await s.level()
            assert worker.state.refilled > 0


async def records(s: Streams) -> list[ConsumerRecord]:
    """Everything in the topic."""
    async with AIOKafkaConsumer(bootstrap_servers=s.place.servers, auto_offset_reset="earliest") as consumer:
        own = [TopicPartition(s.place.topic, partition) for partition in range(s.place.partitions)]
        consumer.assign(own)
        left = sum((await consumer.end_offsets(own)).values()) - sum((await consumer.beginning_offsets(own)).values())
        return [await consumer.getone() for _ in range(left)]


async def wipe(s: Streams) -> None:
    """As retention does: the topic forgets what it holds."""
    admin = AIOKafkaAdminClient(bootstrap_servers=s.place.servers)
    await admin.start()
    try:
        own = [TopicPartition(s.place.topic, partition) for partition in range(s.place.partitions)]
        await admin.delete_records({partition: RecordsToDelete(before_offset=-1) for partition in own})
    finally:
        await admin.close()


async def test_kafka_forgot_what_a_worker_was_away_for(database_url: str, keystore: FileKeystore, kafka: Kafka) -> None:
    async with streams(database_url, keystore, kafka) as s, s.relaying() as relay:
        async with s.working():
            await s.write(100)
            await s.reach(s.ledger.head.size)
        await s.write(1_000)
        await until(lambda: relay.position == s.ledger.head.size)
        await wipe(s)
        async with s.working() as worker:
            await s.reach(s.ledger.head.size)
            assert worker.state.refilled == 1_000, "though nothing more came by Kafka"
            await s.write(100)
            await s.level()


# -- PostgreSQL


async def test_postgresql_restarted_and_killed_under_load(tmp_path: Path, keystore: FileKeystore, kafka: Kafka) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    try:
        async with streams(postgres.start(), keystore, kafka) as s, s.relaying(), s.working():
            async with s.writing():
                await s.moved()
                await asyncio.to_thread(postgres.stop)
                await asyncio.to_thread(postgres.start)
                await s.moved()
                victim = psutil.Process(int((postgres.data_dir / "postmaster.pid").read_text().split()[0]))
                victim.kill()
                await asyncio.to_thread(victim.wait, 30)  # until it is gone, it is a server that is still there and lets nobody in
                await asyncio.to_thread(postgres.start)
                await s.moved()
            await s.level()
    finally:
        postgres.stop()
