"""`aureus backup` and `restore` as an operator runs them: beside a server and without one, killed half-way, and with a bucket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from api.backing_up import back_up, examine
from domain.values import uuid7
from infra.embedded import EmbeddedPostgres
from infra.s3_blobs import object_name
from infra.verifier.trust import Trust
from tests.support.kernel import ADM
from tests.support.minio import Minio
from tests.support.running import running
from tests.test_blobs import HELLO, HELLO_SHA256
from tests.test_s3 import attached, trusting  # noqa: F401 - the last is a fixture

ROOT: Final = Path(__file__).parent.parent
PATIENCE_SECONDS: Final = 60


class Operator:
    """Somebody on the machine of a demo, with the command line and nothing else."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AUREUS_", "DATABASE_"))}
        self.home, self.url = home, f"http://127.0.0.1:{port}"
        self.environment = {**kept, "AUREUS_HOME": str(home), "AUREUS_PORT": str(port)}

    def begins(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "api.cli", *arguments]
        return subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def types(self, *arguments: str, exit_code: int = 0) -> str:
        """What was printed, on standard output and then on standard error."""
        process = self.begins(*arguments)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == exit_code, f"{arguments} ended with {process.returncode}: {err.decode()}"
        return (out + err).decode()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.types("--json", *arguments).splitlines()[0])

    @contextmanager
    def serving(self) -> Iterator[None]:
        process = self.begins("serve")
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    if httpx.get(f"{self.url}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_SECONDS)

    def kill_when_marked(self, process: subprocess.Popen[bytes]) -> None:
        """As soon as the database bears the mark of a restore that is under way."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            url = EmbeddedPostgres(self.home / "postgres").url()
            with suppress(psycopg.Error), psycopg.connect(url or "", connect_timeout=1) as connection:
                if url and connection.execute("SELECT 1 FROM backups.restored WHERE finished_at IS NULL").fetchone():
                    process.kill()
                    process.communicate()
                    return
            time.sleep(0.01)
        pytest.fail("the restore was over before it could be killed")


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery")
    file.chmod(0o600)
    return str(file)


@pytest.mark.slow
def test_an_operator_backs_a_demo_up_and_restores_it_elsewhere_though_killed_once(tmp_path: Path, passphrase: str) -> None:
    here, there = Operator(tmp_path / "here"), Operator(tmp_path / "there")
    online, offline = tmp_path / "online.backup", tmp_path / "offline.backup"
    with here.serving():
        here.types("budgets", "open", "lake", "--limit", "1000", "--label", "Lake", "--currency", "EUR", "--as", "admin")
        done = here.json("backup", str(online), "--with-keys", "--passphrase-file", passphrase)
        assert (done["with_keys"], done["unrecorded"]) == (True, None)
        listed = here.json("backups", "list", "--as", "admin")["items"]
        assert [(row["backup_id"], row["sha256"]) for row in listed] == [(done["backup_id"], done["sha256"])]
        refused = here.types("restore", str(online), exit_code=2)
        assert "is in use by another Aureus" in refused
    assert "The private keys are not in it" in here.types("backup", str(offline))
    assert "is whole" in here.types("restore", str(offline), "--verify-only")
    assert "no keys lie in" in there.types("restore", str(offline), exit_code=2)

    there.kill_when_marked(there.begins("restore", str(online), "--passphrase-file", passphrase))
    assert "did not come to its end" in there.types("serve", exit_code=2)
    said = there.types("restore", str(online), "--passphrase-file", passphrase)
    assert f"as it was at position {done['size']}" in said
    assert "a later checkpoint can prove that" in said
    with there.serving():
        assert there.json("verify", "--as", "auditor")["ok"]
        assert there.json("budgets", "show", "lake", "--as", "admin")["limit_minor"] == 100_000
        assert there.json("backups", "show", done["backup_id"], "--as", "admin")["status"] == "restored"
        there.types("budgets", "open", "sea", "--limit", "1000", "--label", "Sea", "--currency", "EUR", "--as", "admin")


def test_what_is_wrong_with_a_backup_is_said_with_an_exit_code_and_no_traceback(tmp_path: Path) -> None:
    operator, file = Operator(tmp_path / "home"), tmp_path / "file"
    file.write_bytes(b"%PDF-1.7")
    said = operator.types("restore", str(file), exit_code=8)
    assert ("backup_damaged" in said, "no backup" in said, "Traceback" in said) == (True, True, False)
    assert "no ledger lies in" in operator.types("backup", str(tmp_path / "new"), exit_code=2)
    assert not (tmp_path / "home" / "postgres").exists(), "nothing was begun"


@pytest.mark.anyio
async def test_artifacts_in_a_bucket_are_fetched_on_demand_and_what_was_changed_there_is_named(
    minio: Minio,
    trusting: None,  # noqa: F811 - the fixture
    database_url: str,
    tmp_path: Path,
) -> None:
    place = minio.bucket()
    async with running(database_url, tmp_path / "home", s3=place) as aureus:
        await aureus.know(ADM)
        (await attached(aureus, HELLO)).raise_for_status()
        (await attached(aureus, other := uuid7().bytes)).raise_for_status()
        names = minio.objects(place.bucket)
        changed = next(name for name in names if name != object_name(place.prefix, HELLO_SHA256))
        minio.ask("PUT", f"/{place.bucket}/{changed}", other + b"!").raise_for_status()
        services = aureus.services

        async def taken(name: str, *, with_blobs: bool) -> Any:
            unseen = lambda _phase, _done, _total: None  # noqa: E731 - progress that nobody watches
            file = tmp_path / name
            done = await back_up(services.settings, services.dsn, file, None, with_blobs=with_blobs, report=unseen)
            found = await asyncio.to_thread(examine, file, Trust(), [], unseen)
            assert found.result.ok
            return done.taken.manifest, {sha256: b"".join(pieces) for sha256, pieces in found.backup.files("blobs")}

        said, files = await taken("named", with_blobs=False)
        assert (said.blobs, files) == (None, {})
        said, files = await taken("whole", with_blobs=True)
        assert (files, said.damaged) == ({HELLO_SHA256: HELLO}, [f"blobs/{changed.rpartition('/')[2]}"])
