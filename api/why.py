"""Why somebody can do something, or cannot: every step that decides it, with the rule behind it and what would help - and nothing asked.

The verdict is that of the command path itself, rehearsed: on the ledger as it is, or as it was at a past moment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import Query
from pydantic import BaseModel, ValidationError

from api.authentication import Unauthenticated
from api.could import open_then
from api.could_told import Said, said_of
from api.errors import ApiError
from api.reading import Reader, require_everywhere
from api.roles_held import RoleHeld, every_row, roles_held
from api.routing import ContextRouter, Reading
from api.services import deciders
from commands.duties import held_roles
from commands.outcome import Outcome
from commands.path import Ask
from commands.policies import DECIDER as POLICIES
from domain.access import ActorId
from domain.kernel import Asker, Command, Holding, JsonObject, timestamp
from domain.ledger import LedgerPort
from domain.policies import PolicySet
from domain.values import EVERYBODY, ActorKind, Role, uuid7
from infra.canonical import ProfileError, loads_strict
from infra.could import Asking
from infra.holdings import holdings_of
from infra.policy_sets import STREAM
from infra.standing import Standing
from projections.access import actors
from projections.engine import ReadTable

EXAMINERS: Final = frozenset({Role.ADMIN, Role.AUDITOR, Role.APPROVER})
APPROVERS_TOLD: Final = 20
Verdict = Literal["allowed", "needs_approval", "blocked", "incomplete"]
StepName = Literal["identity", "signature", "scopes", "roles", "reach", "duties", "policies", "rules", "approval", "evidence"]
STEPS: Final[tuple[StepName, ...]] = get_args(StepName)
"""In the order in which the command path takes them."""
_STEP_OF: Final[dict[str, StepName]] = {
    "actor_offboarded": "identity",
    "actor_suspended": "identity",
    "actor_unknown": "identity",
    "agent_stopped": "identity",
    "signature_missing": "signature",
    "scope_missing": "scopes",
    "role_missing": "roles",
    "outside_reach": "reach",
    "duties_conflict": "duties",
    "policy_blocked": "policies",
    "evidence_incomplete": "evidence",
}
_PASSED: Final[dict[StepName, str]] = {
    "identity": "{actor} is registered and active, and so is whoever answers for it.",
    "signature": "No signature is missing.",
    "scopes": "The credential is good for {command}.",
    "roles": "A role that may ask for {command} is held.",
    "reach": "It is held where the command takes effect.",
    "duties": "No rule on the separation of duties stands against it.",
    "policies": "No policy blocks it.",
    "rules": "The rules of {context} allow it, as things stand.",
    "approval": "No approval is needed.",
    "evidence": "No evidence is missing.",
}


_MAY: Final[dict[Verdict, str]] = {
    "allowed": "can ask for",
    "needs_approval": "can ask for",
    "blocked": "cannot ask for",
    "incomplete": "may be able to ask for",
}


class Step(BaseModel):
    """One step of the decision: passed, failed, waits (for an approval or for evidence), or not_reached since one before it failed.

    `details` are the rule, policy or grants behind it, as far as there are any.
    """

    step: StepName
    verdict: Literal["passed", "failed", "waits", "not_reached"]
    message: str
    details: dict[str, Any] = {}


class Why(BaseModel):
    """Whether somebody can do something, and every step that decides it. `remedies` is what would make it possible, as far as known.

    `incomplete`: the fields that were named are not a whole command, so only who asks was looked at.
    """

    actor: str
    command: str
    stream: str | None
    verdict: Verdict
    explanation: str
    steps: list[Step]
    remedies: list[str]
    at: str


router = ContextRouter(tags=["audit"])


@router.query("/v1/why", roles=EVERYBODY, narrowed=True)
async def why(
    reader: Reading,
    command: Annotated[str, Query(max_length=100, description="The command, such as pipelines.deploy_version.")],
    entity: Annotated[
        str | None, Query(max_length=300, description="The id of what it is about; short for the field that names it, such as dataset_id.")
    ] = None,
    actor: Annotated[ActorId | None, Query(description="Who would ask; you, when left out.")] = None,
    fields: Annotated[str | None, Query(max_length=16_000, description="The command's other fields, as a JSON object.")] = None,
) -> Why:
    """Why somebody can or cannot do something, now or (as_of) then: each step with the rule behind it, and what would help."""
    known = reader.services.path.commands.get(command)
    if known is None:
        remedy = "Name one of the commands of the API's schema, such as budgets.reserve_funds."
        raise ApiError(404, "command_not_found", f"There is no command {command!r}.", field="command", remedy=remedy)
    actor_id = actor or reader.asker.actor
    if actor_id != reader.asker.actor:
        require_everywhere(reader.asker, EXAMINERS)
    given = _fields(known, entity, fields)
    question = await _question(reader, actor_id, known)
    if question.barred is not None:
        return _cannot_log_in(question, question.barred)
    try:
        whole = known.model_validate(given)
    except ValidationError as error:
        return _incomplete(question, error)
    outcome, policies = await _rehearsed(question, whole)
    return await _judged(question, outcome, said_of(outcome, policies))


def _fields(command: type[Command], entity: str | None, text: str | None) -> JsonObject:
    """The command's fields. ApiError 422 when they are not a JSON object."""
    try:
        given = loads_strict(text.encode()) if text else {}
    except ProfileError:
        given = None
    if not isinstance(given, dict):
        remedy = 'Send a JSON object, such as {"amount_minor": 100}.'
        raise ApiError(422, "invalid_parameter", "fields is not a JSON object.", field="fields", rule="a JSON object", remedy=remedy)
    return given if entity is None else {_entity_field(command): entity, **given}


def _entity_field(command: type[Command]) -> str:
    """The field that names what a command is about: `dataset_id` of what is asked of datasets."""
    category = next(decider.category for decider in deciders() if command in decider.commands)
    names = list(command.model_fields)
    ids = [name for name in names if name.endswith("_id")]
    return next(iter([name for name in ids if name == f"{category}_id"] + ids + names))


@dataclass(frozen=True, slots=True)
class Question:
    """Who would ask what, and when; `barred` is why they could not even log in."""

    reader: Reader
    command: type[Command]
    by: Asker
    at: datetime
    held: Sequence[RoleHeld]
    barred: str | None = None


async def _question(reader: Reader, actor_id: str, command: type[Command]) -> Question:
    at = await reader.moment()
    row = (await reader.services.reads.many(actors, reader.asker.tenant, [actor_id], reader.as_of)).get(actor_id)
    if row is None and actor_id != reader.asker.actor:
        message = f"There is no actor {actor_id}{' at that time' if reader.as_of is not None else ''}."
        raise ApiError(404, "actor_not_found", message, field="actor", remedy="List them to see who is there.")
    held = (await roles_held(reader, [row], at))[actor_id] if row is not None else []
    if reader.as_of is None and actor_id == reader.asker.actor:
        return Question(reader, command, reader.asker, at, held)
    try:
        by = await _standing(reader, at).of(reader.asker.tenant, actor_id)
    except Unauthenticated as refused:
        nobody = Asker(actor_id, reader.asker.tenant, frozenset())
        return Question(reader, command, nobody, at, held, barred=refused.reason)
    return Question(reader, command, by, at, held)


def _standing(reader: Reader, at: datetime) -> Standing:
    """Who somebody is at the reader's moment, as authentication tells who they are now."""
    reads, as_of = reader.services.reads, reader.as_of

    async def rows(table: ReadTable[Any], tenant: str, ids: Sequence[str]) -> dict[str, JsonObject]:
        return await reads.many(table, tenant, ids, as_of)

    async def holdings(tenant: str, actor_id: str, group_ids: Collection[str], _now: datetime) -> tuple[Holding, ...]:
        return await holdings_of(reads, tenant, actor_id, group_ids, at, as_of)

    return Standing(rows, holdings)


async def _rehearsed(question: Question, command: Command) -> tuple[Outcome, PolicySet]:
    """What would become of it, and the policies that said so. Of who signs with a key of their own it is judged on the ledger as it
    stood a moment ago, where that is taken as done: nobody can sign what was never asked."""
    reader = question.reader
    services, tenant = reader.services, question.by.tenant
    if reader.as_of is None:
        outcome = await services.path.rehearse(Ask(command, question.by, uuid7(), question.at))
        if outcome.code != "signature_missing":
            ledger: LedgerPort = services.ledger
            adopted = POLICIES.replay(recorded.event for recorded in await ledger.read_stream(tenant, STREAM))
            return outcome, adopted if adopted.adopted else services.policy.shipped
    async with open_then(reader) as then:
        (outcome,) = await then.path.judge([Asking(question.by, command)])
        return outcome, then.policies


# -- the answer


def _cannot_log_in(question: Question, reason: str) -> Why:
    message = f"{question.by.actor} does not get in: {reason.replace('_', ' ')}."
    failed = Step(step="identity", verdict="failed", message=message, details={"code": reason})
    remedy = "Have an administrator reinstate them." if reason.endswith("_suspended") else "Somebody else has to do it."
    return _told(question, None, "blocked", message, [failed], [remedy])


def _incomplete(question: Question, error: ValidationError) -> Why:
    """Without a whole command only who asks can be judged."""
    name, by = question.command.command_name, question.by
    steps = [_passed(question, "identity"), _passed(question, "signature")]
    if not by.in_scope(name):
        steps.append(Step(step="scopes", verdict="failed", message=f"The credential that was shown is not for {name}."))
        return _told(question, None, "blocked", steps[-1].message, steps, ["Use a key with this scope, or log in."])
    steps.append(_passed(question, "scopes"))
    if held_roles(by, question.at).isdisjoint(question.command.roles):
        message = f"{name} needs one of the roles {', '.join(sorted(question.command.roles))}."
        steps.append(Step(step="roles", verdict="failed", message=message, details=_details(question, "roles", ())))
        return _told(question, None, "blocked", message, steps, ["Have one of these roles given or granted."])
    steps.append(_passed(question, "roles"))
    found = [f"{'.'.join(map(str, one['loc'])) or 'fields'}: {one['msg']}" for one in error.errors()]
    message = f"What was named is not a whole {name}: {'; '.join(found)}."
    return _told(
        question, None, "incomplete", message, steps, ["Name these in `entity` and `fields`: the rest depends on what is asked for."]
    )


async def _judged(question: Question, outcome: Outcome, said: Sequence[Said]) -> Why:
    """Each step, as far as the command path came."""
    failed = _STEP_OF.get(outcome.code or "", "rules") if outcome.outcome == "blocked" else None
    reached = STEPS if failed is None else STEPS[: STEPS.index(failed)]
    steps = [_passed(question, name, said) for name in reached]
    if outcome.approval is not None:
        return await _waits(question, outcome, outcome.approval, steps)
    if failed is None:
        return _told(question, outcome.stream, "allowed", "every step passes.", steps, [])
    facts = {key: value for key, value in outcome.facts.items() if value is not None and key != "remedy"}
    behind = _details(question, failed, said)
    steps.append(Step(step=failed, verdict="failed", message=outcome.message or "", details={"code": outcome.code, **behind, **facts}))
    remedy = outcome.facts.get("remedy")
    return _told(question, outcome.stream, "blocked", outcome.message or "", steps, [remedy] if remedy else [])


async def _waits(question: Question, outcome: Outcome, approval: JsonObject, steps: Sequence[Step]) -> Why:
    """What it would wait for, and who could give it."""
    roles, quorum, evidence = approval["approver_roles"], approval["quorum"], approval["required_evidence"]
    asked = {"roles": roles, "status": "active", "kind": ActorKind.PERSON.value}
    rows = await every_row(question.reader, actors, asked) if question.reader.reach is None else []
    able = sorted(row["actor_id"] for row in rows if row["actor_id"] not in {question.by.actor, question.by.owner})
    wanted = f"{quorum} of those who hold {' or '.join(roles)}"
    details: JsonObject = {"approver_roles": roles, "quorum": quorum, "approvers": able[:APPROVERS_TOLD], "approvers_found": len(able)}
    waiting = {"approval": Step(step="approval", verdict="waits", message=f"It takes the approval of {wanted}.", details=details)}
    remedies = [f"Ask for it: {wanted} then decide, such as {', '.join(able[:3])}."] if able else ["Ask for it."]
    if evidence:
        message = f"It takes evidence: {', '.join(evidence)}."
        waiting["evidence"] = Step(step="evidence", verdict="waits", message=message, details={"required": evidence})
        remedies.append(f"Store {', '.join(evidence)} as artifacts, and name them in Aureus-Evidence.")
    told = [waiting.get(step.step, step) for step in steps]
    return _told(question, outcome.stream, "needs_approval", f"it takes the approval of {wanted}.", told, remedies)


def _passed(question: Question, name: StepName, said: Sequence[Said] = ()) -> Step:
    command = question.command.command_name
    message = _PASSED[name].format(actor=question.by.actor, command=command, context=command.partition(".")[0])
    return Step(step=name, verdict="passed", message=message, details=_details(question, name, said))


def _details(question: Question, name: StepName, said: Sequence[Said]) -> JsonObject:
    """The rules, policies and grants behind a step."""
    by = question.by
    match name:
        case "identity":
            return {"kind": by.kind.value, "owner": by.owner} if by.owner else {"kind": by.kind.value}
        case "scopes":
            return {"scopes": sorted(by.scopes)} if by.scopes is not None else {}
        case "roles":
            held = [one.model_dump(mode="json", exclude_none=True) for one in question.held]
            return {"roles_needed": sorted(role.value for role in question.command.roles), "held": held}
        case "reach":
            return {"domains": sorted(by.domains)} if by.domains is not None else {}
        case "policies":
            return {"said": [one.model_dump() for one in said]}
        case _:
            return {}


def _told(question: Question, stream: str | None, verdict: Verdict, because: str, steps: Sequence[Step], remedies: Sequence[str]) -> Why:
    """The answer, with the steps that were not come to at its end."""
    reached = {step.step for step in steps}
    rest = [Step(step=name, verdict="not_reached", message="Decided before.") for name in STEPS if name not in reached]
    actor, command = question.by.actor, question.command.command_name
    about = f" on {stream}" if stream is not None else ""
    return Why(
        actor=actor,
        command=command,
        stream=stream,
        verdict=verdict,
        explanation=f"{actor} {_MAY[verdict]} {command}{about}: {because}",
        steps=[*steps, *rest],
        remedies=list(remedies),
        at=timestamp(question.at),
    )
