"""The keys this Aureus signs with: one Ed25519 key per role, each in a file that only its owner can read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from infra.settings import SettingsError, private_folder

ALGORITHM: Final = "ed25519"
FORMAT: Final = "aureus-key/v1"
ROLES: Final = ("root", "log", "service", "token", "vault")
"""root vouches for the other keys, log signs checkpoints, service signs events, token signs access tokens; vault's seed wraps
the keys that personal data is sealed under."""

_SEED_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_SHARED: Final = stat.S_IRWXG | stat.S_IRWXO


class KeystoreError(SettingsError):
    """A key cannot be trusted or read as it lies there."""


class Signer(Protocol):
    """Something that signs with one key; where the key lies (file, HSM, KMS) is its own business."""

    @property
    def key_id(self) -> str: ...

    @property
    def public(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over the message."""
        ...


def key_id(public: bytes) -> str:
    """The full key id: SHA-256, in hex, over the algorithm's name, a newline, and the 32 public bytes."""
    return hashlib.sha256(ALGORITHM.encode() + b"\n" + public).hexdigest()


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is the key's over the message; malleable and small-order cases are refused by libsodium."""
    if len(signature) != _SIGNATURE_BYTES or len(public) != 32:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A signer whose seed was read from a file. libsodium signs with seed and public key side by side (64 bytes)."""

    role: str
    public: bytes
    key_id: str
    created: str
    secret: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, role: str, seed: bytes, created: str) -> FileSigner:
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(role, public, key_id(public), created, secret)

    def sign(self, message: bytes) -> bytes:
        # The binding itself: nacl.signing costs as much again around it, and this runs once per event.
        return crypto_sign(message, self.secret)[:_SIGNATURE_BYTES]

    @property
    def seed(self) -> bytes:
        return self.secret[:_SEED_BYTES]


@dataclass(frozen=True, slots=True)
class FileKeystore:
    """One signer per role, from a folder of mode 0700 with files of mode 0600."""

    root: FileSigner
    log: FileSigner
    service: FileSigner
    token: FileSigner
    vault: FileSigner

    @classmethod
    def open(cls, folder: Path, *, seed: Callable[[], bytes] = lambda: os.urandom(_SEED_BYTES)) -> FileKeystore:
        """The keys in the folder; made when the folder is not there or empty. Raises KeystoreError.

        A folder that holds some keys but not all is refused: a lost key is restored, never replaced in silence.
        """
        folder = folder.absolute()
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            _generate(folder, seed)
        _require_private(folder, is_folder=True)
        return cls(*(_read(folder / f"{role}.key", role) for role in ROLES))


def _generate(folder: Path, seed: Callable[[], bytes]) -> None:
    """Writes all keys into a folder beside, and renames it into place: either every key counts or none."""
    private_folder("AUREUS_HOME", folder.parent)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for role in ROLES:
            _write(beside / f"{role}.key", FileSigner.from_seed(role, seed(), created))
        _fsync(beside)
        try:
            beside.rename(folder)
        except OSError:
            # Another start was faster: its keys are the keys.
            if not (folder / f"{ROLES[0]}.key").exists():
                raise
        _fsync(folder.parent)
    except OSError as error:
        raise KeystoreError("keys", f"{folder} cannot be written: {error.strerror}.", "Make room, or name another AUREUS_HOME.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(path: Path, signer: FileSigner) -> None:
    document = {
        "format": FORMAT,
        "algorithm": ALGORITHM,
        "role": signer.role,
        "key_id": signer.key_id,
        "created": signer.created,
        "public": signer.public.hex(),
        "seed": signer.seed.hex(),
    }
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(json.dumps(document, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, role: str) -> FileSigner:
    _require_private(path, is_folder=False)
    try:
        document = json.loads(path.read_text(encoding="ascii"))
        signer = FileSigner.from_seed(role, bytes.fromhex(document["seed"]), document["created"])
        whole = document["format"] == FORMAT and document["algorithm"] == ALGORITHM
        consistent = document["role"] == role and bytes.fromhex(document["public"]) == signer.public
    except (ValueError, KeyError, TypeError) as error:
        raise KeystoreError(f"keys.{role}", f"{path} is not a whole key file.", "Restore it from your backup.") from error
    if not (whole and consistent):
        raise KeystoreError(f"keys.{role}", f"{path} does not hold a {FORMAT} key of role {role}.", "Restore it from your backup.")
    return signer


def _require_private(path: Path, *, is_folder: bool) -> None:
    name = "keys" if is_folder else f"keys.{path.stem}"
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise KeystoreError(name, f"{path} is missing.", "Restore it from your backup: a new key cannot stand in for it.") from None
    if not (stat.S_ISDIR(found.st_mode) if is_folder else stat.S_ISREG(found.st_mode)):
        raise KeystoreError(name, f"{path} is neither a plain file nor a plain folder.", "Put the key itself there, not a link to it.")
    if found.st_uid != os.geteuid():
        raise KeystoreError(
            name, f"{path} belongs to user id {found.st_uid}, and Aureus runs as {os.geteuid()}.", "Run Aureus as the owner of its keys."
        )
    if found.st_mode & _SHARED:
        wanted = "0700" if is_folder else "0600"
        raise KeystoreError(
            name,
            f"{path} is open to other accounts (mode {stat.S_IMODE(found.st_mode):04o}).",
            f"Close it (chmod {wanted} {path}), and rotate the key if somebody may have read it.",
        )


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
