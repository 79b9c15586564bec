"""The story of issue 3 as a person lives it: a server of its own, the command line against it, and a power cut in between."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
START_SECONDS_MAX = 60
JAFFLE_SHOP = ROOT / "tests" / "data" / "dbt"
CONTRACT = ROOT / "tests" / "data" / "odcs" / "full-example.odcs.yaml"


@dataclass
class Aureus:
    """A server in a home of its own, and the command line against it."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AUREUS_") and name != "DATABASE_URL"}
        self.environ = {**inherited, "AUREUS_HOME": str(self.home), "AUREUS_PORT": str(self.port), "PYTHONPATH": str(ROOT)}

    def start(self) -> None:
        log = (self.home.parent / "serve.log").open("ab")
        command = [sys.executable, "-m", "api.cli", "serve"]
        # A session of its own: what is killed is this server and nothing else.
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=log, stderr=log, start_new_session=True)
        log.close()
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.is_ready():
            assert self.process.poll() is None, (self.home.parent / "serve.log").read_text()[-4_000:]
            assert time.monotonic() < deadline, (self.home.parent / "serve.log").read_text()[-4_000:]
            time.sleep(0.05)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def __call__(self, *arguments: str | Path, exit_code: int = 0) -> str:
        """What the command prints on standard output; fails unless it ends as expected."""
        command = [sys.executable, "-m", "api.cli", *map(str, arguments)]
        ended = subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=300, check=False)
        told = f"aureus {' '.join(map(str, arguments))} -> {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == exit_code, told
        return ended.stdout if exit_code == 0 else ended.stdout + ended.stderr

    def json(self, *arguments: str | Path, exit_code: int = 0) -> Any:
        return json.loads(self("--json", *arguments, exit_code=exit_code))


@pytest.fixture(scope="module")
def aureus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aureus]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("story")
    story = Aureus(folder / "home", port)
    story.start()
    yield story
    story.stop()


def test_the_catalog_is_filled_from_dbt_and_from_a_contract(aureus: Aureus) -> None:
    aureus("import", "dbt", JAFFLE_SHOP / "manifest.json", "--catalog", JAFFLE_SHOP / "catalog.json")
    again = aureus.json("import", "dbt", JAFFLE_SHOP / "manifest.json", "--catalog", JAFFLE_SHOP / "catalog.json")
    assert again["items"][0].keys() & {"allowed", "blocked"} == set(), "an import that changes nothing writes nothing"
    aureus("import", "odcs", CONTRACT)
    listed = aureus.json("datasets", "list", "-n", "500")["items"]
    assert "model.jaffle_shop.customers" in {row["dataset_id"] for row in listed}
    assert "model.jaffle_shop.customers" in aureus("datasets", "list", "-n", "500")
    above = aureus.json("lineage", "model.jaffle_shop.customers", "--upstream")
    assert "model.jaffle_shop.stg_customers" in {node["dataset_id"] for node in above["nodes"]}
    assert "stg_customers" in aureus("lineage", "model.jaffle_shop.customers", "--upstream")


def test_a_budget_is_never_exceeded_and_says_what_is_left(aureus: Aureus) -> None:
    aureus("--as", "admin", "budgets", "open", "eu-lake", "--label", "EU lake", "--currency", "EUR", "--limit", "100.00")
    told = aureus("--as", "analyst", "budgets", "reserve", "eu-lake", "60.00")
    first = re.search(r"reservation (\S+)", told)
    assert first
    refused = aureus("--as", "analyst", "budgets", "reserve", "eu-lake", "40.01", exit_code=4)
    assert "available: 40.00 EUR" in refused
    aureus("--as", "analyst", "budgets", "commit", "eu-lake", first[1], "--spent", "50.00")
    second = aureus.json("--as", "analyst", "budgets", "reserve", "eu-lake", "10.00")["events"][0]["data"]["reservation_id"]
    aureus("--as", "analyst", "budgets", "release", "eu-lake", second)
    row = aureus.json("budgets", "show", "eu-lake")
    assert (row["spent_minor"], row["reserved_minor"], row["available_minor"]) == (5_000, 0, 5_000)


def test_nobody_approves_their_own_request(aureus: Aureus) -> None:
    asked = (
        "approvals",
        "request",
        "Double the EU lake",
        "--command",
        "budgets.fund_budget",
        "-i",
        "budget_id=eu-lake",
        "-i",
        "amount_minor=10000",
    )
    aureus("--as", "approver", *asked, "--id", "apr-story")
    aureus("--as", "approver", "approvals", "approve", "apr-story", exit_code=4)
    aureus("--as", "approver2", "approvals", "approve", "apr-story", "-m", "agreed")
    assert aureus.json("approvals", "show", "apr-story")["status"] == "approved"


def test_every_action_has_evidence_and_the_refused_ones_too(aureus: Aureus, tmp_path: Path) -> None:
    (tmp_path / "quote.txt").write_text("an offer")
    sha256 = aureus.json("--as", "analyst", "evidence", "attach", tmp_path / "quote.txt")["sha256"]
    done = aureus.json("--as", "analyst", "budgets", "reserve", "eu-lake", "1.00", "--evidence", sha256, "--reason", "première étape")
    pack = aureus.json("evidence", "show", done["action_id"])
    assert pack["artifacts"] == [sha256]
    assert pack["reason"] == "première étape"
    assert "première étape" in aureus("evidence", "show", done["action_id"], "--markdown")
    blocked = aureus.json("audit", "list", "--outcome", "blocked")["items"]
    assert "budget_exceeded" in {row["code"] for row in blocked}


def test_the_past_can_be_read(aureus: Aureus) -> None:
    before = aureus.json("budgets", "list")["position"]
    aureus("--as", "admin", "budgets", "fund", "eu-lake", "5.00")
    assert aureus.json("budgets", "show", "eu-lake", "--as-of", str(before))["limit_minor"] == 10_000
    assert aureus.json("budgets", "show", "eu-lake")["limit_minor"] == 10_500


def test_scripts_are_told_by_exit_codes(aureus: Aureus) -> None:
    aureus("budgets", "show", "nowhere", exit_code=5)
    aureus("--as", "viewer", "budgets", "close", "eu-lake", exit_code=6)
    aureus("--as", "analyst", "budgets", "reserve", "eu-lake", "0.00", exit_code=2)
    aureus("--url", f"http://127.0.0.1:{aureus.port}", "budgets", "list", exit_code=6)
    aureus("--as", "analyst", "budgets", "reserve", "eu-lake", "1.00", "--if-match", "1", exit_code=4)


def test_a_repeated_command_counts_once(aureus: Aureus) -> None:
    asked = ("--as", "analyst", "budgets", "reserve", "eu-lake", "2.00", "--idempotency-key", "story-1")
    assert aureus.json(*asked)["action_id"] == aureus.json(*asked)["action_id"]
    aureus("--as", "analyst", "budgets", "reserve", "eu-lake", "3.00", "--idempotency-key", "story-1", exit_code=4)


def test_nothing_is_lost_when_the_power_is_cut(aureus: Aureus) -> None:
    budget = aureus.json("budgets", "show", "eu-lake")
    last = aureus.json("log", "tail", "-n", "1")
    aureus("--as", "auditor", "verify")
    aureus.stop(signal.SIGKILL)
    aureus("budgets", "list", exit_code=7)
    aureus.start()
    assert last in map(json.loads, aureus("--json", "log", "tail", "-n", "5").splitlines()), "the login since then came after it"
    assert aureus.json("budgets", "show", "eu-lake") == budget
    aureus("--as", "auditor", "verify")
    aureus("--as", "admin", "projections", "check")
    for row in aureus.json("projections", "status")["items"]:
        aureus("--as", "admin", "projections", "rebuild", row["name"])
    assert aureus.json("budgets", "show", "eu-lake") == budget
