"""The embedded PostgreSQL: it starts from nothing, outlives its owner, is adopted, and never touches what is not its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from infra.embedded import EmbeddedPostgres, EmbeddedPostgresError, _failure
from infra.ordinary_user import OrdinaryUser

OWNER = """
import sys, time
from pathlib import Path
from infra.embedded import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True)
time.sleep(600)
"""

Open = Callable[[Path], EmbeddedPostgres]


@pytest.fixture
def server_at() -> Iterator[Open]:
    """Servers that are stopped when the test ends, however it ends."""
    opened: list[EmbeddedPostgres] = []

    def server(data_dir: Path, **options: int) -> EmbeddedPostgres:
        opened.append(EmbeddedPostgres(data_dir, **options))
        return opened[-1]

    yield server
    for one in opened:
        one.stop()


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if query.startswith("SELECT") else None
    return row[0] if row else None


def postmaster(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postmaster.pid").read_text().splitlines()[0]))


def kill_postmaster(data_dir: Path) -> None:
    process = postmaster(data_dir)
    family = [process, *process.children()]
    process.kill()
    psutil.wait_procs(family, timeout=20)


@contextmanager
def owner_elsewhere(data_dir: Path) -> Iterator[tuple[int, str]]:
    """Another process that owns the server (its pid, and the URL), killed when the block ends."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            yield owner.pid, owner.stdout.readline().strip()
        finally:
            owner.kill()


def test_it_starts_from_nothing_durable_and_private_and_keeps_what_was_written(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    url = server.start()
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    settings = {name: ask(url, f"SELECT current_setting('{name}')") for name in ("fsync", "synchronous_commit", "listen_addresses", "jit")}
    assert settings == {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "jit": "off"}
    assert (tmp_path / "postgres").stat().st_mode & 0o077 == 0
    assert server.url() == url
    server.stop()
    assert server.url() is None
    assert ask(server.start(), "SELECT answer FROM kept") == 42


def test_two_homes_stand_side_by_side(tmp_path: Path, server_at: Open) -> None:
    for home in ("one", "two"):
        ask(server_at(tmp_path / home / "postgres").start(), f"CREATE TABLE home AS SELECT '{home}' AS name")
    urls = [EmbeddedPostgres(tmp_path / home / "postgres").url() for home in ("one", "two")]
    assert [ask(url, "SELECT name FROM home") for url in urls if url] == ["one", "two"]


def test_a_killed_owner_leaves_it_running_and_the_next_adopts_it(tmp_path: Path, server_at: Open) -> None:
    data_dir = tmp_path / "postgres"
    with owner_elsewhere(data_dir) as (_, url):
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        running = postmaster(data_dir).pid
    assert ask(server_at(data_dir).start(), "SELECT answer FROM kept") == 42
    assert postmaster(data_dir).pid == running


def test_an_owned_folder_is_refused_to_a_second_owner_and_left_running(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    with owner_elsewhere(server.data_dir) as (owner, url):
        with pytest.raises(EmbeddedPostgresError, match=f"in use by another Aureus, process {owner}"):
            server.start()
        assert ask(url, "SELECT 1") == 1
    server.start()


def test_a_killed_server_is_started_anew_by_its_owner_and_recovers(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    ask(server.start(), "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_postmaster(server.data_dir)
    assert (server.data_dir / "postmaster.pid").exists()
    assert ask(server.start(), "SELECT answer FROM kept") == 42


def test_a_stale_pid_that_now_belongs_to_another_process_is_no_obstacle(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    server.start()
    kill_postmaster(server.data_dir)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = server.data_dir / "postmaster.pid"
        pid_file.write_text("\n".join([str(stranger.pid), *pid_file.read_text().splitlines()[1:]]) + "\n")
        assert ask(server.start(), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_empty_pid_file_is_no_obstacle(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    server.start()
    server.stop()
    (server.data_dir / "postmaster.pid").touch()
    assert ask(server.start(), "SELECT 1") == 1


def test_a_start_killed_while_it_made_the_cluster_is_made_good(tmp_path: Path, server_at: Open) -> None:
    half = tmp_path / "postgres.unfinished-killed"
    (half / "base").mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres").mkdir(mode=0o700)
    assert ask(server_at(tmp_path / "postgres").start(), "SELECT 1") == 1
    assert not half.exists()


def test_a_folder_with_something_else_in_it_is_refused_and_not_touched(tmp_path: Path, server_at: Open) -> None:
    (tmp_path / "postgres").mkdir(mode=0o700)
    (tmp_path / "postgres" / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedPostgresError, match="not a whole PostgreSQL cluster") as refused:
        server_at(tmp_path / "postgres").start()
    assert "move it away" in refused.value.remedy
    assert [path.name for path in (tmp_path / "postgres").iterdir()] == ["PG_VERSION"]


def test_another_major_version_is_refused(tmp_path: Path, server_at: Open) -> None:
    (tmp_path / "postgres" / "global").mkdir(mode=0o700, parents=True)
    (tmp_path / "postgres" / "global" / "pg_control").touch()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedPostgresError, match="written by PostgreSQL 15"):
        server_at(tmp_path / "postgres").start()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, server_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_at(tmp_path / "postgres")
    server.start()
    server.stop()
    owner = os.geteuid()
    monkeypatch.setattr("infra.embedded.ordinary_user", lambda: OrdinaryUser((), owner + 1))
    with pytest.raises(EmbeddedPostgresError, match=f"belongs to user id {owner}, and PostgreSQL would run as {owner + 1}"):
        server_at(tmp_path / "postgres").start()


def test_where_namespaces_are_forbidden_root_still_gets_a_server(tmp_path: Path, server_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.ordinary_user._in_namespace", lambda _account: None)
    server = server_at(tmp_path / "postgres")
    ask(server.start(), "CREATE TABLE kept AS SELECT 42 AS answer")
    assert 0 not in postmaster(server.data_dir).uids()
    server.stop()
    assert ask(server.start(), "SELECT answer FROM kept") == 42


def test_where_nothing_helps_root_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.ordinary_user.os.geteuid", lambda: 0)
    monkeypatch.setattr("infra.ordinary_user._works", lambda _words: False)
    with pytest.raises(EmbeddedPostgresError, match="refuses to run as root"):
        EmbeddedPostgres(tmp_path / "postgres")


def test_a_folder_open_to_others_is_refused(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    server.start()
    server.stop()
    server.data_dir.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="open to other accounts") as refused:
        server.start()
    assert refused.value.remedy == f"Close it: chmod 0700 {server.data_dir}"
    server.data_dir.chmod(0o700)


def test_a_path_too_long_for_a_socket_gets_a_private_socket_folder(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / ("long" * 30) / "postgres")
    url = server.start()
    assert ask(url, "SELECT 1") == 1
    folder = server._socket_dir()
    assert folder.stat().st_mode & 0o077 == 0
    server.stop()
    folder.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="not a private folder of ours"):
        server.start()
    folder.rmdir()


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", free_bytes_min=2**62)
    with pytest.raises(EmbeddedPostgresError, match="MiB left"):
        server.start()
    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ('FATAL:  could not write lock file "postmaster.pid": No space left on device', "disk is full"),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "Memory is short"),
        ("FATAL:  something nobody has seen yet", "Read the log"),
    ],
)
def test_a_failed_start_quotes_the_server_and_names_a_remedy(output: str, remedy: str) -> None:
    error = _failure("the server ended while it started", output)
    assert output in error.rule
    assert remedy in error.remedy


def test_stop_ends_it_in_good_order_even_with_a_client_inside(tmp_path: Path, server_at: Open) -> None:
    server = server_at(tmp_path / "postgres")
    with psycopg.connect(server.start()) as client:
        process = postmaster(server.data_dir)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
        assert not process.is_running()
        assert not (server.data_dir / "postmaster.pid").exists()
        client.close()
    assert "database system is shut down" in server.log_file.read_text()


def test_a_frozen_server_is_ended_at_once_and_recovers(tmp_path: Path, server_at: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.embedded._STOP_SECONDS_MAX", 0.5)
    server = server_at(tmp_path / "postgres")
    ask(server.start(), "CREATE TABLE kept AS SELECT 42 AS answer")
    process = postmaster(server.data_dir)
    process.send_signal(signal.SIGSTOP)
    server.stop()
    assert not process.is_running()
    assert ask(server.start(), "SELECT answer FROM kept") == 42
