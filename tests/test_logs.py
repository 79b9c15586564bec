"""Logs: one line each, as text or as JSON, that says on whose account it was written, and never holds a secret or what somebody sent."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import BaseModel, ValidationError

from api.services import open_services
from bench.servers import answers, ending, free_port, wait_until
from infra.demo import DemoLogin, ensure_demo
from infra.logs import begin_request, errand, log_to_stderr, on_behalf_of, without_secrets
from infra.settings import Settings

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parent.parent
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
FIELDS = {"time", "level", "logger", "message", "request_id", "actor", "correlation_id", "trace_id", "exception"}
OF_A_REQUEST = {"method", "route", "status", "ms"}
API_KEY = f"aur_demo_k1a2b3c4_{'5f' * 32}"
PERSONAL = "Erika Mustermann <erika@mustermann.example>"


@dataclass
class Said:
    """A server that logs as JSON, what was asked of it, and the secrets that it was shown."""

    lines: list[dict[str, Any]]
    correlation: UUID
    created: httpx.Response
    missing: httpx.Response
    shown: list[str]


@pytest.fixture(scope="module")
async def said(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> Said:
    home = tmp_path_factory.mktemp("logs") / "home"
    async with open_services(Settings(home, database_url=shared_database_url), run_projections=False) as services:
        logins = {login.login: login for login in (await ensure_demo(services)).logins}
    metrics_token, port, log = "the-scraper-shows-this-token", free_port(), home.parent / "stderr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AUREUS_", "OTEL_"))}
    environment |= {"AUREUS_HOME": str(home), "AUREUS_PORT": str(port), "DATABASE_URL": shared_database_url, "AUREUS_DEMO": "off"}
    environment |= {
        "AUREUS_LOG_FORMAT": "json",
        "AUREUS_ACCESS_LOG": "on",
        "AUREUS_LOG_LEVEL": "info",
        "AUREUS_METRICS_TOKEN": metrics_token,
    }
    asked = await asyncio.to_thread(served, environment, log, lambda: converse(f"http://127.0.0.1:{port}", logins["admin"], metrics_token))
    asked.lines = [json.loads(line) for line in log.read_text().splitlines()]
    return asked


def served(environment: dict[str, str], log: Path, talk: Callable[[], Said]) -> Said:
    """What came of talking to `aureus serve`, once it has ended."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        )
    with ending(process):
        wait_until(lambda: answers(int(environment["AUREUS_PORT"]), "/readyz"), process, "aureus serve", log)
        said = talk()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return said


def converse(url: str, admin: DemoLogin, metrics_token: str) -> Said:
    """Asks for this and that, with secrets wherever there is room for one."""
    correlation, made_up = uuid4(), "a-password-that-is-wrong"
    with httpx.Client(base_url=url) as http:
        token = http.post("/v1/auth/token", json={"login": admin.login, "password": admin.password}).json()["access_token"]
        http.post("/v1/auth/token", json={"login": admin.login, "password": made_up})
        headers = {"Authorization": f"Bearer {token}"}
        body = {"budget_id": "lake", "label": PERSONAL, "currency": "EUR", "limit_minor": 1_000}
        created = http.post("/v1/budgets", json=body, headers={**headers, "X-Correlation-Id": str(correlation), "Aureus-Reason": PERSONAL})
        http.post("/v1/budgets", json={"budget_id": PERSONAL, "password": made_up}, headers=headers)
        http.get("/v1/budgets", headers={"X-API-Key": API_KEY})
        http.get(f"/v1/budgets/{made_up}", params={"q": PERSONAL}, headers=headers)
        http.get("/metrics", headers={"Authorization": f"Bearer {metrics_token}"})
        missing = http.get("/v1/budgets/nowhere", headers=headers)
    return Said([], correlation, created, missing, [token, admin.password, made_up, API_KEY, metrics_token, "mustermann"])


def of(said: Said, request: httpx.Response) -> dict[str, Any]:
    (line,) = [line for line in said.lines if line.get("request_id") == request.headers["x-request-id"]]
    return line


async def test_every_line_is_json_with_a_time_a_level_a_logger_and_a_message(said: Said) -> None:
    assert said.lines
    for line in said.lines:
        assert RFC_3339.fullmatch(line["time"])
        assert line["level"] in {"info", "warning", "error"}
        assert line["logger"]
        assert line["message"]
        assert list(line)[:3] == ["time", "level", "logger"]
        assert set(line) <= FIELDS | (OF_A_REQUEST if line["logger"] == "aureus.access" else set())


def test_the_operators_guide_tells_of_every_field() -> None:
    table = (ROOT / "docs/operators.md").read_text().partition("\n| field | what |\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()))) == FIELDS | OF_A_REQUEST


async def test_a_request_is_told_by_its_route_and_found_by_its_ids(said: Said) -> None:
    assert said.created.status_code == 201, said.created.text
    line = of(said, said.created)
    assert line["logger"] == "aureus.access"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/budgets", 201)
    assert line["correlation_id"] == str(said.correlation)
    assert line["actor"].startswith("usr-")
    assert 0 < line["ms"] < 30_000
    missing = of(said, said.missing)
    assert (missing["route"], missing["status"]) == ("/v1/budgets/{budget_id}", 404)


async def test_why_somebody_was_not_let_in_is_told_with_the_request(said: Said) -> None:
    refusals = [line for line in said.lines if line["message"].startswith("authentication refused")]
    assert refusals
    assert all(UUID(line["request_id"]).version == 7 for line in refusals)


async def test_no_secret_and_nothing_personal_is_in_the_log(said: Said) -> None:
    text = "\n".join(map(str, said.lines)).lower()
    assert [secret for secret in said.shown if secret.lower() in text] == []


async def test_a_line_says_on_whose_account_it_was_written(capsys: pytest.CaptureFixture[str], log: logging.Logger) -> None:
    log_to_stderr("info", "json", traced=True)
    correlation = uuid4()
    begin_request("01a1").correlation = correlation
    log.info("of a request")
    with on_behalf_of(UUID(int=7)):
        log.info("of an event")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["request_id"], first["correlation_id"], first["trace_id"]) == ("01a1", str(correlation), correlation.hex)
    assert (second.get("request_id"), second["correlation_id"]) == (None, str(UUID(int=7)))
    assert errand().correlation == correlation


@pytest.mark.parametrize("form", ["text", "json"])
async def test_an_exception_is_told_without_what_it_repeats(capsys: pytest.CaptureFixture[str], log: logging.Logger, form: str) -> None:
    class Body(BaseModel):
        amount: int

    log_to_stderr("info", form)
    try:
        Body.model_validate({"amount": PERSONAL})
    except ValidationError:
        log.exception("it failed with %s", f"postgresql://aureus:geheim@db/aureus and Bearer {'x' * 20} and {API_KEY}")
    told = capsys.readouterr().err
    assert "ValidationError" in told
    assert "test_logs.py" in told, "where it happened is told"
    for secret in ("mustermann", "geheim", "x" * 20, API_KEY):
        assert secret not in told.lower()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("password=hunter2&x=1", "password=(hidden)"),
        ('{"secret": "hunter2"}', "secret"),
        ("DETAIL:  Key (email)=(hunter2) already exists.", "DETAIL: (hidden)"),
        (f"eyJhbGciOi.{'hunter2'}.c2ln", "(token)"),
        ("postgresql://aureus:hunter2@db:5432/aureus", "postgresql://aureus:(password)@db:5432/aureus"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, left: str) -> None:
    assert "hunter2" not in without_secrets(text)
    assert left in without_secrets(text)


@pytest.mark.parametrize("text", ["authentication refused: token_expired", "the policies a1b2 do not start", "123 of 456 at 10:20:30"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


async def test_requests_are_not_logged_unless_that_is_wanted(capsys: pytest.CaptureFixture[str], log: logging.Logger) -> None:
    access = logging.getLogger("aureus.access")
    for level, wanted, told in (("info", False, 0), ("info", True, 1), ("debug", False, 1), ("error", True, 1)):
        log_to_stderr(level, access=wanted)
        access.info("GET /healthz")
        assert capsys.readouterr().err.count("GET /healthz") == told


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger, and everybody's handlers and levels as they were when the test is over."""
    root, others = logging.getLogger(), [logging.getLogger(name) for name in ("aureus.access", "httpx")]
    handlers, levels = list(root.handlers), [one.level for one in (root, *others)]
    root.handlers.clear()
    yield logging.getLogger("aureus.test")
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    for one, level in zip((root, *others), levels, strict=True):
        one.setLevel(level)
