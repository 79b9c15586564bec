"""The kernel put together for a test: command paths on a ledger, the read models that follow it, and its verification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from api.services import deciders, projections
from commands.path import Ask, CommandPath
from domain.kernel import Asker, Command, Recorded
from domain.values import Role, uuid7
from infra.envelope import entry_bytes
from infra.keystore import FileKeystore, verify
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.policy import PolicyEngine
from infra.policy_bundle import Bundle
from infra.read_models import ReadModelWriter, create_read_models
from infra.rebuild import rebuild
from infra.verifier.ledger import Verifier
from infra.verifier.notes import LOG, CheckpointText, VerifierKey, log_signed, parse_checkpoint, parse_note
from infra.verifier.result import Result
from projections.engine import Projection, RowKey, touched

ANA: Final = Asker("usr-ana", "acme", frozenset({Role.ANALYST}))
BEN: Final = Asker("usr-ben", "acme", frozenset({Role.ANALYST}))
APP: Final = Asker("usr-app", "acme", frozenset({Role.APPROVER}))
ADM: Final = Asker("usr-adm", "acme", frozenset({Role.ADMIN}))
EVERYTHING: Final = 1_000_000

STAND_IN: Final = """package aureus

import rego.v1

verdict := {"outcome": "block", "results": [{"policy": "no_z", "outcome": "block", "reason": "No Z."}]} if {
	input.facts.currency == "ZZZ"
} else := {
	"outcome": "require_approval",
	"results": [{"policy": "francs", "outcome": "require_approval", "reason": "Francs need a second person."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.facts.currency == "CHF"
	input.action == "budgets.reserve_funds"
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
"""Policies of a test's own: nothing in ZZZ, and reserving in CHF takes an approver."""


def ask(command: Command, by: Asker = ANA, **circumstances: Any) -> Ask:
    return Ask(command=command, by=by, action_id=uuid7(), at=datetime.now(UTC), **circumstances)


def written(folder: Path, rego: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.rego").write_text(rego)
    return folder


@asynccontextmanager
async def policies(folder: Path, rego: str = STAND_IN) -> AsyncIterator[PolicyEngine]:
    """A running engine with the stand-in bundle written to `folder`, or with `rego` in its place."""
    engine = PolicyEngine(Bundle.read(written(folder, rego)), timeout_s=5)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@dataclass(frozen=True)
class Process:
    """What one process of Aureus holds of a database: its own ledger, and a command path on it."""

    ledger: Ledger
    path: CommandPath


@asynccontextmanager
async def processes(dsn: str, keystore: FileKeystore, engine: PolicyEngine, count: int) -> AsyncIterator[list[Process]]:
    """Several processes' worth of Aureus on one database, that know nothing of each other."""
    opened = [await open_ledger(dsn, keystore) for _ in range(count)]
    try:
        yield [Process(ledger, CommandPath(ledger, engine, deciders(), verify)) for ledger in opened]
    finally:
        for ledger in opened:
            await ledger.close()


async def verification(ledger: Ledger) -> Result:
    """The whole log, verified from its exact bytes."""
    verifier = Verifier()
    verifier.add(entry_bytes(event.body, event.signatures) for event in await ledger.entries(0, EVERYTHING))
    return verifier.finish(await ledger.store.note())


def opened(note: bytes, origin: str, log_key: bytes) -> CheckpointText:
    """What a checkpoint says, once it is certain that this log signed it with this key (32 bytes)."""
    signed = parse_note(note)
    assert log_signed(signed, VerifierKey(origin, LOG, log_key))
    return parse_checkpoint(signed.text)


async def everything(ledger: Ledger) -> list[Recorded[Any]]:
    return await ledger.read(0, EVERYTHING)


async def catch_up(dsn: str, ledger: Ledger, moved: Sequence[Projection] | None = None, batch_events: int = 100) -> int:
    """Moves the read models to the end of the log, as the runner does; returns the position reached."""
    following = tuple(moved or projections())
    await create_read_models(dsn, following)
    writer = await ReadModelWriter.connect(dsn, following)
    made_by: dict[tuple[str, RowKey], str] = {}
    try:
        assert await writer.lead_all()
        standings = (await writer.standings()).values()
        reached = min((standing.position for standing in standings if not standing.stopped), default=0)
        while batch := await ledger.read(reached, batch_events):
            each_row_has_one_stream(following, batch, made_by)
            reached = await writer.advance(batch)
    finally:
        await writer.close()
    return reached


def each_row_has_one_stream(compared: Sequence[Projection], batch: Sequence[Recorded[Any]], made_by: dict[tuple[str, RowKey], str]) -> None:
    """What `ordering="stream"` says of a projection: workers that share the streams out never meet in a row."""
    for projection in compared:
        for recorded in batch if projection.ordering == "stream" else ():
            for key in touched(projection, [recorded]):
                assert made_by.setdefault((projection.name, key), recorded.stream) == recorded.stream, f"two streams make {key}"


async def quiet(_phase: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


async def unequal(dsn: str, compared: Sequence[Projection] | None = None) -> list[str]:
    """The tables that a rebuild finds to differ from the live ones; none is swapped."""
    found = []
    for projection in compared or projections():
        built = await rebuild(dsn, projection, swap=False, accept_changes=False, progress=quiet)
        found += [f"{projection.name}.{table}" for table in built.live if built.live[table] != built.built[table]]
    return found


async def outcomes(*waiting: Any) -> list[Any]:
    """How all of them ended, exceptions included."""
    return await asyncio.gather(*waiting, return_exceptions=True)
