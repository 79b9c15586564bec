"""A ledger written by hand, straight from docs/formats.md and with no code of Aureus: any event by any key, right or wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from nacl.signing import SigningKey

LEDGER: Final = "aureus.example/by-hand"
EVENT_TYPE: Final = b"application/vnd.aureus.event.v1+json"
REQUEST_TYPE: Final = b"application/vnd.aureus.request.v1+json"
KEYS: Final = {"tenant": "system", "stream": "keys:ledger", "actor": "svc-aureus"}


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def pae(payload_type: bytes, payload: bytes) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type, len(payload), payload)


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1", tree_root(leaves[:split]), tree_root(leaves[split:]))


def inclusion(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*inclusion(index, leaves[:split]), tree_root(leaves[split:])]
    return [*inclusion(index - split, leaves[split:]), tree_root(leaves[:split])]


class Key:
    """An Ed25519 key; the same number is the same key in every test."""

    def __init__(self, number: int) -> None:
        self._secret = SigningKey(sha256(b"key %d" % number))
        self.public = bytes(self._secret.verify_key)
        self.id = sha256(b"ed25519\n", self.public).hex()

    def sign(self, message: bytes) -> bytes:
        return self._secret.sign(message).signature


ROOT, LOG, SERVICE = Key(1), Key(2), Key(3)


@dataclass
class ByHand:
    """The entries, one after another; `founded` gives it its three keys."""

    ledger: str = LEDGER
    entries: list[bytes] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    _heads: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def founded(cls, ledger: str = LEDGER) -> ByHand:
        log = cls(ledger)
        for role, key in (("root", ROOT), ("log", LOG), ("service", SERVICE)):
            proof = key.sign(f"aureus key\n{ledger}\n{role}\n{key.id}\n".encode())
            data = {"key_id": key.id, "algorithm": "ed25519", "role": role, "custody": "server", "public": b64(key.public)}
            log.append("keys.key_added", {**data, "proof": b64(proof)}, by=ROOT, **KEYS)
        return log

    @property
    def leaves(self) -> list[bytes]:
        return [sha256(b"\0", entry) for entry in self.entries]

    def append(self, kind: str, data: dict[str, Any], by: Key = SERVICE, *more: Key, **members: Any) -> int:
        """The position of one more event, right in every way but for what `members` say."""
        position = len(self.entries) + 1
        tenant, stream = members.get("tenant", "acme"), members.get("stream", "budget:lake")
        version, prev = self._heads.get((tenant, stream), (0, ""))
        body = {
            "_sd": [],
            "actor": "usr-ana",
            "at": f"2026-03-03T14:{position // 60:02}:{position % 60:02}.000000Z",
            "causation": None,
            "correlation": str(UUID(int=position)),
            "data": data,
            "id": str(UUID(int=1_000_000 + position)),
            "key": by.id,
            "ledger": self.ledger,
            "prev": prev,
            "schema": 1,
            "stream": stream,
            "tenant": tenant,
            "type": kind,
            "v": 1,
            "version": version + 1,
        } | members
        return self.add(canonical(body), by, *more)

    def add(self, body: bytes, *by: Key) -> int:
        """The position of an event with just these bytes."""
        signatures = [{"keyid": key.id, "sig": b64(key.sign(pae(EVENT_TYPE, body)))} for key in by]
        self.entries.append(canonical({"payload": b64(body), "payloadType": EVENT_TYPE.decode(), "signatures": signatures}))
        said = json.loads(body)
        self.bodies.append(said)
        self._heads[said["tenant"], said["stream"]] = said["version"], self.leaves[-1].hex()
        return len(self.entries)

    def checkpoint(self, by: Key = LOG, size: int | None = None, witnesses: dict[str, Key] | None = None, at: int = 1_772_546_400) -> bytes:
        """The signed note over the first `size` entries, cosigned by these witnesses."""
        size = len(self.entries) if size is None else size
        text = f"{self.ledger}\n{size}\n{b64(tree_root(self.leaves[:size]))}\n"
        lines = [_line(self.ledger, b"\1", by, by.sign(text.encode()))]
        for name, witness in (witnesses or {}).items():
            cosigned = witness.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
            lines.append(_line(name, b"\4", witness, at.to_bytes(8) + cosigned))
        return f"{text}\n{''.join(lines)}".encode()

    # -- keys

    def key_added(self, key: Key, role: str, holder: str | None = None, root: Key = ROOT, by: Key = SERVICE, **members: Any) -> int:
        authorisation = f"aureus key authorised\n{self.ledger}\n{role}\n{key.id}\nclient\n{holder or ''}\n"
        data = {
            **self._key(key, role),
            "authorised_by": root.id,
            "authorisation": b64(root.sign(authorisation.encode())),
            "proof": b64(key.sign(f"aureus key\n{self.ledger}\n{role}\n{key.id}\n".encode())),
        }
        return self.append("keys.key_added", data | ({"holder": holder} if holder else {}), by, **KEYS, schema=2, **members)

    def key_rotated(self, old: Key, new: Key, role: str, by: Key = SERVICE, **members: Any) -> int:
        statement = f"aureus key rotated\n{self.ledger}\n{role}\n{old.id}\n{new.id}\nclient\n".encode()
        signed = {"proof": b64(new.sign(statement)), "consent": b64(old.sign(statement))}
        return self.append("keys.key_rotated", {**self._key(new, role), **signed, "old_key_id": old.id}, by, **KEYS, **members)

    def key_revoked(self, key: Key, since: int | None = None, by: Key = SERVICE, **members: Any) -> int:
        data = {"key_id": key.id, "reason": "lost"} | ({"compromised_since": since} if since is not None else {})
        return self.append("keys.key_revoked", data, by, **KEYS, **members)

    def _key(self, key: Key, role: str) -> dict[str, Any]:
        return {"key_id": key.id, "algorithm": "ed25519", "role": role, "custody": "client", "public": b64(key.public)}

    # -- actions

    def action(
        self,
        actor: str,
        signer: Key | None,
        nonce: int = 0,
        kind: str = "action_allowed",
        *,
        told: dict[str, Any] | None = None,
        **members: Any,
    ) -> int:
        """An action, with the actor's own signature on what it asked for when there is a signer; `told` is what it says of its outcome."""
        position, inputs = len(self.entries) + 1, {"budget_id": "lake"}
        digest = sha256(canonical({"command": "budgets.close_budget", "intent": inputs})).hex()
        intent = {"command": "budgets.close_budget", "digest": digest, "inputs": inputs}
        data: dict[str, Any] = {"intent": intent, **(told or {})}
        if signer is not None:
            asked = {"nonce": str(UUID(int=nonce or position)), "at": "2026-03-03T14:00:00.000000Z"}
            said = {
                "v": 1,
                "ledger": self.ledger,
                "tenant": "acme",
                "actor": actor,
                "command": intent["command"],
                "digest": digest,
                **asked,
            }
            data["signature"] = {**asked, "key_id": signer.id, "sig": b64(signer.sign(pae(REQUEST_TYPE, canonical(said))))}
        stream = members.pop("stream", f"action:{UUID(int=position)}")
        return self.append(f"actions.{kind}", data, stream=stream, actor=actor, schema=3, **members)


def _line(name: str, kind: bytes, key: Key, signature: bytes) -> str:
    key_id = sha256(name.encode(), b"\n", kind, key.public)[:4]
    return f"\u2014 {name} {b64(key_id + signature)}\n"


def verifier_key(name: str, key: Key) -> str:
    """A witness's key, as a trust file names it."""
    return f"{name}+{sha256(name.encode(), chr(10).encode(), bytes([4]), key.public)[:4].hex()}+{b64(bytes([4]) + key.public)}"
