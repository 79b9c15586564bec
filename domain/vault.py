"""The vault as people govern it: who may see personal values unmasked, what was shown to whom, and which key wraps the vault's keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from domain.access import ActorId
from domain.exports import BUILDER, Count, Position, Purpose
from domain.kernel import Event
from domain.values import Identifier, Label, Text

REWRAPPER: Final = BUILDER
"""Wraps the vault's keys again, and says so: Aureus itself, and nobody else."""
WRAPPING_STREAM: Final = "vault:keys"
FIELDS_MAX: Final = 500
"""Of one disclosure: what is shown at once is to be read, and stands in one event."""

GrantId = Identifier
DisclosureId = Identifier
KekId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""The first 16 hex digits of a key-encryption key's SHA-256."""
Purposes = Annotated[tuple[Purpose, ...], Field(min_length=1, max_length=20)]


class ShownField(BaseModel):
    """One personal field of one event: where it stands, and what it is called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: Position
    name: Label


class UnmaskingGranted(Event, name="vault.unmasking_granted"):
    """An actor may see personal values kept for these purposes, of one subject or (None) of all, until a moment.

    `fields` are the names of those it may see; none named: all.
    """

    grant_id: GrantId
    actor_id: ActorId
    purposes: Purposes
    subject_id: Identifier | None = None
    fields: tuple[Label, ...] = ()
    until: AwareDatetime
    reason: Text


class UnmaskingRevoked(Event, name="vault.unmasking_revoked"):
    """The grant lets nobody see anything any more."""

    grant_id: GrantId
    reason: Text


class ValuesDisclosed(Event, name="vault.values_disclosed"):
    """These values were shown to an actor, under a grant; which fields they are stands here, what they say does not."""

    disclosure_id: DisclosureId
    subject_id: Identifier
    purposes: Purposes
    grant_id: GrantId
    fields: tuple[ShownField, ...]
    disclosed_to: ActorId
    reason: Text


class KeyEncryptionKeyRotated(Event, name="vault.key_encryption_key_rotated"):
    """New keys of the vault are wrapped under another key-encryption key; those there are will be wrapped again."""

    kek: KekId
    previous: KekId


class VaultKeysRewrapped(Event, name="vault.keys_rewrapped"):
    """Every key of the vault, and every webhook's secret, is wrapped under this key-encryption key.

    `damaged` are keys that do not open, and were left as they are.
    """

    kek: KekId
    keys: Count
    webhook_secrets: Count
    damaged: Count = 0


GrantEvent = UnmaskingGranted | UnmaskingRevoked
KeysEvent = KeyEncryptionKeyRotated | VaultKeysRewrapped


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to see personal values, or none."""

    given: UnmaskingGranted | None = None
    revoked: bool = False

    def status(self, at: datetime) -> Literal["unknown", "active", "revoked", "expired"]:
        """How it stands at a moment."""
        if self.given is None:
            return "unknown"
        if self.revoked:
            return "revoked"
        return "active" if at < self.given.until else "expired"


def evolve_grant(grant: Grant, event: GrantEvent) -> Grant:
    match event:
        case UnmaskingGranted():
            return Grant(event)
        case UnmaskingRevoked():
            return replace(grant, revoked=True)
        case _:
            assert_never(event)


@dataclass(frozen=True, slots=True)
class Disclosed:
    """Whether a disclosure was made under this id."""

    made: bool = False


def evolve_disclosed(_disclosed: Disclosed, _event: ValuesDisclosed) -> Disclosed:
    return Disclosed(made=True)


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The key-encryption keys that were rotated to, the latest last, and whether all is wrapped under it."""

    keks: tuple[str, ...] = ()
    done: bool = True


def evolve_wrapping(wrapping: Wrapping, event: KeysEvent) -> Wrapping:
    match event:
        case KeyEncryptionKeyRotated():
            known = wrapping.keks or (event.previous,)
            return Wrapping((*known, event.kek), done=False)
        case VaultKeysRewrapped():
            return replace(wrapping, done=True)
        case _:
            assert_never(event)


def wrapping_of(events: Iterable[Any]) -> Wrapping:
    """The state that the events of the vault's keys lead to."""
    wrapping = Wrapping()
    for event in events:
        wrapping = evolve_wrapping(wrapping, event)
    return wrapping
