"""A deployment that goes wrong, as people live it: deployed, found broken, previewed and undone, all on the command line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_story import Aureus


@pytest.fixture
def aureus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aureus]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = Aureus(tmp_path_factory.mktemp("rollback") / "home", port)
    started.start()
    yield started
    started.stop()


@pytest.mark.slow
def test_a_deployment_that_goes_wrong_is_undone(aureus: Aureus, tmp_path: Path) -> None:
    model, checks = tmp_path / "customers.sql", tmp_path / "checks.json"
    checks.write_text(json.dumps([{"not_null": "id"}, {"unique": "id"}]))
    aureus("pipelines", "register", "customers", "--label", "Customers", "--domain", "sales", "--environment", "dev")
    results = aureus.json("evidence", "attach", checks, "--kind", "test_result", "--passed", "2", "--failed", "0")["sha256"]
    for sql in ("select 1 as id", "select 1 as id union all select 1"):
        model.write_text(sql)
        query = aureus.json("evidence", "attach", model, "--kind", "sql")["sha256"]
        files = ("--model", model, "--unit-tests", checks, "--dq-checks", checks)
        aureus("pipelines", "deploy", "customers", *files, "--output", "d", "--evidence", query, "--evidence", results)
    aureus("pipelines", "fail", "customers", "Every customer came out twice")
    assert [row["status"] for row in aureus.json("pipelines", "versions", "customers")["items"]] == ["failed", "superseded"]
    assert "Every customer came out twice" in aureus("pipelines", "versions", "customers")
    assert "pipeline registered" in aureus("history", "pipeline", "customers")
    assert aureus.json("snapshot", "pipeline", "customers", "--version", "2")["verified"] is True

    preview = aureus("rollback", "pipeline", "customers", "--to", "2", "--preview")
    for told in (
        "from version 4 back to 2",
        "outcome",
        "allowed",
        "deployment.models.customers.sql",
        "aureus rollback pipeline customers --to 2",
    ):
        assert told in preview
    assert aureus.json("pipelines", "show", "customers")["version"] == 3, "a preview changes nothing"
    assert "nothing_to_roll_back" in aureus("rollback", "pipeline", "customers", "--to", "3", exit_code=4)
    assert "Its versions are 1 to 4" in aureus("rollback", "pipeline", "customers", "--to", "9", "--preview")
    assert "versions are 1 to 4" in aureus("rollback", "pipeline", "customers", "--to", "9", exit_code=4)
    aureus("rollback", "pipeline", "customers", "--to", "2", "--if-match", "3", exit_code=4)

    done = aureus("rollback", "pipeline", "customers", "--to", "2", "--if-match", "4", "--reason", "It doubles rows")
    assert "Pipeline customers is as it was at version 2." in done
    shown = aureus.json("pipelines", "show", "customers")
    assert (shown["version"], shown["status"], shown["failed_versions"]) == (2, "deployed", [3])
    assert "customers" in aureus("pipelines", "list", "--output", "d")
    aureus("pipelines", "retire", "customers", "Nobody reads it")
    assert "pipeline_retired" in aureus("pipelines", "deploy", "customers", "--model", model, exit_code=4)
    assert aureus("verify")
