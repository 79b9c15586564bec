"""Keys of a ledger: which key may sign what, at which position, as the ledger's own key stream has it.

Validity goes by position, never by a clock: a key signs from the position after the one it came in at, up to the event that
rotates it out, and nothing from the event on that revokes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from infra.verifier.events import (
    EVENT_TYPE,
    KEY_STREAM,
    Bad,
    Body,
    Signatures,
    decoded,
    holds,
    request_holds,
    require_digest,
    signed_text,
)

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
