"""The command line: what it sends, what it shows, how it fails and who it acts as, against a small server that answers by contract."""

from __future__ import annotations

import json
import re
import shlex
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

from api.cli.failures import ExitCode, Failure, exit_code_of
from api.cli.main import app
from api.cli.options import minor_units
from api.cli.output import major_units
from api.cli.profile import Profile, Token
from api.cli.reference import render_reference
from domain.contexts import CONTEXTS
from domain.kernel import Command
from tests.support.command_lines import BESIDE_A_ROUTE, LINES

ROOT = Path(__file__).parent.parent
MADE = {"reservation_id": "0199-held", "delegation_id": "0199-lent", "version": 1}
ALLOWED = {
    "action_id": "0199-action",
    "outcome": "allowed",
    "stream": "budget:lake",
    "version": 2,
    "position": 42,
    "events": [{"type": "budgets.funds_reserved", "version": 2, "position": 41, "data": MADE}],
    "evidence": "/v1/evidence/0199-action",
    "key_id": "key-1",
    "api_key": "aur_demo_key-1_secret",
    "sha256": "0" * 64,
}
LOGINS = [
    {"login": "ada", "password": "pw-ada", "actor": "usr-ada", "roles": ["admin"]},
    {"login": "ana", "password": "pw-ana", "actor": "usr-ana", "roles": ["analyst"]},
]


@dataclass
class Request:
    """A request as the server got it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """A server that records requests; `answers` by method and path come before the usual ones."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answers: dict[tuple[str, str], list[tuple[int, Any]]] = field(default_factory=dict)

    @property
    def asked(self) -> list[Request]:
        return [request for request in self.requests if request.path != "/v1/auth/token"]

    def will(self, method: str, path: str, *answers: tuple[int, Any]) -> None:
        self.answers[method, path] = list(answers)

    def answer(self, request: Request) -> tuple[int, Any]:
        self.requests.append(request)
        if waiting := self.answers.get((request.method, request.path)):
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if request.path == "/v1/auth/token":
            login = next((each for each in LOGINS if each["login"] == request.body["login"]), None)
            if login is None or login["password"] != request.body["password"]:
                return 401, error("unauthenticated", "The credentials are wrong.")
            return 200, {"access_token": f"jwt-{login['login']}", "token_type": "bearer", "expires_in": 900, "tenant": "demo", **login}
        if request.path == "/v1/auth/me":
            return 200, {"actor": "usr-ada", "tenant": "demo", "roles": ["admin"]}
        if request.method == "GET":
            return 200, {"items": [], "next_cursor": None, "position": 42}
        return 200, ALLOWED


def error(code: str, message: str, **details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": details, "request_id": "req-7", "timestamp": "2026-03-03T14:00:00Z"}}


@pytest.fixture
def server() -> Iterator[Server]:
    recorder = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            where = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(content) if "json" in self.headers.get("Content-Type", "") and content else content
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, unquote(where.path), dict(parse_qsl(where.query)), headers, body)
            status, answer = recorder.answer(request)
            as_lines = isinstance(answer, list)
            text = (
                "".join(json.dumps(line) + "\n" for line in answer)
                if as_lines
                else answer
                if isinstance(answer, str)
                else json.dumps(answer)
            )
            self.send_response(status)
            kind = "application/x-ndjson" if as_lines else "text/markdown" if isinstance(answer, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = respond  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield recorder
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AUREUS_TOKEN", "AUREUS_API_KEY", "AUREUS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUREUS_HOME", str(tmp_path))
    monkeypatch.setenv("AUREUS_PORT", server.url.rpartition(":")[2])
    (tmp_path / "demo-logins.json").write_text(json.dumps(LOGINS))
    return tmp_path


def aureus(line: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, shlex.split(line), input=stdin, prog_name="aureus")


@pytest.mark.parametrize(
    ("text", "minor"), [("25", 2500), ("25.5", 2550), ("25.05", 2505), ("0.01", 1), ("90071992547409.91", 9007199254740991)]
)
def test_amounts_are_exact(text: str, minor: int) -> None:
    if len(text) < 17:
        assert minor_units(text) == minor
    assert major_units(minor).replace(",", "") == f"{text}{'.00' if '.' not in text else '0' * (2 - len(text.partition('.')[2]))}"


@pytest.mark.parametrize("text", ["1.005", "1.500", "-1", "1,000.00", "1e3", "NaN", "", "ten", "1.", ".5"])
def test_an_amount_that_would_have_to_be_rounded_or_guessed_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="at most two decimals"):
        minor_units(text)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthenticated", ExitCode.NOT_ALLOWED),
        (403, "role_missing", ExitCode.NOT_ALLOWED),
        (403, "policy_blocked", ExitCode.REFUSED),
        (404, "not_found", ExitCode.NOT_FOUND),
        (409, "budget_exceeded", ExitCode.REFUSED),
        (409, "budget_not_found", ExitCode.NOT_FOUND),
        (412, "version_mismatch", ExitCode.REFUSED),
        (422, "validation_failed", ExitCode.USAGE),
        (429, "rate_limited", ExitCode.UNEXPECTED),
        (500, "internal", ExitCode.UNEXPECTED),
        (503, "not_ready", ExitCode.UNREACHABLE),
    ],
)
def test_scripts_can_tell_failures_apart(status: int, code: str, exit_code: ExitCode) -> None:
    assert exit_code_of(status, code) is exit_code


def test_an_answer_of_some_other_server_is_said_to_be_one() -> None:
    assert "is this an Aureus server?" in Failure.answered(418, "<html>").message


def test_a_reservation_is_sent_with_all_that_was_said_around_it(home: Path, server: Server) -> None:
    result = aureus(
        "budgets reserve eu-lake.ingest 25.00 --reason 'nightly load' --if-match 3 --approval apr-1 --evidence aa --evidence bb"
    )
    assert result.exit_code == 0, result.output
    assert "Reserved 25.00 on eu-lake.ingest: reservation 0199-held" in result.stdout
    (request,) = server.asked
    assert (request.method, request.path) == ("POST", "/v1/budgets/eu-lake.ingest/reserve")
    assert request.body == {"amount_minor": 2500}
    assert request.headers["aureus-reason"] == "nightly load"
    assert request.headers["if-match"] == '"3"'
    assert request.headers["aureus-approval"] == "apr-1"
    assert request.headers["aureus-evidence"] == "aa,bb"
    assert len(request.headers["idempotency-key"]) == 36
    assert request.headers["authorization"] == "Bearer jwt-ada"
    assert "acting as ada (admin), a login of the demo" in result.stderr


def test_global_options_stand_anywhere_on_the_line(home: Path, server: Server) -> None:
    for line in ("--as ana budgets list --json", "budgets --as=ana list --json", "--json budgets list --as analyst"):
        result = aureus(line)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["position"] == 42
        assert server.asked[-1].headers["authorization"] == "Bearer jwt-ana"


def test_over_reserving_says_what_is_still_available(home: Path, server: Server) -> None:
    refusal = error("budget_exceeded", "Too much.", available_minor=4000, requested_minor=4100, currency="EUR", remedy="Ask for less.")
    server.will("POST", "/v1/budgets/lake/reserve", (409, refusal))
    result = aureus("budgets reserve lake 41.00")
    assert result.exit_code == ExitCode.REFUSED
    assert result.stdout == ""
    for told in ("budget_exceeded: Too much.", "available: 40.00 EUR", "requested: 41.00 EUR", "Ask for less.", "request req-7"):
        assert told in result.stderr
    machine = aureus("budgets reserve lake 41.00 --json")
    assert machine.exit_code == ExitCode.REFUSED
    assert json.loads(machine.stdout) == refusal


def test_what_waits_for_approval_says_what_to_do_next(home: Path, server: Server) -> None:
    parked = {**ALLOWED, "outcome": "requires_approval", "approval_id": "apr-9", "approver_roles": ["approver"], "quorum": 2}
    server.will("POST", "/v1/budgets/lake/fund", (202, parked))
    result = aureus("budgets fund lake 1000")
    assert result.exit_code == ExitCode.WAITS_FOR_APPROVAL
    assert "waits for approval apr-9 by 2 of: approver" in result.stderr
    assert "--approval apr-9" in result.stderr
    assert "aureus approvals carry-out apr-9" in result.stderr


def test_what_is_carried_out_when_approved_need_not_be_sent_again(home: Path, server: Server) -> None:
    parked = {**ALLOWED, "outcome": "requires_approval", "approval_id": "apr-9", "approver_roles": ["approver"], "carry_out": True}
    server.will("POST", "/v1/budgets/lake/fund", (202, parked))
    result = aureus("--when-approved carry-out budgets fund lake 1000")
    assert server.asked[-1].headers["aureus-when-approved"] == "carry-out"
    assert "approvals approve apr-9`: it is carried out then" in result.stderr
    assert "--approval" not in result.stderr


def test_reads_wait_for_our_own_last_command(home: Path, server: Server) -> None:
    assert aureus("budgets close lake").exit_code == 0
    aureus("budgets list --status open")
    assert server.asked[-1].query == {"status": "open", "limit": "50", "at_least": "42"}
    aureus("budgets list --as-of 7")
    assert server.asked[-1].query == {"limit": "50", "as_of": "7"}


def test_a_lost_answer_is_asked_for_again_under_the_same_key(home: Path, server: Server) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def drop_then_answer() -> None:
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"):
            connection, _ = listener.accept()
            with connection:
                keys.extend(re.findall(rb"(?i)idempotency-key: (\S+)", connection.recv(65_536)))
                connection.sendall(answer)

    keys: list[bytes] = []
    thread = threading.Thread(target=drop_then_answer)
    thread.start()
    result = CliRunner().invoke(
        app, ["budgets", "close", "lake", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"], env={"AUREUS_TOKEN": "t"}
    )
    thread.join()
    listener.close()
    assert result.exit_code == 0, result.output
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_long_list_is_fetched_page_by_page(home: Path, server: Server) -> None:
    rows = [{"budget_id": f"b{number}", "label": "B"} for number in range(300)]
    pages = ({"items": rows[:200], "next_cursor": "c2", "position": 42}, {"items": rows[200:], "next_cursor": None, "position": 42})
    server.will("GET", "/v1/budgets", *((200, page) for page in pages))
    result = aureus("budgets list -n 300 --json")
    assert len(json.loads(result.stdout)["items"]) == 300
    assert [request.query.get("cursor") for request in server.asked] == [None, "c2"]


def test_logging_in_keeps_the_token_to_oneself(home: Path, server: Server) -> None:
    assert aureus("login ana --password-stdin", stdin="pw-ana\n").exit_code == 0
    assert stat.S_IMODE((home / "cli.json").stat().st_mode) == 0o600
    assert "pw-ana" not in (home / "cli.json").read_text()
    result = aureus("whoami")
    assert server.asked[-1].headers["authorization"] == "Bearer jwt-ana"
    assert "acting as" not in result.stderr
    assert aureus("logout").exit_code == 0
    aureus("whoami")
    assert server.asked[-1].headers["authorization"] == "Bearer jwt-ada"


def test_a_wrong_password_is_refused(home: Path, server: Server) -> None:
    result = aureus("login ana --password-stdin", stdin="guess\n")
    assert result.exit_code == ExitCode.NOT_ALLOWED
    assert "unauthenticated" in result.stderr


def test_the_environment_comes_before_a_login(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    aureus("login --demo analyst")
    monkeypatch.setenv("AUREUS_TOKEN", "given")
    aureus("whoami")
    assert server.asked[-1].headers["authorization"] == "Bearer given"
    monkeypatch.setenv("AUREUS_API_KEY", "aur_x")
    aureus("whoami")
    assert server.asked[-1].headers["x-api-key"] == "aur_x"
    assert "authorization" not in server.asked[-1].headers


def test_a_demo_login_is_renewed_and_another_is_asked_for(home: Path, server: Server) -> None:
    profile = Profile(home, server.url)
    for login, demo in (("ana", True), ("eve", False)):
        profile.keep(Token(login, "old", time.time() - 1, f"usr-{login}", ("analyst",), demo))
        profile.act_as(login)
        result = aureus("whoami")
        if demo:
            assert result.exit_code == 0
            assert server.asked[-1].headers["authorization"] == "Bearer jwt-ana"
        else:
            assert result.exit_code == ExitCode.NOT_ALLOWED
            assert "aureus login eve" in result.stderr


def test_a_revoked_demo_token_is_had_again_once(home: Path, server: Server) -> None:
    server.will("GET", "/v1/auth/me", (401, error("unauthenticated", "no")), (200, {"actor": "usr-ada"}))
    assert aureus("whoami").exit_code == 0
    server.will("GET", "/v1/auth/me", (401, error("unauthenticated", "no")))
    assert aureus("whoami").exit_code == ExitCode.NOT_ALLOWED


def test_the_demo_s_administrator_acts_on_this_machine_only(home: Path, server: Server) -> None:
    result = aureus(f"budgets list --url {server.url}")
    assert result.exit_code == ExitCode.NOT_ALLOWED
    assert "not_logged_in" in result.stderr
    assert server.requests == []


def test_a_server_that_is_not_there_is_said_to_be_unreachable(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = CliRunner().invoke(app, ["--url", f"http://127.0.0.1:{port}", "budgets", "list"], env={"AUREUS_TOKEN": "t"})
    assert result.exit_code == ExitCode.UNREACHABLE
    assert f"No answer from http://127.0.0.1:{port}" in result.stderr


def test_a_mistake_on_the_line_is_a_usage_error(home: Path, server: Server) -> None:
    for line in (
        "budgets reserve lake 1.005",
        "budgets reserve lake",
        "budgets burn lake",
        "approvals reject apr-1",
        "datasets deprecate d",
    ):
        assert aureus(line).exit_code == ExitCode.USAGE, line
    assert server.requests == []


def test_values_are_never_cut_or_taken_for_markup_in_a_pipe(home: Path, server: Server) -> None:
    row = {"budget_id": "b" * 180, "label": "[red]not markup[/red]", "currency": "EUR", "limit_minor": 123456789, "status": "open"}
    server.will("GET", "/v1/budgets", (200, {"items": [row], "next_cursor": None, "position": 1}))
    shown = aureus("budgets list").stdout
    assert "b" * 180 in shown
    assert "[red]not markup[/red]" in shown
    assert "1,234,567.89" in shown


def test_an_import_says_whether_all_of_it_went_through(home: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"nodes": {}}')
    done = [
        {"total": 1},
        {"index": 0, "dataset_id": "d", "command": "c", "outcome": "allowed"},
        {"done": {"total": 1, "allowed": 1, "position": 50}},
    ]
    server.will("POST", "/v1/imports/dbt", (200, done))
    assert aureus(f"import dbt {tmp_path}/manifest.json").exit_code == 0
    assert server.asked[-1].body == {"document": {"nodes": {}}}
    assert Profile(home, server.url).position == 50
    blocked = {
        "index": 0,
        "dataset_id": "d",
        "command": "c",
        "outcome": "blocked",
        "error": {"code": "policy_blocked", "message": "no owner"},
    }
    server.will("POST", "/v1/imports/odcs", (200, [{"total": 1}, blocked, {"done": {"total": 1, "blocked": 1}}]))
    result = aureus(f"import odcs {tmp_path}/manifest.json")
    assert result.exit_code == ExitCode.WAITS_FOR_APPROVAL
    assert "no owner" in result.stdout
    assert server.asked[-1].headers["content-type"] == "application/yaml"


def test_a_document_that_is_refused_does_not_keep_the_others_out(home: Path, server: Server, tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("kind: DataContract")
    problems = [{"path": "/id", "rule": "is missing"}, {"path": "/schema", "rule": "is empty"}]
    refusal = error("document_invalid", "It cannot be imported.", problems=problems)
    server.will("POST", "/v1/imports/odcs", (422, refusal), (200, [{"total": 1}, {"done": {"total": 1, "unchanged": 1}}]))
    result = aureus(f"import odcs {tmp_path}/a.yaml {tmp_path}/b.yaml")
    assert result.exit_code == ExitCode.USAGE
    assert len(server.asked) == 2
    assert "b.yaml" in result.stdout
    for told in ("document_invalid: a.yaml: It cannot be imported.", "at /id: is missing", "at /schema: is empty"):
        assert told in result.stderr


def test_the_log_s_tail_is_one_event_per_line_for_machines(home: Path, server: Server) -> None:
    event = {
        "position": 42,
        "at": "2026-03-03T14:00:00.000000Z",
        "type": "budgets.budget_closed",
        "stream": "budget:lake",
        "version": 3,
        "actor": "usr-ada",
    }
    latest, since = {"items": [event], "next_after": 42}, {"items": [], "next_after": 42}
    server.will("GET", "/v1/ledger/events", (200, latest))
    result = aureus("log tail -n 1 --json")
    assert json.loads(result.stdout) == event
    assert server.asked[-1].query == {"limit": "1", "tail": "true"}
    assert "budget:lake v3" in aureus("log tail -n 1").stdout
    server.will("GET", "/v1/ledger/events", (200, latest), (200, since))
    assert aureus("log tail --after 41").exit_code == 0
    assert [request.query["after"] for request in server.asked[-2:]] == ["41", "42"]


def test_a_checkpoint_is_printed_as_it_is_signed(home: Path, server: Server) -> None:
    note = "aureus.example/log\n42\nAAAA=\n\n— aureus.example/log BBBB\n"
    server.will("GET", "/v1/ledger/checkpoint", (200, note))
    assert aureus("log checkpoint").stdout == note
    assert json.loads(aureus("log checkpoint --json").stdout)["size"] == 42


REBUILT = {"projection": "budgets", "position": 42, "live": {"budgets": "aa"}, "built": {"budgets": "aa"}, "swapped": True, "equal": True}


def test_a_rebuild_that_differs_is_a_verification_that_failed(home: Path, server: Server) -> None:
    server.will("POST", "/v1/projections/budgets/rebuild", (200, [{"phase": "folding", "done": 1, "total": 2}, {"done": REBUILT}]))
    assert "budgets up to position 42" in aureus("projections rebuild budgets").stdout
    assert aureus("projections check budgets").exit_code == 0
    assert server.asked[-1].query["swap"] == "false"
    differing = {**REBUILT, "built": {"budgets": "bb"}, "swapped": False, "equal": False}
    server.will("POST", "/v1/projections/budgets/rebuild", (200, [{"done": differing}]))
    for command in ("check", "rebuild"):
        result = aureus(f"projections {command} budgets")
        assert result.exit_code == ExitCode.NOT_VERIFIED
        assert "tables: budgets" in result.stderr


def test_what_fails_under_way_fails_the_command(home: Path, server: Server) -> None:
    stopped = {"error": {"code": "projection_failed", "message": "stopped at position 7"}}
    server.will("POST", "/v1/projections/budgets/rebuild", (200, [{"phase": "folding", "done": 1, "total": 2}, stopped]))
    result = aureus("projections rebuild budgets")
    assert result.exit_code == ExitCode.UNEXPECTED
    assert "projection_failed: stopped at position 7" in result.stderr


def test_an_approver_sees_why_it_was_parked_and_what_it_would_touch(home: Path, server: Server) -> None:
    around: dict[str, Any] = {name: [] for name in ("pipelines", "approvals", "reservations", "agents", "requester_reservations")}
    around |= {"downstream": [{"dataset_id": "crm.leads", "distance": 1}], "requester_agents": [{"actor_id": "agt-bot"}]}
    said = [{"policy": "pii_onboarding", "outcome": "require_approval", "reason": "Much personal data."}]
    heard = [{"approver": "usr-ben", "on_behalf_of": "usr-app", "decision": "agreed", "roles": ["approver"], "comment": "Fine", "at": None}]
    dossier = {"status": "pending", "quorum": 2, "policy_results": said, "decisions": heard, "pack": None, "blast_radius": around}
    server.will("GET", "/v1/approvals/apr-1/dossier", (200, dossier))
    shown = aureus("approvals show apr-1").stdout
    for part in ("Much personal data.", "crm.leads", "agt-bot", "usr-ben", "usr-app", "Fine"):
        assert part in shown
    assert json.loads(aureus("--json approvals show apr-1").stdout) == dossier


def commands() -> dict[str, type[Command]]:
    """Every command that somebody may ask for, by its class's name."""
    modules = [import_module(f"commands.{context}") for context in CONTEXTS]
    deciders = [decider for module in modules for decider in getattr(module, "DECIDERS", None) or (module.DECIDER,)]
    return {command.__name__: command for decider in deciders for command in decider.commands if command.roles}


def path_fields(command: type[Command], path: str) -> list[dict[str, Any]]:
    """What the path of a request says to the route of that command; nothing when it is not its route's path."""
    routes = import_module(f"api.{command.command_name.partition('.')[0]}").router.routes
    found = [route.path_regex.fullmatch(path) for route in routes if route.name == command.command_name]
    return [match.groupdict() for match in found if match]


@pytest.mark.parametrize("name", LINES)
def test_what_is_sent_is_the_command_at_its_route(name: str, home: Path, server: Server) -> None:
    command = commands()[name]
    result = aureus(LINES[name], stdin="{}")
    assert result.exit_code == 0, result.output
    request = server.asked[-1]
    in_path = path_fields(command, request.path)
    assert in_path, f"{request.path} is no route of {command.command_name}"
    command.model_validate({**request.body, **in_path[0]})


def test_every_command_can_be_asked_for_on_the_command_line() -> None:
    assert sorted(commands().keys() - LINES.keys() - BESIDE_A_ROUTE) == []


def test_the_reference_is_what_the_program_says() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == render_reference(), "run: python -m api.cli.reference > docs/cli.md"


def test_every_command_and_option_says_what_it_is_for() -> None:
    silent = []
    waiting: list[tuple[str, Any]] = [("aureus", get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {below}", found) for below, found in getattr(command, "commands", {}).items()]
        silent += [] if command.help else [name]
        silent += [f"{name} {parameter.name}" for parameter in command.params if not parameter.help]
    assert silent == []


def test_help_starts_at_once_because_nothing_heavy_is_loaded() -> None:
    heavy = "httpx rich.console rich.table pydantic fastapi psycopg nacl"
    probe = f"import sys, api.cli.main; print([name for name in {heavy.split()!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
