"""Opening a ledger: finding the one that is there, or founding it with its first keys."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from domain.keys import KEY_STREAM, SYSTEM_TENANT, KeyAdded, KeyRole, ring_of
from domain.ledger import Append, EventSigner, StreamWrite
from domain.values import uuid7
from infra.backup.marker import require_finished
from infra.keystore import LEDGER_ROLES, FileKeystore, FileSigner, KeystoreError, Signer
from infra.ledger import Ledger
from infra.memory_store import MemoryStore
from infra.merkle import Frontier
from infra.postgres_store import PostgresStore
from infra.schema import create_keys_schema, create_schema
from infra.sealing import Head, Sealer, SealingHelper, Signers
from infra.sealing_helper import ProcessHelper
from infra.settings import SettingsError
from infra.vault import Vault

SYSTEM_ACTOR: Final = "svc-aureus"
_log: Final = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


def _empty_head(at: datetime) -> Head:
    nothing = Frontier()
    return Head(nothing, nothing.root(), b"", at)


async def open_ledger(
    dsn: str,
    keystore: FileKeystore,
    origin: str | None = None,
    clock: Clock = _now,
    *,
    vault_keys_url: str | None = None,
    restoring: bool = False,
) -> Ledger:
    """The ledger in this database, founded when it is empty. Raises SettingsError when its keys are not these.

    `vault_keys_url` is the database that has the vault's keys, when it is another. Only who is `restoring` it opens one that was
    not restored to the end.
    """
    await create_schema(dsn)
    if vault_keys_url is not None:
        await create_keys_schema(vault_keys_url)
    store = PostgresStore(dsn, Vault(keystore.key_encryption_keys(), vault_keys_url))
    await store.open()
    try:
        if not restoring:
            await require_finished(store.pool)
        await store.create_head(origin or f"aureus.local/{uuid7()}", clock())
        name = await store.origin()
        if origin is not None and origin != name:
            raise SettingsError(
                "AUREUS_ORIGIN", f"this database holds the ledger {name}, not {origin}.", "Unset it, or use another database."
            )
        head = await store.head()
        assert head is not None
        assert name is not None
        await store.vault.open_for(store.pool, name)
        signers = Signers(keystore.log, keystore.service)
        ledger = Ledger(store, Sealer(name, signers, _helper, keystore.find), head, clock)
        await _found(ledger, keystore)
        await _sign_as_recorded(ledger, keystore)
        ledger.on_signers.append(lambda signers: _settle(keystore, signers))
    except BaseException:
        await store.close()
        raise
    return ledger


async def open_memory_ledger(keystore: FileKeystore, origin: str = "aureus.local/memory", clock: Clock = _now) -> Ledger:
    """A ledger that lives as long as the process, for unit tests."""
    store, head = MemoryStore(), _empty_head(datetime.min.replace(tzinfo=UTC))
    await store.create_head(head)
    ledger = Ledger(store, Sealer(origin, Signers(keystore.log, keystore.service), find=keystore.find), head, clock)
    await _found(ledger, keystore)
    return ledger


async def _found(ledger: Ledger, keystore: FileKeystore) -> None:
    """The first commit: the root key vouches for itself, the log's key and the service's."""
    if ledger.head.size > 0:
        return
    keys: tuple[tuple[KeyRole, Signer], ...] = (("root", keystore.root), ("log", keystore.log), ("service", keystore.service))
    founding = Append(
        tenant=SYSTEM_TENANT,
        actor=SYSTEM_ACTOR,
        writes=(StreamWrite(KEY_STREAM, 0, tuple(_added(ledger.name, role, signer) for role, signer in keys)),),
        correlation=uuid7(),
        signer=keystore.root,
    )
    await ledger.append(founding)


def _added(ledger: str, role: KeyRole, signer: Signer) -> KeyAdded:
    proof = signer.sign(KeyAdded.statement(ledger, role, signer.key_id))
    public = base64.b64encode(signer.public).decode()
    return KeyAdded(key_id=signer.key_id, role=role, custody=signer.custody, public=public, proof=base64.b64encode(proof).decode())


async def _sign_as_recorded(ledger: Ledger, keystore: FileKeystore) -> None:
    """Signs with the keys that the ledger itself names: those on disk may have been rotated out, or be of another ledger."""
    ring = ring_of(recorded.event for recorded in await ledger.read_stream(SYSTEM_TENANT, KEY_STREAM))
    try:
        ledger.sealer.sign_with(ledger.sealer.signers_of(ring))
    except LookupError as error:
        raise SettingsError(
            "AUREUS_HOME",
            f"the keys there are not those of the ledger {ledger.name}: {error.args[0]}.",
            "Use the home whose keys founded this database, or another database.",
        ) from error
    keystore.settle({role: active[-1].key_id for role in LEDGER_ROLES if (active := ring.active(role))})


def _settle(keystore: FileKeystore, signers: Signers) -> None:
    """The rotation is recorded already: files that do not follow now do so at the next start."""
    try:
        keystore.settle({"log": signers.log.key_id, "service": signers.service.key_id})
    except KeystoreError as error:
        _log.error("The key files stay behind until the next start: %s", error)


def _helper(service: EventSigner) -> SealingHelper | None:
    """A key in a token does not leave it, so nobody can help to sign with it."""
    return ProcessHelper(service) if isinstance(service, FileSigner) else None
