"""`aureus export` as an auditor lives it: one command, a server that dies under it, a broken download, and a file that verifies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

from bench import workload
from bench.bulk import Importer, history
from infra.opening import open_ledger
from infra.pkcs11_keys import open_keystore
from infra.settings import Settings
from infra.verifier.trust import Trust
from tests.support.packs import predicate, verified
from tests.test_story import ROOT, Aureus

EVENTS = 12_000


@pytest.fixture
def aureus(tmp_path: Path, database_url: str) -> Iterator[Aureus]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = Aureus(tmp_path / "home", port)
    started.environ |= {"DATABASE_URL": database_url, "AUREUS_TENANT": workload.TENANT}
    started.start()
    try:
        yield started
    finally:
        started.stop()


async def fill(dsn: str, home: Path) -> None:
    """Enough events that a pack of them is not written in a blink."""
    ledger = await open_ledger(dsn, open_keystore(Settings(home=home)))
    await Importer(ledger, history()).add(EVENTS)
    await ledger.close()


def begun(aureus: Aureus, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "api.cli", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=aureus.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trust(aureus: Aureus, dsn: str) -> Trust:
    keys = json.loads((aureus.home / "keys" / "root.key").read_text())
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT origin FROM ledger.head").fetchone()
    assert row is not None
    return Trust(ledger=row[0], root_keys=(keys["key_id"],))


@pytest.mark.anyio
@pytest.mark.slow
async def test_one_command_survives_the_servers_death_and_a_broken_download(aureus: Aureus, database_url: str, tmp_path: Path) -> None:
    await fill(database_url, aureus.home)
    pack = tmp_path / "pack.zip"
    command = ("--as", "auditor", "export", "--everything", "--recipient", "BaFin", "--views", "none", "-o", str(pack))
    client = begun(aureus, *command)
    killed_at = _kill_in_the_middle(aureus)
    client.wait(60)
    assert client.returncode != 0
    assert not pack.exists()
    kept = {path.name: path.stat().st_ino for path in killed_at.iterdir()}
    assert "plan.json" in kept

    aureus.start()
    pack.with_name("pack.zip.partial").write_bytes(b"")
    told = aureus(*command)
    assert "It is what was sealed." in told
    (row,) = aureus.json("--as", "auditor", "exports", "list")["items"]
    assert (row["status"], row["sha256"] in told) == ("sealed", True)
    result = verified(pack, trust(aureus, database_url))
    assert (result.problems, result.complete) == ([], True)
    assert (predicate(pack)["scope"], predicate(pack)["counts"]["entries"] > EVENTS) == ("everything", True)

    content = pack.read_bytes()
    pack.with_name("again.zip.partial").write_bytes(content[:123_456])
    aureus("--as", "auditor", "exports", "download", row["export_id"], "-o", str(tmp_path / "again.zip"))
    assert (tmp_path / "again.zip").read_bytes() == content
    pack.with_name("other.zip.partial").write_bytes(b"x" * 123_456)
    aureus("--as", "auditor", "exports", "download", row["export_id"], "-o", str(tmp_path / "other.zip"))
    assert (tmp_path / "other.zip").read_bytes() == content
    _is_refused_with_what_would_help(aureus, tmp_path)
    assert _leftovers(tmp_path) == ["parked.zip.export"], "that one may still be: it waits for an approval"


def _is_refused_with_what_would_help(aureus: Aureus, folder: Path) -> None:
    export = ("--as", "auditor", "export", "--recipient", "x", "-o")
    assert "dataset_not_found" in aureus(*export, folder / "x.zip", "--dataset", "nowhere", exit_code=5)
    assert "Say what it is to hold" in aureus(*export, folder / "x.zip", exit_code=2)
    assert "'yesterday' is neither a day nor a time" in aureus(
        *export, folder / "x.zip", "--everything", "--from", "yesterday", exit_code=2
    )
    assert "'xls' is none of" in aureus(*export, folder / "x.zip", "--everything", "--views", "pdf,xls", exit_code=2)
    waiting = aureus(*export, folder / "parked.zip", "--everything", "--profile", "internal-audit", exit_code=3)
    assert "aureus approvals approve" in waiting
    assert "run the same again with --approval" in waiting


def _leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".partial", ".export"})


def _kill_in_the_middle(aureus: Aureus) -> Path:
    """Kills the server, and what it started, while a pack is half written; its working folder."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for folder in (aureus.home / "exports").glob("*.partial"):
            file = folder / "pack.zip"
            if file.exists() and file.stat().st_size > 1_000_000:
                assert aureus.process is not None
                os.kill(aureus.process.pid, signal.SIGKILL)
                aureus.process.wait(60)
                aureus.process = None
                return folder
        time.sleep(0.01)
    raise AssertionError("no pack was begun")


def test_bytes_that_were_changed_on_the_way_are_not_kept(tmp_path: Path) -> None:
    sealed = {"export_id": "e", "status": "sealed", "sha256": "0" * 64, "size_bytes": 5, "entries": 1, "withheld_entries": 0}

    class Between(BaseHTTPRequestHandler):
        """Somebody between us and the server."""

        def do_GET(self) -> None:
            content = b"other" if self.path.endswith("/pack") else json.dumps(sealed).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/zip" if self.path.endswith("/pack") else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Between) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {**os.environ, "AUREUS_HOME": str(tmp_path / "home"), "AUREUS_TOKEN": "a-token", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "api.cli", "--url", f"http://127.0.0.1:{server.server_port}", "exports", "download", "e"]
        ended = subprocess.run([*command, "-o", tmp_path / "e.zip"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        server.shutdown()
    assert (ended.returncode, "pack_tampered" in ended.stderr) == (8, True)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("e.zip")] == []
