"""What an identity provider says of the people and groups it manages, beside the ledger: sealed, found by digest, gone with an erasure.

The ledger knows an opaque id and what its holder may do. A user name, a name, an address would stay in signed bytes for ever, so
they are kept here, under a key of the person's own in the vault (purpose `provisioning`): an erasure that destroys the key
destroys them, in backups as well.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

import orjson
from psycopg import AsyncConnection, OperationalError, errors
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.kernel import JsonObject
from domain.ledger import LedgerUnavailable
from infra.vault_keys import SubjectKey, bound, open_bytes, seal_bytes, unwrapped
from infra.vault_records import VaultRecords

PURPOSE: Final = "provisioning"
_NAMES: Final = "_names"
_ALONE: Final = "SELECT pg_advisory_lock(7283678, hashtext(%s))"
_NOT_ALONE: Final = "SELECT pg_advisory_unlock(7283678, hashtext(%s))"
_USERS: Final = "SELECT actor_id, sealed, registered, created_at, changed_at FROM scim_private.users WHERE tenant = %(tenant)s"
_RESERVE: Final = """
    INSERT INTO scim_private.users (tenant, actor_id, user_name, external_id, sealed)
    VALUES (%(tenant)s, %(actor_id)s, %(user_name)s, %(external_id)s, %(sealed)s)
"""
_CHANGE: Final = """
    UPDATE scim_private.users SET user_name = %(user_name)s, external_id = %(external_id)s, sealed = %(sealed)s, changed_at = now()
    WHERE tenant = %(tenant)s AND actor_id = %(actor_id)s
"""
_REGISTERED: Final = "UPDATE scim_private.users SET registered = true WHERE tenant = %s AND actor_id = %s"
_FORGET: Final = "DELETE FROM scim_private.users WHERE tenant = %s AND actor_id = %s"
_GROUPS: Final = "SELECT group_id, external_id FROM scim_private.groups WHERE tenant = %s"
_KEEP_GROUP: Final = """
    INSERT INTO scim_private.groups (tenant, group_id, external_id) VALUES (%s, %s, %s)
    ON CONFLICT (tenant, group_id) DO UPDATE SET external_id = excluded.external_id
"""
_FORGET_GROUP: Final = "DELETE FROM scim_private.groups WHERE tenant = %s AND group_id = %s"
Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True)
class ScimUser:
    """A person as their provider describes them; `attributes` are SCIM's. Not `registered`: the ledger does not know them yet."""

    actor_id: str
    attributes: JsonObject
    registered: bool
    created_at: datetime
    changed_at: datetime


class NameTaken(Exception):
    """Somebody else in the tenant has this user name."""


class ScimUsers:
    """Looks up what providers said, for any number of processes; who changes it takes turns with `alone`."""

    def __init__(self, dsn: str, records: VaultRecords) -> None:
        self._vault, self._ledger_pool = records.vault, records.pool
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn, open=False, min_size=0, max_size=4, timeout=10, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def alone(self, tenant: str) -> AsyncIterator[ScimChanges]:
        """One change at a time in each tenant, whichever process makes it; a lost connection lets the next one in."""
        async with self._connection() as connection:
            await connection.execute(_ALONE, (tenant,))
            try:
                yield ScimChanges(self, connection, tenant)
            finally:
                await connection.execute(_NOT_ALONE, (tenant,))

    async def get(self, tenant: str, actor_id: str) -> ScimUser | None:
        return next(iter(await self._users(tenant, " AND actor_id = %(wanted)s", actor_id)), None)

    async def named(self, tenant: str, user_name: str) -> ScimUser | None:
        """Who has this user name, in whatever case it is written."""
        wanted = await self.digest(tenant, "userName", user_name)
        return next(iter(await self._users(tenant, " AND user_name = %(wanted)s", wanted)), None)

    async def with_external_id(self, tenant: str, external_id: str) -> list[ScimUser]:
        return await self._users(tenant, " AND external_id = %(wanted)s", await self.digest(tenant, "externalId", external_id))

    async def all(self, tenant: str) -> list[ScimUser]:
        return await self._users(tenant)

    async def actor_of_user_name(self, tenant: str, user_name: str) -> str | None:
        """The registered actor whose provider calls them this; None when no provider does."""
        user = await self.named(tenant, user_name)
        return user.actor_id if user is not None and user.registered else None

    async def erase(self, tenant: str, subject: str, purposes: Sequence[str]) -> None:
        """Forgets a person who was erased for these purposes (none: for all); what their key sealed opens no more as it is."""
        if not purposes or PURPOSE in purposes:
            async with self.alone(tenant) as changes:
                await changes.forget(subject)

    async def groups(self, tenant: str) -> dict[str, str | None]:
        """The groups that a provider manages, by our ids: the ids it has for them itself, if it tells any."""
        async with self._connection() as connection:
            return dict(await (await connection.execute(_GROUPS, (tenant,))).fetchall())

    async def digest(self, tenant: str, attribute: str, value: str) -> bytes:
        """What a value is looked up by: without the tenant's key nobody can tell which names are there."""
        key = await self._vault.key_of(self._ledger_pool, (tenant, _NAMES, _NAMES))
        said = unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).lower() if attribute == "userName" else value)
        return hmac.digest(key, orjson.dumps([attribute, said]), hashlib.sha256)

    async def sealed(self, tenant: str, actor_id: str, attributes: JsonObject) -> bytes:
        """Raises Refused when the person was erased."""
        owner = (tenant, actor_id, PURPOSE)
        return seal_bytes(orjson.dumps(attributes), bound(*owner, "scim"), await self._vault.key_to_keep(self._ledger_pool, owner))

    async def _users(self, tenant: str, condition: LiteralString = "", wanted: str | bytes | None = None) -> list[ScimUser]:
        async with self._connection() as connection:
            asked = {"tenant": tenant, "wanted": wanted}
            rows = await (await connection.execute(_USERS + condition + " ORDER BY created_at, actor_id", asked)).fetchall()
        return await self._opened(tenant, rows)

    async def _opened(self, tenant: str, rows: Sequence[TupleRow]) -> list[ScimUser]:
        """Those whose key was destroyed are not there any more, though their rows may be for another moment."""
        owners: list[SubjectKey] = [(tenant, row[0], PURPOSE) for row in rows]
        keys = await self._vault.keys.find(self._ledger_pool, owners) if owners else {}
        users = []
        for owner, (actor_id, sealed, *rest) in zip(owners, rows, strict=True):
            if owner in keys:
                plain = open_bytes(sealed, bound(*owner, "scim"), unwrapped(self._vault.keks, owner, *keys[owner]))
                users.append(ScimUser(actor_id, orjson.loads(plain), *rest))
        return users

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (OperationalError, PoolTimeout) as error:
            await self._pool.check()
            raise LedgerUnavailable("database_unreachable", "The database does not answer.", "Try again in a moment.") from error


@dataclass(frozen=True, slots=True)
class ScimChanges:
    """Changes what is kept of one tenant, while nobody else does."""

    users: ScimUsers
    connection: Connection
    tenant: str

    async def reserve(self, actor_id: str, attributes: JsonObject) -> None:
        """Keeps a person who is to be registered under this id. Raises NameTaken."""
        await self._write(_RESERVE, actor_id, attributes)

    async def change(self, actor_id: str, attributes: JsonObject) -> None:
        """Raises NameTaken."""
        await self._write(_CHANGE, actor_id, attributes)

    async def registered(self, actor_id: str) -> None:
        await self.connection.execute(_REGISTERED, (self.tenant, actor_id))

    async def forget(self, actor_id: str) -> None:
        await self.connection.execute(_FORGET, (self.tenant, actor_id))

    async def keep_group(self, group_id: str, external_id: str | None) -> None:
        await self.connection.execute(_KEEP_GROUP, (self.tenant, group_id, external_id))

    async def forget_group(self, group_id: str) -> None:
        await self.connection.execute(_FORGET_GROUP, (self.tenant, group_id))

    async def _write(self, statement: LiteralString, actor_id: str, attributes: JsonObject) -> None:
        external_id = attributes.get("externalId")
        written: dict[str, Any] = {
            "tenant": self.tenant,
            "actor_id": actor_id,
            "user_name": await self.users.digest(self.tenant, "userName", attributes["userName"]),
            "external_id": None if external_id is None else await self.users.digest(self.tenant, "externalId", external_id),
            "sealed": await self.users.sealed(self.tenant, actor_id, attributes),
        }
        try:
            await self.connection.execute(statement, written)
        except errors.UniqueViolation as taken:
            raise NameTaken from taken
