"""The vault over REST: personal values masked, or shown under a grant and on record; and the keys that they are sealed under."""

from collections import Counter
from typing import Annotated, Any, Final

import orjson
from fastapi import Path, Query
from pydantic import BaseModel

from api.asking import CommandAnswer
from api.errors import ApiError
from api.routing import ContextRouter, Own, Present, Reading
from api.services import Services, now
from commands.outcome import Outcome
from commands.path import Ask
from commands.vault import DiscloseValues, GrantUnmasking, RevokeUnmasking, RotateKeyEncryptionKey
from domain.kernel import Asker, JsonObject, timestamp
from domain.values import EVERYBODY, PEOPLE, Identifier, Role
from domain.vault import FIELDS_MAX, ShownField
from infra.key_files import KeystoreError
from infra.masking import masked
from infra.read_queries import ListQuery
from infra.vault_records import FieldState, State
from projections.vault import key_encryption_keys, personal_events, unmasking_grants, value_disclosures

OVERSEERS: Final = frozenset({Role.AUDITOR, Role.ADMIN})
PROBLEMS_MAX: Final = 1_000
SubjectId = Annotated[Identifier, Path(description="The subject's opaque id.")]


class ValueOnRecord(BaseModel):
    """A personal field on record: where it stands, and what became of it. `masked` is its outline, or a keyed hash.

    `name` is None where an erased or missing value could have been one of several fields.
    """

    position: int
    event_type: str
    at: str
    name: str | None
    purpose: str | None
    state: State
    masked: str | None


class ValuesOnRecord(BaseModel):
    """A page of them, in the order of the ledger; the page is of so many events."""

    items: list[ValueOnRecord]
    next_cursor: str | None
    position: int


class ShownValue(BaseModel):
    """A value as it is, unless it was erased, or taken away, since it was asked for."""

    position: int
    event_type: str
    at: str
    name: str
    purpose: str | None
    state: State
    value: Any = None


class DisclosureAnswer(CommandAnswer):
    """What became of the command, and the values."""

    values: list[ShownValue] = []


class WrappingKey(BaseModel):
    """A key-encryption key: how much is wrapped under it, and whether its file is where this server looks."""

    kek: str
    wraps: bool
    keys: int
    webhook_secrets: int
    here: bool


class VaultStatus(BaseModel):
    """How the vault stands. A key-encryption key that does not wrap, and under which nothing is left, may be removed."""

    wrapping: str
    rewrapping: bool
    keys_database: str
    keys_folder: str
    keks: list[WrappingKey]


class UnaccountedDigest(BaseModel):
    """A digest that is not as it should be: `missing` is kept nowhere and covered by no certificate, `damaged` was changed."""

    position: int
    event_type: str
    at: str
    state: State
    name: str | None
    subject: str | None
    problem: str | None


class VaultAccounting(BaseModel):
    """Every digest of the personal events after `after`, up to `until`, by state; `whole` when none is missing or damaged.

    Of events up to `accounted_from` decoys were not kept: there `cannot_tell` is a decoy, or a value that was taken away.
    """

    after: int
    until: int
    accounted_from: int
    events: int
    counts: dict[State, int]
    whole: bool
    problems: list[UnaccountedDigest]
    problems_left_out: int


async def _chosen(services: Services, asker: Asker, command: DiscloseValues) -> DiscloseValues:
    """With the grant that covers it, and the fields that are kept; what is asked for is judged by the rules, not here."""
    await services.wait_for(services.ledger.head.size)
    grant = await _grant(services, asker, command)
    kept = [
        field
        for field in await services.vault.vault.fields_of(services.vault.pool, asker.tenant, command.subject_id)
        if field.purpose in command.purposes
    ]
    if command.fields:
        known = {(field.position, field.name) for field in kept}
        for place, field in enumerate(command.fields):
            if (field.position, field.name) not in known:
                message = f"{field.name} at position {field.position} is no value kept about {command.subject_id} for these purposes."
                raise ApiError(404, "field_not_found", message, field=f"fields.{place}", remedy="List the values on record first.")
        fields = command.fields
    else:
        names = grant["fields"] if grant is not None else []
        chosen = [field for field in kept if not names or field.name in names]
        if len(chosen) > FIELDS_MAX:
            message = f"{len(chosen)} values are kept about {command.subject_id}; {FIELDS_MAX} are shown at once."
            raise ApiError(409, "too_many_values", message, field="fields", kept=len(chosen), remedy="Name the fields to be shown.")
        fields = tuple(ShownField(position=field.position, name=field.name) for field in chosen)
    grant_id = command.grant_id or (grant["grant_id"] if grant is not None else None)
    return command.model_copy(update={"grant_id": grant_id, "fields": fields})


async def _grant(services: Services, asker: Asker, command: DiscloseValues) -> JsonObject | None:
    """The grant that is named, or that covers what is asked for; else one that does not, so that it can be said why."""
    if command.grant_id is not None:
        found = await services.reads.get(unmasking_grants, asker.tenant, command.grant_id, None)
        return orjson.loads(found.document) if found else None
    page = await services.reads.page(unmasking_grants, asker.tenant, ListQuery({"actor_id": asker.actor}, limit=500), None)
    mine = [grant for document in page.documents if (grant := orjson.loads(document))["subject_id"] in (None, command.subject_id)]

    def covers(grant: JsonObject) -> tuple[bool, bool, bool]:
        active = grant["status"] == "granted" and grant["until"] > timestamp(now())
        return active, set(command.purposes) <= set(grant["purposes"]), not grant["fields"]

    return max(mine, key=covers, default=None)


async def _shown(services: Services, ask: Ask, outcome: Outcome) -> JsonObject:
    """The values of a disclosure that is on record by now. A repeated request gets no values again: by now the grant may be over."""
    command = ask.command
    assert isinstance(command, DiscloseValues)
    if outcome.action_id != str(ask.action_id):
        message = f"The values of disclosure {command.disclosure_id} were answered already."
        raise ApiError(409, "disclosed_already", message, field="Idempotency-Key", remedy="Ask anew, under another disclosure_id.")
    wanted = {(field.position, field.name): field for field in command.fields}
    states = await services.vault.states(ask.by.tenant, sorted({position for position, _ in wanted}))
    found = {(state.position, state.name): state for state in states}
    gone = {state.position: state for state in states if state.name is None}
    values = []
    for position, name in wanted:
        state = found.get((position, name)) or gone.get(position)
        assert state is not None, "what the vault kept a moment ago has a digest"
        shown = ShownValue(
            position=position,
            event_type=state.event_type,
            at=state.at,
            name=name,
            purpose=state.purpose,
            state=state.state,
            value=state.value,
        )
        values.append(shown.model_dump(mode="json"))
    return {"values": values}


async def _prepared(services: Services, _asker: Asker, command: RotateKeyEncryptionKey) -> RotateKeyEncryptionKey:
    """With a key that the server has made; the same one when this is asked again, after a failure or with an approval."""
    keys, pool = services.vault.vault.keys, services.vault.pool
    wrapping = await services.vault.wrapping()
    previous = await keys.wrapping(pool)
    try:
        kek = command.kek or keys.keks.prepare({*wrapping.keks, previous, *await keys.counts(pool)})
    except KeystoreError as error:
        raise ApiError(409, "key_not_here", error.rule, field="kek", remedy=error.remedy) from error
    if not keys.keks.has(kek):
        raise ApiError(422, "validation_failed", f"kek: {kek} is not here", field="kek", remedy="Leave it out: the server makes one.")
    return RotateKeyEncryptionKey(kek=kek, previous=previous)


router = ContextRouter(prefix="/v1", tags=["vault"])
router.command("/unmasking-grants", GrantUnmasking, status=201)
router.command("/unmasking-grants/{grant_id}/revoke", RevokeUnmasking)
router.command("/subjects/{subject_id}/disclose", DiscloseValues, complete=_chosen, more=_shown, model=DisclosureAnswer)
router.command("/vault/rotate-key", RotateKeyEncryptionKey, complete=_prepared)
router.views(
    "/unmasking-grants", unmasking_grants, row_id="grant_id", roles=PEOPLE, own=Own("actor_id", OVERSEERS | {Role.APPROVER}, whole=True)
)
router.views("/disclosures", value_disclosures, row_id="disclosure_id", roles=PEOPLE, own=Own("disclosed_to", OVERSEERS, whole=True))
router.views("/vault/keys", key_encryption_keys, row_id="kek", roles=OVERSEERS)


@router.query("/subjects/{subject_id}/values", roles=EVERYBODY)
async def values_of_subject(
    subject_id: SubjectId,
    reader: Reading,
    limit: Annotated[int, Query(ge=1, le=500, description="Of so many events.")] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> ValuesOnRecord:
    """The personal values on record about a subject, masked; what was erased is so for every moment, the past included.

    Auditors and administrators see those of everybody, all others their own.
    """
    if subject_id != reader.asker.actor and not reader.asker.roles & OVERSEERS:
        message, remedy = f"What is on record about {subject_id} is not yours to see.", "Ask an auditor or an administrator."
        raise ApiError(403, "role_missing", message, roles_needed=sorted(OVERSEERS), remedy=remedy)
    page = await reader.page(personal_events, ListQuery({"subject_id": subject_id}, limit=limit, cursor=cursor))
    if not page.documents and cursor is None:
        message = f"No event has personal fields of {subject_id}" + ("." if reader.as_of is None else " at that time.")
        raise ApiError(404, "subject_not_found", message, field="subject_id", remedy="Ask for the subject by its opaque id.")
    positions = [orjson.loads(document)["position"] for document in page.documents]
    vault, tenant = reader.services.vault, reader.asker.tenant
    states = [state for state in await vault.states(tenant, positions) if state.state != "decoy" and state.subject in (None, subject_id)]
    key = await vault.mask_key(tenant) if any(state.mark is not None and state.mark.mask == "hash" for state in states) else b""
    return ValuesOnRecord(items=[_masked(state, key) for state in states], next_cursor=page.next_cursor, position=page.position)


def _masked(state: FieldState, key: bytes) -> ValueOnRecord:
    return ValueOnRecord(
        position=state.position,
        event_type=state.event_type,
        at=state.at,
        name=state.name,
        purpose=state.purpose,
        state=state.state,
        masked=masked(state.value, state.mark.mask, key) if state.state == "open" and state.mark is not None else None,
    )


@router.query("/vault", roles=OVERSEERS)
async def vault_status(reader: Present) -> VaultStatus:
    """What the vault's keys are wrapped under, and whether this server has the key-encryption keys that it needs."""
    services = reader.services
    keys, pool = services.vault.vault.keys, services.vault.pool
    wrapping, counts, secrets = await keys.wrapping(pool), await keys.counts(pool), Counter[str]()
    for shared in services.shared_secrets:
        secrets.update(await shared.counts())
    here = keys.keks.ids()
    ids = dict.fromkeys([*here, *counts, *secrets, wrapping])
    keks = [
        WrappingKey(kek=kek, wraps=kek == wrapping, keys=counts.get(kek, 0), webhook_secrets=secrets.get(kek, 0), here=kek in here)
        for kek in ids
    ]
    return VaultStatus(
        wrapping=wrapping,
        rewrapping=not (await services.vault.wrapping()).done,
        keys_database="of its own" if services.settings.vault_keys_url else "the ledger's",
        keys_folder=str(keys.keks.folder),
        keks=keks,
    )


@router.query("/vault/accounting", roles=OVERSEERS)
async def vault_accounting(
    reader: Present,
    after: Annotated[int, Query(alias="from", ge=0, description="Account for events after this position.")] = 0,
    until: Annotated[int | None, Query(alias="to", ge=0, description="Up to this position; the ledger's end.")] = None,
) -> VaultAccounting:
    """Whether every digest of a personal event is a value that opens, one that was erased under a certificate, or a decoy.

    This is what finds a value that somebody took out of the vault, or changed there, with no erasure on record.
    """
    head = (await reader.services.ledger.refresh()).size
    last = head if until is None else until
    if not after <= last <= head:
        message, remedy = f"There are no positions after {after} up to {last}.", f"The ledger ends at position {head}."
        raise ApiError(422, "invalid_parameter", message, field="to" if last > head else "from", head=head, remedy=remedy)
    found = await reader.services.vault.accounting(reader.asker.tenant, after, last, PROBLEMS_MAX)
    return VaultAccounting(
        after=after,
        until=last,
        accounted_from=found.accounted_from,
        events=found.events,
        counts=dict(sorted(found.counts.items())),
        whole=not found.problems,
        problems=[_unaccounted(state) for state in found.problems],
        problems_left_out=found.problems_left_out,
    )


def _unaccounted(state: FieldState) -> UnaccountedDigest:
    return UnaccountedDigest(
        position=state.position,
        event_type=state.event_type,
        at=state.at,
        state=state.state,
        name=state.name,
        subject=state.subject,
        problem=state.problem,
    )
