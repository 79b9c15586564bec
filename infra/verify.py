"""Verification from the exact bytes alone: every signature, every chain link, the tree, against a signed checkpoint.

Trusts nothing but the root key it is given (or says which one it found). Keys come from the ledger's own key stream,
valid from the position after their event on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import nacl.bindings
import nacl.exceptions
import orjson

from domain.keys import KeyAdded
from infra.canonical import ProfileError, canonical
from infra.checkpoint import BadCheckpoint, Checkpoint, open_checkpoint
from infra.envelope import BODY_VERSION, PAYLOAD_TYPE, signing_input
from infra.keystore import key_id as key_id_of
from infra.merkle import Frontier, leaf_hash
from infra.opening import KEY_STREAM, SYSTEM_TENANT

NO_WITNESS: Final = (
    "No witness cosigned this checkpoint: whoever owns the database could have cut off the end of the ledger back to an older "
    "checkpoint, and whoever also holds the log key could show you another ledger, without this verification noticing. "
    "Keep checkpoints yourself and verify against them (--checkpoint)."
)
MAX_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold: at which position, which check, and what was found."""

    position: int
    check: str
    found: str


@dataclass(slots=True)
class Verification:
    """The result of verifying a ledger's entries."""

    ledger: str = ""
    events: int = 0
    signatures: int = 0
    streams: int = 0
    root: str = ""
    root_key: str = ""
    checkpoint_size: int = 0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


class Verifier:
    """Takes a ledger's entries in order, then its checkpoint."""

    def __init__(self, trusted_root_key: str | None = None, kept: bytes | None = None) -> None:
        """`kept` is an older checkpoint of this ledger from elsewhere: the ledger must still begin with what it signed."""
        self.result = Verification()
        self._kept = kept
        self._kept_size = _size_of(kept)
        self._kept_root: bytes | None = None
        self._trusted = trusted_root_key
        self._keys: dict[str, tuple[str, bytes]] = {}
        self._streams: dict[tuple[str, str], tuple[int, str]] = {}
        self._ids: set[str] = set()
        self._frontier = Frontier()
        self._last_at = ""

    def add(self, entries: Iterable[bytes]) -> None:
        """The next entries: canonical JSON of DSSE envelopes, one per position."""
        leaves = []
        for entry in entries:
            leaves.append(leaf_hash(entry))
            self.result.events += 1
            self._check(self.result.events, entry, leaves[-1].hex())
        until_kept = self._kept_size - self._frontier.size
        if 0 < until_kept <= len(leaves):
            self._frontier = self._frontier.extend(leaves[:until_kept])
            self._kept_root = self._frontier.root()
            leaves = leaves[until_kept:]
        self._frontier = self._frontier.extend(leaves)

    def finish(self, note: bytes | None) -> Verification:
        """Compares the tree with the signed checkpoint of the same size."""
        result = self.result
        result.streams = len(self._streams)
        result.root = base64.b64encode(self._frontier.root()).decode()
        result.warnings.append(NO_WITNESS)
        if self._trusted is None and result.root_key:
            result.warnings.append(
                f"The root key {result.root_key} was taken from the ledger itself: compare it with one you were given elsewhere."
            )
        if self._kept is not None:
            self._check_kept(self._kept)
        checkpoint = self._checkpoint(note)
        if checkpoint is not None:
            result.checkpoint_size = checkpoint.size
            if checkpoint.size != self._frontier.size:
                self._problem("checkpoint", f"it is signed for {checkpoint.size} events, {self._frontier.size} were read")
            elif checkpoint.root != self._frontier.root():
                signed = base64.b64encode(checkpoint.root).decode()
                self._problem("tree", f"the events hash to {result.root}, the checkpoint of {checkpoint.size} signs {signed}")
        return result

    def _check_kept(self, note: bytes) -> None:
        kept = self._checkpoint(note)
        if kept is None:
            return
        if self._kept_root is None:
            self._problem(
                "history", f"the kept checkpoint signs {kept.size} events, the ledger holds {self._frontier.size}: its end was cut off"
            )
        elif kept.root != self._kept_root:
            self._problem("history", f"its first {kept.size} events are not those that the kept checkpoint signs")

    def _checkpoint(self, note: bytes | None) -> Checkpoint | None:
        if note is None:
            self._problem("checkpoint", "there is none")
            return None
        for role, public in self._keys.values():
            if role == "log":
                try:
                    return open_checkpoint(note, self.result.ledger, public)
                except BadCheckpoint as error:
                    self._problem("checkpoint", str(error))
                    return None
        self._problem("checkpoint", "the ledger's key stream names no log key to check it with")
        return None

    def _problem(self, check: str, found: str, position: int | None = None) -> None:
        if len(self.result.problems) < MAX_PROBLEMS:
            self.result.problems.append(Problem(self.result.events if position is None else position, check, found))

    def _check(self, position: int, entry: bytes, leaf: str) -> None:
        try:
            envelope = _canonical_object(entry, "entry")
            if set(envelope) != {"payload", "payloadType", "signatures"} or envelope["payloadType"] != PAYLOAD_TYPE:
                raise _Bad("entry", "it is not a DSSE envelope of an Aureus event")
            body = base64.b64decode(envelope["payload"], validate=True)
            member = _canonical_object(body, "body")
            if set(member) != _MEMBERS or member["v"] != BODY_VERSION:
                raise _Bad("body", f"its members are {sorted(member)}")
            self._check_place(member, leaf)
            self._check_signatures(position, envelope["signatures"], body, member)
        except _Bad as bad:
            self._problem(bad.check, bad.found, position)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            self._problem("entry", f"it cannot be read: {error!r}", position)

    def _check_place(self, member: dict[str, Any], leaf: str) -> None:
        if not self.result.ledger:
            self.result.ledger = member["ledger"]
        stream = (member["tenant"], member["stream"])
        version, prev = self._streams.get(stream, (0, ""))
        self._streams[stream] = (member["version"], leaf)
        if member["ledger"] != self.result.ledger:
            raise _Bad("ledger", f"it was signed for the ledger {member['ledger']}")
        if member["version"] != version + 1:
            raise _Bad("stream", f"{stream[1]} goes from version {version} to {member['version']}")
        if member["prev"] != prev:
            raise _Bad("chain", f"version {member['version']} of {stream[1]} does not follow the event before it")
        if member["id"] in self._ids:
            raise _Bad("replay", f"the event id {member['id']} stands twice")
        self._ids.add(member["id"])
        if member["at"] < self._last_at:
            raise _Bad("time", f"{member['at']} is before the event before it")
        self._last_at = member["at"]

    def _check_signatures(self, position: int, signatures: list[dict[str, str]], body: bytes, member: dict[str, Any]) -> None:
        if member["type"] == KeyAdded.event_name:
            self._learn(position, member)
        if not signatures or signatures[0]["keyid"] != member["key"]:
            raise _Bad("key", "the envelope's key is not the key that was signed")
        for signature in signatures:
            role, public = self._keys.get(signature["keyid"], ("", b""))
            if role not in ("service", "actor", "root"):
                raise _Bad("key", f"{signature['keyid'][:16]} may not sign events at this position")
            if role == "root" and member["type"] != KeyAdded.event_name:
                raise _Bad("key", "the root key signs keys and nothing else")
            try:
                nacl.bindings.crypto_sign_open(base64.b64decode(signature["sig"], validate=True) + signing_input(body), public)
            except (nacl.exceptions.CryptoError, ValueError):
                raise _Bad("signature", f"that of key {signature['keyid'][:16]} does not hold") from None
            self.result.signatures += 1

    def _learn(self, position: int, member: dict[str, Any]) -> None:
        """A key enters: signed by the root key (which vouches for itself first), and proven to be held."""
        data = member["data"]
        if (member["tenant"], member["stream"]) != (SYSTEM_TENANT, KEY_STREAM):
            raise _Bad("key", "a key can only be added in the ledger's key stream")
        public = base64.b64decode(data["public"], validate=True)
        if key_id_of(public) != data["key_id"]:
            raise _Bad("key", f"{data['key_id'][:16]} is not the id of its public key")
        statement = KeyAdded.statement(member["ledger"], data["role"], data["key_id"])
        try:
            nacl.bindings.crypto_sign_open(base64.b64decode(data["proof"], validate=True) + statement, public)
        except (nacl.exceptions.CryptoError, ValueError):
            raise _Bad("key", "nobody proved to hold it") from None
        if data["role"] == "root":
            self._learn_root(position, data["key_id"])
        elif self._keys.get(member["key"], ("",))[0] != "root":
            raise _Bad("key", "it was not added by the root key")
        self._keys[data["key_id"]] = (data["role"], public)

    def _learn_root(self, position: int, found: str) -> None:
        if position != 1:
            raise _Bad("key", "a second root key appears")
        self.result.root_key = found
        if self._trusted is not None and found != self._trusted:
            raise _Bad("key", f"its root key is {found}, the trusted one is {self._trusted}")


def _size_of(note: bytes | None) -> int:
    """The size a checkpoint states; whether it is signed is checked once the log's key is known."""
    try:
        return int(note.decode().split("\n")[1]) if note is not None else 0
    except (ValueError, IndexError):
        return 0


_MEMBERS: Final = frozenset(
    (
        "_sd",
        "actor",
        "at",
        "causation",
        "correlation",
        "data",
        "id",
        "key",
        "ledger",
        "prev",
        "schema",
        "stream",
        "tenant",
        "type",
        "v",
        "version",
    )
)


class _Bad(Exception):
    def __init__(self, check: str, found: str) -> None:
        super().__init__(found)
        self.check, self.found = check, found


def _canonical_object(document: bytes, what: str) -> dict[str, Any]:
    """The JSON object, if these are its only possible bytes: no white space, no duplicate keys, nothing re-ordered."""
    value = orjson.loads(document)
    try:
        if not isinstance(value, dict) or canonical(value) != document:
            raise _Bad(what, "it is not canonical JSON")
    except ProfileError as error:
        raise _Bad(what, str(error)) from error
    return value
