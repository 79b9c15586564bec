"""The key-encryption keys: each wraps the keys that personal values are sealed under, and lies in a file, never in a database.

The first is `vault.key`; a rotation puts the next beside it as `vault-<id>.key`. Which one wraps is kept with what it wraps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from infra.key_files import SEED_BYTES, FileSigner, KeystoreError, read_key, write_key

ROLE: Final = "vault"
FIRST: Final = "vault.key"
_ID_DIGITS: Final = 16


class KekMissing(Exception):
    """A key-encryption key that something is wrapped under is not where this process looks for it."""

    def __init__(self, kek: str, folder: Path) -> None:
        super().__init__(f"the key-encryption key {kek or '(the first one)'} is not in {folder}")
        self.kek, self.folder = kek, folder

    @property
    def remedy(self) -> str:
        wanted = f"vault-{self.kek}.key or {FIRST}" if self.kek else FIRST
        return f"Put {wanted} there from where it was made, or from your backup."


def kek_id(key: bytes) -> str:
    """The id of a key-encryption key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(key).hexdigest()[:_ID_DIGITS]


class KeyEncryptionKeys:
    """Those in one folder, by id; one that another process put there meanwhile is found when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys: dict[str, bytes] = {}
        self._first = ""
        self._read()
        self.current = next(iter(self.ids()), "")
        """The id of the one that wraps, as far as this process has heard."""

    def ids(self) -> list[str]:
        """The first one first, then the others by id."""
        self._read()
        return sorted(self._keys, key=lambda kek: (kek != self._first, kek))

    def has(self, kek: str) -> bool:
        return kek in self._keys or kek in self.ids()

    def key(self, kek: str) -> bytes:
        """The key with an id; '' asks for the first one. Raises KekMissing."""
        wanted = kek or self._first
        if wanted not in self._keys:
            self._read()
        found = self._keys.get(wanted)
        if found is None:
            raise KekMissing(kek, self.folder)
        return found

    def all(self) -> dict[str, bytes]:
        """Every key there is by id, for a process that is handed them."""
        return {kek: self._keys[kek] for kek in self.ids()}

    def prepare(self, known: Collection[str]) -> str:
        """The id of a key that nobody has used yet, durable in its file: the one that waits there, else a new one.

        `known` are the ids that the ledger knows, or that wrap something. Raises KeystoreError.
        """
        for kek in self.ids():
            if kek not in known and kek != self._first:
                return kek
        seed = os.urandom(SEED_BYTES)
        kek = kek_id(seed)
        path = self.folder / f"vault-{kek}.key"
        try:
            write_key(path, FileSigner.from_seed(ROLE, seed, datetime.now(UTC).isoformat(timespec="seconds")))
        except OSError as error:
            rule = f"{path} cannot be written: {error.strerror}."
            raise KeystoreError("keys.vault", rule, "Make room there, or let Aureus write to it.") from error
        return kek

    def _read(self) -> None:
        found: dict[str, bytes] = {}
        for path in vault_files(self.folder):
            key = read_key(path, ROLE).seed
            if path.name != FIRST and path.stem != f"vault-{kek_id(key)}":
                raise KeystoreError("keys.vault", f"{path} holds the key {kek_id(key)}.", f"Name it vault-{kek_id(key)}.key.")
            found[kek_id(key)] = key
            if path.name == FIRST:
                self._first = kek_id(key)
        self._keys = found


def vault_files(folder: Path) -> list[Path]:
    """The files of key-encryption keys in a folder, the first one first."""
    first = folder / FIRST
    return [*([first] if first.exists() else []), *sorted(folder.glob("vault-*.key"))]
