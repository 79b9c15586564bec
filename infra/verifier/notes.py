"""A note is text that several keys have signed: what the log says about itself, and what its witnesses say they saw.

Formats: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature (Ed25519). Whatever those texts leave
no room for is refused, so that two readers never read one note differently.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import nacl.bindings
import nacl.exceptions

from infra.verifier.tree import HASH_BYTES

LOG: Final = 1
"""Kind of a key that signs a note's text as it stands."""
WITNESS: Final = 4
"""Kind of a key that signs a checkpoint together with the time it was seen (cosignature/v1)."""
MAX_SIGNATURES: Final = 64
MAX_NOTE_BYTES: Final = 1 << 20
_KEY_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
_ED25519_BYTES: Final = 64
_MARK: Final = "\u2014 "
_DECIMAL: Final = re.compile("0|[1-9][0-9]{0,18}")
_MAX: Final = (1 << 63) - 1


class BadNote(ValueError):
    """A note or a verifier key that is malformed, or a signature that does not hold."""


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who signed, the 4 bytes that point at the key, and the signature as its kind of key writes it."""

    name: str
    key_id: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """The signed text, with its last newline, and every signature on it; nothing is verified yet."""

    text: bytes
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key as verifiers configure it: whose it is, what kind of signature it makes, and its 32 public bytes."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """From `name+hex(key id)+base64(kind || public key)`; raises BadNote."""
        parts = text.split("+", 2)
        if len(parts) != 3 or not is_key_name(parts[0]):
            raise BadNote(f"{text!r} is not a verifier key: name+8 hex digits+base64 is needed")
        raw = decode_base64(parts[2], f"the key of {parts[0]}")
        if len(raw) != 1 + HASH_BYTES or raw[0] not in (LOG, WITNESS):
            raise BadNote(f"the key of {parts[0]} is not Ed25519: kind {LOG} or {WITNESS} and {HASH_BYTES} bytes are needed")
        key = cls(parts[0], raw[0], raw[1:])
        if key.key_id.hex() != parts[1]:
            raise BadNote(f"the key of {key.name} says its id is {parts[1]!r}, and it is {key.key_id.hex()}")
        return key

    def text(self) -> str:
        """What `parse` reads."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || LF || kind || public key)[:4]."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:_KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class CheckpointText:
    """What a checkpoint says: which log, how many entries, and the 32-byte root hash of its tree."""

    origin: str
    size: int
    root: bytes


def is_key_name(name: str) -> bool:
    """Not empty, without Unicode spaces, control characters and plus."""
    return bool(name) and not any(character.isspace() or character < " " or character == "+" for character in name)


def decode_base64(text: str, what: str) -> bytes:
    """Standard base64 with padding, in the one way there is to write those bytes; raises BadNote."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNote(f"{what} is not base64: {text!r}") from error
    if base64.b64encode(raw).decode() != text:
        raise BadNote(f"{what} is base64 that can be written in another way: {text!r}")
    return raw


def decode_decimal(text: str, what: str) -> int:
    """ASCII digits without leading zeros, at most 2^63 - 1; raises BadNote."""
    if not _DECIMAL.fullmatch(text) or int(text) > _MAX:
        raise BadNote(f"{what} is not a decimal number without leading zeros below 2^63: {text!r}")
    return int(text)


def parse_note(data: bytes) -> Note:
    """Text and signatures of a signed note; raises BadNote. Nothing is verified: `log_signed` and `cosigned_at` do."""
    if len(data) > MAX_NOTE_BYTES:
        raise BadNote(f"a note of {len(data)} bytes is over {MAX_NOTE_BYTES}")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise BadNote(f"the note is not UTF-8 at byte {error.start}") from error
    if any(character < " " and character != "\n" for character in whole):
        raise BadNote("the note has control characters other than newlines")
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank:
        raise BadNote("the note has no empty line between its text and its signatures")
    if not signatures.endswith("\n"):
        raise BadNote("the note has no signature, or its last line is cut off")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadNote(f"the note has {len(lines)} signatures, more than {MAX_SIGNATURES}")
    return Note(f"{text}\n".encode(), tuple(_signature(line) for line in lines))


def _signature(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not space or not is_key_name(name):
        raise BadNote(f"not a signature line, which is an em dash, a key name and base64: {line!r}")
    raw = decode_base64(encoded, f"the signature of {name}")
    if len(raw) <= _KEY_ID_BYTES:
        raise BadNote(f"the signature of {name} is shorter than a key id and a signature")
    return NoteSignature(name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])


def parse_checkpoint(text: bytes) -> CheckpointText:
    """What a note's text says as a checkpoint; raises BadNote. Extension lines are allowed and say nothing."""
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BadNote(f"the checkpoint is not UTF-8 at byte {error.start}") from error
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise BadNote("a checkpoint is at least three lines, none of them empty: origin, size, root hash")
    root = decode_base64(lines[2], "the root hash")
    if len(root) != HASH_BYTES:
        raise BadNote(f"the root hash has {len(root)} bytes, not {HASH_BYTES}")
    return CheckpointText(lines[0], decode_decimal(lines[1], "the size of the tree"), root)


def log_signed(note: Note, key: VerifierKey) -> bool:
    """Whether `key` (kind 1) signed the note; raises BadNote when a signature with its name and id does not hold."""
    found = False
    for blob in _by(note, key, LOG, _ED25519_BYTES):
        _check(key, blob, note.text)
        found = True
    return found


def cosigned_at(note: Note, key: VerifierKey) -> int | None:
    """When `key` (kind 4) cosigned the checkpoint, in POSIX seconds: the earliest time, or None when it did not.

    Raises BadNote when a cosignature with its name and id does not hold.
    """
    times = []
    for blob in _by(note, key, WITNESS, _TIME_BYTES + _ED25519_BYTES):
        at = int.from_bytes(blob[:_TIME_BYTES])
        if not 0 < at <= _MAX:
            raise BadNote(f"the cosignature of {key.name} states no time: {at}")
        _check(key, blob[_TIME_BYTES:], _cosigned_message(note.text, at))
        times.append(at)
    return min(times, default=None)


def cosignature_line(name: str, secret_sign: Callable[[bytes], bytes], public: bytes, note_text: bytes, at: int) -> bytes:
    """The line, with its newline, by which a witness says that it saw this checkpoint at `at` (POSIX seconds)."""
    key_id = VerifierKey(name, WITNESS, public).key_id
    blob = at.to_bytes(_TIME_BYTES) + secret_sign(_cosigned_message(note_text, at))
    return signature_line(NoteSignature(name, key_id, blob))


def signature_line(signature: NoteSignature) -> bytes:
    """A signature as it stands in a note, with its newline."""
    encoded = base64.b64encode(signature.key_id + signature.blob).decode()
    return f"{_MARK}{signature.name} {encoded}\n".encode()


def _cosigned_message(note_text: bytes, at: int) -> bytes:
    return b"cosignature/v1\ntime %d\n%b" % (at, note_text)


def _by(note: Note, key: VerifierKey, kind: int, length: int) -> Iterator[bytes]:
    """What stands under the key's name and id; lines of other keys are none of its business, even under the same name."""
    if key.kind != kind:
        raise BadNote(f"the key of {key.name} is of kind {key.kind}, and this takes one of kind {kind}")
    for signature in note.signatures:
        if (signature.name, signature.key_id) == (key.name, key.key_id):
            if len(signature.blob) != length:
                raise BadNote(f"the signature of {key.name} has {len(signature.blob)} bytes, not {length}")
            yield signature.blob


def _check(key: VerifierKey, signature: bytes, message: bytes) -> None:
    """Raises BadNote. libsodium refuses malleable signatures and keys of small order."""
    try:
        nacl.bindings.crypto_sign_open(signature + message, key.public)
    except nacl.exceptions.CryptoError as error:
        raise BadNote(f"the signature of {key.name} does not hold") from error
