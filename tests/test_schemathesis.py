"""The whole API is called with what its description allows and what it does not: nothing fails inside, every error has the one body."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from pydantic import ValidationError
from schemathesis import GenerationMode
from scim2_models import Error

from api.cli.profile import demo_login
from api.errors import ErrorBody
from api.scim import PREFIX as SCIM
from tests.test_house import PUBLIC_PATHS
from tests.test_story import Aureus

DESCRIPTION: Final = Path(__file__).parent.parent / "api" / "openapi.yaml"
ENDLESS: Final = "text/event-stream"
"""Feeds are listened to elsewhere (tests/test_feeds.py): such an answer never ends."""
ENDS_SESSIONS: Final = frozenset({"POST /v1/auth/logout"})
"""Told what they are told they do: what follows would be refused for want of an identity."""

CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "cookie"})
PARTS: Final = 4
"""Of all operations, so that none of the slow tests takes longer than a test may."""


@cache
def operations() -> dict[str, Any]:
    """Every operation of the committed description but the feeds, by its label such as `GET /v1/budgets`."""
    document = yaml.load(DESCRIPTION.read_text(encoding="utf-8"), yaml.CSafeLoader)
    endless = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if ENDLESS in operation["responses"].get("200", {}).get("content", {})
    }
    found = {one.label: one for one in map(understood, schemathesis.openapi.from_dict(document).get_all_operations())}
    return {label: one for label, one in found.items() if label not in endless | ENDS_SESSIONS}


def understood(result: Any) -> Any:
    """An operation as schemathesis read it; it must have been able to."""
    return result.ok()


class Caller:
    """Somebody who calls as an administrator, and keeps what was answered wrongly."""

    def __init__(self, aureus: Aureus) -> None:
        self.where, self.home = f"http://127.0.0.1:{aureus.port}", aureus.home
        self.http, self.statuses, self.wrong = requests.Session(), Counter[int](), list[str]()
        self.not_known_at: set[str] = set()
        self.log_in()

    def log_in(self) -> None:
        admin = demo_login(self.home, "admin")
        answer = self.http.post(f"{self.where}/v1/auth/token", json={"login": admin.login, "password": admin.password}, timeout=30)
        answer.raise_for_status()
        self.http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, case: Any) -> requests.Response:
        sent = case.as_transport_kwargs(base_url=self.where)
        # Bad credentials are tried elsewhere (tests/test_tokens.py, tests/test_matrix.py): here they would only keep the others out.
        sent["headers"] = {name: value for name, value in sent["headers"].items() if name.lower() not in CREDENTIALS}
        answer: requests.Response = self.http.request(**sent, timeout=60)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 401:
            self.not_known_at.add(case.operation.label)
        if answer.status_code >= 400:
            # RFC 7644 has an error body of its own, which identity providers read.
            body = Error if case.operation.path.startswith(SCIM) else ErrorBody
            try:
                body.model_validate_json(answer.content)
            except ValidationError:
                self.wrong.append(f"{case.operation.label}: {answer.status_code} is told as {answer.content[:200]!r}")
        if answer.status_code == 500:
            self.wrong.append(f"{answer.status_code} {case.as_curl_command()}")
        return answer


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    aureus = Aureus(tmp_path_factory.mktemp("schemathesis") / "home", port)
    aureus.start()
    try:
        yield Caller(aureus)
    finally:
        aureus.stop()


def called(caller: Caller, times: int, labels: Sequence[str]) -> None:
    """Every one of these operations, so often with what is allowed and so often with what is not."""
    before = caller.statuses.copy()
    for label in labels:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @given(operations()[label].as_strategy(generation_mode=mode))
            @settings(max_examples=times, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
            def run(case: Any) -> None:
                caller.call(case)

            try:
                run()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, f"nothing that {label} allows could be thought of"
    assert caller.wrong == []
    statuses = caller.statuses - before
    assert caller.not_known_at <= PUBLIC_PATHS.keys(), "whoever is not let in calls nothing, but where another proof is wanted"
    assert statuses[422] > times * len(labels) / 5, statuses
    assert statuses.total() - statuses[422] > times * len(labels) / 5, statuses


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_fails_inside_however_often_it_is_called(caller: Caller, part: int) -> None:
    called(caller, 1, list(operations())[part::PARTS])
