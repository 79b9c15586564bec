"""A witness: of each log it was told to watch it keeps the latest checkpoint, and cosigns a new one only if the log merely grew.

Two people who each hold a checkpoint with the cosignature of one honest witness hold checkpoints of one history: the witness
signs no second one, nor one that takes back what it has signed. Rules: c2sp.org/tlog-witness. It knows nothing of
Aureus, and serves any log with such checkpoints.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from infra.durable import write_whole
from infra.key_files import SEED_BYTES, FileSigner, read_key, write_key
from infra.settings import SettingsError, private_folder
from infra.verifier.notes import (
    LOG,
    WITNESS,
    BadNote,
    CheckpointText,
    Note,
    VerifierKey,
    cosignature_line,
    cosigned_at,
    decode_base64,
    decode_decimal,
    is_key_name,
    log_signed,
    parse_checkpoint,
    parse_note,
    signature_line,
)
from infra.verifier.tree import EMPTY_ROOT, HASH_BYTES, ProofError, check_consistency

MAX_PROOF_HASHES: Final = 63
MAX_EVIDENCE: Final = 100
"""How many contradictions of one kind are kept of one log: what comes over the network must not fill the disk."""
TEXT: Final = "text/plain; charset=utf-8"
SIZE: Final = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back over HTTP."""

    status: int
    body: bytes = b""
    content_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Submission:
    """What a log sends: the size it believes the witness knows, the way from there, and the checkpoint it wants cosigned."""

    old_size: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: CheckpointText

    @classmethod
    def parse(cls, body: bytes) -> Submission:
        """Raises BadNote for anything that is not byte for byte an add-checkpoint request."""
        head, _, signed = body.partition(b"\n\n")
        try:
            first, *hashes = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise BadNote("the lines before the checkpoint are not ASCII") from error
        if not first.startswith("old "):
            raise BadNote("the first line is not `old` and a size")
        if len(hashes) > MAX_PROOF_HASHES:
            raise BadNote(f"{len(hashes)} lines of proof are more than {MAX_PROOF_HASHES}")
        proof = tuple(decode_base64(line, "a line of the proof") for line in hashes)
        if any(len(value) != HASH_BYTES for value in proof):
            raise BadNote(f"a line of the proof is not a hash of {HASH_BYTES} bytes")
        note = parse_note(signed)
        return cls(decode_decimal(first.removeprefix("old "), "the old size"), proof, note, parse_checkpoint(note.text))


class WitnessHome:
    """A witness's folder: its key, the latest checkpoint of each log, and what contradicted one. Held by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = private_folder("--home", folder)
        self._key_file = self.folder / "witness.key"
        self._lock: int | None = None

    def lock(self) -> None:
        """Keeps every other witness away until this process ends. Raises SettingsError."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise SettingsError(
                "--home", f"{self.folder} is in use by another witness.", "Stop that one, or name another folder."
            ) from error
        self._lock = handle

    def close(self) -> None:
        """Lets the next witness in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def key(self, name: str | None = None, *, make: bool = True) -> FileSigner:
        """The witness's key, made under this name when there is none. The name is part of what others trust: it never changes."""
        if make and not self._key_file.exists():
            seed, created = os.urandom(SEED_BYTES), datetime.now(UTC).isoformat(timespec="seconds")
            chosen = name or f"aureus.local/witness-{hashlib.sha256(seed).hexdigest()[:8]}"
            if not is_key_name(chosen):
                raise SettingsError("--name", f"{chosen!r} cannot name a witness.", "Use a name such as witness.example.org/w1.")
            try:
                write_key(self._key_file, FileSigner.from_seed("witness", seed, created, custody="client", holder=chosen))
            except FileExistsError:
                pass  # another start was faster: its key is the key
            except OSError as error:
                raise SettingsError("--home", f"{self.folder} cannot be written: {error.strerror}.", "Make room, or open it.") from error
        key = read_key(self._key_file, "witness")
        if name is not None and name != key.holder:
            raise SettingsError("--name", f"this witness is {key.holder}, not {name}.", "Leave it out, or name another home.")
        return key

    def latest(self, origin: str) -> bytes | None:
        """The checkpoint of a log that was cosigned last, with its signatures."""
        try:
            return self._place(origin).read_bytes()
        except FileNotFoundError:
            return None

    def all_latest(self) -> list[bytes]:
        """The latest checkpoint of every log, whether it is still watched or not."""
        return [path.read_bytes() for path in sorted((self.folder / "checkpoints").glob("[!.]*"))]

    def evidence(self) -> list[Path]:
        """Files about what contradicted a checkpoint it had cosigned."""
        return sorted((self.folder / "evidence").glob("*/*.json"))

    def keep(self, origin: str, note: bytes) -> None:
        """Durable on return, and never half: whoever reads it finds this checkpoint or the one before."""
        self._write(self._place(origin), note)

    def keep_evidence(self, kind: str, submission: Submission, body: bytes, why: str) -> None:
        """Keeps a checkpoint that its log signed and that does not go with what was cosigned, side by side with that."""
        origin = submission.checkpoint.origin
        folder = self.folder / "evidence" / origin_hash(origin)
        path = folder / f"{kind}-{submission.checkpoint.size}-{hashlib.sha256(submission.note.text).hexdigest()[:16]}.json"
        if path.exists() or len(list(folder.glob(f"{kind}-*"))) >= MAX_EVIDENCE:
            return
        seen = {"at": datetime.now(UTC).isoformat(), "why": why, "cosigned": _text(self.latest(origin)), "submitted": _text(body)}
        self._write(path, json.dumps(seen, indent=1).encode())

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, content)

    def _place(self, origin: str) -> Path:
        return self.folder / "checkpoints" / origin_hash(origin)


class Witness:
    """Decides about checkpoints. `logs` are the keys (kind 1) it trusts, each for the origin it is named after; several
    for one origin are all good, so that a log can change its key.
    """

    def __init__(self, home: WitnessHome, key: FileSigner, logs: Sequence[VerifierKey], now: Callable[[], float] = time.time) -> None:
        """Raises SettingsError when what it kept of a log is not what it signed: it must not begin again as if it knew nothing."""
        self.home, self._key, self._now = home, key, now
        self.verifier = verifier_of(key)
        self._logs: dict[str, list[VerifierKey]] = {}
        for log in logs:
            if log.kind != LOG:
                raise SettingsError("--log", f"{log.text()} is not the key of a log.", f"Give one of kind {LOG}.")
            self._logs.setdefault(log.name, []).append(log)
        self._latest = {origin: self._recalled(origin) for origin in self._logs}

    @property
    def origins(self) -> list[str]:
        return list(self._logs)

    def add_checkpoint(self, body: bytes) -> Answer:
        """One call decides and keeps, and nothing runs between the two: two requests cannot both grow from the same size."""
        try:
            submission = Submission.parse(body)
        except BadNote as error:
            return _no(400, str(error))
        new = submission.checkpoint
        trusted = self._logs.get(new.origin)
        if trusted is None:
            return _no(404, f"the log {new.origin!r} is not known here")
        try:
            signers = [key for key in trusted if log_signed(submission.note, key)]
        except BadNote as error:
            return _no(403, str(error))
        if not signers:
            return _no(403, f"no signature of a key that is trusted for {new.origin} stands on the checkpoint")
        if submission.old_size > new.size:
            return _no(400, f"the old size {submission.old_size} is greater than the new one, {new.size}")
        latest = self._latest[new.origin]
        known = latest.size if latest else 0
        if latest and new.size == known and new.root != latest.root:
            self.home.keep_evidence("fork", submission, body, f"the log signed two trees of {known}")
        if submission.old_size != known:
            return Answer(409, b"%d\n" % known, SIZE)
        try:
            _require_growth(latest, new, submission.proof)
        except ProofError as error:
            self.home.keep_evidence("unproven", submission, body, str(error))
            return _no(422, str(error))
        return self._cosigned(submission, signers)

    def checkpoint(self, hashed_origin: str) -> Answer:
        """The latest checkpoint it cosigned of the log with this origin hash (hex)."""
        origin = next((origin for origin in self._logs if origin_hash(origin) == hashed_origin), None)
        note = self.home.latest(origin) if origin else None
        return Answer(200, note) if note else _no(404, "no checkpoint of such a log was cosigned here")

    def _cosigned(self, submission: Submission, signers: Sequence[VerifierKey]) -> Answer:
        text, origin = submission.note.text, submission.checkpoint.origin
        line = cosignature_line(self.verifier.name, self._key.sign, self._key.public, text, int(self._now()))
        verified = {(key.name, key.key_id) for key in signers}
        by_log = [signature_line(one) for one in submission.note.signatures if (one.name, one.key_id) in verified]
        # On disk before anybody sees the cosignature: a witness that forgets what it signed can be led astray.
        self.home.keep(origin, b"".join((text, b"\n", *by_log, line)))
        self._latest[origin] = submission.checkpoint
        return Answer(200, line)

    def _recalled(self, origin: str) -> CheckpointText | None:
        kept = self.home.latest(origin)
        return None if kept is None else opened(kept, self.verifier)[0]


def verifier_of(key: FileSigner) -> VerifierKey:
    """A witness's key as others configure it."""
    return VerifierKey(key.holder or "", WITNESS, key.public)


def opened(kept: bytes, verifier: VerifierKey) -> tuple[CheckpointText, int]:
    """What a witness kept of a log: the checkpoint, and when it cosigned it (POSIX seconds). Raises SettingsError."""
    try:
        note = parse_note(kept)
        checkpoint, at = parse_checkpoint(note.text), cosigned_at(note, verifier)
        if at is not None:
            return checkpoint, at
        found = f"{verifier.name} did not sign it"
    except BadNote as error:
        found = str(error)
    remedy = "Restore it from a backup no older than its last cosignature, or begin a new witness."
    raise SettingsError("--home", f"what is kept of a log is not what was signed: {found}.", remedy)


def origin_hash(origin: str) -> str:
    """How a log is named in paths: SHA-256 of its origin, in hex."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _require_growth(old: CheckpointText | None, new: CheckpointText, proof: Sequence[bytes]) -> None:
    """Raises ProofError unless the new tree begins with all of the old one."""
    if new.size == 0 and new.root != EMPTY_ROOT:
        raise ProofError("the root of an empty tree is the hash of nothing")
    if old is not None and old.size > 0:
        check_consistency(old.size, new.size, proof, old.root, new.root)
    elif proof:
        raise ProofError("from nothing to something there is nothing to prove: the proof must be empty")


def _no(status: int, why: str) -> Answer:
    return Answer(status, f"{why}\n".encode())


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()
