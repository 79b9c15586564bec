"""What may be asked of a pipeline, and when the answer is yes: nothing unchecked runs in production."""

from typing import Annotated, Any, Final, assert_never

from pydantic import Field

from domain.catalog import Environment, Jurisdiction, PiiLevel
from domain.kernel import Asked, Command, Decider, json_digest, require
from domain.pipelines import (
    Checks,
    Deployment,
    DeploymentFailed,
    Model,
    Pipeline,
    PipelineEvent,
    PipelineProfile,
    PipelineRegistered,
    PipelineRetired,
    PipelineRolledBack,
    PipelineSettings,
    VersionDeployed,
    evolve,
    snapshot,
)
from domain.rollback import RollBack, require_version, restorable, settings_digest, settings_json
from domain.values import Identifier, Label, Role, Text

ENGINEERS: Final = frozenset({Role.ANALYST, Role.ADMIN, Role.AGENT})
STEWARDS: Final = frozenset({Role.ANALYST, Role.ADMIN})
UNIT_TESTS_MIN: Final = 1
DQ_CHECKS_MIN: Final = 2
MAX_DEPLOYMENT_BYTES: Final = 40_000
Datasets = Annotated[tuple[Identifier, ...], Field(max_length=200)]


class RegisterPipeline(Command, name="pipelines.register_pipeline", roles=ENGINEERS):
    """Make a pipeline known; without an owner, whoever registers it answers for it."""

    pipeline_id: Identifier
    label: Label
    domain: Identifier
    environment: Environment
    owner: Identifier | None = None
    pii_level: PiiLevel | None = None
    jurisdiction: Jurisdiction | None = None


class DeployVersion(Command, name="pipelines.deploy_version", roles=ENGINEERS):
    """Let a version run in place of the one before; in production it takes at least one unit test and two data quality checks."""

    pipeline_id: Identifier
    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=100)]
    unit_tests: Checks = Checks(count=0)
    dq_checks: Checks = Checks(count=0)
    inputs: Datasets = ()
    outputs: Datasets = ()


class ReportFailure(Command, name="pipelines.report_failure", roles=ENGINEERS):
    """Put on record that the version that runs does not do what it should."""

    pipeline_id: Identifier
    reason: Text


class RetirePipeline(Command, name="pipelines.retire_pipeline", roles=STEWARDS):
    """End a pipeline; a rollback to a version before that brings it back."""

    pipeline_id: Identifier
    reason: Text


class RollBackPipeline(RollBack, Command, name="pipelines.roll_back_pipeline", roles=STEWARDS):
    """Give a pipeline the settings back that it had at an earlier version, and let run what ran then."""

    pipeline_id: Identifier


PipelineCommand = RegisterPipeline | DeployVersion | ReportFailure | RetirePipeline | RollBackPipeline


def decide(pipeline: Pipeline | None, command: PipelineCommand, asked: Asked) -> list[PipelineEvent]:
    if isinstance(command, RegisterPipeline):
        return [_registered(pipeline, command, asked)]
    known = _known(pipeline, command.pipeline_id)
    match command:
        case DeployVersion():
            return [_deployed(_live(known, command), command, asked)]
        case ReportFailure():
            return [_failed(_live(known, command), command)]
        case RetirePipeline():
            return [PipelineRetired(**command.model_dump(), version=_live(known, command).settings.running)]
        case RollBackPipeline():
            return [_rolled_back(known, command, asked)]
        case _:
            assert_never(command)


def _registered(pipeline: Pipeline | None, command: RegisterPipeline, asked: Asked) -> PipelineRegistered:
    require(
        pipeline is None,
        "pipeline_exists",
        f"Pipeline {command.pipeline_id} is registered already.",
        field="pipeline_id",
        remedy="Choose another id, or deploy a version of the one that is there.",
    )
    described = command.model_dump(exclude={"pipeline_id"})
    owner = command.owner or asked.by.owner or asked.by.actor
    return PipelineRegistered(pipeline_id=command.pipeline_id, profile=PipelineProfile(**{**described, "owner": owner}))


def _deployed(pipeline: Pipeline, command: DeployVersion, asked: Asked) -> VersionDeployed:
    names = [model.name for model in command.models]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(
        not twice,
        "model_duplicated",
        f"A pipeline has a model once; {', '.join(twice)} stands there more than once.",
        field="models",
        models=twice,
        remedy="Name each model once.",
    )
    _require_checked(pipeline, command)
    deployment = Deployment(
        version=asked.version + 1,
        models=command.models,
        unit_tests=command.unit_tests,
        dq_checks=command.dq_checks,
        inputs=tuple(sorted(set(command.inputs))),
        outputs=tuple(sorted(set(command.outputs))),
        code_sha256=json_digest({"models": [settings_json(model) for model in command.models]}),
    )
    size_bytes = len(deployment.model_dump_json(exclude_none=True).encode())
    require(
        size_bytes <= MAX_DEPLOYMENT_BYTES,
        "deployment_too_large",
        f"The deployment is {size_bytes} bytes of JSON; at most {MAX_DEPLOYMENT_BYTES} fit into one signed event.",
        field="models",
        size_bytes=size_bytes,
        remedy="Split the pipeline, or keep long queries as artifacts and deploy what calls them.",
    )
    return VersionDeployed(pipeline_id=command.pipeline_id, deployment=deployment, replaces=pipeline.settings.running)


def _require_checked(pipeline: Pipeline, command: DeployVersion) -> None:
    enough = command.unit_tests.count >= UNIT_TESTS_MIN and command.dq_checks.count >= DQ_CHECKS_MIN
    require(
        enough or pipeline.settings.profile.environment is not Environment.PRODUCTION,
        "pipeline_unchecked",
        f"Into production goes what has at least {UNIT_TESTS_MIN} unit test and {DQ_CHECKS_MIN} data quality checks; "
        f"this has {command.unit_tests.count} and {command.dq_checks.count}.",
        field="unit_tests" if command.unit_tests.count < UNIT_TESTS_MIN else "dq_checks",
        unit_tests=command.unit_tests.count,
        dq_checks=command.dq_checks.count,
        remedy="Write the checks that are missing, and deploy with them.",
    )


def _failed(pipeline: Pipeline, command: ReportFailure) -> DeploymentFailed:
    running = pipeline.settings.running
    require(
        running is not None,
        "nothing_deployed",
        f"Nothing of pipeline {command.pipeline_id} runs.",
        field="pipeline_id",
        remedy="Deploy a version first.",
    )
    assert running is not None
    return DeploymentFailed(pipeline_id=command.pipeline_id, version=running, reason=command.reason)


def _rolled_back(pipeline: Pipeline, command: RollBackPipeline, asked: Asked) -> PipelineRolledBack:
    require_version(asked, command.to_version)
    settings: PipelineSettings = restorable(command, pipeline.settings, asked.past.settings)
    return PipelineRolledBack(
        pipeline_id=command.pipeline_id,
        to_version=command.to_version,
        snapshot=settings,
        snapshot_sha256=settings_digest(settings),
        replaces=pipeline.settings.running,
    )


def _known(pipeline: Pipeline | None, pipeline_id: str) -> Pipeline:
    require(
        pipeline is not None,
        "pipeline_not_found",
        f"No pipeline {pipeline_id} is registered.",
        field="pipeline_id",
        remedy="Register it first.",
    )
    assert pipeline is not None
    return pipeline


def _live(pipeline: Pipeline, command: PipelineCommand) -> Pipeline:
    require(
        not pipeline.settings.retired,
        "pipeline_retired",
        f"Pipeline {command.pipeline_id} is retired.",
        field="pipeline_id",
        remedy="Register another one, or roll this one back to a version before that.",
    )
    return pipeline


def _classified(profile: PipelineProfile) -> dict[str, Any]:
    """What policies judge by; what is not known of the data is left out."""
    return profile.model_dump(mode="json", include={"environment", "domain", "pii_level", "jurisdiction"}, exclude_none=True)


def _facts(pipeline: Pipeline | None, command: PipelineCommand) -> dict[str, Any]:
    """How the pipeline is classified, and what of that would be new: all of it when it is registered, else nothing."""
    if pipeline is not None:
        return {**_classified(pipeline.settings.profile), "becomes": {}}
    if not isinstance(command, RegisterPipeline):
        return {}
    new = command.model_dump(mode="json", include={"environment", "domain", "pii_level", "jurisdiction"}, exclude_none=True)
    return {**new, "becomes": new}


def _domains(pipeline: Pipeline | None, command: PipelineCommand | None) -> frozenset[str]:
    if pipeline is not None:
        return frozenset({pipeline.settings.profile.domain})
    return frozenset({command.domain}) if isinstance(command, RegisterPipeline) else frozenset()


DECIDER: Decider[Pipeline | None, PipelineCommand, PipelineEvent] = Decider(
    context="pipelines",
    category="pipeline",
    initial=None,
    evolve=evolve,
    decide=decide,
    commands=(RegisterPipeline, DeployVersion, ReportFailure, RetirePipeline, RollBackPipeline),
    events=(PipelineRegistered, VersionDeployed, DeploymentFailed, PipelineRetired, PipelineRolledBack),
    entity=lambda command: command.pipeline_id,
    facts=_facts,
    domains=_domains,
    snapshot=snapshot,
)
