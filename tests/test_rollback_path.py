"""Going back through the one command path and over HTTP: approved, previewed, raced - and refused where others would break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from commands.approvals import ApproveRequest
from commands.budgets import ChangeSettings, OpenBudget, ReserveFunds
from commands.catalog import ChangeSchema, DescribeDataset, LinkTerm, RecordUsage, RegisterDataset, RollBackDataset
from commands.path import VersionMismatch
from commands.pipelines import DECIDER as PIPELINES
from commands.pipelines import DeployVersion, RegisterPipeline, ReportFailure, RollBackPipeline
from domain.actions import ActionAllowed
from domain.catalog import ColumnLineage, ColumnSpec, Environment, Jurisdiction, PiiLevel, Upstream
from domain.kernel import Command, JsonObject, Recorded
from domain.pipelines import Checks, Model, PipelineRolledBack, PipelineSettings, VersionDeployed
from domain.rollback import settings_digest
from infra.keystore import FileKeystore
from tests.support.kernel import ADM, ANA, APP, ask, everything, outcomes, policies, processes, verification
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio

D: Final = "orders"
P: Final = "customers"
COLUMNS: Final = tuple(ColumnSpec(name=name, type="text") for name in ("id", "email", "total"))
CHECKED: Final[JsonObject] = {"unit_tests": Checks(count=1), "dq_checks": Checks(count=2)}


PARKING: Final = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "rollback", "outcome": "require_approval", "reason": "Going back takes a second person."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.action == "pipelines.roll_back_pipeline"
	input.facts.environment == "production"
} else := {
	"outcome": "block",
	"results": [{"policy": "pii", "outcome": "block", "reason": "Not back to that."}],
} if {
	input.action == "catalog.roll_back_dataset"
	input.facts.becomes.pii_level == "high"
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""


def registered(environment: Environment = Environment.STAGING, pipeline_id: str = P) -> RegisterPipeline:
    return RegisterPipeline(pipeline_id=pipeline_id, label="C", domain="sales", environment=environment)


def deploy(sql: str, **fields: Any) -> DeployVersion:
    return DeployVersion(pipeline_id=P, models=(Model(name="m", sql=sql),), **{**CHECKED, **fields})


BACK: Final = RollBackPipeline(pipeline_id=P, to_version=2)


async def test_an_approved_rollback_is_one_event_and_its_snapshot_was_signed_before(
    database_url: str, keystore: FileKeystore, tmp_path: Path
) -> None:
    async with policies(tmp_path / "policies", PARKING) as engine, processes(database_url, keystore, engine, 1) as (one,):
        for command in (
            registered(Environment.PRODUCTION),
            deploy("select 1"),
            deploy("select 2"),
            ReportFailure(pipeline_id=P, reason="doubled"),
        ):
            assert (await one.path.handle(ask(command))).outcome == "allowed"
        size = one.ledger.head.size
        rehearsed = await one.path.rehearse(ask(BACK))
        assert (rehearsed.outcome, one.ledger.head.size) == ("requires_approval", size), "a rehearsal writes nothing"
        unknown = await one.path.handle(ask(RollBackPipeline(pipeline_id=P, to_version=9)))
        assert (unknown.code, unknown.facts["latest_version"]) == ("version_unknown", 4)
        parked = await one.path.handle(ask(BACK))
        assert parked.approval is not None
        assert BACK.intent() == {"pipeline_id": P, "to_version": 2}, "what the approvers consent to"
        approval_id = parked.approval["approval_id"]
        await one.path.handle(ask(ApproveRequest(approval_id=approval_id), APP))
        done = await one.path.handle(ask(BACK, approval_id=approval_id))
        assert (done.outcome, [event["type"] for event in done.events]) == ("allowed", ["pipelines.pipeline_rolled_back"])
        events = await everything(one.ledger)
        back = next(each.event for each in events if isinstance(each.event, PipelineRolledBack))
        allowed = [each.event for each in events if isinstance(each.event, ActionAllowed)]
        taken = {action.snapshot.version: action.snapshot for action in allowed if action.snapshot}
        assert back.snapshot_sha256 == settings_digest(back.snapshot) == taken[2].sha256
        assert taken[2].stream == f"pipeline:{P}"
        assert (await verification(one.ledger)).problems == []


async def test_an_approved_rollback_of_what_changed_since_is_refused(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    async with policies(tmp_path / "policies", PARKING) as engine, processes(database_url, keystore, engine, 1) as (one,):
        for command in (registered(Environment.PRODUCTION), deploy("select 1"), deploy("select 2")):
            await one.path.handle(ask(command))
        parked = await one.path.handle(ask(BACK))
        assert parked.approval is not None
        await one.path.handle(ask(ApproveRequest(approval_id=parked.approval["approval_id"]), APP))
        await one.path.handle(ask(deploy("select 3")))
        late = await one.path.handle(ask(BACK, approval_id=parked.approval["approval_id"]))
        assert (late.outcome, late.code) == ("blocked", "entity_changed_since_approval")


async def test_policies_see_what_a_rollback_brings_back(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    async with policies(tmp_path / "policies", PARKING) as engine, processes(database_url, keystore, engine, 1) as (one,):
        for command in (
            RegisterDataset(dataset_id=D, name="Orders", pii_level=PiiLevel.HIGH, jurisdiction=Jurisdiction.EU),
            DescribeDataset(dataset_id=D, pii_level=PiiLevel.NONE),
        ):
            await one.path.handle(ask(command))
        blocked = await one.path.handle(ask(RollBackDataset(dataset_id=D, to_version=1)))
        assert (blocked.code, blocked.denied) == ("policy_blocked", True)


def _settings(history: list[Any]) -> PipelineSettings | None:
    pipeline = PIPELINES.replay(history)
    return pipeline.settings if pipeline else None


def broken_rollbacks(events: Iterable[Recorded[Any]]) -> list[str]:
    """Where a pipeline was not given what it had, or a deployment does not know what it replaced."""
    found = []
    history: list[Any] = []
    for each in events:
        if not each.stream.startswith("pipeline:"):
            continue
        event = each.event
        before = _settings(history)
        running_before = before.running if before else None
        if isinstance(event, PipelineRolledBack) and event.snapshot != _settings(history[: event.to_version]):
            found.append(f"position {each.position}: not what version {event.to_version} was")
        if isinstance(event, VersionDeployed | PipelineRolledBack) and event.replaces != running_before:
            found.append(f"position {each.position}: replaces {event.replaces}, and {running_before} ran")
        if isinstance(event, VersionDeployed) and event.deployment.version != each.version:
            found.append(f"position {each.position}: calls itself version {event.deployment.version}, and is {each.version}")
        history.append(event)
    return found


async def test_a_rollback_that_races_a_change_is_refused_or_decided_anew(database_url: str, keystore: FileKeystore, tmp_path: Path) -> None:
    async with policies(tmp_path / "policies", PARKING) as engine, processes(database_url, keystore, engine, 2) as (here, there):
        for command in (registered(), deploy("select 0")):
            await here.path.handle(ask(command))
        for number in range(1, 8):
            version = (await there.path.handle(ask(deploy(f"select {number}")))).version
            racing = (ask(BACK, if_match=version), ask(deploy(f"select -{number}"), if_match=version))
            answers = await outcomes(here.path.handle(racing[0]), there.path.handle(racing[1]))
            assert sorted(type(answer).__name__ for answer in answers) == ["Outcome", "VersionMismatch"], "each saw the same version"
            mismatch = next(answer for answer in answers if isinstance(answer, VersionMismatch))
            assert mismatch.actual == version + 1
            await here.path.handle(ask(deploy(f"select {number}.5")))
            unbound = await asyncio.gather(here.path.handle(ask(BACK)), there.path.handle(ask(deploy(f"select --{number}"))))
            assert [answer.outcome for answer in unbound] == ["allowed", "allowed"]
        events = await everything(here.ledger)
        assert broken_rollbacks(events) == []
        assert sum(isinstance(each.event, PipelineRolledBack) for each in events) >= 7


# -- over HTTP


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path, PARKING) as one:
        await one.know(ANA, APP, ADM)
        yield one


async def done(aureus: Aureus, *commands: Command) -> None:
    """All of it allowed, and read."""
    position = 0
    for command in commands:
        outcome = await aureus.services.path.handle(ask(command, ADM))
        assert outcome.outcome == "allowed", outcome
        position = outcome.position
    await aureus.services.wait_for(position)


def refused(answer: httpx.Response, status: int, code: str) -> JsonObject:
    assert answer.status_code == status, answer.text
    error: JsonObject = answer.json()["error"]
    assert error["code"] == code
    details: JsonObject = error["details"]
    return details


def going_back(to_version: int, entity_type: str = "pipeline", entity_id: str = P) -> JsonObject:
    return {"entity_type": entity_type, "entity_id": entity_id, "to_version": to_version}


async def test_a_deployment_that_went_wrong_is_previewed_approved_and_undone(aureus: Aureus) -> None:
    await done(aureus, registered(Environment.PRODUCTION), deploy("select 1", outputs=("d",)), deploy("select 2", outputs=("d",)))
    preview = (await aureus.get("/v1/rollbacks/preview", ANA, **going_back(2))).json()
    assert (preview["outcome"], preview["version"], preview["approval"]["approver_roles"]) == ("requires_approval", 3, ["approver"])
    assert {"field": "deployment.models.m.sql", "now": "select 2", "then": "select 1"} in preview["changes"]
    assert preview["rollback_script"] == f"aureus rollback pipeline {P} --to 2"
    parked = await aureus.post("/v1/rollbacks", going_back(2), ANA, Aureus_Reason="it doubles rows")
    assert parked.status_code == 202, parked.text
    approval_id = parked.json()["approval_id"]
    assert (await aureus.post(f"/v1/approvals/{approval_id}/approve", {}, APP)).status_code == 200
    waiting = (await aureus.get("/v1/rollbacks/preview", ANA, **going_back(2))).json()
    assert [row["approval_id"] for row in waiting["touches"]["approvals"]] == [approval_id]
    answer = await aureus.post("/v1/rollbacks", going_back(2), ANA, Aureus_Approval=approval_id)
    assert answer.status_code == 200, answer.text
    row = (await aureus.get(f"/v1/pipelines/{P}", ANA, at_least=answer.json()["position"])).json()
    assert (row["version"], row["status"]) == (2, "deployed")


async def test_every_version_has_its_snapshot_and_says_whether_it_was_signed(aureus: Aureus) -> None:
    await done(aureus, registered(), deploy("select 1"), deploy("select 2"))
    page = (await aureus.get(f"/v1/history/pipeline/{P}", ANA, limit=2)).json()
    assert [step["version"] for step in page["items"]] == [3, 2]
    rest = (await aureus.get(f"/v1/history/pipeline/{P}", ANA, limit=2, cursor=page["next_cursor"])).json()
    assert [(step["version"], step["event"]) for step in rest["items"]] == [(1, "pipelines.pipeline_registered")]
    assert rest["next_cursor"] is None
    taken = (await aureus.get(f"/v1/snapshots/pipeline/{P}", ANA, version=2)).json()
    assert taken["snapshotData"]["deployment"]["models"] == [{"name": "m", "sql": "select 1"}]
    assert (taken["sha256"], taken["verified"]) == (page["items"][1]["sha256"], True)
    assert taken["recordedBy"] == page["items"][0]["action_id"]
    assert (taken["entityType"], taken["entityId"], taken["rollbackScript"]) == ("pipeline", P, f"aureus rollback pipeline {P} --to 2")
    latest = (await aureus.get(f"/v1/snapshots/pipeline/{P}", ANA)).json()
    assert (latest["version"], latest["verified"], latest["recordedBy"]) == (3, None, None)
    assert refused(await aureus.get(f"/v1/snapshots/pipeline/{P}", ANA, version=9), 404, "version_unknown")["latest_version"] == 3
    refused(await aureus.get("/v1/snapshots/pipeline/none", ANA), 404, "pipeline_not_found")
    refused(await aureus.get("/v1/history/budget/none", ANA), 404, "budget_not_found")


async def test_a_column_that_others_rely_on_does_not_vanish(aureus: Aureus) -> None:
    await done(
        aureus,
        RegisterDataset(dataset_id=D, name="Orders", pii_level=PiiLevel.NONE, columns=COLUMNS[:1]),
        ChangeSchema(dataset_id=D, columns=COLUMNS),
        LinkTerm(dataset_id=D, column="email", term_id="contact"),
        RecordUsage(dataset_id=D, used_by="agt-bot"),
        RecordUsage(dataset_id=D, used_by="usr-ana"),
        RegisterDataset(
            dataset_id="mart",
            name="Mart",
            pii_level=PiiLevel.NONE,
            columns=COLUMNS[:1],
            upstreams=(Upstream(dataset_id=D, columns=(ColumnLineage(column="id", upstream_column="total"),)),),
        ),
        registered(),
        deploy("select EMAIL from orders", inputs=(D,)),
        registered(pipeline_id="ids"),
        DeployVersion(pipeline_id="ids", models=(Model(name="m", sql="select id from orders"),), inputs=(D,)),
    )
    back = going_back(2, "dataset", D)
    details = refused(await aureus.post("/v1/rollbacks", back, ANA), 409, "rollback_breaks_dependents")
    broken = [
        "dataset mart makes its column id from total",
        "term contact says what column email means",
        f"pipeline {P} reads it in version 2",
    ]
    assert details["broken"] == broken
    preview = (await aureus.get("/v1/rollbacks/preview", ANA, **back)).json()
    assert (preview["outcome"], preview["code"], preview["broken"]) == ("blocked", "rollback_breaks_dependents", broken)
    assert [node["dataset_id"] for node in preview["touches"]["downstream"]] == ["mart"]
    assert [row["pipeline_id"] for row in preview["touches"]["pipelines"]] == [P, "ids"]
    assert preview["touches"]["agents"] == [{"agent_id": "agt-bot"}]
    forged = await aureus.post("/v1/rollbacks", {**back, "broken": []}, ANA)
    refused(forged, 422, "validation_failed")


async def test_what_another_pipeline_reads_does_not_vanish_unless_somebody_else_makes_it(aureus: Aureus) -> None:
    await done(
        aureus,
        registered(),
        deploy("select 1"),
        deploy("select 2", outputs=("d",)),
        registered(pipeline_id="reader"),
        DeployVersion(pipeline_id="reader", models=(Model(name="m", sql="select 1"),), inputs=("d",)),
    )
    details = refused(await aureus.post("/v1/rollbacks", going_back(2), ANA), 409, "rollback_breaks_dependents")
    assert details["broken"] == ["pipeline reader reads d, which nothing else makes"]
    maker = DeployVersion(pipeline_id="maker", models=(Model(name="m", sql="select 1"),), outputs=("d",))
    await done(aureus, registered(pipeline_id="maker"), maker)
    assert (await aureus.post("/v1/rollbacks", going_back(2), ANA)).status_code == 200


async def test_a_rollback_is_asked_for_by_those_who_may_and_bound_to_what_they_saw(aureus: Aureus) -> None:
    await done(aureus, OpenBudget(budget_id="lake", label="Lake", currency="EUR", limit_minor=100))
    await done(aureus, ChangeSettings(budget_id="lake", label="Sea"), ReserveFunds(budget_id="lake", amount_minor=10))
    back = going_back(1, "budget", "lake")
    refused(await aureus.post("/v1/rollbacks", back, ANA), 403, "role_missing")
    preview = (await aureus.get("/v1/rollbacks/preview", ADM, **back)).json()
    assert (preview["outcome"], preview["changes"]) == ("allowed", [{"field": "label", "now": "Sea", "then": "Lake"}])
    assert [row["amount_minor"] for row in preview["touches"]["reservations"]] == [10]
    refused(await aureus.post("/v1/rollbacks", back, ADM, If_Match="2"), 412, "version_mismatch")
    answer = await aureus.post("/v1/rollbacks", back, ADM, If_Match="3")
    assert answer.status_code == 200, answer.text
    row = (await aureus.get("/v1/budgets/lake", ADM, at_least=answer.json()["position"])).json()
    assert (row["label"], row["reserved_minor"]) == ("Lake", 10)
    refused(await aureus.post("/v1/rollbacks", back, ADM), 409, "nothing_to_roll_back")
    refused(await aureus.post("/v1/rollbacks", going_back(1, "budget", "none"), ADM), 404, "budget_not_found")
    assert (await aureus.post("/v1/rollbacks", going_back(99, "policy", "active"), ADM)).status_code == 409
