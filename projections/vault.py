"""The vault as people read it: grants, what was shown to whom, what wraps its keys, and which events hold personal fields of whom."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final

from domain.contexts import CONTEXTS
from domain.kernel import EVENTS, Event, Recorded, timestamp
from domain.keys import SYSTEM_TENANT
from domain.vault import KeyEncryptionKeyRotated, UnmaskingGranted, UnmaskingRevoked, ValuesDisclosed, VaultKeysRewrapped
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class UnmaskingGrantRow:
    """Who may see personal values kept for which purposes, of one subject or (None) of all, and until when."""

    grant_id: str
    actor_id: str
    purposes: list[str]
    subject_id: str | None
    fields: list[str]
    until: str
    reason: str
    status: str
    granted_by: str
    granted_at: str
    revoked_by: str | None
    revoked_at: str | None


@read_row
class ValueDisclosureRow:
    """Which personal values were shown to whom, under which grant; not what they say."""

    disclosure_id: str
    subject_id: str
    purposes: list[str]
    grant_id: str
    fields: list[dict[str, Any]]
    disclosed_to: str
    disclosed_at: str
    position: int
    reason: str


@read_row
class KeyEncryptionKeyRow:
    """A key-encryption key that was rotated to; `rewrapped` once everything is wrapped under it, `rewrapping` until then."""

    kek: str
    previous: str
    status: str
    rotated_by: str
    rotated_at: str
    rewrapped_at: str | None
    keys: int | None
    webhook_secrets: int | None
    damaged: int | None


@read_row
class PersonalEventRow:
    """An event that has room for personal fields of a subject; whether they were filled in, the vault knows."""

    subject_id: str
    position: int
    event_type: str
    purposes: list[str]
    recorded_at: str


unmasking_grants = ReadTable(
    "unmasking_grants",
    UnmaskingGrantRow,
    filters=("status", "actor_id", "subject_id", "granted_by"),
    sorts=("until", "granted_at"),
    search=("grant_id", "reason"),
)
value_disclosures = ReadTable(
    "value_disclosures",
    ValueDisclosureRow,
    filters=("subject_id", "disclosed_to", "grant_id"),
    sorts=("disclosed_at",),
    search=("disclosure_id", "reason"),
    immutable=True,
)
key_encryption_keys = ReadTable(
    "key_encryption_keys", KeyEncryptionKeyRow, filters=("status",), sorts=("rotated_at",), tenant=SYSTEM_TENANT
)
personal_events = ReadTable("personal_events", PersonalEventRow, filters=("subject_id",), sorts=("position",), immutable=True)


@unmasking_grants.on(UnmaskingGranted)
def granted(_row: None, recorded: Recorded[UnmaskingGranted], grant_id: str) -> UnmaskingGrantRow:
    event = recorded.event
    return UnmaskingGrantRow(
        grant_id=grant_id,
        actor_id=event.actor_id,
        purposes=list(event.purposes),
        subject_id=event.subject_id,
        fields=list(event.fields),
        until=timestamp(event.until),
        reason=event.reason,
        status="granted",
        granted_by=recorded.actor,
        granted_at=recorded.at_text,
        revoked_by=None,
        revoked_at=None,
    )


@unmasking_grants.on(UnmaskingRevoked)
def revoked(row: UnmaskingGrantRow, recorded: Recorded[UnmaskingRevoked], _grant_id: str) -> UnmaskingGrantRow:
    return replace(row, status="revoked", revoked_by=recorded.actor, revoked_at=recorded.at_text)


@value_disclosures.on(ValuesDisclosed)
def disclosed(_row: None, recorded: Recorded[ValuesDisclosed], disclosure_id: str) -> ValueDisclosureRow:
    event = recorded.event
    return ValueDisclosureRow(
        disclosure_id=disclosure_id,
        subject_id=event.subject_id,
        purposes=list(event.purposes),
        grant_id=event.grant_id,
        fields=[field.model_dump() for field in event.fields],
        disclosed_to=event.disclosed_to,
        disclosed_at=recorded.at_text,
        position=recorded.position,
        reason=event.reason,
    )


def _kek(recorded: Recorded[KeyEncryptionKeyRotated | VaultKeysRewrapped]) -> Iterable[str]:
    return (recorded.event.kek,)


@key_encryption_keys.on(KeyEncryptionKeyRotated, keys=_kek)
def rotated(_row: None, recorded: Recorded[KeyEncryptionKeyRotated], kek: str) -> KeyEncryptionKeyRow:
    return KeyEncryptionKeyRow(
        kek=kek,
        previous=recorded.event.previous,
        status="rewrapping",
        rotated_by=recorded.actor,
        rotated_at=recorded.at_text,
        rewrapped_at=None,
        keys=None,
        webhook_secrets=None,
        damaged=None,
    )


@key_encryption_keys.on(VaultKeysRewrapped, keys=_kek)
def rewrapped(row: KeyEncryptionKeyRow, recorded: Recorded[VaultKeysRewrapped], _kek: str) -> KeyEncryptionKeyRow:
    event = recorded.event
    return replace(
        row,
        status="rewrapped",
        rewrapped_at=recorded.at_text,
        keys=event.keys,
        webhook_secrets=event.webhook_secrets,
        damaged=event.damaged,
    )


def _personal() -> tuple[type[Event], ...]:
    """Every event that has personal fields, of all contexts."""
    for context in CONTEXTS:
        import_module(f"domain.{context}")
    return tuple(event for event in EVENTS if event.personal)


PERSONAL: Final = _personal()


def _rows(recorded: Recorded[Event]) -> Iterable[str]:
    event = recorded.event
    subjects = {getattr(event, mark.subject) for mark in event.personal.values()} - {None}
    return [f"{subject}@{recorded.position:019d}" for subject in sorted(subjects)]


@personal_events.on(*PERSONAL, keys=_rows)
def held(_row: None, recorded: Recorded[Event], row_id: str) -> PersonalEventRow:
    subject, event = row_id.rpartition("@")[0], recorded.event
    purposes = {mark.purpose for mark in event.personal.values() if getattr(event, mark.subject) == subject}
    return PersonalEventRow(subject, recorded.position, event.event_name, sorted(purposes), recorded.at_text)


PROJECTION: Final = Projection("vault", (unmasking_grants, value_disclosures, key_encryption_keys, personal_events), ordering="stream")
