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
from hashlib import sha256
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch
from uuid import UUID

from api.services import deciders, projections
from domain.kernel import EVENTS, Event, JsonObject, json_digest
from domain.ledger import Append, StreamWrite
from infra.envelope import entry_bytes
from infra.keystore import FileKeystore
from infra.opening import open_memory_ledger
from tests.support.samples import ACTION, AT, samples

GOLDEN = Path(__file__).parent / "golden"
EVENT_SAMPLES = GOLDEN / "events"
SCHEMAS = GOLDEN / "schemas.json"
DIGESTS = "SHA256SUMS"
"""What each file of the folder, and each shape of schemas.json, has to be: a line is added for what is new, and none is ever changed."""
WIRES = (GOLDEN / "wire", GOLDEN / "wire-2", GOLDEN / "wire-3")
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


def reshaped(event: type[Event], key: str) -> str | None:
    """What to do about an event whose shape is not the one that is kept under this key; None when it is."""
    kept = stored_shapes().get(key)
    if kept is None:
        return f"{key} is new: python -m tests.golden"
    if shape(event) == kept:
        return None
    return (
        f"{event.__name__} has changed, and ledgers hold events of its shape {key}. Give the class schema={event.schema_version + 1} "
        f"and an upcast from schema {event.schema_version}, then: python -m tests.golden"
    )


# -- digests, so that nobody mends yesterday by hand


def digests(golden: Path) -> dict[str, str]:
    """SHA-256 by name, of every file in a golden folder and of every shape: `schemas.json#budgets.budget_opened.v1`."""
    files = sorted(path for path in golden.rglob("*") if path.is_file() and path.name not in {DIGESTS, SCHEMAS.name})
    found = {path.relative_to(golden).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}
    shapes: dict[str, JsonObject] = json.loads((golden / SCHEMAS.name).read_text()) if (golden / SCHEMAS.name).exists() else {}
    return found | {f"{SCHEMAS.name}#{key}": json_digest(each) for key, each in shapes.items()}


def kept_digests(golden: Path) -> dict[str, str]:
    lines = (golden / DIGESTS).read_text().splitlines() if (golden / DIGESTS).exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def edited(golden: Path = GOLDEN) -> list[str]:
    """What in a golden folder is no longer what was kept: each with its name, and what to do instead."""
    found, kept = digests(golden), kept_digests(golden)
    remedy = "Put it back (git checkout), and give the event a new schema with an upcast: docs/contributing.md."
    changed = [f"{name} was edited by hand. {remedy}" for name in kept if found.get(name, kept[name]) != kept[name]]
    gone = [f"{name} is gone. {remedy}" for name in kept if name not in found]
    return changed + gone + [f"{name} is new: python -m tests.golden" for name in found if name not in kept]


def keep_digests(golden: Path, fresh: set[str]) -> None:
    """Adds the digests of what is new; `fresh` was just written."""
    found = digests(golden)
    kept = {name: digest for name, digest in kept_digests(golden).items() if name not in fresh}
    lines = [f"{digest}  {name}" for name, digest in sorted((found | kept).items())]
    (golden / DIGESTS).write_text("\n".join(lines) + "\n")


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
    given, shapes, fresh = samples(), stored_shapes(), set[str]()
    for event in event_classes():
        key = key_of(event)
        path = EVENT_SAMPLES / f"{key}.json"
        if not path.exists():
            path.write_text(json.dumps(given[event.event_name].told(), indent=2, ensure_ascii=False, sort_keys=True) + "\n")
            sys.stdout.write(f"added {path.name}\n")
            fresh.add(f"{EVENT_SAMPLES.name}/{path.name}")
        if key not in shapes:
            shapes[key] = shape(event)
            fresh.add(f"{SCHEMAS.name}#{key}")
    SCHEMAS.write_text(json.dumps(shapes, indent=1, sort_keys=True) + "\n")
    if not WIRES[-1].exists():
        asyncio.run(wire()).write(WIRES[-1])
        fresh |= {f"{WIRES[-1].name}/{path.name}" for path in WIRES[-1].iterdir()}
    keep_digests(GOLDEN, fresh)
    sys.stdout.write("".join(f"{told}\n" for told in edited()))


if __name__ == "__main__":
    main()
