"""Secrets shared with other systems, beside the ledger: sealed under a key-encryption key, made once, and numbered as they are rotated."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from psycopg import sql
from psycopg.rows import TupleRow

from infra.key_encryption import KekMissing, KeyEncryptionKeys
from infra.vault import VaultError, open_bytes, seal_bytes

PREFIX: Final = "whsec_"
"""What secrets begin with, by the Standard Webhooks convention."""
_BYTES: Final = 32
Query = Callable[[sql.Composed, Mapping[str, Any]], Awaitable[Sequence[TupleRow]]]
_KEEP: Final = sql.SQL("""
    INSERT INTO {table} (tenant, {owner}, sealed, kek) VALUES (%(tenant)s, %(name)s, %(sealed)s, %(kek)s) ON CONFLICT DO NOTHING
""")
_KEPT: Final = sql.SQL("SELECT sealed, kek FROM {table} WHERE tenant = %(tenant)s AND {owner} = %(name)s")
_FORGET: Final = sql.SQL("DELETE FROM {table} WHERE tenant = %(tenant)s AND split_part({owner}, '#', 1) = %(name)s")
_SEALED_OTHERWISE: Final = sql.SQL("SELECT tenant, {owner}, sealed, kek FROM {table} WHERE kek <> %(kek)s")
_RESEAL: Final = sql.SQL("""
    UPDATE {table} SET sealed = %(again)s, kek = %(kek)s WHERE tenant = %(tenant)s AND {owner} = %(name)s AND sealed = %(sealed)s
""")
_COUNT: Final = sql.SQL("SELECT kek, count(*) FROM {table} GROUP BY kek")


def secret_digest(secret: str) -> str:
    """What the ledger keeps of a secret. It is random, so its digest gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()


def numbered(owner_id: str, number: int) -> str:
    """What the secret of this number is kept under: the first one under its owner's id alone. No id holds a `#`."""
    return owner_id if number == 0 else f"{owner_id}#{number}"


class SealedSecrets:
    """The secrets of one kind of owner, in a table with the columns tenant, the owner's id, sealed and kek."""

    def __init__(self, keks: KeyEncryptionKeys, query: Query, schema: str, owner: str, kind: str) -> None:
        self._keks, self._query, self._kind = keks, query, kind
        self._names = {"table": sql.Identifier(schema, "secrets"), "owner": sql.Identifier(owner)}

    async def made(self, tenant: str, owner_id: str, number: int = 0, given: str | None = None) -> str:
        """An owner's secret of this number; made, or the one given, when there is none: a command asked for again is the same command."""
        name = numbered(owner_id, number)
        fresh = given or PREFIX + base64.b64encode(os.urandom(_BYTES)).decode()
        kek = self._keks.current
        sealed = seal_bytes(fresh.encode(), self._bound(tenant, name), self._keks.key(kek))
        await self._ask(_KEEP, {"tenant": tenant, "name": name, "sealed": sealed, "kek": kek})
        ((sealed, kek),) = await self._ask(_KEPT, {"tenant": tenant, "name": name})
        return open_bytes(sealed, self._bound(tenant, name), self._keks.key(kek)).decode()

    async def kept(self, tenant: str, owner_id: str, number: int) -> str | None:
        """The secret of this number; None when it is gone, or does not open."""
        name = numbered(owner_id, number)
        rows = await self._ask(_KEPT, {"tenant": tenant, "name": name})
        return self.opened(tenant, name, *rows[0]) if rows else None

    def opened(self, tenant: str, name: str, sealed: bytes | None, kek: str | None) -> str | None:
        """A secret from its row; None when it does not open."""
        try:
            return open_bytes(sealed or b"", self._bound(tenant, name), self._keks.key(kek or "")).decode()
        except (VaultError, KekMissing):
            return None

    async def forget(self, tenant: str, owner_id: str) -> None:
        """Destroys every secret of an owner."""
        await self._ask(_FORGET, {"tenant": tenant, "name": owner_id})

    async def reseal(self, kek: str) -> None:
        """Seals every secret under this key-encryption key; one that does not open stays as it is. Raises KekMissing."""
        for tenant, name, sealed, old in await self._ask(_SEALED_OTHERWISE, {"kek": kek}):
            bound_to = self._bound(tenant, name)
            with suppress(VaultError):
                again = seal_bytes(open_bytes(sealed, bound_to, self._keks.key(old)), bound_to, self._keks.key(kek))
                await self._ask(_RESEAL, {"tenant": tenant, "name": name, "sealed": sealed, "again": again, "kek": kek})

    async def counts(self) -> dict[str, int]:
        """How many secrets are sealed under each key-encryption key; '' is the first one."""
        return dict(await self._ask(_COUNT, {}))

    async def _ask(self, query: sql.SQL, arguments: Mapping[str, Any]) -> Sequence[TupleRow]:
        return await self._query(query.format(**self._names), arguments)

    def _bound(self, tenant: str, name: str) -> bytes:
        return orjson.dumps((self._kind, "secret", tenant, name))
