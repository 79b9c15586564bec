"""A process that writes until it is killed, and says on a pipe what was acknowledged to it, and only then."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import uvloop

from domain.budgets import BudgetOpened
from domain.ledger import Append, LedgerUnavailable, Remember, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger

WRITERS: Final = 6
EVENT: Final = BudgetOpened(budget_id="lake", label="L", currency="EUR", limit_minor=1)


def pair(name: str, version: int, key: str | None = None) -> Append:
    """One append over two streams: both get their event, or neither does."""
    streams = (StreamWrite(f"budget:{name}", version, (EVENT,)), StreamWrite(f"budget:twin-{name}", version, (EVENT,)))
    remember = Remember(key, b"digest", lambda first: str(first).encode()) if key else None
    return Append("acme", "usr-ana", streams, uuid7(), remember=remember)


async def _write(ledger: Ledger, told: int) -> None:
    name, version = uuid7().hex, 0
    while True:
        append = pair(name, version, f"{name}-{version}" if version % 3 == 0 else None)
        try:
            receipt = await ledger.append(append)
        except LedgerUnavailable:
            name, version = uuid7().hex, 0
            continue
        os.write(told, f"{receipt.first_position} {append.correlation}\n".encode())
        version += 1


async def _run(dsn: str, keys: Path, told: int) -> None:
    ledger = await open_ledger(dsn, FileKeystore.open(keys))
    await asyncio.gather(*(_write(ledger, told) for _ in range(WRITERS)))


def start(dsn: str, keys: Path) -> tuple[int, int]:
    """(process id, the end of the pipe to read from) of a writer forked off this process, so that it starts at once."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            uvloop.run(_run(dsn, keys, write))
        finally:
            os._exit(1)
    os.close(write)
    return pid, read
