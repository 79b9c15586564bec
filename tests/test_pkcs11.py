"""Keys in a token: they sign a whole ledger and never leave, and a token that is gone, locked or wrong signs nothing."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from domain.kernel import Asker
from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyRing, KeyRole, KeyRotated, ring_of
from domain.ledger import Append, LedgerUnavailable, StreamWrite
from domain.values import Role, uuid7
from infra.keystore import ROLES, FileKeystore, FileSigner, KeystoreError, Signer, key_id, verify
from infra.ledger import Ledger
from infra.opening import SYSTEM_ACTOR, open_ledger
from infra.pkcs11_keys import REST_SECONDS, Pkcs11Keys, label_of, open_keystore
from infra.settings import Settings, SettingsError
from tests.support.kernel import everything, verification
from tests.support.running import running
from tests.support.softhsm import LABEL, MODULE, PIN, SoftHsm
from tests.support.writer import pair

pytestmark = pytest.mark.anyio
MESSAGE = b"a governed fact"
PAIRS = 5
ADA = Asker("usr-ada", "acme", frozenset({Role.ADMIN}))
LENIENT = 'package aureus\n\nverdict := {"outcome": "allow", "results": [{"policy": "all", "outcome": "allow"}]}\n'
BUDGET = {"budget_id": "lake", "label": "L", "currency": "EUR", "limit_minor": 1}


def environment(tmp_path: Path, **changed: str) -> dict[str, str]:
    said = {"AUREUS_PKCS11_MODULE": str(MODULE), "AUREUS_PKCS11_TOKEN": LABEL, "AUREUS_PKCS11_PIN": PIN}
    return {"AUREUS_HOME": str(tmp_path / "home"), **said, **changed}


def keystore(tmp_path: Path, **changed: str) -> FileKeystore:
    return open_keystore(Settings.from_environment(environment(tmp_path, **changed)))


@asynccontextmanager
async def opened(dsn: str, keys: FileKeystore) -> AsyncIterator[Ledger]:
    ledger = await open_ledger(dsn, keys)
    try:
        yield ledger
    finally:
        await ledger.close()


async def written(ledger: Ledger, pairs: int = PAIRS) -> None:
    for _ in range(pairs):
        await ledger.append(pair(uuid7().hex, 0))


async def ring(ledger: Ledger) -> KeyRing:
    return ring_of(recorded.event for recorded in await ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))


async def rotated(ledger: Ledger, role: KeyRole, old: Signer, new: Signer) -> None:
    """The rotation, as whoever may ask for it has it recorded."""
    statement = KeyRotated.statement(ledger.name, role, old.key_id, new.key_id, new.custody)
    public, proof, consent = (base64.b64encode(raw).decode() for raw in (new.public, new.sign(statement), old.sign(statement)))
    event = KeyRotated(
        old_key_id=old.key_id, key_id=new.key_id, role=role, custody=new.custody, public=public, proof=proof, consent=consent
    )
    version = len(await ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))
    await ledger.append(Append(SYSTEM_TENANT, SYSTEM_ACTOR, (StreamWrite(KEY_STREAM, version, (event,)),), uuid7()))


async def signers_of_events(ledger: Ledger) -> list[str]:
    return [event.signatures[:32].hex() for event in await ledger.entries(0, 10_000)]


# -- a key in the token


def test_a_key_is_made_in_the_token_and_does_not_leave_it(softhsm: SoftHsm) -> None:
    made = softhsm.keys().generate("log")
    (signer,) = softhsm.keys().signers("log")
    assert signer == made
    assert (signer.key_id, signer.custody) == (key_id(signer.public), "kms")
    assert verify(signer.public, MESSAGE, signer.sign(MESSAGE))
    with pkcs11.lib(str(MODULE)).get_token(token_label=LABEL).open() as session:
        (private,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: "aureus-log"})
        flags = [private[name] for name in (Attribute.SENSITIVE, Attribute.NEVER_EXTRACTABLE, Attribute.PRIVATE, Attribute.LOCAL)]
        assert flags == [True] * 4
        with pytest.raises(pkcs11.AttributeSensitive):
            _ = private[Attribute.VALUE]


async def test_any_thread_may_sign(softhsm: SoftHsm) -> None:
    keys = softhsm.keys("log", "service")
    signers = [*keys.signers("log"), *keys.signers("service")] * 8
    signatures = await asyncio.gather(*(asyncio.to_thread(signer.sign, MESSAGE) for signer in signers))
    assert all(verify(signer.public, MESSAGE, signature) for signer, signature in zip(signers, signatures, strict=True))


def test_a_signature_that_does_not_hold_is_never_given_out(softhsm: SoftHsm) -> None:
    keys = softhsm.keys("log", "service")
    (log,), (service,) = keys.signers("log"), keys.signers("service")
    # A handle that leads to another key than it did: noticed, and looked up again.
    keys._keys[log.key_id] = (log, keys._keys[service.key_id][1])
    assert verify(log.public, MESSAGE, log.sign(MESSAGE))
    # A token that keeps signing wrongly: what it signs is not what this public key verifies.
    with pytest.raises(LedgerUnavailable, match="signatures that do not hold") as refused:
        replace(log, public=service.public).sign(MESSAGE)
    assert refused.value.code == "signer_unavailable"
    assert "Have it examined" in refused.value.remedy


@pytest.mark.parametrize(
    ("sensitive", "extractable", "with_public", "rule"),
    [(True, True, True, "can be taken out"), (False, False, True, "can be taken out"), (True, False, False, "without its public part")],
)
def test_a_key_that_is_not_safe_in_there_is_refused(
    softhsm: SoftHsm, sensitive: bool, extractable: bool, with_public: bool, rule: str
) -> None:
    keys = softhsm.keys()
    with pkcs11.lib(str(MODULE)).get_token(token_label=LABEL).open(rw=True) as session:
        curve = session.create_domain_parameters(KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: bytes.fromhex("06032b6570")}, local=True)
        public, _ = curve.generate_keypair(
            id=b"1",
            label=label_of("log"),
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            private_template={Attribute.SENSITIVE: sensitive, Attribute.EXTRACTABLE: extractable},
        )
        if not with_public:
            public.destroy()
        with pytest.raises(KeystoreError, match=rule) as refused:
            keys.signers("log")
    assert refused.value.field == "AUREUS_PKCS11_TOKEN"


# -- a ledger signed by a token


@pytest.mark.parametrize("roles", ["log,service", "root,log,service"])
async def test_a_ledger_is_founded_with_keys_in_a_token(softhsm: SoftHsm, database_url: str, tmp_path: Path, roles: str) -> None:
    made = softhsm.keys(*roles.split(","))
    async with opened(database_url, keystore(tmp_path, AUREUS_PKCS11_ROLES=roles)) as ledger:
        await written(ledger)
        assert {key.role for key in (await ring(ledger)).keys.values() if key.custody == "kms"} == set(roles.split(","))
        assert (await signers_of_events(ledger))[3:] == [made.signers("service")[0].key_id] * 2 * PAIRS
        assert ledger.sealer._helper is None, "no process beside this one can sign with a key that does not leave the token"
    files = {path.name for path in (tmp_path / "home" / "keys").iterdir()}
    assert files == {f"{role}.key" for role in ROLES if role not in roles.split(",")}
    async with opened(database_url, keystore(tmp_path, AUREUS_PKCS11_ROLES=roles)) as ledger:
        await written(ledger)
        assert (await verification(ledger)).ok


async def test_log_and_service_keys_move_into_a_token_while_it_writes(softhsm: SoftHsm, database_url: str, tmp_path: Path) -> None:
    files = open_keystore(Settings.from_environment({"AUREUS_HOME": str(tmp_path / "home")}))
    async with opened(database_url, files) as ledger:
        await written(ledger)

    softhsm.keys("log", "service")
    keys = keystore(tmp_path)
    assert (keys.log, keys.service) == (files.log, files.service), "who signs now, signs until the ledger says otherwise"
    async with opened(database_url, keys) as ledger:
        writing = asyncio.create_task(written(ledger, 20))
        await rotated(ledger, "log", keys.log, keys.prepare("log"))
        await rotated(ledger, "service", keys.service, keys.prepare("service"))
        await writing
        await written(ledger)
        assert {key.role for key in (await ring(ledger)).keys.values() if key.custody == "kms"} == {"log", "service"}
        assert set((await signers_of_events(ledger))[3:]) == {files.service.key_id, keys.service.key_id}
        assert keys.service.custody == "kms"
        assert ledger.sealer._helper is None

    folder = tmp_path / "home" / "keys"
    assert sorted(path.name for path in folder.glob("*.key")) == ["root.key", "token.key", "vault.key"]
    assert {path.name for path in (folder / "old").iterdir()} == {
        f"{signer.role}-{signer.key_id[:16]}.key" for signer in (files.log, files.service) if isinstance(signer, FileSigner)
    }
    async with opened(database_url, keystore(tmp_path)) as ledger:
        await written(ledger)
        assert (await verification(ledger)).ok


async def test_one_key_of_a_token_takes_over_from_another(softhsm: SoftHsm, database_url: str, tmp_path: Path) -> None:
    token = softhsm.keys("log", "service")
    keys = keystore(tmp_path)
    async with opened(database_url, keys) as ledger:
        with pytest.raises(KeystoreError, match="no new key for this role") as refused:
            keys.prepare("service", (await ring(ledger)).keys)
        assert "aureus keys pkcs11 generate --role service" in refused.value.remedy
        new = token.generate("service")
        assert keys.prepare("service", (await ring(ledger)).keys) == new
        await rotated(ledger, "service", keys.service, new)
        await written(ledger)

    # Both are in there under one label: which of them signs, the ledger says.
    keys = keystore(tmp_path)
    async with opened(database_url, keys) as ledger:
        assert keys.service == new
        await written(ledger)
        assert set((await signers_of_events(ledger))[4:]) == {new.key_id}
        assert (await verification(ledger)).ok
        for _ in range(2):
            token.generate("service")
        with pytest.raises(KeystoreError, match="several new keys"):
            keys.prepare("service", (await ring(ledger)).keys)


async def test_a_token_that_is_taken_away_and_put_back(softhsm: SoftHsm, database_url: str, tmp_path: Path) -> None:
    softhsm.keys("log", "service")
    async with opened(database_url, keystore(tmp_path)) as ledger:
        await written(ledger)
        size = ledger.head.size
        softhsm.take_away()
        for _ in range(2):
            with pytest.raises(LedgerUnavailable, match="service key does not sign: the token 'aureus-tests' is not there") as refused:
                await written(ledger)
            assert refused.value.code == "signer_unavailable"
        assert (ledger.head.size, (await ledger.refresh()).size) == (size, size)
        softhsm.put_back()
        await asyncio.sleep(REST_SECONDS)
        await written(ledger)
        assert ledger.head.size == size + 2 * PAIRS
        assert (await verification(ledger)).ok


async def test_two_processes_sign_with_one_token(softhsm: SoftHsm, database_url: str, tmp_path: Path) -> None:
    softhsm.keys("log", "service")
    command = [sys.executable, "-m", "tests.support.token_writer", str(PAIRS)]
    named = {**os.environ, **environment(tmp_path), "DATABASE_URL": database_url}
    async with opened(database_url, keystore(tmp_path)) as ledger:
        other = await asyncio.to_thread(subprocess.Popen, command, env=named)
        ours = 0
        while other.poll() is None:
            await written(ledger, 1)
            ours += 1
            await asyncio.sleep(0.02)
        assert other.returncode == 0
        await written(ledger)
        assert len(await everything(ledger)) == 3 + 2 * (ours + PAIRS + PAIRS)
        assert (await verification(ledger)).ok


async def test_a_running_server_moves_into_a_token_and_says_when_that_is_gone(softhsm: SoftHsm, database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "home", LENIENT) as aureus:
        await aureus.know(ADA)
    softhsm.keys("log", "service")
    async with running(database_url, tmp_path / "home", LENIENT, token=softhsm.place()) as aureus:
        for role in ("log", "service"):
            rotated = await aureus.post(f"/v1/keys/server/{role}/rotate", {}, ADA)
            assert rotated.status_code == 200, rotated.text
            assert rotated.json()["events"][0]["data"]["custody"] == "kms"
        once_more = (await aureus.post("/v1/keys/server/service/rotate", {}, ADA)).json()["error"]
        assert once_more["code"] == "key_not_here"
        assert "aureus keys pkcs11 generate --role service" in once_more["details"]["remedy"]
        size = aureus.services.ledger.head.size
        softhsm.take_away()
        gone = await aureus.post("/v1/budgets", BUDGET, ADA)
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "signer_unavailable")
        assert aureus.services.ledger.head.size == size
        softhsm.put_back()
        await asyncio.sleep(REST_SECONDS)
        assert (await aureus.post("/v1/budgets", BUDGET, ADA)).status_code == 201
        assert (await verification(aureus.services.ledger)).ok


# -- a token that is not what it should be


def refusal(tmp_path: Path, **changed: str) -> SettingsError:
    with pytest.raises(SettingsError) as refused:
        keystore(tmp_path, **changed)
    assert PIN not in str(refused.value)
    return refused.value


def test_what_is_wrong_with_a_token_is_said_at_the_start(softhsm: SoftHsm, tmp_path: Path) -> None:
    none = refusal(tmp_path)
    assert (none.field, none.rule) == ("keys.log", "the token has no new key for this role.")
    assert "aureus keys pkcs11 generate --role log" in none.remedy
    softhsm.let_go()
    wrong = refusal(tmp_path, AUREUS_PKCS11_PIN="1234")
    assert (wrong.field, wrong.rule) == ("AUREUS_PKCS11_PIN", "'aureus-tests' refuses the PIN: PinIncorrect.")
    other = refusal(tmp_path, AUREUS_PKCS11_TOKEN="bank")
    assert (other.field, other.rule) == ("AUREUS_PKCS11_TOKEN", "'bank' is not there (there is: 'aureus-tests').")
    softhsm.add_token()
    softhsm.let_go()
    twice = refusal(tmp_path)
    assert twice.rule == "'aureus-tests' is there more than once (there is: 'aureus-tests', 'aureus-tests')."
    absent = refusal(tmp_path, AUREUS_PKCS11_MODULE=str(tmp_path / "hsm.so"))
    assert absent.field == "AUREUS_PKCS11_MODULE"
    assert "cannot open shared object file" in absent.rule
    assert not (tmp_path / "home" / "keys").exists(), "no key is made beside a token that does not work"


def test_a_pin_that_is_refused_is_not_tried_again(softhsm: SoftHsm) -> None:
    keys = softhsm.keys("log")
    (log,) = keys.signers("log")
    softhsm.let_go()
    keys._place = softhsm.place(pin="1234")
    with pytest.raises(LedgerUnavailable, match="refuses the PIN"):
        log.sign(MESSAGE)
    keys._rests_until, keys._place = 0.0, softhsm.place()
    with pytest.raises(LedgerUnavailable, match="refuses the PIN"):
        log.sign(MESSAGE)
    assert verify(log.public, MESSAGE, Pkcs11Keys(softhsm.place()).signers("log")[0].sign(MESSAGE))


def test_a_key_that_is_gone_from_its_token_signs_nothing(softhsm: SoftHsm) -> None:
    keys = softhsm.keys("log")
    (log,) = keys.signers("log")
    with pkcs11.lib(str(MODULE)).get_token(token_label=LABEL).open(rw=True) as session:
        for found in list(session.get_objects({Attribute.LABEL: "aureus-log"})):
            found.destroy()
    with pytest.raises(LedgerUnavailable, match=f"does not have the key {log.key_id[:16]}"):
        log.sign(MESSAGE)


# -- the settings


def place(tmp_path: Path, **changed: str) -> Any:
    return Settings.from_environment(environment(tmp_path, **changed)).token_place


def test_a_token_is_named_by_library_and_label(tmp_path: Path) -> None:
    found = place(tmp_path)
    assert (found.module, found.label, found.roles, found.pin) == (MODULE, LABEL, ("log", "service"), PIN)
    assert PIN not in repr(Settings.from_environment(environment(tmp_path)))
    assert place(tmp_path, AUREUS_PKCS11_ROLES="service , root").roles == ("service", "root")
    assert place(tmp_path, AUREUS_PKCS11_MODULE="", AUREUS_PKCS11_TOKEN="") is None


def test_the_pin_may_stand_in_a_file_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    assert place(tmp_path, AUREUS_PKCS11_PIN="", AUREUS_PKCS11_PIN_FILE=str(file)).pin == PIN
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="open to other accounts"):
        place(tmp_path, AUREUS_PKCS11_PIN="", AUREUS_PKCS11_PIN_FILE=str(file))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"AUREUS_PKCS11_MODULE": ""}, "AUREUS_PKCS11_MODULE"),
        ({"AUREUS_PKCS11_TOKEN": ""}, "AUREUS_PKCS11_TOKEN"),
        ({"AUREUS_PKCS11_PIN": ""}, "AUREUS_PKCS11_PIN"),
        ({"AUREUS_PKCS11_PIN": "", "AUREUS_PKCS11_PIN_FILE": "/nowhere"}, "AUREUS_PKCS11_PIN_FILE"),
        ({"AUREUS_PKCS11_PIN": "", "AUREUS_PKCS11_PIN_FILE": os.devnull}, "AUREUS_PKCS11_PIN_FILE"),
        ({"AUREUS_PKCS11_ROLES": "log,vault"}, "AUREUS_PKCS11_ROLES"),
    ],
)
def test_half_a_token_is_refused(tmp_path: Path, changed: dict[str, str], field: str) -> None:
    with pytest.raises(SettingsError) as refused:
        place(tmp_path, **changed)
    assert refused.value.field == field
    assert PIN not in str(refused.value)
