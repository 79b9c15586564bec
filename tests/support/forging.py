"""What those can do to a ledger who own its database, and those who hold its keys as well; and what a verification says to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from nacl.bindings import crypto_core_ed25519_scalar_mul, crypto_core_ed25519_scalar_reduce

from domain.values import uuid7
from infra.canonical import canonical
from infra.checkpoint import Checkpoint
from infra.envelope import entry_bytes, pack_signature, signing_input
from infra.key_files import FileSigner, Signer
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.merkle import Frontier, leaf_hash
from infra.verifier.ledger import NOBODYS, Verifier
from infra.verifier.notes import parse_checkpoint, parse_note
from infra.verifier.result import Result
from infra.verifier.trust import Trust

EVERYTHING: Final = 1_000_000
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519's group: a signature whose S is raised by it is another signature for the same message, to whoever does not look."""
NEUTRAL: Final = (1).to_bytes(32, "little")
"""The point of order 1: as a public key it verifies what nobody signed, to whoever does not look."""


async def verified(ledger: Ledger, trust: Trust = NOBODYS, *kept: bytes) -> Result:
    """What a verification has to say of the rows as they lie there, under the checkpoint that the head has."""
    verifier = Verifier(trust, kept)
    verifier.add(entry_bytes(event.body, event.signatures) for event in await ledger.store.read(0, EVERYTHING))
    note = await ledger.store.note()
    lines = await ledger.store.cosignatures(parse_checkpoint(parse_note(note).text).size) if note else []
    return verifier.finish(b"".join([note, *lines]) if note else None)


async def findings(ledger: Ledger, *kept: bytes) -> set[tuple[int | None, str]]:
    """(position, check) of all that does not hold."""
    return {(problem.position, problem.check) for problem in (await verified(ledger, NOBODYS, *kept)).problems}


@dataclass
class Owner:
    """Whoever owns the database."""

    connection: psycopg.AsyncConnection

    async def disarm(self) -> None:
        """Takes the triggers that keep the ledger append-only out of the way."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'ledger'"
        for (table,) in await (await self.connection.execute(query)).fetchall():
            await self.run(f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL")

    async def run(self, statement: str, *arguments: object) -> None:
        await self.connection.execute(statement.encode(), arguments)

    async def row(self, position: int) -> tuple[bytes, bytes]:
        """(body, packed signatures) of an event."""
        query = "SELECT body, signatures FROM ledger.events WHERE position = %s"
        found = await (await self.connection.execute(query, (position,))).fetchone()
        assert found is not None
        return found[0], found[1]


@dataclass
class Operator(Owner):
    """Whoever owns the database and holds the keys: what they change, they sign, and the tree is made to fit."""

    ledger: str
    keys: FileKeystore
    log: Signer
    """The key that signs checkpoints."""

    async def rewrite(self, position: int, change: Callable[[bytes], bytes], by: Signer | None = None) -> None:
        """Another body, signed by the service key or `by`, in a tree that the log key signs."""
        body, _ = await self.row(position)
        forged, signer = change(body), by or self.keys.service
        assert forged != body
        await self.put(position, forged, pack_signature(signer.key_id, signer.sign(signing_input(forged))))

    async def append(self, by: Signer, **members: Any) -> int:
        """One more event of a budget, or of what `members` say, signed `by` somebody and right in every other way; returns its position."""
        rows = await (await self.connection.execute("SELECT body, encode(leaf, 'hex') FROM ledger.events ORDER BY position")).fetchall()
        events = [(json.loads(body), leaf) for body, leaf in rows]
        like = next(event for event, _ in reversed(events) if event["stream"].startswith("budget:"))
        asked = {**like, "at": events[-1][0]["at"], "id": str(uuid7()), "key": by.key_id, **members}
        chain = [(event["version"], leaf) for event, leaf in events if event["stream"] == asked["stream"]] or [(0, "")]
        asked = {**asked, "version": chain[-1][0] + 1, "prev": chain[-1][1], **members}
        return await self.insert(canonical(asked), pack_signature(by.key_id, by.sign(signing_input(canonical(asked)))))

    async def insert(self, body: bytes, signatures: bytes) -> int:
        """A row at the end with these very bytes."""
        event = json.loads(body)
        columns = (event["tenant"], event["stream"], event["version"], event["type"], event["at"], body, signatures, bytes(32))
        row = "INSERT INTO ledger.events SELECT max(position) + 1, %s, %s, %s, %s, %s, %s, %s, %s FROM ledger.events RETURNING position"
        inserted = await (await self.connection.execute(row, columns)).fetchone()
        assert inserted is not None
        position: int = inserted[0]
        await self.run("INSERT INTO ledger.checkpoints VALUES (%s, '')", position)
        await self.sign_tree()
        return position

    async def put(self, position: int, body: bytes, signatures: bytes) -> None:
        await self.run("UPDATE ledger.events SET body = %s, signatures = %s WHERE position = %s", body, signatures, position)
        await self.sign_tree()

    async def sign_tree(self) -> None:
        """Leaves, tiles, checkpoints and the head say what the rows say now."""
        await self.run("TRUNCATE ledger.tiles")
        rows = await (await self.connection.execute("SELECT position, body, signatures FROM ledger.events ORDER BY position")).fetchall()
        leaves = [leaf_hash(entry_bytes(body, signatures)) for _, body, signatures in rows]
        for (position, _, _), leaf in zip(rows, leaves, strict=True):
            await self.run("UPDATE ledger.events SET leaf = %s WHERE position = %s", leaf, position)
        await self.run("DELETE FROM ledger.checkpoints WHERE size > %s", len(leaves))
        frontier = Frontier()
        for size, leaf in enumerate(leaves, 1):
            frontier = frontier.extend([leaf])
            await self.run("UPDATE ledger.checkpoints SET note = %s WHERE size = %s", self.signed(frontier), size)
        head = "UPDATE ledger.head SET size = %s, root = %s, frontier = %s, note = %s"
        await self.run(head, len(leaves), frontier.root(), frontier.dump(), self.signed(frontier))

    def signed(self, tree: Frontier) -> bytes:
        return Checkpoint(self.ledger, tree.size, tree.root()).signed(self.log)


@asynccontextmanager
async def owning(dsn: str) -> AsyncIterator[Owner]:
    """The database as its owner has it, disarmed."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        owner = Owner(connection)
        await owner.disarm()
        yield owner


# -- signatures that hold for whoever looks less closely than RFC 8032 and libsodium


def malleable(signature: bytes) -> bytes:
    """The same signature with S + L in place of S."""
    raised = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + raised.to_bytes(32, "little")


def without_nonce(signer: FileSigner, message: bytes) -> bytes:
    """A signature whose R is the neutral point: S is made of the secret key and the message's hash alone."""
    secret = bytearray(hashlib.sha512(signer.seed).digest()[:32])
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    scalar = crypto_core_ed25519_scalar_reduce(bytes(secret).ljust(64, b"\0"))
    challenge = crypto_core_ed25519_scalar_reduce(hashlib.sha512(NEUTRAL + signer.public + message).digest())
    return NEUTRAL + crypto_core_ed25519_scalar_mul(challenge, scalar)


FOR_ANYTHING: Final = NEUTRAL + bytes(32)
"""A signature for every message by the key that is the neutral point."""
