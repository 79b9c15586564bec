"""The samples of every event ever shipped, and the bytes of a small ledger: what was shipped once must be read for ever.

`python -m tests.golden` adds what is missing and never rewrites what is there. To change what nobody has in a ledger
yet, delete the file first.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch
from uuid import UUID

from api.services import deciders, projections
from domain.kernel import EVENTS, Event, JsonObject
from domain.ledger import Append, StreamWrite
from infra.envelope import entry_bytes
from infra.keystore import FileKeystore
from infra.opening import open_memory_ledger
from tests.support.samples import ACTION, AT, samples

GOLDEN = Path(__file__).parent / "golden"
EVENT_SAMPLES = GOLDEN / "events"
SCHEMAS = GOLDEN / "schemas.json"
WIRES = (GOLDEN / "wire", GOLDEN / "wire-2")
"""Every wire sample ever kept, each of which still verifies; the last is what is written today."""


def event_classes() -> list[type[Event]]:
    """Every event that ships: those of the domain, not those that a test makes up."""
    deciders()  # loads every context
    projections()
    return [event for event in EVENTS if event.__module__.partition(".")[0] == "domain"]


def key_of(event: type[Event]) -> str:
    return f"{event.event_name}.v{event.schema_version}"


def shape(event: type[Event]) -> JsonObject:
    """What makes two schemas the same to a reader: the JSON schema without its prose, and which fields are personal."""
    return {**_without_prose(event.model_json_schema()), "personal": {name: mark.subject for name, mark in event.personal.items()}}


def _without_prose(schema: Any, *, names: bool = False) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_prose(value, names=key in {"properties", "$defs"})
            for key, value in sorted(schema.items())
            if names or key not in {"title", "description"}
        }
    return [_without_prose(item) for item in schema] if isinstance(schema, list) else schema


def stored_shapes() -> dict[str, JsonObject]:
    shapes: dict[str, JsonObject] = json.loads(SCHEMAS.read_text()) if SCHEMAS.exists() else {}
    return shapes


# -- a ledger that comes out the same every time


@dataclass(frozen=True)
class Wire:
    """What others verify: entries in order, and the checkpoint over them."""

    entries: tuple[bytes, ...]
    checkpoint: bytes

    @classmethod
    def read(cls, folder: Path) -> Wire:
        return cls(tuple((folder / "entries.jsonl").read_bytes().splitlines()), (folder / "checkpoint.txt").read_bytes())

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "entries.jsonl").write_bytes(b"\n".join(self.entries) + b"\n")
        (folder / "checkpoint.txt").write_bytes(self.checkpoint)


@contextmanager
def _no_chance() -> Iterator[None]:
    """Clock and randomness that come out the same every time."""
    draws, ticks = count(), count(int(AT.timestamp()) * 1_000_000_000, 1_000_000)
    with (
        patch.object(os, "urandom", lambda length: next(draws).to_bytes(4, "big").rjust(length, b"\x07")[-length:]),
        patch.object(time, "time_ns", lambda: next(ticks)),
    ):
        yield


async def wire() -> Wire:
    """The bytes of a ledger with fixed keys, times and ids: its founding, one fact, and one fact with personal data."""
    given = samples()
    seeds = iter(bytes([number]) * 32 for number in range(1, 100))
    with TemporaryDirectory() as folder, _no_chance():
        keystore = FileKeystore.open(Path(folder) / "keys", seed=lambda: next(seeds))
        ledger = await open_memory_ledger(keystore, "aureus.example/golden", lambda: AT)
        for stream, name in (("budget:eu-lake", "budgets.budget_opened"), ("actor:agt-cleaner", "access.actor_registered")):
            writes = (StreamWrite(stream, 0, (given[name],)),)
            correlation = UUID(ACTION)
            await ledger.append(Append("acme", "usr-ana", writes, correlation, causation=correlation))
        rows = await ledger.entries(0, 100)
        note = await ledger.store.note()
        await ledger.close()
    assert note is not None
    return Wire(tuple(entry_bytes(row.body, row.signatures) for row in rows), note)


def main() -> None:
    """Adds what is missing."""
    EVENT_SAMPLES.mkdir(parents=True, exist_ok=True)
    given, shapes = samples(), stored_shapes()
    for event in event_classes():
        key = key_of(event)
        path = EVENT_SAMPLES / f"{key}.json"
        if not path.exists():
            path.write_text(json.dumps(given[event.event_name].told(), indent=2, ensure_ascii=False, sort_keys=True) + "\n")
            sys.stdout.write(f"added {path.name}\n")
        shapes.setdefault(key, shape(event))
    SCHEMAS.write_text(json.dumps(shapes, indent=1, sort_keys=True) + "\n")
    if not WIRES[-1].exists():
        asyncio.run(wire()).write(WIRES[-1])


if __name__ == "__main__":
    main()
