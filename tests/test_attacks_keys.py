"""Attacks by those who hold keys: whatever they sign, the ledger's own rules say who may sign what, where, and once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from commands.budgets import OpenBudget
from domain.budgets import BudgetOpened
from domain.kernel import Event
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyAdded, KeyRevoked, KeyRole, KeyRotated
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore, Signer
from infra.ledger import Ledger
from infra.opening import open_ledger, open_memory_ledger
from infra.request_signing import sign
from tests.support.forging import Operator, findings, owning, verified
from tests.support.keys import new_key, text

pytestmark = pytest.mark.anyio
LAST: Final = 5
NEXT: Final = LAST + 1
AT: Final = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    """Positions 1 to 3 are the founding keys, 4 and 5 two budgets."""
    opened = await open_ledger(database_url, keystore)
    for name in ("a", "b"):
        await opened.append(budget(name))
    assert await findings(opened) == set()
    yield opened
    await opened.close()


@pytest.fixture
async def operator(ledger: Ledger, database_url: str, keystore: FileKeystore) -> AsyncIterator[Operator]:
    async with owning(database_url) as owner:
        yield Operator(owner.connection, ledger.name, keystore, keystore.log)


def budget(name: str) -> Append:
    event = BudgetOpened(budget_id=name, label="Lake", currency="EUR", limit_minor=1)
    return Append("acme", "usr-ana", (StreamWrite(f"budget:{name}", 0, (event,)),), uuid7())


def signed(by: Signer, statement: bytes) -> str:
    return text(by.sign(statement))


async def test_an_event_that_follows_every_rule_is_not_found(ledger: Ledger, operator: Operator) -> None:
    """So whatever the attacks below are found by, it is what they break."""
    await operator.append(operator.keys.service, stream="budget:c")
    assert await findings(ledger) == set()


# -- replays


async def test_an_event_that_is_appended_again_is_found(ledger: Ledger, operator: Operator) -> None:
    """Byte for byte: it still says which version it is, and what came before."""
    await operator.run("ALTER TABLE ledger.events DROP CONSTRAINT events_tenant_stream_version_key")
    assert await operator.insert(*await operator.row(LAST)) == NEXT
    assert await findings(ledger) == {(NEXT, "stream")}


async def test_an_event_that_is_made_to_fit_again_under_its_old_id_is_found(ledger: Ledger, operator: Operator) -> None:
    old = (await ledger.read(LAST - 1, 1))[0]
    await operator.append(operator.keys.service, id=str(old.id))
    assert await findings(ledger) == {(NEXT, "replay")}


async def test_an_event_of_another_ledger_under_the_same_keys_is_found(ledger: Ledger, operator: Operator) -> None:
    """Both ledgers are real, and so is the signature: it is of the other."""
    other = await open_memory_ledger(operator.keys)
    await other.append(budget("c"))
    stored = (await other.entries(3, 1))[0]
    await operator.insert(stored.body, stored.signatures)
    assert await findings(ledger) == {(NEXT, "ledger")}
    await other.close()


async def test_a_checkpoint_of_another_ledger_under_the_same_keys_is_found(ledger: Ledger, operator: Operator) -> None:
    other = await open_memory_ledger(operator.keys)
    for name in ("c", "d"):
        await other.append(budget(name))
    await operator.run("UPDATE ledger.head SET note = %s", other.head.note)
    assert await findings(ledger) == {(None, "checkpoint")}
    await other.close()


async def test_an_event_put_back_in_time_is_found(ledger: Ledger, operator: Operator) -> None:
    await operator.append(operator.keys.service, stream="budget:c", at="2020-01-01T00:00:00.000000Z")
    assert await findings(ledger) == {(NEXT, "time")}


# -- keys


@dataclass
class KeyStream:
    """Writes key events by hand, as whoever runs the ledger could: everything in them is right unless it is said otherwise."""

    operator: Operator

    async def write(self, event: Event, by: Signer | None = None, **members: Any) -> int:
        place = {"tenant": SYSTEM_TENANT, "stream": KEY_STREAM, "type": event.event_name, "schema": event.schema_version, "_sd": []}
        return await self.operator.append(by or self.operator.keys.service, **{**place, "data": event.dump(), **members})

    def added(self, key: Signer, role: KeyRole = "service", by: Signer | None = None, holder: str | None = None, **said: Any) -> KeyAdded:
        """The key with the root key's leave, or that of `by`."""
        root, ledger = by or self.operator.keys.root, self.operator.ledger
        return KeyAdded(
            **{
                "key_id": key.key_id,
                "role": role,
                "custody": "server",
                "public": text(key.public),
                "proof": signed(key, KeyAdded.statement(ledger, role, key.key_id)),
                "authorised_by": root.key_id,
                "holder": holder,
                "authorisation": signed(root, KeyAdded.authorisation_statement(ledger, role, key.key_id, "server", holder)),
                **said,
            }
        )

    def rotated(self, old: Signer, new: Signer, role: KeyRole = "service", **said: Any) -> KeyRotated:
        statement = KeyRotated.statement(self.operator.ledger, role, old.key_id, new.key_id, "server")
        return KeyRotated(
            **{
                "old_key_id": old.key_id,
                "key_id": new.key_id,
                "role": role,
                "custody": "server",
                "public": text(new.public),
                "proof": signed(new, statement),
                "consent": signed(old, statement),
                **said,
            }
        )


@pytest.fixture
def keys(operator: Operator) -> KeyStream:
    return KeyStream(operator)


async def test_a_key_signs_only_what_its_role_may(ledger: Ledger, operator: Operator) -> None:
    held = operator.keys
    wrong = [await operator.append(key, stream=f"budget:{key.key_id}") for key in (held.log, held.root, held.token, held.vault)]
    assert await findings(ledger) == {(position, "key") for position in wrong}


async def test_a_key_id_that_is_swapped_for_another_is_found(ledger: Ledger, operator: Operator, keys: KeyStream) -> None:
    """The envelope names whose signature it is, and the signed body names it too: they have to agree, also when both keys are good."""
    other = new_key()
    await keys.write(keys.added(other))
    swapped = await operator.append(operator.keys.service, stream="budget:c", key=other.key_id)
    assert await findings(ledger) == {(swapped, "key")}


async def test_a_key_signs_nothing_before_it_was_added_nor_after_it_went(ledger: Ledger, operator: Operator, keys: KeyStream) -> None:
    first, second, third = operator.keys.service, new_key(), new_key()
    wrong = [await operator.append(second, stream="budget:early")]
    await keys.write(keys.rotated(first, second))
    wrong += [await operator.append(first, stream="budget:late")]
    await keys.write(keys.added(third), second)
    await operator.append(third, stream="budget:good")
    await keys.write(KeyRevoked(key_id=third.key_id, reason="It was lost."), second)
    wrong += [await operator.append(third, stream="budget:later")]
    wrong += [await keys.write(keys.added(third), second)]
    wrong += [await operator.append(third, stream="budget:last")]
    assert await findings(ledger) == {(position, "key") for position in wrong}


async def test_no_key_gets_in_without_leave_nor_without_proof(ledger: Ledger, operator: Operator, keys: KeyStream) -> None:
    held, other = operator.keys, new_key()

    attempts = {
        "leave of the service key": keys.added(new_key(), by=held.service),
        "leave of a stranger": keys.added(new_key(), by=other),
        "no leave": keys.added(new_key(), authorised_by=None, authorisation=None),
        "leave for another role": keys.added(other, authorisation=keys.added(other, "log").authorisation),
        "leave for another custody": keys.added(new_key()).model_copy(update={"custody": "kms"}),
        "leave for another holder": keys.added(new_key(), "actor", holder="acme/usr-ana").model_copy(update={"holder": "acme/usr-eve"}),
        "proof of another key": keys.added(new_key(), proof=keys.added(other).proof),
        "an id of another key": keys.added(new_key(), key_id=other.key_id),
        "a second root key": keys.added(new_key(), "root"),
        "a rotation without consent": keys.rotated(held.service, stolen := new_key(), consent=keys.rotated(stolen, new_key()).consent),
        "a rotation without proof": keys.rotated(held.service, new_key(), proof=keys.rotated(held.service, other).proof),
        "a rotation into another role": keys.rotated(held.service, new_key(), "log"),
        "a rotation of no key": keys.rotated(other, new_key()),
    }
    wrong = {what: await keys.write(event) for what, event in attempts.items()}
    wrong["outside the key stream"] = await keys.write(keys.added(new_key()), stream="budget:c")
    wrong["in another tenant"] = await keys.write(keys.added(new_key()), tenant="acme", stream="keys:other")
    found = await findings(ledger)
    assert {what: (position, "key") in found for what, position in wrong.items()} == dict.fromkeys(wrong, True)
    assert {position for position, _ in found} == set(wrong.values())


async def test_what_a_thief_signed_is_disputed_once_it_is_known_since_when(ledger: Ledger, operator: Operator, keys: KeyStream) -> None:
    """A thief of the service key gets an event in. The key is rotated, then revoked as of that moment."""
    stolen, fresh = operator.keys.service, new_key()
    theirs = await operator.append(stolen, stream="budget:theirs")
    rotated = await keys.write(keys.rotated(stolen, fresh))
    ours = await operator.append(fresh, stream="budget:ours")
    await keys.write(KeyRevoked(key_id=stolen.key_id, reason="It was stolen.", compromised_since=theirs), fresh)
    result = await verified(ledger)
    assert (result.problems, result.disputed) == ([], [theirs, rotated])
    assert ours not in result.disputed
    late = await operator.append(stolen, stream="budget:late")
    assert await findings(ledger) == {(late, "key")}


async def test_what_a_stolen_log_key_signs_counts_for_nothing_without_a_witness(
    ledger: Ledger, operator: Operator, keys: KeyStream
) -> None:
    """What it signs for the log as it is, is refused. Cut back to before the theft was known, only what others kept tells."""
    stolen, fresh = operator.keys.log, new_key()
    await keys.write(keys.rotated(stolen, fresh, "log"))
    operator.log = fresh
    await keys.write(KeyRevoked(key_id=stolen.key_id, reason="It was stolen.", compromised_since=LAST))
    assert await findings(ledger) == set()
    genuine = (await ledger.refresh()).note
    operator.log = stolen
    await operator.sign_tree()
    assert await findings(ledger) == {(None, "checkpoint")}
    await operator.run("DELETE FROM ledger.events WHERE position > %s", LAST)
    await operator.rewrite(LAST, lambda body: body.replace(b'"limit_minor":1', b'"limit_minor":9'))
    assert await findings(ledger) == set()
    assert await findings(ledger, genuine) == {(None, "checkpoint")}


def action(operator: Operator, key: Signer | None, nonce: str = "01990000-0000-7000-8000-000000000001", **changed: Any) -> dict[str, Any]:
    """The members of an action of Ana's, signed with a key of her own if she has one; `changed` are inputs that she never saw."""
    command = OpenBudget(budget_id="c", label="C", currency="EUR", limit_minor=1)
    intent = {"command": command.command_name, "digest": command.digest(), "inputs": {**command.intent(), **changed}}
    data = {"intent": {**intent, "kind": "person", "roles": ["analyst"], "seen_version": 0, "stream": "budget:c"}, "policy_version": "1"}
    if key is not None:
        signature = sign(operator.ledger, "acme", "usr-ana", command.command_name, command.digest(), key, AT, nonce)
        data["signature"] = signature.model_dump()
    return {"stream": f"action:{uuid7()}", "type": "actions.action_allowed", "schema": 3, "actor": "usr-ana", "data": data}


async def test_nobody_acts_in_the_name_of_somebody_with_a_key_of_their_own(ledger: Ledger, operator: Operator, keys: KeyStream) -> None:
    hers, service = new_key(), operator.keys.service
    await keys.write(keys.added(hers, "actor", holder="acme/usr-ana"))
    await operator.append(service, **action(operator, hers))
    other = "01990000-0000-7000-8000-000000000002"
    wrong = {
        "without a signature": await operator.append(service, **action(operator, None)),
        "with a signature of somebody else": await operator.append(service, **action(operator, new_key(), other)),
        "with other inputs than she signed": await operator.append(service, **action(operator, hers, other, limit_minor=9)),
        "a second time": await operator.append(service, **action(operator, hers)),
        "in another tenant": await operator.append(service, **{**action(operator, hers, other), "tenant": "globex"}),
    }
    assert await findings(ledger) == {(position, "request") for position in wrong.values()}
