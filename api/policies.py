"""Policies over REST: propose or push, test, look at the impact, activate and retire; and see what is in force."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, require_stored, told
from api.policy_changes import EXAMINERS, Desk, analyse_impact, find_conflicts, push, run_test
from api.routing import ContextRouter, Present, Reader, Reading
from commands.policies import AUTHORS, ActivatePolicies, ProposePolicy, RetirePolicy
from domain.kernel import Command, JsonObject
from domain.policies import Change, Flip, PolicyId, Version
from domain.values import EVERYBODY
from projections.policies import policies, steps, versions

FilesText = Annotated[dict[str, Annotated[str, Field(max_length=200_000)]], Field(min_length=1, max_length=200)]
_PARKED: dict[int | str, dict[str, Any]] = {202: {"model": CommandAnswer, "description": "Parked: it waits for an approval."}}


class Folder(BaseModel):
    """A folder of policies: `<policy>.rego`, `<policy>_test.rego`, `<policy>.json` and `data.json`, each with its text."""

    model_config = ConfigDict(extra="forbid")

    files: FilesText
    dry_run: bool = False


class Step(Change):
    """A change of what is in force, or in its place the version that a rollback would go back to."""

    to_version: Version | None = None
    decisions: Annotated[int, Field(ge=1, le=100_000, description="How many of the latest decisions to ask again.")] = 1_000


class Push(BaseModel):
    """What a folder changes of each policy. `change` is what to test, to analyse and to activate next."""

    dry_run: bool
    policies: list[dict[str, Any]]
    only_in_force: list[str]
    change: Change
    position: int


class TestReport(BaseModel):
    """How the tests came out of what a change would leave in force; `report` is the artifact that holds this."""

    change: Change
    digest_after: str
    policy_version: str | None
    passed: int
    failed: int
    problems: list[str]
    tests: list[dict[str, Any]]
    report: str
    position: int


class Impact(BaseModel):
    """Which of the latest decisions would come out differently; `report` and `rollback_plan` are the artifacts."""

    change: Change
    digest_before: str
    digest_after: str
    candidate_version: str
    examined: int
    asked_again: int
    different: int
    flips: list[Flip]
    differences: list[dict[str, Any]]
    report: str
    rollback_plan: str
    position: int


class Conflict(BaseModel):
    """Two policies that answer differently to the same question, with the plainest example that was found."""

    kind: Literal["deadlock", "self_contradiction", "contradiction", "overruled", "held"]
    policies: list[str]
    answers: list[dict[str, Any]]
    seen: int
    example: dict[str, Any]


class Conflicts(BaseModel):
    """Where the policies in force disagree, the gravest first, and how many questions were asked to find it."""

    policy_version: str
    questions: int
    recorded_questions: int
    conflicts: list[Conflict]


router = ContextRouter(tags=["policies"])
router.command("/v1/policies", ProposePolicy, status=201)


@router.query("/v1/policies/push", roles=AUTHORS, methods=("POST",), response_model=Push)
async def push_folder(folder: Folder, reader: Present, request: Request) -> JsonObject:
    """Propose what a folder changes, or with `dry_run` only say what it would."""
    return await push(await _desk(reader, request), folder.files, dry_run=folder.dry_run)


@router.query("/v1/policies/test", roles=AUTHORS, methods=("POST",), response_model=TestReport)
async def test_change(change: Change, reader: Present, request: Request) -> JsonObject:
    """Run the tests of what a change would leave in force; the result goes on record, whatever it is."""
    return await run_test(await _desk(reader, request), change)


@router.query("/v1/policies/impact", roles=AUTHORS, methods=("POST",), limit="queries", response_model=Impact)
async def impact_of_change(step: Step, reader: Present, request: Request) -> JsonObject:
    """Ask the latest decisions again under what a change would leave in force; what flips goes on record, with a rollback plan."""
    desk = await _desk(reader, request)
    change = Change(activate=step.activate, retire=step.retire) if step.to_version is None else desk.back_to(step.to_version)
    return await analyse_impact(desk, change, step.decisions)


@router.query("/v1/policies/conflicts", roles=EXAMINERS, limit="queries", response_model=Conflicts)
async def conflicts_in_force(reader: Reading, request: Request) -> JsonObject:
    """Search for questions to which two policies in force, now or then, answer differently."""
    return await find_conflicts(await _desk(reader, request))


@router.query(
    "/v1/policies/activate",
    roles=ActivatePolicies.roles,
    methods=("POST",),
    response_model=CommandAnswer,
    responses=_PARKED,
    name=ActivatePolicies.command_name,
)
async def activate(command: ActivatePolicies, reader: Present, request: Request) -> Response:
    """Put versions of policies in force. The artifacts of their test and impact analysis count as named in `Aureus-Evidence`."""
    return await _change(reader, request, command, Change(activate=command.activate, retire=command.retire))


@router.query(
    "/v1/policies/{policy_id}/retire",
    roles=RetirePolicy.roles,
    methods=("POST",),
    response_model=CommandAnswer,
    responses=_PARKED,
    name=RetirePolicy.command_name,
)
async def retire(policy_id: PolicyId, reader: Present, request: Request) -> Response:
    """Take a policy out of force. The artifacts of the test and impact analysis count as named in `Aureus-Evidence`."""
    return await _change(reader, request, RetirePolicy(policy_id=policy_id), Change(retire=(policy_id,)))


async def _change(reader: Reader, request: Request, command: Command, change: Change) -> Response:
    """Nobody has to copy hashes of what Aureus itself found out about exactly this change."""
    desk = await _desk(reader, request)
    ask = ask_of(command, reader.asker, desk.headers)
    if ask.artifacts:
        await require_stored(reader.services, ask)
    known = all(desk.policies.find(ref.policy_id, ref.version) for ref in change.activate)
    known = known and all(policy_id in desk.policies.in_force for policy_id in change.retire)
    found = desk.policies.evidence(desk.policies.after(change).digest) if known else ()
    ask = replace(ask, artifacts=tuple(dict.fromkeys((*ask.artifacts, *found))))
    return told(await reader.services.path.handle(ask), 200, request.scope["state"]["request_id"])


async def _desk(reader: Reader, request: Request) -> Desk:
    return await Desk.open(reader.services, reader.asker, request.scope["headers"], reader.as_of)


router.views("/v1/policies", policies, row_id="policy_id", roles=EVERYBODY, stream=lambda _policy_id: "policyset:active")
router.views("/v1/policy-versions", versions, row_id="version_id", roles=EVERYBODY)
router.views("/v1/policy-steps", steps, row_id=None, roles=EVERYBODY)
