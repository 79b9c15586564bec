"""Policies as people read them: each policy, each of its versions with its text and tests, and every step of what is in force."""

from __future__ import annotations

from typing import assert_never

from domain.kernel import JsonObject, Recorded
from domain.policies import (
    DefaultsAdopted,
    ImpactAnalysed,
    PoliciesRolledBack,
    PoliciesTested,
    PolicyActivated,
    PolicyProposed,
    PolicyRetired,
    PolicySuperseded,
)
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class PolicyRow:
    """A policy: as its latest version describes it, and which version is in force (none: it judges nothing)."""

    policy_id: str
    type: str
    title: str
    owner: str
    status: str
    version: int | None
    latest_version: int
    changed_at: str


@read_row
class PolicyVersionRow:
    """One version of a policy with all it says: proposed, tested or failed, in_force, then superseded, retired or withdrawn."""

    version_id: str
    policy_id: str
    version: int
    type: str
    title: str
    owner: str
    scope: JsonObject
    rego: str | None
    tests: str | None
    rule: JsonObject | None
    data: JsonObject | None
    sha256: str
    status: str
    passed: int | None
    failed: int | None
    problems: list[str]
    report: str | None
    proposed_by: str
    proposed_at: str
    changed_at: str


@read_row
class PolicyStepRow:
    """One event of the policies' stream; `stream_version` is what a rollback names."""

    stream_version: int
    event: str
    policies: list[str]
    detail: JsonObject
    by: str
    at: str
    position: int


policies = ReadTable(
    "policies",
    PolicyRow,
    filters=("type", "status", "owner"),
    sorts=("policy_id", "changed_at"),
    search=("policy_id", "title"),
)
versions = ReadTable(
    "policy_versions",
    PolicyVersionRow,
    filters=("policy_id", "type", "status", "owner"),
    sorts=("version", "proposed_at"),
    search=("policy_id", "title", "rego"),
)
steps = ReadTable("policy_steps", PolicyStepRow, filters=("event", "policies", "by"), sorts=("stream_version",), immutable=True)

_OneVersion = PolicyProposed | PolicyActivated | PolicySuperseded | PolicyRetired
_WholeSet = DefaultsAdopted | PoliciesRolledBack


def _policy(recorded: Recorded[_OneVersion]) -> tuple[str, ...]:
    return (recorded.event.policy_id,)


def _version(recorded: Recorded[_OneVersion]) -> tuple[str, ...]:
    return (_id_of(recorded.event),)


def _id_of(event: _OneVersion) -> str:
    return f"{event.policy_id}@{event.version}"


def _touched(recorded: Recorded[_WholeSet]) -> tuple[str, ...]:
    return _ids_of(recorded.event)


def _ids_of(event: _WholeSet) -> tuple[str, ...]:
    """The versions that come into force, or go."""
    withdrawn = event.withdrawn if isinstance(event, PoliciesRolledBack) else ()
    return tuple(str(ref) for ref in (*event.in_force, *withdrawn))


def _touched_policies(recorded: Recorded[_WholeSet]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(version_id.partition("@")[0] for version_id in _touched(recorded)))


@policies.on(PolicyProposed, keys=_policy)
def written_down(row: PolicyRow | None, recorded: Recorded[PolicyProposed], policy_id: str) -> PolicyRow:
    event = recorded.event
    return PolicyRow(
        policy_id=policy_id,
        type=event.type,
        title=event.title,
        owner=event.owner,
        status=row.status if row else "proposed",
        version=row.version if row else None,
        latest_version=event.version,
        changed_at=recorded.at_text,
    )


@policies.on(PolicyActivated, keys=_policy)
def judges(row: PolicyRow, recorded: Recorded[PolicyActivated], _policy_id: str) -> PolicyRow:
    return replace(row, status="in_force", version=recorded.event.version, changed_at=recorded.at_text)


@policies.on(PolicyRetired, keys=_policy)
def judges_no_more(row: PolicyRow, recorded: Recorded[PolicyRetired], _policy_id: str) -> PolicyRow:
    return replace(row, status="retired", version=None, changed_at=recorded.at_text)


@policies.on(DefaultsAdopted, PoliciesRolledBack, keys=_touched_policies)
def restored(row: PolicyRow, recorded: Recorded[_WholeSet], policy_id: str) -> PolicyRow:
    version = next((ref.version for ref in recorded.event.in_force if ref.policy_id == policy_id), None)
    if version == row.version:
        return row
    return replace(row, status="in_force" if version else "retired", version=version, changed_at=recorded.at_text)


@versions.on(PolicyProposed, keys=_version)
def proposed(_row: None, recorded: Recorded[PolicyProposed], version_id: str) -> PolicyVersionRow:
    event = recorded.event
    said = event.text()
    return PolicyVersionRow(
        version_id=version_id,
        policy_id=event.policy_id,
        version=event.version,
        type=event.type,
        title=event.title,
        owner=event.owner,
        scope=said["scope"],
        rego=event.rego,
        tests=event.tests,
        rule=said.get("rule"),
        data=event.data,
        sha256=event.sha256,
        status="proposed",
        passed=None,
        failed=None,
        problems=[],
        report=None,
        proposed_by=recorded.actor,
        proposed_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


def _candidates(recorded: Recorded[PoliciesTested]) -> tuple[str, ...]:
    return tuple(map(str, recorded.event.change.activate))


@versions.on(PoliciesTested, keys=_candidates)
def tested(row: PolicyVersionRow, recorded: Recorded[PoliciesTested], _version_id: str) -> PolicyVersionRow:
    event = recorded.event
    status = row.status if row.status == "in_force" else "failed" if event.failed else "tested"
    return replace(
        row,
        status=status,
        passed=event.passed,
        failed=event.failed,
        problems=list(event.problems),
        report=event.report,
        changed_at=recorded.at_text,
    )


@versions.on(PolicyActivated, PolicySuperseded, PolicyRetired, keys=_version)
def moved(row: PolicyVersionRow, recorded: Recorded[PolicyActivated | PolicySuperseded | PolicyRetired], _id: str) -> PolicyVersionRow:
    match recorded.event:
        case PolicyActivated():
            status = "in_force"
        case PolicySuperseded():
            status = "superseded"
        case PolicyRetired():
            status = "retired"
        case _:
            assert_never(recorded.event)
    return replace(row, status=status, changed_at=recorded.at_text)


@versions.on(DefaultsAdopted, PoliciesRolledBack, keys=_touched)
def put_back(row: PolicyVersionRow, recorded: Recorded[_WholeSet], version_id: str) -> PolicyVersionRow:
    status = "in_force" if any(str(ref) == version_id for ref in recorded.event.in_force) else "withdrawn"
    return row if status == row.status else replace(row, status=status, changed_at=recorded.at_text)


def _stream_version(recorded: Recorded[_OneVersion | _WholeSet | PoliciesTested | ImpactAnalysed]) -> tuple[str, ...]:
    return (str(recorded.version),)


@steps.on(
    PolicyProposed,
    DefaultsAdopted,
    PoliciesTested,
    ImpactAnalysed,
    PolicyActivated,
    PolicySuperseded,
    PolicyRetired,
    PoliciesRolledBack,
    keys=_stream_version,
)
def step(_row: None, recorded: Recorded[_OneVersion | _WholeSet | PoliciesTested | ImpactAnalysed], _id: str) -> PolicyStepRow:
    event = recorded.event
    detail: JsonObject = {}
    match event:
        case PolicyProposed():
            named, detail = [_id_of(event)], {"sha256": event.sha256}
        case PolicyActivated() | PolicySuperseded() | PolicyRetired():
            named = [_id_of(event)]
        case DefaultsAdopted() | PoliciesRolledBack():
            named, detail = list(_ids_of(event)), event.model_dump(mode="json", include={"to_version"})
        case PoliciesTested() | ImpactAnalysed():
            named = [*map(str, event.change.activate), *event.change.retire]
            detail = event.model_dump(mode="json", exclude={"change"})
        case _:
            assert_never(event)
    return PolicyStepRow(
        stream_version=recorded.version,
        event=event.event_name.partition(".")[2],
        policies=named,
        detail=detail,
        by=recorded.actor,
        at=recorded.at_text,
        position=recorded.position,
    )


PROJECTION = Projection("policies", (policies, versions, steps), ordering="stream")
