"""Keys of the ledger: who may sign what, from which position on. Every key enters, and leaves, by an event."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, assert_never

import orjson
from pydantic import Field

from domain.kernel import Event, JsonObject
from domain.values import Sha256, Text

KeyRole = Literal["root", "log", "service", "actor", "witness"]
Custody = Literal["client", "kms", "server"]

SYSTEM_TENANT: Final = "system"
KEYS_CATEGORY: Final = "keys"
KEY_STREAM: Final = "keys:ledger"
REQUEST_TYPE: Final = "application/vnd.aureus.request.v1+json"
"""DSSE payload type of what an actor signs when it asks for something with a key of its own."""


class KeyAdded(Event, name="keys.key_added", schema=2):
    """A key is valid from the position after this event's.

    `proof` is the new key's own signature over `statement()`, so nobody can register a key they do not hold;
    `authorisation` is that of the root key `authorised_by` over `authorisation_statement()`. Without one the root key has
    signed this very event, as it does when a ledger is founded. `public`, `proof` and `authorisation` are base64.
    `holder` is whose key it is: an actor of a tenant (`holder_of`), or a witness.
    """

    key_id: Sha256
    algorithm: Literal["ed25519"] = "ed25519"
    role: KeyRole
    custody: Custody
    public: str
    proof: str
    holder: str | None = None
    authorised_by: Sha256 | None = None
    authorisation: str | None = None

    @classmethod
    def upcast(cls, data: JsonObject, schema: int) -> JsonObject:
        """Under schema 1 keys had no holder, and the root key signed each event itself."""
        assert schema == 1, f"no key was added under schema {schema}"
        return data

    @staticmethod
    def statement(ledger: str, role: str, key_id: str) -> bytes:
        """What the proof of possession is over: the key's id and role in this ledger and no other."""
        return f"aureus key\n{ledger}\n{role}\n{key_id}\n".encode()

    @staticmethod
    def authorisation_statement(ledger: str, role: str, key_id: str, custody: str, holder: str | None) -> bytes:
        """What the root key signs to let a key in."""
        return f"aureus key authorised\n{ledger}\n{role}\n{key_id}\n{custody}\n{holder or ''}\n".encode()


class KeyRotated(Event, name="keys.key_rotated"):
    """One key takes over from another: the new one is valid from the next position on, the old one up to this.

    Both have signed `statement()`: `proof` the new one, `consent` the old one (base64). Role and holder stay; `holder` only
    repeats whose key it was, for those who read this event alone.
    """

    old_key_id: Sha256
    key_id: Sha256
    algorithm: Literal["ed25519"] = "ed25519"
    role: KeyRole
    custody: Custody
    public: str
    proof: str
    consent: str
    holder: str | None = None

    @staticmethod
    def statement(ledger: str, role: str, old_key_id: str, key_id: str, custody: str) -> bytes:
        """What both keys sign."""
        return f"aureus key rotated\n{ledger}\n{role}\n{old_key_id}\n{key_id}\n{custody}\n".encode()


class KeyRevoked(Event, name="keys.key_revoked"):
    """A key signs nothing from this position on; what it signed since `compromised_since` is disputed."""

    key_id: Sha256
    reason: Text
    compromised_since: Annotated[int | None, Field(ge=1)] = None


KeyEvent = KeyAdded | KeyRotated | KeyRevoked


def holder_of(tenant: str, actor: str) -> str:
    """An actor as a holder of keys, such as `acme/usr-ana`: its id alone says nothing, for another tenant may have the same."""
    return f"{tenant}/{actor}"


def request_message(ledger: str, tenant: str, actor: str, command: str, digest: str, nonce: str, at: str) -> bytes:
    """What an actor signs with a key of its own (DSSE pre-authentication encoding): this command, once, at this time."""
    said = {"v": 1, "ledger": ledger, "tenant": tenant, "actor": actor, "command": command, "digest": digest, "nonce": nonce, "at": at}
    payload = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    return b"DSSEv1 %d %b %d %b" % (len(REQUEST_TYPE), REQUEST_TYPE.encode(), len(payload), payload)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the ring; only an active one may sign what comes next."""

    key_id: str
    role: KeyRole
    custody: Custody
    public: str
    holder: str | None = None
    status: Literal["active", "rotated", "revoked"] = "active"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys a ledger ever had, and those of them that its actors sign their requests with now."""

    keys: Mapping[str, Key] = field(default_factory=lambda: MappingProxyType({}))
    by_actor: Mapping[str, tuple[Key, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """By holder, as `holder_of` has it."""

    def active(self, role: KeyRole, holder: str | None = None) -> tuple[Key, ...]:
        """The keys that may sign now in a role, the latest last; of one holder, or of all."""
        return tuple(
            key for key in self.keys.values() if key.status == "active" and key.role == role and (holder is None or key.holder == holder)
        )


def evolve(ring: KeyRing, event: KeyEvent) -> KeyRing:
    match event:
        case KeyAdded():
            changed = {event.key_id: Key(event.key_id, event.role, event.custody, event.public, event.holder)}
        case KeyRotated():
            old = ring.keys[event.old_key_id]
            new = Key(event.key_id, event.role, event.custody, event.public, old.holder)
            changed = {old.key_id: replace(old, status="rotated"), new.key_id: new}
        case KeyRevoked():
            changed = {event.key_id: replace(ring.keys[event.key_id], status="revoked")}
        case _:
            assert_never(event)
    keys = {**ring.keys, **changed}
    by_actor: dict[str, tuple[Key, ...]] = {}
    for key in keys.values():
        if key.role == "actor" and key.status == "active" and key.holder is not None:
            by_actor[key.holder] = (*by_actor.get(key.holder, ()), key)
    return KeyRing(keys, by_actor)


def ring_of(history: Iterable[Any]) -> KeyRing:
    """The ring that the key stream's events lead to."""
    return reduce(evolve, history, KeyRing())
