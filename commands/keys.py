"""What may be asked about keys, and when the answer is yes: the root lets them in, holders hand them on, and what is lost is taken out."""

import base64
import binascii
import hashlib
from typing import Annotated, Any, Final, Literal, assert_never

from pydantic import AfterValidator, Field, StringConstraints

from domain.access import Registration
from domain.kernel import Asked, Command, Decider, JsonObject, require
from domain.keys import (
    KEY_STREAM,
    KEYS_CATEGORY,
    SYSTEM_TENANT,
    Custody,
    Key,
    KeyAdded,
    KeyEvent,
    KeyRevoked,
    KeyRing,
    KeyRole,
    KeyRotated,
    evolve,
    holder_of,
)
from domain.values import EVERYBODY, Role, Sha256, Text

KEYS_MAX: Final = 5
"""Of one holder at a time."""
_REASON_MAX: Final = 500


def _base64_of(size_bytes: int) -> AfterValidator:
    def check(text: str) -> str:
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != size_bytes or base64.b64encode(raw).decode() != text:
            raise ValueError(f"base64, with padding, of {size_bytes} bytes")
        return text

    return AfterValidator(check)


PublicKey = Annotated[str, _base64_of(32)]
Signature = Annotated[str, _base64_of(64)]
Holder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/=~-]*$", max_length=200)]
"""A tenant's actor, such as `acme/usr-ana`, or a witness's name, such as `witness.example.org/w1`: one line of what is signed."""


class AddKey(Command, name="keys.add_key", roles=EVERYBODY):
    """Let a key in: an actor its own, an administrator that of a witness; the root key has to authorise it.

    `proof` is the new key's signature over its statement, `authorisation` the root key's; a server that has the root key
    adds that itself. The ledger's own keys are never added, only rotated: there is one of each at any time.
    """

    role: Literal["actor", "witness"]
    custody: Custody
    public: PublicKey
    proof: Signature
    holder: Holder
    authorised_by: Sha256 | None = None
    authorisation: Signature | None = None

    def intent(self) -> JsonObject:
        """What is asked; the root key's word on it is no part of the question, and stands in the event."""
        return {name: value for name, value in super().intent().items() if name not in {"authorised_by", "authorisation"}}

    def relies_on(self) -> tuple[str, ...]:
        return (f"actor:{_actor(self.holder)}",) if self.role == "actor" else ()

    @property
    def key_id(self) -> str:
        return key_id_of(self.public)

    def statement(self, ledger: str) -> bytes:
        """What the new key signs."""
        return KeyAdded.statement(ledger, self.role, self.key_id)

    def authorisation_statement(self, ledger: str) -> bytes:
        """What the root key signs."""
        return KeyAdded.authorisation_statement(ledger, self.role, self.key_id, self.custody, self.holder)


class RotateKey(Command, name="keys.rotate_key", roles=EVERYBODY):
    """Have one key take over from another: both sign that, so nobody else can; role and holder stay."""

    old_key_id: Sha256
    role: KeyRole
    custody: Custody
    public: PublicKey
    proof: Signature
    consent: Signature


class RevokeKey(Command, name="keys.revoke_key", roles=EVERYBODY):
    """Take a key out: its holder, or an administrator. What it signed since `compromised_since`, a position, is disputed."""

    restrains = True

    key_id: Sha256
    reason: Annotated[Text, Field(min_length=1, max_length=_REASON_MAX)]
    compromised_since: Annotated[int | None, Field(ge=1)] = None


KeyCommand = AddKey | RotateKey | RevokeKey


def key_id_of(public: str) -> str:
    """The id of a public key in base64: SHA-256, in hex, over the algorithm's name, a newline, and its 32 bytes."""
    return hashlib.sha256(b"ed25519\n" + base64.b64decode(public)).hexdigest()


def decide(ring: KeyRing, command: KeyCommand, asked: Asked) -> list[KeyEvent]:
    match command:
        case AddKey():
            return [_added(ring, command, asked)]
        case RotateKey():
            return [_rotated(ring, command, asked)]
        case RevokeKey():
            return [_revoked(ring, command, asked)]
        case _:
            assert_never(command)


def _added(ring: KeyRing, command: AddKey, asked: Asked) -> KeyAdded:
    key_id = command.key_id
    _require_new(ring, key_id)
    _require_custody(command.role, command.custody)
    _require_holder(command, asked)
    held = len(ring.active(command.role, command.holder))
    require(
        held < KEYS_MAX,
        "too_many_keys",
        f"{command.holder} has {held} keys in force.",
        field="holder",
        limit=KEYS_MAX,
        remedy="Rotate one of them, or revoke one first.",
    )
    _require_signed(asked, "proof", command.public, command.statement(asked.ledger), command.proof, "the new key")
    _require_authorised(ring, command, asked)
    return KeyAdded(key_id=key_id, **command.model_dump())


def _require_holder(command: AddKey, asked: Asked) -> None:
    """An actor adds keys of its own and nobody else's; a witness's is an administrator's to add."""
    if command.role == "witness":
        _require_admin(asked, "A witness's key")
        return
    require(
        command.holder == holder_of(asked.by.tenant, asked.by.actor),
        "key_of_another",
        f"{asked.by.actor} can add keys of its own, and of nobody else: whoever holds a key of an actor speaks for it.",
        field="holder",
        yours=holder_of(asked.by.tenant, asked.by.actor),
        remedy="Have the actor itself add it, under its tenant and its id.",
    )
    actor: Registration | None = asked.others.get(f"actor:{_actor(command.holder)}")
    require(
        actor is not None and actor.actor is not None,
        "actor_not_found",
        f"No actor {_actor(command.holder)} is registered.",
        field="holder",
        remedy="Have it registered first.",
    )


def _require_authorised(ring: KeyRing, command: AddKey, asked: Asked) -> None:
    statement = command.authorisation_statement(asked.ledger)
    roots = {key.key_id: key for key in ring.active("root")}
    facts = {"field": "authorisation", "root_keys": sorted(roots), "sign": statement.decode()}
    require(
        command.authorised_by is not None and command.authorisation is not None,
        "authorisation_missing",
        "The root key has not authorised this key.",
        **facts,
        remedy="Have its keeper sign `sign` (`aureus keys authorise`), and ask again with authorised_by and authorisation.",
    )
    assert command.authorised_by is not None
    assert command.authorisation is not None
    root = roots.get(command.authorised_by)
    require(
        root is not None and asked.signed(base64.b64decode(root.public), statement, base64.b64decode(command.authorisation)),
        "authorisation_wrong",
        "The authorisation is not the signature of a root key in force over exactly this key, role, custody and holder.",
        **facts,
        remedy="Sign `sign`, its line feeds included, with the root key.",
    )


def _rotated(ring: KeyRing, command: RotateKey, asked: Asked) -> KeyRotated:
    old = _known(ring, command.old_key_id, "old_key_id")
    require(
        old.status == "active",
        "key_not_active",
        f"Key {_short(old.key_id)} was {old.status}: it hands nothing on any more.",
        field="old_key_id",
        remedy="Rotate a key in force, or add a new one.",
    )
    require(
        command.role == old.role,
        "role_differs",
        f"Key {_short(old.key_id)} is a {old.role} key, and stays one in other hands.",
        field="role",
        remedy=f"State the role {old.role}.",
    )
    key_id = key_id_of(command.public)
    _require_new(ring, key_id)
    _require_custody(old.role, command.custody)
    _require_hold(old, asked, administrators=False)
    statement = KeyRotated.statement(asked.ledger, old.role, old.key_id, key_id, command.custody)
    _require_signed(asked, "proof", command.public, statement, command.proof, "the new key")
    _require_signed(asked, "consent", old.public, statement, command.consent, "the old key")
    return KeyRotated(key_id=key_id, holder=old.holder, **command.model_dump())


def _revoked(ring: KeyRing, command: RevokeKey, asked: Asked) -> KeyRevoked:
    key = _known(ring, command.key_id, "key_id")
    require(
        key.status != "revoked",
        "key_revoked",
        f"Key {_short(key.key_id)} was revoked before, and stays so.",
        field="key_id",
        remedy="Nothing is left to do.",
    )
    _require_hold(key, asked, administrators=True)
    require(
        key.role != "root",
        "root_not_revocable",
        "The root key cannot be revoked: nobody could let a key in after it.",
        field="key_id",
        remedy="Rotate it: from there on the old one authorises nothing.",
    )
    require(
        key.role not in {"log", "service"} or key.status != "active",
        "key_in_use",
        f"{_short(key.key_id)} is the ledger's {key.role} key: without it nothing could be written any more.",
        field="key_id",
        role=key.role,
        remedy=f"Rotate it first (`aureus keys rotate-server {key.role}`), then revoke it.",
    )
    return KeyRevoked(**command.model_dump())


def _actor(holder: str) -> str:
    return holder.rpartition("/")[2]


def _known(ring: KeyRing, key_id: str, field: str) -> Key:
    key = ring.keys.get(key_id)
    require(key is not None, "key_not_found", f"The ledger has no key {_short(key_id)}.", field=field, remedy="List them to see their ids.")
    assert key is not None
    return key


def _require_new(ring: KeyRing, key_id: str) -> None:
    known = ring.keys.get(key_id)
    require(
        known is None,
        "key_exists",
        f"Key {_short(key_id)} is in the ledger already{f', {known.status}' if known else ''}: no key enters twice.",
        field="public",
        key_id=key_id,
        remedy="Make a new key.",
    )


def _require_custody(role: str, custody: str) -> None:
    require(
        role not in {"actor", "witness"} or custody != "server",
        "custody_of_role",
        f"A key of role {role} is worth something only as long as this server does not have it.",
        field="custody",
        remedy="Keep it with its holder (client), or in a device or service of theirs (kms).",
    )


def _require_signed(asked: Asked, field: str, public: str, statement: bytes, signature: str, whose: str) -> None:
    require(
        asked.signed(base64.b64decode(public), statement, base64.b64decode(signature)),
        f"{field}_wrong",
        f"The {field} is not a signature of {whose} over its statement.",
        field=field,
        sign=statement.decode(),
        remedy=f"Sign `sign`, its line feeds included, with {whose}.",
    )


def _require_hold(key: Key, asked: Asked, *, administrators: bool) -> None:
    """An actor's key is its own to change; all others, and revocations in one's own tenant, are an administrator's as well."""
    if key.role == "actor" and key.holder == holder_of(asked.by.tenant, asked.by.actor):
        return
    of_tenant = (key.holder or "").rpartition("/")[0] == asked.by.tenant
    if key.role != "actor" or (administrators and of_tenant):
        _require_admin(asked, f"Key {_short(key.key_id)}")
        return
    require(
        False,
        "key_of_another",
        f"Key {_short(key.key_id)} is {key.holder}'s: nobody else hands it on.",
        field="old_key_id",
        remedy="Ask its holder, or have it revoked.",
    )


def _require_admin(asked: Asked, what: str) -> None:
    require(
        Role.ADMIN in asked.by.roles,
        "key_of_another",
        f"{what} is not yours to manage.",
        remedy="Ask an administrator.",
    )


def _short(key_id: str) -> str:
    return key_id[:16]


def _facts(ring: KeyRing, command: KeyCommand) -> dict[str, Any]:
    match command:
        case AddKey() | RotateKey():
            return {"key_role": command.role, "custody": command.custody}
        case RevokeKey():
            key = ring.keys.get(command.key_id)
            return {"key_role": key.role if key else None, "compromised": command.compromised_since is not None}


DECIDER: Decider[KeyRing, KeyCommand, KeyEvent] = Decider(
    context="keys",
    category=KEYS_CATEGORY,
    initial=KeyRing(),
    evolve=evolve,
    decide=decide,
    commands=(AddKey, RotateKey, RevokeKey),
    events=(KeyAdded, KeyRotated, KeyRevoked),
    entity=lambda _command: KEY_STREAM.partition(":")[2],
    facts=_facts,
    tenant=SYSTEM_TENANT,
)
