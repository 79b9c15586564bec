"""Pipelines: what is refused, what follows, that nothing unchecked runs in production - and what people read of it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer

from api.cli.pipelines import checks_in, model_in
from commands.pipelines import DECIDER, DeployVersion, RegisterPipeline, ReportFailure, RetirePipeline, RollBackPipeline
from domain.catalog import Environment, Jurisdiction, PiiLevel
from domain.kernel import Event, Recorded, json_digest
from domain.pipelines import (
    Checks,
    Deployment,
    DeploymentFailed,
    Model,
    PipelineProfile,
    PipelineRegistered,
    PipelineRetired,
    PipelineRolledBack,
    PipelineSettings,
    VersionDeployed,
)
from domain.rollback import settings_digest
from projections.engine import replay
from projections.pipelines import PROJECTION
from tests.given import AGENT, given

PROFILE = PipelineProfile(
    label="Customers",
    domain="sales",
    environment=Environment.PRODUCTION,
    owner="usr-ana",
    pii_level=PiiLevel.HIGH,
    jurisdiction=Jurisdiction.EU,
)
REGISTERED = PipelineRegistered(pipeline_id="customers", profile=PROFILE)
ON_TRIAL = PipelineRegistered(pipeline_id="customers", profile=PROFILE.model_copy(update={"environment": Environment.DEV}))
CHECKED: dict[str, Any] = {"unit_tests": Checks(count=1), "dq_checks": Checks(count=2)}


def models(sql: str = "select 1") -> tuple[Model, ...]:
    return (Model(name="customers", sql=sql),)


def deployment(version: int, sql: str = "select 1", **changed: Any) -> Deployment:
    code_sha256 = json_digest({"models": [{"name": "customers", "sql": sql}]})
    return Deployment(version=version, models=models(sql), code_sha256=code_sha256, **{**CHECKED, **changed})


def deployed(version: int, sql: str = "select 1", replaces: int | None = None) -> VersionDeployed:
    return VersionDeployed(pipeline_id="customers", deployment=deployment(version, sql), replaces=replaces)


def deploy(sql: str = "select 1", **changed: Any) -> DeployVersion:
    return DeployVersion(pipeline_id="customers", models=models(sql), **{**CHECKED, **changed})


FIRST = deployed(2)
SECOND = deployed(3, "select 2", replaces=2)
FAILED = DeploymentFailed(pipeline_id="customers", version=3, reason="doubles rows")
RETIRED = PipelineRetired(pipeline_id="customers", reason="unread", version=2)


# -- decisions


def test_who_registers_a_pipeline_answers_for_it_and_of_an_agent_its_owner() -> None:
    command = RegisterPipeline(pipeline_id="customers", label="Customers", domain="sales", environment=Environment.DEV)
    profile = PipelineProfile(label="Customers", domain="sales", environment=Environment.DEV, owner="usr-ana")
    expected = PipelineRegistered(pipeline_id="customers", profile=profile)
    given(DECIDER).when(command).then(expected)
    given(DECIDER).by(AGENT).when(command).then(expected)


def test_a_pipeline_is_registered_once() -> None:
    command = RegisterPipeline(pipeline_id="customers", label="Customers", domain="sales", environment=Environment.DEV)
    given(DECIDER, REGISTERED).when(command).refused("pipeline_exists", field="pipeline_id")


def test_a_deployment_is_the_next_version_and_knows_its_code() -> None:
    command = deploy(inputs=("b", "a", "a"), outputs=("c",))
    expected = VersionDeployed(pipeline_id="customers", deployment=deployment(3, inputs=("a", "b"), outputs=("c",)), replaces=2)
    given(DECIDER, REGISTERED, FIRST).when(command).then(expected)


@pytest.mark.parametrize(("unit_tests", "dq_checks", "field"), [(0, 2, "unit_tests"), (1, 1, "dq_checks"), (0, 0, "unit_tests")])
def test_nothing_unchecked_goes_into_production(unit_tests: int, dq_checks: int, field: str) -> None:
    command = deploy(unit_tests=Checks(count=unit_tests), dq_checks=Checks(count=dq_checks))
    given(DECIDER, REGISTERED).when(command).refused("pipeline_unchecked", field=field, unit_tests=unit_tests, dq_checks=dq_checks)


def test_what_is_on_trial_may_run_unchecked() -> None:
    unchecked: dict[str, Any] = {"unit_tests": Checks(count=0), "dq_checks": Checks(count=0)}
    expected = VersionDeployed(pipeline_id="customers", deployment=deployment(2, **unchecked))
    given(DECIDER, ON_TRIAL).when(deploy(**unchecked)).then(expected)


def test_a_model_stands_in_a_deployment_once() -> None:
    command = DeployVersion(pipeline_id="customers", models=(*models("select 1"), *models("select 2")), **CHECKED)
    given(DECIDER, REGISTERED).when(command).refused("model_duplicated", models=["customers"])


def test_a_deployment_fits_into_one_event() -> None:
    given(DECIDER, REGISTERED).when(deploy("select '" + "x" * 40_000 + "'")).refused("deployment_too_large", field="models")


def test_what_fails_is_the_version_that_runs() -> None:
    given(DECIDER, REGISTERED, FIRST, SECOND).when(ReportFailure(pipeline_id="customers", reason="doubles rows")).then(FAILED)
    given(DECIDER, REGISTERED).when(ReportFailure(pipeline_id="customers", reason="x")).refused("nothing_deployed")


def test_a_retired_pipeline_takes_nothing_more() -> None:
    given(DECIDER, REGISTERED, FIRST).when(RetirePipeline(pipeline_id="customers", reason="unread")).then(RETIRED)
    history = given(DECIDER, REGISTERED, FIRST, RETIRED)
    for command in (
        deploy(),
        ReportFailure(pipeline_id="customers", reason="x"),
        RetirePipeline(pipeline_id="customers", reason="x"),
    ):
        history.when(command).refused("pipeline_retired", field="pipeline_id")


@pytest.mark.parametrize(
    "command",
    [
        deploy(),
        ReportFailure(pipeline_id="customers", reason="x"),
        RetirePipeline(pipeline_id="customers", reason="x"),
        RollBackPipeline(pipeline_id="customers", to_version=1),
    ],
)
def test_what_is_not_registered_cannot_be_changed(command: Any) -> None:
    given(DECIDER).when(command).refused("pipeline_not_found", field="pipeline_id")


# -- rollback


def rolled_back(to_version: int, running: Deployment | None, replaces: int | None) -> PipelineRolledBack:
    settings = PipelineSettings(profile=PROFILE, deployment=running)
    return PipelineRolledBack(
        pipeline_id="customers", to_version=to_version, snapshot=settings, snapshot_sha256=settings_digest(settings), replaces=replaces
    )


def test_a_rollback_is_one_event_that_holds_what_comes_back() -> None:
    history = given(DECIDER, REGISTERED, FIRST, SECOND, FAILED)
    history.when(RollBackPipeline(pipeline_id="customers", to_version=2)).then(rolled_back(2, FIRST.deployment, 3))


def test_a_rollback_can_be_rolled_back() -> None:
    history = given(DECIDER, REGISTERED, FIRST, SECOND, rolled_back(2, FIRST.deployment, 3))
    history.when(RollBackPipeline(pipeline_id="customers", to_version=3)).then(rolled_back(3, SECOND.deployment, 2))


def test_a_retired_pipeline_comes_back_by_a_rollback() -> None:
    history = given(DECIDER, REGISTERED, FIRST, RETIRED)
    history.when(RollBackPipeline(pipeline_id="customers", to_version=2)).then(rolled_back(2, FIRST.deployment, None))


def test_a_version_that_never_was_is_refused_with_those_that_were() -> None:
    history = given(DECIDER, REGISTERED, FIRST, SECOND)
    history.when(RollBackPipeline(pipeline_id="customers", to_version=4)).refused("version_unknown", latest_version=3, field="to_version")


def test_what_stands_as_it_was_is_not_rolled_back() -> None:
    history = given(DECIDER, REGISTERED, FIRST, SECOND, FAILED)
    history.when(RollBackPipeline(pipeline_id="customers", to_version=3)).refused("nothing_to_roll_back")


def test_what_others_rely_on_does_not_vanish() -> None:
    command = RollBackPipeline(pipeline_id="customers", to_version=1, broken=("pipeline orders reads customers",))
    given(DECIDER, REGISTERED, FIRST).when(command).refused("rollback_breaks_dependents", broken=["pipeline orders reads customers"])


# -- what policies judge by


def test_policies_judge_a_registration_by_all_that_it_brings_in() -> None:
    command = RegisterPipeline(pipeline_id="p", label="P", domain="sales", environment=Environment.PRODUCTION, pii_level=PiiLevel.HIGH)
    classified = {"domain": "sales", "environment": "production", "pii_level": "high"}
    assert DECIDER.facts(None, command) == {**classified, "becomes": classified}


def test_policies_judge_what_follows_by_what_the_pipeline_is() -> None:
    facts = DECIDER.facts(DECIDER.replay([REGISTERED]), deploy())
    assert facts == {"domain": "sales", "environment": "production", "pii_level": "high", "jurisdiction": "EU", "becomes": {}}
    assert DECIDER.facts(None, deploy()) == {}


# -- what people read


def rows(*events: Event) -> dict[str, Any]:
    """The rows after these events, a minute apart, each by somebody else."""
    history = [
        Recorded(
            position=version,
            tenant="acme",
            stream="pipeline:customers",
            version=version,
            id=UUID(int=version),
            at=datetime(2026, 3, 3, 14, 0, tzinfo=UTC) + timedelta(minutes=version),
            actor=f"usr-{version}",
            correlation=UUID(int=0),
            causation=None,
            event=event,
        )
        for version, event in enumerate(events, 1)
    ]
    return {row_id: row for (_, _, row_id), row in replay(PROJECTION, history).items()}


def test_every_deployed_version_keeps_who_and_when() -> None:
    found = rows(REGISTERED, FIRST, SECOND, FAILED)
    first, second, pipeline = found["customers@2"], found["customers@3"], found["customers"]
    assert (first.status, first.deployed_by, first.changed_by) == ("superseded", "usr-2", "usr-3")
    assert (second.status, second.failure, second.deployed_at) == ("failed", "doubles rows", "2026-03-03T14:03:00.000000Z")
    assert (pipeline.status, pipeline.version, pipeline.failed_versions) == ("failed", 3, [3])


def test_after_a_rollback_the_earlier_version_runs_again() -> None:
    found = rows(REGISTERED, FIRST, SECOND, FAILED, rolled_back(2, FIRST.deployment, 3))
    assert (found["customers"].status, found["customers"].version, found["customers"].deployed_by) == ("deployed", 2, "usr-5")
    assert [found[f"customers@{version}"].status for version in (2, 3)] == ["running", "rolled_back"]


def test_what_failed_stays_known_when_it_runs_again() -> None:
    back = rolled_back(2, FIRST.deployment, 3)
    found = rows(REGISTERED, FIRST, SECOND, FAILED, back, rolled_back(3, SECOND.deployment, 2))
    assert (found["customers"].status, found["customers@3"].status) == ("failed", "failed")


def test_before_its_first_deployment_nothing_of_a_pipeline_runs() -> None:
    found = rows(REGISTERED, FIRST, rolled_back(1, None, 2))
    assert (found["customers"].status, found["customers"].version, found["customers"].models) == ("registered", None, [])
    assert found["customers@2"].status == "rolled_back"


def test_a_pipeline_that_comes_back_from_retirement_runs() -> None:
    assert rows(REGISTERED, FIRST, RETIRED)["customers@2"].status == "retired"
    found = rows(REGISTERED, FIRST, RETIRED, rolled_back(2, FIRST.deployment, None))
    assert (found["customers"].status, found["customers@2"].status) == ("deployed", "running")


# -- the command line


def test_checks_are_counted_and_hashed_where_they_lie(tmp_path: Path) -> None:
    content = json.dumps([{"not_null": "id"}, {"unique": "id"}]).encode()
    (tmp_path / "dq.json").write_bytes(content)
    assert checks_in(tmp_path / "dq.json") == {"count": 2, "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "no-list.json").write_text("{}")
    for name in ("no-list.json", "absent.json"):
        with pytest.raises(typer.BadParameter):
            checks_in(tmp_path / name)


def test_a_model_is_called_after_its_file_or_as_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "customers.sql").write_text("select 1")
    assert model_in(f"{tmp_path}/customers.sql") == {"name": "customers", "sql": "select 1"}
    assert model_in(f"c={tmp_path}/customers.sql")["name"] == "c"
