"""The keys this Aureus signs with: one per role, in files of their own or in a token, and how they take turns."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from domain.keys import KeyRole
from infra.durable import sync_folder
from infra.key_encryption import FIRST, KeyEncryptionKeys, vault_files
from infra.key_files import (
    SEED_BYTES,
    FileSigner,
    KeystoreError,
    OfflineRoot,
    Signer,
    key_id,
    read_key,
    read_public,
    require_private,
    verify,
    write_key,
    write_public,
)
from infra.settings import private_folder

__all__ = ["FileKeystore", "FileSigner", "HardwareKeys", "KeystoreError", "OfflineRoot", "Signer", "key_id", "read_key", "verify"]

LEDGER_ROLES: Final[tuple[KeyRole, ...]] = ("root", "log", "service")
ROLES: Final = (*LEDGER_ROLES, "token", "vault")
"""root vouches for the other keys, log signs checkpoints, service signs events, token signs access tokens; vault's seed wraps
the keys that personal data is sealed under. The ledger knows the first three, and has them rotated."""

OLD: Final = "old"
RESTORED: Final = ".keys-restored"
"""Beside the folder: keys that a restore is about to put there."""
_log: Final = logging.getLogger(__name__)


class HardwareKeys(Protocol):
    """Keys of some roles that lie in a token and never leave it."""

    @property
    def roles(self) -> Collection[str]: ...

    def signers(self, role: str) -> Sequence[Signer]:
        """Its keys of a role, in the order of their ids. Raises KeystoreError when they cannot be had, or are not to be trusted."""
        ...


@dataclass(slots=True)
class FileKeystore:
    """One signer per role, from a folder of mode 0700 with files of mode 0600; some of the ledger's may be in a token instead.

    A rotation takes three steps, and a crash between any two of them loses nothing: `prepare` makes the next key durable,
    the ledger records the rotation, `settle` puts the files where the ledger says they belong.
    """

    folder: Path
    root: Signer
    log: Signer
    service: Signer
    token: FileSigner
    vault: FileSigner
    hardware: HardwareKeys | None = None

    @classmethod
    def open(
        cls, folder: Path, *, seed: Callable[[], bytes] = lambda: os.urandom(SEED_BYTES), hardware: HardwareKeys | None = None
    ) -> FileKeystore:
        """The keys in the folder; made when the folder is not there or empty. Raises KeystoreError.

        A folder that holds some keys but not all is refused: a lost key is restored, never replaced in silence.
        """
        folder = folder.absolute()
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            _require_none_restored(folder)
            elsewhere = hardware.roles if hardware is not None else ()
            for role in elsewhere:
                _current(folder, role, hardware)  # which has to be there before any file is made beside it
            _generate(folder, [role for role in ROLES if role not in elsewhere], seed)
        require_private(folder, is_folder=True)
        root, log, service = (_current(folder, role, hardware) for role in LEDGER_ROLES)
        token, vault = read_key(folder / "token.key", "token"), read_key((vault_files(folder) or [folder / FIRST])[0], "vault")
        return cls(folder, root, log, service, token, vault, hardware)

    def key_encryption_keys(self) -> KeyEncryptionKeys:
        """What wraps the keys of personal data: the vault's key, and those that it was rotated to. Raises KeystoreError."""
        return KeyEncryptionKeys(self.folder)

    def find(self, key_id: str) -> Signer:
        """The ledger's own signer with a key id: in use, prepared, put there by another process, or in the token.

        Raises LookupError, with a sentence, for whatever keeps it from being used.
        """
        try:
            for role in LEDGER_ROLES:
                for signer in self._candidates(role):
                    if signer.key_id == key_id:
                        return signer
        except KeystoreError as error:
            raise LookupError(f"The key {key_id[:16]} was not found: {error.field}: {error.rule.removesuffix('.')}") from error
        raise LookupError(f"The key {key_id[:16]} is not in {self.folder}" + (", and not in the token" if self.hardware else ""))

    def prepare(self, role: str, known: Collection[str] = ()) -> Signer:
        """The key that shall take over a role of the ledger: made and durable, but not in use before `settle` is told so.

        Asked again, it answers with the same key. In a token nothing is made: there it is the one that the ledger does
        not know yet. `known` are the ids of all keys that it does know. Raises KeystoreError.
        """
        current: Signer = getattr(self, role)
        if self.hardware is not None and role in self.hardware.roles:
            return _only_fresh(role, self.hardware.signers(role), {*known, current.key_id})
        if isinstance(current, OfflineRoot):
            raise KeystoreError(
                "keys.root",
                "the root key is offline, and so is whatever takes over from it.",
                "Rotate it where it is, or bring it back first.",
            )
        path = self._prepared(role)
        with _locked(self.folder):
            if not path.exists():
                with _writing(path):
                    write_key(path, FileSigner.from_seed(role, os.urandom(SEED_BYTES), _now()))
            prepared = read_key(path, role)
        if prepared.key_id in known:
            raise KeystoreError(
                f"keys.{role}", f"{path} holds a key that the ledger knows already.", "Start Aureus again: it puts it in place."
            )
        return prepared

    def settle(self, active: Mapping[str, str]) -> None:
        """Has the files follow the ledger: `active` has the id of the key that signs now, by role. Raises KeystoreError.

        A key that was rotated out is kept under `old/`. One that was prepared and is not active stays where it is.
        """
        with _locked(self.folder):
            for role, active_id in active.items():
                setattr(self, role, self._settled(role, active_id))
                if (path := self._prepared(role)).exists():
                    _log.warning("%s waits for its rotation: the ledger does not know this key yet.", path)

    def _settled(self, role: str, active_id: str) -> Signer:
        current: Signer = getattr(self, role)
        path, prepared = self.folder / f"{role}.key", self._prepared(role)
        held = read_key(path, role) if path.exists() else None
        if held is not None and held.key_id == active_id:
            return held
        if prepared.exists() and (taking_over := read_key(prepared, role)).key_id == active_id:
            with _writing(path):
                if held is not None:
                    _keep(path, held)
                prepared.replace(path)  # the old key is in old/ by now: at no moment is there none
                sync_folder(self.folder)
            return taking_over
        if current.key_id != active_id:
            current = next((signer for signer in self._in_token(role) if signer.key_id == active_id), current)
        if current.key_id != active_id and role != "root":  # nobody needs the root here to run
            rule = f"the key {active_id[:16]}, which signs now, is not in {self.folder}."
            raise KeystoreError(f"keys.{role}", rule, "Restore it from your backup.")
        if held is not None and current.key_id == active_id and not isinstance(current, FileSigner):
            with _writing(path):
                _keep(path, held)
                path.unlink()
                sync_folder(self.folder)
        return current

    def _candidates(self, role: str) -> Iterator[Signer]:
        yield getattr(self, role)
        for path in (self._prepared(role), self.folder / f"{role}.key"):
            if path.exists():
                yield read_key(path, role)
        yield from self._in_token(role)

    def _in_token(self, role: str) -> Sequence[Signer]:
        return self.hardware.signers(role) if self.hardware is not None and role in self.hardware.roles else ()

    def _prepared(self, role: str) -> Path:
        return self.folder / f"{role}.next.key"


def take_root_offline(folder: Path, to: Path) -> FileSigner:
    """Moves the root's private key into a file elsewhere, read back before it goes; its public part stays. Raises KeystoreError.

    Asked again after a crash, it goes on where it was.
    """
    folder, to = folder.absolute(), to.absolute()
    require_private(folder, is_folder=True)
    if folder in to.parents:
        raise KeystoreError("--to", f"{to} is in the keystore itself.", "Name a file on what you will take away.")
    with _locked(folder):
        here, public = folder / "root.key", folder / "root.pub.json"
        if not here.exists() and public.exists():
            raise KeystoreError("keys.root", "the root key is offline already.", "`aureus keys online-root FILE` brings it back.")
        root = read_key(here, "root")
        _copy(root, to)
        with _writing(public):
            if not public.exists():
                write_public(public, root)
            here.unlink()
            sync_folder(folder)
    return root


def bring_root_online(folder: Path, file: Path) -> FileSigner:
    """Puts the root's private key back from the file it was taken to, which is left as it is. Raises KeystoreError."""
    folder = folder.absolute()
    require_private(folder, is_folder=True)
    with _locked(folder):
        here, public = folder / "root.key", folder / "root.pub.json"
        if not public.exists():
            raise KeystoreError("keys.root", "the root key is not offline.", "There is nothing to bring back.")
        root, known = read_key(file, "root"), read_public(public)
        if root.key_id != known.key_id:
            raise KeystoreError(
                "FILE",
                f"{file} holds the root key {root.key_id[:16]}, and {known.key_id[:16]} was taken away.",
                "Name the file that it was taken to.",
            )
        with _writing(here):
            if not here.exists():
                write_key(here, root)
            public.unlink()
            sync_folder(folder)
    return root


def _copy(root: FileSigner, to: Path) -> None:
    """A root key into a file elsewhere, or nothing: what is there and cannot be kept to oneself does not stay."""
    fresh = not to.exists()
    try:
        if fresh:
            with _writing(to):
                write_key(to, root)
        if read_key(to, "root") != root:
            raise KeystoreError("--to", f"{to} holds another key.", "Name a file that is not there yet.")
    except KeystoreError:
        if fresh:
            to.unlink(missing_ok=True)
        raise


def _current(folder: Path, role: str, hardware: HardwareKeys | None) -> Signer:
    """The signer of one of the ledger's roles as far as the folder tells; which one is to sign, the ledger says (`find`, `settle`)."""
    path = folder / f"{role}.key"
    if path.exists():
        return read_key(path, role)
    if hardware is not None and role in hardware.roles:
        signers = hardware.signers(role)
        if not signers:
            raise _none_in_token(role)
        return signers[0]
    if role == "root" and (public := folder / "root.pub.json").exists():
        return read_public(public)
    remedy = "Restore it from your backup, or name the token that has it: a new key cannot stand in for it."
    raise KeystoreError(f"keys.{role}", f"{path} is missing.", remedy)


def _only_fresh(role: str, signers: Sequence[Signer], known: Collection[str]) -> Signer:
    fresh = [signer for signer in signers if signer.key_id not in known]
    if not fresh:
        raise _none_in_token(role)
    if len(fresh) > 1:
        ids = ", ".join(signer.key_id[:16] for signer in fresh)
        raise KeystoreError(f"keys.{role}", f"the token has several new keys of this role: {ids}.", "Destroy all but the one to be used.")
    return fresh[0]


def _none_in_token(role: str) -> KeystoreError:
    return KeystoreError(f"keys.{role}", "the token has no new key for this role.", f"Make one: aureus keys pkcs11 generate --role {role}")


def _require_none_restored(folder: Path) -> None:
    """Where a restore has begun to put keys back, new ones would stand in for them."""
    aside = folder.parent / RESTORED
    if aside.exists():
        rule = f"{aside} holds the keys of a restore that did not come to its end."
        raise KeystoreError("keys", rule, "Run `aureus restore` with that backup again, or remove the folder to begin a new ledger.")


def _generate(folder: Path, roles: Sequence[str], seed: Callable[[], bytes]) -> None:
    """Writes all keys into a folder beside, and renames it into place: either every key counts or none."""
    private_folder("AUREUS_HOME", folder.parent)
    created = _now()
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _writing(folder):
            for role in roles:
                write_key(beside / f"{role}.key", FileSigner.from_seed(role, seed(), created))
            try:
                beside.rename(folder)
            except OSError:
                # Another start was faster: its keys are the keys.
                if not (folder / f"{roles[-1]}.key").exists():
                    raise
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _keep(path: Path, key: FileSigner) -> None:
    """A second name for a key that is rotated out, so that the first can go to the next."""
    old = path.parent / OLD
    old.mkdir(mode=0o700, exist_ok=True)
    kept = old / f"{key.role}-{key.key_id[:16]}.key"
    if not kept.exists():
        os.link(path, kept)
    sync_folder(old)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time changes the files; whoever is killed lets go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeystoreError(
            "keys", f"{path} cannot be written: {error.strerror}.", "Make room there, or name another place that you may write to."
        ) from error
