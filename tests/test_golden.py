"""What was shipped once is read for ever: event samples, event shapes, and the bytes that others verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domain.kernel import EVENTS, Event
from infra.verifier.ledger import Verifier
from tests.golden import EVENT_SAMPLES, WIRES, Wire, event_classes, key_of, shape, stored_shapes, wire

CLASSES = event_classes()
SAMPLES = sorted(EVENT_SAMPLES.glob("*.json"))


@pytest.mark.parametrize("event", CLASSES, ids=key_of)
def test_every_schema_ever_shipped_has_a_sample(event: type[Event]) -> None:
    wanted = [f"{event.event_name}.v{schema}.json" for schema in range(1, event.schema_version + 1)]
    missing = [name for name in wanted if not (EVENT_SAMPLES / name).exists()]
    assert missing == [], "build a sample in tests/support/samples.py, then: python -m tests.golden"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_ever_stored_still_loads(path: Path) -> None:
    name, _, schema = path.stem.rpartition(".v")
    data = json.loads(path.read_text())
    event = EVENTS.load(name, int(schema), data)
    if int(schema) == event.schema_version:
        assert event.told() == data
        assert set(type(event).model_fields) - set(data) == set(event.personal), "a sample fills in every field that is not personal"


@pytest.mark.parametrize("event", CLASSES, ids=key_of)
def test_a_changed_shape_takes_a_new_schema(event: type[Event]) -> None:
    key = key_of(event)
    known = stored_shapes()
    assert key in known, f"{key} is new: python -m tests.golden"
    assert shape(event) == known[key], (
        f"{event.__name__} has changed, and ledgers hold events of its shape {key}. Give the class "
        f"schema={event.schema_version + 1} and an upcast from schema {event.schema_version}, then: python -m tests.golden"
    )


def test_no_shape_is_forgotten() -> None:
    """An event that is no longer written must still be read: its class stays."""
    kept = {f"{event.event_name}.v{schema}" for event in CLASSES for schema in range(1, event.schema_version + 1)}
    assert sorted(set(stored_shapes()) - kept) == []


@pytest.mark.anyio
async def test_the_bytes_others_verify_do_not_change() -> None:
    made, kept = await wire(), Wire.read(WIRES[-1])
    assert made == kept, (
        "The ledger's bytes have changed, so what verified yesterday may not verify tomorrow: docs/adr/0003. If that is "
        "meant, it is a new version of the format; keep these files and add new ones."
    )


@pytest.mark.parametrize("folder", WIRES, ids=lambda folder: folder.name)
def test_bytes_written_long_ago_verify(folder: Path) -> None:
    kept = Wire.read(folder)
    verifier = Verifier()
    verifier.add(kept.entries)
    verification = verifier.finish(kept.checkpoint)
    assert (verification.problems, verification.events) == ([], 5)
