"""The keys that personal values are sealed under: one per subject and purpose, wrapped, in the ledger's database or in one of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import nacl.bindings
import orjson
import psycopg
from nacl.exceptions import CryptoError
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from domain.ledger import LedgerUnavailable
from infra.key_encryption import KekMissing, KeyEncryptionKeys
from infra.schema import APPLICATION_ROLE
from infra.settings_error import SettingsError

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]
SubjectKey = tuple[str, str, str]
"""(tenant, subject, purpose)"""
URL: Final = "AUREUS_VAULT_KEYS_URL"
_NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_ANSWER_SECONDS: Final = 2.0
_PROBE_SECONDS: Final = 0.5
_T = TypeVar("_T")

FIND_KEYS: Final = """
    SELECT tenant, subject, purpose, wrapped, kek FROM unnest(%s::text[], %s::text[], %s::text[]) AS wanted(tenant, subject, purpose)
    JOIN vault.keys USING (tenant, subject, purpose)
"""
_ADD: Final = """
    INSERT INTO vault.keys (tenant, subject, purpose, wrapped, kek)
    SELECT tenant, subject, purpose, wrapped, %s
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::bytea[]) AS fresh(tenant, subject, purpose, wrapped) ON CONFLICT DO NOTHING
"""
# One row of each key-encryption key, found by stepping through the index: as quick with a million keys as with ten.
_ONE_OF_EACH: Final = """
    WITH RECURSIVE known AS (
        (SELECT kek FROM vault.keys ORDER BY kek LIMIT 1)
        UNION ALL
        SELECT (SELECT kek FROM vault.keys k WHERE k.kek > known.kek ORDER BY kek LIMIT 1) FROM known WHERE known.kek IS NOT NULL
    )
    SELECT row.* FROM known CROSS JOIN LATERAL
        (SELECT tenant, subject, purpose, wrapped, kek FROM vault.keys k WHERE k.kek = known.kek LIMIT 1) AS row
"""
_WRAPPED_OTHERWISE: Final = """
    SELECT tenant, subject, purpose, wrapped, kek FROM vault.keys
    WHERE (kek < %(kek)s OR kek > %(kek)s) AND (tenant, subject, purpose) > (%(tenant)s, %(subject)s, %(purpose)s)
    ORDER BY tenant, subject, purpose LIMIT %(limit)s FOR UPDATE
"""


class VaultError(Exception):
    """A value cannot be opened: the key-encryption key is not the one it was sealed under, or the row was changed."""


def seal_bytes(plain: bytes, bound_to: bytes, key: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, bound_to, nonce, key)


def open_bytes(sealed: bytes, bound_to: bytes, key: bytes) -> bytes:
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed[_NONCE_BYTES:], bound_to, sealed[:_NONCE_BYTES], key)
    except (CryptoError, ValueError, TypeError) as error:
        raise VaultError("a sealed value does not open: wrong key-encryption key, or a changed row") from error


def bound(*parts: str) -> bytes:
    """What a sealed value is bound to: moved to another owner or name, it does not open."""
    return orjson.dumps(parts)


def unwrapped(keks: KeyEncryptionKeys, owner: SubjectKey, wrapped: bytes, kek: str) -> bytes:
    """A subject's key. Raises VaultError, or KekMissing."""
    return open_bytes(wrapped, bound(*owner), keks.key(kek))


def columns(owners: Collection[SubjectKey]) -> list[list[str]]:
    """Owners as three columns, for `unnest`."""
    return [[owner[place] for owner in owners] for place in range(3)]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """The last owner whose key was taken up, None when there was none left; and how many did not open, and stay as they are."""

    last: SubjectKey | None
    damaged: int


class VaultKeys:
    """Finds, makes, wraps and destroys the keys of subjects; `pool` is the ledger's, whose database has them unless `url` names another."""

    def __init__(self, keks: KeyEncryptionKeys, url: str | None = None) -> None:
        self.keks = keks
        self._own: Pool | None = None
        if url is not None:
            self._own = AsyncConnectionPool(
                url, open=False, min_size=1, max_size=4, timeout=_ANSWER_SECONDS, kwargs={"autocommit": True}, configure=_as_application
            )
        self._probe: asyncio.Task[None] | None = None

    async def open(self, pool: Pool, ledger: str) -> None:
        """Makes sure that these are this ledger's keys, and that what they are wrapped under is here. Raises SettingsError."""
        if self._own is not None:
            await self._own.open(wait=True, timeout=10)
        async with pool.connection() as connection:
            sealed = await _exists(connection, "SELECT EXISTS (SELECT FROM vault.disclosures)")
            here = await _exists(connection, "SELECT EXISTS (SELECT FROM vault.keys)")
        if self._own is not None and here:
            rule = "the ledger's own database still holds keys of the vault."
            raise SettingsError(URL, rule, "Move them first: docs/personal-data.md says how.")
        await self._in_keys(pool, lambda connection: self._settle(connection, ledger, sealed=sealed))

    async def _settle(self, connection: Connection, ledger: str, *, sealed: bool) -> None:
        row = await (await connection.execute("SELECT ledger, kek FROM vault.wrapping")).fetchone()
        one_of_each = await (await connection.execute(_ONE_OF_EACH)).fetchall()
        if row is None and sealed and not one_of_each:
            raise SettingsError(URL, "there are sealed values, and their keys are not here.", "Name the database that has them.")
        if row is None:
            added = "INSERT INTO vault.wrapping (ledger, kek) VALUES (%s, %s) ON CONFLICT DO NOTHING"
            await connection.execute(added, (ledger, self.keks.ids()[0]))
        elif row[0] != ledger:
            raise SettingsError(URL, f"this database holds the keys of the ledger {row[0]}, not of {ledger}.", "Name this ledger's own.")
        for *owner, wrapped, kek in one_of_each:
            self._require_opens((owner[0], owner[1], owner[2]), wrapped, kek)
        if row is not None:
            self._require_here(row[1])
            self.keks.current = row[1]

    def _require_here(self, kek: str) -> None:
        try:
            self.keks.key(kek)
        except KekMissing as missing:
            raise SettingsError("keys.vault", f"{missing}, and keys of the vault are wrapped under it.", missing.remedy) from missing

    def _require_opens(self, owner: SubjectKey, wrapped: bytes, kek: str) -> None:
        self._require_here(kek)
        try:
            unwrapped(self.keks, owner, wrapped, kek)
        except VaultError as error:
            named = kek or f"{self.keks.ids()[0]} (vault.key)"
            rule = f"the key-encryption key {named} in {self.keks.folder} does not open what was wrapped under it."
            raise SettingsError("keys.vault", rule, "Restore the key files that belong to this vault from your backup.") from error

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        if self._own is not None:
            await self._own.close()

    async def find(self, pool: Pool, owners: Collection[SubjectKey]) -> dict[SubjectKey, tuple[bytes, str]]:
        """(wrapped key, the id of what wraps it) of those owners that have one."""

        async def look(connection: Connection) -> dict[SubjectKey, tuple[bytes, str]]:
            rows = await (await connection.execute(FIND_KEYS, columns(owners))).fetchall()
            return {(tenant, subject, purpose): (wrapped, kek) for tenant, subject, purpose, wrapped, kek in rows}

        return await self._in_keys(pool, look)

    async def find_or_make(self, pool: Pool, owners: Sequence[SubjectKey]) -> dict[SubjectKey, tuple[bytes, str]]:
        """The same for all of them: who has no key gets one, durable on return."""
        found = await self.find(pool, owners)
        missing = [owner for owner in owners if owner not in found]
        if not missing:
            return found

        async def make(connection: Connection) -> None:
            async with connection.transaction():
                # Shared, so that a rotation waits for this key, or this key is wrapped by what was rotated to.
                row = await (await connection.execute("SELECT kek FROM vault.wrapping FOR SHARE")).fetchone()
                assert row is not None, "a vault is opened before anything is sealed"
                kek = self.keks.key(row[0])
                self.keks.current = row[0]
                wrapped = [seal_bytes(os.urandom(32), bound(*owner), kek) for owner in missing]
                await connection.execute(_ADD, (row[0], *columns(missing), wrapped))

        await self._in_keys(pool, make)
        return {**found, **await self.find(pool, missing)}

    async def purposes(self, pool: Pool, tenant: str, subject: str) -> set[str]:
        """The purposes that a subject has keys for."""

        async def look(connection: Connection) -> set[str]:
            query = "SELECT purpose FROM vault.keys WHERE tenant = %s AND subject = %s"
            return {purpose for (purpose,) in await (await connection.execute(query, (tenant, subject))).fetchall()}

        return await self._in_keys(pool, look)

    async def destroy(self, pool: Pool, tenant: str, subject: str, purposes: Sequence[str] | None) -> None:
        """Deletes a subject's keys for these purposes, or all of them."""

        async def delete(connection: Connection) -> None:
            query = "DELETE FROM vault.keys WHERE tenant = %s AND subject = %s AND (%s::text[] IS NULL OR purpose = ANY(%s::text[]))"
            chosen = None if purposes is None else list(purposes)
            await connection.execute(query, (tenant, subject, chosen, chosen))

        await self._in_keys(pool, delete)

    async def wrapping(self, pool: Pool) -> str:
        """The id of what wraps new keys."""

        async def look(connection: Connection) -> str:
            row = await (await connection.execute("SELECT kek FROM vault.wrapping")).fetchone()
            assert row is not None, "a vault is opened before it is asked"
            self.keks.current = row[0]
            return str(row[0])

        return await self._in_keys(pool, look)

    async def counts(self, pool: Pool) -> Mapping[str, int]:
        """How many keys are wrapped under each key-encryption key; those of '' count for the first one."""

        async def look(connection: Connection) -> dict[str, int]:
            return dict(await (await connection.execute("SELECT kek, count(*) FROM vault.keys GROUP BY kek")).fetchall())

        counted = await self._in_keys(pool, look)
        unnamed = counted.pop("", 0)
        if unnamed:
            first = self.keks.ids()[0]
            counted[first] = counted.get(first, 0) + unnamed
        return counted

    async def wrap_with(self, pool: Pool, kek: str) -> None:
        """From now on new keys are wrapped under this one, by every process. Raises KekMissing."""
        self.keks.key(kek)

        async def change(connection: Connection) -> None:
            await connection.execute("UPDATE vault.wrapping SET kek = %s WHERE kek <> %s", (kek, kek))

        await self._in_keys(pool, change)
        self.keks.current = kek

    async def wrapped_otherwise(self, pool: Pool, kek: str) -> bool:
        """Whether any key is wrapped under another key-encryption key than this."""

        async def look(connection: Connection) -> bool:
            query = "SELECT EXISTS (SELECT FROM vault.keys WHERE kek < %s) OR EXISTS (SELECT FROM vault.keys WHERE kek > %s)"
            row = await (await connection.execute(query, (kek, kek))).fetchone()
            return bool(row and row[0])

        return await self._in_keys(pool, look)

    async def rewrap(self, pool: Pool, kek: str, after: SubjectKey, limit: int) -> Rewrapped:
        """Wraps up to `limit` keys, of owners after this one, under this key-encryption key instead of another. Raises KekMissing."""

        async def change(connection: Connection) -> Rewrapped:
            last, damaged = None, 0
            query = "UPDATE vault.keys SET wrapped = %s, kek = %s WHERE tenant = %s AND subject = %s AND purpose = %s"
            whose = {"tenant": after[0], "subject": after[1], "purpose": after[2]}
            async with connection.transaction():
                rows = await (await connection.execute(_WRAPPED_OTHERWISE, {"kek": kek, "limit": limit, **whose})).fetchall()
                async with connection.pipeline():
                    for tenant, subject, purpose, wrapped, old in rows:
                        last = (tenant, subject, purpose)
                        try:
                            key = unwrapped(self.keks, last, wrapped, old)
                        except VaultError:
                            damaged += 1
                        else:
                            await connection.execute(query, (seal_bytes(key, bound(*last), self.keks.key(kek)), kek, *last))
            return Rewrapped(last, damaged)

        return await self._in_keys(pool, change)

    async def _in_keys(self, pool: Pool, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Works in the database that has the keys. When that is not the ledger's and is not to be had: LedgerUnavailable, at once
        after the first time, until it is back: nobody's append waits for it.
        """
        if self._own is None:
            async with pool.connection() as connection:
                return await work(connection)
        if self._probe is not None and not self._probe.done():
            raise _unreachable()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), self._own.connection() as connection:
                return await work(connection)
        except (psycopg.OperationalError, TimeoutError) as error:
            self._probe = asyncio.create_task(self._until_back(self._own), name="vault-keys-probe")
            raise _unreachable() from error

    async def _until_back(self, pool: Pool) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS), pool.connection() as connection:
                    await connection.execute("SELECT 1")
                return
            except (psycopg.OperationalError, TimeoutError):
                await asyncio.sleep(_PROBE_SECONDS)


async def _as_application(connection: Connection) -> None:
    await connection.execute(f"SET ROLE {APPLICATION_ROLE}".encode())


async def _exists(connection: Connection, query: Any) -> bool:
    row = await (await connection.execute(query)).fetchone()
    return bool(row and row[0])


def _unreachable() -> LedgerUnavailable:
    message = "The database of the vault's keys does not answer, so no personal value can be sealed or opened."
    return LedgerUnavailable("vault_keys_unreachable", message, "Try again in a moment; what holds no personal values goes on.")
