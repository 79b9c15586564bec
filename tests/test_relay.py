"""What travels through Kafka, as bytes: records are written and read without loss, and what is not ours is refused."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import UnknownEvent
from infra.kafka import client_options
from infra.kafka_settings import MAX_PARTITIONS, KafkaPlace
from infra.partitions import partition_key, partition_of
from infra.settings import Settings, SettingsError
from infra.store import StoredEvent
from streams.cloudevents import cloudevents
from streams.records import BadRecord, Outgoing, Stretch, packed, single, stretch_of
from streams.relay import PACK_BYTES, PACK_FROM, stretches
from tests.golden import WIRES

GOLDEN: Final = Path(__file__).parent / "golden" / "kafka"
LEDGER: Final = "aureus.test"
ID, CORRELATION = "01990000-0000-7000-8000-00000000000a", "01990000-0000-7000-8000-00000000000b"


def stored(position: int, stream: str = "budget:lake", tenant: str = "acme", filling: str = "") -> StoredEvent:
    data = {"budget_id": "lake", "label": "L", "currency": "EUR", "limit_minor": 1}
    body: dict[str, Any] = {
        "_sd": [filling],
        "actor": "usr-ana",
        "at": "2026-03-03T14:00:00.000000Z",
        "causation": None,
        "correlation": CORRELATION,
        "data": data,
        "id": ID,
        "key": "00" * 32,
        "ledger": LEDGER,
        "prev": "",
        "schema": 1,
        "stream": stream,
        "tenant": tenant,
        "type": "budgets.budget_opened",
        "v": 1,
        "version": position,
    }
    return StoredEvent(position, tenant, stream, position, "budgets.budget_opened", orjson.dumps(body), b"", b"%032d" % position)


def read(record: Outgoing, partition: int = 0) -> Stretch:
    return stretch_of(partition, record.value, record.headers, LEDGER)


def facts(events: Sequence[StoredEvent]) -> list[tuple[Any, ...]]:
    return [(event.position, event.tenant, event.stream, event.version, event.leaf) for event in events]


def read_facts(stretch: Stretch) -> list[tuple[Any, ...]]:
    return [(event.position, event.tenant, event.stream, event.version, event.leaf) for event in stretch.events]


# -- records


def test_an_event_on_its_own_travels_as_its_signed_body() -> None:
    event = stored(7)
    record = single(event, 5, 4, LEDGER)
    assert (record.key, record.value) == (b"acme budget:lake", event.body)
    assert dict(record.headers)["traceparent"] == f"00-{CORRELATION.replace('-', '')}-800000000000000a-01".encode()
    stretch = read(record, 3)
    assert (stretch.partition, stretch.of, stretch.after, stretch.until) == (3, 4, 5, 7)
    assert read_facts(stretch) == facts([event])
    assert read(single(event, 5, 4, LEDGER, until=9)).until == 9


@pytest.mark.parametrize("trap", ['"correlation":"x', '","correlation":"x', ',"id":"x', '{"schema":7,"id":"x"}', "\\", '\\"'])
def test_what_an_event_says_is_not_taken_for_what_is_said_of_it(trap: str) -> None:
    honest, tricky = stored(7), stored(7, filling=trap)
    body = orjson.loads(tricky.body)
    body["data"]["label"] = trap
    assert single(replace(tricky, body=orjson.dumps(body)), 5, 4, LEDGER).headers == single(honest, 5, 4, LEDGER).headers


def test_nothing_to_tell_is_told_as_well() -> None:
    stretch = read(packed((), 5, 9, 4, LEDGER))
    assert (stretch.after, stretch.until, stretch.events) == (5, 9, ())


@given(
    st.lists(st.tuples(st.integers(0, 30), st.text("abc", max_size=9)), min_size=1, max_size=2 * PACK_FROM), st.integers(1, MAX_PARTITIONS)
)
def test_whatever_was_dealt_out_each_partition_is_a_chain_of_all_its_events(dealt: list[tuple[int, str]], of: int) -> None:
    events = [stored(101 + index, f"budget:{stream}", filling=filling) for index, (stream, filling) in enumerate(dealt)]
    told = []
    for partition, records in enumerate(stretches("topic", LEDGER).records(events, 100, of)):
        reached = 100
        for record in records:
            stretch = read(record, partition)
            assert (stretch.after, stretch.of) == (reached, of)
            assert all(reached < event.position <= stretch.until for event in stretch.events)
            assert {partition_of(event.tenant, event.stream, of) for event in stretch.events} <= {partition}
            reached = stretch.until
            told += read_facts(stretch)
        assert reached == events[-1].position
    assert sorted(told) == facts(events)


def test_a_record_stays_far_below_what_a_broker_takes() -> None:
    events = [stored(position, filling="x" * 60_000) for position in range(1, 150)]
    (records,) = stretches("topic", LEDGER).records(events, 0, 1)
    assert len(records) > 20
    assert max(len(record.value) for record in records) < PACK_BYTES + 64 * 1024
    assert [event.position for record in records for event in read(record).events] == list(range(1, 150))


def test_from_so_many_on_events_share_records() -> None:
    few = [stored(position) for position in range(1, PACK_FROM)]
    assert [len(records) for records in stretches("topic", LEDGER).records(few, 0, 1)] == [PACK_FROM - 1]
    assert [len(records) for records in stretches("topic", LEDGER).records([*few, stored(PACK_FROM)], 0, 1)] == [1]


def test_a_stream_belongs_to_the_same_partition_on_every_machine_and_for_ever() -> None:
    assert partition_key("acme", "budget:lake") == b"acme budget:lake"
    assert [partition_of("acme", f"budget:{name}", 8) for name in ("lake", "river", "well", "pond")] == [4, 0, 5, 2]


# -- what is refused

EVENT: Final = single(stored(7), 5, 4, LEDGER)
MANY: Final = packed([stored(7), stored(9)], 5, 9, 4, LEDGER)


def without(record: Outgoing, name: str) -> Outgoing:
    return Outgoing(record.key, record.value, [header for header in record.headers if header[0] != name])


def saying(record: Outgoing, name: str, value: bytes) -> Outgoing:
    return Outgoing(record.key, record.value, [*without(record, name).headers, (name, value)])


@pytest.mark.parametrize(
    "record",
    [
        *(without(EVENT, name) for name in ("position", "leaf", "after", "until", "of", "ledger")),
        *(without(MANY, name) for name in ("after", "until", "of", "ledger")),
        saying(EVENT, "ledger", b"aureus.other"),
        saying(MANY, "ledger", b"aureus.other"),
        saying(EVENT, "position", b"seven"),
        saying(EVENT, "after", b""),
        saying(MANY, "events", b"3"),
        Outgoing(None, MANY.value[:-1], MANY.headers),
        Outgoing(None, MANY.value + b"\0" * 10, MANY.headers),
        Outgoing(None, b"not json", EVENT.headers),
        Outgoing(None, b"{}", EVENT.headers),
        Outgoing(None, b"[]", EVENT.headers),
        Outgoing(None, b"", EVENT.headers),
        Outgoing(None, b"hello", []),
    ],
)
def test_a_record_of_somebody_else_is_refused_with_its_partition(record: Outgoing) -> None:
    with pytest.raises(BadRecord, match="partition 3"):
        read(record, 3)


def test_a_record_without_a_value_is_refused() -> None:
    with pytest.raises(BadRecord, match="partition 0"):
        stretch_of(0, None, EVENT.headers, LEDGER)


def test_an_event_of_a_later_version_is_not_taken_for_a_bad_record() -> None:
    body = orjson.loads(EVENT.value) | {"type": "budgets.budget_dreamt"}
    with pytest.raises(UnknownEvent):
        stretch_of(0, orjson.dumps(body), EVENT.headers, LEDGER)


# -- what was shipped once


def shipped() -> dict[str, Outgoing]:
    """Records of the events that the golden ledger begins with."""
    entries = [orjson.loads(line) for line in (WIRES[-1] / "entries.jsonl").read_bytes().splitlines()[:3]]
    events = []
    for position, entry in enumerate(entries, 1):
        body = base64.b64decode(entry["payload"])
        said = orjson.loads(body)
        events.append(StoredEvent(position, said["tenant"], said["stream"], said["version"], said["type"], body, b"", b"%032d" % position))
    return {
        "single": single(events[0], 0, 4, LEDGER, 2),
        "packed": packed(events, 0, 5, 4, LEDGER),
        "watermark": packed((), 5, 9, 4, LEDGER),
    }


@pytest.mark.parametrize("name", ["single", "packed", "watermark"])
def test_records_are_what_they_were_when_they_were_shipped(name: str) -> None:
    record = shipped()[name]
    kept = json.loads((GOLDEN / f"{name}.json").read_text())
    assert (record.key.hex() if record.key else None, record.value.hex()) == (kept["key"], kept["value"])
    assert [[header, value.hex()] for header, value in record.headers] == kept["headers"]
    headers = [(header, bytes.fromhex(value)) for header, value in kept["headers"]]
    assert stretch_of(2, bytes.fromhex(kept["value"]), headers, LEDGER) == read(record, 2)


# -- the log as others read it


def test_a_cloud_event_is_read_by_their_own_library_and_keyed_by_its_stream() -> None:
    events = [stored(position, f"budget:{position % 3}") for position in range(1, 20)]
    dealt = cloudevents("topic", "aureus.test/a b").records(events, 0, 4)
    found = {}
    for partition, records in enumerate(dealt):
        for record in records:
            event = JSONFormat().read(CloudEvent, record.value)
            assert event.get_type() == "aureus.budgets.budget_opened.v1"
            assert event.get_source() == "aureus.test/a%20b/acme"
            assert record.key == f"acme {event.get_subject()}".encode()
            assert partition == partition_of("acme", event.get_subject() or "", 4)
            assert record.headers == [("content-type", b"application/cloudevents+json")]
            found[int(event.get_extension("position"))] = event.get_data()
    assert sorted(found) == list(range(1, 20))


# -- how a broker is reached


def place(home: Path, **environment: str) -> KafkaPlace | None:
    named = {f"AUREUS_{name}": value for name, value in environment.items()}
    return Settings.from_environment({"AUREUS_HOME": str(home / "home"), **named}).kafka


def test_without_the_word_there_is_no_broker(tmp_path: Path) -> None:
    assert place(tmp_path) is None
    assert place(tmp_path, STREAMS="inprocess", KAFKA_SERVERS="nonsense") is None
    assert place(tmp_path, STREAMS="kafka") == KafkaPlace()


def test_what_the_environment_says_of_the_broker(tmp_path: Path) -> None:
    roots, secret = tmp_path / "roots.pem", tmp_path / "secret"
    roots.write_text("")
    secret.touch(0o600)
    secret.write_text("not-to-be-seen\n")
    said = place(
        tmp_path,
        STREAMS="kafka",
        KAFKA_SERVERS="one.example.org:9092, [::1]:9093",
        KAFKA_TOPIC="ledger",
        KAFKA_CLOUDEVENTS_TOPIC="told",
        KAFKA_PARTITIONS="8",
        KAFKA_REPLICATION="3",
        KAFKA_TLS_ROOTS=str(roots),
        KAFKA_USER="aureus",
        KAFKA_PASSWORD_FILE=str(secret),
    )
    assert said == KafkaPlace(("one.example.org:9092", "[::1]:9093"), "ledger", "told", 8, 3, roots, "aureus", "not-to-be-seen")
    assert "not-to-be-seen" not in repr(said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAMS", "pigeon"),
        ("KAFKA_SERVERS", "localhost"),
        ("KAFKA_SERVERS", "localhost:9092,"),
        ("KAFKA_SERVERS", "http://localhost:9092"),
        ("KAFKA_TOPIC", "two words"),
        ("KAFKA_TOPIC", ".."),
        ("KAFKA_CLOUDEVENTS_TOPIC", "a/b"),
        ("KAFKA_PARTITIONS", "0"),
        ("KAFKA_PARTITIONS", "65"),
        ("KAFKA_PARTITIONS", "many"),
        ("KAFKA_REPLICATION", "-1"),
        ("KAFKA_TLS_ROOTS", "/nowhere/roots.pem"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        place(tmp_path, **{"STREAMS": "kafka", name: value})
    assert refused.value.field == f"AUREUS_{name}"
    assert refused.value.remedy


def test_a_password_goes_over_tls_only_and_has_to_be_somewhere(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="over TLS only"):
        place(tmp_path, STREAMS="kafka", KAFKA_USER="aureus", KAFKA_PASSWORD="x")
    roots, secret = tmp_path / "roots.pem", tmp_path / "secret"
    roots.touch()
    guarded = {"STREAMS": "kafka", "KAFKA_USER": "aureus", "KAFKA_TLS_ROOTS": str(roots)}
    with pytest.raises(SettingsError, match="has none"):
        place(tmp_path, **guarded)
    secret.touch(0o600)
    for mode, said in ((0o600, "is empty"), (0o640, "open to other accounts")):
        secret.chmod(mode)
        with pytest.raises(SettingsError, match=said):
            place(tmp_path, **guarded, KAFKA_PASSWORD_FILE=str(secret))
    with pytest.raises(SettingsError, match="cannot be read"):
        place(tmp_path, **guarded, KAFKA_PASSWORD_FILE=str(tmp_path / "none"))


def test_the_events_and_the_cloud_events_are_two_topics(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        place(tmp_path, STREAMS="kafka", KAFKA_TOPIC="one", KAFKA_CLOUDEVENTS_TOPIC="one")
    assert refused.value.field == "AUREUS_KAFKA_CLOUDEVENTS_TOPIC"


def test_tls_verifies_the_broker_and_a_user_is_known_by_scram() -> None:
    assert client_options(KafkaPlace())["security_protocol"] == "PLAINTEXT"
    roots = Path(ssl.get_default_verify_paths().openssl_cafile)
    options = client_options(KafkaPlace(tls_roots=roots, user="aureus", password="x"))
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert options["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert options["ssl_context"].check_hostname
    assert client_options(KafkaPlace(tls_roots=roots))["security_protocol"] == "SSL"
