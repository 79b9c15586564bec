"""A pipeline: models that make datasets from datasets, who answers for it, and which of its versions runs where.

A pipeline has one count of versions, that of its stream: deploying is one of the things that make the next.
"""

from dataclasses import dataclass, replace
from typing import Annotated, assert_never

from pydantic import BaseModel, ConfigDict, Field

from domain.catalog import Count, Environment, Jurisdiction, PiiLevel
from domain.kernel import Event, JsonObject
from domain.rollback import RolledBack, Version, settings_json
from domain.values import Identifier, Label, Sha256, Text


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PipelineProfile(_Value):
    """What a pipeline is, and what policies judge it by; what is not known of its data is left out."""

    label: Label
    domain: Identifier
    environment: Environment
    owner: Identifier
    pii_level: PiiLevel | None = None
    jurisdiction: Jurisdiction | None = None


class Model(_Value):
    """One model of a pipeline: a query by name."""

    name: Label
    sql: Annotated[str, Field(min_length=1)]


class Checks(_Value):
    """How many checks there are, and the digest of the file that holds them."""

    count: Count
    sha256: Sha256 | None = None


class Deployment(_Value):
    """What runs: the models, what they read and make, and what they were checked by; `code_sha256` is that of the models."""

    version: Version
    models: tuple[Model, ...]
    unit_tests: Checks
    dq_checks: Checks
    inputs: tuple[Identifier, ...] = ()
    outputs: tuple[Identifier, ...] = ()
    code_sha256: Sha256


class PipelineSettings(_Value):
    """What of a pipeline is decided by people, and what a rollback restores."""

    profile: PipelineProfile
    deployment: Deployment | None = None
    retired: bool = False

    @property
    def running(self) -> int | None:
        """The deployed version that runs."""
        return self.deployment.version if self.deployment and not self.retired else None


class PipelineRegistered(Event, name="pipelines.pipeline_registered"):
    """The pipeline is known from now on; nothing of it runs yet."""

    pipeline_id: Identifier
    profile: PipelineProfile


class VersionDeployed(Event, name="pipelines.version_deployed"):
    """This version runs from now on, in place of the one before."""

    pipeline_id: Identifier
    deployment: Deployment
    replaces: Version | None = None


class DeploymentFailed(Event, name="pipelines.deployment_failed"):
    """The version that runs does not do what it should."""

    pipeline_id: Identifier
    version: Version
    reason: Text


class PipelineRetired(Event, name="pipelines.pipeline_retired"):
    """Nothing of the pipeline runs any more, and nothing more is deployed."""

    pipeline_id: Identifier
    reason: Text
    version: Version | None = None


class PipelineRolledBack(RolledBack, Event, name="pipelines.pipeline_rolled_back"):
    """The pipeline's settings are again those of an earlier version; `replaces` is the deployed version that ran until now."""

    pipeline_id: Identifier
    snapshot: PipelineSettings
    replaces: Version | None = None


PipelineEvent = PipelineRegistered | VersionDeployed | DeploymentFailed | PipelineRetired | PipelineRolledBack


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline as the rules see it. What failed stays known, whatever is rolled back."""

    settings: PipelineSettings
    failed: frozenset[int] = frozenset()


def evolve(pipeline: Pipeline | None, event: PipelineEvent) -> Pipeline:
    if isinstance(event, PipelineRegistered):
        return Pipeline(PipelineSettings(profile=event.profile))
    assert pipeline is not None, "a pipeline's first event registers it"
    match event:
        case VersionDeployed():
            return _with(pipeline, deployment=event.deployment)
        case DeploymentFailed():
            return replace(pipeline, failed=pipeline.failed | {event.version})
        case PipelineRetired():
            return _with(pipeline, retired=True)
        case PipelineRolledBack():
            return replace(pipeline, settings=event.snapshot)
        case _:
            assert_never(event)


def _with(pipeline: Pipeline, **changed: object) -> Pipeline:
    return replace(pipeline, settings=pipeline.settings.model_copy(update=changed))


def snapshot(pipeline: Pipeline | None) -> JsonObject | None:
    """The settings that a rollback restores, as JSON."""
    return settings_json(pipeline.settings) if pipeline else None
