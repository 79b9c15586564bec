"""Changes of the policies, as the edge prepares them: read from files, tested, and held against past decisions.

What Aureus finds out goes into the ledger by commands that no request can send, so nobody activates anything on their own word.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from api.asking import ask_of
from api.errors import ApiError, refusal_status
from api.services import Services, deciders
from commands.evidence import RegisterArtifact
from commands.outcome import Outcome
from commands.policies import DECIDER, ProposePolicy, RecordImpact, RecordTest, WrittenPolicy, left_by
from domain.evidence import ArtifactKind
from domain.kernel import Asker, Command, JsonObject, Recorded, json_digest, require
from domain.policies import Change, Flip, PolicyProposed, PolicyRef, PolicySet
from domain.values import PEOPLE, Role
from infra.decision_replay import Range
from infra.examining import ExaminationFailed, Job, Task, examine
from infra.policy import run_tests
from infra.policy_bundle import BundleRefused
from infra.policy_files import files_of, written
from infra.policy_sets import STREAM, assemble

EXAMINERS: Final = PEOPLE - {Role.VIEWER}
"""Examining takes seconds of a processor."""
PROBLEMS_TOLD: Final = 20
CONFLICT_DECISIONS: Final = 10_000
"""How many of the latest decisions the search for conflicts begins with."""
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Desk:
    """Whoever asks, and what their tenant's policies are now, or were at the position `as_of`."""

    services: Services
    asker: Asker
    headers: Headers
    history: list[Recorded[Any]]
    policies: PolicySet
    as_of: int | None = None

    @classmethod
    async def open(cls, services: Services, asker: Asker, headers: Headers, as_of: int | None = None) -> Desk:
        recorded: list[Recorded[Any]] = list(await services.ledger.read_stream(asker.tenant, STREAM))
        history = [each for each in recorded if as_of is None or each.position <= as_of]
        return cls(services, asker, headers, history, DECIDER.replay(each.event for each in history), as_of)

    @property
    def in_force(self) -> PolicySet:
        """What judges now: the tenant's own, or those shipped."""
        return self.policies if self.policies.adopted else self.services.policy.shipped

    @property
    def version(self) -> int:
        return len(self.history)

    def back_to(self, to_version: int) -> Change:
        """The change that a rollback would be."""
        require(
            to_version <= self.version,
            "version_unknown",
            f"The policies' versions are 1 to {self.version}.",
            field="to_version",
            remedy="Choose one of `aureus history policy active`.",
        )
        past = DECIDER.replay(recorded.event for recorded in self.history[:to_version]).in_force
        held = self.policies.in_force
        activate = [
            PolicyRef(policy_id=policy_id, version=past[policy_id]) for policy_id in sorted(past) if held.get(policy_id) != past[policy_id]
        ]
        return Change(activate=tuple(activate), retire=tuple(policy_id for policy_id in sorted(held) if policy_id not in past))

    async def ask(self, command: Command, artifacts: tuple[str, ...] = ()) -> Outcome:
        """Has a command carried out that belongs to the request; it may be repeated without harm, so it needs no key of its own."""
        ask = ask_of(command, self.asker, self.headers)
        ask = replace(ask, idempotency_key=None, if_match=None, approval_id=None, artifacts=artifacts)
        outcome = await self.services.path.handle(ask)
        if outcome.outcome == "allowed":
            return outcome
        code = outcome.code or "requires_approval"
        message = outcome.message or f"The policies want {command.command_name} approved, which is not possible as a part of this."
        facts = {**outcome.facts, "action_id": outcome.action_id, "position": outcome.position}
        raise ApiError(refusal_status(code, denied=outcome.denied), code, message, **facts)

    async def keep(self, name: str, kind: ArtifactKind, document: JsonObject, **counted: int) -> str:
        """Keeps a document as an artifact; its hash."""

        async def chunks() -> AsyncIterator[bytes]:
            yield orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

        blob = await self.services.blobs.put(chunks())
        size = blob.size_bytes
        registered = RegisterArtifact(
            sha256=blob.sha256, size_bytes=size, media_type="application/json", name=name, kind=kind, passed=None, failed=None
        )
        await self.ask(registered.model_copy(update=counted))
        return blob.sha256

    async def examined(self, task: Task, wanted: Range, policies: PolicySet | list[PolicyProposed]) -> JsonObject:
        """What a process of its own finds; ApiError when it finds nothing."""
        active = policies.active() if isinstance(policies, PolicySet) else policies
        actions = [command.command_name for decider in deciders() for command in decider.commands]
        try:
            return await examine(Job(task, self.services.dsn, wanted, active, actions))
        except BundleRefused as refused:
            raise unfit(refused) from None
        except ExaminationFailed as failed:
            raise ApiError(503, "examination_failed", str(failed), remedy="Choose a smaller range, or try again.") from None


def unfit(refused: BundleRefused) -> ApiError:
    """The answer to policies that do not compile or do not fit together."""
    problems = [{"path": f"{found.file}:{found.line}", "rule": found.message} for found in refused.problems[:PROBLEMS_TOLD]]
    message = f"These policies cannot be put together: {refused.problems[0]}"
    return ApiError(422, "policies_refused", message, field="files", problems=problems, remedy="Mend what stands in details.problems.")


async def run_test(desk: Desk, change: Change) -> JsonObject:
    """Puts together what the change would leave in force, runs its tests, and puts the result on record."""
    candidate = left_by(desk.policies, change)
    tests: list[JsonObject] = []
    problems: list[str] = []
    policy_version = None
    try:
        bundle = assemble(candidate.active())
        policy_version = bundle.version
        tests = [{"name": test.name, "passed": test.passed, "detail": test.detail} for test in await asyncio.to_thread(run_tests, bundle)]
        problems = _untested(desk.policies, candidate)
    except BundleRefused as refused:
        problems = [str(problem) for problem in refused.problems]
    passed = sum(test["passed"] for test in tests)
    failed = len(tests) - passed + len(problems)
    report = {
        "change": change.model_dump(mode="json"),
        "digest_after": candidate.digest,
        "policy_version": policy_version,
        "passed": passed,
        "failed": failed,
        "problems": problems,
        "tests": tests,
    }
    sha256 = await desk.keep("policy tests", "test_result", report, passed=passed, failed=failed)
    told = tuple(problem[:1_000] for problem in problems[:PROBLEMS_TOLD])
    record = RecordTest(change=change, digest_after=candidate.digest, passed=passed, failed=failed, problems=told, report=sha256)
    outcome = await desk.ask(record, (sha256,))
    return {**report, "report": sha256, "position": outcome.position}


def _untested(before: PolicySet, candidate: PolicySet) -> list[str]:
    """A policy in Rego that comes in must be mentioned by a test: what nobody tries says little by passing."""
    texts = "\n".join(policy.tests or "" for policy in candidate.active())
    return [
        f"{policy.policy_id}.rego:1: no test mentions `{policy.policy_id}`: write {policy.policy_id}_test.rego"
        for policy in candidate.active()
        if policy.rego is not None
        and policy.type != "shared"
        and before.in_force.get(policy.policy_id) != policy.version
        and policy.policy_id not in texts
    ]


async def analyse_impact(desk: Desk, change: Change, decisions: int) -> JsonObject:
    """Asks the latest decisions again under what the change would leave in force, and puts what flips on record, with the way back."""
    candidate = left_by(desk.policies, change)
    replayed = await desk.examined("candidate", Range(desk.asker.tenant, limit=decisions, latest=True), candidate)
    report = {
        **replayed,
        "change": change.model_dump(mode="json"),
        "digest_before": desk.policies.digest,
        "digest_after": candidate.digest,
    }
    sha256 = await desk.keep("policy impact", "impact_analysis", report)
    plan = {
        "change": report["change"],
        "digest_before": desk.policies.digest,
        "in_force_before": [ref.model_dump() for ref in desk.policies.refs()],
        "command": "policies.roll_back_policies",
        "inputs": {"to_version": desk.version},
        "how": f"aureus rollback policy active --to {desk.version}",
    }
    plan_sha256 = await desk.keep("policy rollback plan", "rollback_plan", plan)
    record = RecordImpact(
        change=change,
        digest_before=desk.policies.digest,
        digest_after=candidate.digest,
        examined=replayed["asked_again"],
        flips=tuple(Flip(**flip) for flip in replayed["flips"]),
        report=sha256,
        rollback_plan=plan_sha256,
    )
    outcome = await desk.ask(record, (sha256, plan_sha256))
    return {**report, "report": sha256, "rollback_plan": plan_sha256, "position": outcome.position}


@dataclass(frozen=True, slots=True)
class Planned:
    """What a folder would change of one policy: `version` is the one that says this already, or None."""

    policy: WrittenPolicy
    status: Literal["new", "changed", "proposed", "in_force"]
    version: int | None
    diff: str

    def told(self) -> JsonObject:
        policy = self.policy
        described = {"policy_id": policy.policy_id, "type": policy.type, "title": policy.title}
        return {**described, "status": self.status, "version": self.version, "diff": self.diff}


def plan(policies: PolicySet, files: Mapping[str, str]) -> list[Planned]:
    """What the files of a folder would change of the policies; ApiError with all that is wrong with them."""
    try:
        return [_planned(policies, policy) for policy in written({path: text.encode() for path, text in files.items()})]
    except BundleRefused as refused:
        raise unfit(refused) from None


def _planned(policies: PolicySet, policy: WrittenPolicy) -> Planned:
    known = policies.versions.get(policy.policy_id, ())
    active = policies.find(policy.policy_id, policies.in_force.get(policy.policy_id, 0))
    sha256 = json_digest(policy.text())
    diff = _diff(active, policy)
    if active is not None and active.sha256 == sha256:
        return Planned(policy, "in_force", active.version, diff)
    if known and known[-1].sha256 == sha256:
        return Planned(policy, "proposed", known[-1].version, diff)
    return Planned(policy, "changed" if known else "new", None, diff)


def _diff(active: PolicyProposed | None, policy: WrittenPolicy) -> str:
    """The files of both, compared line by line."""
    before = files_of([WrittenPolicy(policy_id=active.policy_id, **active.text())]) if active else {}
    after = files_of([policy])
    lines: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = (side.get(path, b"").decode().splitlines(keepends=True) for side in (before, after))
        lines += difflib.unified_diff(old, new, f"in force/{path}", f"folder/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


async def push(desk: Desk, files: Mapping[str, str], *, dry_run: bool) -> JsonObject:
    """Proposes what a folder changes, or says what it would; `change` is then what to test, analyse and activate."""
    planned = plan(desk.policies, files)
    told: list[JsonObject] = []
    activate: list[JsonObject] = []
    position = desk.services.ledger.head.size
    for item in planned:
        version = item.version
        if version is None and not dry_run:
            policy = item.policy
            outcome = await desk.ask(ProposePolicy(policy_id=policy.policy_id, **policy.text()))
            version, position = outcome.events[0]["data"]["version"], outcome.position
        if version is not None and item.status != "in_force":
            activate.append(PolicyRef(policy_id=item.policy.policy_id, version=version).model_dump())
        told.append({**item.told(), "version": version})
    named = {item.policy.policy_id for item in planned}
    left_alone = [policy_id for policy_id in sorted(desk.policies.in_force) if policy_id not in named]
    change = {"activate": activate, "retire": []}
    return {"dry_run": dry_run, "policies": told, "only_in_force": left_alone, "change": change, "position": position}


def candidate_of(desk: Desk, files: Mapping[str, str]) -> PolicySet:
    """What would be in force if a folder's policies were, in place of their own versions; nothing of it is recorded."""
    policies = desk.in_force
    for item in plan(policies, files):
        version = item.version
        if version is None:
            policy = item.policy
            proposed = PolicyProposed(
                policy_id=policy.policy_id,
                version=len(policies.versions.get(policy.policy_id, ())) + 1,
                owner=desk.asker.actor,
                sha256=json_digest(policy.text()),
                **policy.text(),
            )
            policies, version = DECIDER.evolve(policies, proposed), proposed.version
        policies = policies.after(Change(activate=(PolicyRef(policy_id=item.policy.policy_id, version=version),)))
    return policies


async def find_conflicts(desk: Desk) -> JsonObject:
    """Where policies in force disagree, each with an example."""
    latest = Range(desk.asker.tenant, limit=CONFLICT_DECISIONS, latest=True)
    return await desk.examined("conflicts", latest if desk.as_of is None else replace(latest, to=desk.as_of), desk.in_force)
