"""The vault: personal values, sealed under a key per subject and purpose, so that destroying a key erases them.

The ledger's signed bytes hold only salted digests; what is kept here can go without touching one of them.
Format: XChaCha20-Poly1305 (nonce || ciphertext) over the JSON array [salt, name, value]; each key is itself sealed
under a key-encryption key, which never enters a database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from domain.kernel import Refused
from domain.ledger import LedgerUnavailable
from infra.envelope import DECOYS, Disclosure
from infra.key_encryption import KekMissing, KeyEncryptionKeys
from infra.store import ValuesRefused
from infra.vault_keys import (
    Connection,
    Pool,
    SubjectKey,
    VaultError,
    VaultKeys,
    bound,
    columns,
    open_bytes,
    seal_bytes,
    unwrapped,
)

__all__ = ["Erased", "Field", "Sealed", "Vault", "VaultError", "open_bytes", "opened", "seal_bytes"]

ALL_PURPOSES: Final = "*"
ERASED_CHANNEL: Final = "vault_erased"
_REMEMBERED_KEYS: Final = 10_000
_ERASE_AT_ONCE: Final = 5_000

_BLOCKS: Final = """
    SELECT subject.number, max(e.ordered_position), bool_or(NOT e.reopened)
    FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS subject(tenant, subject, purpose, number)
    JOIN vault.erased e ON e.tenant = subject.tenant AND e.subject = subject.subject AND e.purpose IN (subject.purpose, '*')
    GROUP BY subject.number
"""
# What was erased since the key was learnt is not sealed under it: the row does not go in, and its append is tried again or refused.
_INSERT: Final = """
    INSERT INTO vault.disclosures (position, name, tenant, subject, purpose, sealed)
    SELECT position, name, tenant, subject, purpose, sealed
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::bigint[])
        AS fresh(position, name, tenant, subject, purpose, sealed, known)
    WHERE NOT EXISTS (
        SELECT FROM vault.erased e
        WHERE e.tenant = fresh.tenant AND e.subject = fresh.subject AND e.purpose IN (fresh.purpose, '*')
            AND (NOT e.reopened OR e.ordered_position > fresh.known)
    )
"""
_SEALED_AT: Final = "SELECT position, name, subject, purpose, sealed FROM vault.disclosures WHERE tenant = %s AND position = ANY(%s)"
_FIELDS: Final = """
    SELECT d.position, d.name, d.purpose, e.type, e.at FROM vault.disclosures d JOIN ledger.events e USING (position)
    WHERE d.tenant = %s AND d.subject = %s AND d.position <= %s ORDER BY d.position, d.name
"""
_ORDERED: Final = """
    SELECT purpose, until, fields, keys, destroyed FROM vault.erased
    WHERE tenant = %s AND subject = %s AND ordered_position = %s ORDER BY purpose
"""
_ORDER: Final = """
    INSERT INTO vault.erased (tenant, subject, purpose, ordered_position, keys) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_DELETE: Final = """
    WITH chosen AS (
        SELECT ctid FROM vault.disclosures
        WHERE tenant = %(tenant)s AND subject = %(subject)s AND (%(all)s OR purpose = ANY(%(purposes)s::text[])) LIMIT %(limit)s
    ), gone AS (
        DELETE FROM vault.disclosures d USING chosen c WHERE d.ctid = c.ctid RETURNING d.purpose
    )
    INSERT INTO vault.erased (tenant, subject, purpose, ordered_position, fields)
    SELECT %(tenant)s, %(subject)s, purpose, %(ordered)s, count(*) FROM gone GROUP BY purpose
    ON CONFLICT (tenant, subject, purpose, ordered_position) DO UPDATE SET fields = vault.erased.fields + excluded.fields
    RETURNING fields
"""


@dataclass(frozen=True, slots=True)
class Field:
    """A personal field on record: where, which, for which purpose; no value."""

    position: int
    name: str
    purpose: str
    event_type: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure destroyed: so many fields and keys, of events up to position `until`, kept for these purposes."""

    fields: int
    keys: int
    until: int
    purposes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the vault, opened; without a disclosure it does not open, and `problem` says why, or its key is gone."""

    owner: SubjectKey
    disclosure: Disclosure | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A disclosure as its row holds it; `known` is the last erasure of its owner that its key was learnt after."""

    position: int
    name: str
    owner: SubjectKey
    sealed: bytes
    known: int


class KeysChanged(Exception):
    """Somebody was erased since their key was learnt: seal again."""


class _Blocked(Exception):
    """The subject was erased, and is not reopened."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A subject's key, and the last erasure before it was learnt."""

    key: bytes
    erasure: int


def opened(keks: KeyEncryptionKeys, owner: SubjectKey, name: str, sealed: bytes, wrapped: tuple[bytes, str]) -> bytes:
    """The JSON array [salt, name, value] of a sealed value, as it was hashed. Raises VaultError, or KekMissing.

    `wrapped` is its subject's sealed key, with the id of what it is wrapped under.
    """
    return open_bytes(sealed, bound(*owner, name), unwrapped(keks, owner, *wrapped))


class Vault:
    """Seals disclosures for the store, opens them for those who may see, and erases them."""

    def __init__(self, keks: KeyEncryptionKeys, keys_url: str | None = None) -> None:
        self.keks = keks
        self.keys = VaultKeys(keks, keys_url)
        self._known: dict[SubjectKey, _Known] = {}

    async def open_for(self, pool: Pool, ledger: str) -> None:
        """Makes sure that the keys are this ledger's, and can be unwrapped. Raises SettingsError."""
        await self.keys.open(pool, ledger)

    async def close(self) -> None:
        self.forget()
        await self.keys.close()

    def forget(self) -> None:
        """Drops every key from memory; it is learnt again when it is needed, unless it was destroyed."""
        self._known.clear()

    # -- sealing

    async def seal(self, pool: Pool, disclosures: Sequence[tuple[int, str, Disclosure]]) -> list[Sealed]:
        """Disclosures as rows; makes a subject's key durable before anything is sealed under it.

        Raises ValuesRefused: of subjects that were erased, or whose key is not to be had.
        """
        if not disclosures:
            return []
        owners = {(tenant, disclosure.subject, disclosure.purpose) for _, tenant, disclosure in disclosures}
        # Whoever knows a subject's key knows that of decoys: whether some are drawn decides nothing.
        owners |= {(tenant, DECOYS, DECOYS) for tenant, _, _ in owners}
        keys = {owner: self._known[owner] for owner in owners if owner in self._known}
        if len(keys) < len(owners):
            learnt, refused = await self._learn(pool, [owner for owner in owners if owner not in keys])
            if refused:
                raise ValuesRefused(_by_position(disclosures, refused))
            keys |= learnt
        rows = []
        for position, tenant, disclosure in disclosures:
            owner = (tenant, disclosure.subject, disclosure.purpose)
            known = keys[owner]
            plain = orjson.dumps([disclosure.salt, disclosure.name, disclosure.value])
            sealed = seal_bytes(plain, bound(*owner, disclosure.name), known.key)
            rows.append(Sealed(position, disclosure.name, owner, sealed, known.erasure))
        return rows

    async def insert(self, connection: Connection, rows: Sequence[Sealed]) -> None:
        """Adds sealed rows within the append's transaction, whose head is held. Raises KeysChanged: then it has to be undone."""
        owners = [row.owner for row in rows]
        values = ([row.position for row in rows], [row.name for row in rows], *columns(owners), [row.sealed for row in rows])
        cursor = await connection.execute(_INSERT, (*values, [row.known for row in rows]))
        if cursor.rowcount != len(rows):
            for owner in owners:
                self._known.pop(owner, None)
            raise KeysChanged

    async def _learn(self, pool: Pool, owners: Sequence[SubjectKey]) -> tuple[dict[SubjectKey, _Known], dict[SubjectKey, Exception]]:
        """The keys of owners, made where they are missing; and of the others, why they have none."""
        erasures: dict[SubjectKey, int] = {}
        refused: dict[SubjectKey, Exception] = {}
        # First what was erased, then the key: what is erased in between is found when the row goes in.
        async with pool.connection() as connection:
            for number, last, blocks in await (await connection.execute(_BLOCKS, columns(owners))).fetchall():
                erasures[owners[number - 1]] = last
                if blocks:
                    refused[owners[number - 1]] = _Blocked()
        wanted = [owner for owner in owners if owner not in refused]
        learnt: dict[SubjectKey, _Known] = {}
        try:
            found = await self.keys.find_or_make(pool, wanted) if wanted else {}
        except (LedgerUnavailable, KekMissing) as error:
            return learnt, {**refused, **dict.fromkeys(wanted, _unavailable(error))}
        for owner, wrapped in found.items():
            try:
                learnt[owner] = _Known(unwrapped(self.keks, owner, *wrapped), erasures.get(owner, 0))
            except (KekMissing, VaultError) as error:
                refused[owner] = _unavailable(error)
        if len(self._known) + len(learnt) > _REMEMBERED_KEYS:
            self.forget()
        self._known |= learnt
        return learnt, refused

    # -- opening

    async def open(self, pool: Pool, tenant: str, position: int) -> dict[str, Any]:
        """The personal fields of one event by name; those whose key was destroyed are not there. Raises VaultError."""
        found = await self.disclosed(pool, tenant, [position])
        failed = next((row.problem for row in found.values() if row.problem is not None), None)
        if failed is not None:
            raise VaultError(failed)
        return {name: row.disclosure.value for (_, name), row in found.items() if row.disclosure is not None and not is_decoy(name)}

    async def disclosed(self, pool: Pool, tenant: str, positions: Sequence[int]) -> dict[tuple[int, str], Row]:
        """The rows of these events by (position, name), decoys included. Raises LedgerUnavailable when the keys are not to be had."""
        async with pool.connection() as connection:
            rows = await (await connection.execute(_SEALED_AT, (tenant, list(positions)))).fetchall()
        owners = {(tenant, subject, purpose) for _, _, subject, purpose, _ in rows}
        keys = await self.keys.find(pool, owners) if owners else {}
        found: dict[tuple[int, str], Row] = {}
        for position, name, subject, purpose, sealed in rows:
            owner = (tenant, subject, purpose)
            found[position, name] = self._row(owner, name, sealed, keys[owner]) if owner in keys else Row(owner)
        return found

    def _row(self, owner: SubjectKey, name: str, sealed: bytes, wrapped: tuple[bytes, str]) -> Row:
        try:
            salt, said, value = orjson.loads(opened(self.keks, owner, name, sealed, wrapped))
        except VaultError as error:
            return Row(owner, problem=str(error))
        except KekMissing as missing:
            raise _unavailable(missing) from missing
        return Row(owner, Disclosure(owner[1], owner[2], salt, said, value))

    async def key_of(self, pool: Pool, owner: SubjectKey) -> bytes:
        """An owner's own key, made when there is none. Raises LedgerUnavailable when the keys are not to be had."""
        wrapped = (await self.keys.find_or_make(pool, [owner]))[owner]
        return unwrapped(self.keks, owner, *wrapped)

    async def key_to_keep(self, pool: Pool, owner: SubjectKey) -> bytes:
        """The same, to seal something under that is kept beside the ledger. Raises Refused when the owner was erased."""
        learnt, refused = await self._learn(pool, [owner])
        error = refused.get(owner)
        if isinstance(error, LedgerUnavailable):
            raise error
        if error is not None:
            raise _erased(Disclosure(owner[1], owner[2], "", owner[2], None))
        return learnt[owner].key

    async def fields_of(self, pool: Pool, tenant: str, subject: str, until: int = 2**63 - 1) -> list[Field]:
        """The personal fields kept about a subject, of events up to a position, in their order; decoys are nobody's."""
        async with pool.connection() as connection:
            return [Field(*row) for row in await (await connection.execute(_FIELDS, (tenant, subject, until))).fetchall()]

    # -- erasing

    async def erase(self, pool: Pool, tenant: str, subject: str, purposes: Sequence[str] | None, ordered_position: int) -> Erased:
        """Destroys what is kept about a subject for these purposes (None: for all), and lets nothing more be kept for them.

        Asked again for the same order it goes on where it was, and answers the same. An append that comes at the same time is
        either before, and its values go as well, or after, and is refused. Raises LedgerUnavailable when the keys are not to be had.
        """
        whose = (tenant, subject, ordered_position)
        async with pool.connection() as connection:
            done = await (await connection.execute(_ORDERED, whose)).fetchall()
        if not (done and all(row[4] for row in done)):
            with_keys = await self.keys.purposes(pool, tenant, subject)
            async with pool.connection() as connection:
                await self._order(connection, whose, purposes, with_keys)
                await self._delete(connection, whose, purposes)
                await connection.execute(f"NOTIFY {ERASED_CHANNEL}".encode())
            self.forget()
            await self.keys.destroy(pool, tenant, subject, purposes)
        async with pool.connection() as connection:
            query = (
                "UPDATE vault.erased SET destroyed = true WHERE tenant = %s AND subject = %s AND ordered_position = %s AND NOT destroyed"
            )
            await connection.execute(query, whose)
            done = await (await connection.execute(_ORDERED, whose)).fetchall()
        named = tuple(purpose for purpose, *_ in done if purpose != ALL_PURPOSES)
        return Erased(sum(row[2] for row in done), sum(row[3] for row in done), max(row[1] for row in done), named)

    async def _order(
        self, connection: Connection, whose: tuple[str, str, int], purposes: Sequence[str] | None, with_keys: Collection[str]
    ) -> None:
        """From here on nothing new is kept; what has a key is put on record before the key goes."""
        tenant, subject, ordered = whose
        chosen = sorted(with_keys) if purposes is None else list(purposes)
        async with connection.transaction():
            for purpose in [*chosen, ALL_PURPOSES] if purposes is None else chosen:
                await connection.execute(_ORDER, (tenant, subject, purpose, ordered, int(purpose in with_keys)))

    async def _delete(self, connection: Connection, whose: tuple[str, str, int], purposes: Sequence[str] | None) -> None:
        """Most of it beside the appends; the last while none is under way, so that nothing slips in behind."""
        tenant, subject, ordered = whose
        chosen = {"tenant": tenant, "subject": subject, "ordered": ordered, "all": purposes is None, "purposes": list(purposes or ())}
        while (await connection.execute(_DELETE, {**chosen, "limit": _ERASE_AT_ONCE})).rowcount:
            pass
        async with connection.transaction():
            row = await (await connection.execute("SELECT size FROM ledger.head FOR UPDATE")).fetchone()
            assert row is not None
            await connection.execute(_DELETE, {**chosen, "limit": None})
            closed = "UPDATE vault.erased SET until = %s WHERE tenant = %s AND subject = %s AND ordered_position = %s AND until = 0"
            await connection.execute(closed, (row[0], *whose))

    async def reopen(self, pool: Pool, tenant: str, subject: str) -> None:
        """Lets values be kept about an erased subject again, under new keys; what was erased stays erased, and on record."""
        async with pool.connection() as connection:
            query = "UPDATE vault.erased SET reopened = true WHERE tenant = %s AND subject = %s AND destroyed AND NOT reopened"
            await connection.execute(query, (tenant, subject))


def is_decoy(name: str) -> bool:
    return name.startswith(DECOYS)


def _by_position(disclosures: Sequence[tuple[int, str, Disclosure]], refused: Mapping[SubjectKey, Exception]) -> dict[int, Exception]:
    """The refusal of each event that has a value of one of these owners, naming the first such field."""
    found: dict[int, Exception] = {}
    for position, tenant, disclosure in disclosures:
        error = refused.get((tenant, disclosure.subject, disclosure.purpose))
        if error is not None and position not in found:
            found[position] = error if isinstance(error, LedgerUnavailable) else _erased(disclosure)
    return found


def _erased(disclosure: Disclosure) -> Refused:
    subject = disclosure.subject
    return Refused(
        "subject_erased",
        f"What was kept about {subject} for {disclosure.purpose} was erased, so {disclosure.name} is not kept again.",
        field=disclosure.name,
        remedy=f"Leave the personal fields out, or reopen the subject: aureus subjects reopen {subject}",
    )


def _unavailable(error: LedgerUnavailable | KekMissing | VaultError) -> LedgerUnavailable:
    if isinstance(error, LedgerUnavailable):
        return error
    if isinstance(error, KekMissing):
        return LedgerUnavailable("vault_key_missing", f"A personal value cannot be sealed or opened: {error}.", error.remedy)
    return LedgerUnavailable("vault_damaged", f"A subject's key cannot be used: {error}.", "Run `aureus vault check`.")
