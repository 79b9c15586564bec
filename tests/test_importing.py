"""Documents of other catalogs: real ones become the datasets they describe, broken ones are refused by place, rule and remedy."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from api.imports import _lines
from commands.access import DECIDER as ACTORS
from commands.approvals import APPROVALS
from commands.catalog import DATASETS, DECIDERS, RecordOwnerContact, SyncDataset
from commands.importing import DocumentRefused, dbt, ext_id, identifier, odcs, portable, seconds_as_duration
from commands.path import Ask, CommandPath
from commands.policy import Rulebook, Verdict
from domain.actions import PolicyResult
from domain.catalog import PiiLevel
from domain.kernel import Command, Event
from domain.policies import PolicySet
from domain.values import Role, duration_seconds, uuid7
from infra.canonical import canonical
from infra.keystore import FileKeystore
from infra.opening import open_memory_ledger
from infra.standards import require_odcs
from infra.yaml_documents import load_yaml
from tests.given import ANALYST, given

DATA = Path(__file__).parent / "data"
CONTRACT = "odcs.53581432-6c55-4ba2-a65f-72344a91553a"


def manifest() -> Any:
    return json.loads((DATA / "dbt/manifest.json").read_text())


def catalog() -> Any:
    return json.loads((DATA / "dbt/catalog.json").read_text())


def contract(name: str) -> Any:
    return yaml.safe_load((DATA / f"odcs/{name}.odcs.yaml").read_text())


def by_id(commands: Sequence[Command]) -> dict[str, SyncDataset]:
    return {command.dataset_id: command for command in commands if isinstance(command, SyncDataset)}


def refused(read: Callable[[], object], path: str, rule: str) -> None:
    with pytest.raises(DocumentRefused) as refusal:
        read()
    problems = {problem["path"]: problem for problem in refusal.value.facts["problems"]}
    assert path in problems, problems
    assert rule in problems[path]["rule"]
    assert problems[path]["remedy"]


def test_a_dbt_project_becomes_its_models_seeds_and_sources() -> None:
    datasets = by_id(dbt.read(manifest(), catalog()))
    assert len(datasets) == 26
    assert sorted({dataset_id.split(".")[0] for dataset_id in datasets}) == ["model", "seed", "source"]
    customers = datasets["model.jaffle_shop.customers"]
    assert [upstream.dataset_id for upstream in customers.upstreams or ()] == [
        "model.jaffle_shop.stg_customers",
        "model.jaffle_shop.orders",
    ]
    first, *_, last = customers.columns or ()
    assert (first.name, first.type, first.primary_key, first.unique, first.nullable) == ("customer_id", "VARCHAR", True, True, False)
    assert (last.name, last.type, last.primary_key) == ("customer_type", "VARCHAR", False)
    assert first.description == "The unique key of the orders mart."
    staged = datasets["model.jaffle_shop.stg_orders"].upstreams or ()
    assert [upstream.dataset_id for upstream in staged] == ["source.jaffle_shop.ecom.raw_orders"]


def test_without_its_catalog_a_project_keeps_the_columns_it_declares() -> None:
    customers = by_id(dbt.read(manifest()))["model.jaffle_shop.customers"]
    assert len(customers.columns or ()) == 9
    assert {column.type for column in customers.columns or ()} == {None}


def test_what_a_manifest_says_of_freshness_owners_and_privacy_is_read() -> None:
    document = manifest()
    source = document["sources"]["source.jaffle_shop.ecom.raw_orders"]
    source["freshness"] = {"warn_after": {"count": 6, "period": "hour"}, "error_after": {"count": 36, "period": "hour"}, "filter": None}
    model = document["nodes"]["model.jaffle_shop.customers"]
    model |= {"group": "crm", "meta": {"owner": {"team": "x"}, "aureus": {"domain": "retail", "jurisdiction": "EU"}}}
    model["columns"]["customer_name"] |= {"meta": {"contains_pii": True, "classification": "confidential"}}
    document["groups"] = {"group.jaffle_shop.crm": {"name": "crm", "owner": {"name": "Cleo", "email": "cleo@example.com"}}}
    commands = dbt.read(document, catalog())
    assert by_id(commands)["source.jaffle_shop.ecom.raw_orders"].freshness_sla == "P1DT12H"
    customers = by_id(commands)["model.jaffle_shop.customers"]
    assert (customers.domain, customers.jurisdiction) == ("retail", "EU")
    name = next(column for column in customers.columns or () if column.name == "customer_name")
    assert (name.pii, name.classification) == (PiiLevel.HIGH, "confidential")
    assert [owner.owner_id for owner in customers.owners or ()] == [ext_id("Cleo")]
    contact = next(command for command in commands if isinstance(command, RecordOwnerContact))
    assert (contact.contact_name, contact.contact_email) == ("Cleo", "cleo@example.com")
    assert "leo" not in json.dumps([command.intent() for command in commands if "customers" in command.dataset_id])


def test_broken_dbt_artifacts_are_refused_by_place() -> None:
    refused(lambda: dbt.read([]), "/", "it must be an object")
    refused(lambda: dbt.read({}), "/metadata", "it must be there")
    refused(lambda: dbt.read(catalog()), "/metadata/dbt_schema_version", "it is no dbt manifest")
    refused(lambda: dbt.read(manifest(), manifest()), "/metadata/dbt_schema_version", "it is no dbt catalog")
    document = manifest()
    document["nodes"]["model.jaffle_shop.orders"]["columns"]["order_id"]["description"] = 7
    refused(lambda: dbt.read(document), "/nodes/model.jaffle_shop.orders/columns/order_id/description", "valid string")
    document = manifest()
    document["nodes"]["model a/b"] = document["nodes"]["model.jaffle_shop.orders"]
    refused(lambda: dbt.read(document), "/nodes/model a~1b", "should match pattern")
    document = manifest() | {"nodes": {}, "sources": {}}
    refused(lambda: dbt.read(document), "/nodes", "describes no model")
    document = manifest()
    columns = document["nodes"]["model.jaffle_shop.orders"]["columns"]
    columns.update({f"c{n}": {"name": f"c{n}", "description": "x" * 400} for n in range(200)})
    refused(lambda: dbt.read(document), "/nodes/model.jaffle_shop.orders", "fit into one signed event")


def test_a_full_contract_becomes_a_dataset_for_each_object() -> None:
    document = contract("full-example")
    require_odcs(document)
    commands = odcs.read(document)
    datasets = by_id(commands)
    assert list(datasets) == [f"{CONTRACT}.tbl", f"{CONTRACT}.receivers"]
    table = datasets[f"{CONTRACT}.tbl"]
    assert (table.domain, table.freshness_sla, table.tags) == ("seller", "P4D", ("transactions", "finance", "payments"))
    upstreams = {upstream.dataset_id: [link.column for link in upstream.columns] for upstream in table.upstreams or ()}
    assert upstreams == {f"{CONTRACT}.source.table_name_{n}": ["transaction_reference_date"] for n in (1, 2, 3)}
    assert table.contract is not None
    assert [rule["metric"] for rule in table.contract["quality"]] == ["rowCount", "nullValues"]
    assert table.contract["quality"][1]["column"] == "rcvr_cntry_code"
    assert [owner.owner_id for owner in table.owners or ()] == [ext_id("mhopper"), ext_id("daustin")]
    written = json.dumps([command.intent() for command in commands])
    assert not any(person in written for person in ("ceastwood", "mhopper", "daustin", "mandolorian", "mickey"))


def test_nested_properties_become_columns_by_their_path() -> None:
    nested = by_id(odcs.read(contract("all-schema-types")))[f"{CONTRACT}.AnotherObject"]
    assert [(column.name, column.type) for column in nested.columns or ()] == [
        ("x", "array"),
        ("x[].id", "VARCHAR(40)"),
        ("x[].zip", "VARCHAR(15)"),
    ]


@pytest.mark.parametrize("name", ["column-accuracy", "column-custom"])
def test_quality_rules_are_kept_with_their_column(name: str) -> None:
    document = contract(name)
    require_odcs(document)
    (command,) = by_id(odcs.read(document)).values()
    assert command.contract is not None
    assert {rule["column"] for rule in command.contract["quality"]} <= {"DataValue", "UniqueID"}


@pytest.mark.parametrize("name", ["basic-four-dpo", "database-table-sla", "service-and-operational-roles"])
def test_a_contract_without_objects_describes_no_dataset(name: str) -> None:
    document = contract(name)
    require_odcs(document)
    refused(lambda: odcs.read(document), "/schema", "no schema object")


def test_what_breaks_the_standard_is_told_in_full() -> None:
    document = contract("full-example")
    document["colour"] = "blue"
    del document["version"]
    document["schema"][0]["properties"][0]["required"] = "maybe"
    document["team"]["members"][0].pop("username")
    refused(lambda: require_odcs(document), "/", "'colour' was not part of the standard")
    refused(lambda: require_odcs(document), "/version", "it must be there")
    refused(lambda: require_odcs(document), "/schema/0/properties/0/required", "it must be of type boolean")
    refused(lambda: require_odcs(document), "/team/members/0/username", "it must be there")
    refused(lambda: require_odcs("no contract"), "/", "it must be of type object")


def test_what_the_standard_allows_and_a_catalog_cannot_hold_is_refused() -> None:
    document = contract("full-example")
    refused(lambda: odcs.read(document | {"apiVersion": "v2.2.2"}), "/apiVersion", "should match pattern")
    refused(lambda: odcs.read(document | {"schema": [document["schema"][0]] * 2}), "/schema/1", "/schema/0 is dataset")
    for level, place, rule in (
        ({"property": "latency", "value": 4, "unit": "fortnights"}, "/slaProperties/0/unit", "must be one of s, sec"),
        ({"property": "latency", "value": "soon", "unit": "d"}, "/slaProperties/0/value", "a number above 0"),
        ({"property": "latency", "value": float("inf"), "unit": "d"}, "/slaProperties/0/value", "a number above 0"),
    ):
        refused(partial(odcs.read, document | {"slaProperties": [level]}), place, rule)


def test_freshness_is_the_plainest_level_that_concerns_the_object() -> None:
    levels = [
        {"property": "frequency", "value": 1, "unit": "d"},
        {"property": "latency", "value": 1.5, "unit": "hours", "element": "receivers.id"},
        {"property": "freshness", "value": 2, "unit": "w", "element": "tbl_1.txn_ref_dt"},
    ]
    datasets = by_id(odcs.read(contract("full-example") | {"slaProperties": levels}))
    assert [command.freshness_sla for command in datasets.values()] == ["P14D", "PT1H30M"]


@pytest.mark.parametrize(
    "commands",
    [dbt.read(manifest(), catalog()), odcs.read(contract("full-example")), odcs.read(contract("column-custom"))],
    ids=["dbt", "odcs", "odcs-fractions"],
)
def test_an_import_can_be_signed_and_a_second_one_changes_nothing(commands: Sequence[Any]) -> None:
    history: dict[str, list[Event]] = {}
    appended = [0, 0]
    for turn in (0, 1):
        for command in commands:
            canonical(command.intent())
            before = history.setdefault(command.dataset_id, [])
            outcome = given(DATASETS, *before).when(command)
            assert outcome.refusal is None
            before.extend(outcome.events)
            appended[turn] += len(outcome.events)
            assert all(canonical(event.dump()) for event in outcome.events)
    assert appended[0] > 0
    assert appended[1] == 0


def test_imports_are_asked_by_those_who_may_register_datasets() -> None:
    assert ANALYST.roles <= SyncDataset.roles
    assert Role.VIEWER not in SyncDataset.roles | RecordOwnerContact.roles


def test_text_ids_and_durations_take_the_shape_the_ledger_holds() -> None:
    assert portable({"é": 1.5, "n": [2**60, True, None, "e\u0301"]}) == {"\\xe9": "1.5", "n": [str(2**60), True, None, "é"]}
    assert (identifier("Credit Risk"), identifier("---")) == ("Credit-Risk", "unnamed")
    assert ext_id(" Ana@Example.com ") == ext_id("ana@example.com")
    for seconds in (1, 59, 3_600, 86_400, 90_061):
        assert duration_seconds(seconds_as_duration(seconds)) == seconds


def test_yaml_is_read_as_it_was_written() -> None:
    assert load_yaml(b"day: 2022-10-03\ncount: 3\n") == {"day": "2022-10-03", "count": 3}
    for text, place, rule in (
        (b"a: &x [1]\nb: *x\n", "line 2", "refers to the anchor x"),
        (b"a: 1\na: 2\n", "line 1", "a stands twice"),
        (b"a: [1\n", "line 2", "expected"),
        (b"a: !!python/object:os.system {}\n", "line 1", "could not determine a constructor"),
        (b"\xff\xfe\x00", "/", ""),
    ):
        refused(partial(load_yaml, text), place, rule)


class PiiNeedsApproval:
    """Policies that let everything pass but what is highly personal."""

    version = "test"

    async def rulebook(self, _policies: PolicySet) -> Rulebook:
        return self

    async def check(self, question: dict[str, Any]) -> Verdict:
        if question["facts"].get("becomes", {}).get("pii_level") == "high":
            asked = PolicyResult(policy="pii", outcome="require_approval", reason="high")
            return Verdict("require_approval", (asked,), (Role.APPROVER,))
        return Verdict("allow", (PolicyResult(policy="open", outcome="allow"),))


@pytest.mark.anyio
async def test_an_import_tells_a_line_for_each_command_and_a_sum_at_the_end(tmp_path: Path) -> None:
    ledger = await open_memory_ledger(FileKeystore.open(tmp_path / "keys"))
    services: Any = SimpleNamespace(path=CommandPath(ledger, PiiNeedsApproval(), (*DECIDERS, ACTORS, APPROVALS)))
    document = contract("full-example")
    document["schema"][1]["properties"][2]["tags"] = ["PII"]

    async def imported(commands: Sequence[Any]) -> list[dict[str, Any]]:
        asks = [Ask(command, ANALYST, uuid7(), datetime.now(UTC)) for command in commands]
        return [json.loads(line) async for line in _lines(services, asks, "request")]

    first, *told, last = await imported(odcs.read(document))
    assert first == {"total": 6}
    assert [line["index"] for line in told] == list(range(6))
    assert [line["outcome"] for line in told] == ["allowed"] * 3 + ["requires_approval", "blocked", "blocked"]
    assert told[4]["error"]["code"] == "dataset_not_found"
    assert told[3]["approver_roles"] == ["approver"]
    position = last["done"].pop("position")
    assert last == {"done": {"total": 6, "allowed": 3, "requires_approval": 1, "blocked": 2}}
    assert position == ledger.head.size
    assert {line["outcome"] for line in (await imported(odcs.read(contract("column-accuracy"))))[1:-1]} == {"allowed"}
    assert {line["outcome"] for line in (await imported(odcs.read(contract("column-accuracy"))))[1:-1]} == {"unchanged"}
    await ledger.close()
