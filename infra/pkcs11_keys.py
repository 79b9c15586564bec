"""Keys in a PKCS#11 token (an HSM): Aureus has them sign, and never sees their private part."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, PKCS11Error, Session, Token

from domain.keys import Custody
from domain.ledger import LedgerUnavailable
from infra.keystore import LEDGER_ROLES, FileKeystore, KeystoreError, key_id, verify
from infra.settings import Settings, TokenPlace

PIN: Final = "AUREUS_PKCS11_PIN"
REST_SECONDS: Final = 1.0
"""Between two attempts to find a token again that is gone: each may take long, and everybody waits for it."""

_ED25519: Final = bytes.fromhex("06032b6570")
"""CKA_EC_PARAMS: the DER of the curve's OID, 1.3.101.112 (RFC 8410)."""
_CHECK: Final = b"aureus key check\n"
_LIBRARY: Final = threading.RLock()
"""A PKCS#11 library keeps one state for the whole process, logins included, so one thread at a time is in it."""
_REFUSED: Final = (pkcs11.PinExpired, pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked)
T = TypeVar("T")


class _PrivateKey(Protocol):
    """A private key's handle, valid as long as the session it was found in."""

    def __getitem__(self, attribute: Attribute) -> Any: ...
    def sign(self, data: bytes, *, mechanism: Mechanism) -> bytes: ...


def open_keystore(settings: Settings) -> FileKeystore:
    """The keys of this Aureus: in files, and in a token where the settings say so. Raises KeystoreError."""
    place = settings.token_place
    return FileKeystore.open(settings.keys_dir, hardware=None if place is None else Pkcs11Keys(place))


def label_of(role: str) -> str:
    """What a role's keys are labelled in a token."""
    return f"aureus-{role}"


@dataclass(frozen=True, slots=True)
class Pkcs11Signer:
    """One key of a token. Signing raises LedgerUnavailable when the token is not to be had, or signs wrongly."""

    role: str
    public: bytes
    key_id: str
    keys: Pkcs11Keys = field(repr=False, compare=False)

    @property
    def custody(self) -> Custody:
        return "kms"

    def sign(self, message: bytes) -> bytes:
        return self.keys.sign(self, message)


class Pkcs11Keys:
    """Implements `infra.keystore.HardwareKeys` with one token, to which it finds back by itself when it was gone."""

    def __init__(self, place: TokenPlace) -> None:
        self._place = place
        self._keys: dict[str, tuple[Pkcs11Signer, _PrivateKey]] = {}
        self._session: Session | None = None
        self._rests_until = 0.0
        self._lost: KeystoreError | None = None
        """Why the token is not to be had."""
        with _LIBRARY:
            self._token = self._connected()

    @property
    def roles(self) -> tuple[str, ...]:
        return self._place.roles

    def signers(self, role: str) -> Sequence[Pkcs11Signer]:
        """Its keys of a role now, in the order of their ids. Raises KeystoreError."""
        with _LIBRARY:
            self._persistently(self._look)
            return sorted((signer for signer, _ in self._keys.values() if signer.role == role), key=lambda signer: signer.key_id)

    def generate(self, role: str) -> Pkcs11Signer:
        """A new key of a role, which can never leave the token. Raises KeystoreError."""
        with _LIBRARY:
            before = self.signers(role)
            self._persistently(lambda: self._generate(label_of(role)))
            return next(signer for signer in self.signers(role) if signer not in before)

    def sign(self, signer: Pkcs11Signer, message: bytes) -> bytes:
        """The key's signature, which holds. Raises LedgerUnavailable."""
        try:
            with _LIBRARY:
                return self._persistently(lambda: self._signature(signer, message))
        except KeystoreError as error:
            said = f"The {signer.role} key does not sign: the token {error.rule}"
            raise LedgerUnavailable("signer_unavailable", said, error.remedy) from error

    # -- the connection

    def _persistently(self, question: Callable[[], T]) -> T:
        """The token's answer, if need be after finding back to it. Raises KeystoreError."""
        resting = time.monotonic() < self._rests_until
        if self._lost is None:
            try:
                return question()
            except (PKCS11Error, KeystoreError) as error:
                if resting:
                    raise self._refusal(error) from error
        elif resting or self._lost.field == PIN:
            # A token that is shown a wrong PIN again and again locks itself.
            raise self._lost.with_traceback(None)
        self._reconnect()
        try:
            return question()
        except PKCS11Error as error:
            raise self._refusal(error) from error

    def _reconnect(self) -> None:
        self._rests_until = time.monotonic() + REST_SECONDS
        self._keys, self._session = {}, None
        with suppress(PKCS11Error):
            # Only a library that begins anew looks for tokens anew: SoftHSM would never find its keys again otherwise.
            pkcs11.lib(str(self._place.module)).finalize()
        try:
            self._token, self._lost = self._connected(), None
        except KeystoreError as error:
            self._lost = error
            raise

    def _connected(self) -> Token:
        """The token, with this process logged in to it."""
        try:
            library = pkcs11.lib(str(self._place.module))
        except PKCS11Error as error:
            rule = f"{self._place.module} does not work: {_said(error)}."
            remedy = "Name the PKCS#11 library that came with your HSM, and set up what it needs."
            raise KeystoreError("AUREUS_PKCS11_MODULE", rule, remedy) from error
        try:
            there = [token for token in library.get_tokens() if token.label]
            named = [token for token in there if token.label == self._place.label]
            if len(named) != 1:
                labels = ", ".join(repr(token.label) for token in there) or "none"
                rule = f"is {'there more than once' if named else 'not there'} (there is: {labels})."
                raise self._wrong(rule, "Put it in, or name another.")
            if Mechanism.EDDSA not in named[0].slot.get_mechanisms():
                raise self._wrong("cannot sign with Ed25519 (CKM_EDDSA).", "Use a token that can.")
            with suppress(pkcs11.UserAlreadyLoggedIn):
                named[0].open(user_pin=self._place.pin)  # and stays open: with its session the login would end
        except _REFUSED as error:
            raise KeystoreError(PIN, f"{self._place.label!r} refuses the PIN: {_said(error)}.", "Set the PIN of its user.") from error
        except PKCS11Error as error:
            raise self._refusal(error) from error
        return named[0]

    def _wrong(self, rule: str, remedy: str) -> KeystoreError:
        return KeystoreError("AUREUS_PKCS11_TOKEN", f"{self._place.label!r} {rule}", remedy)

    def _refusal(self, error: PKCS11Error | KeystoreError) -> KeystoreError:
        if isinstance(error, KeystoreError):
            return error
        return self._wrong(f"fails: {_said(error)}.", "See to the token; Aureus finds back to it by itself.")

    # -- what is in the token

    def _look(self) -> None:
        """Learns the keys that are labelled for a role of the ledger."""
        if self._session is not None:
            with suppress(PKCS11Error):
                self._session.close()
        # Logged in is the whole process, so each look has a session of its own: to open one fails if the token is gone,
        # and a search does not.
        session = self._session = self._token.open()
        self._keys = {}
        for role in LEDGER_ROLES:
            wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.LABEL: label_of(role)}
            for private in cast("list[_PrivateKey]", list(session.get_objects(wanted))):
                signer = self._checked(role, private, _public_parts(session, private))
                self._keys[signer.key_id] = signer, private

    def _checked(self, role: str, private: _PrivateKey, points: list[bytes]) -> Pkcs11Signer:
        if private[Attribute.EXTRACTABLE] or not private[Attribute.SENSITIVE]:
            rule = f"has a key {label_of(role)} that can be taken out of it."
            raise self._wrong(rule, f"Destroy it, and make another: aureus keys pkcs11 generate --role {role}")
        proof = private.sign(_CHECK, mechanism=Mechanism.EDDSA)
        for public in points:
            if verify(public, _CHECK, proof):
                return Pkcs11Signer(role, public, key_id(public), self)
        raise self._wrong(f"has a key {label_of(role)} without its public part.", "Put its public key back, under the same CKA_ID.")

    def _generate(self, label: str) -> None:
        session = self._token.open(rw=True)
        curve = session.create_domain_parameters(KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: _ED25519}, local=True)
        curve.generate_keypair(
            id=os.urandom(16),
            label=label,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )
        session.close()

    def _signature(self, signer: Pkcs11Signer, message: bytes) -> bytes:
        if signer.key_id not in self._keys:
            self._look()
        if signer.key_id not in self._keys:
            raise self._wrong(f"does not have the key {signer.key_id[:16]}.", "Put in the token that has it.")
        signature = self._keys[signer.key_id][1].sign(message, mechanism=Mechanism.EDDSA)
        # What is appended can never be taken back, and an Ed25519 key can be computed from two signatures of one message
        # if a fault spoilt one of them. Nor does a handle surely lead to the same key once others began the library anew.
        if not verify(signer.public, message, signature):
            raise self._wrong("makes signatures that do not hold.", "Have it examined: it is not to be trusted.")
        return signature


def _public_parts(session: Session, private: _PrivateKey) -> list[bytes]:
    """The public keys beside a private one: 32 bytes each, which tokens give as they are, or as a DER string of octets or bits."""
    wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.ID: private[Attribute.ID]}
    points = [bytes(public[Attribute.EC_POINT]) for public in list(session.get_objects(wanted))]
    return [point[-32:] for point in points if point[:-32] in {b"", b"\x04\x20", b"\x03\x21\x00"}]


def _said(error: PKCS11Error) -> str:
    """What the library said: most of its errors are a name and nothing more."""
    return str(error) or type(error).__name__
