"""Keys of a test's own, what they sign, and the commands that let them in and hand them on."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner

from api.cli.main import app
from commands.keys import AddKey, RotateKey
from domain.actions import RequestSignature
from domain.kernel import Asker, Command
from domain.keys import KeyAdded, KeyRotated
from domain.values import uuid7
from infra.key_files import FileSigner, Signer
from infra.request_signing import sign
from tests.support.running import Aureus
from tests.support.typed import typed

MADE: Final = "2026-03-03T14:00:00+00:00"


def new_key(role: str = "actor", holder: str | None = "acme/usr-ana") -> FileSigner:
    """A holder's own key, or one of a server's where there is no holder."""
    return FileSigner.from_seed(role, os.urandom(32), MADE, "client" if holder else "server", holder)


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def adding(ledger: str, key: FileSigner, root: Signer | None = None) -> AddKey:
    """Asks for a key of an actor or a witness; with the root key's authorisation when it is given."""
    proof = text(key.sign(KeyAdded.statement(ledger, key.role, key.key_id)))
    said = {"role": key.role, "custody": key.custody, "public": text(key.public), "proof": proof, "holder": key.holder}
    command = AddKey.model_validate(said)
    if root is None:
        return command
    authorisation = text(root.sign(command.authorisation_statement(ledger)))
    return command.model_copy(update={"authorised_by": root.key_id, "authorisation": authorisation})


def rotating(ledger: str, old: FileSigner, new: FileSigner) -> RotateKey:
    statement = KeyRotated.statement(ledger, old.role, old.key_id, new.key_id, new.custody)
    signatures = {"proof": text(new.sign(statement)), "consent": text(old.sign(statement))}
    said = {"old_key_id": old.key_id, "role": old.role, "custody": new.custody, "public": text(new.public)}
    return RotateKey.model_validate({**said, **signatures})


@dataclass(frozen=True)
class Line:
    """The command line against a running Aureus, without a process of its own for every line."""

    environment: dict[str, str | None]

    async def __call__(self, *arguments: str, exit_code: int = 0, said: str | None = None) -> str:
        """What it printed on standard output, or on standard error when it failed; `said` is its standard input."""
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=said, env=self.environment, prog_name="aureus")
        assert result.exit_code == exit_code, f"{arguments} ended with {result.exit_code}:\n{result.output}"
        return result.stderr if exit_code else result.stdout

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self("--json", *arguments))


@asynccontextmanager
async def lines(aureus: Aureus, home: Path, by: Asker) -> AsyncIterator[Line]:
    """A command line whose commands come from `by`."""
    async with typed(aureus, home, by) as outside:
        yield Line({"AUREUS_SIGNING_KEY": None, **outside.environment})


def signature(ledger: str, by: Asker, command: Command, key: Signer, **changed: Any) -> RequestSignature:
    """The asker's signature over a command, now and with a fresh nonce unless `at` or `nonce` say otherwise."""
    circumstances = {"at": datetime.now(UTC), "nonce": str(uuid7()), **changed}
    return sign(ledger, by.tenant, by.actor, command.command_name, command.digest(), key, **circumstances)
