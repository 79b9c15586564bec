"""`aureus policies` and `aureus decisions`: what is sent, and what people are told of the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli.failures import ExitCode
from tests import test_cli
from tests.test_cli import Server, aureus

home, server = test_cli.home, test_cli.server

CHANGE = {"activate": [{"policy_id": "francs", "version": 3}], "retire": []}
FLIP = {"action_id": "0199-flip", "position": 7, "action": "budgets.open_budget", "before": "allow", "after": "block", "why": "No francs."}
REPLAYED: dict[str, Any] = {
    "under": "recorded",
    "examined": 12,
    "asked_again": 10,
    "different": 1,
    "flips": [{"before": "allow", "after": "block", "count": 1}],
    "differences": [FLIP],
    "position": 42,
}
SAME = {**REPLAYED, "different": 0, "flips": [], "differences": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "francs.rego").write_text("package aureus\n")
    (made / "lists.json").write_text("{}")
    (made / "README.md").write_text("Not a policy.")
    return made


def test_a_folder_is_sent_file_by_file(home: Path, server: Server, folder: Path) -> None:
    item = {"policy_id": "francs", "type": "access", "status": "changed", "version": 3, "diff": "-old\n+new\n"}
    answer = {"dry_run": False, "policies": [item], "only_in_force": ["old_rule"], "change": CHANGE, "position": 42}
    server.will("POST", "/v1/policies/push", (200, answer))
    result = aureus(f"policies push {folder}")
    assert result.exit_code == 0
    assert server.asked[-1].body == {"files": {"francs.rego": "package aureus\n", "lists.json": "{}"}, "dry_run": False}
    assert "aureus policies test francs@3" in result.stderr
    assert "old_rule" in result.stderr
    assert aureus(f"policies push {folder} --dry-run").exit_code == 0
    assert server.asked[-1].body["dry_run"] is True
    assert aureus(f"policies diff {folder}").stdout == "-old\n+new\n"
    assert server.asked[-1].body["dry_run"] is True


def test_a_folder_without_policies_is_a_mistake(home: Path, server: Server, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert aureus(f"policies push {empty}").exit_code == ExitCode.USAGE
    assert server.asked == []


def test_a_policy_without_a_version_means_its_latest(home: Path, server: Server) -> None:
    server.will("GET", "/v1/policies/francs", (200, {"latest_version": 3}))
    report = {"passed": 4, "failed": 1, "problems": ["francs.rego:3: no"], "tests": [{"name": "t", "passed": False, "detail": "undefined"}]}
    server.will("POST", "/v1/policies/test", (200, {**report, "report": "abc", "position": 42}))
    result = aureus("policies test francs --retire old_rule")
    assert server.asked[-1].body == {**CHANGE, "retire": ["old_rule"]}
    assert "4 passed, 1 failed; report abc" in result.stdout
    assert "francs.rego:3: no" in result.stderr
    assert aureus("policies test").exit_code == ExitCode.USAGE
    assert aureus("policies test francs@x").exit_code == ExitCode.USAGE


def test_the_impact_is_told_with_the_evidence_it_made(home: Path, server: Server) -> None:
    server.will("POST", "/v1/policies/impact", (200, {**REPLAYED, "report": "aaa", "rollback_plan": "bbb"}))
    result = aureus("policies impact francs@3 --decisions 50")
    assert server.asked[-1].body == {**CHANGE, "decisions": 50}
    for told in ("1 of 10 decisions come out differently", "0199-flip", "No francs.", "impact analysis aaa, rollback plan bbb"):
        assert told in result.stdout
    back = aureus("policies impact --to 16")
    assert server.asked[-1].body == {"to_version": 16, "decisions": 1_000}
    assert "aureus rollback policy active --to 16 --evidence aaa --evidence bbb" in back.stderr


def test_a_policy_is_shown_with_its_source(home: Path, server: Server) -> None:
    row = {"version_id": "francs@3", "title": "No francs", "rego": "package aureus\n", "tests": None}
    server.will("GET", "/v1/policy-versions/francs@3", (200, row))
    shown = aureus("policies show francs@3").stdout
    assert "Policy francs@3" in shown
    assert shown.endswith("package aureus\n")
    assert json.loads(aureus("policies show francs@3 --json").stdout) == row


def test_conflicts_are_told_with_what_comes_out(home: Path, server: Server) -> None:
    conflict = {
        "kind": "deadlock",
        "policies": ["one", "two"],
        "answers": [{"outcome": "require_approval"}, {"outcome": "require_approval"}],
        "seen": 3,
        "example": {"question": {"action": "a.b"}, "outcome": "block"},
    }
    found = {"policy_version": "e6d7", "questions": 4000, "recorded_questions": 18, "conflicts": [conflict]}
    server.will("GET", "/v1/policies/conflicts", (200, found))
    told = aureus("policies conflicts").stdout
    for part in ("deadlock", "one, two", "block", "Conflicts among the policies e6d7: 1", "18 of them for the second time"):
        assert part in told


def test_a_replay_without_a_difference_is_fine_and_any_difference_is_an_alarm(home: Path, server: Server) -> None:
    server.will("GET", "/v1/decisions/replay", (200, SAME), (200, REPLAYED))
    calm = aureus("decisions replay --from 1 --to 40")
    assert (calm.exit_code, calm.stdout) == (0, "0 of 10 decisions come out differently.\n")
    assert (server.asked[-1].query["from"], server.asked[-1].query["to"]) == ("1", "40")
    alarmed = aureus("decisions replay")
    assert alarmed.exit_code == ExitCode.NOT_VERIFIED
    assert "the first as action 0199-flip" in alarmed.stderr
    assert aureus("--json decisions replay").exit_code == ExitCode.NOT_VERIFIED


def test_under_other_policies_a_difference_is_an_answer(home: Path, server: Server, folder: Path) -> None:
    server.will("POST", "/v1/decisions/replay", (200, REPLAYED))
    assert aureus(f"decisions replay --policy {folder} --from 5").exit_code == 0
    assert server.asked[-1].body == {"files": {"francs.rego": "package aureus\n", "lists.json": "{}"}, "from": "5"}
    assert aureus("decisions replay --policy francs@3").exit_code == 0
    assert server.asked[-1].body == {"change": {"activate": CHANGE["activate"]}}
