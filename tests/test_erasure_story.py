"""The story of an erasure on the command line, under the policies that ship: a server that dies in the middle of it, and a hold."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.erasing import NAME, found_in_files
from tests.test_story import Aureus

pytestmark = pytest.mark.slow
DONE_SECONDS = 60


@pytest.fixture
def aureus(tmp_path: Path, database_url: str) -> Iterator[Aureus]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = Aureus(tmp_path / "home", port)
    started.environ |= {"DATABASE_URL": database_url}
    started.start()
    try:
        yield started
    finally:
        started.stop()


def test_she_is_erased_though_the_server_is_killed_and_the_next_one_is_held(aureus: Aureus, tmp_path: Path) -> None:
    for subject in ("usr-eva", "usr-max"):
        aureus("--as", "admin", "actors", "register", subject, "--kind", "person", "--role", "viewer", "--name", f"{NAME} of {subject}")
        aureus("--as", "admin", "subjects", "describe", subject, "--jurisdiction", "EU", "--kind", "employee")
    pack = tmp_path / "before.zip"
    aureus("--as", "auditor", "export", "--everything", "--recipient", "BaFin", "--views", "none", "-o", pack)

    preview = aureus("--as", "admin", "subjects", "erase", "usr-eva", "--preview")
    assert "display_name" in preview
    assert "It takes the approval of somebody else" in preview
    assert NAME not in preview
    assert "requires_approval" in aureus("--as", "admin", "--when-approved", "carry-out", "subjects", "erase", "usr-eva", exit_code=3)
    (approval,) = aureus.json("--as", "admin", "approvals", "list", "--status", "pending")["items"]
    aureus("--as", "approver", "approvals", "approve", approval["approval_id"])
    aureus.stop(signal.SIGKILL)
    aureus.start()

    certificate = _certificate(aureus, "usr-eva")
    assert (certificate["fields"], certificate["keys"], certificate["everything"]) == (1, 1, True)
    assert "Verified" in aureus("verify", "--as", "auditor")
    assert "fields     open 0" in aureus("verify", pack)
    assert aureus.json("--as", "auditor", "vault", "check")["counts"]["erased"] == 1
    assert str(certificate["position"]) in aureus("--as", "admin", "subjects", "certificates")
    aureus("--as", "admin", "log", "proof", str(certificate["position"]))
    assert "subject_erased" in aureus("--as", "admin", "subjects", "erase", "usr-eva", exit_code=4)

    aureus("--as", "auditor", "holds", "place", "m-1", "--subject", "usr-max", "--matter", "3 Cg 17/26k", "--because", "A claim")
    refused = aureus("--as", "admin", "subjects", "erase", "usr-max", exit_code=4)
    assert "subject_under_hold" in refused
    assert "m-1 (3 Cg 17/26k)" in refused
    assert "requires_approval" in aureus("--as", "auditor", "holds", "release", "m-1", "--because", "Settled", exit_code=3)

    exported = tmp_path / "certificates.jsonl"
    assert "1 certificates" in aureus("--as", "admin", "subjects", "certificates", "--export", exported)
    (line,) = [json.loads(line) for line in exported.read_text().splitlines()]
    assert line["entry"] == certificate["entry"]
    assert found_in_files(tmp_path, [f"{NAME} of usr-eva".encode()]) == set()


def _certificate(aureus: Aureus, subject: str) -> dict[str, Any]:
    deadline = time.monotonic() + DONE_SECONDS
    while time.monotonic() < deadline:
        found: list[dict[str, Any]] = aureus.json("--as", "admin", "subjects", "certificates", subject)["items"]
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError("it is not certified")
