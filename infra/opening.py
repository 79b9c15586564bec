"""Opening a ledger: finding the one that is there, or founding it with its first keys."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from domain.keys import Custody, KeyAdded, KeyRole
from domain.ledger import Append, EventSigner, StreamWrite
from domain.values import uuid7
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.memory_store import MemoryStore
from infra.merkle import Frontier
from infra.postgres_store import PostgresStore, create_schema
from infra.sealing import Head, Sealer
from infra.sealing_helper import ProcessHelper
from infra.settings import SettingsError
from infra.vault import Vault

SYSTEM_TENANT: Final = "system"
SYSTEM_ACTOR: Final = "svc-aureus"
KEY_STREAM: Final = "keys:ledger"

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


def _empty_head(at: datetime) -> Head:
    nothing = Frontier()
    return Head(nothing, nothing.root(), b"", at)


async def open_ledger(dsn: str, keystore: FileKeystore, origin: str | None = None, clock: Clock = _now) -> Ledger:
    """The ledger in this database, founded when it is empty. Raises SettingsError when its keys are not these."""
    await create_schema(dsn)
    store = PostgresStore(dsn, Vault(keystore.vault.seed))
    await store.open()
    try:
        await store.create_head(origin or f"aureus.local/{uuid7()}", clock())
        name = await store.origin()
        if origin is not None and origin != name:
            raise SettingsError(
                "AUREUS_ORIGIN", f"this database holds the ledger {name}, not {origin}.", "Unset it, or use another database."
            )
        head = await store.head()
        assert head is not None
        assert name is not None
        helper = ProcessHelper(keystore.service)
        ledger = Ledger(store, Sealer(name, keystore.log, keystore.service, helper), head, clock)
        await _found(ledger, keystore)
        await _require_own_keys(ledger, keystore)
    except BaseException:
        await store.close()
        raise
    return ledger


async def open_memory_ledger(keystore: FileKeystore, origin: str = "aureus.local/memory", clock: Clock = _now) -> Ledger:
    """A ledger that lives as long as the process, for unit tests."""
    store, head = MemoryStore(), _empty_head(datetime.min.replace(tzinfo=UTC))
    await store.create_head(head)
    ledger = Ledger(store, Sealer(origin, keystore.log, keystore.service), head, clock)
    await _found(ledger, keystore)
    return ledger


async def _found(ledger: Ledger, keystore: FileKeystore) -> None:
    """The first commit: the root key vouches for itself, the log's key and the service's."""
    if ledger.head.size > 0:
        return
    keys: tuple[tuple[KeyRole, EventSigner], ...] = (("root", keystore.root), ("log", keystore.log), ("service", keystore.service))
    founding = Append(
        tenant=SYSTEM_TENANT,
        actor=SYSTEM_ACTOR,
        writes=(StreamWrite(KEY_STREAM, 0, tuple(_added(ledger.name, role, signer) for role, signer in keys)),),
        correlation=uuid7(),
        signer=keystore.root,
    )
    await ledger.append(founding)


def _added(ledger: str, role: KeyRole, signer: EventSigner, custody: Custody = "server") -> KeyAdded:
    proof = signer.sign(KeyAdded.statement(ledger, role, signer.key_id))
    public = base64.b64encode(signer.public).decode()
    return KeyAdded(key_id=signer.key_id, role=role, custody=custody, public=public, proof=base64.b64encode(proof).decode())


async def _require_own_keys(ledger: Ledger, keystore: FileKeystore) -> None:
    known = {
        recorded.event.key_id for recorded in await ledger.read_stream(SYSTEM_TENANT, KEY_STREAM) if isinstance(recorded.event, KeyAdded)
    }
    for signer in (keystore.log, keystore.service):
        if signer.key_id not in known:
            raise SettingsError(
                "AUREUS_HOME",
                f"its {signer.role} key {signer.key_id[:16]} is not a key of the ledger {ledger.name}.",
                "Use the home whose keys founded this database, or another database.",
            )
