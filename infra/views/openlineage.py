"""Lineage as OpenLineage: which dataset is made from which, what pipelines read and make, and which data agents asked to use.

Jobs and datasets are described (JobEvent, DatasetEvent); a run is a tool call that an agent asked for. Its end says how the Guard
decided on it: COMPLETE is a permit, FAIL a refusal. What the tool then did with the data, nobody told the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from domain.kernel import JsonObject
from infra.views.view import About, Lines, ViewEvent

PRODUCER: Final = "https://aureus.example/views/openlineage/v1"
_SPEC: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/"
_FACETS: Final = "https://openlineage.io/spec/facets/"
_REQUEST: Final = "agents.request_action"


def _facet(schema: str, **members: Any) -> JsonObject:
    """A published facet, such as `1-1-0/SQLJobFacet`."""
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}{schema}.json#/$defs/{schema.rpartition('/')[2]}", **members}


def _documentation(kind: str, text: str | None) -> JsonObject:
    return {"documentation": _facet(f"1-1-0/Documentation{kind}Facet", description=text)} if text else {}


def _tags(kind: str, tags: Mapping[str, Any]) -> JsonObject:
    stated = [{"key": key, "value": str(value), "source": "AUREUS"} for key, value in tags.items() if value is not None]
    return {"tags": _facet(f"1-0-0/Tags{kind}Facet", tags=stated)} if stated else {}


class _Told:
    """One ledger event on its way into OpenLineage events."""

    def __init__(self, about: About, event: ViewEvent) -> None:
        self.body = event.body
        self.data: JsonObject = event.body["data"]
        self._event = event
        self._namespace = f"{about.ledger}/{event.body['tenant']}"

    def dataset(self, dataset_id: str, **facets: JsonObject) -> JsonObject:
        found: JsonObject = {"namespace": self._namespace, "name": dataset_id}
        return {**found, "facets": facets} if facets else found

    def datasets(self, dataset_ids: Iterable[str]) -> list[JsonObject]:
        return [self.dataset(dataset_id) for dataset_id in dataset_ids]

    def dataset_event(self, **facets: JsonObject) -> JsonObject:
        described = self.dataset(self.data["dataset_id"], **facets, **self._entry("DatasetFacet"))
        return {**self._base("DatasetEvent"), "dataset": described}

    def job_event(self, name: str, inputs: Sequence[JsonObject], outputs: Sequence[JsonObject], **facets: JsonObject) -> JsonObject:
        return {**self._base("JobEvent"), "job": self._job(name, **facets), "inputs": inputs, "outputs": outputs}

    def run(self, job: str, ended: str, inputs: Sequence[JsonObject], purpose: str | None, **facets: JsonObject) -> list[JsonObject]:
        """The two events of a run, which the spec asks for; its id is that of the action."""
        run = {"runId": self.body["causation"], "facets": {**self._entry("RunFacet"), **facets}}
        described = self._job(job, **_documentation("Job", purpose), **_job_type("TOOL_CALL"))
        base = {**self._base("RunEvent"), "run": run, "job": described, "inputs": inputs, "outputs": []}
        return [{**base, "eventType": "START"}, {**base, "eventType": ended}]

    def field(self, dataset_id: str, column: str) -> JsonObject:
        return {"namespace": self._namespace, "name": dataset_id, "field": column}

    def _job(self, name: str, **facets: JsonObject) -> JsonObject:
        return {"namespace": self._namespace, "name": name, "facets": {**self._entry("JobFacet"), **facets}}

    def _base(self, kind: str) -> JsonObject:
        return {"eventTime": self.body["at"], "producer": PRODUCER, "schemaURL": _SPEC + kind}

    def _entry(self, kind: str) -> JsonObject:
        """Where in the ledger this stands: the facet `aureus_entry`."""
        place = {"position": self._event.position, "leaf": self._event.leaf.hex(), "actor": self.body["actor"]}
        return {"aureus_entry": {"_producer": PRODUCER, "_schemaURL": _SPEC + kind, **place}}


def _job_type(kind: str) -> JsonObject:
    return {"jobType": _facet("2-0-4/JobTypeJobFacet", processingType="BATCH", integration="AUREUS", jobType=kind)}


def _described(profile: JsonObject) -> JsonObject:
    judged_by = {name: profile.get(name) for name in ("domain", "pii_level", "jurisdiction", "environment")}
    return {**_documentation("Dataset", profile.get("description")), **_tags("Dataset", judged_by)}


def _schema(columns: Iterable[JsonObject]) -> JsonObject:
    fields = [{name: column[name] for name in ("name", "type", "description") if column.get(name)} for column in columns]
    return {"schema": _facet("1-2-0/SchemaDatasetFacet", fields=fields)}


def _dataset(told: _Told) -> list[JsonObject]:
    return [told.dataset_event(**_described(told.data["profile"]))]


def _columns(told: _Told) -> list[JsonObject]:
    return [told.dataset_event(**_schema(told.data["columns"]))]


def _refreshed(told: _Told) -> list[JsonObject]:
    return [told.dataset_event(version=_facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=told.data["refreshed_at"]))]


def _dataset_rolled_back(told: _Told) -> list[JsonObject]:
    settings, dataset_id = told.data["snapshot"], told.data["dataset_id"]
    edges = [_edge(told, dataset_id, upstream) for upstream in settings.get("upstreams", [])]
    gone = [_no_edge(told, dataset_id, upstream_id) for upstream_id in told.data.get("upstreams_removed", [])]
    return [told.dataset_event(**_described(settings["profile"]), **_schema(settings.get("columns", []))), *edges, *gone]


def _edge(told: _Told, dataset_id: str, upstream: JsonObject) -> JsonObject:
    """Lineage is recorded edge by edge, so each edge is a job: the latest event of a job is what holds of it."""
    upstream_id = upstream["dataset_id"]
    fields: dict[str, JsonObject] = {}
    for column in upstream.get("columns", []):
        if column.get("upstream_column"):
            made = fields.setdefault(column["column"], {"inputFields": []})
            made["inputFields"].append(told.field(upstream_id, column["upstream_column"]))
    facets = {"columnLineage": _facet("1-2-0/ColumnLineageDatasetFacet", fields=fields)} if fields else {}
    output = told.dataset(dataset_id, **facets)
    return told.job_event(f"lineage/{upstream_id}/{dataset_id}", [told.dataset(upstream_id)], [output], **_job_type("LINEAGE"))


def _no_edge(told: _Told, dataset_id: str, upstream_id: str) -> JsonObject:
    return told.job_event(f"lineage/{upstream_id}/{dataset_id}", [], [], **_job_type("LINEAGE"))


def _lineage_recorded(told: _Told) -> list[JsonObject]:
    return [_edge(told, told.data["dataset_id"], told.data["upstream"])]


def _lineage_removed(told: _Told) -> list[JsonObject]:
    return [_no_edge(told, told.data["dataset_id"], told.data["upstream_id"])]


def _pipeline(told: _Told, deployment: JsonObject | None) -> list[JsonObject]:
    """A pipeline with what it reads and makes; without a deployment it reads and makes nothing."""
    runs = deployment or {}
    facets = _job_type("PIPELINE")
    if runs.get("models"):
        query = "\n\n".join(f"-- {model['name']}\n{model['sql']}" for model in runs["models"])
        facets["sql"] = _facet("1-1-0/SQLJobFacet", query=query)
    facets |= _tags("Job", {"version": runs.get("version"), "code_sha256": runs.get("code_sha256")})
    name = f"pipelines/{told.data['pipeline_id']}"
    return [told.job_event(name, told.datasets(runs.get("inputs", [])), told.datasets(runs.get("outputs", [])), **facets)]


def _pipeline_deployed(told: _Told) -> list[JsonObject]:
    return _pipeline(told, told.data["deployment"])


def _pipeline_rolled_back(told: _Told) -> list[JsonObject]:
    settings = told.data["snapshot"]
    return _pipeline(told, None if settings.get("retired") else settings.get("deployment"))


def _pipeline_retired(told: _Told) -> list[JsonObject]:
    return _pipeline(told, None)


def _tool_call_allowed(told: _Told) -> list[JsonObject]:
    facts = ("pii_level", "jurisdiction", "environment")
    inputs = [
        told.dataset(each["dataset_id"], **_tags("Dataset", {name: each.get(name) for name in facts}))
        for each in told.data.get("datasets", [])
    ]
    return told.run(f"agents/{told.data['agent_id']}/{told.data['tool']}", "COMPLETE", inputs, told.data["purpose"])


def _tool_call_refused(told: _Told) -> list[JsonObject]:
    """Only of agents' requests; a refusal whose inputs were too large to keep names no tool."""
    inputs = told.data["intent"]["inputs"]
    if told.data["intent"]["command"] != _REQUEST or "tool" not in inputs:
        return []
    why = f"{told.data['code']}: {told.data['message']}"
    failed = _facet("1-0-1/ErrorMessageRunFacet", message=why, programmingLanguage="none")
    used = told.datasets(inputs.get("datasets", []))
    return told.run(f"agents/{told.body['actor']}/{inputs['tool']}", "FAIL", used, inputs.get("purpose"), errorMessage=failed)


TOLD_OF: Final[Mapping[str, Callable[[_Told], list[JsonObject]]]] = MappingProxyType(
    {
        "catalog.dataset_registered": _dataset,
        "catalog.dataset_described": _dataset,
        "catalog.schema_changed": _columns,
        "catalog.dataset_refreshed": _refreshed,
        "catalog.dataset_rolled_back": _dataset_rolled_back,
        "catalog.lineage_recorded": _lineage_recorded,
        "catalog.lineage_removed": _lineage_removed,
        "pipelines.version_deployed": _pipeline_deployed,
        "pipelines.pipeline_rolled_back": _pipeline_rolled_back,
        "pipelines.pipeline_retired": _pipeline_retired,
        "agents.action_requested": _tool_call_allowed,
        "actions.action_blocked": _tool_call_refused,
    }
)
"""What is told of each event; of all others nothing, for they say nothing of lineage."""


def _tell(about: About, event: ViewEvent) -> list[JsonObject]:
    tell = TOLD_OF.get(event.body["type"])
    return tell(_Told(about, event)) if tell else []


OPENLINEAGE: Final = Lines("openlineage", "views/openlineage.jsonl", lambda about: partial(_tell, about))
