"""What may be asked of the vault: leave to see personal values, the values themselves, and another key that wraps its keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final, assert_never

from pydantic import AwareDatetime, Field

from domain.access import ActorId
from domain.exports import Count
from domain.kernel import EVENTS, Asked, Command, Decider, JsonObject, require
from domain.keys import SYSTEM_TENANT
from domain.values import PEOPLE, Identifier, Label, Role, Text
from domain.vault import (
    FIELDS_MAX,
    REWRAPPER,
    Disclosed,
    DisclosureId,
    Grant,
    GrantEvent,
    GrantId,
    KekId,
    KeyEncryptionKeyRotated,
    KeysEvent,
    Purposes,
    ShownField,
    UnmaskingGranted,
    UnmaskingRevoked,
    ValuesDisclosed,
    VaultKeysRewrapped,
    Wrapping,
    evolve_disclosed,
    evolve_grant,
    evolve_wrapping,
)

STEWARDS: Final = frozenset({Role.ADMIN, Role.APPROVER})
ADMINS: Final = frozenset({Role.ADMIN})
Reason = Annotated[Text, Field(min_length=1, max_length=500)]


class GrantUnmasking(Command, name="vault.grant_unmasking", roles=STEWARDS):
    """Let somebody else see personal values kept for some purposes, of one subject or of all, until a moment."""

    grant_id: GrantId
    actor_id: ActorId
    purposes: Purposes
    subject_id: Identifier | None = None
    all_subjects: bool = False
    fields: Annotated[tuple[Label, ...], Field(max_length=50)] = ()
    until: AwareDatetime
    reason: Reason

    def relies_on(self) -> tuple[str, ...]:
        return (f"actor:{self.actor_id}",)


class RevokeUnmasking(Command, name="vault.revoke_unmasking", roles=STEWARDS):
    """Take such leave away before it ends."""

    restrains = True

    grant_id: GrantId
    reason: Reason


class DiscloseValues(Command, name="vault.disclose_values", roles=PEOPLE):
    """See a subject's personal values, under a grant; that they were shown is on record before they are.

    Without `grant_id` the grant that covers it is taken; without `fields`, all that are kept for these purposes.
    """

    disclosure_id: DisclosureId
    subject_id: Identifier
    purposes: Purposes
    grant_id: GrantId | None = None
    fields: Annotated[tuple[ShownField, ...], Field(max_length=FIELDS_MAX)] = ()
    reason: Reason

    def relies_on(self) -> tuple[str, ...]:
        return (f"unmasking:{self.grant_id}",) if self.grant_id is not None else ()


class RotateKeyEncryptionKey(Command, name="vault.rotate_key_encryption_key", roles=ADMINS):
    """Wrap the vault's keys under a new key-encryption key, which the server makes: new ones at once, the others in the background."""

    kek: KekId | None = None
    previous: KekId | None = None


class RecordRewrap(Command, name="vault.record_rewrap", roles=ADMINS):
    """Put on record that everything is wrapped under the key that was rotated to."""

    restrains = True

    kek: KekId
    keys: Count
    webhook_secrets: Count
    damaged: Count = 0


def decide_grant(grant: Grant, command: GrantUnmasking | RevokeUnmasking, asked: Asked) -> list[GrantEvent]:
    match command:
        case GrantUnmasking():
            return [_granted(grant, command, asked)]
        case RevokeUnmasking():
            status = grant.status(asked.at)
            missing = f"There is no grant {command.grant_id}."
            require(status != "unknown", "grant_not_found", missing, field="grant_id", remedy="List them to see their ids.")
            over = f"Grant {command.grant_id} is {status} already."
            require(status == "active", f"grant_{status}", over, field="grant_id", remedy="Nothing has to be taken away.")
            return [UnmaskingRevoked(**command.model_dump())]
        case _:
            assert_never(command)


def _granted(grant: Grant, command: GrantUnmasking, asked: Asked) -> UnmaskingGranted:
    require(
        grant.given is None,
        "grant_exists",
        f"There is a grant {command.grant_id} already.",
        field="grant_id",
        remedy="Choose another id.",
    )
    require(
        command.actor_id != asked.by.actor,
        "grant_to_oneself",
        "Nobody lets themselves see personal values.",
        field="actor_id",
        remedy="Ask another administrator or approver.",
    )
    require(
        asked.others[f"actor:{command.actor_id}"].actor is not None,
        "actor_not_found",
        f"There is no actor {command.actor_id}.",
        field="actor_id",
        remedy="`aureus actors list` shows those there are.",
    )
    require(
        (command.subject_id is None) == command.all_subjects,
        "grant_of_whom",
        "A grant is of one subject, or of all: one of the two has to be named.",
        field="subject_id",
        remedy="Name `subject_id`, or set `all_subjects`.",
    )
    require(
        command.until > asked.at,
        "grant_expired",
        "The grant would end before it begins.",
        field="until",
        now=asked.at.isoformat(),
        remedy="Let it end in the future.",
    )
    _require_purposes(command.purposes)
    _require_fields(command.fields)
    return UnmaskingGranted(**command.model_dump(exclude={"all_subjects"}))


def _require_purposes(purposes: Collection[str]) -> None:
    known = sorted({mark.purpose for event in EVENTS for mark in event.personal.values()})
    for purpose in purposes:
        require(
            purpose in known,
            "purpose_not_found",
            f"Nothing personal is kept for {purpose}.",
            field="purposes",
            known=known,
            remedy="Name one that values are kept for.",
        )


def _require_fields(names: Collection[str]) -> None:
    known = sorted({name for event in EVENTS for name in event.personal})
    for name in names:
        require(
            name in known,
            "field_not_found",
            f"No personal field is called {name}.",
            field="fields",
            known=known,
            remedy="Name one that is, or none: then all may be seen.",
        )


def decide_disclosure(disclosed: Disclosed, command: DiscloseValues, asked: Asked) -> list[ValuesDisclosed]:
    require(
        not disclosed.made,
        "disclosure_exists",
        f"There was a disclosure {command.disclosure_id} already.",
        field="disclosure_id",
        remedy="Choose another id: each disclosure is one of its own.",
    )
    _require_grant(command, asked)
    require(
        bool(command.fields),
        "values_not_found",
        f"Nothing is kept about {command.subject_id} for {', '.join(command.purposes)}: nothing ever was, or it was erased.",
        field="subject_id",
        remedy=f"`aureus vault values {command.subject_id}` shows what is on record.",
    )
    return [ValuesDisclosed(**command.model_dump(), disclosed_to=asked.by.actor)]


def _require_grant(command: DiscloseValues, asked: Asked) -> None:
    grant: Grant = asked.others[f"unmasking:{command.grant_id}"] if command.grant_id is not None else Grant()
    remedy = f"Have an administrator or approver grant it: aureus vault grant {asked.by.actor} --subject {command.subject_id}"
    given = grant.given
    require(
        given is not None and given.actor_id == asked.by.actor,
        "unmasking_not_granted",
        f"{asked.by.actor} has no leave to see personal values of {command.subject_id}.",
        field="grant_id",
        remedy=remedy,
    )
    assert given is not None
    status = grant.status(asked.at)
    ended = {"grant_id": command.grant_id, "until": given.until.isoformat(), "remedy": remedy}
    require(status == "active", f"grant_{status}", f"Grant {command.grant_id} is {status}.", field="grant_id", **ended)
    names = {field.name for field in command.fields}
    for rule, field, inside in (
        (f"{given.subject_id} alone", "subject_id", given.subject_id in (None, command.subject_id)),
        (f"the purposes {', '.join(given.purposes)}", "purposes", set(command.purposes) <= set(given.purposes)),
        (f"the fields {', '.join(given.fields)}", "fields", not given.fields or names <= set(given.fields)),
    ):
        message = f"Grant {command.grant_id} is for {rule}."
        require(inside, "grant_covers_less", message, field=field, grant_id=command.grant_id, remedy="Ask for less, or have more granted.")


def decide_wrapping(wrapping: Wrapping, command: RotateKeyEncryptionKey | RecordRewrap, asked: Asked) -> list[KeysEvent]:
    match command:
        case RotateKeyEncryptionKey():
            require(
                command.kek is not None and command.previous is not None and command.kek not in {*wrapping.keks, command.previous},
                "key_encryption_key_known",
                f"The key-encryption key {command.kek} is none that could be rotated to: it is not there, or was in use before.",
                field="kek",
                remedy="Leave it out: the server makes a new one.",
            )
            return [KeyEncryptionKeyRotated(**command.model_dump())]
        case RecordRewrap():
            require(
                asked.by.actor == REWRAPPER,
                "only_aureus_itself",
                "Aureus itself says what it has wrapped again; nobody says it in its place.",
                remedy="Rotate the key: the rest follows.",
            )
            latest = wrapping.keks[-1] if wrapping.keks else None
            require(
                command.kek == latest and not wrapping.done,
                "nothing_to_rewrap",
                f"No rotation to {command.kek} is under way.",
                field="kek",
                remedy="Rotate the key first.",
            )
            return [VaultKeysRewrapped(**command.model_dump())]
        case _:
            assert_never(command)


def _grant_facts(_grant: Grant, command: GrantUnmasking | RevokeUnmasking) -> JsonObject:
    """How far it reaches; whose data it is, is not for policies to know."""
    if not isinstance(command, GrantUnmasking):
        return {}
    return {"purposes": sorted(command.purposes), "all_subjects": command.all_subjects, "fields": sorted(command.fields)}


def _disclosure_facts(_disclosed: Disclosed, command: DiscloseValues) -> JsonObject:
    return {"purposes": sorted(command.purposes)}


GRANTS: Final[Decider[Grant, GrantUnmasking | RevokeUnmasking, GrantEvent]] = Decider(
    context="vault",
    category="unmasking",
    initial=Grant(),
    evolve=evolve_grant,
    decide=decide_grant,
    commands=(GrantUnmasking, RevokeUnmasking),
    events=(UnmaskingGranted, UnmaskingRevoked),
    entity=lambda command: command.grant_id,
    facts=_grant_facts,
)
DISCLOSURES: Final[Decider[Disclosed, DiscloseValues, ValuesDisclosed]] = Decider(
    context="vault",
    category="disclosure",
    initial=Disclosed(),
    evolve=evolve_disclosed,
    decide=decide_disclosure,
    commands=(DiscloseValues,),
    events=(ValuesDisclosed,),
    entity=lambda command: command.disclosure_id,
    facts=_disclosure_facts,
)
WRAPPING: Final[Decider[Wrapping, RotateKeyEncryptionKey | RecordRewrap, KeysEvent]] = Decider(
    context="vault",
    category="vault",
    initial=Wrapping(),
    evolve=evolve_wrapping,
    decide=decide_wrapping,
    commands=(RotateKeyEncryptionKey, RecordRewrap),
    events=(KeyEncryptionKeyRotated, VaultKeysRewrapped),
    entity=lambda _command: "keys",
    tenant=SYSTEM_TENANT,
)
DECIDERS: Final[tuple[Decider[Any, Any, Any], ...]] = (GRANTS, DISCLOSURES, WRAPPING)
