"""Private keys on their way into a backup and back: sealed under a passphrase (Argon2id, then XSalsa20-Poly1305).

Whoever holds a backup with its keys and knows the passphrase can read every personal value in it, and write another history.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import nacl.utils
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

from infra.backup.contents import FILES_WITH_KEYS
from infra.durable import sync_folder
from infra.keystore import RESTORED

MEMBER: Final = "keys.sealed"
LENGTH_MIN: Final = 12
_OPSLIMIT: Final = argon2id.OPSLIMIT_MODERATE
_MEMLIMIT: Final = argon2id.MEMLIMIT_MODERATE


class WrongPassphrase(ValueError):
    """The passphrase does not open the keys."""


def sealed_keys(home: Path, ledger: str, passphrase: str) -> bytes:
    """Every key file of a home, and the demo's passwords, under a passphrase of `LENGTH_MIN` characters or more."""
    files = {str(file.relative_to(home)): base64.b64encode(file.read_bytes()).decode() for file in _files(home)}
    salt = nacl.utils.random(argon2id.SALTBYTES)
    content = json.dumps({"ledger": ledger, "files": files}).encode()
    return salt + bytes(SecretBox(_key(passphrase, salt)).encrypt(content))


def opened_keys(sealed: bytes, ledger: str, passphrase: str) -> dict[str, bytes]:
    """The files by their path in the home. Raises WrongPassphrase."""
    salt, box = sealed[: argon2id.SALTBYTES], sealed[argon2id.SALTBYTES :]
    try:
        said = json.loads(SecretBox(_key(passphrase, salt)).decrypt(box))
    except (CryptoError, ValueError) as error:
        raise WrongPassphrase("the passphrase does not open the keys in this backup") from error
    if said["ledger"] != ledger:
        raise WrongPassphrase(f"the keys are of the ledger {said['ledger']}, and the backup is of {ledger}")
    files = {name: base64.b64decode(content) for name, content in said["files"].items()}
    for name in files:
        if ".." in Path(name).parts or Path(name).parts[0] not in FILES_WITH_KEYS:
            raise WrongPassphrase(f"{name} is no key file of a home")
    return files


def put_aside(home: Path, files: dict[str, bytes]) -> None:
    """Writes the files, mode 0600, beside the place where they belong: while they lie there, no other keys are made in this home."""
    aside = home / RESTORED
    for name, content in files.items():
        path = aside / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    sync_folder(home)


def put_in_place(home: Path) -> None:
    """Gives the files their names; `keys/` comes last, whole."""
    aside = home / RESTORED
    for path in sorted(aside.iterdir(), key=lambda path: path.is_dir()):
        path.rename(home / path.name)
    aside.rmdir()
    sync_folder(home)


def _files(home: Path) -> Iterator[Path]:
    for name in FILES_WITH_KEYS:
        path = home / name
        yield from sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _key(passphrase: str, salt: bytes) -> bytes:
    return argon2id.kdf(SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=_OPSLIMIT, memlimit=_MEMLIMIT)
