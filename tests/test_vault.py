"""The vault: values are sealed under keys that others wrap, refused of whom was erased, and every one of them is accounted for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.access import ActorRegistered
from domain.budgets import BudgetOpened
from domain.catalog import OwnerContactRecorded
from domain.kernel import Event, Refused
from domain.ledger import Append, LedgerUnavailable, StreamWrite
from domain.subjects import SubjectErased
from domain.values import ActorKind, Role, uuid7
from infra.envelope import facts_of
from infra.key_encryption import KeyEncryptionKeys, kek_id
from infra.keystore import FileKeystore, KeystoreError
from infra.ledger import Ledger
from infra.masking import masked
from infra.opening import open_ledger
from infra.settings import SettingsError
from infra.vault_keys import VaultKeys
from infra.vault_records import Accounting, VaultRecords
from tests.conftest import fresh_database

pytestmark = pytest.mark.anyio
BUDGET = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
OLD_VAULT = """
    DROP TABLE vault.keys, vault.disclosures, vault.erased, vault.accounted, vault.wrapping;
    CREATE TABLE vault.keys (
        tenant text NOT NULL, subject text NOT NULL, purpose text NOT NULL, wrapped bytea NOT NULL, PRIMARY KEY (tenant, subject, purpose)
    );
    CREATE TABLE vault.disclosures (
        position bigint NOT NULL, name text NOT NULL, tenant text NOT NULL, subject text NOT NULL, purpose text NOT NULL,
        sealed bytea NOT NULL, PRIMARY KEY (position, name)
    );
    COMMENT ON SCHEMA ledger IS 'Aureus of an earlier day';
"""
"""The tables as the first versions had them."""


def contact(owner: str, name: str | None, email: str | None = None) -> OwnerContactRecorded:
    return OwnerContactRecorded(dataset_id="d", owner_id=owner, contact_name=name, contact_email=email)


def write(event: Event, stream: str | None = None, version: int = 0) -> Append:
    return Append("acme", "usr-ana", (StreamWrite(stream or f"dataset:{uuid7().hex}", version, (event,)),), uuid7())


@asynccontextmanager
async def opened(dsn: str, keystore: FileKeystore, **options: Any) -> AsyncIterator[tuple[Ledger, VaultRecords]]:
    ledger = await open_ledger(dsn, keystore, **options)
    try:
        yield ledger, VaultRecords(ledger)
    finally:
        await ledger.close()


async def told(ledger: Ledger, event: Event) -> int:
    """The position of an event that is appended."""
    return (await ledger.append(write(event))).last_position


async def account(records: VaultRecords, ledger: Ledger) -> Accounting:
    return await records.accounting("acme", 0, ledger.head.size, 100)


async def erase(ledger: Ledger, records: VaultRecords, subject: str, ordered: int = 1) -> Any:
    """An erasure and its certificate."""
    erased = await records.vault.erase(records.pool, "acme", subject, None, ordered)
    certificate = SubjectErased(
        subject_id=subject,
        ordered_position=ordered,
        until=erased.until,
        everything=True,
        purposes=erased.purposes,
        ground="objection",
        fields=erased.fields,
        keys=erased.keys,
    )
    await told(ledger, certificate)
    return erased


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The owner of the database, who can do to its tables what the application never does."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


# -- decoys, states and what somebody took away


@pytest.mark.parametrize("filled", [0, 1, 2])
def test_every_digest_is_of_something_that_is_kept(filled: int) -> None:
    sizes = set()
    for _ in range(60):
        facts = facts_of(contact("ext-1", "Ada L" if filled > 0 else None, "a@b.example" if filled > 1 else None))
        digests = sorted(
            base64.urlsafe_b64encode(hashlib.sha256(disclosure.encoded().encode()).digest()).rstrip(b"=").decode()
            for disclosure in facts.disclosures
        )
        assert list(facts.digests) == digests
        assert [one.name for one in facts.disclosures if not one.name.startswith("_")] == ["contact_name", "contact_email"][:filled]
        sizes.add(len(digests) - filled)
    assert sizes == {0, 1, 2, 3}


async def test_what_is_as_it_was_signed_is_open_and_whole(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        for number in range(20):
            await told(ledger, contact(f"ext-{number}", "Ada Lovelace", "ada@example.org"))
            await told(ledger, contact(f"ext-{number}", None))
        found = await account(records, ledger)
        assert found.problems == []
        assert (found.events, found.counts["open"], found.accounted_from) == (40, 40, 0)
        assert found.counts["decoy"] > 0


BYTE = "set_byte({0}, 30, get_byte({0}, 30) # 1)"
DEEDS = {
    "DELETE FROM vault.disclosures WHERE position = 5 AND name = 'contact_name'": [(5, "missing")],
    "DELETE FROM vault.keys WHERE subject = 'ext-1'": [(4, "missing"), (4, "missing")],
    f"UPDATE vault.disclosures SET sealed = {BYTE.format('sealed')} WHERE position = 4": [(4, "damaged"), (4, "damaged")],
    f"UPDATE vault.keys SET wrapped = {BYTE.format('wrapped')} WHERE subject = 'ext-1'": [(4, "damaged"), (4, "damaged")],
    "UPDATE vault.disclosures SET position = 11 - position WHERE name = 'contact_name' AND position > 4": [(5, "damaged"), (6, "damaged")],
    "UPDATE vault.disclosures SET name = 'other' WHERE position = 4 AND name = 'contact_email'": [(4, "damaged")],
    "UPDATE vault.disclosures SET tenant = 'other' WHERE position = 4 AND name = 'contact_email'": [(4, "missing")],
    "UPDATE vault.disclosures SET position = 3 WHERE position = 4 AND name = 'contact_email'": [(4, "missing"), (3, "damaged")],
}
"""What an operator could do to the values of positions 4 (ext-1), 5 and 6 (ext-2), and how it is found."""


async def test_what_somebody_takes_away_or_changes_is_found(
    database_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.envelope._DECOYS_UP_TO", 1)  # none: the deeds are done to values
    async with opened(database_url, keystore) as (ledger, records):
        await told(ledger, contact("ext-1", "Ada", "ada@example.org"))
        await told(ledger, contact("ext-2", "Ben", "ben@example.org"))
        await told(ledger, contact("ext-2", "Cleo", "cleo@example.org"))
        owner.execute("ALTER TABLE vault.disclosures DROP CONSTRAINT disclosures_pkey")  # two rows cannot be swapped under it
        owner.execute("CREATE TABLE kept_keys AS TABLE vault.keys")
        owner.execute("CREATE TABLE kept AS TABLE vault.disclosures")
        for deed, states in DEEDS.items():
            owner.execute(deed.encode())
            found = await account(records, ledger)
            assert [(state.position, state.state) for state in found.problems] == states, deed
            with owner.transaction():
                owner.execute("DELETE FROM vault.keys")
                owner.execute("DELETE FROM vault.disclosures")
                owner.execute("INSERT INTO vault.keys TABLE kept_keys")
                owner.execute("INSERT INTO vault.disclosures TABLE kept")
        assert (await account(records, ledger)).problems == []


async def test_a_decoy_that_is_taken_away_is_missed_as_well(
    database_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any]
) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        for _ in range(8):
            await told(ledger, contact("ext-1", "Ada"))
        gone = owner.execute("DELETE FROM vault.disclosures WHERE name LIKE '\\_decoy%'").rowcount
        found = await account(records, ledger)
        assert (found.counts["missing"], found.counts["open"]) == (gone, 8)


# -- erasure


async def test_an_erased_value_is_covered_by_its_certificate_alone(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        position = await told(ledger, contact("ext-1", "Ada", "ada@example.org"))
        other = await told(ledger, contact("ext-2", "Ben"))
        erased = await records.vault.erase(records.pool, "acme", "ext-1", None, 1)
        assert (erased.fields, erased.keys, erased.until, erased.purposes) == (2, 1, other, ("governance",))
        before = await account(records, ledger)
        assert (before.counts["missing"], before.counts["open"]) == (2, 1), "nobody has certified it yet"
        assert await erase(ledger, records, "ext-1") == erased, "asked again it answers the same"
        after = await account(records, ledger)
        assert (after.problems, after.counts["erased"], after.counts["open"]) == ([], 2, 1)
        named = {state.name for state in await records.states("acme", [position]) if state.state == "erased"}
        assert named == {"contact_name", "contact_email"}
        assert await records.vault.open(records.pool, "acme", position) == {}
        assert await records.vault.fields_of(records.pool, "acme", "ext-1") == []


async def test_of_one_batch_only_the_append_about_somebody_erased_is_refused(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        await told(ledger, contact("ext-1", "Ada"))
        await erase(ledger, records, "ext-1")
        size = ledger.head.size
        events = [contact("ext-2", "Ben"), contact("ext-1", "Ada"), BUDGET, contact("ext-1", None), contact("ext-3", "Cleo")]
        outcomes = await asyncio.gather(*(ledger.append(write(event)) for event in events), return_exceptions=True)
        refused = outcomes[1]
        assert isinstance(refused, Refused)
        assert (refused.code, refused.facts["field"]) == ("subject_erased", "contact_name")
        assert "aureus subjects reopen ext-1" in refused.facts["remedy"]
        assert [isinstance(outcome, BaseException) for outcome in outcomes] == [False, True, False, False, False]
        assert ledger.head.size == size + 4
        assert (await account(records, ledger)).problems == []


async def test_another_process_never_seals_under_a_key_that_was_destroyed(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (here, records), opened(database_url, keystore) as (there, elsewhere):
        await told(there, contact("ext-1", "Ada"))
        await told(here, contact("ext-9", "Ben"))
        await records.vault.erase(records.pool, "acme", "ext-1", None, 1)
        with pytest.raises(Refused, match="erased"):
            await told(there, contact("ext-1", "Ada again"))
        known = dict(elsewhere.vault._known)
        await records.vault.reopen(records.pool, "acme", "ext-1")
        elsewhere.vault._known.update(known)
        position = await told(there, contact("ext-1", "Ada, back"))
        assert await records.vault.open(records.pool, "acme", position) == {"contact_name": "Ada, back"}


async def test_a_key_learnt_before_an_erasure_and_a_reopening_is_learnt_again(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (here, records), opened(database_url, keystore) as (there, _):
        first = await told(there, contact("ext-1", "Ada"))
        await records.vault.erase(records.pool, "acme", "ext-1", None, first)
        await records.vault.reopen(records.pool, "acme", "ext-1")
        second = await told(there, contact("ext-1", "Ada, back"))
        assert await records.vault.open(records.pool, "acme", second) == {"contact_name": "Ada, back"}
        again = await records.vault.erase(records.pool, "acme", "ext-1", None, first)
        assert again.fields == 1, "the first order is carried out already"
        assert await records.vault.open(records.pool, "acme", second) != {}
        assert here.head.size < second


async def test_appends_and_an_erasure_at_the_same_time_leave_nothing_behind(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (ledger, records), opened(database_url, keystore) as (there, _):
        await told(ledger, contact("ext-1", "Ada"))

        async def writing(writer: Ledger) -> int:
            kept = 0
            for number in range(40):
                try:
                    await told(writer, contact("ext-1", f"Ada {number}"))
                    kept += 1
                except Refused:
                    break
            return kept

        tasks = [asyncio.create_task(writing(writer)) for writer in (ledger, there)]
        await asyncio.sleep(0.05)
        erased = await records.vault.erase(records.pool, "acme", "ext-1", None, 1)
        kept = sum(await asyncio.gather(*tasks))
        assert erased.fields == kept + 1
        assert await records.vault.fields_of(records.pool, "acme", "ext-1") == []
        assert await records.vault.keys.find(records.pool, [("acme", "ext-1", "governance")]) == {}


async def test_an_erasure_waits_for_the_append_that_is_under_way(
    database_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any]
) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        await told(ledger, contact("ext-1", "Ada"))
        with owner.transaction():
            owner.execute("UPDATE ledger.head SET size = size")  # as an append holds it
            rows = "SELECT 99, name, tenant, subject, purpose, sealed FROM vault.disclosures WHERE subject = 'ext-1'"
            owner.execute(f"INSERT INTO vault.disclosures {rows}".encode())
            erasing = asyncio.create_task(records.vault.erase(records.pool, "acme", "ext-1", None, 1))
            done, _ = await asyncio.wait([erasing], timeout=0.5)
            assert not done
        assert (await erasing).fields == 2
        assert await records.vault.fields_of(records.pool, "acme", "ext-1") == []
        assert owner.execute("SELECT count(*) FROM vault.disclosures WHERE subject = 'ext-1'").fetchone() == (0,)


async def test_an_erasure_that_was_cut_short_goes_on_and_counts_the_same(
    database_url: str, keystore: FileKeystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        for _ in range(3):
            await told(ledger, contact("ext-1", "Ada"))

        async def killed(*_: Any) -> None:
            raise ConnectionAbortedError

        with monkeypatch.context() as patched:
            patched.setattr(VaultKeys, "destroy", killed)
            with pytest.raises(ConnectionAbortedError):
                await records.vault.erase(records.pool, "acme", "ext-1", None, 1)
        erased = await records.vault.erase(records.pool, "acme", "ext-1", None, 1)
        assert (erased.fields, erased.keys) == (3, 1)
        assert await records.vault.keys.find(records.pool, [("acme", "ext-1", "governance")]) == {}


# -- key-encryption keys


async def test_a_key_encryption_key_that_is_missing_or_wrong_keeps_the_server_from_starting(
    database_url: str, keystore: FileKeystore
) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        await told(ledger, contact("ext-1", "Ada"))
        kek = keystore.key_encryption_keys().prepare(())
        await records.vault.keys.wrap_with(records.pool, kek)
        while (await records.vault.keys.rewrap(records.pool, kek, ("", "", ""), 10)).last is not None:
            pass
    file = keystore.folder / f"vault-{kek}.key"
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(SettingsError, match=kek) as missing:
        await open_ledger(database_url, keystore)
    assert str(keystore.folder) in missing.value.rule
    file.write_bytes(kept)
    file.chmod(0o600)
    async with opened(database_url, keystore) as (ledger, records):
        assert (await account(records, ledger)).problems == []


async def test_a_vault_key_that_opens_nothing_is_refused_at_the_start(
    database_url: str, keystore: FileKeystore, tmp_path: Path, owner: psycopg.Connection[Any]
) -> None:
    async with opened(database_url, keystore) as (ledger, _):
        await told(ledger, contact("ext-1", "Ada"))
    wrong = FileKeystore.open(tmp_path / "other")
    (keystore.folder / "vault.key").write_bytes((wrong.folder / "vault.key").read_bytes())
    with pytest.raises(SettingsError, match=kek_id(keystore.vault.seed)):
        await open_ledger(database_url, FileKeystore.open(keystore.folder))
    owner.execute("UPDATE vault.keys SET kek = ''")
    owner.execute("UPDATE vault.wrapping SET kek = %s", (kek_id(wrong.vault.seed),))
    with pytest.raises(SettingsError, match="does not open"):
        await open_ledger(database_url, FileKeystore.open(keystore.folder))


def test_a_key_file_under_another_name_is_refused(keystore: FileKeystore) -> None:
    kek = keystore.key_encryption_keys().prepare(())
    assert keystore.key_encryption_keys().prepare(()) == kek, "one that nobody has used waits for its use"
    (keystore.folder / f"vault-{kek}.key").rename(keystore.folder / "vault-0123456789abcdef.key")
    with pytest.raises(KeystoreError, match=kek):
        KeyEncryptionKeys(keystore.folder)


async def test_once_all_is_wrapped_under_the_next_key_the_first_may_go(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        position = await told(ledger, contact("ext-1", "Ada"))
        keys = records.vault.keys
        kek = keystore.key_encryption_keys().prepare(())
        await keys.wrap_with(records.pool, kek)
        await told(ledger, contact("ext-2", "Ben"))
        assert (await keys.counts(records.pool))[kek] >= 1, "new keys are wrapped by it at once"
        await keys.rewrap(records.pool, kek, ("", "", ""), 1_000)
        assert set(await keys.counts(records.pool)) == {kek}
        assert not await keys.wrapped_otherwise(records.pool, kek)
    (keystore.folder / "vault.key").unlink()
    async with opened(database_url, FileKeystore.open(keystore.folder)) as (ledger, records):
        assert await records.vault.open(records.pool, "acme", position) == {"contact_name": "Ada"}
        await told(ledger, contact("ext-3", "Cleo"))


# -- a database of the keys' own


async def test_keys_in_a_database_of_their_own_are_in_no_byte_of_the_ledgers(
    database_url: str, postgres_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any]
) -> None:
    with fresh_database(postgres_url) as keys_url:
        async with opened(database_url, keystore, vault_keys_url=keys_url) as (ledger, records):
            position = await told(ledger, contact("ext-1", "Ada"))
            assert owner.execute("SELECT count(*) FROM vault.keys").fetchone() == (0,)
            assert await records.vault.open(records.pool, "acme", position) == {"contact_name": "Ada"}
            assert (await account(records, ledger)).problems == []
            erased = await records.vault.erase(records.pool, "acme", "ext-1", ["governance"], 1)
            assert (erased.fields, erased.keys) == (1, 1)
            await told(ledger, contact("ext-2", "Ben"))
        with pytest.raises(SettingsError, match="their keys are not here"):
            await open_ledger(database_url, keystore)
        with fresh_database(postgres_url) as other, pytest.raises(SettingsError, match="their keys are not here"):
            await open_ledger(database_url, keystore, vault_keys_url=other)
        with fresh_database(postgres_url) as other, pytest.raises(SettingsError, match="holds the keys of the ledger"):
            await open_ledger(other, FileKeystore.open(keystore.folder.parent / "elsewhere"), vault_keys_url=keys_url)


async def test_while_the_keys_are_away_what_is_personal_waits_and_all_else_goes_on(
    database_url: str, postgres_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any]
) -> None:
    with fresh_database(postgres_url) as keys_url:
        async with opened(database_url, keystore, vault_keys_url=keys_url) as (ledger, records):
            await told(ledger, contact("ext-1", "Ada"))
            name = keys_url.rpartition("/")[2].partition("?")[0]
            owner.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            events = [contact("ext-2", "Ben"), BUDGET, contact("ext-1", "Ada again")]
            outcomes = await asyncio.gather(*(ledger.append(write(event)) for event in events), return_exceptions=True)
            assert isinstance(outcomes[0], LedgerUnavailable)
            assert outcomes[0].code == "vault_keys_unreachable"
            assert [isinstance(outcome, BaseException) for outcome in outcomes] == [True, False, False], "Ada's key was known"
            began = asyncio.get_running_loop().time()
            with pytest.raises(LedgerUnavailable):
                await told(ledger, contact("ext-2", "Ben"))
            assert asyncio.get_running_loop().time() - began < 0.5, "nobody's append waits for it"
            owner.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
            for _ in range(100):
                try:
                    await told(ledger, contact("ext-2", "Ben"))
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(0.1)
            assert (await account(records, ledger)).problems == []


async def test_keys_that_are_still_in_the_ledgers_database_have_to_be_moved(
    database_url: str, postgres_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any]
) -> None:
    async with opened(database_url, keystore) as (ledger, _):
        position = await told(ledger, contact("ext-1", "Ada"))
    with fresh_database(postgres_url) as keys_url:
        with pytest.raises(SettingsError, match="still holds keys") as refused:
            await open_ledger(database_url, keystore, vault_keys_url=keys_url)
        assert refused.value.field == "AUREUS_VAULT_KEYS_URL"
        with psycopg.connect(keys_url, autocommit=True) as theirs:
            for table in ("vault.keys", "vault.wrapping"):
                rows = owner.execute(f"SELECT * FROM {table}".encode()).fetchall()
                values = ", ".join(["%s"] * len(rows[0]))
                theirs.cursor().executemany(f"INSERT INTO {table} VALUES ({values})".encode(), rows)
                owner.execute(f"TRUNCATE {table}".encode())
        async with opened(database_url, keystore, vault_keys_url=keys_url) as (ledger, records):
            assert await records.vault.open(records.pool, "acme", position) == {"contact_name": "Ada"}


async def test_a_vault_of_an_earlier_day_is_taken_over_as_it_is(
    database_url: str, keystore: FileKeystore, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.envelope._DECOYS_UP_TO", 1)
    async with opened(database_url, keystore) as (ledger, _):
        position = await told(ledger, contact("ext-1", "Ada", "ada@example.org"))
        owner.execute("CREATE TABLE saved_keys AS SELECT tenant, subject, purpose, wrapped FROM vault.keys")
        owner.execute("CREATE TABLE saved AS SELECT * FROM vault.disclosures WHERE name <> 'contact_email'")
    owner.execute(OLD_VAULT)
    owner.execute("INSERT INTO vault.keys SELECT * FROM saved_keys")
    owner.execute("INSERT INTO vault.disclosures SELECT * FROM saved")
    async with opened(database_url, keystore) as (ledger, records):
        assert await records.vault.open(records.pool, "acme", position) == {"contact_name": "Ada"}
        later = await told(ledger, contact("ext-1", "Ada", "ada@example.org"))
        found = await account(records, ledger)
        assert (found.accounted_from, found.counts["cannot_tell"], found.counts["open"], found.problems) == (position, 1, 3, [])
        kek = await records.vault.keys.wrapping(records.pool)
        assert kek == kek_id(keystore.vault.seed)
        await records.vault.keys.rewrap(records.pool, kek, ("", "", ""), 10)
        assert owner.execute("SELECT DISTINCT kek FROM vault.keys").fetchall() == [(kek,)]
        assert len(await records.vault.open(records.pool, "acme", later)) == 2


# -- masks


@pytest.mark.parametrize(
    ("value", "outline"),
    [
        ("Ada Lovelace", "A** L*******"),
        ("ada@example.com", "a**@e******.com"),
        ("a@localhost", "*@l********"),
        ("X", "*"),
        ("", ""),
        (17, "***"),
        (["a", "b"], "***"),
    ],
)
def test_an_outline_tells_little(value: Any, outline: str) -> None:
    assert masked(value, "partial", b"") == outline


@given(st.text(min_size=1), st.text(min_size=1), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_keyed_hash_tells_equal_from_different_and_nothing_without_its_key(one: str, other: str, key: bytes, another: bytes) -> None:
    assert (masked(one, "hash", key) == masked(other, "hash", key)) == (one == other)
    if key != another:
        assert masked(one, "hash", key) != masked(one, "hash", another)


async def test_masks_are_hashed_under_a_key_of_the_tenants_own(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (_, records):
        acme = await records.mask_key("acme")
        assert len(acme) == 32
        assert await records.mask_key("acme") == acme
        assert await records.mask_key("other") != acme


async def test_a_registration_without_a_name_is_accounted_for_too(database_url: str, keystore: FileKeystore) -> None:
    async with opened(database_url, keystore) as (ledger, records):
        registered = ActorRegistered(actor_id="usr-zoe", kind=ActorKind.PERSON, roles=(Role.VIEWER,))
        for _ in range(6):
            await told(ledger, registered)
        bodies = [orjson.loads(event.body) for event in await ledger.entries(0, 100)]
        digests = sum(len(body["_sd"]) for body in bodies)
        found = await account(records, ledger)
        assert (found.events, found.counts.get("decoy", 0), found.problems) == (6, digests, [])
