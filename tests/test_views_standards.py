"""Renderings in the eyes of others: their schemas and their libraries take them, and they say what happened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import prov.model
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde
from referencing import Registry, Resource

import domain.exports  # noqa: F401 - its events are among those that there are
from domain.kernel import EVENTS, JsonObject
from infra.views import VIEWS, ViewEvent
from infra.views.ocsf_classes import API_ACTIVITY, DETECTION, ENTITY, KINDS
from infra.views.openlineage import TOLD_OF
from infra.views.report.gather import LANES
from tests.support.exported import HOSTILE, about, governed, one_of_each, view_event
from tests.support.kernel import policies

pytestmark = pytest.mark.anyio

DATA: Final = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
async def events(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[ViewEvent]]:
    folder = tmp_path_factory.mktemp("governed")
    async with policies(folder / "policies") as engine:
        yield await governed(folder, engine)


def rendered(name: str, folder: Path, events: list[ViewEvent]) -> Path:
    target = folder / name
    writing = next(view for view in VIEWS if view.name == name).open(about(events), target)
    writing.add(events)
    writing.close()
    return target


def lines(name: str, folder: Path, events: list[ViewEvent]) -> list[JsonObject]:
    return [json.loads(line) for line in rendered(name, folder, events).read_bytes().splitlines()]


# -- OpenLineage


FACETS: Final[Mapping[str, Any]] = {
    "documentation": (facet_v2.documentation_dataset.DocumentationDatasetFacet, facet_v2.documentation_job.DocumentationJobFacet),
    "tags": (facet_v2.tags_dataset.TagsDatasetFacet, facet_v2.tags_job.TagsJobFacet),
    "schema": (facet_v2.schema_dataset.SchemaDatasetFacet,),
    "version": (facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,),
    "columnLineage": (facet_v2.column_lineage_dataset.ColumnLineageDatasetFacet,),
    "sql": (facet_v2.sql_job.SQLJobFacet,),
    "jobType": (facet_v2.job_type_job.JobTypeJobFacet,),
    "errorMessage": (facet_v2.error_message_run.ErrorMessageRunFacet,),
}


def registry() -> Registry[Any]:
    files = [DATA / "openlineage" / "OpenLineage.json", *(DATA / "openlineage" / "facets").glob("*.json")]
    schemas = [json.loads(file.read_text()) for file in files]
    return Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in schemas)


def facets_in(value: Any) -> Iterator[tuple[str, JsonObject]]:
    """Every facet within, by name."""
    if isinstance(value, dict):
        yield from value.get("facets", {}).items()
        for inner in value.values():
            yield from facets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from facets_in(inner)


async def test_lineage_is_valid_by_the_published_schemas(events: list[ViewEvent], tmp_path: Path) -> None:
    known = registry()
    seen: set[str] = set()
    for told in (*lines("openlineage", tmp_path, events), *lines("openlineage", tmp_path, one_of_each())):
        kind = {"$ref": told["schemaURL"]}
        Draft202012Validator(kind, registry=known, format_checker=FormatChecker()).validate(told)
        for name, facet in facets_in(told):
            Draft202012Validator({"$ref": facet["_schemaURL"]}, registry=known).validate(facet)
            seen.add(name)
    assert seen == {*FACETS, "aureus_entry"}


async def test_lineage_goes_through_openlineages_own_classes_unchanged(events: list[ViewEvent], tmp_path: Path) -> None:
    classes = {"RunEvent": event_v2.RunEvent, "JobEvent": event_v2.JobEvent, "DatasetEvent": event_v2.DatasetEvent}
    for told in lines("openlineage", tmp_path, events):
        kind = told["schemaURL"].rpartition("/")[2]
        arguments = {name: value for name, value in told.items() if name != "schemaURL"}
        if kind == "RunEvent":
            arguments["eventType"] = event_v2.RunState(told["eventType"])
            arguments["run"] = event_v2.Run(**told["run"])
        if kind != "DatasetEvent":
            arguments["job"] = event_v2.Job(**told["job"])
        assert json.loads(Serde.to_json(classes[kind](**arguments))) == told
        for name, facet in facets_in(told):
            if name in FACETS:
                members = {member: value for member, value in facet.items() if not member.startswith("_")}
                made = [cls(**members) for cls in FACETS[name] if cls._get_schema() == facet["_schemaURL"]]
                assert len(made) == 1, facet


async def test_who_makes_what_from_what_and_who_may_read_it(events: list[ViewEvent], tmp_path: Path) -> None:
    told = lines("openlineage", tmp_path, events)
    made = {one["job"]["name"]: one for one in told if "job" in one}  # the latest of each job holds
    assert [dataset["name"] for dataset in made["lineage/crm.people/sales.orders"]["inputs"]] == ["crm.people"]
    columns = made["lineage/crm.people/sales.orders"]["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert {column: [used["field"] for used in field["inputFields"]] for column, field in columns.items()} == {"who": ["id"]}
    assert made["lineage/sales.orders/sales.report"]["inputs"] == []  # taken back
    runs = [(one["eventType"], [used["name"] for used in one["inputs"]]) for one in told if "run" in one]
    assert runs == [(state, ["crm.people"]) for state in ("START", "COMPLETE", "START", "FAIL")]
    (pipeline,) = [one for one in told if one.get("outputs") and one["job"]["name"] == "pipelines/report"]
    assert (pipeline["inputs"][0]["name"], pipeline["outputs"][0]["name"]) == ("sales.orders", "sales.report")
    assert made["pipelines/report"]["outputs"] == []  # retired


# -- OCSF


OCSF: Final = json.loads((DATA / "ocsf" / "schema.json").read_text())
_TYPES: Final = {"string_t": str, "integer_t": int, "long_t": int, "timestamp_t": int, "boolean_t": bool, "file_hash_t": str}


def ocsf_problems(told: JsonObject) -> list[str]:
    """What an event lacks or has too much of, by the schema of its class."""
    cls = OCSF["classes"][str(told["class_uid"])]
    found = list(_problems(told, cls["attributes"], cls["name"]))
    if told["type_uid"] != told["class_uid"] * 100 + told["activity_id"]:
        found.append("type_uid")
    if told["category_uid"] != cls["category_uid"] or told["class_name"] != cls["name"]:
        found.append("category or class")
    if told["activity_id"] != 99 and told["activity_name"] != cls["activities"][str(told["activity_id"])]:
        found.append("activity_name")
    return found


def _problems(told: JsonObject, attributes: JsonObject, where: str) -> Iterator[str]:
    yield from (f"{where}.{name} is missing" for name, of in attributes.items() if of["requirement"] == "required" and name not in told)
    for name, value in told.items():
        if name not in attributes:
            yield f"{where}.{name} is not in the schema"
            continue
        of = attributes[name]
        values = value if of.get("array") else [value]
        for one in values:
            if of["type"] in OCSF["objects"]:
                yield from _object_problems(one, of["type"], f"{where}.{name}")
            elif of["type"] in _TYPES and type(one) is not _TYPES[of["type"]]:
                yield f"{where}.{name} is no {of['type']}"
            elif "enum" in of and one not in of["enum"]:
                yield f"{where}.{name} is {one}"


def _object_problems(told: JsonObject, kind: str, where: str) -> Iterator[str]:
    schema = OCSF["objects"][kind]
    yield from _problems(told, schema["attributes"], where)
    some = schema["constraints"].get("at_least_one", [])
    if some and not set(some) & set(told):
        yield f"{where} has none of {some}"


async def test_security_events_hold_what_their_class_requires_and_nothing_it_does_not_know(events: list[ViewEvent], tmp_path: Path) -> None:
    for told in (*lines("ocsf", tmp_path, events), *lines("ocsf", tmp_path, one_of_each())):
        assert ocsf_problems(told) == [], told


def test_the_check_of_security_events_finds_what_is_wrong(tmp_path: Path) -> None:
    (told,) = lines("ocsf", tmp_path, [view_event(1, "access.actor_suspended", {"actor_id": "usr-x"})])
    assert ocsf_problems(told) == []
    assert ocsf_problems(told | {"type_uid": 1}) == ["type_uid"]
    assert ocsf_problems(told | {"user": {}}) == ["Account Change.user has none of ['account', 'name', 'uid']"]
    assert ocsf_problems({name: value for name, value in told.items() if name != "user"}) == ["Account Change.user is missing"]
    assert ocsf_problems(told | {"time": "now", "colour": 1, "severity_id": 7}) == [
        "Account Change.severity_id is 7",
        "Account Change.time is no timestamp_t",
        "Account Change.colour is not in the schema",
    ]


async def test_refused_actions_are_denied_and_held_ones_wait(events: list[ViewEvent], tmp_path: Path) -> None:
    told = [one for one in lines("ocsf", tmp_path, events) if one["class_uid"] == API_ACTIVITY.uid]
    assert Counter(one["disposition"] for one in told) == {"Allowed": 35, "Blocked": 5, "Delayed": 3}
    (refused,) = [one for one in told if one["api"]["operation"] == "budgets.open_budget" and one["action"] == "Denied"]
    assert refused["policy"] == {
        "uid": "no_z",
        "version": refused["unmapped"]["data"]["policy_version"],
        "is_applied": True,
        "desc": "No Z.",
    }
    assert (refused["status_code"], refused["severity"]) == ("policy_blocked", "Low")


def test_a_notice_of_an_anomaly_is_a_detection_and_other_notices_are_not(tmp_path: Path) -> None:
    notice = {"notification_id": "n1", "recipient": "usr-a", "kind": "anomaly_found", "subject": "S", "text": "T", "about": "actor:usr-x"}
    found = [view_event(1, "notifications.notification_sent", notice)]
    found.append(view_event(2, "notifications.notification_sent", notice | {"kind": "action_blocked"}))
    first, second = lines("ocsf", tmp_path, found)
    assert ocsf_problems(first) == ocsf_problems(second) == []
    assert (first["class_uid"], second["class_uid"]) == (DETECTION.uid, ENTITY.uid)
    assert (first["finding_info"]["title"], first["resources"]) == ("S", [{"uid": "actor:usr-x"}])


def test_the_tables_name_events_that_there_are() -> None:
    names = {event.event_name for event in EVENTS}
    assert set(KINDS) <= names
    assert set(TOLD_OF) <= names
    assert set(LANES) <= names


# -- CloudEvents


async def test_cloud_events_are_read_by_their_own_library(events: list[ViewEvent], tmp_path: Path) -> None:
    written = rendered("cloudevents", tmp_path, events).read_bytes().splitlines()
    for line, event in zip(written, events, strict=True):
        read = JSONFormat().read(CloudEvent, line)
        assert read.get_id() == event.body["id"]
        assert read.get_extension("position") == str(event.position)
        assert read.get_data() == event.body["data"]
        again = orjson.loads(JSONFormat().write(read))
        assert again.pop("time") == event.body["at"].replace(".000000Z", "Z")  # the library writes no empty fraction
        assert again == {name: value for name, value in orjson.loads(line).items() if name != "time"}


# -- PROV


def document(folder: Path, events: list[ViewEvent]) -> Any:
    return prov.model.ProvDocument.deserialize(rendered("prov", folder, events), format="json")


def pairs(told: Any, relation: type[Any]) -> set[tuple[str, str]]:
    """What is related to what, without the tenant's prefix."""
    return {(_local(record.args[0]), _local(record.args[1])) for record in told.get_records(relation)}


def _local(name: Any) -> str:
    return str(name.localpart).removeprefix("acme/")


async def test_provenance_says_who_did_what_for_whom_and_from_what(events: list[ViewEvent], tmp_path: Path) -> None:
    told = document(tmp_path, events)
    behalf = pairs(told, prov.model.ProvDelegation)
    assert {("actor/agt-cleaner", "actor/agt-boss"), ("actor/agt-cleaner", "actor/usr-ana")} <= behalf
    derived = pairs(told, prov.model.ProvDerivation)
    assert {("dataset/sales.orders", "dataset/crm.people"), ("dataset/sales.report", "dataset/sales.orders")} <= derived
    assert ("stream/budget:lake@2", "stream/budget:lake@1") in derived
    made = dict(pairs(told, prov.model.ProvGeneration))
    actions = [event.body for event in events if event.body["type"].startswith("actions.")]
    assert {_local(activity.identifier) for activity in told.get_records(prov.model.ProvActivity)} == {
        f"activity/{body['causation']}" for body in actions
    }
    for body in actions:
        for output in body["data"].get("outputs", []):
            assert made[f"stream/{output['stream']}@{output['version']}"] == f"activity/{body['causation']}"
    used = pairs(told, prov.model.ProvUsage)
    (with_contract,) = [body for body in actions if body["data"]["artifacts"]]
    assert (f"activity/{with_contract['causation']}", f"artifact/{with_contract['data']['artifacts'][0]}") in used
    informed = pairs(told, prov.model.ProvCommunication)
    assert informed == {(f"activity/{with_contract['causation']}", f"activity/{with_contract['data']['approval_id']}")}


async def test_provenance_has_no_thing_twice_and_every_event_once(events: list[ViewEvent], tmp_path: Path) -> None:
    told = document(tmp_path, [*events, *one_of_each()])  # a key that stands twice would be a warning, and a warning an error
    positions = [value for record in told.get_records() for name, value in record.extra_attributes if str(name) == "aureus:position"]
    assert len(positions) == len(events) + len(one_of_each())


def test_what_somebody_typed_is_a_name_like_any_other(tmp_path: Path) -> None:
    told = document(tmp_path, [view_event(1, "catalog.dataset_reinstated", {"dataset_id": HOSTILE}, stream="dataset:a b%/c?#")])
    assert ("stream/dataset:a%20b%25/c%3F%23@1", "dataset/a%20b%25/c%3F%23") in pairs(told, prov.model.ProvSpecialization)
