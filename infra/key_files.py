"""Keys as they lie on disk: one Ed25519 key in one file that only its owner can read, or just the public part of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from infra.durable import sync_folder
from infra.settings import SettingsError

if TYPE_CHECKING:  # a witness reads its key too, and starts in half the time without pydantic
    from domain.keys import Custody

ALGORITHM: Final = "ed25519"
FORMAT: Final = "aureus-key/v1"
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_SHARED: Final = stat.S_IRWXG | stat.S_IRWXO


class KeystoreError(SettingsError):
    """A key cannot be trusted, read or used as it lies there."""


class Signer(Protocol):
    """Something that signs with one key; where the key lies (file, HSM, KMS) is its own business."""

    @property
    def key_id(self) -> str: ...

    @property
    def public(self) -> bytes: ...

    @property
    def custody(self) -> Custody:
        """Who has the private key, as the ledger records it."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over the message."""
        ...


def key_id(public: bytes) -> str:
    """The full key id: SHA-256, in hex, over the algorithm's name, a newline, and the 32 public bytes."""
    return hashlib.sha256(ALGORITHM.encode() + b"\n" + public).hexdigest()


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is the key's over the message; malleable and small-order cases are refused by libsodium."""
    if len(signature) != SIGNATURE_BYTES or len(public) != 32:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A signer whose seed was read from a file. libsodium signs with seed and public key side by side (64 bytes).

    `custody` is "client" for a key that no server has; `holder` is the actor or the witness whose own it is.
    """

    role: str
    public: bytes
    key_id: str
    created: str
    secret: bytes = field(repr=False)
    custody: Custody = "server"
    holder: str | None = None

    @classmethod
    def from_seed(cls, role: str, seed: bytes, created: str, custody: Custody = "server", holder: str | None = None) -> FileSigner:
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(role, public, key_id(public), created, secret, custody, holder)

    def sign(self, message: bytes) -> bytes:
        # The binding itself: nacl.signing costs as much again around it, and this runs once per event.
        return crypto_sign(message, self.secret)[:SIGNATURE_BYTES]

    @property
    def seed(self) -> bytes:
        return self.secret[:SEED_BYTES]


@dataclass(frozen=True, slots=True)
class OfflineRoot:
    """The public part of a root key whose private key was taken elsewhere: whatever it has to sign is signed there."""

    public: bytes
    key_id: str
    created: str

    @property
    def custody(self) -> Custody:
        return "client"

    def sign(self, message: bytes) -> bytes:  # noqa: ARG002 - it signs nothing
        raise KeystoreError(
            "keys.root",
            f"the private key of the root key {self.key_id[:16]} is not on this server.",
            "Sign where it is: `aureus keys authorise` makes the authorisation of a new key.",
        )


def write_key(path: Path, signer: FileSigner) -> None:
    """Writes a key file that is there whole or not at all, and durable on return. Raises FileExistsError, OSError."""
    document = {**_public_part(signer, signer.role), "seed": signer.seed.hex()}
    if signer.custody != "server":
        document["custody"] = signer.custody
    if signer.holder is not None:
        document["holder"] = signer.holder
    _write(path, document)


def write_public(path: Path, root: FileSigner) -> None:
    """The same for the public part of a root key, which is all that stays of one that goes offline."""
    _write(path, _public_part(root, "root"))


def read_key(path: Path, role: str) -> FileSigner:
    """The key of a role in a file that nobody else can read. Raises KeystoreError."""
    document = _read(path, role)
    try:
        seed, custody = bytes.fromhex(document["seed"]), document.get("custody", "server")
        signer = FileSigner.from_seed(role, seed, document["created"], custody, document.get("holder"))
    except (ValueError, KeyError, TypeError) as error:
        raise _not_whole(path, role) from error
    _require_consistent(path, role, document, signer.public)
    return signer


def read_public(path: Path) -> OfflineRoot:
    """The root key whose private part is elsewhere. Raises KeystoreError."""
    document = _read(path, "root")
    try:
        public, created = bytes.fromhex(document["public"]), str(document["created"])
    except (ValueError, KeyError, TypeError) as error:
        raise _not_whole(path, "root") from error
    _require_consistent(path, "root", document, public)
    return OfflineRoot(public, key_id(public), created)


def require_private(path: Path, *, is_folder: bool) -> None:
    """Raises KeystoreError unless it is a plain file or folder that is this user's own and open to nobody else."""
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


def _public_part(signer: FileSigner, role: str) -> dict[str, str]:
    return {
        "format": FORMAT,
        "algorithm": ALGORITHM,
        "role": role,
        "key_id": signer.key_id,
        "created": signer.created,
        "public": signer.public.hex(),
    }


def _write(path: Path, document: dict[str, str]) -> None:
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)  # left by somebody who was killed half-way: no key was ever used from it
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(json.dumps(document, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)


def _read(path: Path, role: str) -> dict[str, Any]:
    require_private(path, is_folder=False)
    try:
        document = json.loads(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise _not_whole(path, role) from error
    if not isinstance(document, dict):
        raise _not_whole(path, role)
    return document


def _require_consistent(path: Path, role: str, document: dict[str, Any], public: bytes) -> None:
    said = tuple(document.get(member) for member in ("format", "algorithm", "role", "key_id", "public"))
    if said != (FORMAT, ALGORITHM, role, key_id(public), public.hex()):
        raise KeystoreError(f"keys.{role}", f"{path} does not hold a {FORMAT} key of role {role}.", "Restore it from your backup.")


def _not_whole(path: Path, role: str) -> KeystoreError:
    return KeystoreError(f"keys.{role}", f"{path} is not a whole key file.", "Restore it from your backup.")
