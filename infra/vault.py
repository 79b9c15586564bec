"""The vault: personal values, sealed under a key per subject and purpose, so that destroying a key erases them.

The ledger's signed bytes hold only salted digests; what is kept here can go without touching one of them.
Format: XChaCha20-Poly1305 (nonce || ciphertext) over the JSON array [salt, name, value]; each key is itself sealed
under the key-encryption key, which never enters the database.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import nacl.bindings
import orjson
from nacl.exceptions import CryptoError
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from infra.envelope import Disclosure

Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]
SubjectKey = tuple[str, str, str]
"""(tenant, subject, purpose)"""
_NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_REMEMBERED_KEYS: Final = 10_000


class VaultError(Exception):
    """A value cannot be opened: the key-encryption key is not the one it was sealed under, or the row was changed."""


def seal_bytes(plain: bytes, bound_to: bytes, key: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, bound_to, nonce, key)


def open_bytes(sealed: bytes, bound_to: bytes, key: bytes) -> bytes:
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed[_NONCE_BYTES:], bound_to, sealed[:_NONCE_BYTES], key)
    except CryptoError as error:
        raise VaultError("a sealed value does not open: wrong key-encryption key, or a changed row") from error


def _bound(*parts: str) -> bytes:
    return orjson.dumps(parts)


def opened(key_encryption_key: bytes, owner: SubjectKey, name: str, sealed: bytes, wrapped: bytes) -> bytes:
    """The JSON array [salt, name, value] of a sealed value, as it was hashed; `wrapped` is its subject's sealed key. VaultError if not."""
    key = open_bytes(wrapped, _bound(*owner), key_encryption_key)
    return open_bytes(sealed, _bound(*owner, name), key)


class Vault:
    """Seals disclosures for the store, and opens them for those who may see."""

    def __init__(self, key_encryption_key: bytes) -> None:
        self._kek = key_encryption_key
        self._keys: dict[SubjectKey, bytes] = {}

    async def seal(self, pool: Pool, disclosures: Sequence[tuple[int, str, Disclosure]]) -> list[tuple[Any, ...]]:
        """Rows for vault.disclosures; makes a subject's key durable before anything is sealed under it."""
        rows = []
        for position, tenant, disclosure in disclosures:
            owner = (tenant, disclosure.subject, disclosure.purpose)
            key = self._keys.get(owner) or await self._key(pool, owner)
            plain = orjson.dumps([disclosure.salt, disclosure.name, disclosure.value])
            rows.append((position, disclosure.name, *owner, seal_bytes(plain, _bound(*owner, disclosure.name), key)))
        return rows

    async def open(self, pool: Pool, tenant: str, position: int) -> dict[str, Any]:
        """The personal fields of one event by name; those whose key was destroyed are not there."""
        query = """
            SELECT d.name, d.subject, d.purpose, d.sealed, k.wrapped FROM vault.disclosures d
            JOIN vault.keys k USING (tenant, subject, purpose) WHERE d.position = %s AND d.tenant = %s
        """
        async with pool.connection() as connection:
            found = await (await connection.execute(query, (position, tenant))).fetchall()
        values = {}
        for name, subject, purpose, sealed, wrapped in found:
            values[name] = orjson.loads(opened(self._kek, (tenant, subject, purpose), name, sealed, wrapped))[2]
        return values

    async def _key(self, pool: Pool, owner: SubjectKey) -> bytes:
        wrapped = seal_bytes(os.urandom(32), _bound(*owner), self._kek)
        async with pool.connection() as connection:
            await connection.execute("INSERT INTO vault.keys VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", (*owner, wrapped))
            query = "SELECT wrapped FROM vault.keys WHERE tenant = %s AND subject = %s AND purpose = %s"
            row = await (await connection.execute(query, owner)).fetchone()
        assert row is not None
        if len(self._keys) >= _REMEMBERED_KEYS:
            self._keys.clear()
        key = self._keys[owner] = open_bytes(row[0], _bound(*owner), self._kek)
        return key
