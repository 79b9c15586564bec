"""What is written from the code is what the code says: the catalogue of events, the OpenAPI document, the command line's reference."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from api import reference
from api.cli.main import app
from api.examples import EXAMPLES
from api.reference import COMMAND, DOCS, GENERATED
from infra.bundle_verifier import COMMAND as BUNDLE
from infra.bundle_verifier import FILE, PACKAGE, bundled
from tests.test_house import api_routes, commands


@cache
def rendered(name: str) -> str:
    return GENERATED[name]()


@cache
def openapi() -> Any:
    return yaml.load(rendered("../api/openapi.yaml"), yaml.CSafeLoader)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_what_the_code_says(name: str) -> None:
    path = DOCS / name
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    wanted = rendered(name)
    difference = list(difflib.unified_diff(written.splitlines(), wanted.splitlines(), f"docs/{name}", "the code", lineterm="", n=1))
    assert not difference, f"run: {COMMAND}\n" + "\n".join(difference[:60])


def test_the_verifier_in_one_file_is_made_of_the_modules_as_they_are() -> None:
    written, wanted = FILE.read_text(encoding="utf-8") if FILE.exists() else "", bundled()
    difference = list(difflib.unified_diff(written.splitlines(), wanted.splitlines(), FILE.name, PACKAGE, lineterm="", n=1))
    assert not difference, f"run: {BUNDLE} (make verifier)\n" + "\n".join(difference[:60])


def test_they_come_out_the_same_every_time() -> None:
    assert all(render() == rendered(name) for name, render in GENERATED.items())


def test_every_operation_is_described_and_has_its_own_id() -> None:
    document = openapi()
    operations = [
        (f"{method.upper()} {path}", operation) for path, methods in document["paths"].items() for method, operation in methods.items()
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert [where for where, operation in operations if not operation.get("summary") or not operation.get("tags")] == []
    assert sorted(ids) == sorted(set(ids))


def test_every_command_with_a_route_has_a_valid_example_and_no_other() -> None:
    routed = {route.name for route in api_routes()}
    known = {command.command_name: command for command in commands() if command.command_name in routed}
    assert set(EXAMPLES) == set(known), "api/examples.py holds one example for each command that has a route"
    for name, example in EXAMPLES.items():
        assert known[name].model_validate_json(json.dumps(example)).command_name == name


def test_the_openapi_document_shows_the_examples() -> None:
    document = openapi()
    operation = document["paths"]["/v1/budgets/{budget_id}/reserve"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["examples"] == [{"amount_minor": 60_000}]
    budget_id = document["components"]["parameters"][operation["parameters"][0]["$ref"].rpartition("/")[2]]
    assert (budget_id["in"], budget_id["schema"]["examples"]) == ("path", ["eu-lake.ingest"])
    assert operation["x-roles"] == ["admin", "agent", "analyst"]


def test_what_many_operations_share_stands_once() -> None:
    document = openapi()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    parts = [
        *(said for each in operations for said in each["responses"].values()),
        *(said for each in operations for said in each.get("parameters", [])),
    ]
    spelled_out = Counter(json.dumps(said, sort_keys=True) for said in parts if "$ref" not in said)
    assert max(spelled_out.values()) < 5
    for said in parts:
        if "$ref" in said:
            _, kind, name = said["$ref"].removeprefix("#/").split("/")
            assert document["components"][kind][name]


def test_the_command_line_tells_the_catalogue_of_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = CliRunner().invoke(app, ["events", "catalogue"])
    assert (told.exit_code, told.output.rstrip("\n")) == (0, GENERATED["events.md"]().rstrip("\n"))
    listed = json.loads(CliRunner().invoke(app, ["--json", "events", "catalogue"]).output)["items"]
    assert [one["name"] for one in listed] == sorted(one["name"] for one in listed)
    (registered,) = (one for one in listed if one["name"] == "access.actor_registered")
    assert (registered["schema"], registered["personal"], "actor_id" in registered["json_schema"]["properties"]) == (
        1,
        ["display_name"],
        True,
    )
    assert "access.actors" in registered["read_by"]
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    (tmp_path / "events.md").write_text(GENERATED["events.md"](), encoding="utf-8")
    assert CliRunner().invoke(app, ["events", "catalogue", "--check"]).exit_code == 0
    (tmp_path / "events.md").write_text("By hand", encoding="utf-8")
    stale = CliRunner().invoke(app, ["--json", "events", "catalogue", "--check"])
    assert (stale.exit_code, json.loads(stale.output)["error"]["code"]) == (8, "catalogue_stale")
