"""A process that signs with a token, like any Aureus whose settings name one: it adds as many events as it is told to."""

from __future__ import annotations

import asyncio
import sys

from domain.values import uuid7
from infra.opening import open_ledger
from infra.pkcs11_keys import open_keystore
from infra.settings import Settings
from tests.support.writer import pair


async def _write(settings: Settings, pairs: int) -> None:
    assert settings.database_url is not None
    ledger = await open_ledger(settings.database_url, open_keystore(settings))
    for _ in range(pairs):
        await ledger.append(pair(uuid7().hex, 0))
    await ledger.close()


if __name__ == "__main__":
    asyncio.run(_write(Settings.from_environment(), int(sys.argv[1])))
