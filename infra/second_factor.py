"""Second factors: time-based codes (TOTP, RFC 6238), each taken once, and recovery codes for who has lost the device that makes them.

The secret is sealed under the vault's key-encryption key; of recovery codes only digests are kept.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pyotp

from infra.access_store import AccessStore, rows
from infra.key_encryption import KeyEncryptionKeys
from infra.vault_keys import VaultError, bound, open_bytes, seal_bytes

STEP_SECONDS: Final = 30
STEPS_FORGIVEN: Final = 1
"""Before and after: clocks differ, and people type slowly."""
RECOVERY_CODES: Final = 10
_SECRET_BYTES: Final = 20
_RECOVERY_BYTES: Final = 10
ISSUER: Final = "Aureus"

# Only an unconfirmed one is ever replaced.
_ENROL: Final = """
    INSERT INTO access_private.second_factors AS known (tenant, actor, sealed, kek) VALUES (%s, %s, %s, %s)
    ON CONFLICT (tenant, actor) DO UPDATE SET sealed = EXCLUDED.sealed, kek = EXCLUDED.kek, last_step = 0 WHERE NOT known.confirmed
"""
_KEPT: Final = "SELECT sealed, kek, confirmed FROM access_private.second_factors WHERE tenant = %s AND actor = %s"
# One statement, so whoever shows the same code at the same time, to whatever process, finds that its step has passed.
_TAKE: Final = """
    UPDATE access_private.second_factors SET last_step = %(step)s
    WHERE tenant = %(tenant)s AND actor = %(actor)s AND sealed = %(sealed)s AND last_step < %(step)s RETURNING actor
"""
_CONFIRM: Final = "UPDATE access_private.second_factors SET confirmed = true WHERE tenant = %s AND actor = %s"
_FORGET_CODES: Final = "DELETE FROM access_private.recovery_codes WHERE tenant = %s AND actor = %s"
_KEEP_CODES: Final = """
    INSERT INTO access_private.recovery_codes (tenant, actor, code_sha256) SELECT %s, %s, code FROM unnest(%s::bytea[]) AS fresh(code)
"""
_USE_CODE: Final = """
    DELETE FROM access_private.recovery_codes WHERE tenant = %s AND actor = %s AND code_sha256 = %s RETURNING actor
"""
_CODES_LEFT: Final = "SELECT count(*) FROM access_private.recovery_codes WHERE tenant = %s AND actor = %s"
_REMOVE: Final = "DELETE FROM access_private.second_factors WHERE tenant = %s AND actor = %s"
_SEALED_OTHERWISE: Final = "SELECT tenant, actor, sealed, kek FROM access_private.second_factors WHERE kek <> %s"
_RESEAL: Final = """
    UPDATE access_private.second_factors SET sealed = %s, kek = %s WHERE tenant = %s AND actor = %s AND sealed = %s
"""


class SecondFactors:
    """The second factors of actors. Several processes may share them; raises LedgerUnavailable, VaultError and KekMissing."""

    def __init__(self, store: AccessStore, keks: KeyEncryptionKeys, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._keks, self._clock = store, keks, clock

    async def enrol(self, tenant: str, actor: str) -> str:
        """A new secret (base32), which counts for nothing until it is confirmed."""
        secret = base64.b32encode(os.urandom(_SECRET_BYTES)).decode()
        kek = self._keks.current
        sealed = seal_bytes(secret.encode(), _bound(tenant, actor), self._keks.key(kek))
        await self._store.query(_ENROL, (tenant, actor, sealed, kek))
        return secret

    async def confirmed(self, tenant: str, actor: str) -> bool:
        """Whether a login as the actor takes a code."""
        found = await self._store.query(_KEPT, (tenant, actor))
        return bool(found and found[0][2])

    async def take(self, tenant: str, actor: str, code: str) -> bool:
        """Whether this is a code of the actor's second factor, confirmed or not, that was not taken before; it is taken now."""
        found = await self._store.query(_KEPT, (tenant, actor))
        if not found:
            return False
        sealed, kek, _ = found[0]
        totp = pyotp.TOTP(open_bytes(sealed, _bound(tenant, actor), self._keks.key(kek)).decode(), interval=STEP_SECONDS)
        now = int(self._clock()) // STEP_SECONDS
        for step in range(now - STEPS_FORGIVEN, now + STEPS_FORGIVEN + 1):
            if pyotp.utils.strings_equal(totp.generate_otp(step), code):
                taken = {"tenant": tenant, "actor": actor, "sealed": sealed, "step": step}
                return bool(await self._store.query(_TAKE, taken))
        return False

    async def confirm(self, tenant: str, actor: str, codes: list[str]) -> None:
        """Lets the second factor count, with these recovery codes and no others."""
        async with self._store.connection() as connection, connection.transaction():
            await rows(connection, _FORGET_CODES, (tenant, actor))
            await rows(connection, _KEEP_CODES, (tenant, actor, [_digest(tenant, actor, code) for code in codes]))
            await rows(connection, _CONFIRM, (tenant, actor))

    async def recover(self, tenant: str, actor: str, code: str) -> int | None:
        """How many recovery codes are left, when this was one; it is used up now."""
        if not await self._store.query(_USE_CODE, (tenant, actor, _digest(tenant, actor, code))):
            return None
        ((left,),) = await self._store.query(_CODES_LEFT, (tenant, actor))
        return int(left)

    async def remove(self, tenant: str, actor: str) -> None:
        """Destroys the secret and the recovery codes."""
        async with self._store.connection() as connection, connection.transaction():
            await rows(connection, _FORGET_CODES, (tenant, actor))
            await rows(connection, _REMOVE, (tenant, actor))

    async def reseal(self, kek: str) -> None:
        """Seals every secret under this key-encryption key; one that does not open stays as it is. Raises KekMissing."""
        for tenant, actor, sealed, old in await self._store.query(_SEALED_OTHERWISE, (kek,)):
            with suppress(VaultError):
                plain = open_bytes(sealed, _bound(tenant, actor), self._keks.key(old))
                again = seal_bytes(plain, _bound(tenant, actor), self._keks.key(kek))
                await self._store.query(_RESEAL, (again, kek, tenant, actor, sealed))


def recovery_codes() -> list[str]:
    """Fresh ones, each of 80 random bits: nobody guesses one from its digest."""
    fresh = (base64.b32encode(os.urandom(_RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES))
    return ["-".join(code[at : at + 4] for at in range(0, len(code), 4)) for code in fresh]


def provisioning_uri(secret: str, actor: str, tenant: str) -> str:
    """What an authenticator app reads, as a link or a QR code."""
    return pyotp.TOTP(secret, interval=STEP_SECONDS).provisioning_uri(name=f"{actor}@{tenant}", issuer_name=ISSUER)


def _digest(tenant: str, actor: str, code: str) -> bytes:
    plain = "".join(code.lower().split()).replace("-", "")
    return hashlib.sha256(f"{tenant}\n{actor}\n{plain}".encode("utf-8", "surrogatepass")).digest()


def _bound(tenant: str, actor: str) -> bytes:
    return bound("second factor", "secret", tenant, actor)
