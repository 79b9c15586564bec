#!/usr/bin/env python3
"""Verifies an Aureus pack, or a tile directory, from its bytes alone: `python aureus_verify.py pack.zip --keys trust.json`.

Exit codes: 0 verified; 8 not verified; 2 the command is wrong, or the file is not what it should be.

This one file is all it takes, with Python 3.11 and pynacl; it reads what it is given and asks nobody.
"""

# Made from infra/verifier/ by `python -m infra.bundle_verifier`, module by module, unchanged: edit those. Apache License 2.0.

from __future__ import annotations

import argparse
import base64
import binascii
import gc
import hashlib
import json
import multiprocessing
import nacl.bindings
import nacl.exceptions
import os
import re
import struct
import sys
import time
import zlib
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import a2b_base64, b2a_hex
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Final, IO, Literal, NoReturn, Protocol, Self
from unicodedata import is_normalized


# -- archive: A zip that can be written in one way only: every header is made again from what it says, and compared byte for byte.

LIMIT: Final = 0xFFFF_FFFF
"""From here on a number does not fit into its field, and stands in that of zip64."""
COUNT_LIMIT: Final = 0xFFFF
_HEADER: Final = struct.Struct("<4s5H3I2H")
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_NAME_BYTES: Final = 255
_DATE: Final = 0x21
"""1980-01-01."""
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_PLAIN, _ZIP64 = 20, 45
_READ_BYTES: Final = 1 << 20


class NoArchive(ValueError):
    """A file that does not even begin as a zip."""


class BadArchive(ValueError):
    """A zip with a byte that should be another; `at` says which."""

    def __init__(self, at: int, found: str) -> None:
        super().__init__(found)
        self.at, self.found = at, found


@dataclass(frozen=True, slots=True)
class PackMember:
    """A member: its name, its header's place in the file, the place and size of its content, and the CRC-32 that it states."""

    name: str
    offset: int
    start: int
    size: int
    crc: int


class Archive:
    """The members of a canonical zip, by name and in order. Opening it reads the headers; contents are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Raises NoArchive, BadArchive and OSError."""
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            members = list(_members(file, size))
            after = members[-1].start + members[-1].size if members else 0
            _require_bytes(file, after, _directory(members, after), "the directory at the end is not that of the members before it")
        self.members: dict[str, PackMember] = {}
        for member in members:
            if member.name in self.members:
                raise BadArchive(member.offset, f"{member.name} stands twice")
            self.members[member.name] = member

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a member, a megabyte at a time; raises BadArchive at its end when it is not what its CRC says."""
        member, crc = self.members[name], 0
        with self.path.open("rb") as file:
            file.seek(member.start)
            left = member.size
            while left and (piece := file.read(min(left, _READ_BYTES))):
                crc = zlib.crc32(piece, crc)
                left -= len(piece)
                yield piece
        if crc != member.crc:
            raise BadArchive(member.start, f"the content of {name} is not what its checksum says")

    def read(self, name: str, most: int = 1 << 26) -> bytes:
        """The content of a small member; raises BadArchive when it is larger than `most` bytes."""
        member = self.members[name]
        if member.size > most:
            raise BadArchive(member.start, f"{name} has {member.size} bytes, more than {most}")
        with self.path.open("rb") as file:
            file.seek(member.start)
            return file.read(member.size)

    def sha256(self, name: str) -> str:
        """Hex, over the content; raises BadArchive when that is not what its CRC says."""
        digest = sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()


def _members(file: IO[bytes], size: int) -> Iterator[PackMember]:
    """Walks from header to header, each of which has to be the one way to write what it says."""
    at = 0
    while True:
        file.seek(at)
        fields = file.read(_HEADER.size)
        if fields[:4] == (b"PK\1\2" if at else b"PK\5\6"):  # without members there is no directory, just its end
            return
        if fields[:4] != b"PK\3\4":
            if not at:
                raise NoArchive("it does not begin as a zip")
            raise BadArchive(at, "neither a member nor the directory begins here")
        if len(fields) < _HEADER.size:
            raise BadArchive(at, "the file ends within a header")
        *_, crc, shown, _, name_bytes, extra_bytes = _HEADER.unpack(fields)
        rest = file.read(min(name_bytes, _NAME_BYTES) + min(extra_bytes, 20))
        name = rest[:name_bytes].decode("latin-1")
        if name_bytes > _NAME_BYTES or not _NAME.fullmatch(name):
            raise BadArchive(at + _HEADER.size, f"{name[:40]!r} is no name for a member")
        content = struct.unpack("<Q", rest[-8:])[0] if shown == LIMIT and extra_bytes == 20 and len(rest) >= 8 else shown
        header = _local_header(name, crc, content)
        _require_bytes(file, at, header, f"the header of {name} is not written as it has to be", whole=False)
        start = at + len(header)
        if start + content > size:
            raise BadArchive(start, f"the file ends within {name}: {content} bytes are stated, {size - start} are left")
        yield PackMember(name, at, start, content, crc)
        at = start + content


def _require_bytes(file: IO[bytes], at: int, wanted: bytes, otherwise: str, *, whole: bool = True) -> None:
    """The bytes at a place are these; with `whole`, nothing comes after them."""
    file.seek(at)
    found = file.read(len(wanted) + whole)
    if found != wanted:
        same = next((place for place, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
        raise BadArchive(at + same, otherwise)


def _local_header(name: str, crc: int, size: int) -> bytes:
    large = size >= LIMIT
    extra = struct.pack("<2H2Q", 1, 16, size, size) if large else b""
    version, shown = (_ZIP64, LIMIT) if large else (_PLAIN, size)
    return _HEADER.pack(b"PK\3\4", version, 0, 0, 0, _DATE, crc, shown, shown, len(name), len(extra)) + name.encode() + extra


def _directory(members: list[PackMember], at: int) -> bytes:
    """The directory of these members, which begins at `at`, and the records that end the file."""
    lines = b"".join(map(_line, members))
    count, size = len(members), len(lines)
    end = b""
    if count >= COUNT_LIMIT or size >= LIMIT or at >= LIMIT:
        end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, _ZIP64, _ZIP64, 0, 0, count, count, size, at)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, at + size, 1)
    shown = min(count, COUNT_LIMIT)
    return lines + end + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, shown, shown, min(size, LIMIT), min(at, LIMIT), 0)


def _line(member: PackMember) -> bytes:
    large = [member.size] * 2 if member.size >= LIMIT else []
    large += [member.offset] if member.offset >= LIMIT else []
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version, size, offset = (_ZIP64 if large else _PLAIN), min(member.size, LIMIT), min(member.offset, LIMIT)
    fields = (b"PK\1\2", _UNIX << 8 | version, version, 0, 0, 0, _DATE, member.crc, size, size)
    numbers = (len(member.name), len(extra), 0, 0, 0, _MODE, offset)
    return struct.pack("<4s6H3I5H2I", *fields, *numbers) + member.name.encode() + extra



# -- canonical: Canonical JSON (RFC 8785, in the profile of the ledger): a document is taken only when no other bytes say the same.

MAX_INTEGER: Final = 2**53 - 1
_TOO_LONG: Final = 17


class NotCanonical(ValueError):
    """Bytes that are not the canonical form of an object in the profile; says which rule they break."""


def canonical(value: Any) -> bytes:
    """The canonical bytes of a value that `canonical_object` could have returned."""
    return _ENCODER.encode(value).encode()


def canonical_object(document: bytes) -> dict[str, Any]:
    """The JSON object with exactly these canonical bytes; raises NotCanonical."""
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise NotCanonical(f"it is not UTF-8 at byte {error.start}") from None
    if not text.isascii() and not is_normalized("NFC", text):
        raise NotCanonical("it has text that is not NFC")
    try:
        value = _DECODER.decode(text)
        if not isinstance(value, dict):
            raise NotCanonical("it is not a JSON object")
        if "\\u0000" in text:
            _refuse_nul(value)
        encoded = canonical(value)
    except RecursionError:
        raise NotCanonical("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise NotCanonical("it has a lone surrogate") from None
    except NotCanonical:
        raise
    except ValueError as error:
        raise NotCanonical(f"it is not JSON ({error})") from None
    if encoded != document:
        raise NotCanonical(f"it is not canonical JSON at byte {_first_difference(encoded, document)}")
    return value


def _first_difference(one: bytes, other: bytes) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise NotCanonical(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    for key in found:
        if not key.isascii() or "\0" in key:
            raise NotCanonical(f"the key {key!r} is not ASCII")
    return found


def _integer(text: str) -> int:
    if len(text) > _TOO_LONG or abs(value := int(text)) > MAX_INTEGER:
        raise NotCanonical("it has an integer beyond 2^53 - 1")
    return value


def _no_float(text: str) -> NoReturn:
    raise NotCanonical(f"it has the number {text[:20]}, and only integers are signed")


def _refuse_nul(value: Any) -> None:
    if isinstance(value, str) and "\0" in value:
        raise NotCanonical("it has text with U+0000")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_nul(item)


_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float)



# -- events: One event as the log holds it: a signed body in an envelope, each of which can be written in one way only.

EVENT_TYPE: Final = b"application/vnd.aureus.event.v1+json"
REQUEST_TYPE: Final = b"application/vnd.aureus.request.v1+json"
BODY_VERSION: Final = 1
MAX_ENTRY_BYTES: Final = 65_535
SIGNATURE_BYTES: Final = 64
PUBLIC_BYTES: Final = 32
MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
KEY_STREAM: Final = ("system", "keys:ledger")
"""(tenant, stream) of the events by which keys enter and leave."""

Body = dict[str, Any]
Signatures = list[tuple[str, bytes]]
"""(key id, 64 bytes), the first by the key that the body names."""


class Bad(Exception):
    """Something about one event that does not hold: which check, and what was found."""

    def __init__(self, check: str, found: str) -> None:
        super().__init__(found)
        self.check, self.found = check, found


# -- base64 and Ed25519

_LAST: Final = (b"", b"AQgw", b"AEIMQUYcgkosw048")
"""What base64 ends with before its padding, by how many bytes are left over: no bit of it is spare."""


def decoded(text: bytes | memoryview | str) -> bytes:
    """The bytes of base64 that is written in the one way there is; raises ValueError."""
    if isinstance(text, str):
        text = text.encode()
    raw = a2b_base64(text, strict_mode=True)
    odd = len(raw) % 3
    if len(text) != (len(raw) + 2) // 3 * 4:
        raise ValueError("base64 with padding that it does not need")
    if odd and text[odd - 4] not in _LAST[odd]:
        raise ValueError("base64 with spare bits set")
    return raw


def holds(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether these 64 bytes are the key's signature. libsodium refuses malleable ones and keys of small order."""
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except nacl.exceptions.CryptoError:
        return False
    return True


def signed_text(payload_type: bytes, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what a signature is over."""
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type, len(payload), payload)


# -- the envelope

_OPENING: Final = b'{"payload":"'
_AROUND: Final = (b'","payloadType":"%b","signatures":[{"keyid":"' % EVENT_TYPE, b'","sig":"', b'"}]}')
"""What stands between payload, key id and signature, and behind them, when there is one signature."""
_REST: Final = struct.Struct("{}s64s{}s88s{}s".format(*map(len, _AROUND)))
_PAYLOAD_AT: Final = len(_OPENING)


def open_entry(entry: bytes) -> tuple[bytes, Signatures]:
    """(body, signatures) of an entry of the tree; raises Bad unless these are the only bytes that say so."""
    once = _signed_once(entry)
    if once is not None:
        payload, key_id, signature = once
        try:
            return decoded(payload), [(key_id.decode(), decoded(signature))]
        except ValueError:
            pass  # it is something else, which is read at leisure
    return _open_envelope(entry)


def _signed_once(entry: bytes) -> tuple[memoryview, bytes, bytes] | None:
    """(payload, key id, signature) as they stand in an entry with one signature, as almost all have; None of any other."""
    at = len(entry) - _REST.size
    if not _PAYLOAD_AT <= at <= MAX_ENTRY_BYTES - _REST.size or not entry.startswith(_OPENING):
        return None
    middle, key_id, between, signature, closing = _REST.unpack_from(entry, at)
    if (middle, between, closing) != _AROUND or not key_id.isalnum():
        return None
    return memoryview(entry)[_PAYLOAD_AT:at], key_id, signature


def _open_envelope(entry: bytes) -> tuple[bytes, Signatures]:
    """`open_entry` for any number of signatures, and with reasons."""
    if len(entry) > MAX_ENTRY_BYTES:
        raise Bad("entry", f"it has {len(entry)} bytes, more than {MAX_ENTRY_BYTES}")
    try:
        envelope = canonical_object(entry)
    except NotCanonical as error:
        raise Bad("entry", str(error)) from None
    if set(envelope) != {"payload", "payloadType", "signatures"} or envelope["payloadType"] != EVENT_TYPE.decode():
        raise Bad("entry", "it is not a DSSE envelope of an Aureus event")
    return open_signed(envelope)


def open_signed(envelope: Body) -> tuple[bytes, Signatures]:
    """(payload, signatures) of a DSSE envelope of any type; raises Bad."""
    signatures: Signatures = []
    try:
        payload = decoded(envelope["payload"])
        for signature in envelope["signatures"]:
            if set(signature) != {"keyid", "sig"} or not isinstance(signature["keyid"], str):
                raise Bad("entry", "a signature has other members than keyid and sig")
            signatures.append((signature["keyid"], decoded(signature["sig"])))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Bad("entry", f"its payload and signatures cannot be read ({error})") from None
    if not signatures or len({key_id for key_id, _ in signatures}) != len(signatures):
        raise Bad("entry", "it is signed by nobody" if not signatures else "one key signs it twice")
    return payload, signatures


# -- the body

MEMBERS: Final = tuple("_sd actor at causation correlation data id key ledger prev schema stream tenant type v version".split())
_TYPES: Final = (list, str, str, str, str, dict, str, str, str, str, int, str, str, str, int, int)
_UNCAUSED: Final = (*_TYPES[:3], NoneType, *_TYPES[4:])


def read_body(body: bytes) -> Body:
    """The members of a signed body; raises Bad."""
    try:
        member = canonical_object(body)
    except NotCanonical as error:
        raise Bad("body", str(error)) from None
    if tuple(member) != MEMBERS:
        raise Bad("body", f"its members are {', '.join(member) or 'none'}")
    types = tuple(map(type, member.values()))
    if types not in (_TYPES, _UNCAUSED):
        wrong = next(name for name, found, wanted in zip(MEMBERS, types, _TYPES, strict=True) if found is not wanted)
        raise Bad("body", f"its member {wrong} is not what it should be")
    if member["v"] != BODY_VERSION:
        raise Bad("body", f"it is of version {member['v']}, and this program knows {BODY_VERSION}")
    return member


_TAIL: Final = b',"prev":"'
_TAIL_PARTS: Final = 20
_TAIL_TEXT: Final = 800
"""Of base64, a multiple of four: as a rule the tail of a body is in its last 600 bytes."""


def read_place(entry: bytes) -> tuple[bytes, bytes, int, bytes]:
    """(tenant, stream, version, prev) from the end of an entry's body, without reading the rest of it; raises Bad.

    The members there are numbers and texts that need no escapes, so the last `,"prev":"` is the member of that name.
    """
    once, end = _signed_once(entry), b""
    if once is not None:
        try:
            end = a2b_base64(once[0][-_TAIL_TEXT:])
        except ValueError:
            end = b""
    at = end.rfind(_TAIL)
    if at < 0:
        end = open_entry(entry)[0]
        at = end.rfind(_TAIL)
    parts = end[at + len(_TAIL) :].split(b'"')
    if len(parts) != _TAIL_PARTS or (parts[4], parts[8], parts[18]) != (b"stream", b"tenant", b"version"):
        raise Bad("body", "it does not end as an event does")
    version = parts[19][1:-1]
    if not version.isdigit():
        raise Bad("body", "its version is not a number")
    return parts[10], parts[6], int(version), parts[0]


def request_holds(member: Body, public: bytes) -> bool:
    """Whether the actor's own signature on an action is over what was asked: this command, in this ledger, by this actor."""
    signature, intent = member["data"]["signature"], member["data"]["intent"]
    said = {
        "v": 1,
        "ledger": member["ledger"],
        "tenant": member["tenant"],
        "actor": member["actor"],
        "command": intent["command"],
        "digest": intent["digest"],
        "nonce": signature["nonce"],
        "at": signature["at"],
    }
    return holds(public, signed_text(REQUEST_TYPE, canonical(said)), decoded(signature["sig"]))


def require_digest(intent: Body) -> None:
    """The digest that was signed is that of the command, where its inputs stand here whole; raises Bad."""
    inputs, digest = intent["inputs"], intent["digest"]
    if inputs == {"sha256_of_large_inputs": digest}:
        return
    found = sha256(canonical({"command": intent["command"], "intent": inputs})).hexdigest()
    if found != digest:
        raise Bad("request", f"its command has the digest {found[:16]}, and it says {str(digest)[:16]}")



# -- keys: Keys of a ledger: which key may sign what, at which position, as the ledger's own key stream has it.

KEY_EVENT: Final = "keys."
KEY_ADDED: Final = "keys.key_added"
ACTION_EVENT: Final = "actions."
UNSIGNED_ACTION: Final = "actions.action_blocked"
"""A request without a good signature is refused, and its refusal is on record without one."""
ROLES: Final = frozenset({"root", "log", "service", "actor", "witness"})
HELD: Final = frozenset({"actor", "witness"})
CUSTODIES: Final = frozenset({"client", "kms", "server"})
FOREVER: Final = 2**63 - 1
Fact = tuple[str, str, int]
"""(event type, stream, version)"""
ANY_VERSION: Final = 0


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and where it may sign."""

    key_id: str
    role: str
    public: bytes
    holder: str | None
    first: int
    """The first position it may sign at."""
    brought_by: str | None = None
    """The action that brought it in."""
    last: int = FOREVER
    ended_by: str | None = None
    revoked_at: int | None = None
    compromised_since: int | None = None

    def signs_at(self, position: int) -> bool:
        return self.first <= position <= self.last

    def signs_request(self, position: int, action: str) -> bool:
        """Whether the holder asked for this action with it: an action's event stands after the facts that the action led to."""
        since = self.first <= position and self.brought_by != action
        return since and (position <= self.last or self.ended_by == action)

    def disputed(self) -> range:
        """Positions at which what it signed is disputed: it was in other hands by then."""
        if self.revoked_at is None or self.compromised_since is None:
            return range(0)
        return range(self.compromised_since, self.revoked_at)


def key_id_of(public: bytes) -> str:
    """SHA-256 over algorithm and public key, in hex."""
    return sha256(b"ed25519\n" + public).hexdigest()


class KeyRing:
    """All keys of a ledger, learnt from its key events in order."""

    def __init__(self, root_keys: tuple[str, ...] = ()) -> None:
        """`root_keys` are the ids the founding root key may have; without any, the ledger's own word is taken."""
        self._trusted = root_keys
        self.keys: dict[str, Key] = {}
        self.root = ""
        """The founding root key's id."""

    def of_role(self, role: str) -> Iterator[Key]:
        return (key for key in self.keys.values() if key.role == role)

    def learn(self, position: int, body: bytes, member: Body, signatures: Signatures) -> None:
        """One event of the key stream; raises Bad, and learns nothing, when it breaks a rule."""
        data, ledger, kind = member["data"], member["ledger"], member["type"]
        if (member["tenant"], member["stream"]) != KEY_STREAM:
            raise Bad("key", "keys come and go in the ledger's key stream and nowhere else")
        try:
            if kind == KEY_ADDED:
                self._add(position, body, member, signatures)
                return
            self._require_signed(position, body, signatures, member, self.keys)
            if kind == "keys.key_rotated":
                self._rotate(position, ledger, data, member["causation"])
            elif kind == "keys.key_revoked":
                self._revoke(position, data, member["causation"])
            else:
                raise Bad("key", f"{kind} is not an event of keys that this program knows")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Bad("key", f"its data cannot be read ({error!r})") from None

    def _add(self, position: int, body: bytes, member: Body, signatures: Signatures) -> None:
        data, ledger = member["data"], member["ledger"]
        key = _new_key(position, data, data.get("holder"), member["causation"])
        if (key.holder is not None) != (key.role in HELD):
            raise Bad("key", f"a {key.role} key has {'no' if key.holder is None else 'a'} holder")
        if key.key_id in self.keys:
            raise Bad("key", "it was added before, and no key comes in twice")
        _require_held(key.public, f"aureus key\n{ledger}\n{key.role}\n{key.key_id}\n", data["proof"], "nobody proved to hold it")
        if key.role == "root":
            key = self._founding(position, key)
            self._require_signed(position, body, signatures, member, {key.key_id: key})
            self.root = key.key_id
        else:
            self._require_signed(position, body, signatures, member, self.keys)
            self._require_authorised(position, member, key)
        self.keys[key.key_id] = key

    def _founding(self, position: int, key: Key) -> Key:
        if position != 1:
            raise Bad("key", "a second root key appears; a root key is only ever rotated")
        if self._trusted and key.key_id not in self._trusted:
            raise Bad("key", f"its root key is {key.key_id}, the trusted one is {' or '.join(self._trusted)}")
        return replace(key, first=1)

    def _require_authorised(self, position: int, member: Body, key: Key) -> None:
        """By a signature of a root key over the new key, or because the root key signed this very event."""
        data = member["data"]
        by = self.keys.get(data.get("authorised_by") or member["key"])
        if by is None or by.role != "root" or not by.signs_at(position):
            raise Bad("key", "no root key let it in")
        if data.get("authorised_by") is not None:
            statement = f"aureus key authorised\n{member['ledger']}\n{key.role}\n{key.key_id}\n{data['custody']}\n{key.holder or ''}\n"
            _require_held(by.public, statement, data["authorisation"], "the root key's signature that lets it in does not hold")

    def _rotate(self, position: int, ledger: str, data: dict[str, Any], cause: str | None) -> None:
        old = self._current(position, data["old_key_id"])
        new = _new_key(position, data, old.holder, cause)
        if new.key_id in self.keys:
            raise Bad("key", "it rotates to a key that was there before")
        if new.role != old.role or data.get("holder", old.holder) != old.holder:
            raise Bad("key", f"it rotates a {old.role} key of {old.holder or 'the ledger'} into another role or other hands")
        statement = f"aureus key rotated\n{ledger}\n{new.role}\n{old.key_id}\n{new.key_id}\n{data['custody']}\n"
        _require_held(new.public, statement, data["proof"], "nobody proved to hold the new key")
        _require_held(old.public, statement, data["consent"], "the old key did not consent")
        self.keys[old.key_id] = replace(old, last=position, ended_by=cause)
        self.keys[new.key_id] = new

    def _revoke(self, position: int, data: dict[str, Any], cause: str | None) -> None:
        key, since = self.keys.get(data["key_id"]), data.get("compromised_since")
        if key is None or key.revoked_at is not None:
            raise Bad("key", "it revokes a key that is not there, or was revoked before")
        if since is not None and (type(since) is not int or not 1 <= since <= position):
            raise Bad("key", f"it says that the key was compromised since {since}")
        ended_by = cause if key.last == FOREVER else key.ended_by
        self.keys[key.key_id] = replace(
            key, last=min(key.last, position - 1), ended_by=ended_by, revoked_at=position, compromised_since=since
        )

    def _current(self, position: int, key_id: str) -> Key:
        key = self.keys.get(key_id)
        if key is None or key.last != FOREVER or not key.signs_at(position):
            raise Bad("key", f"it rotates {str(key_id)[:16]}, which is not a key in force")
        return key

    def _require_signed(self, position: int, body: bytes, signatures: Signatures, member: Body, known: Mapping[str, Key]) -> None:
        """What changes the keys is signed by a key that may sign events there."""
        key_id, kind = member["key"], member["type"]
        key = known.get(key_id)
        roles = ("root", "service") if kind == KEY_ADDED else ("service",)
        if key is None or key_id != signatures[0][0] or key.role not in roles or not key.signs_at(position):
            raise Bad("key", f"{key_id[:16]} may not sign events at this position")
        if not holds(key.public, signed_text(EVENT_TYPE, body), signatures[0][1]):
            raise Bad("signature", f"that of key {key_id[:16]} does not hold")


def _new_key(position: int, data: dict[str, Any], holder: str | None, cause: str | None) -> Key:
    public = decoded(data["public"])
    if data["algorithm"] != "ed25519" or data["role"] not in ROLES or data["custody"] not in CUSTODIES:
        raise Bad("key", f"a key of algorithm {data['algorithm']}, role {data['role']} and custody {data['custody']} is none")
    if len(public) != 32 or key_id_of(public) != data["key_id"]:
        raise Bad("key", f"{str(data['key_id'])[:16]} is not the id of its public key")
    if holder is not None and type(holder) is not str:
        raise Bad("key", "its holder is not a name")
    return Key(data["key_id"], data["role"], public, holder, position + 1, cause)


def _require_held(public: bytes, statement: str, signature: str, otherwise: str) -> None:
    if not holds(public, statement.encode(), decoded(signature)):
        raise Bad("key", otherwise)


# -- requests that actors signed


class Requests:
    """The rule for actions of those who have a key of their own: each is signed with it, and each signature counts once."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self.holders: dict[str, list[Key]] = {}
        for key in keys.values():
            if key.role == "actor" and key.holder is not None:
                self.holders.setdefault(key.holder, []).append(key)

    def check(self, position: int, member: Body) -> tuple[str, str] | None:
        """(key id, nonce) of a request's signature that holds, None when there need be none; raises Bad."""
        signature, actor = member["data"].get("signature"), member["actor"]
        action = member["stream"].partition(":")[2]
        current = {key.key_id: key for key in self.holders.get(f"{member['tenant']}/{actor}", ()) if key.signs_request(position, action)}
        if signature is None:
            if current and member["type"] != UNSIGNED_ACTION:
                raise Bad("request", f"{actor} has a key of its own, and did not sign this action")
            return None
        try:
            key = current.get(signature["key_id"])
            if key is None:
                raise Bad("request", f"it is signed by {str(signature['key_id'])[:16]}, which is not a key of {actor} in force here")
            if not request_holds(member, key.public):
                raise Bad("request", f"the signature of {actor} is not over what was asked here")
            require_digest(member["data"]["intent"])
            return key.key_id, str(signature["nonce"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Bad("request", f"its signature cannot be read ({error!r})") from None

    def asks(self, position: int, member: Body) -> bool:
        """Whether a fact is in the name of somebody with a key in force: then an action that they signed led to it."""
        action = member["causation"] or ""
        return any(key.signs_request(position, action) for key in self.holders.get(f"{member['tenant']}/{member['actor']}", ()))


def led_to(member: Body) -> set[Fact]:
    """The facts that an action says it led to: its outputs, the request for an approval, or the use of one."""
    data, own = member["data"], member["stream"].partition(":")[2]
    approval = data.get("approval_id")
    facts = {(output["type"], output["stream"], output["version"]) for output in data.get("outputs", ())}
    if member["type"] == "actions.action_parked":
        facts.add(("approvals.approval_requested", f"approval:{own}", 1))
    elif approval is not None:
        facts.add(("approvals.approval_used", f"approval:{approval}", ANY_VERSION))
    return facts



# -- result: What a verification came to: for programs as JSON, for people as sentences.

MAX_PROBLEMS: Final = 100
FIELD_STATES: Final = ("open", "withheld", "erased", "missing", "decoy", "untold")
"""Shown; kept back; gone, with a certificate; gone without; nobody's; and of before decoys were kept: a decoy, or gone."""
NO_WITNESS: Final = (
    "No witness that you trust cosigned this checkpoint: whoever owns the database could have cut off the end of the ledger back to an "
    "older checkpoint, and whoever also holds the log key could show you another ledger, without this verification noticing. "
    "Name the witnesses you trust (--keys), or keep checkpoints yourself and verify against them (--checkpoint)."
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold: at which position, which check, what was found, and where that lies."""

    position: int | None
    check: str
    found: str
    where: str | None = None

    def __str__(self) -> str:
        place = [f"position {self.position}"] if self.position is not None else []
        return f"{', '.join([*place, *([self.where] if self.where else [])]) or 'as a whole'}: {self.check}: {self.found}"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """That a witness saw this checkpoint, and when (RFC 3339)."""

    witness: str
    at: str

    @classmethod
    def of(cls, witness: str, posix_seconds: int) -> Cosigned:
        try:
            moment = datetime.fromtimestamp(posix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (ValueError, OverflowError, OSError):
            moment = f"second {posix_seconds}"
        return cls(witness, moment)


@dataclass(slots=True)
class Result:
    """Counts, what was found, and what nobody could find here."""

    what: Literal["ledger", "pack", "tiles"] = "ledger"
    mode: Literal["full", "tree"] = "full"
    ledger: str = ""
    tenant: str | None = None
    events: int = 0
    signatures: int = 0
    request_signatures: int = 0
    keys: int = 0
    streams: int = 0
    range: dict[str, Any] | None = None
    """Of a pack: from which position to which, and for what it was asked."""
    complete: bool | None = None
    """Whether nothing is missing in the range; None when that could not be looked at."""
    size: int = 0
    root: str = ""
    """Of the checkpoint: how many events it signs, and their root hash in base64."""
    cosigned: list[Cosigned] = field(default_factory=list)
    fields: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FIELD_STATES, 0))
    """Personal fields by what became of them."""
    disputed: list[int] = field(default_factory=list)
    root_key: str = ""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    untold: int = 0
    """Problems beyond the first hundred."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, check: str, found: str, position: int | None = None, where: str | None = None) -> None:
        self.add(Problem(position, check, found, where))

    def add(self, problem: Problem) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.untold += 1

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        members = asdict(self)
        checkpoint = {"size": members.pop("size"), "root": members.pop("root")}
        absent = [name for name in ("tenant", "range") if members[name] is None]
        told = {name: value for name, value in members.items() if name not in absent}
        return {"ok": self.ok, **told, "checkpoint": checkpoint}

    def sentences(self) -> list[str]:
        """What there is to say to people, the verdict first."""
        return [*(self._verdict() if self.ok else self._failure()), *(f"Note: {warning}" for warning in self.warnings)]

    def _verdict(self) -> list[str]:
        held = f"{_count(self.signatures, 'signature')}, " if self.mode == "full" else ""
        if self.what == "pack":
            proven = f"{held}all valid under keys valid at their positions, all in the tree" if held else "all in the tree"
            proven += f" of the checkpoint of size {self.size}, nothing missing in the range"
        else:
            proven = f"{held}{_count(self.streams, 'stream')} without a gap, every chain link, and the tree against"
            proven += f" the checkpoint of size {self.size}"
        lines = [f"Verified {_count(self.events, 'event')} of {self.ledger}: {proven}."]
        if self.range is not None:
            lines.append(f"  range      {self._period()}")
        lines.append(f"  root hash  {self.root}")
        lines.append(f"  root key   {self.root_key}")
        lines.append(f"  cosigned   {', '.join(f'by {one.witness} at {one.at}' for one in self.cosigned) or 'by no witness'}")
        if self.request_signatures:
            lines.append(f"  requests   {self.request_signatures} signed by whoever asked, with a key of their own")
        if self.what == "pack" and self.mode == "full":
            lines.append("  fields     " + ", ".join(f"{name} {self.fields[name]}" for name in _told_states(self.fields)))
        if self.disputed:
            lines.append(f"  disputed   {_count(len(self.disputed), 'event')} by a key in other hands by then: {_some(self.disputed)}")
        if self.mode == "tree":
            lines.append("Only the tree and the chains were checked: no event's signature, and not how its body is written.")
        return lines

    def _period(self) -> str:
        said = self.range or {}
        period = [f"{word} {said[word]}" for word in ("from", "to") if said[word] is not None]
        what = "everything" if said["scope"] == "everything" else _selection(said["selection"])
        return f"positions {said['after'] + 1} to {said['until']}: {', '.join([what, *period])}"

    def _failure(self) -> list[str]:
        count, ledger = len(self.problems) + self.untold, self.ledger or "a ledger without a name"
        return [
            f"NOT verified: {_count(count, 'check')} failed; {_count(self.events, 'event')} of {ledger} read.",
            *(f"  {problem}" for problem in self.problems),
            *([f"  and {self.untold} more"] if self.untold else []),
        ]


def _told_states(fields: dict[str, int]) -> list[str]:
    """All but what cannot be told, which is said only when there is some."""
    return [state for state in FIELD_STATES if state != "untold" or fields[state]]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _some(positions: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(map(str, positions[:most]))
    return f"positions {shown}" + (f" and {len(positions) - most} more" if len(positions) > most else "")


def _selection(selection: dict[str, Any]) -> str:
    chosen = [f"{name} {', '.join(values)}" for name, values in selection.items() if isinstance(values, list) and values]
    return "; ".join(chosen) or "all events"



# -- shapes: Bodies that look like one seen before are read by one regular expression: the same members, with other texts and numbers.

Head = tuple[bytes, ...]
"""actor, at, id, key, ledger, prev, stream, tenant, type and version of an event, as they stand in its body."""
HEAD: Final = tuple("actor at id key ledger prev stream tenant type version".split())
_TEXT: Final = r"[ !#-\[\]-\xff]*+"
"""Bytes of UTF-8 that need no escape."""
_INTEGER: Final = r"(?:0|-?[1-9][0-9]{0,14}+)"
_POSITIVE: Final = r"[1-9][0-9]{0,14}+"
SHAPES_ALIKE: Final = 16
SHAPES: Final = 512
LARGEST: Final = 4_096
"""Bytes of a body whose shape is worth keeping."""


class Shapes:
    """The shapes seen so far, by how many quotes are in them, the last used first."""

    def __init__(self) -> None:
        self._known: dict[int, list[re.Pattern[bytes]]] = {}
        self._count = 0

    def head(self, body: bytes) -> Head:
        """The head of a canonical body; raises Bad for any other."""
        known = self._known.get(body.count(b'"'))
        if known is not None and (body.isascii() or _is_nfc(body)):
            for number, shape in enumerate(known):
                match = shape.fullmatch(body)
                if match is not None:
                    if number:
                        known.insert(0, known.pop(number))
                    return match.groups()
        return self._learn(body)

    def _learn(self, body: bytes) -> Head:
        member = read_body(body)
        known = self._known.setdefault(body.count(b'"'), [])
        if len(known) < SHAPES_ALIKE and self._count < SHAPES and len(body) <= LARGEST:
            known.append(re.compile(_shape(member).encode("latin-1")))
            self._count += 1
        return tuple(str(member[name]).encode() for name in HEAD)


def _is_nfc(body: bytes) -> bool:
    try:
        return is_normalized("NFC", body.decode())
    except UnicodeDecodeError:
        return False


def _shape(member: Body) -> str:
    """The pattern of all bodies with the members and the type of this one."""
    parts = []
    for name in MEMBERS:
        if name == "type":
            value = f'"({re.escape(member[name])})"'
        elif name == "version":
            value = f"({_POSITIVE})"
        elif name in HEAD:
            value = f'"({_TEXT})"'
        else:
            value = "1" if name == "v" else _pattern(member[name])
        parts.append(f'"{name}":{value}')
    return r"\{" + ",".join(parts) + r"\}"


def _pattern(value: Any) -> str:
    match value:
        case str():
            return f'"{_TEXT}"'
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int():
            return _INTEGER
        case dict():
            inner = (f'"{re.escape(name)}":{_pattern(value[name])}' for name in sorted(value))
            return r"\{" + ",".join(inner) + r"\}"
        case _:
            return r"\[" + ",".join(map(_pattern, value)) + r"\]"



# -- sources: Where entries lie: in memory, in the bundles of a tile directory, or in lines of a pack. Whoever checks them reads them there.

CHUNK_ENTRIES: Final = 4_096
"""How many entries are checked in one go: a quarter of a second's work, and a few megabytes."""
_POSITION: Final = re.compile(rb"[1-9][0-9]{0,18}")


class Unreadable(ValueError):
    """Bytes that are not entries in the form that was said; `where` names the file and the byte."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(found)
        self.where, self.found = where, found


class Source(Protocol):
    """Some entries, in ascending positions."""

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(position, entry) of each; raises Unreadable and OSError."""

    def where(self, position: int) -> str | None:
        """The file and the byte at which an entry begins, for people; None when it lies in no file."""


@dataclass(frozen=True, slots=True)
class Held:
    """Entries in memory, at consecutive positions."""

    first: int
    entries: Sequence[bytes]

    def read(self) -> Iterator[tuple[int, bytes]]:
        return enumerate(self.entries, self.first)

    def where(self, _position: int) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Bundles:
    """Entry bundles (c2sp.org/tlog-tiles) in files, one after another: each entry follows its length, two bytes, big-endian."""

    first: int
    folder: Path
    names: Sequence[str]
    widths: Sequence[int]

    def read(self) -> Iterator[tuple[int, bytes]]:
        position = self.first
        for name, width in zip(self.names, self.widths, strict=True):
            data = (self.folder / name).read_bytes()
            for start, end in _spans(data, width, name):
                yield position, data[start:end]
                position += 1

    def where(self, position: int) -> str | None:
        before = self.first
        for name, width in zip(self.names, self.widths, strict=True):
            if position < before + width:
                spans = list(_spans((self.folder / name).read_bytes(), width, name))
                return f"{name} byte {spans[position - before][0]}"
            before += width
        return None


def _spans(data: bytes, width: int, name: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each entry of a bundle."""
    at = 0
    for _ in range(width):
        end = at + 2 + int.from_bytes(data[at : at + 2])
        if end > len(data) or at + 2 > len(data):
            raise Unreadable(f"{name} byte {at}", f"the bundle ends within an entry; {width} entries are expected in it")
        yield at + 2, end
        at = end
    if at != len(data):
        raise Unreadable(f"{name} byte {at}", f"the bundle goes on after its {width} entries")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines `<position>\\t<entry>\\n`, a stretch of a member of an archive."""

    path: Path
    name: str
    offset: int
    """Of the member's content in the archive."""
    start: int
    """Of this stretch in the content."""
    end: int

    def read(self) -> Iterator[tuple[int, bytes]]:
        return ((position, entry) for _, position, entry in self._lines())

    def where(self, position: int) -> str | None:
        return next((f"{self.name} byte {at}" for at, found, _ in self._lines() if found == position), None)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        with self.path.open("rb") as file:
            file.seek(self.offset + self.start)
            data = file.read(self.end - self.start)
        return read_lines(data, self.name, self.start)


def where(source: Source, position: int) -> str | None:
    """The file and the byte at which an event begins, when that can be told."""
    try:
        return source.where(position)
    except (Unreadable, OSError):
        return None


def read_lines(data: bytes, name: str, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """(byte, position, what stands beside it) of each line; positions ascend. Raises Unreadable."""
    before, at = 0, start
    for line in data.split(b"\n")[:-1] if data.endswith(b"\n") or not data else [data]:
        number, tab, rest = line.partition(b"\t")
        if not tab or not _POSITION.fullmatch(number) or int(number) <= before:
            raise Unreadable(f"{name} byte {at}", f"not a line of a position above {before}, a tab and what stands there")
        before = int(number)
        yield at, before, rest
        at += len(line) + 1
    if data and not data.endswith(b"\n"):
        raise Unreadable(f"{name} byte {start + len(data)}", "the last line has no end")



# -- topics: Topics: what an event is about, so that "everything about dataset X" is a set that can be counted, and nothing of it left out.

RULES: Final = 1
"""Counts the changes of these rules; a committed index says under which it was made."""
EMPTY_CHAIN: Final = bytes(32)
ALL: Final = "all"
UNKNOWN_LAW: Final = "jurisdiction:-"
MULTI: Final = "multi"
NOT_ASKED_FOR: Final = frozenset(
    {"action", "artifact", "key", "notification", "originator", "pack", "request", "reservation", "tool", "webhook"}
)
"""Categories of one event each, or of no interest to anybody who does not hold the event already."""
INHERITING: Final = frozenset({"approval", "delegation", "export"})
"""Categories whose first event says what it is about, while the later ones name only the stream."""
GOVERNED: Final = ("about:dataset:", "about:pipeline:")
"""What a jurisdiction is stated for."""
SELECTED: Final = (("datasets", "about:dataset:"), ("agents", "about:agent:"), ("actors", "actor:"), ("policies", "about:policy:"))
"""Members of a selection, and what makes topics of the names in them."""
NAMED_OTHERWISE: Final[Mapping[str, str]] = {
    "actors": "actor",
    "agents": "agent",
    "budgets": "budget",
    "datasets": "dataset",
    "inputs": "dataset",
    "outputs": "dataset",
    "path": "budget",
    "pipelines": "pipeline",
    "policies": "policy",
    "policy": "policy",
    "replaced_by": "dataset",
    "retire": "policy",
    "upstream_id": "dataset",
    "upstream_ids": "dataset",
    "upstreams_removed": "dataset",
}
"""Members that hold ids (a text, or a list of texts) and do not say so by `_id`: the category the ids are of."""
STATED_AT: Final = (
    ("jurisdiction",),
    ("profile", "jurisdiction"),
    ("snapshot", "profile", "jurisdiction"),
    ("inputs", "jurisdiction"),
    ("intent", "inputs", "jurisdiction"),
    ("question", "facts", "jurisdiction"),
    ("question", "facts", "becomes", "jurisdiction"),
    ("datasets", "jurisdiction"),
    ("intent", "inputs", "facts", "jurisdiction"),
)
"""Paths in `data`; a list on the way stands for each of its items."""
_SETTLED_AT: Final = (("profile", "jurisdiction"), ("snapshot", "profile", "jurisdiction"))
"""Where an entity's own events say what holds from now on."""
_WALKED: Final = frozenset({str, dict, list})
_ID: Final = re.compile(r"[!-~]{1,200}")
_ACTOR: Final = re.compile(r"(usr|agt|svc)-[a-z0-9][a-z0-9-]{0,60}")
_STREAM: Final = ":stream"
"""Stands for a category where a value is a stream, which names its own."""


def topics_of(body: Mapping[str, Any]) -> set[str]:
    """The topics that an event's body alone gives it."""
    stream, actor, data = body["stream"], body["actor"], body["data"]
    found = {ALL, f"actor:{actor}"}
    _add_actor(found, actor)
    _add_stream(found, stream)
    if f"about:{stream}" in found:
        found.add(f"stream:{stream}")
    _walk(found, data)
    for stated in _stated(data, STATED_AT):
        found.add(f"jurisdiction:{stated}")
    return found


class TopicFold:
    """The topics of one tenant's events, fed in order, with what later ones take from earlier ones.

    `memory` holds that between events: by stream, the texts it hands on. A caller with millions of streams gives a mapping
    that keeps them elsewhere; `recalls` says which of them an event will ask for.
    """

    def __init__(self, memory: MutableMapping[str, tuple[str, ...]] | None = None) -> None:
        self._memory: MutableMapping[str, tuple[str, ...]] = {} if memory is None else memory

    def topics(self, body: Mapping[str, Any], own: set[str] | None = None) -> set[str]:
        """All topics of the next event; `own` is `topics_of` it, if that is known already."""
        found = topics_of(body) if own is None else own
        stream: str = body["stream"]
        category = stream.partition(":")[0]
        if category in INHERITING:
            handed_on = self._memory.get(stream)
            if handed_on is None:
                handed_on = self._memory[stream] = tuple(sorted(topic for topic in found if topic.startswith("about:")))
            found.update(handed_on)
        for entity in list(governed(found)):
            found.update(f"jurisdiction:{law}" for law in self._memory.get(entity, ()))
        if f"about:{stream}".startswith(GOVERNED):
            settled = tuple(_stated(body["data"], _SETTLED_AT))
            if settled:
                self._memory[stream] = settled
        if not any(topic.startswith("jurisdiction:") and topic != f"jurisdiction:{MULTI}" for topic in found):
            found.add(UNKNOWN_LAW)
        return found


def recalls(stream: str, topics: Iterable[str]) -> Iterator[str]:
    """Keys of a fold's memory that an event of this stream, with these topics of its own, asks for."""
    if stream.partition(":")[0] in INHERITING:
        yield stream
    yield from governed(topics)


def governed(topics: Iterable[str]) -> Iterator[str]:
    """The datasets and pipelines among topics, as streams."""
    return (topic[len("about:") :] for topic in topics if topic.startswith(GOVERNED))


def topics_of_selection(selection: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What a selection is made of: events of any of the first topics and, when there are some, of any of the second as well."""
    base = [f"{prefix}{name}" for member, prefix in SELECTED for name in selection[member]]
    within = [f"jurisdiction:{law}" for law in selection["jurisdictions"]]
    return list(dict.fromkeys(base or [ALL])), list(dict.fromkeys([*within, UNKNOWN_LAW] if within else []))


def chain_step(chain: bytes, position: int, leaf: bytes) -> bytes:
    """The chain of a topic after one more event: SHA-256(chain || position as 8 bytes, big-endian || leaf)."""
    return sha256(b"%b%b%b" % (chain, position.to_bytes(8, "big"), leaf)).digest()


def index_entry(topic: str, count: int, chain: bytes) -> bytes:
    """A topic's entry in the index, whose tree is over the topics in the order of their bytes."""
    return json.dumps([topic, count, chain.hex()], ensure_ascii=False, separators=(",", ":")).encode()


def _add_stream(found: set[str], stream: str) -> None:
    """What a stream is about; nothing for what is no stream's name."""
    category, _, entity = stream.partition(":")
    if category.isalpha() and category not in NOT_ASKED_FOR and _ID.fullmatch(entity):
        found.add(f"about:{stream}")
    _add_actor(found, entity)


def _add_actor(found: set[str], text: str) -> None:
    if text[3:4] == "-" and _ACTOR.fullmatch(text):
        found.add(f"about:actor:{text}")
        if text.startswith("agt-"):
            found.add(f"about:agent:{text}")


def _walk(found: set[str], data: Any) -> None:
    """Adds what every text in JSON is about, by the name of the member it is a value of; a member's name can be an actor's id too.

    It sees every event of a ledger: hence plain loops, types compared rather than asked for, and no recursion.
    """
    waiting: list[tuple[str | None, Any]] = [(None, data)]
    while waiting:
        category, value = waiting.pop()
        kind = type(value)
        if kind is str:
            if value[3:4] == "-":
                _add_actor(found, value)
            if category is not None:
                _add_named(found, category, value)
        elif kind is dict:
            for name, inner in value.items():
                if name[3:4] == "-":
                    _add_actor(found, name)
                kind = type(inner)
                if kind in _WALKED:
                    waiting.append((_category(name), inner))
        elif kind is list:
            waiting.extend([(category, item) for item in value])


def _add_named(found: set[str], category: str, value: str) -> None:
    if category == _STREAM:
        _add_stream(found, value)
    elif _ID.fullmatch(value):
        found.add(f"about:{category}:{value}")


@lru_cache(maxsize=4096)
def _category(name: str) -> str | None:
    """What a member of this name holds ids of."""
    if name in ("stream", "about"):
        return _STREAM
    category = NAMED_OTHERWISE.get(name)
    if category is None and name.endswith(("_id", "_ids")):
        category = name.removesuffix("s").removesuffix("_id")
    return None if category in NOT_ASKED_FOR else category or None


def _stated(data: Any, paths: Iterable[tuple[str, ...]]) -> set[str]:
    """The jurisdictions that stand at these places."""
    found: set[str] = set()
    for path in paths:
        _add_stated(found, data, path, 0)
    return found


def _add_stated(found: set[str], value: Any, path: tuple[str, ...], at: int) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            _add_stated(found, item, path, at)
    elif at == len(path):
        if kind is str and _ID.fullmatch(value):
            found.add(value)
    elif kind is dict and path[at] in value:
        _add_stated(found, value[path[at]], path, at + 1)



# -- checking: Checks a stretch of the log, by itself: what it finds is put together with what others found of the stretches beside it.

StreamKey = tuple[bytes, bytes]
"""(tenant, stream), as they stand in a body"""


Caused = tuple[str, str]
"""(tenant, action id)"""


@dataclass(frozen=True, slots=True)
class Told:
    """What whoever checks a stretch is told beforehand."""

    ledger: str
    keys: Mapping[str, Key]
    full: bool = True
    """Signatures, keys and canonical form too; else the tree's leaves and the chains of the streams alone."""
    whole: bool = True
    """Every position is there, so a stream's versions have no gap."""
    topics: frozenset[str] = frozenset()
    """Topics of which it is to be told which events have them."""
    wanted: frozenset[int] = frozenset()
    """Positions whose bodies are wanted, if they are here."""


@dataclass(slots=True)
class Findings:
    """What a stretch of the log came to. It travels from process to process: hence lists of plain things."""

    positions: Sequence[int] = ()
    leaves: list[bytes] = field(default_factory=list)
    """The leaf hash of each position."""
    ids: list[bytes] = field(default_factory=list)
    """The event id of each position; empty where it could not be read."""
    firsts: dict[StreamKey, tuple[int, int, bytes]] = field(default_factory=dict)
    """Where each stream was picked up: position, version and `prev`."""
    lasts: dict[StreamKey, tuple[int, bytes]] = field(default_factory=dict)
    """Where each stream was left: version and leaf hash."""
    signatures: int = 0
    first_at: bytes = b""
    last_at: bytes = b""
    signed: list[tuple[str, int, int]] = field(default_factory=list)
    """(key id, from, to): runs of events by one key."""
    requests: list[tuple[int, str, str]] = field(default_factory=list)
    """(position, key id, nonce)"""
    claims: list[tuple[int, Caused, Fact]] = field(default_factory=list)
    """Facts in the name of somebody with a key of their own, each with the action that is said to have led to it."""
    led_to: list[tuple[Caused, set[Fact]]] = field(default_factory=list)
    """What the actions led to that were signed by whoever asked for them."""
    key_events: list[tuple[int, bytes]] = field(default_factory=list)
    """(position, entry)"""
    digests: dict[int, list[str]] = field(default_factory=dict)
    """Of withheld fields, by position."""
    named: dict[int, list[str]] = field(default_factory=dict)
    """What the data of those events names in its own members: the subject of each field is among it."""
    topics: dict[str, list[int]] = field(default_factory=dict)
    bodies: dict[int, Body] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check(source: Source, what: Told) -> Findings:
    """Reads and checks all entries of a source."""
    checker = _Checker(what)
    findings, positions = checker.findings, []
    see = checker.see if what.full else checker.glance
    try:
        for position, entry in source.read():
            leaf = sha256(b"\x00" + entry).digest()
            positions.append(position)
            findings.leaves.append(leaf)
            try:
                see(position, entry, leaf)
            except Bad as bad:
                findings.problems.append(Problem(position, bad.check, bad.found, where(source, position)))
    except Unreadable as error:
        findings.problems.append(Problem(None, "file", error.found, error.where))
    except OSError as error:
        findings.problems.append(Problem(None, "file", f"it cannot be read: {error}"))
    checker.end()
    consecutive = bool(positions) and positions[-1] - positions[0] == len(positions) - 1
    findings.positions = range(positions[0], positions[-1] + 1) if consecutive else positions
    return findings


def require_link(key: StreamKey, before: tuple[int, bytes], version: int, prev: bytes, *, whole: bool) -> None:
    """That an event of a stream follows the one before it, of that version and leaf hash; raises Bad.

    Where not every position is there, versions may be missing in between: then there is nothing to compare `prev` with.
    """
    last, leaf = before
    if version != last + 1:
        if whole or version <= last:
            missing = f"version {last + 1} of {shown(key[1])} is missing: " if version > last else ""
            raise Bad("stream", f"{missing}{shown(key[1])} goes from version {last} to {version}")
    elif prev != b2a_hex(leaf):
        raise Bad("chain", f"version {version} of {shown(key[1])} does not follow the event before it")


def shown(text: bytes) -> str:
    """Bytes of a body, for people."""
    return text.decode(errors="replace")


class _Checker:
    """Takes entries one by one, and keeps what has to be known from one to the next."""

    def __init__(self, what: Told) -> None:
        self._told, self._keys, self._requests = what, what.keys, Requests(what.keys)
        self._ledger = what.ledger.encode()
        self._asked_for_details = bool(what.topics or what.wanted or not what.whole)
        self._run = ("", 0, 0)
        self._before = self._at = 0
        self.findings = Findings()

    def see(self, position: int, entry: bytes, leaf: bytes) -> None:
        """Everything about one entry; raises Bad with the first thing that does not hold."""
        findings = self.findings
        findings.ids.append(b"")
        self._before, self._at = self._at, position
        body, signatures = open_entry(entry)
        actor, at, findings.ids[-1], key_id, ledger, prev, stream, tenant, kind, version = _SHAPES.head(body)
        earlier, findings.last_at = findings.last_at, at
        if stream == _KEY_STREAM or kind.startswith(_KEY_EVENT):
            findings.key_events.append((position, entry))
        if self._asked_for_details:
            self._note(position, body)
        self._chain((tenant, stream), position, int(version), prev, leaf)
        if ledger != self._ledger:
            raise Bad("ledger", f"it was signed for the ledger {shown(ledger)}")
        if at != earlier:
            _require_later(earlier, at)
            findings.first_at = findings.first_at or at
        if signatures[0][0] != key_id.decode():
            raise Bad("key", "the envelope's key is not the key that was signed")
        self._check_signatures(position, body, signatures, kind)
        holders = self._requests.holders
        of_holder = bool(holders) and f"{shown(tenant)}/{shown(actor)}" in holders
        if of_holder or (kind.startswith(_ACTION_EVENT) and b'"signature":' in body):
            self._check_request(position, read_body(body))

    def _check_request(self, position: int, member: Body) -> None:
        """An action is signed by whoever asked for it, where they have a key; a fact in their name is for an action to account for."""
        caused = (member["tenant"], member["causation"] or "")
        if not member["type"].startswith(ACTION_EVENT):
            if self._requests.asks(position, member):
                self.findings.claims.append((position, caused, (member["type"], member["stream"], member["version"])))
            return
        request = self._requests.check(position, member)
        if request is not None:
            self.findings.requests.append((position, *request))
            self.findings.led_to.append(((member["tenant"], member["stream"].partition(":")[2]), led_to(member)))

    def glance(self, position: int, entry: bytes, leaf: bytes) -> None:
        """The entry's place in the chain of its stream."""
        tenant, stream, version, prev = read_place(entry)
        if stream == _KEY_STREAM:
            self.findings.key_events.append((position, entry))
        if position in self._told.wanted:
            self.findings.bodies[position] = read_body(open_entry(entry)[0])
        self._chain((tenant, stream), position, version, prev, leaf)

    def end(self) -> None:
        """After the last entry."""
        if self._run[0]:
            self.findings.signed.append(self._run)

    def _chain(self, key: StreamKey, position: int, version: int, prev: bytes, leaf: bytes) -> None:
        lasts = self.findings.lasts
        before = lasts.get(key)
        lasts[key] = (version, leaf)
        if before is None:
            self.findings.firsts[key] = (position, version, prev)
        else:
            require_link(key, before, version, prev, whole=self._told.whole)

    def _check_signatures(self, position: int, body: bytes, signatures: Signatures, kind: bytes) -> None:
        """Every signature holds, and each is by a key that may sign this, here."""
        for key_id, signature in signatures:
            key = self._keys.get(key_id)
            if key is None or not key.first <= position <= key.last:
                raise Bad("key", f"{key_id[:16]} may not sign events at this position")
            if key.role != "service":
                _require_role(key, kind, beside=key_id != signatures[0][0])
            if len(signature) != SIGNATURE_BYTES:
                raise Bad("signature", f"that of key {key_id[:16]} has {len(signature)} bytes")
            try:
                crypto_sign_open(b"%b%b%d %b" % (signature, _SIGNED_HEAD, len(body), body), key.public)
            except CryptoError:
                raise Bad("signature", f"that of key {key_id[:16]} does not hold") from None
            self.findings.signatures += 1
            of, first, last = self._run
            if key_id == of and last == self._before:
                self._run = (of, first, position)
            else:
                self.end()
                self._run = (key_id, position, position)

    def _note(self, position: int, body: bytes) -> None:
        """What is asked for besides of a body that is known to be canonical."""
        findings, asked = self.findings, self._told
        if not asked.topics and position not in asked.wanted and body.startswith(_NO_DIGESTS):
            return
        member: Body = json.loads(body)
        if member["_sd"]:
            findings.digests[position] = member["_sd"]
            findings.named[position] = [value for value in member["data"].values() if type(value) is str]
        if position in asked.wanted:
            findings.bodies[position] = member
        for topic in asked.topics & topics_of(member) if asked.topics else ():
            findings.topics.setdefault(topic, []).append(position)


def _require_later(earlier: bytes, at: bytes) -> None:
    if not MOMENT.fullmatch(shown(at)):
        raise Bad("body", f"its time {shown(at[:40])!r} is not one in UTC with six digits")
    if at < earlier:
        raise Bad("time", f"{shown(at)} is before the event before it")


def _require_role(key: Key, kind: bytes, *, beside: bool) -> None:
    if key.role == "root" and kind != KEY_ADDED.encode():
        raise Bad("key", "the root key signs keys and nothing else")
    if key.role == "actor" and not beside:
        raise Bad("key", f"{key.key_id[:16]} is an actor's key, which signs beside the service's and not in its place")
    if key.role not in ("actor", "root"):
        raise Bad("key", f"{key.key_id[:16]} is a {key.role} key, which signs no events")


_KEY_STREAM: Final = KEY_STREAM[1].encode()
_KEY_EVENT: Final = KEY_EVENT.encode()
_ACTION_EVENT: Final = ACTION_EVENT.encode()
_SIGNED_HEAD: Final = b"DSSEv1 %d %b " % (len(EVENT_TYPE), EVENT_TYPE)
_NO_DIGESTS: Final = b'{"_sd":[],'
_SHAPES: Final = Shapes()
"""Of this process: what one stretch taught serves the next."""



# -- tree: The log's Merkle tree (RFC 6962) in tiles (c2sp.org/tlog-tiles): what proves that an event is in the log, and that the log only grew.

EMPTY_ROOT: Final = sha256(b"").digest()
HASH_BYTES: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_LEVEL: Final = 63
_PATH: Final = re.compile(r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?")

TileLevel = int | Literal["entries"]
ReadTile = Callable[[int, int, int], bytes]
"""(level, index, width) -> the tile's hashes, 32 * width bytes."""


class ProofError(ValueError):
    """A proof that does not hold, or a place that no tree has; it says which."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


# -- checking proofs


def check_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Raises ProofError unless `path` proves that the leaf hash stands at `index` (from 0) of the tree of `size` leaves with this root."""
    if not 0 <= index < size:
        raise ProofError(f"a tree of {size} has no leaf {index}")
    _require_hashes(leaf, *path, root)
    sides = list(_sides(index, size - 1))
    if len(path) != len(sides):
        raise ProofError(f"the path has {len(path)} hashes, that of leaf {index} of {size} has {len(sides)}")
    node = leaf
    for on_the_left, sibling in zip(sides, path, strict=True):
        node = node_hash(sibling, node) if on_the_left else node_hash(node, sibling)
    if node != root:
        raise ProofError(f"leaf {index} of {size} hashes to {node.hex()}, the root is {root.hex()}")


def check_consistency(old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Raises ProofError unless `path` proves that the tree of `new_size` begins with all of the tree of `old_size`, which is at least 1."""
    if not 1 <= old_size <= new_size:
        raise ProofError(f"a tree of {new_size} is not compared with one of {old_size}")
    if old_size == new_size:
        if path or old_root != new_root:
            raise ProofError(f"two trees of {old_size} are the same tree: an empty path, and one root")
        return
    _require_hashes(old_root, *path, new_root)
    # The climb begins at the last full subtree of the old tree. When that is the whole old tree, its root is not said again.
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    sides, climb = list(_sides(at, last)), path if at else (old_root, *path)
    if len(climb) != len(sides) + 1:
        raise ProofError(f"the path has {len(path)} hashes, that from {old_size} to {new_size} has {len(sides) + bool(at)}")
    old = new = climb[0]
    for on_the_left, sibling in zip(sides, climb[1:], strict=True):
        new = node_hash(sibling, new) if on_the_left else node_hash(new, sibling)
        old = node_hash(sibling, old) if on_the_left else old
    for size, found, root in ((old_size, old, old_root), (new_size, new, new_root)):
        if found != root:
            raise ProofError(f"the path leads to {found.hex()} at size {size}, the root is {root.hex()}")


def _sides(at: int, last: int) -> Iterator[bool]:
    """For each sibling on the way up from node `at` of a row that ends with node `last`: whether it stands on the left."""
    while last:
        on_the_left = at & 1 == 1 or at == last
        yield on_the_left
        while on_the_left and at and not at & 1:  # a last node without a sibling is its own parent
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1


def _require_hashes(*hashes: bytes) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise ProofError(f"a hash has {HASH_BYTES} bytes, this one {len(value)}")


# -- where tiles are


def tile_path(level: TileLevel, index: int, width: int = TILE_WIDTH) -> str:
    """`tile/0/x001/234`, `tile/1/000.p/17`, `tile/entries/000`. Raises ProofError for what is no tile."""
    if not (level == "entries" or 0 <= level <= MAX_LEVEL) or index < 0 or not 1 <= width <= TILE_WIDTH:
        raise ProofError(f"there is no tile of level {level}, index {index}, width {width}")
    digits = f"{index:d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *parents, last = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    place = "/".join([f"x{part}" for part in parents] + [last])
    return f"tile/{level}/{place}" + (f".p/{width}" if width < TILE_WIDTH else "")


def parse_tile_path(path: str) -> tuple[TileLevel, int, int]:
    """(level or "entries", index, width) of a tile's one path. Raises ProofError for any other text."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ProofError(f"{path!r} is not the path of a tile")
    level: TileLevel = "entries" if found["level"] == "entries" else int(found["level"])
    index, width = int(re.sub("[x/]", "", found["index"])), int(found["width"] or TILE_WIDTH)
    if tile_path(level, index, width) != path:
        raise ProofError(f"{path!r} is not how the path of a tile is written")
    return level, index, width


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes this tile has in a tree of that size: 256, fewer at the right edge, 0 beyond it."""
    return max(0, min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - (index << TILE_HEIGHT)))


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """(level, index, width) of every tile of a tree of that size, from the leaves up and from left to right."""
    level = 0
    while width := size >> TILE_HEIGHT * level:
        for index in range(-(-width // TILE_WIDTH)):
            yield level, index, tile_width(level, index, size)
        level += 1


# -- the tree of the tiles


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The Merkle tree hash over 1 to 256 hashes."""
    if not 1 <= len(hashes) <= TILE_WIDTH:
        raise ProofError(f"a tile has 1 to {TILE_WIDTH} hashes, not {len(hashes)}")
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return node_hash(subtree_root(hashes[:middle]), subtree_root(hashes[middle:]))


@lru_cache(maxsize=512)
def _rows(hashes: bytes) -> tuple[bytes, ...]:
    """A tile's nodes row by row: its hashes, their parents, and so on up; a node without its sibling has no parent here."""
    rows = [hashes]
    while len(rows[-1]) > HASH_BYTES:
        below = rows[-1]
        whole = len(below) // (2 * HASH_BYTES) * 2 * HASH_BYTES
        pairs = range(0, whole, 2 * HASH_BYTES)
        rows.append(b"".join([sha256(b"\x01" + below[start : start + 2 * HASH_BYTES]).digest() for start in pairs]))
    return tuple(rows)


class TileTree:
    """A tree of `size` leaves in tiles, each read once and, when it is full, compared with its hash in the tile above.

    The tiles at the right edge have nothing above them: `root()` is made of them. So whoever compares `root()` with a
    root that was signed knows that all that the tree returns, before or after, is of the signed tree.
    """

    def __init__(self, size: int, read: ReadTile) -> None:
        if size < 0:
            raise ProofError(f"a tree has no size {size}")
        self.size, self._read = size, read
        self._tiles: dict[tuple[int, int], bytes] = {}

    def root(self) -> bytes:
        """The tree's root, from its tiles."""
        return self._range(0, self.size) if self.size else EMPTY_ROOT

    def leaf(self, index: int) -> bytes:
        """The leaf hash at an index from 0."""
        self._require_leaf(index)
        return self._node(0, index)

    def inclusion(self, index: int) -> list[bytes]:
        """The hashes that lead from a leaf up to the root, the leaf's sibling first."""
        self._require_leaf(index)
        path, start, end = [], 0, self.size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old_size: int) -> list[bytes]:
        """The hashes that lead from the tree of the first `old_size` leaves to this one; none when there is nothing to lead from."""
        if not 0 <= old_size <= self.size:
            raise ProofError(f"a tree of {self.size} did not grow from one of {old_size}")
        path, start, end = [], 0, self.size
        while old_size not in (0, end):
            middle = start + _split(end - start)
            if old_size <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        if start:
            path.append(self._range(start, end))
        return path[::-1]

    def tile(self, level: int, index: int) -> bytes:
        """A tile's hashes."""
        known = self._tiles.get((level, index))
        if known is not None:
            return known
        width = tile_width(level, index, self.size)
        hashes = self._read(level, index, width)
        if not width or len(hashes) != width * HASH_BYTES:
            raise ProofError(f"tile {index} of level {level} has {len(hashes)} bytes, in a tree of {self.size} it has {width} hashes")
        if width == TILE_WIDTH and _rows(hashes)[-1] != self._hash(level + 1, index):
            raise ProofError(f"{tile_path(level, index)} does not hash to what the tile above it says")
        self._tiles[level, index] = hashes
        return hashes

    def _hash(self, level: int, index: int) -> bytes:
        start = index % TILE_WIDTH * HASH_BYTES
        return self.tile(level, index // TILE_WIDTH)[start : start + HASH_BYTES]

    def _node(self, height: int, index: int) -> bytes:
        """The root of the full subtree over the leaves [index << height, (index + 1) << height)."""
        level, row = divmod(height, TILE_HEIGHT)
        if row == 0:
            return self._hash(level, index)
        in_tile = TILE_WIDTH >> row
        start = index % in_tile * HASH_BYTES
        return _rows(self.tile(level, index // in_tile))[row][start : start + HASH_BYTES]

    def _range(self, start: int, end: int) -> bytes:
        """The Merkle tree hash of the leaves [start, end), where that is a node of some tree of this log."""
        count = end - start
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            return self._node(height, start >> height)
        middle = start + _split(count)
        return node_hash(self._range(start, middle), self._range(middle, end))

    def _require_leaf(self, index: int) -> None:
        if not 0 <= index < self.size:
            raise ProofError(f"a tree of {self.size} has no leaf {index}")


def _split(count: int) -> int:
    """Where RFC 6962 divides more than one leaf: the largest power of two below their number."""
    return 1 << ((count - 1).bit_length() - 1)



# -- notes: A note is text that several keys have signed: what the log says about itself, and what its witnesses say they saw.

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



# -- trust: What a verifier has to be told on another way than by those it verifies: a root key, and the witnesses one believes.

TRUST_FORMAT: Final = "aureus-trust/v1"
KEY_ID: Final = re.compile(r"[0-9a-f]{64}")
_MEMBERS: Final = {"format", "ledger", "root_keys", "witnesses", "witnesses_required"}


class BadTrust(ValueError):
    """A trust file that cannot be used; says which member, and what is needed."""


@dataclass(frozen=True, slots=True)
class Trust:
    """`aureus-trust/v1`. Whatever is left empty is taken from the ledger itself, and said to be."""

    ledger: str = ""
    root_keys: tuple[str, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    required: int = 0
    """How many of the witnesses must have cosigned."""

    @classmethod
    def parse(cls, document: bytes) -> Trust:
        """From a trust file; raises BadTrust."""
        try:
            said: Any = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise BadTrust(f"it is not JSON ({error})") from None
        if not isinstance(said, dict) or said.get("format") != TRUST_FORMAT or set(said) != _MEMBERS:
            raise BadTrust(f"an object of format {TRUST_FORMAT} is needed, with the members {', '.join(sorted(_MEMBERS))}")
        ledger, root_keys, required = said["ledger"], said["root_keys"], said["witnesses_required"]
        if not isinstance(ledger, str) or not ledger:
            raise BadTrust("ledger: the ledger's name is needed")
        if not isinstance(root_keys, list) or not root_keys or not all(isinstance(key, str) and KEY_ID.fullmatch(key) for key in root_keys):
            raise BadTrust("root_keys: a list of key ids of 64 hex digits is needed, at least one")
        try:
            witnesses = tuple(VerifierKey.parse(text) for text in said["witnesses"])
        except (BadNote, TypeError, AttributeError) as error:
            raise BadTrust(f"witnesses: a list of verifier keys is needed ({error})") from None
        if any(witness.kind != WITNESS for witness in witnesses):
            raise BadTrust("witnesses: a key that cosigns is of kind 4")
        if len({witness.public for witness in witnesses}) != len(witnesses):
            raise BadTrust("witnesses: one key stands twice, and counts once")
        if type(required) is not int or not 0 <= required <= len(witnesses):
            raise BadTrust(f"witnesses_required: a number from 0 to {len(witnesses)} is needed, as many as there are witnesses")
        return cls(ledger, tuple(root_keys), witnesses, required)

    def document(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {
            "format": TRUST_FORMAT,
            "ledger": self.ledger,
            "root_keys": list(self.root_keys),
            "witnesses": [witness.text() for witness in self.witnesses],
            "witnesses_required": self.required,
        }



# -- checkpoints: Checkpoints: what the log signed about itself, by which key, who else saw it, and the tree that must come to the same root.

TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES


class GrownTree:
    """The tree of leaves as they come in, kept in tiles: 32 bytes a leaf, and a little more."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def add(self, leaves: Sequence[bytes]) -> None:
        self._levels[0] += b"".join(leaves)
        level = 0
        while len(self._levels[level]) >= TILE_BYTES:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            full, above = len(self._levels[level]) // TILE_BYTES, self._levels[level + 1]
            for index in range(len(above) // HASH_BYTES, full):
                above += _tile_root(self.tile(level, index, TILE_WIDTH))
            level += 1

    def tile(self, level: int, index: int, width: int) -> bytes:
        """The hashes of a tile; fewer than asked for where the tree has no more."""
        start = index * TILE_BYTES
        return bytes(self._levels[level][start : start + width * HASH_BYTES]) if level < len(self._levels) else b""

    def root(self, size: int | None = None) -> bytes:
        """The root of the whole tree, or of its first `size` leaves."""
        return TileTree(self.size if size is None else size, self.tile).root()


def _tile_root(hashes: bytes) -> bytes:
    """The root of a full tile: every hash of a log passes here, eight rows of pairs."""
    while len(hashes) > HASH_BYTES:
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 64)])
    return hashes


def read_checkpoint(note: bytes | None, ledger: str, ring: KeyRing, result: Result) -> tuple[Note, CheckpointText] | None:
    """The checkpoint, when the ledger's log key of that time signed it; what is wrong with it goes to the result."""
    if note is None:
        result.problem("checkpoint", "there is none")
        return None
    try:
        opened = parse_note(note)
        said = parse_checkpoint(opened.text)
        by = next((key for key in ring.of_role("log") if log_signed(opened, VerifierKey(ledger, LOG, key.public))), None)
    except BadNote as error:
        result.problem("checkpoint", str(error))
        return None
    if said.origin != ledger:
        result.problem("checkpoint", f"it is one of {said.origin!r}, and the ledger is {ledger!r}")
    elif by is None:
        result.problem("checkpoint", f"no log key of {ledger} that its key stream names signed the checkpoint of {said.size}")
    elif not by.signs_at(said.size):
        result.problem("checkpoint", f"log key {by.key_id[:16]} signed it, which may not sign a checkpoint of {said.size}")
    else:
        return opened, said
    return None


def check_cosignatures(opened: Note, said: CheckpointText, trust: Trust, ring: KeyRing, result: Result) -> None:
    """Who else saw the checkpoint, of the witnesses one trusts; else of those the ledger names."""
    named = tuple(VerifierKey(key.holder or "", WITNESS, key.public) for key in ring.of_role("witness") if key.signs_at(said.size))
    for witness in trust.witnesses or named:
        try:
            at = cosigned_at(opened, witness)
        except BadNote as error:
            result.problem("witness", str(error))
            continue
        if at is not None:
            result.cosigned.append(Cosigned.of(witness.name, at))
    if len(result.cosigned) < trust.required:
        result.problem("witness", f"{len(result.cosigned)} of the witnesses cosigned it, and {trust.required} are required")
    if not result.cosigned:
        unknown = sorted({signature.name for signature in opened.signatures} - {said.origin})
        others = f"It bears signatures of {', '.join(unknown)}, and nobody said that you trust them. " if unknown else ""
        result.warnings.append(others + NO_WITNESS)
    elif not trust.witnesses:
        result.warnings.append("The witnesses' keys were taken from the ledger itself: compare them with what the witnesses publish.")


def warn_of_root(trust: Trust, result: Result) -> None:
    """Where nobody said which root key is trusted, the ledger's own word was taken."""
    if not trust.root_keys and result.root_key:
        result.warnings.append(
            f"The root key {result.root_key} was taken from the ledger itself: compare it with one you were given elsewhere."
        )


def whose_word(said: CheckpointText, ring: KeyRing) -> str:
    """What has to be known of a checkpoint whose log key was in other hands by then; nothing of any other."""
    for key in ring.of_role("log"):
        if said.size in key.disputed() and key.signs_at(said.size):
            since = f"the log key was in other hands since position {key.compromised_since}"
            return f" ({since}: it is the log's word only if a witness cosigned it)"
    return ""


def encoded(root: bytes) -> str:
    return base64.b64encode(root).decode()



# -- manifest: A pack's manifest: an in-toto statement, signed by the ledger's service key, of what the pack holds and what it claims to be.

MANIFEST: Final = "manifest.json"
PACK_FORMAT: Final = "aureus-pack/v1"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://aureus.example/export/v1"

_STANDING: Final = {"topic": str, "count": int, "chain": str, "index": int, "path": [str]}
_ABSENT: Final = {"topic": str, "absent": bool, "before": (_STANDING, None), "after": (_STANDING, None)}
_SHAPE: Final = {
    "format": str,
    "ledger": str,
    "tenant": str,
    "export_id": str,
    "recipient": str,
    "created_at": str,
    "software": str,
    "scope": str,
    "selection": {
        "datasets": [str],
        "agents": [str],
        "actors": [str],
        "policies": [str],
        "jurisdictions": [str],
        "from": (str, None),
        "to": (str, None),
    },
    "range": {"after": int, "until": int},
    "profile": {"name": str, "disclose": [str], "withhold_types": [str]},
    "checkpoint": {"size": int, "root": str},
    "counts": {"entries": int, "keys": int, "withheld_entries": int, "other_jurisdiction": int, "outside_period": int},
    "accounted_after": (int, None),
    "withheld": [int],
    "fences": {"before": (int, None), "after": (int, None)},
    "index": (None, {"position": int, "size": int, "topics_count": int, "topics": [(_STANDING, _ABSENT)]}),
    "views": [str],
}
"""What a predicate is made of: types, lists of one shape, alternatives."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says; whether that is so is another question."""

    subjects: Mapping[str, str]
    """SHA-256 (hex) of each member, in order."""
    predicate: Mapping[str, Any]
    key_id: str
    payload: bytes
    signature: bytes

    @property
    def everything(self) -> bool:
        return bool(self.predicate["scope"] == "everything")

    @property
    def after(self) -> int:
        return int(self.predicate["range"]["after"])

    @property
    def until(self) -> int:
        return int(self.predicate["range"]["until"])

    @property
    def fences(self) -> set[int]:
        """Positions of the events next to the period, on either side."""
        return {position for position in self.predicate["fences"].values() if position is not None}


def read_manifest(document: bytes) -> Manifest:
    """The manifest in its envelope; raises Bad."""
    try:
        envelope = canonical_object(document)
        if set(envelope) != {"payload", "payloadType", "signatures"} or envelope["payloadType"] != _PAYLOAD_TYPE:
            raise Bad("manifest", "it is not a DSSE envelope of an in-toto statement")
        payload, signatures = open_signed(envelope)
        statement = canonical_object(payload)
    except NotCanonical as error:
        raise Bad("manifest", str(error)) from None
    except Bad as bad:
        raise Bad("manifest", bad.found) from None
    if set(statement) != {"_type", "subject", "predicateType", "predicate"} or len(signatures) != 1:
        raise Bad("manifest", "it is not a statement with one signature")
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise Bad("manifest", f"it is a statement of another type: {statement['predicateType']!r}")
    if type(statement["predicate"]) is dict:
        statement["predicate"].setdefault("accounted_after", None)  # packs of before decoys were kept say nothing of it
    if not _fits(statement["subject"], [{"digest": {"sha256": str}, "name": str}]) or not _fits(statement["predicate"], _SHAPE):
        raise Bad("manifest", f"its members are not those of {PACK_FORMAT}")
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    (key_id, signature), predicate = signatures[0], statement["predicate"]
    if len(subjects) != len(statement["subject"]):
        raise Bad("manifest", "it names a member twice")
    _require_sense(predicate)
    return Manifest(subjects, predicate, key_id, payload, signature)


def require_signed(manifest: Manifest, ring: KeyRing) -> None:
    """By a service key that was in force when the checkpoint was signed; raises Bad."""
    size, key = manifest.predicate["checkpoint"]["size"], ring.keys.get(manifest.key_id)
    # A key that came in with the checkpoint's last event is the one in force from there on.
    if key is None or key.role != "service" or not (key.signs_at(size) or key.signs_at(size + 1)):
        raise Bad("manifest", f"{manifest.key_id[:16]} signed it, which is not a service key in force at {size}")
    if not holds(key.public, signed_text(_PAYLOAD_TYPE.encode(), manifest.payload), manifest.signature):
        raise Bad("manifest", f"the signature of {manifest.key_id[:16]} does not hold")


def _require_sense(predicate: Mapping[str, Any]) -> None:
    """What every reader would stumble over; raises Bad."""
    size, after, until = predicate["checkpoint"]["size"], predicate["range"]["after"], predicate["range"]["until"]
    index, withheld, period = predicate["index"], predicate["withheld"], predicate["selection"]
    horizon = size if index is None else index["size"]
    if predicate["format"] != PACK_FORMAT:
        raise Bad("manifest", f"its format is {predicate['format']!r}, and this program knows {PACK_FORMAT}")
    if predicate["scope"] not in ("everything", "selection") or (predicate["scope"] == "everything") != (index is None):
        raise Bad("manifest", "a selection has an index, and everything has none")
    if not 0 <= after <= until <= horizon <= size:
        raise Bad("manifest", f"its range ({after}, {until}] does not lie within {horizon} of {size} positions")
    if withheld != sorted(set(withheld)) or any(not 1 <= position <= size for position in withheld):
        raise Bad("manifest", "the positions it withholds are not ascending positions of this log")
    if any(moment is not None and not MOMENT.fullmatch(moment) for moment in (period["from"], period["to"])):
        raise Bad("manifest", "its period is not told in UTC with six digits")


def _fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value is made as a shape says."""
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if isinstance(shape, list):
        return type(value) is list and all(_fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return type(value) is dict and value.keys() == shape.keys() and all(_fits(value[name], shape[name]) for name in shape)
    return value is None if shape is None else type(value) is shape



# -- completeness: Whether a pack leaves anything out: what was asked for, counted and chained again, and compared with what the ledger committed to.

INDEX_EVENT: Final = "exports.index_committed"
MISSING: Final = "missing"
_HASH: Final = re.compile("[0-9a-f]{64}")
Standing = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a pack's completeness, and at which position, if at one."""

    check: str
    found: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Included:
    """What stands in the pack: positions of entries, of key events, the bodies of the fences and of the period's ends."""

    entries: Sequence[int]
    keys: Sequence[int]
    bodies: Mapping[int, Body]
    topics: Mapping[str, Sequence[int]]
    """By topic of the selection: the positions of entries that are of it by their bodies alone."""


def ends(manifest: Manifest, topics: Topics | None, keys: Collection[int]) -> set[int]:
    """Positions whose times show where the period begins and ends: the fences, and the first and the last entry in range."""
    elsewhere = set(manifest.predicate["withheld"]).union(keys)
    span = range(manifest.after + 1, manifest.until + 1)
    if topics is None or not topics.told:
        first = next((position for position in span if position not in elsewhere), None)
        last = next((position for position in reversed(span) if position not in elsewhere), None)
    else:
        there = [position for position in topics.selected() if position in span and position not in elsewhere]
        first, last = min(there, default=None), max(there, default=None)
    return {position for position in (*manifest.fences, first, last) if position is not None}


# -- everything


def all_of(manifest: Manifest, included: Included) -> Iterator[Finding]:
    """Every position in range is there, or named as withheld; and the range is that of the period."""
    size, after, until = manifest.predicate["checkpoint"]["size"], manifest.after, manifest.until
    fences = {"before": after or None, "after": until + 1 if until < size else None}
    if manifest.predicate["fences"] != fences:
        yield Finding("period", f"the events next to its range are {_told(fences)}, and it names {_told(manifest.predicate['fences'])}")
    yield from _period(manifest, included.bodies, before=bool(after), after=until < size)
    yield from _counted(manifest, included, {"other_jurisdiction": 0, "outside_period": size - (until - after)})
    there = sorted({*manifest.predicate["withheld"], *included.entries, *included.keys})
    expected = after + 1 if fences["before"] is None else after
    last = until if fences["after"] is None else until + 1
    for position in [*there[bisect_left(there, expected) : bisect_left(there, last + 1)], last + 1]:
        for missing in range(expected, position):
            yield Finding(MISSING, f"position {missing} is missing", missing)
        expected = position + 1
    span = range(after, until + 2)
    yield from _unasked(manifest, included, {position for position in there if position in span})


# -- a selection


class Topics:
    """The rows of the topics that a selection is made of, each chained again."""

    def __init__(self, manifest: Manifest, committed: tuple[int, Body], rows: Callable[[int], tuple[str, bytes]]) -> None:
        """`committed` is the event (position, body) that holds the index; `rows` gives name and content of a topic's file, by number."""
        self._manifest, self._index, self._rows = manifest, manifest.predicate["index"], rows
        self._position, self._committed = committed
        self.base, self.within = topics_of_selection(manifest.predicate["selection"])
        self.positions: dict[str, array[int]] = {}
        self.leaves: dict[int, bytes] = {}
        """Leaf hashes as the rows have them."""

    def _check_committed(self) -> Iterator[Finding]:
        """The event is the index that the manifest speaks of."""
        member, index = self._committed, self._index
        data, tenant = member["data"], self._manifest.predicate["tenant"]
        said = (member["tenant"], member["stream"], member["type"], self._position)
        if said != (tenant, f"index:{tenant}", INDEX_EVENT, index["position"]):
            yield Finding("index", f"it is {member['type']} of {member['stream']}, not an index of {tenant}", self._position)
        elif not isinstance(data.get("root"), str) or not _HASH.fullmatch(data["root"]):
            yield Finding("index", "the root it commits is not a hash", self._position)
        elif (data.get("size"), data.get("topics")) != (index["size"], index["topics_count"]) or index["size"] >= self._position:
            said_here = f"{data.get('topics')} topics at {data.get('size')}"
            found = f"it commits {said_here}, and the manifest says {index['topics_count']} at {index['size']}"
            yield Finding("index", found, self._position)

    def check_keys(self, keys: Sequence[int], leaf_of: Callable[[int], bytes]) -> Iterator[Finding]:
        """The key stream in the pack, whose positions these are, reaches as far as it did when the index was committed."""
        data, known = self._committed["data"], bisect_left(keys, self._index["size"] + 1)
        head = (known, leaf_of(keys[known - 1]).hex() if known else "")
        if (data.get("keys_version"), data.get("keys_leaf")) != head:
            found = f"the key stream had {data.get('keys_version')} events when the index was committed, and {known} of them are here"
            yield Finding(MISSING, found)

    def check(self) -> Iterator[Finding]:
        """Each topic's rows come to what was committed, or the topic is shown not to be there."""
        bad = list(self._check_committed())
        if bad:
            yield from bad
            return
        wanted = [*self.base, *self.within]
        if [standing["topic"] for standing in self._index["topics"]] != wanted:
            yield Finding("index", f"the selection is made of the topics {', '.join(wanted)}, and the manifest tells of others")
            return
        for number, standing in enumerate(self._index["topics"]):
            topic = standing["topic"]
            try:
                count, chain = self._read(number, topic)
                if "absent" in standing:
                    self._require_absent(standing, count)
                else:
                    self._require_standing(standing, count, chain)
            except (Unreadable, ProofError, ValueError) as error:
                yield Finding("index", f"{topic}: {error}")
                self.positions.setdefault(topic, array("Q"))

    @property
    def told(self) -> bool:
        """Whether the rows of every topic of the selection were there to be read."""
        return self.positions.keys() == {*self.base, *self.within}

    def selected(self) -> set[int]:
        """All positions that the selection is made of, whatever the period."""
        return self._of(self.base) & self._of(self.within) if self.within else self._of(self.base)

    def elsewhere(self) -> int:
        """How many events of the first topics stand under other laws."""
        return len(self._of(self.base)) - len(self.selected())

    def _of(self, topics: Iterable[str]) -> set[int]:
        return {position for topic in topics for position in self.positions[topic]}

    def _read(self, number: int, topic: str) -> tuple[int, bytes]:
        """(count, chain) of a topic's rows."""
        name, content = self._rows(number)
        positions, chain, size = array("Q"), EMPTY_CHAIN, self._index["size"]
        for at, position, text in read_lines(content, name):
            leaf = bytes.fromhex(text.decode("ascii"))
            if len(text) != 64 or text.lower() != text or position > size:
                raise Unreadable(f"{name} byte {at}", "not a position of the index and a leaf hash in hex")
            if self.leaves.setdefault(position, leaf) != leaf:
                raise Unreadable(f"{name} byte {at}", f"another leaf at position {position} than another topic has")
            positions.append(position)
            chain = chain_step(chain, position, leaf)
        self.positions[topic] = positions
        return len(positions), chain

    def _require_standing(self, standing: Standing, count: int, chain: bytes) -> None:
        if (standing["count"], standing["chain"]) != (count, chain.hex()):
            raise ProofError(f"its {count} rows do not come to the {standing['count']} events that were committed")
        self._require_in_index(standing)

    def _require_in_index(self, standing: Standing) -> None:
        leaf = leaf_hash(index_entry(standing["topic"], standing["count"], bytes.fromhex(standing["chain"])))
        path = [bytes.fromhex(value) for value in standing["path"]]
        check_inclusion(standing["index"], self._index["topics_count"], leaf, path, bytes.fromhex(self._committed["data"]["root"]))

    def _require_absent(self, standing: Standing, count: int) -> None:
        """It would stand between two neighbours, or at an end, or there is no topic at all."""
        before, after, topics = standing["before"], standing["after"], self._index["topics_count"]
        topic, place = standing["topic"].encode(), (-1 if before is None else before["index"])
        for neighbour in (before, after):
            if neighbour is not None:
                self._require_in_index(neighbour)
        if count or standing["absent"] is not True:
            raise ProofError("it has rows, and is said not to be there")
        if (before and before["topic"].encode() >= topic) or (after and after["topic"].encode() <= topic):
            raise ProofError("it would not stand between the neighbours that are shown")
        if place + 1 != (topics if after is None else after["index"]):
            raise ProofError("the topics shown beside it are not neighbours in the index")
        if not topics and self._committed["data"]["root"] != EMPTY_ROOT.hex():
            raise ProofError("the index is not empty")


def selection_of(manifest: Manifest, topics: Topics, included: Included) -> Iterator[Finding]:
    """Every selected position in range is there, or named as withheld; and the range is that of the period."""
    selected = sorted(topics.selected())
    first, last = bisect_left(selected, manifest.after + 1), bisect_left(selected, manifest.until + 1)
    before, after = selected[first - 1] if first else None, selected[last] if last < len(selected) else None
    fences = {"before": before, "after": after}
    if manifest.predicate["fences"] != fences:
        yield Finding("period", f"the selected events next to it are {_told(fences)}, and it names {_told(manifest.predicate['fences'])}")
    wanted = set(selected[first:last]) | {position for position in fences.values() if position is not None}
    yield from _period(manifest, included.bodies, before=before is not None, after=after is not None)
    outside = {"other_jurisdiction": topics.elsewhere(), "outside_period": len(selected) - (last - first)}
    yield from _counted(manifest, included, outside)
    for position in sorted(wanted.difference(manifest.predicate["withheld"], included.entries, included.keys)):
        yield Finding(MISSING, f"position {position}, an event of {' or '.join(topics.base)}, is missing", position)
    yield from _unasked(manifest, included, wanted)
    for topic, positions in included.topics.items():
        left_out = set(positions).difference(topics.positions[topic])
        for position in sorted(position for position in left_out if position <= manifest.predicate["index"]["size"]):
            yield Finding("index", f"its body makes it an event of {topic}, and the committed index leaves it out", position)


# -- both


def _unasked(manifest: Manifest, included: Included, wanted: Collection[int]) -> Iterator[Finding]:
    """No entry stands there that is not wanted, and none that is said to be withheld."""
    withheld = set(manifest.predicate["withheld"])
    for position in sorted(withheld.union(included.entries).difference(wanted)):
        yield Finding("selection", "it is not part of what was selected", position)
    for position in sorted(withheld.intersection(included.entries)):
        yield Finding("selection", "it is there, and said to be withheld", position)


def _counted(manifest: Manifest, included: Included, outside: Mapping[str, int]) -> Iterator[Finding]:
    withheld = len(manifest.predicate["withheld"])
    found = {"entries": len(included.entries), "keys": len(included.keys), "withheld_entries": withheld, **outside}
    if manifest.predicate["counts"] != found:
        yield Finding("manifest", f"it counts {_told(manifest.predicate['counts'])}, and there are {_told(found)}")


def _period(manifest: Manifest, bodies: Mapping[int, Body], *, before: bool, after: bool) -> Iterator[Finding]:
    """at(before) < from <= at(in range) < to <= at(after): where the period ends is shown by the events next to it."""
    selection, fences = manifest.predicate["selection"], manifest.predicate["fences"]
    start, end = selection["from"], selection["to"]
    if (before and start is None) or (after and end is None):
        yield Finding("period", "it leaves events out before or after its range, and states no time at which the period begins or ends")
    for position, body in bodies.items():
        at = body["at"]
        if position == fences["before"]:
            holds = start is None or at < start
        elif position == fences["after"]:
            holds = end is None or at >= end
        else:
            holds = not manifest.after < position <= manifest.until or ((start is None or at >= start) and (end is None or at < end))
        if not holds:
            yield Finding("period", f"it is of {at}, and the period is from {start or 'the beginning'} to {end or 'the end'}", position)


def withheld_fences(manifest: Manifest) -> Collection[int]:
    """Fences that cannot be looked at, for the profile withholds them."""
    return manifest.fences.intersection(manifest.predicate["withheld"])


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'none' if value is None else value}" for name, value in values.items())



# -- fields: Personal fields beside the events: opened by what hashes to a signed digest, or named as withheld, or as erased.

ERASED: Final = "subjects.subject_erased"
ERASER: Final = "svc-reactions"
"""Who certifies an erasure: the ledger takes the word of nobody else."""
_DECOY: Final = re.compile(r"_decoy[0-9]+")
_STATES: Final = {"open": {"disclosure", "name"}, "withheld": {"name"}, "erased": {"certificate"}}
_ALWAYS: Final = {"digest", "position", "state"}


@dataclass(frozen=True, slots=True)
class Fields:
    """What the events of a pack say of personal fields, by position."""

    tenant: str
    digests: Mapping[int, list[str]]
    named: Mapping[int, list[str]]
    """The texts in an event's data: the subject of each of its fields is among them."""
    certificates: Mapping[int, Body]
    """The events that `certificates.tsv` holds, every one of them in the tree."""
    accounted_after: int | None
    """Behind this position decoys are kept like values, so what is told of nowhere is missing; None where that was not so yet."""

    def counted(self, position: int) -> bool:
        return self.accounted_after is not None and position > self.accounted_after


def check_fields(pieces: Iterable[bytes], name: str, fields: Fields, counts: dict[str, int]) -> Iterator[Problem]:
    """Checks the lines of `disclosures.jsonl` against the digests in the events; `counts` is kept by state."""
    seen: set[tuple[int, str]] = set()
    for at, line in _lines(pieces):
        try:
            said = canonical_object(line)
            place = (said.get("position"), said.get("digest"))
            state = _require(said, place, fields, seen)
            counts[state] += 1
            seen.add((said["position"], said["digest"]))
        except (NotCanonical, ValueError, TypeError) as error:
            yield Problem(None, "disclosure", str(error), f"{name} byte {at}")
    for position, digests in fields.digests.items():
        for digest in digests:
            if (position, digest) in seen:
                continue
            counts["missing" if fields.counted(position) else "untold"] += 1
            if fields.counted(position):
                found = f"the value of the digest {digest} is gone, and no certificate says that it was erased"
                yield Problem(position, "field", found, name)


def _lines(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(byte, line) of each line; what comes after the last line feed counts as a line."""
    at, rest = 0, b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield at, line
            at += len(line) + 1
    if rest:
        yield at, rest


def _require(said: Mapping[str, Any], place: tuple[Any, Any], fields: Fields, seen: set[tuple[int, str]]) -> str:
    """The state of a field; raises ValueError."""
    state = said.get("state")
    if not isinstance(state, str) or state not in _STATES or set(said) != _ALWAYS | _STATES[state]:
        raise ValueError("not a field that is open, withheld or erased")
    if type(place[0]) is not int or place[1] not in fields.digests.get(place[0], ()):
        raise ValueError(f"no event of this pack at position {place[0]} holds the digest {place[1]}")
    if place in seen:
        raise ValueError(f"the digest {place[1]} of position {place[0]} stands twice")
    if state == "erased":
        _require_certified(place[0], said["certificate"], fields)
    if state == "open":
        value = _require_opens(said)
        return "decoy" if value is None and _DECOY.fullmatch(said["name"]) else state
    return state


def _require_certified(position: int, certificate: Any, fields: Fields) -> None:
    """That an event of the ledger certifies it: of this very subject, up to this position or further."""
    body = fields.certificates.get(certificate) if type(certificate) is int else None
    if body is None or certificate <= position or (body["type"], body["tenant"], body["actor"]) != (ERASED, fields.tenant, ERASER):
        raise ValueError(f"the field of position {position} is said to be erased without a certificate in this pack")
    subject, until = body["data"].get("subject_id"), body["data"].get("until")
    if subject not in fields.named.get(position, ()):
        raise ValueError(f"the certificate at position {certificate} is of {subject!r}, of whom position {position} does not speak")
    if type(until) is not int or position > until:
        raise ValueError(f"the certificate at position {certificate} covers events up to {until}, and not position {position}")


def _require_opens(said: Mapping[str, Any]) -> Any:
    """The value that is shown; raises ValueError when it is not the one that was signed."""
    encoded = str(said["disclosure"])
    digest = urlsafe_b64encode(sha256(encoded.encode()).digest()).rstrip(b"=").decode()
    if digest != said["digest"]:
        raise ValueError(f"what is disclosed at position {said['position']} is not what was signed: it has the digest {digest}")
    try:
        salt, name, value = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ValueError(f"the disclosure at position {said['position']} cannot be read") from None
    if not isinstance(salt, str) or name != said["name"]:
        raise ValueError(f"the disclosure at position {said['position']} is of the field {name!r}, not of {said['name']!r}")
    return value



# -- workers: Several processes that check stretches of the log at the same time, and answer in the order they were asked.

class Workers:
    """So many processes; with one, it is this one.

    What is made here are trees of texts and numbers, never rings: looking for rings would take a tenth of the time, so nobody does.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        # Started afresh, not forked: whoever verifies may have threads, and this has to do the same everywhere.
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), gc.disable) if processes > 1 else None

    def ask(self, source: Source, told: Told) -> Future[Findings]:
        if self._pool is not None:
            return self._pool.submit(check, source, told)
        answer: Future[Findings] = Future()
        answer.set_result(check(source, told))
        return answer

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        self._collecting = gc.isenabled()
        gc.disable()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._collecting:
            gc.enable()
        self.close()



# -- log: The log: stretches of it that were checked by themselves, put together with all that links them.

AHEAD: Final = 2
"""Stretches that wait for each process."""

NO_EVENT: Final = (0, b"")
"""(version, leaf hash) of a stream before its first event."""
OnFindings = Callable[[Findings], None]


class Log:
    """Takes the stretches of a log in order, and keeps what has to be known from one to the next.

    `told` says what is looked at. The keys in it are those known so far: a stretch under which more come to light, and those that
    were checked ahead of it, are checked again.
    """

    def __init__(self, result: Result, ring: KeyRing, workers: Workers, told: Told) -> None:
        self.result, self.ring, self.told = result, ring, told
        self._workers = workers
        self.positions = array("Q")
        self._sources: list[tuple[int, Source]] = []
        """Each stretch that lies in a file, by its last position."""
        self._last = 0
        self._last_at = b""
        self._heads: dict[StreamKey, tuple[int, bytes]] = {}
        self._ids: set[bytes] = set()
        self._nonces: set[tuple[str, str]] = set()
        self._signed: list[tuple[str, int, int]] = []
        self._claims: dict[Caused, list[tuple[int, Fact]]] = {}
        """Facts in the name of those who sign what they ask, which no action accounts for yet."""

    @property
    def tenants(self) -> set[str]:
        """Whose events there were."""
        return {shown(tenant) for tenant, _ in self._heads}

    def call(self, ledger: str) -> None:
        """Says whose log this is."""
        self.told = replace(self.told, ledger=ledger)

    def where(self, position: int) -> str | None:
        """The file and the byte at which an event begins, for people."""
        stretch = bisect_left(self._sources, position, key=lambda one: one[0])
        return where(self._sources[stretch][1], position) if stretch < len(self._sources) else None

    def take(self, sources: Iterable[Source], on_findings: OnFindings) -> None:
        """The next stretches; `on_findings` is shown what each came to, in order."""
        waiting: deque[tuple[Source, Told, Future[Findings]]] = deque()
        for source in sources:
            waiting.append((source, self.told, self._workers.ask(source, self.told)))
            if not self.told.keys or len(waiting) >= AHEAD * self._workers.processes:
                on_findings(self._settle(*waiting.popleft()))
        while waiting:
            on_findings(self._settle(*waiting.popleft()))

    def finish(self) -> None:
        """Counts, once everything was taken."""
        result = self.result
        for claims in self._claims.values():
            for position, fact in claims:
                result.add(_never_asked(position, fact))
        result.streams += len(self._heads)
        result.keys, result.root_key = len(self.ring.keys), self.ring.root
        disputed = {position for key_id, first, last in self._signed for position in self._disputed(key_id, first, last)}
        result.disputed = sorted(disputed.union(result.disputed))

    def _settle(self, source: Source, told: Told, answer: Future[Findings]) -> Findings:
        findings = answer.result()
        if told is not self.told:
            findings = self._workers.ask(source, self.told).result()
        if self._learn(findings.key_events, source):
            findings = self._workers.ask(source, self.told).result()
        self._put_together(findings, source)
        return findings

    def _learn(self, key_events: Iterable[tuple[int, bytes]], source: Source) -> bool:
        """Whether the keys are other ones after these events."""
        before = dict(self.ring.keys)
        for position, entry in key_events:
            try:
                body, signatures = open_entry(entry)
                self.ring.learn(position, body, read_body(body), signatures)
            except Bad as bad:
                self.result.add(Problem(position, bad.check, bad.found, where(source, position)))
        if self.ring.keys == before:
            return False
        self.told = replace(self.told, keys=dict(self.ring.keys))
        return True

    def _put_together(self, findings: Findings, source: Source) -> None:
        result = self.result
        found = {problem.position for problem in [*findings.problems, *result.problems]}
        beside = [problem for problem in self._beside(findings) if problem.position not in found]  # the first of an event will do
        for problem in sorted([*findings.problems, *beside], key=lambda problem: (problem.position is None, problem.position or 0)):
            place = where(source, problem.position) if problem.position is not None else problem.where
            result.add(replace(problem, where=place))
        result.events += len(findings.positions)
        result.signatures += findings.signatures
        result.request_signatures += len(findings.requests)
        self._signed.extend(findings.signed)
        if findings.positions:
            self._last = findings.positions[-1]
            if not isinstance(source, Held):
                self._sources.append((self._last, source))
            self._last_at = findings.last_at or self._last_at
            self.positions.extend(findings.positions)

    def _beside(self, findings: Findings) -> Iterator[Problem]:
        """What does not go together with the stretches before."""
        positions = findings.positions
        if positions and positions[0] <= self._last:
            yield Problem(positions[0], "order", f"it stands after position {self._last}")
        if findings.first_at and findings.first_at < self._last_at:
            yield Problem(positions[0], "time", f"{shown(findings.first_at)} is before the event before it")
        for key, (position, version, prev) in findings.firsts.items():
            try:
                require_link(key, self._heads.get(key, NO_EVENT), version, prev, whole=self.told.whole)
            except Bad as bad:
                yield Problem(position, bad.check, bad.found)
        self._heads.update(findings.lasts)
        yield from self._replayed(findings)
        for position, key_id, nonce in findings.requests:
            if (key_id, nonce) in self._nonces:
                yield Problem(position, "request", f"its nonce {nonce} was used before: one request is recorded twice")
            self._nonces.add((key_id, nonce))
        if self.told.whole:
            yield from self._unaccounted(findings)

    def _unaccounted(self, findings: Findings) -> Iterator[Problem]:
        """Facts that are said to come of a signed action, and are not among those that it led to."""
        for position, caused, fact in findings.claims:
            self._claims.setdefault(caused, []).append((position, fact))
        for caused, facts in findings.led_to:
            for position, fact in self._claims.pop(caused, ()):
                if facts.isdisjoint({fact, (*fact[:2], ANY_VERSION)}):
                    yield _never_asked(position, fact)

    def _replayed(self, findings: Findings) -> Iterator[Problem]:
        if len(set(findings.ids)) < len(findings.ids) or not self._ids.isdisjoint(findings.ids):
            for position, event_id in zip(findings.positions, findings.ids, strict=True):
                if event_id and event_id in self._ids:
                    yield Problem(position, "replay", f"the event id {shown(event_id)} stands twice")
                self._ids.add(event_id)
        self._ids.update(findings.ids)

    def _disputed(self, key_id: str, first: int, last: int) -> Iterable[int]:
        """The positions from `first` to `last`, all signed by this key, that are disputed."""
        disputed = self.ring.keys[key_id].disputed()
        first, last = max(first, disputed.start), min(last, disputed.stop - 1)
        return self.positions[bisect_left(self.positions, first) : bisect_right(self.positions, last)]


def _never_asked(position: int, fact: Fact) -> Problem:
    found = f"{fact[0]} is in the name of somebody with a key of their own, and no action that they signed led to it"
    return Problem(position, "request", found)



# -- pack: A pack: one file that has to account for everything in it, and for everything of what was asked that is not in it.

CHUNK_BYTES: Final = CHUNK_ENTRIES * 1_024
MAX_FINDINGS: Final = 1_000
LINE_BYTES: Final = 1 << 17
"""More than the longest line."""
KEYS: Final = "keys.tsv"
COMMITTED: Final = "index/committed.tsv"
FIELDS: Final = "disclosures.jsonl"
CERTIFICATES: Final = "certificates.tsv"
CHECKPOINT: Final = "log/checkpoint"
TILES: Final = "log/tile/"
_SECTIONS: Final = tuple(
    re.compile(section)
    for section in (
        r"README\.txt",
        r"log/checkpoint",
        r"log/timestamps/[^/]+\.tsr",
        r"log/tile/.+",
        r"keys\.tsv",
        r"entries/[0-9]{6}\.tsv",
        r"index/committed\.tsv",
        r"index/topics/[0-9]{6}\.tsv",
        r"certificates\.tsv",
        r"disclosures\.jsonl",
        r"artifacts/[0-9a-f]{64}",
        r"views/.+",
        r"manifest\.json",
    )
)
_NEEDED: Final = ("README.txt", CHECKPOINT, KEYS, FIELDS, MANIFEST)
_NUMBERED: Final = ("entries/", "index/topics/")

Report = Callable[[str, int, int | None], None]
"""(what is done, how much of it, of how much)"""


class NotAPack(ValueError):
    """A file that is not a pack, damaged or not."""


def verify_pack(path: Path, trust: Trust, kept: Sequence[bytes], workers: Workers, report: Report, *, full: bool = True) -> Result:
    """Verifies a pack from its bytes alone; raises NotAPack and OSError."""
    result = Result(what="pack", mode="full" if full else "tree", ledger=trust.ledger)
    try:
        archive = Archive(path)
    except NoArchive as error:
        raise NotAPack(str(error)) from None
    except BadArchive as error:
        result.problem("archive", error.found, where=f"byte {error.at}")
        return result
    if MANIFEST not in archive.members:
        raise NotAPack(f"it holds no {MANIFEST}")
    _Pack(archive, trust, kept, workers, report, result, full).check()
    return result


class _Pack:
    """A pack whose headers are as they have to be."""

    def __init__(
        self, archive: Archive, trust: Trust, kept: Sequence[bytes], workers: Workers, report: Report, result: Result, full: bool
    ) -> None:
        self._archive, self._trust, self._kept, self._workers, self._report = archive, trust, kept, workers, report
        self.result, self._full = result, full
        self._ring = KeyRing(trust.root_keys)
        self._tree = TileTree(0, lambda *_place: b"")
        self._bodies: dict[int, Body] = {}
        self._digests: dict[int, list[str]] = {}
        self._named: dict[int, list[str]] = {}
        self._topics: dict[str, list[int]] = {}
        self._logs: list[Log] = []
        self._leaves: dict[int, bytes] = {}
        """Of included events, as topics' rows have them."""

    def check(self) -> None:
        """Everything there is to check, from the outside in."""
        result = self.result
        self._check_names()
        try:
            manifest = read_manifest(self._archive.read(MANIFEST))
            self._check_members(manifest)
            self._check_log(manifest)
        except Bad as bad:
            result.problem(bad.check, bad.found, where=MANIFEST)
        except BadArchive as error:
            result.problem("archive", error.found, where=f"byte {error.at}")
        except Unreadable as error:
            result.problem("file", error.found, where=error.where)
        except ProofError as error:
            result.problem("tree", str(error), where=TILES)
        if result.complete:
            result.complete = result.ok

    # -- members

    def _check_names(self) -> None:
        names, before, numbers = list(self._archive.members), 0, dict.fromkeys(_NUMBERED, 0)
        for name in names:
            section = next((number for number, section in enumerate(_SECTIONS) if section.fullmatch(name)), None)
            if section is None or section < before:
                found = "no member of a pack has this name" if section is None else "it does not stand in the order of a pack's members"
                self.result.problem("archive", found, where=name)
                continue
            before = section
            for prefix in _NUMBERED:
                if name.startswith(prefix):
                    if name != f"{prefix}{numbers[prefix]:06d}.tsv":
                        self.result.problem("archive", f"{prefix}{numbers[prefix]:06d}.tsv is missing before it", where=name)
                    numbers[prefix] += 1
        for name in _NEEDED:
            if name not in self._archive.members:
                self.result.problem("archive", "it is missing", where=name)

    def _check_members(self, manifest: Manifest) -> None:
        """Each member is one that the manifest lists, with these bytes."""
        names = [name for name in self._archive.members if name != MANIFEST]
        if names != list(manifest.subjects):
            gone, added = [sorted(one) for one in (set(manifest.subjects) - set(names), set(names) - set(manifest.subjects))]
            found = f"missing: {', '.join(gone) or 'none'}; not listed: {', '.join(added) or 'none'}" if gone or added else "another order"
            self.result.problem("manifest", f"its members are not those that it lists ({found})", where=MANIFEST)
        for number, name in enumerate(names):
            try:
                digest = self._archive.sha256(name)
            except BadArchive as error:
                self.result.problem("archive", error.found, where=f"byte {error.at}")
                continue
            if name in manifest.subjects and digest != manifest.subjects[name]:
                self.result.problem("manifest", f"its SHA-256 is {digest}, and the manifest says {manifest.subjects[name]}", where=name)
            if name.startswith("artifacts/") and name != f"artifacts/{digest}":
                self.result.problem("artifact", f"its SHA-256 is {digest}", where=name)
            self._report("reading", number + 1, len(names))

    # -- the log

    def _check_log(self, manifest: Manifest) -> None:
        result, predicate = self.result, manifest.predicate
        ledger, size = predicate["ledger"], predicate["checkpoint"]["size"]
        if result.ledger and result.ledger != ledger:
            result.problem("ledger", f"it is of the ledger {ledger}, and the trusted one is {result.ledger}", where=MANIFEST)
        result.ledger, result.tenant = ledger, predicate["tenant"]
        period = predicate["selection"]
        result.range = {**predicate["range"], "scope": predicate["scope"], "from": period["from"], "to": period["to"], "selection": period}
        self._tree = TileTree(size, self._tile)
        keys = self._take_keys(ledger, manifest)
        self._check_checkpoint(ledger, manifest)
        warn_of_root(self._trust, result)
        try:
            require_signed(manifest, self._ring)
        except Bad as bad:
            result.problem(bad.check, bad.found, where=MANIFEST)
        committed = self._committed(ledger, manifest)
        topics = None
        if committed is not None:
            topics = Topics(manifest, committed, lambda number: self._rows(f"index/topics/{number:06d}.tsv"))
            self._tell([*topics.check(), *topics.check_keys(keys, self._leaf)])
            self._leaves = topics.leaves
        entries = self._take_entries(ledger, manifest, topics, keys)
        self._check_complete(manifest, topics, keys, entries)
        self._check_fields(ledger, manifest)
        if any(name.startswith("log/timestamps/") for name in self._archive.members):
            result.warnings.append("Timestamps (RFC 3161) are not checked by this program: `openssl ts -verify` does that.")

    def _tile(self, level: int, index: int, width: int) -> bytes:
        name = f"log/{tile_path(level, index, width)}"
        if name not in self._archive.members:
            raise ProofError(f"{name} is missing")
        return self._archive.read(name, TILE_WIDTH * 32)

    def _leaf(self, position: int) -> bytes:
        return self._tree.leaf(position - 1)

    def _check_checkpoint(self, ledger: str, manifest: Manifest) -> None:
        result, said = self.result, manifest.predicate["checkpoint"]
        for number, note in enumerate([self._archive.read(CHECKPOINT), *self._kept]):
            checkpoint = read_checkpoint(note, ledger, self._ring, result)
            if checkpoint is None:
                continue
            opened, signed = checkpoint
            if number:
                self._check_kept(signed)
                continue
            check_cosignatures(opened, signed, self._trust, self._ring, result)
            result.size, result.root = signed.size, encoded(signed.root)
            if (said["size"], said["root"]) != (signed.size, result.root):
                result.problem("checkpoint", f"it signs {signed.size} events, and the manifest speaks of another one", where=CHECKPOINT)
            else:
                self._check_root(signed.root)

    def _check_root(self, signed: bytes) -> None:
        try:
            root = self._tree.root()
        except ProofError as error:
            self.result.problem("tree", str(error), where=TILES)
            return
        if root != signed:
            found = f"the tiles come to {encoded(root)}, the checkpoint of {self._tree.size} signs {encoded(signed)}"
            self.result.problem("tree", found, where=TILES)

    def _check_kept(self, said: CheckpointText) -> None:
        """The pack's log begins with what a checkpoint from elsewhere signed, as far as its tiles tell."""
        if said.size > self._tree.size:
            found = f"The kept checkpoint signs {said.size} events, the pack's {self._tree.size}: compare it with a later pack."
            self.result.warnings.append(found)
            return
        try:
            if TileTree(said.size, self._part_of_tile).root() != said.root:
                found = f"its first {said.size} events are not those that the kept checkpoint signs{whose_word(said, self._ring)}"
                self.result.problem("history", found, said.size)
        except ProofError as error:
            self.result.warnings.append(f"The kept checkpoint of {said.size} cannot be compared with the pack: {error}.")

    def _part_of_tile(self, level: int, index: int, width: int) -> bytes:
        return self._tree.tile(level, index)[: width * 32]

    # -- entries

    def _log(self, told: Told) -> Log:
        self._logs.append(Log(self.result, self._ring, self._workers, told))
        return self._logs[-1]

    def _take_keys(self, ledger: str, manifest: Manifest) -> Sequence[int]:
        """The key stream: it has no gaps, and teaches which key may sign what."""
        log = self._log(Told(ledger, {}, wanted=frozenset(manifest.fences)))
        log.take(self._lines(KEYS), self._found)
        log.finish()
        return log.positions

    def _take_entries(self, ledger: str, manifest: Manifest, topics: Topics | None, keys: Sequence[int]) -> Sequence[int]:
        names = [name for name in self._archive.members if name.startswith("entries/")]
        sources = [source for name in names for source in self._lines(name)]
        asked = frozenset([*topics.base, *topics.within] if topics is not None and self._full else ())
        wanted = frozenset(ends(manifest, topics, keys))
        log = self._log(Told(ledger, self._ring.keys, self._full, whole=False, topics=asked, wanted=wanted))
        log.take(self._reported(sources), self._found)
        log.finish()
        own = {manifest.predicate["tenant"]} | ({"system"} if manifest.everything else set())
        if not log.tenants <= own:
            self.result.problem(
                "tenant", f"it holds events of {', '.join(sorted(log.tenants - own))}, and is a pack of {self.result.tenant}"
            )
        return log.positions

    def _reported(self, sources: Sequence[Source]) -> Iterator[Source]:
        for number, source in enumerate(sources):
            self._report("verifying", number, len(sources))
            yield source

    def _committed(self, ledger: str, manifest: Manifest) -> tuple[int, Body] | None:
        """The event that holds the index; None when there is none, or nothing can be made of it."""
        index = manifest.predicate["index"]
        if (index is None) != (COMMITTED not in self._archive.members):
            self.result.problem(
                "index", "the event that commits the index is missing" if index else "nothing speaks of it", where=COMMITTED
            )
        if index is None or COMMITTED not in self._archive.members:
            return None
        told = Told(ledger, self._ring.keys, whole=False, wanted=frozenset({index["position"]}))
        log, found = self._log(told), self._bodies
        log.take(self._lines(COMMITTED), self._found)
        if index["position"] not in found or list(log.positions) != [index["position"]]:
            self.result.problem("index", f"the event that commits the index, position {index['position']}, is not there", where=COMMITTED)
            return None
        return index["position"], found.pop(index["position"])

    def _found(self, findings: Findings) -> None:
        """What is asked of every event of a pack: that it is at its place in the tree."""
        self._bodies |= findings.bodies
        self._digests |= findings.digests
        self._named |= findings.named
        for topic, positions in findings.topics.items():
            self._topics.setdefault(topic, []).extend(positions)
        for position, leaf in zip(findings.positions, findings.leaves, strict=True):
            try:
                if self._leaf(position) != leaf:
                    self._tell([Finding("tree", "it is not the event that the tree has at its place", position)])
                elif self._leaves.get(position, leaf) != leaf:
                    self._tell([Finding("index", "the index has another event at its position", position)])
            except ProofError as error:
                self._tell([Finding("tree", str(error), position)])

    def _lines(self, name: str) -> list[Lines]:
        """A member's lines in stretches that can be checked side by side."""
        member, path, start = self._archive.members[name], self._archive.path, 0
        stretches: list[Lines] = []
        with path.open("rb") as file:
            while start < member.size or not stretches:
                end = min(start + CHUNK_BYTES, member.size)
                if end < member.size:
                    file.seek(member.start + end)
                    rest = file.read(min(LINE_BYTES, member.size - end))
                    end = end + rest.index(b"\n") + 1 if b"\n" in rest else member.size
                stretches.append(Lines(path, name, member.start, start, end))
                start = end
        return stretches

    def _rows(self, name: str) -> tuple[str, bytes]:
        if name not in self._archive.members:
            raise Unreadable(name, "it is missing")
        return name, self._archive.read(name, 1 << 40)

    # -- what is not there

    def _check_complete(self, manifest: Manifest, topics: Topics | None, keys: Sequence[int], entries: Sequence[int]) -> None:
        result = self.result
        included = Included(entries, keys, self._bodies, self._topics)
        if manifest.everything:
            found = all_of(manifest, included)
        elif topics is not None and topics.told:
            found = selection_of(manifest, topics, included)
        else:
            result.complete = False
            return
        findings = list(islice(found, MAX_FINDINGS))
        missing = {finding.position for finding in findings if finding.check == MISSING}
        names = self._names_of({position for position in missing if position is not None})
        for finding in findings:
            name = names.get(finding.position or 0)
            self._tell([replace(finding, found=f"{finding.found} ({name})") if name and finding.check == MISSING else finding])
        result.complete = not findings
        for position in withheld_fences(manifest):
            result.warnings.append(
                f"The event at position {position}, next to the period, is withheld: where the period ends there is not shown."
            )

    def _tell(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            where = MANIFEST if finding.position is None else self._where(finding.position)
            self.result.problem(finding.check, finding.found, finding.position, where)

    def _where(self, position: int) -> str | None:
        return next((where for log in self._logs if (where := log.where(position)) is not None), None)

    def _names_of(self, missing: set[int]) -> dict[int, str]:
        """Which version of which stream stood at these positions, where the events before and after it in its stream are here."""
        before: dict[StreamKey, tuple[int, int]] = {}
        candidates: dict[int, list[str]] = {}
        for position, entry in self._entries() if missing else ():
            try:
                tenant, stream, version, _ = read_place(entry)
            except Bad:
                continue
            last, at = before.get((tenant, stream), (0, 0))
            if version == last + 2:
                for gone in (gone for gone in missing if at < gone < position):
                    candidates.setdefault(gone, []).append(f"version {version - 1} of {shown(stream)}")
            before[tenant, stream] = version, position
        return {position: " or ".join(found) for position, found in candidates.items()}

    def _entries(self) -> Iterator[tuple[int, bytes]]:
        """All entries, up to where they cannot be read."""
        with suppress(Unreadable):
            for name in self._archive.members:
                for lines in self._lines(name) if name.startswith("entries/") else ():
                    yield from lines.read()

    def _check_fields(self, ledger: str, manifest: Manifest) -> None:
        if not self._full:
            return
        predicate = manifest.predicate
        certificates = self._take_certificates(ledger)
        fields = Fields(predicate["tenant"], self._digests, self._named, certificates, predicate["accounted_after"])
        for problem in check_fields(self._archive.pieces(FIELDS), FIELDS, fields, self.result.fields):
            self.result.add(problem)

    def _take_certificates(self, ledger: str) -> dict[int, Body]:
        """The certificates of erasure, each at its place in the tree."""
        if CERTIFICATES not in self._archive.members:
            return {}
        sources = self._lines(CERTIFICATES)
        positions = frozenset(position for source in sources for position, _ in source.read())
        log = self._log(Told(ledger, self._ring.keys, whole=False, wanted=positions))
        log.take(sources, self._found)
        return {position: self._bodies[position] for position in positions if position in self._bodies}



# -- ledger: A whole ledger: all its entries from the first on, and a checkpoint of that size.

FOUNDING_ENTRIES: Final = 256
"""The first stretch is a short one: it holds the keys under which the others can be checked side by side."""
NOBODYS: Final = Trust()


class Verifier:
    """Takes a ledger's entries in order, then its checkpoint. Trusts what it is told to, and nothing else."""

    def __init__(self, trust: Trust = NOBODYS, kept: Sequence[bytes] = (), workers: Workers | None = None, *, full: bool = True) -> None:
        """`kept` are older checkpoints of this ledger from elsewhere: the ledger must still begin with what they signed."""
        self.result = Result(mode="full" if full else "tree", ledger=trust.ledger)
        self.tree = GrownTree()
        self._trust, self._kept = trust, kept
        self._log = Log(self.result, KeyRing(trust.root_keys), workers or Workers(), Told(trust.ledger, {}, full=full))

    def add(self, entries: Iterable[bytes]) -> None:
        """The next entries: canonical JSON of DSSE envelopes, one per position."""
        self.take(self._stretches(iter(entries)))

    def take(self, sources: Iterable[Source]) -> None:
        """The next entries, wherever they lie."""
        self._log.take(self._named(sources), self._grow)

    def finish(self, note: bytes | None) -> Result:
        """Compares the tree with the signed checkpoint of the same size, and with those that were kept."""
        result, trust, ring = self.result, self._trust, self._log.ring
        self._log.finish()
        result.root = encoded(self.tree.root())
        warn_of_root(trust, result)
        for kept in self._kept:
            self._check_kept(kept)
        checkpoint = read_checkpoint(note, result.ledger, ring, result)
        if checkpoint is not None:
            opened, said = checkpoint
            check_cosignatures(opened, said, trust, ring, result)
            result.size = said.size
            if said.size != self.tree.size:
                result.problem("checkpoint", f"it is signed for {said.size} events, {self.tree.size} were read", self.tree.size)
            elif encoded(said.root) != result.root:
                found = f"the events hash to {result.root}, the checkpoint of {said.size} signs {encoded(said.root)}"
                result.problem("tree", found, self.tree.size)
        result.complete = result.ok
        return result

    def _stretches(self, entries: Iterator[bytes]) -> Iterator[Source]:
        first = self.tree.size + 1
        while held := tuple(islice(entries, CHUNK_ENTRIES if first > 1 else FOUNDING_ENTRIES)):
            yield Held(first, held)
            first += len(held)

    def _named(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources; of the first it is taken whose ledger this is, when nobody said so."""
        for source in sources:
            if not self.result.ledger:
                self._log.call(self._name_in(source))
                self.result.ledger = self._log.told.ledger
            yield source

    def _name_in(self, source: Source) -> str:
        try:
            _, entry = next(iter(source.read()))
            name: str = read_body(open_entry(entry)[0])["ledger"]
        except (Bad, StopIteration, ValueError, OSError):
            return ""
        return name

    def _grow(self, findings: Findings) -> None:
        self.tree.add(findings.leaves)

    def _check_kept(self, note: bytes) -> None:
        result = self.result
        kept = read_checkpoint(note, result.ledger, self._log.ring, result)
        if kept is None:
            return
        said = kept[1]
        if said.size > self.tree.size:
            found = f"the kept checkpoint signs {said.size} events, the ledger holds {self.tree.size}: its end was cut off"
            result.problem("history", found, self.tree.size)
        elif said.root != self.tree.root(said.size):
            found = f"its first {said.size} events are not those that the kept checkpoint signs{whose_word(said, self._log.ring)}"
            result.problem("history", found, said.size)



# -- tiles: A tile directory: a log as static files (c2sp.org/tlog-tiles), which anybody can copy, keep and serve.

CHECKPOINT_FILE: Final = "checkpoint"
BUNDLES: Final = CHUNK_ENTRIES // TILE_WIDTH


class NotATileDirectory(ValueError):
    """A folder without a checkpoint."""


def verify_tiles(folder: Path, trust: Trust, kept: Sequence[bytes], workers: Workers, report: Report, *, full: bool = True) -> Result:
    """Verifies a whole log from its files alone; raises NotATileDirectory and OSError."""
    try:
        note = (folder / CHECKPOINT_FILE).read_bytes()
    except FileNotFoundError:
        raise NotATileDirectory(f"it holds no file `{CHECKPOINT_FILE}`") from None
    verifier = Verifier(trust, kept, workers, full=full)
    result = verifier.result
    result.what = "tiles"
    try:
        size = parse_checkpoint(parse_note(note).text).size
    except BadNote as error:
        result.problem("checkpoint", str(error), where=CHECKPOINT_FILE)
        return result
    verifier.take(_bundles(folder, size, result, report))
    if verifier.tree.size == size:
        _compare(folder, verifier, report)
    return verifier.finish(note)


def _bundles(folder: Path, size: int, result: Result, report: Report) -> Iterator[Bundles]:
    """The entry bundles in stretches; the first is one alone, for it holds the keys. Ends where one is missing."""
    index, count = 0, -(-size // TILE_WIDTH)
    while index < count:
        names, widths, first = [], [], index * TILE_WIDTH + 1
        for number in range(index, min(index + (BUNDLES if index else 1), count)):
            width = min(TILE_WIDTH, size - number * TILE_WIDTH)
            name = tile_path("entries", number, width)
            if not (folder / name).is_file():
                result.problem("file", f"it is missing, and with it the events from position {number * TILE_WIDTH + 1} on", where=name)
                count = number
                break
            names.append(name)
            widths.append(width)
        if names:
            report("verifying", first - 1, size)
            yield Bundles(first, folder, names, widths)
        index += len(names)


def _compare(folder: Path, verifier: Verifier, report: Report) -> None:
    """The tiles are those of the tree that the entries make: whoever proves with them proves with the right ones."""
    size = verifier.tree.size
    for number, (level, index, width) in enumerate(tiles_of(size)):
        name, wanted = tile_path(level, index, width), verifier.tree.tile(level, index, width)
        try:
            found = (folder / name).read_bytes()
        except OSError:
            verifier.result.problem("tile", "it is missing", where=name)
            continue
        if found != wanted:
            same = next((at for at, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted)))
            verifier.result.problem("tile", f"hash {same // HASH_BYTES} of it is not that of the tree", where=f"{name} byte {same}")
        if number % 1_000 == 0:
            report("tiles", index, -(-size // TILE_WIDTH))



# -- main: Verifies an Aureus pack, or a tile directory, from its bytes alone: `python aureus_verify.py pack.zip --keys trust.json`.

VERIFIED: Final = 0
NOT_VERIFIED: Final = 8
WRONG: Final = 2
SMALL_BYTES: Final = 32 << 20
"""Below this, starting processes takes longer than it saves."""
_REPORT_SECONDS: Final = 0.5


class WrongCommand(ValueError):
    """Something about the command or the files it names; the sentence says what."""


def verify(source: Path, trust: Trust, kept: Sequence[bytes] = (), processes: int | None = None, *, full: bool = True) -> Result:
    """Verifies a pack, or a folder of tiles; raises WrongCommand."""
    return verify_reporting(source, trust, kept, processes, lambda _what, _done, _of: None, full=full)


def verify_reporting(source: Path, trust: Trust, kept: Sequence[bytes], processes: int | None, report: Report, *, full: bool) -> Result:
    """`verify`, saying now and then how far it is."""
    try:
        large = source.is_dir() or source.stat().st_size > SMALL_BYTES
        with Workers(processes or (available_cores() if large else 1)) as workers:
            check = verify_tiles if source.is_dir() else verify_pack
            return check(source, trust, kept, workers, report, full=full)
    except (NotAPack, NotATileDirectory) as error:
        raise WrongCommand(f"{source} is neither a pack nor a tile directory: {error}") from None
    except OSError as error:
        raise WrongCommand(f"{source} cannot be read: {error.strerror or error}") from None
    except (BrokenProcessPool, MemoryError):
        raise WrongCommand(f"{source} could not be verified to the end: a process ended. Try --processes 1.") from None


def read_trust(file: Path | None, root_key: str | None) -> Trust:
    """What the files and options say is to be trusted; raises WrongCommand."""
    try:
        trust = Trust.parse(file.read_bytes()) if file is not None else Trust()
    except BadTrust as error:
        raise WrongCommand(f"{file} is not a trust file: {error}") from None
    except OSError as error:
        raise WrongCommand(f"{file} cannot be read: {error.strerror or error}") from None
    if root_key is not None and not KEY_ID.fullmatch(root_key):
        raise WrongCommand("--root-key is a key id: 64 hex digits in lower case")
    return trust if root_key is None else replace(trust, root_keys=(root_key,))


def read_kept(files: Sequence[Path]) -> list[bytes]:
    """Checkpoints that were kept; raises WrongCommand."""
    try:
        return [file.read_bytes() for file in files]
    except OSError as error:
        raise WrongCommand(f"{error.filename} cannot be read: {error.strerror}") from None


def available_cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="aureus_verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="PACK", help="a pack, or a folder with `checkpoint` and `tile/`")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="trust file (aureus-trust/v1): the root key and the witnesses you trust")
    parser.add_argument("--root-key", metavar="KEY_ID", help="the root key's id, from whoever you trust")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", action="append", default=[], help="one you kept; can be repeated")
    parser.add_argument("--fast", action="store_true", help="the tree and the chains alone: no event's signature")
    parser.add_argument("--processes", type=_positive, metavar="N", help="how many at once; as many as there are processors")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document")
    given = parser.parse_args(arguments)
    try:
        trust, kept = read_trust(given.keys, given.root_key), read_kept(given.checkpoint)
        result = verify_reporting(given.source, trust, kept, given.processes, _reporter(), full=not given.fast)
    except WrongCommand as error:
        print(error, file=sys.stderr)
        return WRONG
    print(json.dumps(result.as_json()) if given.json else "\n".join(result.sentences()))
    return VERIFIED if result.ok else NOT_VERIFIED


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise ValueError
    return number


def _reporter() -> Report:
    """Says on a terminal how far it is; nothing where nobody watches."""
    if not sys.stderr.isatty():
        return lambda _what, _done, _of: None
    last = time.monotonic()

    def report(what: str, done: int, of: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            print(f"\r{what}: {done:,}" + (f" of {of:,}" if of else "") + "\x1b[K\r", end="", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
