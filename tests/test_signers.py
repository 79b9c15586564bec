"""Who signs for the ledger: rotation takes effect at exactly one position, whatever is in flight and in however many processes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.budgets import BudgetOpened
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRole, KeyRotated
from domain.ledger import Append, LedgerUnavailable, StreamWrite
from domain.values import uuid7
from infra.envelope import unpack_signatures
from infra.keystore import FileKeystore, FileSigner, Signer
from infra.ledger import KEYS, Ledger
from infra.opening import open_ledger
from tests.support.kernel import EVERYTHING, opened

pytestmark = pytest.mark.anyio
ROLES: tuple[KeyRole, ...] = ("service", "log")


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, keystore)
    yield opened
    await opened.close()


def opening(number: int) -> Append:
    event = BudgetOpened(budget_id=f"b-{number}", label="x", currency="EUR", limit_minor=1)
    return Append("acme", "usr-ana", (StreamWrite(f"budget:b-{number}", 0, (event,)),), uuid7())


async def rotation(ledger: Ledger, role: KeyRole, old: Signer, new: Signer) -> Append:
    """The new key for a role, and one event more in the same commit, as the command path writes them."""
    message = KeyRotated.statement(ledger.name, role, old.key_id, new.key_id, "server")
    rotated = KeyRotated(
        old_key_id=old.key_id,
        key_id=new.key_id,
        role=role,
        custody="server",
        public=base64.b64encode(new.public).decode(),
        proof=base64.b64encode(new.sign(message)).decode(),
        consent=base64.b64encode(old.sign(message)).decode(),
    )
    version = (await ledger.store.stream_heads([KEYS]))[KEYS][0]
    beside = opening(uuid7().int)
    return Append("acme", "usr-adm", (StreamWrite(KEY_STREAM, version, (rotated,), tenant=SYSTEM_TENANT), *beside.writes), uuid7())


@pytest.mark.parametrize("role", ROLES)
async def test_a_rotation_takes_effect_at_one_position_whatever_is_in_flight(ledger: Ledger, keystore: FileKeystore, role: KeyRole) -> None:
    old: Signer = getattr(keystore, role)
    new = keystore.prepare(role)
    load = [asyncio.ensure_future(ledger.append(opening(number))) for number in range(300)]
    await asyncio.sleep(0)
    turn = await ledger.append(await rotation(ledger, role, old, new))
    await asyncio.gather(*load, *(ledger.append(opening(number)) for number in range(300, 400)))
    signed_by = [unpack_signatures(event.signatures)[0][0] for event in await ledger.entries(0, EVERYTHING)]
    if role == "service":
        assert set(signed_by[3 : turn.first_position]) == {old.key_id}
        assert set(signed_by[turn.first_position :]) == {new.key_id}
    else:
        assert len(set(signed_by[3:])) == 1
        for size, public in ((3, old.public), (turn.last_position, new.public), (ledger.head.size, new.public)):
            note = await ledger.store.note(size)
            assert note is not None
            assert opened(note, ledger.name, public).size == size


@pytest.mark.parametrize("role", ROLES)
async def test_another_process_follows_a_rotation(
    database_url: str, ledger: Ledger, keystore: FileKeystore, tmp_path: Path, role: KeyRole
) -> None:
    other = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    try:
        await other.append(opening(1))
        new = keystore.prepare(role)
        await ledger.append(await rotation(ledger, role, getattr(keystore, role), new))
        await asyncio.gather(*(other.append(opening(number)) for number in range(2, 50)))
        assert getattr(other.sealer.signers, role).key_id == new.key_id
    finally:
        await other.close()


async def test_a_process_without_the_new_key_writes_nothing_more(
    database_url: str, ledger: Ledger, keystore: FileKeystore, tmp_path: Path
) -> None:
    behind = tmp_path / "copy"
    behind.mkdir(mode=0o700)
    for file in (tmp_path / "keys").iterdir():
        (behind / file.name).write_bytes(file.read_bytes())
        (behind / file.name).chmod(0o600)
    other = await open_ledger(database_url, FileKeystore.open(behind))
    try:
        await ledger.append(await rotation(ledger, "service", keystore.service, keystore.prepare("service")))
        with pytest.raises(LedgerUnavailable, match="rotated elsewhere") as refused:
            await other.append(opening(1))
        assert refused.value.code == "signing_key_missing"
    finally:
        await other.close()


async def test_nobody_rotates_to_a_key_that_is_not_here(ledger: Ledger, keystore: FileKeystore) -> None:
    size = ledger.head.size
    elsewhere = FileSigner.from_seed("service", b"\x07" * 32, "")
    with pytest.raises(LedgerUnavailable) as refused:
        await ledger.append(await rotation(ledger, "service", keystore.service, elsewhere))
    assert refused.value.code == "signing_key_missing"
    assert (await ledger.append(opening(1))).first_position == size + 1
