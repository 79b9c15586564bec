"""A real witness of the tests' own: the program itself, on a free port, and logs that have something to show it."""

from __future__ import annotations

import asyncio
import atexit
import base64
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import nacl.bindings

from infra.checkpoint import Checkpoint
from infra.verifier.notes import LOG, VerifierKey
from infra.verifier.tree import TILE_HEIGHT, TileTree, leaf_hash, subtree_root

ROOT: Final = Path(__file__).parent.parent.parent
DIES_BEFORE_IT_ANSWERS: Final = """
import os, signal, infra.witness
keep = infra.witness.WitnessHome.keep
def keep_and_die(*arguments):
    keep(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
infra.witness.WitnessHome.keep = keep_and_die
import api.cli.main
api.cli.main.main()
"""
"""The program, killed in the one moment between what it keeps and what it says."""


class TestKey:
    """An Ed25519 key from a seed byte."""

    __test__ = False

    def __init__(self, seed: int) -> None:
        self.public, self._secret = nacl.bindings.crypto_sign_seed_keypair(bytes([seed]) * 32)

    def sign(self, message: bytes) -> bytes:
        return nacl.bindings.crypto_sign(message, self._secret)[:64]


@dataclass
class TestLog:
    """A log that signs whatever it is asked to; entries are numbers, and a `twist` makes another history from there on."""

    __test__ = False

    origin: str
    key: TestKey = field(default_factory=lambda: TestKey(7))

    @property
    def verifier(self) -> str:
        return VerifierKey(self.origin, LOG, self.key.public).text()

    def tree(self, size: int, twist: int | None = None) -> TileTree:
        leaves = [leaf_hash(b"%d" % (-index - 1 if twist is not None and index >= twist else index)) for index in range(size)]
        rows = [leaves]
        while len(rows[-1]) >> TILE_HEIGHT:
            below = rows[-1]
            rows.append([subtree_root(below[start : start + 256]) for start in range(0, len(below) // 256 * 256, 256)])
        return TileTree(size, lambda level, index, width: b"".join(rows[level][index * 256 : index * 256 + width]))

    def checkpoint(self, size: int, twist: int | None = None, key: TestKey | None = None) -> bytes:
        return Checkpoint(self.origin, size, self.tree(size, twist).root()).signed(key or self.key)

    def request(self, old: int, size: int, twist: int | None = None, key: TestKey | None = None) -> bytes:
        """An add-checkpoint request."""
        proof = self.tree(size, twist).consistency(old) if old <= size else []
        return request(old, proof, self.checkpoint(size, twist, key))


def request(old: int | str, proof: Sequence[bytes], note: bytes) -> bytes:
    lines = [f"old {old}", *(base64.b64encode(value).decode() for value in proof)]
    return "\n".join(lines).encode() + b"\n\n" + note


class WitnessProcess:
    """`aureus witness run` on a home; what it prints says where it is."""

    def __init__(self, home: Path, logs: Sequence[str], *options: str, program: Sequence[str] = ("-m", "api.cli"), port: int = 0) -> None:
        words = [sys.executable, *program, "witness", "run", "--home", str(home), "--listen", f"127.0.0.1:{port}", *options]
        for log in logs:
            words += ["--log", log]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        atexit.register(self.process.kill)  # a test that fails stops nothing
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.key, _, self.url = self.said.strip().partition(" ")

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.parse(self.key)

    def add(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/add-checkpoint", content=body, timeout=10)

    def kill(self) -> None:
        self.process.kill()
        self._over()

    def stop(self) -> str:
        """Ends it in good order; what it had to complain about."""
        self.process.terminate()
        return self._over()

    def _over(self) -> str:
        _, complaints = self.process.communicate(timeout=20)
        return complaints


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - who waits here has nobody to tell them
            await asyncio.sleep(0.02)
