"""What the vault does by itself: after a rotation every key is wrapped, and every other secret sealed, under the new one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from commands.path import Ask, CommandPath
from commands.vault import RecordRewrap
from domain.keys import SYSTEM_TENANT
from domain.values import uuid7
from infra.key_encryption import KekMissing
from infra.sealed_secrets import SealedSecrets
from infra.vault_keys import SubjectKey
from infra.vault_records import VaultRecords
from streams.leading import Connection, lead
from streams.reactions import asker

REWRAP_LOCK: Final = 7_283_674
AT_ONCE: Final = 500
IDLE_SECONDS: Final = 1.0
MISSING_SECONDS: Final = 10.0
_log = logging.getLogger("aureus.vault")


class Resealed(Protocol):
    """Secrets beside the ledger."""

    async def reseal(self, kek: str) -> None:
        """Seals every one under this key-encryption key. Raises KekMissing."""
        ...


class Rewrapper:
    """Runs until cancelled."""

    def __init__(self, dsn: str, path: CommandPath, records: VaultRecords, secrets: Sequence[SealedSecrets], *others: Resealed) -> None:
        self._dsn, self._path, self._records, self._secrets, self._others = dsn, path, records, secrets, others
        self._keys, self._pool = records.vault.keys, records.pool
        self._refused: str | None = None
        """The key-encryption key whose end the policies would not put on record: to ask again would change nothing."""

    async def run(self) -> None:
        """Waits to be the one, then wraps whatever is wrapped otherwise."""
        await lead(self._dsn, REWRAP_LOCK, "vault", self._lead)

    async def _lead(self, connection: Connection) -> None:
        while True:
            try:
                await self.follow()
            except KekMissing as missing:
                _log.error("Keys cannot be wrapped again: %s. %s", missing, missing.remedy)
                await asyncio.sleep(MISSING_SECONDS)
            await connection.execute("SELECT 1")  # leadership goes with the connection: this notices when it is lost
            await asyncio.sleep(IDLE_SECONDS)

    async def follow(self) -> None:
        """Brings everything under the key that the ledger says was rotated to last; a crash in the middle is no matter."""
        wrapping = await self._records.wrapping()
        if wrapping.keks:
            await self._keys.wrap_with(self._pool, wrapping.keks[-1])
        kek = await self._keys.wrapping(self._pool)
        damaged = await self._rewrap(kek)
        for sealed in (*self._secrets, *self._others):
            await sealed.reseal(kek)
        if not wrapping.done and kek != self._refused:
            keys, counts = await self._keys.counts(self._pool), [await sealed.counts() for sealed in self._secrets]
            done = RecordRewrap(kek=kek, keys=keys.get(kek, 0), webhook_secrets=sum(count.get(kek, 0) for count in counts), damaged=damaged)
            outcome = await self._path.handle(Ask(done, asker(SYSTEM_TENANT), uuid7(), datetime.now(UTC)))
            if outcome.outcome != "allowed":
                self._refused = kek
                _log.warning("That keys were wrapped again is not on record: %s", outcome.message or outcome.outcome)

    async def _rewrap(self, kek: str) -> int:
        """How many keys did not open, and stay as they are."""
        after: SubjectKey = ("", "", "")
        damaged = 0
        while await self._keys.wrapped_otherwise(self._pool, kek):
            done = await self._keys.rewrap(self._pool, kek, after, AT_ONCE)
            damaged += done.damaged
            if done.last is None:
                break
            after = done.last
        return damaged
