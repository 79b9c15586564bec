"""Keys on the real ledger: they come in, take over from each other under load, go, and every signature still has its key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands.access import RegisterActor
from commands.budgets import OpenBudget
from commands.keys import RevokeKey, RotateKey
from commands.outcome import Outcome
from domain.actions import ActionAllowed
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRing, KeyRole, KeyRotated, ring_of
from domain.ledger import Append, LedgerUnavailable, StreamWrite
from domain.values import Role, uuid7
from infra.envelope import entry_bytes, unpack_signatures
from infra.key_files import FileSigner
from infra.keystore import FileKeystore
from infra.verifier.ledger import Verifier
from infra.verifier.result import Result
from projections.engine import replay
from projections.keys import PROJECTION
from tests.support.kernel import ADM, ANA, BEN, EVERYTHING, Process, ask, catch_up, everything, policies, processes, unequal
from tests.support.keys import adding, new_key, rotating, signature, text

pytestmark = pytest.mark.anyio
TURNS: tuple[KeyRole, ...] = ("service", "log", "root", "service")
ANA_ADMIN, BEN_ADMIN = (replace(one, roles=frozenset({Role.ADMIN})) for one in (ANA, BEN))
"""They may open budgets."""
ALLOW = 'package aureus\n\nimport rego.v1\n\nverdict := {"outcome": "allow", "results": [{"policy": "all", "outcome": "allow"}]}\n'


@pytest.fixture
async def both(database_url: str, tmp_path: Path, keystore: FileKeystore) -> AsyncIterator[list[Process]]:
    """Two processes on one ledger, in which Ana and Ben are registered."""
    async with policies(tmp_path / "policies", ALLOW) as engine, processes(database_url, keystore, engine, 2) as opened:
        for one in (ANA, BEN):
            await allowed(opened[0].path.handle(ask(RegisterActor(actor_id=one.actor, kind=one.kind, granted_roles=tuple(one.roles)), ADM)))
        yield opened


async def allowed(handled: Awaitable[Outcome]) -> Outcome:
    outcome = await handled
    assert outcome.outcome == "allowed", (outcome.code, outcome.message)
    return outcome


async def refused(handled: Awaitable[Outcome], code: str) -> Outcome:
    outcome = await handled
    assert (outcome.outcome, outcome.code) == ("blocked", code), outcome
    return outcome


async def keys_of(process: Process) -> KeyRing:
    return ring_of(recorded.event for recorded in await process.ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))


async def turn(process: Process, keystore: FileKeystore, role: KeyRole) -> Outcome:
    """Rotates a key of the server's own, as the API does."""
    ring = await keys_of(process)
    old, new = keystore.find(ring.active(role)[-1].key_id), keystore.prepare(role, ring.keys)
    statement = KeyRotated.statement(process.ledger.name, role, old.key_id, new.key_id, new.custody)
    signed = {"proof": text(new.sign(statement)), "consent": text(old.sign(statement))}
    command = RotateKey(old_key_id=old.key_id, role=role, custody=new.custody, public=text(new.public), **signed)
    return await allowed(process.path.handle(ask(command, ADM)))


def opening(name: str) -> OpenBudget:
    return OpenBudget(budget_id=name, label=name, currency="EUR", limit_minor=1)


async def verified(process: Process) -> Result:
    """The whole ledger, from its exact bytes, as whoever does not trust us verifies it."""
    verifier = Verifier()
    verifier.add(entry_bytes(event.body, event.signatures) for event in await process.ledger.entries(0, EVERYTHING))
    return verifier.finish(await process.ledger.store.note())


async def found(process: Process) -> list[tuple[int | None, str]]:
    return [(problem.position, problem.check) for problem in (await verified(process)).problems]


async def test_keys_rotate_under_load_and_every_event_is_signed_by_the_one_in_force(
    database_url: str, both: list[Process], keystore: FileKeystore
) -> None:
    first_service = keystore.service.key_id
    turning = True
    outcomes: list[Outcome] = []

    async def work(process: Process, name: str) -> None:
        number = 0
        while turning:
            number += 1
            outcomes.append(await process.path.handle(ask(opening(f"{name}-{number}"), ADM)))

    working = [asyncio.create_task(work(process, f"w{index}-{task}")) for index, process in enumerate(both) for task in range(2)]
    for number, role in enumerate(TURNS):
        await asyncio.sleep(0.05)
        await turn(both[number % 2], keystore, role)
    await asyncio.sleep(0.05)
    turning = False
    await asyncio.gather(*working)
    assert {outcome.outcome for outcome in outcomes} == {"allowed"}
    assert len(outcomes) > 20
    await allowed(both[0].path.handle(ask(RevokeKey(key_id=first_service, reason="copied", compromised_since=4), ADM)))
    result = await verified(both[1])
    assert (result.problems, result.keys) == ([], 3 + len(TURNS))
    signed_by = [unpack_signatures(event.signatures)[0][0] for event in await both[0].ledger.entries(3, EVERYTHING)]
    assert len(set(signed_by)) == 3, "two rotations of the service key, each at one position"
    assert result.disputed == [4 + index for index, key_id in enumerate(signed_by) if key_id == first_service]
    assert await catch_up(database_url, both[0].ledger) == (await both[0].ledger.refresh()).size
    assert await unequal(database_url, [PROJECTION]) == []


async def test_a_rotation_to_a_key_that_is_not_here_is_not_written(both: list[Process], keystore: FileKeystore) -> None:
    """Whoever holds a copy of the service key cannot make the server sign with a key of their own."""
    assert isinstance(keystore.service, FileSigner)
    ledger = both[0].ledger
    theirs = rotating(ledger.name, keystore.service, new_key("service", None))
    with pytest.raises(LedgerUnavailable, match="not in") as failed:
        await both[0].path.handle(ask(theirs, ADM))
    assert failed.value.code == "signing_key_missing"
    assert (await allowed(both[0].path.handle(ask(opening("after"), ADM)))).position == ledger.head.size
    assert await found(both[0]) == []


async def test_from_the_moment_a_key_is_in_its_holder_signs_whichever_process_is_asked(
    database_url: str, both: list[Process], keystore: FileKeystore
) -> None:
    here, there = both
    name, key = here.ledger.name, new_key()
    await allowed(there.path.handle(ask(opening("warm"), ANA_ADMIN)))
    await allowed(here.path.handle(ask(adding(name, key, keystore.root), ANA)))
    command = opening("mine")
    await refused(there.path.handle(ask(command, ANA_ADMIN)), "signature_missing")
    outcome = await allowed(there.path.handle(ask(command, ANA_ADMIN, signature=signature(name, ANA, command, key))))
    await allowed(there.path.handle(ask(opening("bens"), BEN_ADMIN)))
    event = (await everything(here.ledger))[outcome.position - 1].event
    assert isinstance(event, ActionAllowed)
    assert event.signature is not None
    assert event.signature.key_id == key.key_id
    result = await verified(here)
    assert (result.problems, result.request_signatures) == ([], 1)


async def test_a_key_ends_at_once_in_every_process(both: list[Process], keystore: FileKeystore) -> None:
    here, there = both
    name, first, second = here.ledger.name, new_key(), new_key()
    await allowed(here.path.handle(ask(adding(name, first, keystore.root), ANA)))
    handing_on = rotating(name, first, second)
    await allowed(here.path.handle(ask(handing_on, ANA, signature=signature(name, ANA, handing_on, first))))
    command = opening("a")
    await refused(there.path.handle(ask(command, ANA_ADMIN, signature=signature(name, ANA, command, first))), "signature_invalid")
    await allowed(there.path.handle(ask(command, ANA_ADMIN, signature=signature(name, ANA, command, second))))
    await allowed(here.path.handle(ask(RevokeKey(key_id=second.key_id, reason="lost"), ADM)))
    later = opening("b")
    await refused(there.path.handle(ask(later, ANA_ADMIN, signature=signature(name, ANA, later, second))), "signature_invalid")
    # With no key in force, nothing has to be signed any more: the ledger says since when.
    await allowed(there.path.handle(ask(later, ANA_ADMIN)))
    result = await verified(here)
    assert (result.problems, result.request_signatures) == ([], 2)


async def test_what_is_recorded_in_the_name_of_who_signs_is_found_by_whoever_verifies(both: list[Process], keystore: FileKeystore) -> None:
    """By somebody with the service key and the database, who writes past the command path."""
    here = both[0]
    name, key, other = here.ledger.name, new_key(), new_key(holder="acme/usr-ben")
    await allowed(here.path.handle(ask(adding(name, key, keystore.root), ANA)))
    await allowed(here.path.handle(ask(adding(name, other, keystore.root), BEN)))
    command = opening("mine")
    signed = await allowed(here.path.handle(ask(command, ANA_ADMIN, signature=signature(name, ANA, command, key))))
    action = (await everything(here.ledger))[signed.position - 1].event
    assert isinstance(action, ActionAllowed)
    assert await found(here) == []

    async def forge(**changed: Any) -> int:
        forged = action.model_copy(update={**changed, "outputs": ()})
        write = StreamWrite(f"action:{uuid7()}", 0, (forged,))
        return (await here.ledger.append(Append("acme", "usr-ana", (write,), uuid7()))).last_position

    later = opening("later")
    raised = action.intent.model_copy(update={"digest": later.digest(), "inputs": later.intent()})
    changed = action.intent.model_copy(update={"inputs": later.intent()})
    forgeries = [
        await forge(signature=None),
        await forge(),
        await forge(intent=raised),
        await forge(intent=changed, signature=signature(name, ANA, command, key)),
        await forge(intent=raised, signature=signature(name, ANA, later, other)),
        await forge(intent=raised, signature=signature(name, BEN, later, other)),
        await forge(intent=raised, signature=signature("aureus.test/other", ANA, later, key)),
    ]
    assert await found(here) == [(position, "request") for position in forgeries]


async def test_commands_under_way_when_a_key_comes_in_are_decided_again(both: list[Process], keystore: FileKeystore) -> None:
    here, there = both
    name, key = here.ledger.name, new_key()
    waiting = [asyncio.create_task(there.path.handle(ask(opening(f"u{number}"), ANA_ADMIN))) for number in range(40)]
    await asyncio.sleep(0)
    added = await allowed(here.path.handle(ask(adding(name, key, keystore.root), ANA)))
    unsigned = [outcome.position for outcome in await asyncio.gather(*waiting) if outcome.outcome == "allowed"]
    assert [position for position in unsigned if position > added.position] == []


async def test_what_people_read_of_a_key_is_its_whole_life(database_url: str, both: list[Process], keystore: FileKeystore) -> None:
    here = both[0]
    name, first, second = here.ledger.name, new_key(), new_key()
    came = await allowed(here.path.handle(ask(adding(name, first, keystore.root), ANA)))
    handing_on = rotating(name, first, second)
    went = await allowed(here.path.handle(ask(handing_on, ANA, signature=signature(name, ANA, handing_on, first))))
    lost = await allowed(here.path.handle(ask(RevokeKey(key_id=first.key_id, reason="copied", compromised_since=came.position), ADM)))
    await catch_up(database_url, here.ledger)
    rows = {key[2]: row for key, row in replay(PROJECTION, await everything(here.ledger)).items()}
    assert await unequal(database_url, [PROJECTION]) == []
    old, new = rows[first.key_id], rows[second.key_id]
    assert (old.status, old.holder, old.replaced_by, old.reason) == ("revoked", "acme/usr-ana", second.key_id, "copied")
    assert (old.added_position, old.ended_position, old.revoked_position) == (came.position - 1, went.position - 1, lost.position - 1)
    assert (new.status, new.holder, new.replaces, new.added_position) == ("active", "acme/usr-ana", first.key_id, went.position - 1)
    assert [(row.role, row.status) for row in rows.values()][:3] == [("root", "active"), ("log", "active"), ("service", "active")]


async def test_a_key_of_the_same_name_in_another_tenant_is_somebody_elses(both: list[Process], keystore: FileKeystore) -> None:
    here, _ = both
    name, theirs = here.ledger.name, new_key(holder="other/usr-ana")
    namesake, boss = replace(ANA_ADMIN, tenant="other"), replace(ADM, tenant="other")
    await allowed(here.path.handle(ask(RegisterActor(actor_id=ANA.actor, kind=ANA.kind, granted_roles=(Role.ADMIN,)), boss)))
    command = adding(name, theirs, keystore.root)
    await refused(here.path.handle(ask(command, ANA)), "key_of_another")
    await allowed(here.path.handle(ask(command, namesake)))
    await allowed(here.path.handle(ask(opening("mine"), ANA_ADMIN)))
    await refused(here.path.handle(ask(opening("theirs"), namesake)), "signature_missing")
    forged = opening("forged")
    await refused(here.path.handle(ask(forged, ANA_ADMIN, signature=signature(name, ANA, forged, theirs))), "signature_invalid")
    await refused(here.path.handle(ask(RevokeKey(key_id=theirs.key_id, reason="envy"), ADM)), "key_of_another")
    assert await found(here) == []
