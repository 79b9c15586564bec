"""Checks a stretch of the log, by itself: what it finds is put together with what others found of the stretches beside it."""

from __future__ import annotations

import json
from binascii import b2a_hex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from infra.verifier.events import EVENT_TYPE, KEY_STREAM, MOMENT, SIGNATURE_BYTES, Bad, Body, Signatures, open_entry, read_body, read_place
from infra.verifier.keys import ACTION_EVENT, KEY_ADDED, KEY_EVENT, Fact, Key, Requests, led_to
from infra.verifier.result import Problem
from infra.verifier.shapes import Shapes
from infra.verifier.sources import Source, Unreadable, where
from infra.verifier.topics import topics_of

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
