"""Pipelines as people read them: each with the version that runs, and every version that was ever deployed."""

from collections.abc import Iterable

from domain.kernel import JsonObject, Recorded
from domain.pipelines import (
    Deployment,
    DeploymentFailed,
    PipelineRegistered,
    PipelineRetired,
    PipelineRolledBack,
    VersionDeployed,
)
from domain.rollback import settings_json
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class PipelineRow:
    """One pipeline: `version` is the deployed one that runs, with what it reads and makes.

    `status` is registered (nothing was deployed), deployed, failed or retired.
    """

    pipeline_id: str
    label: str
    domain: str
    environment: str
    owner: str
    pii_level: str | None
    jurisdiction: str | None
    status: str
    version: int | None
    models: list[str]
    inputs: list[str]
    outputs: list[str]
    unit_tests: int
    dq_checks: int
    code_sha256: str | None
    deployed_by: str | None
    deployed_at: str | None
    failed_versions: list[int]
    registered_by: str
    registered_at: str
    changed_at: str


@read_row
class PipelineVersionRow:
    """One deployed version with its models: it is running, failed, superseded, retired or rolled_back."""

    version_id: str
    pipeline_id: str
    version: int
    status: str
    models: list[JsonObject]
    inputs: list[str]
    outputs: list[str]
    unit_tests: JsonObject
    dq_checks: JsonObject
    code_sha256: str
    failure: str | None
    deployed_by: str
    deployed_at: str
    changed_by: str
    changed_at: str


pipelines = ReadTable(
    "pipelines",
    PipelineRow,
    filters=("domain", "environment", "owner", "pii_level", "jurisdiction", "status", "inputs", "outputs"),
    sorts=("pipeline_id", "label", "deployed_at", "changed_at"),
    search=("pipeline_id", "label"),
)
versions = ReadTable(
    "pipeline_versions",
    PipelineVersionRow,
    filters=("pipeline_id", "status", "inputs", "outputs", "deployed_by"),
    sorts=("version", "deployed_at"),
    search=("pipeline_id",),
)

_Moved = VersionDeployed | PipelineRetired | PipelineRolledBack


def _id(recorded: Recorded[VersionDeployed | DeploymentFailed | PipelineRetired | PipelineRolledBack], version: int) -> str:
    return f"{recorded.event.pipeline_id}@{version}"


def _deployed(recorded: Recorded[VersionDeployed]) -> Iterable[str]:
    return (_id(recorded, recorded.event.deployment.version),)


def _replaced(recorded: Recorded[VersionDeployed]) -> Iterable[str]:
    return () if recorded.event.replaces is None else (_id(recorded, recorded.event.replaces),)


def _own_version(recorded: Recorded[DeploymentFailed | PipelineRetired]) -> Iterable[str]:
    return () if recorded.event.version is None else (_id(recorded, recorded.event.version),)


def _moved(recorded: Recorded[PipelineRolledBack]) -> Iterable[str]:
    """The deployed version that stops, and the one that runs again."""
    both = {recorded.event.replaces, recorded.event.snapshot.running}
    return sorted(_id(recorded, version) for version in both if version is not None)


def _runs(row: PipelineRow, deployment: Deployment | None, recorded: Recorded[_Moved]) -> PipelineRow:
    """The row with what runs now, and since when."""
    failed = deployment is not None and deployment.version in row.failed_versions
    return replace(
        row,
        status="registered" if deployment is None else "failed" if failed else "deployed",
        version=deployment.version if deployment else None,
        models=[model.name for model in deployment.models] if deployment else [],
        inputs=list(deployment.inputs) if deployment else [],
        outputs=list(deployment.outputs) if deployment else [],
        unit_tests=deployment.unit_tests.count if deployment else 0,
        dq_checks=deployment.dq_checks.count if deployment else 0,
        code_sha256=deployment.code_sha256 if deployment else None,
        deployed_by=recorded.actor if deployment else None,
        deployed_at=recorded.at_text if deployment else None,
        changed_at=recorded.at_text,
    )


@pipelines.on(PipelineRegistered)
def registered(_row: None, recorded: Recorded[PipelineRegistered], pipeline_id: str) -> PipelineRow:
    profile = recorded.event.profile
    return PipelineRow(
        pipeline_id=pipeline_id,
        label=profile.label,
        domain=profile.domain,
        environment=profile.environment.value,
        owner=profile.owner,
        pii_level=profile.pii_level.value if profile.pii_level else None,
        jurisdiction=profile.jurisdiction.value if profile.jurisdiction else None,
        status="registered",
        version=None,
        models=[],
        inputs=[],
        outputs=[],
        unit_tests=0,
        dq_checks=0,
        code_sha256=None,
        deployed_by=None,
        deployed_at=None,
        failed_versions=[],
        registered_by=recorded.actor,
        registered_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@pipelines.on(VersionDeployed)
def deployed(row: PipelineRow, recorded: Recorded[VersionDeployed], _pipeline_id: str) -> PipelineRow:
    return _runs(row, recorded.event.deployment, recorded)


@pipelines.on(DeploymentFailed)
def failed(row: PipelineRow, recorded: Recorded[DeploymentFailed], _pipeline_id: str) -> PipelineRow:
    failed_versions = sorted({*row.failed_versions, recorded.event.version})
    return replace(row, status="failed", failed_versions=failed_versions, changed_at=recorded.at_text)


@pipelines.on(PipelineRetired)
def retired(row: PipelineRow, recorded: Recorded[PipelineRetired], _pipeline_id: str) -> PipelineRow:
    return replace(row, status="retired", changed_at=recorded.at_text)


@pipelines.on(PipelineRolledBack)
def rolled_back(row: PipelineRow, recorded: Recorded[PipelineRolledBack], _pipeline_id: str) -> PipelineRow:
    settings = recorded.event.snapshot
    profile = settings.profile
    classified = replace(
        row,
        label=profile.label,
        domain=profile.domain,
        environment=profile.environment.value,
        owner=profile.owner,
        pii_level=profile.pii_level.value if profile.pii_level else None,
        jurisdiction=profile.jurisdiction.value if profile.jurisdiction else None,
    )
    runs = _runs(classified, settings.deployment, recorded)
    return replace(runs, status="retired") if settings.retired else runs


@versions.on(VersionDeployed, keys=_deployed)
def version_deployed(_row: None, recorded: Recorded[VersionDeployed], version_id: str) -> PipelineVersionRow:
    deployment = recorded.event.deployment
    return PipelineVersionRow(
        version_id=version_id,
        pipeline_id=recorded.event.pipeline_id,
        version=deployment.version,
        status="running",
        models=[settings_json(model) for model in deployment.models],
        inputs=list(deployment.inputs),
        outputs=list(deployment.outputs),
        unit_tests=settings_json(deployment.unit_tests),
        dq_checks=settings_json(deployment.dq_checks),
        code_sha256=deployment.code_sha256,
        failure=None,
        deployed_by=recorded.actor,
        deployed_at=recorded.at_text,
        changed_by=recorded.actor,
        changed_at=recorded.at_text,
    )


def _now(row: PipelineVersionRow, recorded: Recorded[_Moved | DeploymentFailed], status: str) -> PipelineVersionRow:
    return replace(row, status=status, changed_by=recorded.actor, changed_at=recorded.at_text)


@versions.on(VersionDeployed, keys=_replaced)
def version_superseded(row: PipelineVersionRow, recorded: Recorded[VersionDeployed], _version_id: str) -> PipelineVersionRow:
    return _now(row, recorded, "superseded")


@versions.on(DeploymentFailed, keys=_own_version)
def version_failed(row: PipelineVersionRow, recorded: Recorded[DeploymentFailed], _version_id: str) -> PipelineVersionRow:
    return replace(_now(row, recorded, "failed"), failure=recorded.event.reason)


@versions.on(PipelineRetired, keys=_own_version)
def version_retired(row: PipelineVersionRow, recorded: Recorded[PipelineRetired], _version_id: str) -> PipelineVersionRow:
    return _now(row, recorded, "retired")


@versions.on(PipelineRolledBack, keys=_moved)
def version_rolled_back(row: PipelineVersionRow, recorded: Recorded[PipelineRolledBack], _version_id: str) -> PipelineVersionRow:
    settings = recorded.event.snapshot
    if row.version != settings.running:
        return _now(row, recorded, "retired" if settings.retired else "rolled_back")
    return _now(row, recorded, "failed" if row.failure else "running")


PROJECTION = Projection("pipelines", (pipelines, versions), ordering="stream")
