"""One event as the log holds it: a signed body in an envelope, each of which can be written in one way only.

Formats: DSSE v1 (secure-systems-lab), canonical JSON, base64 with padding and without spare bits.
"""

from __future__ import annotations

import re
import struct
from binascii import a2b_base64
from hashlib import sha256
from types import NoneType
from typing import Any, Final

import nacl.bindings
import nacl.exceptions

from infra.verifier.canonical import NotCanonical, canonical, canonical_object

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
