"""The exact bytes of an event: its signed body, the DSSE envelope around it, and the tree's entry.

Formats: DESIGN "Bytes that others verify"; DSSE v1 (payload type below); RFC 9901 for withheld personal fields.
"""

from __future__ import annotations

import base64
import hashlib
import os
from binascii import b2a_base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

import domain.foreign  # noqa: F401 - an event of the ledger itself, which no context brings along
from domain.kernel import EVENTS, Event, JsonObject, Recorded
from infra.canonical import canonical

PAYLOAD_TYPE: Final = "application/vnd.aureus.event.v1+json"
BODY_VERSION: Final = 1
SIGNATURE_BYTES: Final = 32 + 64
_DECOYS_UP_TO: Final = 4
DECOYS: Final = "_decoy"
"""What the names of decoys begin with, and whose they are: no field and no subject is called so."""
_PAE_HEAD: Final = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} ".encode()
_MAX_ID: Final = 300
_PAYLOAD_TYPE: Final = PAYLOAD_TYPE.encode()


@dataclass(frozen=True, slots=True)
class Disclosure:
    """A personal field kept out of the body: its salt, name and value, and whose data it is."""

    subject: str
    purpose: str
    salt: str
    name: str
    value: Any

    def encoded(self) -> str:
        """base64url of the JSON array [salt, name, value] (RFC 9901); its SHA-256 stands in the body's `_sd`."""
        return base64.urlsafe_b64encode(orjson.dumps([self.salt, self.name, self.value])).rstrip(b"=").decode()

    def digest(self) -> str:
        return _b64url(hashlib.sha256(self.encoded().encode()).digest())


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Facts:
    """An event's data as it may be signed: personal fields are replaced by digests, in `_sd`."""

    event_name: str
    schema: int
    data: bytes
    digests: tuple[str, ...] = ()
    disclosures: tuple[Disclosure, ...] = ()


def facts_of(event: Event) -> Facts:
    """Canonical data, and what of it stays out; raises ProfileError on what cannot be signed."""
    data = event.dump()
    if not event.personal:
        return Facts(event.event_name, event.schema_version, canonical(data))
    disclosures = []
    for name, mark in event.personal.items():
        value = data.pop(name, None)
        if value is not None:
            disclosures.append(Disclosure(data[mark.subject], mark.purpose, _b64url(os.urandom(16)), name, value))
    # Decoys hide how many personal fields were filled in. They are kept like what they stand beside, so that a digest of which
    # nothing is kept can only be a value that was taken away; nobody's, so that they stay when somebody is erased.
    decoys = os.urandom(1)[0] % _DECOYS_UP_TO
    disclosures += [Disclosure(DECOYS, DECOYS, _b64url(os.urandom(16)), f"{DECOYS}{number}", None) for number in range(1, decoys + 1)]
    digests = sorted(disclosure.digest() for disclosure in disclosures)
    return Facts(event.event_name, event.schema_version, canonical(data), tuple(digests), tuple(disclosures))


def require_plain(field: str, value: str) -> None:
    """Stream, tenant and actor ids go into the body unescaped, so they must need no escaping."""
    if not (0 < len(value) <= _MAX_ID and value.isascii() and value.isprintable() and '"' not in value and "\\" not in value):
        raise ValueError(f"{field} {value!r}: an opaque id of printable ASCII without quotes and backslashes is needed")


def body_bytes(
    ledger: str,
    tenant: str,
    stream: str,
    version: int,
    prev: str,
    event_id: str,
    actor: str,
    key: str,
    at: str,
    correlation: str,
    causation: str | None,
    facts: Facts,
) -> bytes:
    """The canonical body. Members are written in sorted order by hand: it is the hottest line of the ledger."""
    digests = '","'.join(facts.digests)
    sd = f'["{digests}"]' if digests else "[]"
    cause = f'"{causation}"' if causation else "null"
    head = f'{{"_sd":{sd},"actor":"{actor}","at":"{at}","causation":{cause},"correlation":"{correlation}","data":'
    tail = (
        f',"id":"{event_id}","key":"{key}","ledger":"{ledger}","prev":"{prev}","schema":{facts.schema},'
        f'"stream":"{stream}","tenant":"{tenant}","type":"{facts.event_name}","v":{BODY_VERSION},"version":{version}}}'
    )
    return b"%b%b%b" % (head.encode(), facts.data, tail.encode())


def signing_input(body: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what the signature is over."""
    return b"%b%d %b" % (_PAE_HEAD, len(body), body)


def pack_signature(key_id: str, signature: bytes) -> bytes:
    """How a signature is stored: 32 bytes of key id, 64 of signature; several stand one after another."""
    return bytes.fromhex(key_id) + signature


def unpack_signatures(packed: bytes) -> list[tuple[str, bytes]]:
    """(key id, signature) pairs of a stored event."""
    if not packed or len(packed) % SIGNATURE_BYTES:
        raise ValueError(f"{len(packed)} bytes are no list of signatures")
    return [(packed[at : at + 32].hex(), packed[at + 32 : at + SIGNATURE_BYTES]) for at in range(0, len(packed), SIGNATURE_BYTES)]


def entry_bytes(body: bytes, packed_signatures: bytes) -> bytes:
    """The tree's entry: canonical JSON of the DSSE envelope."""
    payload = base64.b64encode(body).decode()
    signatures = ",".join(
        f'{{"keyid":"{key_id}","sig":"{base64.b64encode(signature).decode()}"}}'
        for key_id, signature in unpack_signatures(packed_signatures)
    )
    return f'{{"payload":"{payload}","payloadType":"{PAYLOAD_TYPE}","signatures":[{signatures}]}}'.encode()


def entry_of_one(body: bytes, key_id: str, signature: bytes) -> bytes:
    """The entry of an event with one signature, as almost all have: `entry_bytes`, a good deal quicker."""
    signed = b2a_base64(signature, newline=False)
    return b'{"payload":"%b","payloadType":"%b","signatures":[{"keyid":"%b","sig":"%b"}]}' % (
        b2a_base64(body, newline=False),
        _PAYLOAD_TYPE,
        key_id.encode(),
        signed,
    )


class _Stored(Recorded[Event]):
    """As the ledger holds it: ids and time stay text until somebody asks for them, for few ever do."""

    __slots__ = ("_member",)
    _member: JsonObject

    def __init__(self, position: int, member: JsonObject, leaf: bytes) -> None:
        _set_position(self, position)
        _set_tenant(self, member["tenant"])
        _set_stream(self, member["stream"])
        _set_version(self, member["version"])
        _set_actor(self, member["actor"])
        _set_event(self, EVENTS.load(member["type"], member["schema"], member["data"]))
        _set_leaf(self, leaf)
        _set_member(self, member)

    @property
    def id(self) -> UUID:
        return UUID(self._member["id"])

    @property
    def at(self) -> datetime:
        return parse_timestamp(self._member["at"])

    @property
    def at_text(self) -> str:
        text: str = self._member["at"]
        return text

    @property
    def id_text(self) -> str:
        text: str = self._member["id"]
        return text

    @property
    def correlation_text(self) -> str:
        text: str = self._member["correlation"]
        return text

    @property
    def causation_text(self) -> str | None:
        text: str | None = self._member["causation"]
        return text

    @property
    def correlation(self) -> UUID:
        return UUID(self._member["correlation"])

    @property
    def causation(self) -> UUID | None:
        text = self._member["causation"]
        return UUID(text) if text else None


# What `object.__setattr__` would do for a frozen class, found once.
_set_position, _set_tenant, _set_stream, _set_version, _set_actor, _set_event, _set_leaf, _set_member = (
    vars(owner)[name].__set__
    for owner, name in (
        *((Recorded, name) for name in ("position", "tenant", "stream", "version", "actor", "event", "leaf")),
        (_Stored, "_member"),
    )
)


def recorded(position: int, body: bytes, leaf: bytes) -> Recorded[Event]:
    """The typed event of stored bytes; raises UnknownEvent when this code has no class for it."""
    return _Stored(position, orjson.loads(body), leaf)


def recorded_members(position: int, member: JsonObject, leaf: bytes) -> Recorded[Event]:
    """`recorded` of a body whose JSON is parsed already."""
    return _Stored(position, member, leaf)


def parse_timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
